//! ZooKeeper as a store.

mod tree;

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use finback_core::text::Escaped;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use zookeeper_client::{
    Acls, Client, CreateMode, CreateOptions, Error, OneshotWatcher, SaslOptions, SessionState,
    TlsOptions,
};

use self::tree::Trees;
use super::pause::{Losses, Pause};
use super::{Answer, Claim, Entries, Out, Pem, Query, Reporter, TlsConfig, bounded, reach};
use crate::layout::application::Content;

/// Values read at the same time.
const READS: usize = 64;
/// Places looked at at the same time: after a start or a new session, there may be tens of thousands.
const TURNS: usize = 256;
/// How long another has to take over what we leave.
const PARTING: Duration = Duration::from_millis(200);
/// A value that we may not read any more is tried again after this: nothing tells when we may.
const REFUSED: Duration = Duration::from_secs(30);

/// ZooKeeper servers, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeperConfig {
    /// `host:port,host:port/chroot`.
    pub servers: String,
    /// What a session asks for; the servers may bound it. Default: 20 s.
    pub session: Duration,
    /// `user:password` of the scheme `digest`.
    pub digest: Option<String>,
    /// User and password of SASL's DIGEST-MD5.
    pub sasl: Option<(String, String)>,
    /// Speak TLS.
    pub tls: Option<TlsConfig>,
}

impl ZooKeeperConfig {
    /// Servers that ask for nothing.
    #[must_use]
    pub fn open(servers: impl Into<String>) -> Self {
        Self {
            servers: servers.into(),
            session: Duration::from_secs(20),
            digest: None,
            sasl: None,
            tls: None,
        }
    }
}

/// A connection to ZooKeeper that outlives its sessions.
#[derive(Clone)]
pub(super) struct ZooKeeper {
    /// Shared by all followers: a client is large.
    client: watch::Receiver<Option<Arc<Client>>>,
    turns: Arc<Semaphore>,
    trees: Trees,
}

impl ZooKeeper {
    pub(super) fn start(
        handle: &Handle,
        config: &ZooKeeperConfig,
        servers: Vec<String>,
        reporter: Reporter,
    ) -> Self {
        let (owner, client) = watch::channel(None);
        let config = config.clone();
        handle.spawn(async move {
            tokio::select! {
                () = keep_connected(&config, &servers, &owner, &reporter) => {}
                () = owner.closed() => {}
            }
        });
        Self {
            client,
            turns: Arc::new(Semaphore::new(TURNS)),
            trees: Trees::default(),
        }
    }

