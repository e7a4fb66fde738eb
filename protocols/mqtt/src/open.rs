//! From CONNECT to CONNACK, in four phases: admission (who is it, and which route), the CONNECT as the
//! broker shall see it, the choice of a broker that accepts the session, and CONNACK as the client
//! shall see it.

mod admission;
mod amendment;
mod broker;
mod connack;
mod introduction;
mod refusal;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::{Caller, MessageShadow, SessionPlace};
use finback_core::mesh::{Lease, Routed};
use finback_core::rejection::Rejection;
use finback_core::trace::Choice;

use crate::Mqtt;
use crate::channel::Channel;
use crate::codec::{Connect, FixedHeader, Level, Opening};
use crate::filtered::Filters;
use crate::policy::{Applied, Duplicates};
use crate::reason::Reason;
use crate::takeover::Seat;
use crate::terminal::{self, Terminal};

pub(crate) use admission::{attribute, metadata, readings};
pub(crate) use introduction::check_auth;
pub(crate) use refusal::{Refused, answer_of, count, here, outcome, reject, shortened, too_long};

/// Topic aliases of one session that are remembered.
pub(crate) const MAX_ALIASES: u16 = 32;

/// What a session begins with, once its broker has accepted it.
pub(crate) struct Opened {
    pub(crate) level: Level,
    pub(crate) endpoint: Channel,
    /// Its place on the list for operators.
    pub(crate) listed: SessionPlace,
    pub(crate) lease: Lease,
    pub(crate) applied: Option<Applied>,
    pub(crate) filters: Filters,
    /// Where copies of its messages go.
    pub(crate) shadow: Option<MessageShadow>,
    pub(crate) seat: Option<Seat>,
    /// The broker's CONNACK as the client shall see it.
    pub(crate) connack: Vec<u8>,
    /// Silence of the client after which it is gone.
    pub(crate) patience: Option<Duration>,
    /// The longest packet that may be sent to the client, and to the broker.
    pub(crate) client_takes: usize,
    pub(crate) endpoint_takes: usize,
    /// Bounds of the listener.
    pub(crate) bounds: Bounds,
    /// Its broker kept the session that its client had before.
    pub(crate) is_kept: bool,
    /// How the client authenticates itself in AUTH packets, if it does.
    pub(crate) method: Option<Box<str>>,
    /// What a mirror tells of the client; empty where there is none.
    pub(crate) client_id: String,
    pub(crate) username: String,
    /// Which of its messages are traced, where its route says so.
    pub(crate) tracing: Option<Choice>,
}

/// What a listener allows one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The longest packet of the client.
    pub(crate) packet: usize,
    /// Topic filters that it may be subscribed to at a time.
    pub(crate) subscriptions: usize,
    /// How long its broker may be silent while it owes an answer.
    pub(crate) answer: Duration,
}

/// A session that may begin.
pub(crate) enum Begun {
    /// With a broker.
    Proxied(Box<Opened>),
    /// That ends here.
    Here(Box<Terminal>),
}

/// Opens the session that `packet`, a CONNECT, asks for. One that ends here takes the client's
/// channel with it.
pub(crate) async fn open(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Option<Channel>,
    packet: Bytes,
) -> Option<Begun> {
    let header = FixedHeader::read(&packet, Level::V5, usize::MAX)
        .ok()??
        .header;
    let (level, takes, refused) = match Opening::read(&packet[header..]) {
        Ok(Opening::Connect(connect)) => {
            let (level, takes) = (connect.level, client_takes(&connect));
            match begin(mqtt, caller, client, &packet, connect).await {
                Ok(begun) => return Some(begun),
                Err(refused) => (Some(level), takes, refused),
            }
        }
        Ok(Opening::Unsupported { level }) => {
            // MQTT 5, section 3.1.2.2. A version that is older than its answers would not understand them.
            let answered = if level > 5 { Level::V5 } else { Level::V311 };
            let why = "only MQTT 3.1, 3.1.1 and 5 are spoken here";
            let refused = here(Reason::UNSUPPORTED_LEVEL, why);
            (Some(answered), usize::MAX, refused)
        }
        // MQTT 3.1.1, section 3.1.4: a CONNECT that makes no sense is not answered.
        Err((level, fault)) => {
            let answered = level.filter(|level| level.is_5());
            (answered, usize::MAX, fault.into())
        }
    };
    refusal::answer(caller, client.as_mut()?, (level, takes), refused).await;
    None
}

/// Carries a CONNECT that can be understood through the phases.
async fn begin(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Option<Channel>,
    packet: &Bytes,
    connect: Connect<'_>,
) -> Result<Begun, Refused> {
    let mut admitted = admission::admit(mqtt, caller, packet.len(), connect)?;
    if let Err(rejection) = admitted.routed {
        return Err(reject(&mut admitted.exchange, rejection));
    }
    if let Some(policy) = admitted.policy.clone()
        && let Some(produce) = &policy.produce
    {
        let (client, exchange) = ((caller, client), &mut admitted.exchange);
        let connect = &admitted.connect;
        let key = &admitted.key;
        return terminal::connect::begin(mqtt, client, connect, (&policy, produce), exchange, key)
            .await;
    }
    admission::pass_filters(&mut admitted).await?;
    if admitted.routed != Ok(Routed::Onward) {
        return Err(reject(&mut admitted.exchange, Rejection::Denied));
    }
    let client = client.as_mut().ok_or(Refused::Gone)?;
    let said = amendment::said(caller, client, packet, &mut admitted)?;
    let granted = broker::reach(mqtt, caller, client, &mut admitted, &said).await?;
    connack::opened(mqtt, caller, admitted, granted).map(|opened| Begun::Proxied(Box::new(opened)))
}

/// What second sessions mean on a route, where something is done about them here.
fn duplicates(applied: Option<&Applied>) -> Duplicates {
    applied
        .map(|own| own.policy().duplicates)
        .unwrap_or_default()
}

/// The longest packet that a client takes (MQTT 5, section 3.1.2.11.4).
fn client_takes(connect: &Connect<'_>) -> usize {
    connack::most_taken(connect.properties())
}

/// One and a half times the agreed interval (MQTT 5, section 3.1.2.10), and some more so that the broker,
/// who counts too, is first to find a client gone.
pub(crate) fn patience(keep_alive: u32) -> Option<Duration> {
    const SLACK: Duration = Duration::from_secs(5);
    (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500) + SLACK)
}
