//! etcd as a store: paths are key prefixes, and one stream carries every watch.

mod gathered;
mod holding;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, EventType, GetOptions, Identity, TlsOptions,
    WatchOptions, WatchResponse, WatchStream,
};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};

use self::gathered::{Change, Gathered, What};
use self::holding::Ward;
use super::pause::Pause;
use super::{Answer, Entries, Out, Pem, Query, Reporter, TlsConfig, bounded, forbidden};

/// Keys asked for at once.
const PAGE: i64 = 1000;
/// The longest message that is taken.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Requests at the same time: after a loss of connection, everything is listed anew.
const TURNS: usize = 64;
/// How long the servers may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often they are asked whether they are there.
const PROBE: Duration = Duration::from_secs(5);
/// What we hold goes away so long after we did, in seconds.
const LEASE: i64 = 15;

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
}

/// Shared by all followers: a client is large.
struct Connection {
    client: Client,
    commands: mpsc::UnboundedSender<Command>,
    turns: Semaphore,
    next_watch: AtomicI64,
    /// The lease that what we hold is bound to, once there is one.
    lease: watch::Receiver<Option<i64>>,
    lease_wanted: Arc<tokio::sync::Notify>,
    /// Leases of others that somebody waits for.
    wards: Mutex<HashMap<i64, Weak<Ward>>>,
}

enum Command {
    Watch {
        number: i64,
        key: String,
        prefix: bool,
        revision: i64,
        /// One that closes means that changes may have been missed.
        changes: mpsc::UnboundedSender<Vec<Change>>,
    },
    Cancel(i64),
}

/// Ends a watch when dropped.
struct Watching {
    number: i64,
    commands: mpsc::UnboundedSender<Command>,
    changes: mpsc::UnboundedReceiver<Vec<Change>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // If the connection has ended, so has the watch.
        let _ = self.commands.send(Command::Cancel(self.number));
    }
}

impl Etcd {
    pub(super) fn start(handle: &Handle, config: &EtcdConfig, reporter: Reporter) -> Self {
        let (owner, connection) = watch::channel(None);
        let config = config.clone();
        handle.spawn(async move {
            tokio::select! {
                () = keep_connected(&config, &owner, &reporter) => {}
                () = owner.closed() => {}
            }
        });
        Self { connection }
    }

    /// The connection now; waits for one. `None` when the store has ended.
    async fn connection(&mut self) -> Option<Arc<Connection>> {
        self.connection
            .wait_for(Option::is_some)
            .await
            .ok()?
            .clone()
    }

