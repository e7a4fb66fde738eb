//! From CONNECT to CONNACK: the route, the broker, and its answer.

use std::borrow::Cow;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{Caller, Stream};
use finback_core::frame::{Metadata, Outcome};
use finback_core::log_limit::LogLimit;
use finback_core::mesh::{AttemptEnd, Lease, Resend};
use finback_core::net::Expired;
use finback_core::record::{Ending, Record};
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;
use tokio::time::Instant;

use crate::channel::Channel;
use crate::codec::properties::{Value, Writer, id};
use crate::codec::{Connect, Fault, Head, Kind, Level, Opening, Properties, Reader, check, write};
use crate::codec::{Side, properties::Place};
use crate::entry::{farewell, read_packet};
use crate::gate::Place as Waiting;
use crate::policy::{Applied, Facts, Policy};
use crate::reason::Reason;
use crate::takeover::Seat;
use crate::terminal::{self, Terminal};
use crate::{CLIENT_ID, Mqtt, NAME, proxied, sticky};

/// The service of every session.
const SERVICE: &str = "(mqtt)";
/// The service of records by what CONNACK said.
const CONNACKS: &str = "(connack)";
/// The longest client identifier in bytes.
const MAX_CLIENT_ID: usize = 256;
/// The longest first packet of a broker.
const MAX_CONNACK: usize = 64 * 1024;
/// While there is another broker to try, one gets no longer to accept a connection.
const IMPATIENT: Duration = Duration::from_millis(300);
/// Topic aliases of one session that are remembered.
pub(crate) const MAX_ALIASES: u16 = 32;

/// What a session begins with, once its broker has accepted it.
pub(crate) struct Opened {
    pub(crate) level: Level,
    pub(crate) endpoint: Channel,
    pub(crate) lease: Lease,
    pub(crate) applied: Option<Applied>,
    pub(crate) seat: Option<Seat>,
    /// The broker's CONNACK as the client shall see it.
    pub(crate) connack: Vec<u8>,
    /// Silence of the client after which it is gone.
    pub(crate) patience: Option<Duration>,
    /// The longest packet that may be sent to the client, and to the broker.
    pub(crate) client_takes: usize,
    pub(crate) endpoint_takes: usize,
    /// The longest packet that is passed on.
    pub(crate) packet: usize,
    /// What a tap tells of the client; empty where there is none.
    pub(crate) client_id: String,
    pub(crate) username: String,
}

/// A session that may begin.
pub(crate) enum Begun {
    /// With a broker.
    Proxied(Box<Opened>),
    /// That ends here.
    Here(Box<Terminal>),
}

/// Why there is no session.
pub(crate) enum Refused {
    /// The mesh says so: what the client is told.
    Here { reason: Reason, why: String },
    /// The client's bytes made no sense.
    Malformed(Fault),
    /// The broker said so: its CONNACK.
    There(Bytes),
    /// There is nobody to be told.
    Gone,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Malformed(fault)
    }
}

pub(crate) fn here(reason: Reason, why: &str) -> Refused {
    let why = why.to_owned();
    Refused::Here { reason, why }
}

/// Opens the session that `packet`, a CONNECT, asks for. One that ends here takes the client's
/// channel with it.
pub(crate) async fn open(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Option<Channel>,
    packet: Bytes,
) -> Option<Begun> {
    let header = Head::read(&packet, Level::V5, usize::MAX).ok()??.header;
    let (level, refused) = match Opening::read(&packet[header..]) {
        Ok(Opening::Connect(connect)) => {
            let level = connect.level;
            match admit(mqtt, caller, client, &packet, connect).await {
                Ok(begun) => return Some(begun),
                Err(refused) => (Some(level), refused),
            }
        }
        Ok(Opening::Unsupported { level }) => {
            // A version that is older than the answers of MQTT 5 would not understand them.
            let answered = if level > 5 { Level::V5 } else { Level::V311 };
            let why = "only MQTT 3.1, 3.1.1 and 5 are spoken here";
            (Some(answered), here(Reason::UNSUPPORTED_LEVEL, why))
        }
        // Before MQTT 5, a CONNECT that makes no sense is not answered.
        Err((level, fault)) => (level.filter(|level| level.is_5()), fault.into()),
    };
    let (reason, why) = match refused {
        Refused::Here { reason, why } => (reason, why),
        Refused::Malformed(Fault { reason, why }) => {
            caller.count_malformed();
            (reason, why.to_owned())
        }
        Refused::There(connack) => {
            farewell(caller, client.as_mut()?, &connack).await;
            return None;
        }
        Refused::Gone => return None,
    };
    static REFUSED: LogLimit = LogLimit::usual();
    if let Some(left_out) = REFUSED.admit(caller.worker().now()) {
        let (source, reason, why) = (caller.peer(), reason.name(), Escaped(&why));
        tracing::info!(%source, reason, %why, left_out, "session refused");
    }
    count(caller, reason);
    let last = match level {
        Some(level) => write::connack(level, reason, &why, None),
        None => Vec::new(),
    };
    farewell(caller, client.as_mut()?, &last).await;
    None
}

