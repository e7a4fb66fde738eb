//! Publications and subscriptions of an application, kept for as long as its process lives.
//!
//! SOFA-RPC says each once, so they are written to disk: after a restart of ours they hold again if
//! the process is still the same. They belong to the process that listens where the application is
//! to be, and are forgotten with it: a successor publishes its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use finback_core::text::Escaped;
use finback_registry::{LayoutKind, Offers, Registration, Registries};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::listening::Listening;
use super::split;
use crate::config::MeshRegistry;

/// The file, in the folder of snapshots. Not named as those are, which are swept.
const FILE: &str = "mesh_registry.application";
/// How often the application is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a process of which we see nothing may take to answer, and how often it may not.
const ANSWER: Duration = Duration::from_secs(1);
const FAILURES: u32 = 3;
/// How long an application that has published may take to listen.
const STARTING: Duration = Duration::from_secs(300);
/// How many names an application may publish, and subscribe to.
const NAMES: usize = 1000;
/// Subscriptions are followed anew so often: their registry may be another one after a reload.
const REFRESH: u32 = 60;

/// Everything that the application has said.
pub(super) struct Publications {
    config: MeshRegistry,
    registries: Arc<Registries>,
    file: Option<PathBuf>,
    book: Mutex<Book>,
}

/// What is known of the application.
struct Book {
    said: Said,
    /// Looks in a row at which nobody was there.
    failures: u32,
    /// Since when it has published and is not there.
    awaited: Instant,
    /// Services that it will call are looked up before it does.
    followed: BTreeMap<String, Option<Offers>>,
}

/// What is kept on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// Where it listens.
    application: String,
    owner: Owner,
    /// The application's name by that of the service.
    published: BTreeMap<String, String>,
    /// In their order.
    subscribed: Vec<String>,
}

/// Whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Owner {
    /// Nobody listens yet.
    #[default]
    Awaited,
    /// A process of which we see the socket.
    Seen(Listening),
    /// One that answers, and of which we see nothing: it is on another machine.
    Hidden,
}

impl Publications {
    /// Those of an earlier run, if the application still runs; kept in the folder, if there is one.
    pub(super) async fn open(
        config: MeshRegistry,
        registries: Arc<Registries>,
        folder: Option<&Path>,
    ) -> Arc<Self> {
        let file = folder.map(|folder| folder.join(FILE));
        let mut said = Said {
            application: config.application.to_string(),
            ..Said::default()
        };
        if let Some(former) = former(file.as_deref()).await
            && former.application == said.application
            && still_runs(&former.owner, config.application).await
        {
            let (published, subscribed) = (former.published.len(), former.subscribed.len());
            tracing::info!(
                published,
                subscribed,
                "the application still runs; what it said holds"
            );
            said = former;
        }
        for (name, application) in &said.published {
            if let Some(registration) = registration(&config, name, application) {
                registries.register(&registration);
            }
        }
        let own = Arc::new(Self {
            book: Mutex::new(Book {
                said,
                failures: 0,
                awaited: Instant::now(),
                followed: BTreeMap::new(),
            }),
            config,
            registries,
            file,
        });
        own.follow(&mut *own.book.lock().await);
        own
    }

    /// Registers a service for the application. `false` if it has too many.
    pub(super) async fn publish(&self, name: &str, application: &str) -> bool {
        let mut book = self.book.lock().await;
        self.look(&mut book).await;
        let published = &mut book.said.published;
        if published.len() >= NAMES && !published.contains_key(name) {
            return false;
        }
        let before = published.insert(name.to_owned(), application.to_owned());
        let of = |application: &String| registration(&self.config, name, application);
        let before: Vec<_> = before.as_ref().and_then(of).into_iter().collect();
        let after: Vec<_> = of(&application.to_owned()).into_iter().collect();
        self.registries.change_registrations(&before, &after);
        self.save(&book.said).await;
        true
    }

    /// Takes a service back.
    pub(super) async fn unpublish(&self, name: &str) {
        let mut book = self.book.lock().await;
        if let Some(application) = book.said.published.remove(name) {
            self.unregister(name, &application);
            self.save(&book.said).await;
        }
    }

    /// Looks a service up before the application calls it.
    pub(super) async fn subscribe(&self, name: &str) {
        let mut book = self.book.lock().await;
        let subscribed = &mut book.said.subscribed;
        if subscribed.iter().any(|own| own == name) {
            return;
        }
        if subscribed.len() >= NAMES {
            subscribed.remove(0);
        }
        subscribed.push(name.to_owned());
        self.follow(&mut book);
        self.save(&book.said).await;
    }

    /// Ends that.
    pub(super) async fn unsubscribe(&self, name: &str) {
        let mut book = self.book.lock().await;
        let before = book.said.subscribed.len();
        book.said.subscribed.retain(|own| own != name);
        if book.said.subscribed.len() < before {
            self.follow(&mut book);
            self.save(&book.said).await;
        }
    }

