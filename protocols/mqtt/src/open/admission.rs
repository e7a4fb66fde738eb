//! Admission: whether a session may begin at all, its route, and what that makes of it.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use finback_core::driver::{Caller, DrivenExchange};
use finback_core::filter::{MessageFlow, READINGS};
use finback_core::frame::Metadata;
use finback_core::mesh::Routed;
use finback_core::rejection::Rejection;

use crate::codec::{Connect, Level};
use crate::filtered::Filters;
use crate::gate::PropertyPlace;
use crate::policy::{Applied, Facts, Policy};
use crate::reason::Reason;
use crate::{CLIENT_ID, Mqtt, NAME, sticky};

use super::{Refused, here, reject};

/// The service of every session.
const SERVICE: &str = "(mqtt)";
/// The longest client identifier in bytes.
const MAX_CLIENT_ID: usize = 256;

/// A CONNECT that has a route.
pub(super) struct Admitted<'a> {
    pub(super) connect: Connect<'a>,
    pub(super) exchange: DrivenExchange,
    /// Whether its route leads anywhere.
    pub(super) routed: Result<Routed, Rejection>,
    pub(super) policy: Option<Arc<Policy>>,
    pub(super) applied: Option<Applied>,
    /// What filters say of what is done in it.
    pub(super) filters: Filters,
    /// The client's identifier as its broker sees it.
    pub(super) seen_as: String,
    /// What its broker is chosen by, where that is by who it is.
    pub(super) key: String,
    /// The same, if it was drawn by lot: the broker chooses the identifier.
    pub(super) drawn: Option<u64>,
    /// Held until there is a broker to wait for.
    pub(super) place: Option<PropertyPlace>,
}

impl Admitted<'_> {
    /// By how much topics become longer on their way to the broker; `None` if nobody looks at them.
    pub(super) fn growth_of_topics(&self) -> Option<usize> {
        let applied = self.applied.as_ref().filter(|own| own.is_about_topics());
        let growth = applied.map(|own| own.names.growth());
        let is_looked_at = || self.filters.are_any() || self.exchange.message_shadow().is_some();
        growth.or_else(|| is_looked_at().then_some(0))
    }
}

/// Finds the route of a CONNECT of so many bytes.
pub(super) fn admit<'a>(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    bytes: usize,
    connect: Connect<'a>,
) -> Result<Admitted<'a>, Refused> {
    let worker = caller.worker();
    worker.read_clock();
    if connect.client_id.len() > MAX_CLIENT_ID {
        let why = "the client identifier is too long";
        return Err(here(Reason::BAD_CLIENT_ID, why));
    }
    if !mqtt.gate.admits(caller.peer().ip(), worker.now()) {
        let why = "too many sessions begin";
        return Err(here(Reason::CONNECTION_RATE, why));
    }
    let Some(place) = PropertyPlace::take(worker, mqtt.config.connecting) else {
        let why = "too many sessions begin at a time";
        return Err(here(Reason::SERVER_BUSY, why));
    };
    // A client identifier that the broker assigns is not known yet when a broker is chosen.
    let drawn = connect.client_id.is_empty().then(|| worker.random());
    let key = match drawn {
        Some(drawn) => sticky::text(drawn),
        None => {
            let known = mqtt.sticky.key(&connect.client_id);
            known.unwrap_or_else(|| connect.client_id.to_string())
        }
    };
    let metadata = metadata(connect.level);
    let mut attributes = |name: &str| attribute(&connect, &key, name);
    let (mut exchange, routed) = caller.open(NAME, &metadata, bytes, &mut attributes);
    if routed == Err(Rejection::NoRoute) {
        return Err(reject(&mut exchange, Rejection::NoRoute));
    }
    let policy = match exchange.treatment::<Policy>() {
        Ok(policy) => policy,
        Err(rejection) => return Err(reject(&mut exchange, rejection)),
    };
    // Where there is no broker, it is applied to whoever has been authenticated.
    let applied = policy
        .as_ref()
        .filter(|own| own.produce.is_none())
        .map(|policy| Applied::new(policy, &facts(caller, &connect)))
        .transpose()
        .map_err(|_| reject(&mut exchange, Rejection::Denied))?;
    Ok(Admitted {
        filters: Filters::default(),
        seen_as: connect.client_id.to_string(),
        connect,
        exchange,
        routed,
        policy,
        applied,
        key,
        drawn,
        place: Some(place),
    })
}

/// Has filters decide about a session, and about the message that it leaves behind.
pub(super) async fn pass_filters(admitted: &mut Admitted<'_>) -> Result<(), Refused> {
    let (connect, key) = (&admitted.connect, &admitted.key);
    let mut attributes = |name: &str| attribute(connect, key, name);
    let exchange = &mut admitted.exchange;
    if admitted.routed == Ok(Routed::Waits) {
        admitted.routed = exchange.admitted(&mut attributes).await;
    }
    if let Err(rejection) = admitted.routed {
        return Err(reject(exchange, rejection));
    }
    admitted.filters = Filters::of(exchange, connect, key);
    let will = connect.will.as_ref();
    let flow = will.map(|will| admitted.filters.publish(&will.topic, will.payload.len()));
    match flow {
        Some(MessageFlow::Refuse(refusal)) => Err(reject(exchange, refusal.why)),
        _ => Ok(()),
    }
}

/// What a session is as a call.
pub(crate) fn metadata(level: Level) -> Metadata<'static> {
    Metadata {
        service: Cow::Borrowed(SERVICE),
        method: Cow::Borrowed("connect"),
        version: Cow::Borrowed(level.name()),
        own: true,
        proves: true,
        treats: true,
        lingers: true,
        ..Metadata::default()
    }
}

/// What a session is known by.
pub(super) fn facts<'a>(caller: &'a Caller, connect: &'a Connect<'_>) -> Facts<'a> {
    Facts {
        client_id: &connect.client_id,
        username: connect.username.as_deref().unwrap_or_default(),
        identity: caller.identity().unwrap_or_default(),
        claims: None,
        common_name: caller
            .certified()
            .and_then(|own| own.common_name())
            .unwrap_or_default(),
    }
}

/// What routes may ask about a session. Names that begin with a colon are no user property's.
pub(crate) fn attribute(connect: &Connect<'_>, key: &str, name: &str) -> Option<String> {
    if let Some(name) = name.strip_prefix(READINGS) {
        return readings(connect.properties().users(), name);
    }
    match name {
        CLIENT_ID => Some(key.to_owned()),
        ":username" => connect.username.as_deref().map(str::to_owned),
        ":will-topic" => connect.will.as_ref().map(|will| will.topic.to_string()),
        ":clean" => Some(connect.clean.to_string()),
        ":keep-alive" => Some(connect.keep_alive.to_string()),
        _ if name.starts_with(':') => None,
        _ => connect.properties().user(name).map(str::to_owned),
    }
}

/// Every value of a user property that stands there several times (MQTT 5, section 3.1.2.11.8), each in a line.
pub(crate) fn readings<'a>(
    users: impl Iterator<Item = (&'a str, &'a str)>,
    name: &str,
) -> Option<String> {
    let values = users.filter_map(|(own, value)| (own == name).then_some(value));
    let values: Vec<&str> = values.collect();
    (values.len() > 1).then(|| values.join("\n"))
}