/// One more CONNACK of this reason.
pub(crate) fn count(caller: &Caller, reason: Reason) {
    let outcome = outcome(reason);
    let series = caller.series(NAME, CONNACKS, reason.name());
    series.record(&Record {
        ending: Ending::Answered(outcome),
        took: Duration::ZERO,
        attempts: 0,
        source: caller.peer().ip(),
        endpoint: None,
        request_bytes: 0,
        response_bytes: 0,
    });
}

/// What a CONNACK of this reason tells of its broker.
fn outcome(reason: Reason) -> Outcome {
    match reason {
        Reason::SUCCESS => Outcome::Success,
        Reason::SERVER_UNAVAILABLE
        | Reason::SERVER_BUSY
        | Reason::USE_ANOTHER
        | Reason::MOVED
        | Reason::CONNECTION_RATE
        | Reason::SHUTTING_DOWN => Outcome::Refused,
        // The rest is between client and broker.
        _ => Outcome::Exception,
    }
}

async fn admit(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    client: &mut Option<Channel>,
    packet: &Bytes,
    connect: Connect<'_>,
) -> Result<Begun, Refused> {
    let worker = caller.worker();
    worker.read_clock();
    if connect.client_id.len() > MAX_CLIENT_ID {
        return Err(here(
            Reason::BAD_CLIENT_ID,
            "the client identifier is too long",
        ));
    }
    if !mqtt.gate.admits(caller.peer().ip(), worker.now()) {
        return Err(here(Reason::CONNECTION_RATE, "too many sessions begin"));
    }
    let Some(_waiting) = Waiting::take(worker, mqtt.config.connecting) else {
        return Err(here(
            Reason::SERVER_BUSY,
            "too many sessions wait for their broker",
        ));
    };
    // An identifier that the broker chooses cannot choose the broker.
    let chosen = connect.client_id.is_empty().then(|| worker.random());
    let key = match chosen {
        Some(key) => sticky::text(key),
        None => {
            let known = mqtt.sticky.key(&connect.client_id);
            known.unwrap_or_else(|| connect.client_id.to_string())
        }
    };
    let mut attributes = |name: &str| attribute(&connect, &key, name);
    let metadata = Metadata {
        service: Cow::Borrowed(SERVICE),
        method: Cow::Borrowed("connect"),
        version: Cow::Borrowed(connect.level.name()),
        own: true,
        ..Metadata::default()
    };
    let (mut stream, routed) = caller.open(NAME, &metadata, packet.len(), &mut attributes);
    if routed == Err(Rejection::NoRoute) {
        return Err(reject(&mut stream, Rejection::NoRoute));
    }
    let policy = stream
        .treatment()
        .and_then(|own| own.downcast::<Policy>().ok());
    if let Some(policy) = &policy
        && let Some(produce) = &policy.produce
    {
        let client = (caller, client);
        return terminal::connect::begin(mqtt, client, &connect, (policy, produce), &mut stream)
            .await;
    }
    let facts = Facts {
        client_id: &connect.client_id,
        username: connect.username.as_deref().unwrap_or_default(),
        identity: caller.identity().unwrap_or_default(),
        common_name: caller
            .certified()
            .and_then(|own| own.common_name())
            .unwrap_or_default(),
        claims: None,
    };
    let applied = match &policy {
        None => None,
        Some(policy) => match Applied::new(policy, &facts) {
            Ok(applied) => Some(applied),
            Err(_) => return Err(reject(&mut stream, Rejection::Denied)),
        },
    };
    let said = match &applied {
        None => packet.clone(),
        Some(applied) => amended(applied, packet, &connect, &facts, &mut stream)?,
    };
    let duplicates = policy
        .as_ref()
        .map(|own| own.duplicates)
        .unwrap_or_default();
    let Ok(seat) = mqtt.sessions.enter(&connect.client_id, duplicates) else {
        stream.rejected(Rejection::Denied);
        let why = "a session of this client identifier is under way";
        return Err(here(Reason::BAD_CLIENT_ID, why));
    };
    if let Err(rejection) = routed {
        return Err(reject(&mut stream, rejection));
    }
    let client = client.as_mut().ok_or(Refused::Gone)?;
    let proxied = policy.as_ref().is_some_and(|policy| policy.proxy_protocol);
    let said = if proxied {
        let header = proxied::header(caller, client.socket())
            .map_err(|_| reject(&mut stream, Rejection::ConnectFailed))?;
        Bytes::from([&header[..], &said].concat())
    } else {
        said
    };
    let (lease, endpoint, connack) = reach(
        caller,
        client,
        &mut stream,
        &mut attributes,
        &said,
        connect.level,
    )
    .await?;
    let head = Head::read(&connack, connect.level, MAX_CONNACK)
        .ok()
        .flatten();
    let header = head.map_or(2, |head| head.header);
    let properties = if connect.level.is_5() {
        connack_properties(&connack[header..])
    } else {
        Properties::default()
    };
    if let (Some(key), Some(given)) = (chosen, properties.text(id::ASSIGNED_CLIENT_ID)) {
        mqtt.sticky.learn(given, key);
    }
    let takes = |properties: Properties<'_>| {
        let own = properties.number(id::MAXIMUM_PACKET);
        own.map_or(usize::MAX, |own| own as usize)
    };
    let keep_alive = properties
        .number(id::SERVER_KEEP_ALIVE)
        .unwrap_or(u32::from(connect.keep_alive));
    let tapped = policy.as_ref().is_some_and(|policy| policy.tap.is_some());
    let told = |name: &str| {
        if tapped {
            name.to_owned()
        } else {
            String::new()
        }
    };
    let about_topics = applied.as_ref().is_some_and(Applied::is_about_topics);
    let connack_seen = if about_topics && connect.level.is_5() {
        fewer_aliases(&connack, header)
    } else {
        connack.to_vec()
    };
    Ok(Begun::Proxied(Box::new(Opened {
        level: connect.level,
        endpoint,
        lease,
        applied,
        seat,
        connack: connack_seen,
        patience: patience(keep_alive),
        client_takes: takes(connect.properties()),
        endpoint_takes: takes(properties),
        packet: mqtt.config.packet,
        client_id: told(&connect.client_id),
        username: told(connect.username.as_deref().unwrap_or_default()),
    })))
}

