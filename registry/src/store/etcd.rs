//! etcd as a store: paths are key prefixes, and one stream carries every watch.

mod connect;
mod gathered;
mod holding;
mod lease;
mod stream;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use etcd_client::{Client, Error, GetOptions};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use self::connect::{is_denied, keep_connected};
use self::gathered::{Change, Gathered, What};
use self::holding::Ward;
use self::lease::Lease;
use self::stream::{Command, Teller, Watching};
use self::tree::{Tree, Trees};

use super::pause::Pause;
use super::{Answer, Entries, Out, Query, Reporter, TlsConfig, bounded};

/// Keys asked for at once at first, whatever their values may be.
const PAGE: i64 = 1000;
/// And at most, where values are small: for each page the servers go through all keys that are left.
const LARGE_PAGE: i64 = 5000;
/// What a page larger than the first may come to, if its values are as large as those before.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The longest message that is taken.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Requests at the same time: after a loss of connection, everything is listed anew.
const TURNS: usize = 64;
/// What is looked at in one turn of the thread: there may be a hundred thousand keys.
const AT_ONCE: usize = 256;
/// How long the servers may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// etcd servers, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `host:port` or a URL each.
    pub servers: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Speak TLS.
    pub tls: Option<TlsConfig>,
}

/// A connection to etcd that outlives its streams.
#[derive(Clone)]
pub(super) struct Etcd {
    connection: watch::Receiver<Option<Arc<Connection>>>,
    trees: Trees,
}

/// Shared by all followers: a client is large.
struct Connection {
    client: Client,
    commands: mpsc::UnboundedSender<Command>,
    turns: Semaphore,
    next_watch: AtomicI64,
    /// What we hold is bound to it.
    lease: Lease,
    /// Leases of others that somebody waits for.
    wards: Mutex<HashMap<i64, Weak<Ward>>>,
}

impl Etcd {
    pub(super) fn start(
        handle: &Handle,
        config: &EtcdConfig,
        servers: Vec<String>,
        reporter: Reporter,
    ) -> Self {
        let (owner, connection) = watch::channel(None);
        let config = config.clone();
        handle.spawn(async move {
            tokio::select! {
                () = keep_connected(&config, &servers, &owner, &reporter) => {}
                () = owner.closed() => {}
            }
        });
        Self {
            connection,
            trees: Trees::default(),
        }
    }

    /// The connection now; waits for one. `None` when the store has ended.
    async fn connection(&mut self) -> Option<Arc<Connection>> {
        self.connection
            .wait_for(Option::is_some)
            .await
            .ok()?
            .clone()
    }

    /// Follows something alone.
    pub(super) async fn follow(mut self, query: &Query, out: &Out) {
        let mut pause = Pause::default();
        while let Some(connection) = self.connection().await {
            let mut listed = false;
            let ended = Box::pin(connection.follow(query, out, &mut listed)).await;
            if listed {
                // It works: whatever ended it, the next try is a first one.
                pause = Pause::default();
            }
            if let Err(error) = ended {
                if is_denied(&error) {
                    out.refuse(query);
                } else {
                    out.fail();
                }
                tracing::debug!(?query, %error, "cannot follow; trying again");
            }
            pause.wait().await;
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, call)
        .await
        .unwrap_or_else(|_| Err(Error::Internal(format!("no answer within {PATIENCE:?}"))))
}

impl Connection {
    /// Follows until changes may have been missed.
    /// `listed` tells whether there was an answer.
    async fn follow(&self, query: &Query, out: &Out, listed: &mut bool) -> Result<(), Error> {
        match query {
            Query::Names(path) => {
                let names = Gathered::Names(Entries::new());
                self.follow_prefix(path, names, out, listed).await
            }
            Query::Folders(path) => {
                let folders = Gathered::Folders(BTreeMap::new());
                self.follow_prefix(path, folders, out, listed).await
            }
            Query::Entries(path) => {
                let entries = Gathered::Entries(Entries::new());
                self.follow_prefix(path, entries, out, listed).await
            }
            Query::Value(key) => self.follow_value(key, out, listed).await,
        }
    }