    /// The client of the session now; waits for one. `None` when the store has ended.
    async fn client(&mut self) -> Option<Arc<Client>> {
        self.client.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Follows something alone.
    pub(super) async fn follow(mut self, query: &Query, out: &Out) {
        let mut pause = Pause::default();
        // Boxed each, so that a task is no larger than what it does: there may be tens of thousands.
        while let Some(client) = Box::pin(self.client()).await {
            let ended = match query {
                Query::Names(path) | Query::Folders(path) => {
                    Box::pin(names(&client, &self.turns, path, out, &mut pause)).await
                }
                Query::Entries(_) => {
                    Box::pin(entries(&client, &self.turns, query, out, &mut pause)).await
                }
                Query::Value(path) => {
                    Box::pin(value(&client, &self.turns, path, out, &mut pause)).await
                }
            };
            let Err(error) = ended;
            match error {
                Error::NoAuth => out.refuse(query),
                // A caller's service whose name is no path there cannot be there.
                Error::BadArguments(_) => {
                    out.publish(Answer::Missing);
                    return std::future::pending().await;
                }
                _ => out.fail(),
            }
            tracing::debug!(?query, %error, "cannot follow; trying again");
            Box::pin(pause.wait()).await;
        }
    }

    pub(super) async fn hold(
        &self,
        path: &str,
        value: &[u8],
        claim: Claim,
        held: &watch::Sender<bool>,
    ) {
        let mut own = self.clone();
        let mut losses = Losses::default();
        while let Some(client) = own.client().await {
            losses.begin();
            // After a lost connection this waits for the next one, in which the session goes on.
            let Err(error) = hold(&client, path, value, claim, held).await;
            held.send_replace(false);
            tracing::warn!(path = %Escaped(path), %error, "registration lost; making it again");
            losses.wait().await;
        }
    }

    /// Makes a node what it is to be, unless it is; it stays when we are gone.
    pub(super) async fn amend(&self, path: &str, content: &Content) -> Result<(), String> {
        let client = self.clone().client().await.ok_or("the store has ended")?;
        let amended = amend(&client, path, content).await;
        amended.map_err(|error| error.to_string())
    }

    /// Offers a node to those who wait for it; it goes with our session if nobody takes it.
    pub(super) async fn leave(&self, path: &str) {
        let client = self.client.borrow().clone();
        let Some(client) = client else { return };
        if let Err(error) = leave(&client, path).await {
            tracing::debug!(path = %Escaped(path), %error, "cannot leave the registration to another");
        }
    }

    pub(super) async fn release(&self, path: &str) -> Result<(), String> {
        // Without a session there is nothing of ours.
        let client = self.client.borrow().clone();
        let Some(client) = client else { return Ok(()) };
        let removing = async {
            match client.check_stat(path).await? {
                Some(stat) if stat.ephemeral_owner == client.session_id().0 => {
                    client.delete(path, None).await
                }
                _ => Ok(()),
            }
        };
        match removing.await {
            Ok(()) | Err(Error::NoNode | Error::SessionExpired) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn amend(client: &Client, path: &str, content: &Content) -> Result<(), Error> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    loop {
        let written = match client.get_data(path).await {
            Ok((found, stat)) => match content.amend(Some(&found)) {
                Some(value) => client
                    .set_data(path, &value, Some(stat.version))
                    .await
                    .map(drop),
                None => Ok(()),
            },
            Err(Error::NoNode) => {
                make_folder(client, path).await?;
                let value = content.amend(None).unwrap_or_default();
                client.create(path, &value, &options).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match written {
            // Another was faster: what it wrote is amended.
            Err(Error::BadVersion | Error::NoNode | Error::NodeExists) => {}
            written => return written,
        }
    }
}

/// Waits until another holds the node, but not for long.
async fn leave(client: &Client, path: &str) -> Result<(), Error> {
    let ours = client.session_id().0;
    let (value, stat) = match client.get_data(path).await {
        Err(Error::NoNode) => return Ok(()),
        found => found?,
    };
    if stat.ephemeral_owner != ours {
        return Ok(());
    }
    // A node that is held is never written to: its version tells those who wait.
    client.set_data(path, &value, Some(stat.version)).await?;
    let taken = async {
        loop {
            match client.check_and_watch_stat(path).await? {
                (Some(stat), watcher) if stat.ephemeral_owner == ours => changed(watcher).await?,
                _ => return Ok(()),
            }
        }
    };
    tokio::time::timeout(PARTING, taken).await.unwrap_or(Ok(()))
}

/// The children of a node, or `None` without one; and what tells of the next change. Boxed, as
/// requests are short and large, and a follower should be small.
async fn list(client: &Client, path: &str) -> Result<(Option<Vec<String>>, OneshotWatcher), Error> {
    Box::pin(look(client, path)).await
}

async fn look(client: &Client, path: &str) -> Result<(Option<Vec<String>>, OneshotWatcher), Error> {
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

/// Waits for the next change; an error if the session is over.
fn changed(watcher: OneshotWatcher) -> impl Future<Output = Result<(), Error>> + Send {
    watcher.changed().map(|event| match event.session_state {
        SessionState::Expired => Err(Error::SessionExpired),
        SessionState::Closed | SessionState::AuthFailed => Err(Error::ClientClosed),
        _ => Ok(()),
    })
}

async fn names(
    client: &Client,
    turns: &Semaphore,
    path: &str,
    out: &Out,
    pause: &mut Pause,
) -> Result<Infallible, Error> {
    loop {
        let turn = turns.acquire().await;
        let (children, watcher) = list(client, path).await?;
        drop(turn);
        *pause = Pause::default();
        out.publish(match children {
            None => Answer::Missing,
            Some(children) => {
                let entries = children.into_iter().map(|name| (name, Bytes::new()));
                Answer::Entries(Arc::new(entries.collect()))
            }
        });
        changed(watcher).await?;
    }
}

async fn entries(
    client: &Client,
    turns: &Semaphore,
    query: &Query,
    out: &Out,
    pause: &mut Pause,
) -> Result<Infallible, Error> {
    let path = query.path();
    let mut read = Values {
        client,
        path,
        former: out.entries(),
        entries: Entries::new(),
        refused: HashSet::new(),
        watches: JoinSet::new(),
    };
    loop {
        let turn = turns.acquire().await;
        let (children, watcher) = list(client, path).await?;
        drop(turn);
        *pause = Pause::default();
        let mut watcher = pin!(changed(watcher));
        let Some(children) = children else {
            read.clear();
            out.publish(Answer::Missing);
            watcher.await?;
            continue;
        };
        let fresh = read.keep(children.into_iter().collect());
        read.read(fresh).await?;
        loop {
            read.publish(query, out);
            let again = async {
                match read.refused.is_empty() {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(REFUSED).await,
                }
            };
            let names = tokio::select! {
                listed = &mut watcher => {
                    listed?;
                    break;
                }
                Some(Ok(name)) = read.watches.join_next() => vec![name?],
                () = again => read.refused.iter().cloned().collect(),
            };
            read.read(names).await?;
        }
    }
}

/// The values of a node's children.
struct Values<'a> {
    client: &'a Client,
    path: &'a str,
    /// What was known before this session.
    former: Arc<Entries>,
    entries: Entries,
    /// Those that we may not read any more: what they were stays.
    refused: HashSet<String>,
    /// Each ends with the name whose value has changed.
    watches: JoinSet<Result<String, Error>>,
}

impl Values<'_> {
    fn clear(&mut self) {
        self.former = Arc::default();
        self.entries = Entries::new();
        self.refused.clear();
        self.watches.abort_all();
    }

    /// Forgets all but these; tells which of them are new.
    fn keep(&mut self, children: HashSet<String>) -> Vec<String> {
        self.entries.retain(|name| children.contains(name));
        self.refused.retain(|name| children.contains(name));
        let mut fresh: Vec<String> = children.into_iter().collect();
        fresh.retain(|name| !self.entries.contains(name));
        fresh
    }

    async fn read(&mut self, names: Vec<String>) -> Result<(), Error> {
        let Self { client, path, .. } = *self;
        let mut reads = stream::iter(names)
            .map(|name| async move {
                let path = join(path, &name);
                (name, client.get_and_watch_data(&path).await)
            })
            .buffer_unordered(READS);
        while let Some((name, read)) = reads.next().await {
            match read {
                Ok((value, _, watcher)) => {
                    self.refused.remove(&name);
                    self.entries.insert(&name, bounded(&name, value));
                    self.watches
                        .spawn(async move { changed(watcher).await.map(|()| name) });
                }
                // Gone since it was listed: the list will say so.
                Err(Error::NoNode) => {}
                Err(Error::NoAuth) => {
                    let former = self.entries.get(&name).or_else(|| self.former.get(&name));
                    // One that we never could read is not for us.
                    if let Some(former) = former.cloned() {
                        self.entries.insert(&name, former);
                        self.refused.insert(name);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn publish(&self, query: &Query, out: &Out) {
        out.publish(Answer::Entries(Arc::new(self.entries.clone())));
        if !self.refused.is_empty() {
            out.refuse(query);
        }
    }
}

/// The value of a node, and what tells of the next change.
async fn get(client: &Client, path: &str) -> Result<(Answer, OneshotWatcher), Error> {
    loop {
        match client.get_and_watch_data(path).await {
            Ok((value, _, watcher)) => return Ok((Answer::Value(bounded(path, value)), watcher)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        let (stat, watcher) = client.check_and_watch_stat(path).await?;
        if stat.is_none() {
            return Ok((Answer::Missing, watcher));
        }
    }
}

async fn value(
    client: &Client,
    turns: &Semaphore,
    path: &str,
    out: &Out,
    pause: &mut Pause,
) -> Result<Infallible, Error> {
    loop {
        let turn = turns.acquire().await;
        let (answer, watcher) = Box::pin(get(client, path)).await?;
        drop(turn);
        *pause = Pause::default();
        out.publish(answer);
        changed(watcher).await?;
    }
}

fn join(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

async fn hold(
    client: &Client,
    path: &str,
    value: &[u8],
    claim: Claim,
    held: &watch::Sender<bool>,
) -> Result<Infallible, Error> {
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let mut is_first = true;
    loop {
        match client.create(path, value, &options).await {
            Ok(_) | Err(Error::NodeExists) => {}
            // Only when it is missing: the servers write every attempt to their disks, and an entry
            // that is to be made again is missed until they have.
            Err(Error::NoNode) => {
                make_folder(client, path).await?;
                continue;
            }
            Err(error) => return Err(error),
        }
        let (found, stat, watcher) = match client.get_and_watch_data(path).await {
            Err(Error::NoNode) => continue,
            found => found?,
        };
        let ours = stat.ephemeral_owner == client.session_id().0;
        let at_first = std::mem::replace(&mut is_first, false);
        let wanted = match claim {
            _ if ours => found != value,
            // Left by a session that is over, ours before perhaps: it would go away with that. Only
            // at first: who takes it from us later lives, and would take it again.
            Claim::Own => at_first,
            // Its holder leaves it.
            Claim::Shared => stat.version > 0,
        };
        if wanted {
            match replace(client, path, value, &options).await {
                Ok(()) | Err(Error::NoNode | Error::NodeExists | Error::BadVersion) => continue,
                Err(error) => return Err(error),
            }
        }
        held.send_replace(true);
        // Gone, by whatever hand: make it again.
        changed(watcher).await?;
    }
}

/// Makes the folder of a node, and those that this is in.
async fn make_folder(client: &Client, path: &str) -> Result<(), Error> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    match client.mkdir(folder, &options).await {
        Ok(()) | Err(Error::NodeExists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts a node of ours in the place of another, in one step: nobody sees that it is missing.
async fn replace(
    client: &Client,
    path: &str,
    value: &[u8],
    options: &CreateOptions<'_>,
) -> Result<(), Error> {
    let mut both = client.new_multi_writer();
    both.add_delete(path, None)?;
    both.add_create(path, value, options)?;
    both.commit().await?;
    Ok(())
}

async fn keep_connected(
    config: &ZooKeeperConfig,
    servers: &[String],
    owner: &watch::Sender<Option<Arc<Client>>>,
    reporter: &Reporter,
) {
    let mut pause = Pause::default();
    loop {
        match reach::connect(connect(config), servers, reporter).await {
            Ok(client) => {
                pause = Pause::default();
                let mut states = client.state_watcher();
                owner.send_replace(Some(Arc::new(client)));
                reporter.connected();
                let why = loop {
                    match states.changed().await {
                        SessionState::SyncConnected | SessionState::ConnectedReadOnly => {
                            reporter.connected();
                        }
                        SessionState::Disconnected => reporter.lost("disconnected"),
                        SessionState::Expired => break "the session has expired",
                        SessionState::AuthFailed => break "authentication failed",
                        SessionState::Closed => break "the session was closed",
                    }
                };
                reporter.lost(why);
                owner.send_replace(None);
                // Whatever ended the session, the next one is wanted soon; jitter spreads many.
            }
            Err(why) => reporter.lost(&reach::reason(servers, &why).await),
        }
        pause.wait().await;
    }
}

async fn connect(config: &ZooKeeperConfig) -> Result<Client, String> {
    // Eagerly: that no server can be reached is worth knowing at once, and the pauses are ours.
    let mut connector = Client::connector()
        .with_session_timeout(config.session)
        .with_fail_eagerly();
    if let Some(digest) = &config.digest {
        connector = connector.with_auth("digest", digest.as_bytes());
    }
    if let Some((user, password)) = &config.sasl {
        let sasl = SaslOptions::digest_md5(user.clone(), password.clone());
        connector = connector.with_sasl(sasl);
    }
    let connected = match &config.tls {
        None => connector.connect(&config.servers).await,
        Some(tls) => {
            let tls = tls_options(tls).await?;
            connector
                .with_tls(tls)
                .secure_connect(&config.servers)
                .await
        }
    };
    connected.map_err(|error| error.to_string())
}

async fn tls_options(tls: &TlsConfig) -> Result<TlsOptions, String> {
    let pem = Pem::read(tls).await?;
    let mut options = match &pem.authorities {
        Some(authorities) => TlsOptions::new()
            .with_pem_ca(authorities)
            .map_err(|error| error.to_string())?,
        None => TlsOptions::new(),
    };
    if let Some((chain, key)) = &pem.identity {
        options = options
            .with_pem_identity(chain, key)
            .map_err(|error| error.to_string())?;
    }
    Ok(options)
}