/// One and a half times the agreed interval (section 3.1.2.10), and some more so that the broker,
/// who counts too, is first to find a client gone.
pub(crate) fn patience(keep_alive: u32) -> Option<Duration> {
    const SLACK: Duration = Duration::from_secs(5);
    (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500) + SLACK)
}

pub(crate) fn reject(stream: &mut Stream, rejection: Rejection) -> Refused {
    Refused::Here {
        reason: Reason::of(rejection),
        why: stream.rejected(rejection),
    }
}

/// What routes may ask about a session. Names that begin with a colon are no user property's.
fn attribute(connect: &Connect<'_>, key: &str, name: &str) -> Option<String> {
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

/// CONNECT as the broker shall see it.
fn amended(
    applied: &Applied,
    packet: &Bytes,
    connect: &Connect<'_>,
    facts: &Facts<'_>,
    stream: &mut Stream,
) -> Result<Bytes, Refused> {
    if let Some(will) = &connect.will
        && !applied.may_publish(&will.topic)
    {
        return Err(reject(stream, Rejection::Denied));
    }
    let mut own = connect.clone();
    if applied.amend(&mut own, facts).is_err() {
        return Err(reject(stream, Rejection::Denied));
    }
    if applied.is_about_topics() {
        // Topics are looked at, so the broker is not to hide them behind aliases.
        without(&mut own, id::TOPIC_ALIAS_MAXIMUM);
    }
    if own == *connect {
        return Ok(packet.clone());
    }
    match own.write() {
        Ok(written) => Ok(written.into()),
        Err(_) => Err(reject(stream, Rejection::TooLarge)),
    }
}

fn without(connect: &mut Connect<'_>, unwanted: u8) {
    let properties = connect.properties();
    if properties.number(unwanted).is_none() {
        return;
    }
    let mut writer = Writer::default();
    for (id, _, piece) in properties.pieces() {
        if id != unwanted {
            writer.raw(piece);
        }
    }
    connect.properties = writer.into_bytes().into();
}

fn connack_properties(body: &[u8]) -> Properties<'_> {
    let mut reader = Reader::new(body);
    let read = reader
        .u16()
        .and_then(|_| Properties::read(&mut reader, Place::Connack));
    read.unwrap_or_default()
}

