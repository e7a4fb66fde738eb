//! Connections to name servers and brokers by address, made when they are needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finback_rocketmq::{Answered, Ask, Signer};
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Unanswered};
use super::signature::{Credentials, Key};
use super::way::Way;

/// How long one server may take: as in RocketMQ's own clients.
const PATIENCE: Duration = Duration::from_secs(3);

/// One that could not be connected to is left alone for so long: those who wait would all try at once.
const REST: Duration = Duration::from_millis(200);

/// The connection to one server, or why there is none.
#[derive(Default)]
enum Link {
    #[default]
    None,
    There(Arc<Connection>),
    Failed(String, Instant),
}

type Slot = Arc<tokio::sync::Mutex<Link>>;

/// Connections by address.
pub(crate) struct Servers {
    links: Mutex<HashMap<Box<str>, Slot>>,
    way: Way,
    /// Who is asked for signatures, where servers want them.
    key: Option<Key>,
}

impl Servers {
    /// Servers that requests are signed for, if there is a key.
    pub(crate) fn new(credentials: Option<&Credentials>, way: Way) -> Self {
        Self {
            links: Mutex::default(),
            way,
            key: credentials.map(Key::of),
        }
    }

    fn signer(&self) -> Option<&dyn Signer> {
        self.key.as_ref().map(|own| -> &dyn Signer { own })
    }

    /// Asks a server; connects to it first where that is needed.
    pub(crate) async fn ask(&self, address: &str, ask: &Ask<'_>) -> Result<Answered, Unanswered> {
        self.ask_within(address, ask, PATIENCE).await
    }

    /// The same for what may take so long.
    pub(crate) async fn ask_within(
        &self,
        address: &str,
        ask: &Ask<'_>,
        patience: Duration,
    ) -> Result<Answered, Unanswered> {
        let lost = |why: String| Unanswered::Lost(format!("{address}: {why}"));
        let slot = self.slot(address);
        let asking = async {
            let connection = connect(address, &slot, &self.way).await;
            let connection = connection.map_err(lost)?;
            match connection.ask(ask, self.signer()).await {
                Err(Unanswered::Lost(why)) => Err(lost(why)),
                other => other,
            }
        };
        match timeout(patience, asking).await {
            Ok(answer) => answer,
            Err(_) => {
                // It may be dead without our having been told: the next one begins anew.
                if let Ok(mut slot) = slot.try_lock() {
                    *slot = Link::None;
                }
                Err(lost(format!("no answer within {} s", patience.as_secs())))
            }
        }
    }

    fn slot(&self, address: &str) -> Slot {
        let mut all = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = all.get(address) {
            return slot.clone();
        }
        // Brokers that are gone leave theirs behind.
        all.retain(|_, slot| match slot.try_lock() {
            Ok(link) => matches!(&*link, Link::There(own) if own.is_open()),
            Err(_) => true,
        });
        let slot = Slot::default();
        all.insert(address.into(), slot.clone());
        slot
    }
}

/// The connection in its slot, or a new one; those who come meanwhile wait for it.
async fn connect(address: &str, slot: &Slot, way: &Way) -> Result<Arc<Connection>, String> {
    let mut link = slot.lock().await;
    match &*link {
        Link::There(known) if known.is_open() => return Ok(known.clone()),
        Link::Failed(why, when) if when.elapsed() < REST => return Err(why.clone()),
        _ => {}
    }
    match Connection::open(address, way).await {
        Ok(fresh) => {
            *link = Link::There(fresh.clone());
            Ok(fresh)
        }
        Err(error) => {
            *link = Link::Failed(error.to_string(), Instant::now());
            Err(error.to_string())
        }
    }
}
