//! Metadata that a Dubbo application keeps to itself: it must be asked, in its own protocol.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::store::{Answer, Followed};

/// The first and the longest pause before an instance is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What an instance answers: JSON as Dubbo's `MetadataInfo` is written into registries.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send + 'a>>;

/// A client of Dubbo's `MetadataService`. This crate speaks no protocol, so whoever builds the
/// binary provides it.
pub trait MetadataService: Send + Sync + 'static {
    /// Asks the instance at `address` for its services.
    fn ask<'a>(&'a self, address: SocketAddr, application: &'a str, revision: &'a str)
    -> Asked<'a>;
}

/// Nobody to ask: applications that keep their metadata to themselves are not found.
pub struct NoMetadata;

impl MetadataService for NoMetadata {
    fn ask<'a>(&'a self, _: SocketAddr, _: &'a str, _: &'a str) -> Asked<'a> {
        Box::pin(async { Err("nothing here can ask for metadata".to_owned()) })
    }
}

/// The way to instances' metadata.
#[derive(Clone)]
pub(crate) struct Metadata(pub(crate) Arc<dyn MetadataService>);

impl Metadata {
    /// Asks until there is an answer, which never changes: a revision is one state.
    pub(crate) fn follow(
        &self,
        handle: &Handle,
        host: &str,
        port: u16,
        application: &str,
        revision: &str,
    ) -> Followed {
        let service = self.0.clone();
        let (host, application, revision) =
            (host.to_owned(), application.to_owned(), revision.to_owned());
        Followed::task(handle, move |out| async move {
            let mut pause = PAUSE.0;
            loop {
                let why = match ask(&*service, &host, port, &application, &revision).await {
                    Ok(answer) => {
                        out.publish(Answer::Value(answer.into()));
                        // Ended with the last one that follows it.
                        return std::future::pending().await;
                    }
                    Err(why) => why,
                };
                tracing::warn!(application, host, port, why, "instance tells no metadata");
                // Its services are left out meanwhile, and nobody waits for them.
                out.publish(Answer::Missing);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        })
    }
}

async fn ask(
    service: &dyn MetadataService,
    host: &str,
    port: u16,
    application: &str,
    revision: &str,
) -> Result<Vec<u8>, String> {
    let asking = async {
        let mut found = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| error.to_string())?;
        let address = found.next().ok_or("no such host")?;
        service.ask(address, application, revision).await
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}
