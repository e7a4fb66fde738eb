//! CONNECT of a session that ends here: authenticated first, then everything else (MQTT 5, section 3.1.4).

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use finback_core::clock::Now;
use finback_core::driver::{Caller, DrivenExchange};
use finback_core::filter::MessageFlow;
use finback_core::rejection::Rejection;
use finback_core::trace::Choice;

use crate::Mqtt;
use crate::authentication::{Authentication, Login, NotAuthenticated, User};
use crate::channel::Channel;
use crate::codec::properties::{Writer, id};
use crate::codec::{Connect, write};
use crate::filtered::Filters;
use crate::gate::Flow;
use crate::open::{
    Begun, MAX_ALIASES, Refused, answer_of, attribute, count, here, patience, reject,
};
use crate::policy::{Applied, Duplicates, Facts, Policy, Produce};
use crate::propagation::Tracing;
use crate::reason::Reason;
use crate::takeover::{Key, Seat};
use crate::tally::Tally;

use super::packet::{FOR_EVER, expiry};
use super::pending::Pending;
use super::state::Owner;
use super::will::Will;
use super::{AGAIN, Terminal, WINDOW};

/// Of a packet, at most so much is not payload and goes along all the same: names of headers, the
/// topic's name and the way there.
const AROUND: usize = 2 * 1024;

/// Begins the session that a CONNECT asks for, on a route that writes messages elsewhere than to a
/// broker. It takes the client's channel with it.
pub(crate) async fn begin(
    mqtt: &Mqtt,
    (caller, client): (&Rc<Caller>, &mut Option<Channel>),
    connect: &Connect<'_>,
    (policy, produce): (&Arc<Policy>, &Produce),
    exchange: &mut DrivenExchange,
    key: &str,
) -> Result<Begun, Refused> {
    let user = match admit(caller, connect, produce).await {
        Ok(user) => user,
        Err(refused) => {
            exchange.rejected(Rejection::Denied);
            return Err(refused);
        }
    };
    let mut own = known_as(caller, connect, user.as_ref());
    let certified = caller.identity().unwrap_or_default();
    let identity = match &user {
        Some(user) => user.name.clone(),
        None => certified.to_owned(),
    };
    let said = (own.client_id.to_string(), own.username.clone());
    let facts = Facts {
        client_id: &said.0,
        username: said.1.as_deref().unwrap_or_default(),
        identity: certified,
        common_name: caller
            .certified()
            .and_then(|own| own.common_name())
            .unwrap_or_default(),
        claims: user.as_ref().map(|user| &user.claims),
    };
    let filters = judged(exchange, &own, user.is_some(), key).await?;
    let Ok(applied) = Applied::new(policy, &facts) else {
        return Err(reject(exchange, Rejection::Denied));
    };
    let will = own.will.as_ref();
    let forbidden = will.is_some_and(|will| !applied.may_publish(&will.topic));
    if forbidden || applied.amend(&mut own, &facts).is_err() {
        return Err(reject(exchange, Rejection::Denied));
    }
    let owner = owner(produce, &identity, &own);
    let seat = take_seat(mqtt, policy, exchange, &owner)?;
    let channel = client.take().ok_or(Refused::Gone)?;
    count(caller, Reason::SUCCESS);
    exchange.answered(answer_of(Reason::SUCCESS), 0);
    let held = mqtt
        .states
        .take_up(owner, connect.clean, caller.worker().now());
    let left = user.as_ref().and_then(|user| user.left);
    let beginning = Beginning {
        until: left.map(|left| caller.worker().now().after(left)),
        produce,
        applied,
        filters,
        seat,
        held,
        identity,
        tracing: exchange.tracing(),
        given: connect.client_id.is_empty(),
        limit: mqtt.config.packet,
    };
    let terminal = Terminal::accept(caller, channel, &own, beginning);
    Ok(Begun::Here(Box::new(terminal)))
}

