//! Metadata that a Dubbo application keeps to itself: it must be asked, in its own protocol.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use finback_core::text::Escaped;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{Answer, Bell, Followed, Out};

/// The first and the longest pause before the instances are asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// An instance that has not answered after this is not waited for alone: the next one is asked too.
const STAGGER: Duration = Duration::from_millis(200);
/// How long a service waits for the first answer, before it is offered without these instances.
const WAIT: Duration = Duration::from_secs(2);
/// Instances that are asked at the same time, at most.
const AT_ONCE: usize = 4;

/// What an instance answers: JSON as it is written into registries (Dubbo: MetadataInfo).
pub type InstanceAsked<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// A client of Dubbo's `MetadataService`. This crate speaks no protocol, so whoever builds the
/// binary provides it.
pub trait MetadataService: Send + Sync + 'static {
    /// Asks the instance at `address` for its services.
    fn ask<'a>(
        &'a self,
        address: SocketAddr,
        application: &'a str,
        revision: &'a str,
    ) -> InstanceAsked<'a>;
}

/// Nobody to ask: applications that keep their metadata to themselves are not found.
pub struct NoMetadata;

impl MetadataService for NoMetadata {
    fn ask<'a>(&'a self, _: SocketAddr, _: &'a str, _: &'a str) -> InstanceAsked<'a> {
        Box::pin(async { Err("nothing here can ask for metadata".to_owned()) })
    }
}

/// Where the metadata services of a revision's instances listen: host and port.
pub(crate) type Instances = Vec<(String, u16)>;

/// The way to instances' metadata.
#[derive(Clone)]
pub(crate) struct Metadata(pub(crate) Arc<dyn MetadataService>);

impl Metadata {
    /// Asks the instances of a revision, one after another, until one of them answers. The answer
    /// never changes: a revision is one state, and any of them is as good as the others.
    pub(crate) fn follow(
        &self,
        handle: &Handle,
        bell: &Bell,
        application: &str,
        revision: &str,
        instances: watch::Receiver<Instances>,
    ) -> Followed {
        let asking = Asking {
            service: self.0.clone(),
            application: application.to_owned(),
            revision: revision.to_owned(),
        };
        Followed::task(handle, bell, move |out| asking.run(instances, out))
    }
}

/// Who is asked for what.
struct Asking {
    service: Arc<dyn MetadataService>,
    application: String,
    revision: String,
}

impl Asking {
    async fn run(self, mut instances: watch::Receiver<Instances>, out: Out) {
        let mut pause = PAUSE.0;
        let mut waited = Some(Instant::now() + WAIT);
        let mut turn = 0;
        loop {
            let mut now = instances.borrow_and_update().clone();
            // Each round begins with another one, whatever became of the first.
            let first = turn % now.len().max(1);
            now.rotate_left(first);
            turn += 1;
            let why = match self.watched(&now, &mut instances, &mut waited, &out).await {
                None => {
                    pause = PAUSE.0;
                    continue;
                }
                Some(Ok(answer)) => {
                    out.publish(Answer::Value(answer.into()));
                    // Ended with the last one that follows it.
                    return std::future::pending().await;
                }
                Some(Err(why)) => why,
            };
            let Self {
                application,
                revision,
                ..
            } = &self;
            tracing::warn!(
                application, revision, instances = now.len(), why = %Escaped(&why),
                "no instance tells its metadata"
            );
            // Its services are left out meanwhile, and nobody waits for them.
            waited = None;
            out.publish(Answer::Missing);
            let changed = tokio::time::timeout(pause, instances.changed()).await;
            pause = if changed.is_ok() {
                PAUSE.0
            } else {
                (pause * 2).min(PAUSE.1)
            };
        }
    }

    /// A round, as long as the instances stay: those who left are not asked any more, and those who
    /// came are. Its outcome is `None` if they did not.
    async fn watched(
        &self,
        now: &[(String, u16)],
        instances: &mut watch::Receiver<Instances>,
        waited: &mut Option<Instant>,
        out: &Out,
    ) -> Option<Result<Vec<u8>, String>> {
        let mut round = std::pin::pin!(self.round(now));
        loop {
            tokio::select! {
                outcome = &mut round => return Some(outcome),
                changed = instances.changed() => match changed {
                    Ok(()) => return None,
                    Err(_) => std::future::pending().await,
                },
                () = until(*waited) => {
                    *waited = None;
                    out.publish(Answer::Missing);
                }
            }
        }
    }

    /// The first answer of all instances, or why the last of them gave none.
    async fn round(&self, instances: &[(String, u16)]) -> Result<Vec<u8>, String> {
        let mut waiting: VecDeque<_> = instances.iter().collect();
        let mut asked = FuturesUnordered::new();
        let mut why = "there is none".to_owned();
        loop {
            if asked.len() < AT_ONCE
                && let Some((host, port)) = waiting.pop_front()
            {
                asked.push(self.ask(host, *port));
            }
            if asked.is_empty() {
                return Err(why);
            }
            let goes_on = !waiting.is_empty() && asked.len() < AT_ONCE;
            let outcome = tokio::select! {
                outcome = next_of(&mut asked) => outcome,
                () = tokio::time::sleep(STAGGER), if goes_on => continue,
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => why = error,
            }
        }
    }

    async fn ask(&self, host: &str, port: u16) -> Result<Vec<u8>, String> {
        let asking = async {
            let mut found = tokio::net::lookup_host((host, port))
                .await
                .map_err(|error| error.to_string())?;
            let address = found.next().ok_or("no such host")?;
            self.service
                .ask(address, &self.application, &self.revision)
                .await
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
            .map_err(|why| format!("{host}:{port}: {why}"))
    }
}

async fn next_of<F: Future<Output = Result<Vec<u8>, String>>>(
    asked: &mut FuturesUnordered<F>,
) -> Result<Vec<u8>, String> {
    match asked.next().await {
        Some(outcome) => outcome,
        None => std::future::pending().await,
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