    /// Looks after the application until the runtime ends.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut looks: u32 = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let mut book = self.book.lock().await;
            let is_changed = self.look(&mut book).await;
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(REFRESH) {
                book.followed.clear();
                self.follow(&mut book);
            }
            if is_changed {
                self.save(&book.said).await;
            }
        }
    }

    /// Finds out whether the application is still the one that said all this; forgets it if not.
    /// Whether anything changed by that.
    async fn look(&self, book: &mut Book) -> bool {
        let seen = Listening::on(self.config.application);
        if book.said.owner == Owner::Awaited && book.said.published.is_empty() && seen.is_none() {
            // Nothing was said that depends on anybody.
            book.awaited = Instant::now();
            return false;
        }
        let now = match (&book.said.owner, seen) {
            (Owner::Seen(owner), Some(seen)) if owner.is(&seen) => Some(Owner::Seen(seen)),
            (Owner::Seen(_), _) => None,
            (Owner::Awaited | Owner::Hidden, Some(seen)) => Some(Owner::Seen(seen)),
            (Owner::Awaited, None) if answers(self.config.application).await => Some(Owner::Hidden),
            (Owner::Awaited, None) if book.awaited.elapsed() < STARTING => Some(Owner::Awaited),
            (Owner::Awaited, None) => None,
            (Owner::Hidden, None) => {
                let is_there = answers(self.config.application).await;
                book.failures = if is_there { 0 } else { book.failures + 1 };
                (book.failures < FAILURES).then_some(Owner::Hidden)
            }
        };
        match now {
            Some(owner) => std::mem::replace(&mut book.said.owner, owner) != book.said.owner,
            None => {
                self.forget(book);
                true
            }
        }
    }

    fn forget(&self, book: &mut Book) {
        let published = std::mem::take(&mut book.said.published);
        if !published.is_empty() {
            let services = published.len();
            tracing::warn!(
                services,
                "the application is gone, and what it published with it"
            );
        }
        for (name, application) in published {
            self.unregister(&name, &application);
        }
        book.said.subscribed.clear();
        book.followed.clear();
        book.said.owner = Owner::Awaited;
        book.failures = 0;
        book.awaited = Instant::now();
    }

    fn unregister(&self, name: &str, application: &str) {
        if let Some(registration) = registration(&self.config, name, application) {
            self.registries.unregister(&registration);
        }
    }

    /// Follows what is subscribed to, and nothing else.
    fn follow(&self, book: &mut Book) {
        let Book { said, followed, .. } = book;
        followed.retain(|name, _| said.subscribed.contains(name));
        for name in &said.subscribed {
            followed.entry(name.clone()).or_insert_with(|| {
                let (service, _) = split(name).ok()?;
                self.registries
                    .offers(&self.config.registry, LayoutKind::Sofa, service)
            });
        }
    }

    async fn save(&self, said: &Said) {
        let Some(file) = &self.file else { return };
        let draft = file.with_extension("part");
        let write = async {
            tokio::fs::write(&draft, serde_json::to_vec(said)?).await?;
            tokio::fs::rename(&draft, file).await
        };
        if let Err(error) = write.await {
            let file = file.display();
            tracing::warn!(%file, %error, "cannot keep what the application published");
        }
    }
}

/// What an earlier run kept, if it can be read.
async fn former(file: Option<&Path>) -> Option<Said> {
    let file = file?;
    let text = tokio::fs::read(file).await.ok()?;
    match serde_json::from_slice(&text) {
        Ok(said) => Some(said),
        Err(error) => {
            let file = file.display();
            tracing::warn!(%file, %error, "cannot read what the application published; ignored");
            None
        }
    }
}

/// Whether a process is still the one that it was in an earlier run.
async fn still_runs(owner: &Owner, application: std::net::SocketAddr) -> bool {
    match owner {
        Owner::Seen(owner) => Listening::on(application).is_some_and(|seen| owner.is(&seen)),
        Owner::Hidden => answers(application).await,
        // It may only have subscribed.
        Owner::Awaited => true,
    }
}

async fn answers(address: std::net::SocketAddr) -> bool {
    let connecting = TcpStream::connect(address);
    matches!(tokio::time::timeout(ANSWER, connecting).await, Ok(Ok(_)))
}

/// What is registered of a service; `None` for a name that no registry can have.
fn registration(config: &MeshRegistry, name: &str, application: &str) -> Option<Registration> {
    let (service, unique_id) = split(name)
        .inspect_err(|(_, why)| tracing::warn!(name = %Escaped(name), why, "not registered"))
        .ok()?;
    Some(Registration {
        registry: config.registry.clone(),
        layout: LayoutKind::Sofa,
        service: service.to_owned(),
        version: String::new(),
        group: unique_id.to_owned(),
        protocol: "bolt".to_owned(),
        host: config.advertise.ip().to_string(),
        port: config.advertise.port(),
        weight: 100,
        application: application.to_owned(),
        labels: [].into(),
        parameters: [].into(),
        check: Some(config.application),
        also: Vec::new(),
    })
}