/// What filters say, now that it is known who it is: a name that nobody has proved is none.
async fn judged(
    exchange: &mut DrivenExchange,
    connect: &Connect<'_>,
    is_proved: bool,
    key: &str,
) -> Result<Filters, Refused> {
    let mut own = connect.clone();
    own.username = own.username.filter(|_| is_proved);
    let mut attributes = |name: &str| attribute(&own, key, name);
    if let Err(rejection) = exchange.judged(&mut attributes).await {
        return Err(reject(exchange, rejection));
    }
    let filters = Filters::of(exchange, &own, key);
    let will = own.will.as_ref();
    let will = will.map(|will| filters.publish(&will.topic, will.payload.len()));
    match will {
        Some(MessageFlow::Refuse(refusal)) => Err(reject(exchange, refusal.why)),
        _ => Ok(filters),
    }
}

/// A CONNECT under the names that its session has here: a client identifier of ours where it has none, and the name
/// that was proved.
fn known_as<'a>(caller: &Caller, connect: &Connect<'a>, user: Option<&User>) -> Connect<'a> {
    let mut own = connect.clone();
    if own.client_id.is_empty() {
        // MQTT 5, section 3.1.3.1.
        own.client_id = format!("finback-{:016x}", caller.worker().random()).into();
    }
    if let Some(user) = user {
        own.username = Some(Cow::Owned(user.name.clone()));
    }
    own
}

/// The place of a session among those of its name.
fn take_seat(
    mqtt: &Mqtt,
    policy: &Policy,
    exchange: &mut DrivenExchange,
    owner: &Owner,
) -> Result<Option<Seat>, Refused> {
    // MQTT 5, section 3.1.4: one session of a name at a time.
    let entered = mqtt
        .sessions
        .enter(Key::here(&seat_key(owner)), duplicates(policy));
    entered.map_err(|_| {
        exchange.rejected(Rejection::Denied);
        let why = "a session of this client identifier is under way";
        here(Reason::BAD_CLIENT_ID, why)
    })
}

/// Whether the client may begin a session, and who it is; nothing else has happened by then.
async fn admit(
    caller: &Caller,
    connect: &Connect<'_>,
    produce: &Produce,
) -> Result<Option<User>, Refused> {
    let properties = connect.properties();
    if properties.text(id::AUTHENTICATION_METHOD).is_some() {
        // MQTT 5, section 4.12: a method that is not supported.
        let why = "enhanced authentication is not supported here";
        return Err(here(Reason::BAD_METHOD, why));
    }
    // MQTT 3.1.1, section 3.1.3.1.
    if connect.client_id.is_empty() && !connect.clean && !connect.level.is_5() {
        let why = "a session that is to last needs a client identifier";
        return Err(here(Reason::BAD_CLIENT_ID, why));
    }
    authenticate(caller, connect, produce).await
}

/// Finds out who the client is; `None` where the route does not ask.
async fn authenticate(
    caller: &Caller,
    connect: &Connect<'_>,
    produce: &Produce,
) -> Result<Option<User>, Refused> {
    let authenticator = match &produce.authentication {
        Authentication::None => return Ok(None),
        Authentication::Certificate => {
            let why = "a certificate is needed here";
            let identity = caller.identity().filter(|own| !own.is_empty());
            let name = identity.ok_or_else(|| here(Reason::NOT_AUTHORIZED, why))?;
            return Ok(Some(User {
                name: name.to_owned(),
                ..User::default()
            }));
        }
        Authentication::Credentials(authenticator) => authenticator,
    };
    let login = Login {
        client_id: connect.client_id.to_string(),
        username: connect.username.as_deref().map(str::to_owned),
        password: connect.password.as_deref().map(<[u8]>::to_vec),
    };
    let found = authenticator.authenticate(login).await;
    caller.worker().read_clock();
    found.map(Some).map_err(|why| match why {
        NotAuthenticated::BadCredentials => {
            here(Reason::BAD_USER, "the user, password or token is not good")
        }
        NotAuthenticated::Busy => here(Reason::SERVER_BUSY, "too many sessions begin"),
    })
}