/// A CONNACK that lets the client use no more aliases than are remembered here.
fn fewer_aliases(connack: &[u8], header: usize) -> Vec<u8> {
    let body = &connack[header..];
    let properties = connack_properties(body);
    if properties.number(id::TOPIC_ALIAS_MAXIMUM) <= Some(u32::from(MAX_ALIASES)) {
        return connack.to_vec();
    }
    let mut writer = Writer::default();
    for (id, value, piece) in properties.pieces() {
        match value {
            Value::Number(_) if id == id::TOPIC_ALIAS_MAXIMUM => {
                writer.number(id, MAX_ALIASES.into());
            }
            _ => writer.raw(piece),
        }
    }
    let mut own = body[..2].to_vec();
    crate::codec::reader::put_variable(&mut own, writer.bytes().len());
    own.extend_from_slice(writer.bytes());
    write::packet(connack[0], &own)
}

/// Finds a broker that accepts the session.
async fn reach(
    caller: &Rc<Caller>,
    client: &mut Channel,
    stream: &mut Stream,
    attributes: &mut dyn FnMut(&str) -> Option<String>,
    said: &[u8],
    level: Level,
) -> Result<(Lease, Channel, Bytes), Refused> {
    loop {
        let mut lease = match stream.attempt(attributes).await {
            Ok(lease) => lease,
            Err(rejection) => return Err(reject(stream, rejection)),
        };
        let worker = caller.worker();
        let ends = caller.ends(caller.peer().ip());
        let dialling = worker.connect_for(&lease, Some(b"mqtt"), ends, caller.known());
        let dialling = Box::pin(dialling);
        let due = match stream.is_last_attempt() {
            true => stream.deadline(),
            false => Instant::now() + IMPATIENT,
        };
        let failed = match worker.timers().within(due, dialling).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => {
                tracing::debug!(endpoint = %lease.address(), %error, "cannot connect");
                Err(AttemptEnd::from(&error))
            }
            // It is not waited for; that says nothing of it.
            Err(Expired { .. }) => Err(AttemptEnd::Unsent),
        };
        let socket = match failed {
            Ok(socket) => socket,
            Err(end) => {
                if stream.conclude(&mut lease, end, Resend::Safe) {
                    continue;
                }
                return Err(reject(stream, Rejection::ConnectFailed));
            }
        };
        let mut endpoint = Channel::new(socket);
        let waits = Cell::new(false);
        let sides = (&mut *client, &mut endpoint);
        let introducing = introduce(caller, sides, &lease, (said, level), &waits);
        let within = worker
            .timers()
            .within(stream.attempt_deadline(), introducing);
        let late = |Expired { stalled }| match waits.get() {
            true => Err(Failed::ClientGone),
            false => Err(Failed::Late { stalled }),
        };
        let (end, resend, rejection) = match within.await.unwrap_or_else(late) {
            Ok((connack, code)) => {
                let reason = Reason::of_connack(level, code);
                let outcome = outcome(reason);
                if stream.conclude(&mut lease, AttemptEnd::Answered(outcome), Resend::Safe) {
                    continue;
                }
                count(caller, reason);
                stream.answered(outcome, connack.len() as u64);
                if reason == Reason::SUCCESS {
                    stream.settle(&mut lease, outcome);
                    return Ok((lease, endpoint, connack));
                }
                return Err(Refused::There(connack));
            }
            Err(Failed::ClientGone) => return Err(Refused::Gone),
            Err(Failed::Client(fault)) => {
                stream.rejected(Rejection::BadRequest);
                return Err(fault.into());
            }
            Err(Failed::Late { stalled }) => {
                let end = stream.timed_out(&lease, stalled, true);
                (end, Resend::Impossible, Rejection::DeadlineExceeded)
            }
            // A broker that hangs up on CONNECT has opened no session.
            Err(Failed::Endpoint) => {
                let end = AttemptEnd::Lost { reused: false };
                (end, Resend::Safe, Rejection::ConnectionLost)
            }
            Err(Failed::Halfway) => {
                let end = AttemptEnd::Lost { reused: false };
                (end, Resend::Impossible, Rejection::ConnectionLost)
            }
        };
        if !stream.conclude(&mut lease, end, resend) {
            return Err(reject(stream, rejection));
        }
    }
}

