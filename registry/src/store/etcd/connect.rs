//! Connecting: one server at a time, the next one when it fails.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, GetOptions, Identity, TlsOptions};
use tokio::sync::{Semaphore, mpsc, watch};

use super::lease::{Lease, Term, Wishes, keep_lease};
use super::stream::serve;
use super::{Connection, EtcdConfig, PATIENCE, TURNS, within};
use crate::store::pause::{self, Pause};
use crate::store::{Pem, Reporter, TlsConfig, reach};

/// How often a server is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// A refusal is asked about once more after this: the servers may be choosing a leader.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// A connection that lasted so long works: when it ends, the next try is a first one.
const STEADY: Duration = Duration::from_secs(2);

pub(super) async fn keep_connected(
    config: &EtcdConfig,
    servers: &[String],
    owner: &watch::Sender<Option<Arc<Connection>>>,
    reporter: &Reporter,
) {
    let mut pause = Pause::default();
    // What we hold survives a change of connection if its lease does.
    let mut term = Term::None;
    // Many proxies shall not all be with the first server.
    let mut next = pause::below(config.servers.len());
    loop {
        match reach::connect(connect(config, next), servers, reporter).await {
            Ok((client, server)) => {
                let since = tokio::time::Instant::now();
                let (commands, orders) = mpsc::unbounded_channel();
                let (term_owner, term_now) = watch::channel(term);
                let wishes = Arc::<Wishes>::default();
                let connection = Connection {
                    client: client.clone(),
                    commands,
                    turns: Semaphore::new(TURNS),
                    next_watch: AtomicI64::new(1),
                    lease: Lease {
                        term: term_now,
                        wishes: wishes.clone(),
                    },
                    wards: Mutex::default(),
                };
                owner.send_replace(Some(Arc::new(connection)));
                reporter.connected();
                let why = tokio::select! {
                    why = serve(&client, orders) => why,
                    why = probe(&client) => why,
                    why = keep_lease(&client, &wishes, &term_owner) => why,
                };
                term = term_owner.borrow().former();
                // Withdrawn first: whoever notices that it has ended waits for the next one.
                owner.send_replace(None);
                reporter.lost(&why.to_string());
                next = server + 1;
                if since.elapsed() >= STEADY {
                    pause = Pause::default();
                }
            }
            Err(why) => reporter.lost(&reach::reason(servers, &why).await),
        }
        pause.wait().await;
    }
}

/// Connects to the first server that answers, beginning with this one. Requests and watches go to
/// that one alone: one that is frozen or cut off from the others then costs the time until that
/// is noticed, not a share of everything.
async fn connect(config: &EtcdConfig, first: usize) -> Result<(Client, usize), String> {
    // A server without a leader answers from what it knew: it must not be taken at its word.
    let mut options = ConnectOptions::new()
        .with_connect_timeout(PATIENCE)
        .with_keep_alive(PROBE, PATIENCE)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &config.user {
        options = options.with_user(user, password);
    }
    if let Some(tls) = &config.tls {
        options = options.with_tls(tls_options(tls).await?);
    }
    let mut why = "no servers are configured".to_owned();
    for step in 0..config.servers.len() {
        let number = (first + step) % config.servers.len();
        let server = &config.servers[number];
        let connecting = async {
            let client = Client::connect([server], Some(options.clone())).await?;
            ask(&client).await?;
            Ok(client)
        };
        match within(connecting).await {
            Ok(client) => return Ok((client, number)),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
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
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == 7)
}

/// Ends when the server no longer answers.
async fn probe(client: &Client) -> Error {
    loop {
        tokio::time::sleep(PROBE).await;
        match within(ask(client)).await {
            Ok(()) => {}
            Err(error @ Error::GRpcStatus(_)) => {
                tracing::debug!(%error, "the server refuses; asking once more");
                tokio::time::sleep(SECOND_LOOK).await;
                if let Err(error) = within(ask(client)).await {
                    return error;
                }
            }
            Err(error) => return error,
        }
    }
}