/// Where there is no broker, nobody else would see to two sessions of one client.
fn duplicates(policy: &Policy) -> Duplicates {
    match policy.duplicates {
        Duplicates::Broker => Duplicates::TakeOver,
        own => own,
    }
}

fn owner(produce: &Produce, identity: &str, connect: &Connect<'_>) -> Owner {
    Owner {
        route: produce.route.clone(),
        identity: identity.into(),
        client_id: connect.client_id.as_ref().into(),
    }
}

/// By which sessions of one owner are known to each other; no text of MQTT has a zero in it.
fn seat_key(owner: &Owner) -> String {
    format!("{}\0{}\0{}", owner.route, owner.identity, owner.client_id)
}

/// What a session begins with.
struct Beginning<'a> {
    produce: &'a Produce,
    applied: Applied,
    filters: Filters,
    seat: Option<Seat>,
    held: super::Held,
    identity: String,
    /// When what its client showed of itself is good no more.
    until: Option<Now>,
    /// Which of its messages are traced, where its route says so.
    tracing: Option<Choice>,
    /// Its client identifier is ours.
    given: bool,
    /// The longest packet.
    limit: usize,
}

impl Terminal {
    /// Accepts a session; its CONNACK waits to be written.
    fn accept(
        caller: &Rc<Caller>,
        mut client: Channel,
        connect: &Connect<'_>,
        beginning: Beginning<'_>,
    ) -> Self {
        let Beginning { produce, held, .. } = beginning;
        let level = connect.level;
        let properties = granted(connect, beginning.given, {
            // What is longer, the sink would not take.
            let names = 2 * connect.client_id.len()
                + connect.username.as_deref().map_or(0, str::len)
                + beginning.identity.len();
            let most = produce.sink.limit().saturating_sub(AROUND + names);
            beginning.limit.min(most)
        });
        client.queue(&write::accepted(level, held.present, properties.bytes()));
        let expiry = match level.is_5() {
            true => expiry(
                connect
                    .properties()
                    .number(id::SESSION_EXPIRY)
                    .unwrap_or_default(),
            ),
            false if connect.clean => expiry(0),
            false => Some(produce.session_expiry),
        };
        let tracing = Tracing {
            choice: beginning.tracing,
            target: None,
        };
        Self {
            tally: Tally::new(caller.clone(), None, tracing),
            caller: caller.clone(),
            level,
            client,
            sink: produce.sink.clone(),
            applied: beginning.applied,
            filters: beginning.filters,
            seat: beginning.seat,
            client_id: connect.client_id.to_string(),
            username: connect.username.as_deref().unwrap_or_default().to_owned(),
            identity: beginning.identity,
            will: connect.will.as_ref().map(Will::of),
            held,
            expiry,
            aliases: Vec::new(),
            partial: BytesMut::new(),
            pending: Pending::default(),
            retry: None,
            again: AGAIN,
            resume: None,
            messages: Flow::default(),
            bytes: Flow::default(),
            goodbye: false,
            leave: None,
            until: beginning.until,
            turn: finback_core::net::Turn::new(),
            patience: patience(connect.keep_alive.into()),
            timer: None,
            limit: beginning.limit,
        }
    }
}

/// Properties of CONNACK (MQTT 5, section 3.2.2.3); nothing before MQTT 5.
fn granted(connect: &Connect<'_>, given: bool, most: usize) -> Writer {
    let mut properties = Writer::default();
    if !connect.level.is_5() {
        return properties;
    }
    properties.number(id::RECEIVE_MAXIMUM, WINDOW.into());
    properties.number(id::TOPIC_ALIAS_MAXIMUM, MAX_ALIASES.into());
    properties.number(id::MAXIMUM_PACKET, u32::try_from(most).unwrap_or(FOR_EVER));
    properties.number(id::WILDCARDS_AVAILABLE, 0);
    properties.number(id::SUBSCRIPTION_IDS_AVAILABLE, 0);
    properties.number(id::SHARED_AVAILABLE, 0);
    if given {
        properties.text(id::ASSIGNED_CLIENT_ID, &connect.client_id);
    }
    properties
}