/// What went wrong between CONNECT and CONNACK.
enum Failed {
    /// The broker hung up, or said what no broker says.
    Endpoint,
    /// The same after the client had begun to authenticate itself to it.
    Halfway,
    /// The broker did not answer in time; `stalled` says that it was us who did not run.
    Late { stalled: bool },
    /// The client went away.
    ClientGone,
    /// The client said what no client says.
    Client(Fault),
}

/// Says CONNECT to a broker and waits for its CONNACK, passing on what both say to
/// authenticate (MQTT 5, section 4.12). `waits` tells whether it is the client that is waited for.
async fn introduce(
    caller: &Rc<Caller>,
    (client, endpoint): (&mut Channel, &mut Channel),
    lease: &Lease,
    (said, level): (&[u8], Level),
    waits: &Cell<bool>,
) -> Result<(Bytes, u8), Failed> {
    endpoint.queue(said);
    let mut begun = false;
    loop {
        let lost = if begun {
            Failed::Halfway
        } else {
            Failed::Endpoint
        };
        if poll_fn(|cx| endpoint.poll_flush(cx)).await.is_err() {
            return Err(lost);
        }
        let mut answer = BytesMut::new();
        let read = read_packet(endpoint, &mut answer, level, MAX_CONNACK).await;
        let Ok(Some(head)) = read else {
            return Err(lost);
        };
        let sound = check(&answer, &head, level, Side::Server);
        match head.kind {
            Kind::Connack if sound.is_ok() => {
                let code = answer.get(head.header + 1).copied().unwrap_or(0x80);
                return Ok((answer.freeze(), code));
            }
            Kind::Auth if sound.is_ok() => {}
            // Brokers may refuse without CONNACK (section 4.13).
            Kind::Disconnect if sound.is_ok() => {
                let code = answer.get(head.header).copied().unwrap_or(0x80);
                return Ok((answer.freeze(), code.max(0x80)));
            }
            _ => {
                tracing::warn!(
                    endpoint = %lease.address(), client = %caller.peer(), kind = ?head.kind, fault = ?sound.err(),
                    "a broker answers CONNECT by what is no answer"
                );
                return Err(lost);
            }
        }
        begun = true;
        waits.set(true);
        client.queue(&answer);
        if poll_fn(|cx| client.poll_flush(cx)).await.is_err() {
            return Err(Failed::ClientGone);
        }
        let mut more = BytesMut::new();
        match read_packet(client, &mut more, level, MAX_CONNACK).await {
            Ok(Some(head)) if matches!(head.kind, Kind::Auth | Kind::Disconnect) => {
                check(&more, &head, level, Side::Client).map_err(Failed::Client)?;
            }
            Ok(Some(_)) => {
                let why = "a client that authenticates itself says something else";
                return Err(Failed::Client(Fault::protocol(why)));
            }
            Ok(None) => return Err(Failed::ClientGone),
            Err(why) => return Err(Failed::Client(Fault::malformed(why))),
        }
        waits.set(false);
        endpoint.queue(&more);
    }
}