    pub(super) async fn follow(mut self, query: Query, out: Out) {
        let mut pause = Pause::default();
        while let Some(connection) = self.connection().await {
            match Box::pin(connection.follow(&query, &out)).await {
                // A gap: list again.
                Ok(()) => pause = Pause::default(),
                Err(error) => {
                    if is_denied(&error) {
                        forbidden(&query);
                        out.publish(Answer::Missing);
                    }
                    tracing::debug!(?query, %error, "cannot follow; trying again");
                }
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
    async fn follow(&self, query: &Query, out: &Out) -> Result<(), Error> {
        match query {
            Query::Names(path) => {
                let names = Gathered::Names(Entries::new());
                self.follow_prefix(path, names, out).await
            }
            Query::Folders(path) => {
                let folders = Gathered::Folders(BTreeMap::new());
                self.follow_prefix(path, folders, out).await
            }
            Query::Entries(path) => {
                let entries = Gathered::Entries(Entries::new());
                self.follow_prefix(path, entries, out).await
            }
            Query::Value(key) => self.follow_value(key, out).await,
        }
    }

    async fn follow_prefix(
        &self,
        path: &str,
        mut gathered: Gathered,
        out: &Out,
    ) -> Result<(), Error> {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        // Boxed, and only in its turn: a request is short and large, a follower should be small.
        let turn = self.turns.acquire().await;
        let revision = Box::pin(self.list(&prefix, &mut gathered)).await?;
        drop(turn);
        out.publish(gathered.answer());
        let mut watching = self.watch(&prefix, true, revision + 1);
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

    async fn follow_value(&self, key: &str, out: &Out) -> Result<(), Error> {
        let turn = self.turns.acquire().await;
        let response = Box::pin(within(self.kv().get(key, None))).await?;
        drop(turn);
        let answer = |value: Option<Vec<u8>>| {
            value.map_or(Answer::Missing, |value| Answer::Value(bounded(key, value)))
        };
        out.publish(answer(
            response.kvs().first().map(|entry| entry.value().to_vec()),
        ));
        let revision = response.header().map_or(0, |header| header.revision());
        let mut watching = self.watch(key, false, revision + 1);
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
    async fn list(&self, prefix: &str, gathered: &mut Gathered) -> Result<i64, Error> {
        let mut kv = self.kv();
        let mut revision = 0;
        let end = after(prefix);
        let mut from = prefix.as_bytes().to_vec();
        loop {
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(PAGE)
                .with_revision(revision);
            if !gathered.wants_values() {
                options = options.with_keys_only();
            }
            let page = within(kv.get(from, Some(options))).await?;
            revision = page.header().map_or(revision, |header| {
                if revision == 0 {
                    header.revision()
                } else {
                    revision
                }
            });
            for entry in page.kvs() {
                let Ok(key) = entry.key_str() else { continue };
                if let Some(name) = key.strip_prefix(prefix) {
                    gathered.add(name, entry.value().to_vec());
                }
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else {
                return Ok(revision);
            };
            from = last.key().to_vec();
            from.push(0);
        }
    }

    fn watch(&self, key: &str, prefix: bool, revision: i64) -> Watching {
        let number = self.next_watch.fetch_add(1, Ordering::Relaxed);
        let (sender, changes) = mpsc::unbounded_channel();
        // A connection that has ended drops the sender, which tells the follower.
        let _ = self.commands.send(Command::Watch {
            number,
            key: key.to_owned(),
            prefix,
            revision,
            changes: sender,
        });
        Watching {
            number,
            commands: self.commands.clone(),
            changes,
        }
    }
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

async fn keep_connected(
    config: &EtcdConfig,
    owner: &watch::Sender<Option<Arc<Connection>>>,
    reporter: &Reporter,
) {
    let mut pause = Pause::default();
    // What we hold survives a change of connection if its lease does.
    let mut former = None;
    loop {
        match connect(config).await {
            Ok(client) => {
                pause = Pause::default();
                let (commands, orders) = mpsc::unbounded_channel();
                let (lease_owner, lease) = watch::channel(None);
                let lease_wanted = Arc::new(tokio::sync::Notify::new());
                let connection = Connection {
                    client: client.clone(),
                    commands,
                    turns: Semaphore::new(TURNS),
                    next_watch: AtomicI64::new(1),
                    lease,
                    lease_wanted: lease_wanted.clone(),
                    wards: Mutex::default(),
                };
                owner.send_replace(Some(Arc::new(connection)));
                reporter.connected();
                let why = tokio::select! {
                    why = serve(&client, orders) => why,
                    why = probe(client.clone()) => why,
                    why = keep_lease(client.clone(), former, &lease_wanted, &lease_owner) => why,
                };
                former = lease_owner.borrow().or(former);
                // Withdrawn first: whoever notices that it has ended waits for the next one.
                owner.send_replace(None);
                reporter.lost(&why.to_string());
            }
            Err(why) => reporter.lost(&why),
        }
        pause.wait().await;
    }
}

async fn connect(config: &EtcdConfig) -> Result<Client, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(PATIENCE)
        .with_keep_alive(PROBE, PATIENCE)
        .with_keep_alive_while_idle(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &config.user {
        options = options.with_user(user, password);
    }
    if let Some(tls) = &config.tls {
        options = options.with_tls(tls_options(tls).await?);
    }
    let connecting = async {
        let client = Client::connect(&config.servers, Some(options)).await?;
        ask(&client).await?;
        Ok(client)
    };
    within(connecting).await.map_err(|error| error.to_string())
}

async fn tls_options(tls: &TlsConfig) -> Result<TlsOptions, String> {
    let pem = Pem::read(tls).await?;
    let mut options = TlsOptions::new();
    options = match pem.authorities {
        Some(authorities) => options.ca_certificate(Certificate::from_pem(authorities)),
        None => options.with_enabled_roots(),
    };
    if let Some((chain, key)) = pem.identity {
        options = options.identity(Identity::from_pem(chain, key));
    }
    Ok(options)
}

/// Asks for something cheap.
async fn ask(client: &Client) -> Result<(), Error> {
    let options = GetOptions::new().with_keys_only().with_serializable();
    match client.kv_client().get("finback", Some(options)).await {
        Ok(_) => Ok(()),
        // An answer all the same: the user may not read that key.
        Err(error) if is_denied(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// gRPC's PERMISSION_DENIED is 7.
fn is_denied(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == 7)
}

/// Ends when the servers no longer answer.
async fn probe(client: Client) -> Error {
    loop {
        tokio::time::sleep(PROBE).await;
        if let Err(error) = within(ask(&client)).await {
            return error;
        }
    }
}

/// Carries all watches over one stream; ends with it.
async fn serve(client: &Client, mut orders: mpsc::UnboundedReceiver<Command>) -> Error {
    let mut stream: Option<WatchStream> = None;
    let mut watches: HashMap<i64, mpsc::UnboundedSender<Vec<Change>>> = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let done = match order {
                    // We keep a sender ourselves as long as the connection is offered.
                    None => return Error::Internal("nobody uses it".to_owned()),
                    Some(Command::Watch { number, key, prefix, revision, changes }) => {
                        watches.insert(number, changes);
                        let mut options = WatchOptions::new()
                            .with_start_revision(revision)
                            .with_watch_id(number);
                        if prefix {
                            options = options.with_prefix();
                        }
                        begin(client, &mut stream, key, options).await
                    }
                    Some(Command::Cancel(number)) => match (watches.remove(&number), &mut stream) {
                        (Some(_), Some(stream)) => stream.cancel(number).await,
                        _ => Ok(()),
                    },
                };
                if let Err(error) = done {
                    return error;
                }
            }
            message = next(&mut stream) => match message {
                Ok(Some(response)) => {
                    if let Err(error) = hand_out(&response, &mut watches) {
                        return error;
                    }
                }
                Ok(None) => return Error::WatchError("the stream has ended".to_owned()),
                Err(error) => return error,
            },
        }
    }
}

async fn begin(
    client: &Client,
    stream: &mut Option<WatchStream>,
    key: String,
    options: WatchOptions,
) -> Result<(), Error> {
    match stream {
        Some(stream) => stream.watch(key, Some(options)).await,
        None => {
            let mut watches = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
            *stream = Some(within(watches.watch(key, Some(options))).await?);
            Ok(())
        }
    }
}

async fn next(stream: &mut Option<WatchStream>) -> Result<Option<WatchResponse>, Error> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}

fn hand_out(
    response: &WatchResponse,
    watches: &mut HashMap<i64, mpsc::UnboundedSender<Vec<Change>>>,
) -> Result<(), Error> {
    let number = response.watch_id();
    if response.canceled() {
        let ended = watches.remove(&number);
        let why = response.cancel_reason();
        if ended.is_some() {
            // Compacted, or refused: dropping the sender has the follower list again.
            let compacted = response.compact_revision();
            tracing::info!(why, compacted, "watch ended by the servers; listing again");
        }
        if why.contains("auth") {
            // The stream's token is no longer good; a new connection gets another.
            return Err(Error::WatchError(why.to_owned()));
        }
        return Ok(());
    }
    let changes: Vec<Change> = response
        .events()
        .iter()
        .filter_map(|event| {
            let entry = event.kv()?;
            let key = entry.key_str().ok()?.to_owned();
            let what = match event.event_type() {
                EventType::Put if entry.create_revision() == entry.mod_revision() => {
                    What::Made(entry.value().to_vec())
                }
                EventType::Put => What::Written(entry.value().to_vec()),
                EventType::Delete => What::Removed,
            };
            Some(Change { key, what })
        })
        .collect();
    if let Some(watch) = watches.get(&number)
        && !changes.is_empty()
    {
        // One that has just been dropped is cancelled by its own command.
        let _ = watch.send(changes);
    }
    Ok(())
}

/// Keeps a lease from when one is wanted, the former one if it still lives; a lost one is
/// replaced. Ends if the servers fail.
async fn keep_lease(
    client: Client,
    mut former: Option<i64>,
    wanted: &tokio::sync::Notify,
    owner: &watch::Sender<Option<i64>>,
) -> Error {
    if former.is_none() {
        wanted.notified().await;
    }
    let mut leases = client.lease_client();
    loop {
        let granted = match former.take() {
            Some(former) => former,
            None => match within(leases.grant(LEASE, None)).await {
                Ok(granted) => granted.id(),
                Err(error) => return error,
            },
        };
        let (mut keeper, mut answers) = match within(leases.keep_alive(granted)).await {
            Ok(pair) => pair,
            Err(error) => return error,
        };
        loop {
            if let Err(error) = keeper.keep_alive().await {
                return error;
            }
            match within(answers.message()).await {
                Ok(Some(answer)) if answer.ttl() > 0 => {
                    owner.send_if_modified(|lease| lease.replace(granted) != Some(granted));
                }
                Ok(Some(_)) => break,
                Ok(None) => return Error::LeaseKeepAliveError("the stream has ended".to_owned()),
                Err(error) => return error,
            }
            tokio::time::sleep(Duration::from_secs(LEASE as u64 / 3)).await;
        }
        tracing::warn!("the lease was lost; registering again");
        owner.send_replace(None);
    }
}
