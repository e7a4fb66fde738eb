//! Key sets that prove tokens, from a file or a URL, read again in the background. A worker uses the keys that there are,
//! and waits only while a set is being read.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use finback_core::text::Escaped;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::Background;
use super::dial::{chain, dial};
use crate::authentication::{Keys, Parsed};
use crate::tls::ClientFiles;

/// The longest set of keys, in bytes.
const LONGEST: usize = 1024 * 1024;
/// A set may take so long to come.
const FETCH: Duration = Duration::from_secs(5);
/// How often a file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A set that could not be had is asked for again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// For the sake of tokens that name an unknown key, a set is asked for no more often than this: anybody can write
/// such a token.
const RARELY: Duration = Duration::from_secs(10);
/// A call waits no longer for a set.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a set of keys comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// A URL.
    Url {
        /// Its host.
        host: String,
        /// Its port.
        port: u16,
        /// Path and query.
        path: String,
        /// With TLS: by these files.
        tls: Option<ClientFiles>,
        /// The set is asked for so often.
        refresh: Duration,
    },
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url {
                host,
                port,
                path,
                tls,
                ..
            } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                write!(f, "{scheme}://{host}:{port}{path}")
            }
        }
    }
}

/// What is known of the keys.
#[derive(Clone, Default)]
struct Known {
    keys: Option<Arc<Keys>>,
    /// How often the set was asked for, whatever came of it.
    tries: u64,
    /// How often it was another one.
    version: u64,
}

/// A set of keys.
pub struct KeyRing {
    source: KeySource,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    /// When it was last wanted for the sake of a token, and how often it had been asked for then.
    asked: Mutex<Option<(Instant, u64)>>,
    is_started: Mutex<bool>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyRing").field(&self.source).finish()
    }
}

impl KeyRing {
    /// One that is empty until it is started.
    pub(crate) fn new(source: KeySource) -> Arc<Self> {
        Arc::new(Self {
            source,
            known: watch::Sender::new(Known::default()),
            wanted: Arc::default(),
            asked: Mutex::default(),
            is_started: Mutex::default(),
        })
    }

    pub(crate) fn source(&self) -> &KeySource {
        &self.source
    }

    /// Reads a file of keys, for whoever wants to know whether it is good. Blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match &self.source {
            KeySource::File(path) => read_file(path).map(|_| ()).map_err(anyhow::Error::msg),
            KeySource::Url { tls, .. } => tls.iter().try_for_each(|own| own.config().map(|_| ())),
        }
    }

    /// The keys that there are, and which version they are.
    pub(crate) fn now(&self) -> (Option<Arc<Keys>>, u64) {
        let known = self.known.borrow();
        (known.keys.clone(), known.version)
    }

    /// Has the set asked for once more, because a token names a key that is not there: what to wait for. `None` if that
    /// was done a short while ago, so that it would be no use.
    pub(crate) fn ask(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut told = self.known.subscribe();
        let (has_keys, tries) = {
            let known = told.borrow_and_update();
            (known.keys.is_some(), known.tries)
        };
        let asked = &mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            // It is being asked for.
            Some((_, before)) if *before == tries => {}
            Some((at, _)) if has_keys && at.elapsed() < RARELY => return None,
            _ => {
                *asked = Some((Instant::now(), tries));
                self.wanted.notify_one();
            }
        }
        let until = Instant::now() + PATIENCE;
        Some(async move {
            // Whatever comes of it, there is nothing more to wait for.
            let _ = timeout_at(until, told.wait_for(|own| own.tries > tries)).await;
        })
    }

    fn tell(&self, found: Result<Option<Keys>, String>) {
        self.known.send_modify(|known| {
            known.tries += 1;
            if let Ok(Some(keys)) = found {
                known.keys = Some(Arc::new(keys));
                known.version += 1;
            }
        });
    }
}

impl Background for KeyRing {
    fn start(self: Arc<Self>) {
        let is_started = &mut *self
            .is_started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(is_started, true) {
            tokio::spawn(keep_fresh(Arc::downgrade(&self)));
        }
    }
}

type Version = Option<(std::time::SystemTime, u64)>;

/// Reads the set again and again, as long as somebody has the ring.
async fn keep_fresh(ring: Weak<KeyRing>) {
    let mut before: Version = None;
    let mut wrong = String::new();
    loop {
        let Some(own) = ring.upgrade() else { return };
        let found = match own.source.clone() {
            KeySource::File(path) => {
                let seen = before;
                let read = tokio::task::spawn_blocking(move || read_changed(&path, seen)).await;
                let (version, read) = read.unwrap_or((seen, Ok(None)));
                before = version;
                read
            }
            url @ KeySource::Url { .. } => {
                let fetched = timeout(FETCH, fetch(&url)).await;
                let fetched = fetched.unwrap_or_else(|_| Err(format!("none within {FETCH:?}")));
                fetched.map(Some)
            }
        };
        let pause = match (&own.source, found.is_ok()) {
            (KeySource::File(_), _) => LOOK,
            (KeySource::Url { refresh, .. }, true) => *refresh,
            (KeySource::Url { .. }, false) => AGAIN,
        };
        match &found {
            Ok(Some(_)) => wrong.clear(),
            // The same is not said again and again.
            Err(why) if *why != wrong => {
                let source = &own.source;
                tracing::warn!(%source, why = %Escaped(why), "keys of tokens cannot be read; those before stay");
                wrong.clone_from(why);
            }
            _ => {}
        }
        own.tell(found);
        let wanted = own.wanted.clone();
        drop(own);
        tokio::select! {
            () = wanted.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn read_file(path: &PathBuf) -> Result<Keys, String> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| format!("{name}: {error}"))?;
    Keys::parse(&bytes).map_err(|error| format!("{name} {error:#}"))
}

/// Reads a file if it is another one than before.
fn read_changed(path: &PathBuf, before: Version) -> (Version, Result<Option<Keys>, String>) {
    let version = std::fs::metadata(path)
        .and_then(|own| Ok((own.modified()?, own.len())))
        .ok();
    match version {
        Some(_) if version == before => (version, Ok(None)),
        _ => (version, read_file(path).map(Some)),
    }
}

/// Asks a URL for a set (RFC 7517, section 5).
async fn fetch(source: &KeySource) -> Result<Keys, String> {
    let KeySource::Url {
        host,
        port,
        path,
        tls,
        ..
    } = source
    else {
        return Err("it is not a URL".to_owned());
    };
    let socket = dial((host, *port), tls.as_ref(), b"http/1.1").await?;
    let made = http1::handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = made.map_err(|error| chain(&error))?;
    tokio::spawn(connection);
    let host = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(
            header::USER_AGENT,
            concat!("finback/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| chain(&error))?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    // Not a secret and no PEM: a server may not turn a public key into a shared one.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("it answers no JSON Web Key Set".to_owned());
    }
    Keys::parse(&body).map_err(|error| format!("its set {error:#}"))
}
