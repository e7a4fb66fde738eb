//! The ZooKeeper store.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use zookeeper_client::{Client, Error, OneshotWatcher, SessionState};

/// What a session asks for; the server may bound it.
const SESSION: Duration = Duration::from_secs(20);
/// The first and the longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A connection to ZooKeeper that outlives its sessions.
pub(crate) struct ZooKeeper {
    name: String,
    client: watch::Receiver<Option<Client>>,
}

impl ZooKeeper {
    /// Begins to connect; ends when nothing uses it any more.
    pub(crate) fn start(handle: &Handle, name: &str, servers: &str) -> Arc<Self> {
        let (owner, client) = watch::channel(None);
        let (registry, servers) = (name.to_owned(), servers.to_owned());
        handle.spawn(async move {
            tokio::select! {
                () = keep_connected(&registry, &servers, &owner) => {}
                () = owner.closed() => {}
            }
        });
        Arc::new(Self {
            name: name.to_owned(),
            client,
        })
    }

    /// The children of `path`, now and with each change.
    pub(crate) fn children(&self, path: &str) -> Children {
        Children {
            registry: self.name.clone(),
            path: path.to_owned(),
            client: self.client.clone(),
            watcher: None,
            pause: Pause::default(),
            last: None,
        }
    }
}

/// The children of one node as they change.
pub(crate) struct Children {
    registry: String,
    path: String,
    client: watch::Receiver<Option<Client>>,
    watcher: Option<OneshotWatcher>,
    pause: Pause,
    last: Option<Option<Vec<String>>>,
}

impl Children {
    /// The next state that differs from the one before: the children, `Some(None)` while there
    /// is no such node. Waits while the servers do not answer. `None` when the store has ended.
    pub(crate) async fn next(&mut self) -> Option<Option<Vec<String>>> {
        loop {
            if let Some(watcher) = self.watcher.take() {
                watcher.changed().await;
            }
            let client = self.client.wait_for(Option::is_some).await.ok()?.clone()?;
            match list(&client, &self.path).await {
                Ok((mut children, watcher)) => {
                    self.watcher = Some(watcher);
                    self.pause = Pause::default();
                    if let Some(children) = &mut children {
                        children.sort_unstable();
                    }
                    if self.last.as_ref() != Some(&children) {
                        self.last = Some(children.clone());
                        return Some(children);
                    }
                }
                Err(error) => {
                    let Self { registry, path, .. } = &self;
                    tracing::warn!(registry, path, %error, "cannot list; trying again");
                    self.pause.wait().await;
                }
            }
        }
    }
}

/// The children of a node, or `None` without one; and what tells of the next change.
async fn list(client: &Client, path: &str) -> Result<(Option<Vec<String>>, OneshotWatcher), Error> {
    loop {
        match client.list_and_watch_children(path).await {
            Ok((children, watcher)) => return Ok((Some(children), watcher)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        let (stat, watcher) = client.check_and_watch_stat(path).await?;
        if stat.is_none() {
            return Ok((None, watcher));
        }
        // It was made between the two looks: list it after all.
    }
}

async fn keep_connected(registry: &str, servers: &str, owner: &watch::Sender<Option<Client>>) {
    let mut pause = Pause::default();
    loop {
        match Client::connector()
            .with_session_timeout(SESSION)
            .connect(servers)
            .await
        {
            Ok(client) => {
                tracing::info!(registry, servers, "connected");
                pause = Pause::default();
                let mut states = client.state_watcher();
                owner.send_replace(Some(client));
                loop {
                    match states.changed().await {
                        SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                            tracing::info!(registry, "connected again");
                        }
                        SessionState::Disconnected => {
                            tracing::warn!(registry, "disconnected; endpoints stay as they are");
                        }
                        ended => {
                            tracing::warn!(registry, state = ?ended, "session over; opening another");
                            break;
                        }
                    }
                }
                owner.send_replace(None);
            }
            Err(error) => {
                tracing::warn!(registry, servers, %error, "cannot connect; trying again");
            }
        }
        pause.wait().await;
    }
}

/// Growing pauses with jitter, so that many proxies do not come back as one.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE.0)
    }
}

impl Pause {
    async fn wait(&mut self) {
        let hasher = std::hash::RandomState::new();
        let random = std::hash::BuildHasher::hash_one(&hasher, 0_u8);
        let share = (random % 1000) as f64 / 1000.0;
        tokio::time::sleep(self.0.mul_f64(0.1 + 0.9 * share)).await;
        self.0 = (self.0 * 2).min(PAUSE.1);
    }
}