    async fn follow_prefix(
        &self,
        path: &str,
        mut gathered: Gathered,
        out: &Out,
        listed: &mut bool,
    ) -> Result<(), Error> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        // Boxed, and only in its turn: a request is short and large, a follower should be small.
        let turn = self.turns.acquire().await;
        let values = gathered.wants_values();
        let add = |name: &str, value| gathered.add(name, value);
        let revision = Box::pin(self.list(&prefix, values, add)).await?;
        drop(turn);
        *listed = true;
        out.publish(gathered.answer());
        let mut watching = self.watch(&prefix, true, revision + 1, None);
        while let Some(first) = watching.changes.recv().await {
            let mut changes = first;
            while let Ok(more) = watching.changes.try_recv() {
                changes.extend(more);
            }
            let mut differs = false;
            for Change { key, what } in changes {
                if let Some(name) = key.strip_prefix(&prefix) {
                    differs |= gathered.apply(name, what);
                }
            }
            if differs {
                out.publish(gathered.answer());
            }
        }
        Ok(())
    }

    async fn follow_value(&self, key: &str, out: &Out, listed: &mut bool) -> Result<(), Error> {
        let turn = self.turns.acquire().await;
        let response = Box::pin(within(self.kv().get(key, None))).await?;
        drop(turn);
        *listed = true;
        let answer = |value: Option<Vec<u8>>| {
            value.map_or(Answer::Missing, |value| Answer::Value(bounded(key, value)))
        };
        out.publish(answer(
            response.kvs().first().map(|entry| entry.value().to_vec()),
        ));
        let revision = response.header().map_or(0, |header| header.revision());
        let mut watching = self.watch(key, false, revision + 1, None);
        while let Some(changes) = watching.changes.recv().await {
            if let Some(last) = changes.into_iter().last() {
                out.publish(answer(match last.what {
                    What::Made(value) | What::Written(value) => Some(value),
                    What::Removed => None,
                }));
            }
        }
        Ok(())
    }

    fn kv(&self) -> etcd_client::KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// Adds all keys below a prefix as they are at one revision, which is returned.
    async fn list(
        &self,
        prefix: &str,
        values: bool,
        mut add: impl FnMut(&str, Vec<u8>) + Send,
    ) -> Result<i64, Error> {
        let mut kv = self.kv();
        let mut revision = 0;
        let end = after(prefix);
        let mut from = prefix.as_bytes().to_vec();
        let (mut limit, mut most, mut largest) = (PAGE, LARGE_PAGE, 0);
        loop {
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(limit)
                .with_revision(revision);
            if !values {
                options = options.with_keys_only();
            }
            let page = match within(kv.get(from.clone(), Some(options))).await {
                // Larger values may stand there than before, too many for one message.
                Err(_) if limit > PAGE => {
                    (limit, most) = (PAGE, PAGE);
                    continue;
                }
                page => page?,
            };
            revision = page.header().map_or(revision, |header| {
                if revision == 0 {
                    header.revision()
                } else {
                    revision
                }
            });
            for some in page.kvs().chunks(AT_ONCE) {
                for entry in some {
                    largest = largest.max(entry.key().len() + entry.value().len());
                    let Ok(key) = entry.key_str() else { continue };
                    if let Some(name) = key.strip_prefix(prefix) {
                        add(name, entry.value().to_vec());
                    }
                }
                tokio::task::yield_now().await;
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else {
                return Ok(revision);
            };
            from = last.key().to_vec();
            from.push(0);
            limit = page_limit(largest).min(most);
        }
    }

    /// Has changes told from this revision on: to a tree, or else to whoever has what is returned.
    fn watch(&self, key: &str, prefix: bool, revision: i64, tree: Option<Arc<Tree>>) -> Watching {
        let number = self.next_watch.fetch_add(1, Ordering::Relaxed);
        let (sender, changes) = mpsc::unbounded_channel();
        // A connection that has ended drops the sender, which tells the follower.
        let _ = self.commands.send(Command::Watch {
            number,
            key: key.to_owned(),
            prefix,
            revision,
            teller: Teller {
                tree,
                changes: sender,
            },
        });
        Watching {
            number,
            commands: self.commands.clone(),
            changes,
        }
    }
}

/// Keys to ask for at once, of which the largest so far has so many bytes with its value.
fn page_limit(largest: usize) -> i64 {
    let fit = i64::try_from(PAGE_BYTES / largest.max(1)).unwrap_or(LARGE_PAGE);
    fit.clamp(PAGE, LARGE_PAGE)
}

/// The first key after all that begin with `prefix`.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        // Prefixes end with a slash, which has a successor.
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_large_as_their_values_allow() {
        for (largest, limit) in [
            (0, LARGE_PAGE),
            (600, LARGE_PAGE),
            (4 * 1024, 2048),
            (100 * 1024, PAGE),
            (2 * PAGE_BYTES, PAGE),
        ] {
            assert_eq!(page_limit(largest), limit, "{largest}");
        }
    }
}
