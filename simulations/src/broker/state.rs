//! All sessions, and what is retained.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use finback_mqtt::codec::properties::{Properties, PropertyPlace, Writer, id};
use finback_mqtt::codec::{
    Connect, Fault, FixedHeader, Level, PacketType, Publish, Side, check, read_disconnect, write,
};
use finback_mqtt::{Reason, covers};
use tokio::sync::oneshot;

use super::link::Link;
use super::message::{Delivery, Message};
use super::session::{NEVER, Session, Subscription, Will, merge};
use super::{End, Options};

/// Messages that are retained; more are not.
const RETAINED: usize = 10_000;

/// One connection of one session.
pub(super) struct Who {
    pub(super) client_id: String,
    pub(super) level: Level,
    serial: u64,
}

/// What the broker knows.
pub(super) struct State {
    options: Options,
    sessions: BTreeMap<String, Session>,
    retained: BTreeMap<String, Arc<Message>>,
    /// Whose turn it is, of those that share a subscription.
    turns: HashMap<(String, String), usize>,
    serial: u64,
}

fn fault(reason: Reason, why: &'static str) -> Fault {
    Fault { reason, why }
}

impl State {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            turns: HashMap::new(),
            serial: 0,
        }
    }

    /// Accepts a client, whose session's link this is from now on, or refuses it. What ends when
    /// the link is another's comes with it.
    pub(super) fn connect(
        &mut self,
        connect: &Connect<'_>,
        mut link: Link,
    ) -> Option<(Who, oneshot::Receiver<()>)> {
        let (now, level) = (Instant::now(), connect.level);
        let asked = connect.properties();
        let mut granted = Writer::default();
        self.serial += 1;
        let mut client_id = connect.client_id.to_string();
        if asked.text(id::AUTHENTICATION_METHOD).is_some() {
            let reason = Reason(0x8c);
            link.send(write::connack(level, reason, "there are no methods", None));
            return None;
        }
        if client_id.is_empty() {
            if level < Level::V5 && !connect.clean || level == Level::V31 {
                link.send(write::connack(level, Reason::BAD_CLIENT_ID, "", None));
                return None;
            }
            client_id = format!("auto-{}", self.serial);
            granted.text(id::ASSIGNED_CLIENT_ID, &client_id);
        }
        let mut known = self.sessions.remove(&client_id);
        if let Some(known) = &mut known {
            known.dismiss(Reason::TAKEN_OVER);
            let delayed = known.will.as_ref().is_some_and(|will| will.delay > 0);
            // A delayed will is of a session that goes on.
            let will = known.will.take().filter(|_| connect.clean || !delayed);
            if let Some(will) = will {
                self.publish(will.message, now);
            }
        }
        let known = known.filter(|_| !connect.clean);
        let present = known.is_some();
        let mut session = known.unwrap_or_default();
        session.expiry = match (level, connect.clean) {
            (Level::V5, _) => asked.number(id::SESSION_EXPIRY).unwrap_or(0),
            (_, true) => 0,
            (_, false) => NEVER,
        };
        session.will = connect.will.as_ref().map(|will| {
            let mut properties = Writer::default();
            properties.raw(&will.properties);
            let properties = Properties::of(&properties);
            let how = (will.qos, will.retain);
            Will {
                message: Message::new(&client_id, &will.topic, &will.payload, how, properties),
                delay: properties.number(id::WILL_DELAY).unwrap_or(0),
                due: None,
            }
        });
        granted.number(id::RECEIVE_MAXIMUM, self.options.receive_maximum.into());
        granted.number(id::TOPIC_ALIAS_MAXIMUM, self.options.topic_aliases.into());
        if let Ok(packet) = u32::try_from(self.options.packet) {
            granted.number(id::MAXIMUM_PACKET, packet);
        }
        if let Some(most) = self.options.keep_alive
            && (connect.keep_alive == 0 || connect.keep_alive > most)
        {
            granted.number(id::SERVER_KEEP_ALIVE, most.into());
        }
        link.send(write::accepted(level, present, granted.bytes()));
        let (end, ended) = oneshot::channel();
        link.end = Some(end);
        session.link = Some(link);
        session.ends = None;
        session.serial = self.serial;
        session.resume(now);
        self.sessions.insert(client_id.clone(), session);
        let who = Who {
            client_id,
            level,
            serial: self.serial,
        };
        Some((who, ended))
    }

    /// The session of a connection, unless it has another by now.
    fn session(&mut self, who: &Who) -> Option<&mut Session> {
        self.sessions
            .get_mut(&who.client_id)
            .filter(|own| own.serial == who.serial)
    }

    /// A connection came to its end.
    pub(super) fn end(&mut self, who: &Who, how: End) {
        let now = Instant::now();
        let Some(session) = self.session(who) else {
            return;
        };
        let mut due = None;
        match how {
            End::Said => session.will = None,
            End::Lost => due = session.will.as_ref().map(|will| will.delay),
            End::Fault(fault) => {
                due = session.will.as_ref().map(|will| will.delay);
                session.dismiss(fault.reason);
            }
        }
        session.part(now);
        if let (Some(seconds), Some(will)) = (due, &mut session.will) {
            will.due = Some(now + Duration::from_secs(seconds.into()));
        }
        self.tick(now);
    }

    /// Publishes wills that are due, and forgets what has expired.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut wills = Vec::new();
        self.sessions.retain(|_, session| {
            let over = session.ends.is_some_and(|at| at <= now);
            let due = |will: &mut Will| will.due.is_some_and(|at| over || at <= now);
            wills.extend(session.will.take_if(due));
            !over
        });
        for will in wills {
            self.publish(will.message, now);
        }
        self.retained.retain(|_, message| !message.has_expired(now));
    }

    /// Hears a client's packet; how its connection ends, if it does.
    pub(super) fn hear(
        &mut self,
        who: &Who,
        head: &FixedHeader,
        packet: &BytesMut,
    ) -> Result<Option<End>, Fault> {
        check(packet, head, who.level, Side::Client)?;
        let now = Instant::now();
        let body = &packet[head.header..];
        let packet_id = || u16::from_be_bytes([body[0], body[1]]);
        let Some(session) = self.session(who) else {
            return Ok(None);
        };
        match head.kind {
            PacketType::Publish => self.take(who, head, packet, now)?,
            PacketType::Puback | PacketType::Pubrec | PacketType::Pubcomp => {
                let refused = body.get(2).is_some_and(|code| *code >= 0x80);
                session.hear(head.kind, packet_id(), refused, now);
            }
            PacketType::Pubrel => {
                let reason = if session.received.remove(&packet_id()) {
                    Reason::SUCCESS
                } else {
                    Reason::UNKNOWN_PACKET_ID
                };
                let (kind, level) = (PacketType::Pubcomp, who.level);
                let answer = write::acknowledgement(kind, level, packet_id(), reason);
                self.answer(who, answer);
            }
            PacketType::Subscribe => self.subscribe(who, body, now)?,
            PacketType::Unsubscribe => {
                let asked = finback_mqtt::codec::TopicSubscription::read(
                    body,
                    who.level,
                    PropertyPlace::Unsubscribe,
                )?;
                let mut codes = Vec::new();
                for own in asked.filters() {
                    let (group, filter) = split(own.filter, who.level);
                    let before = session.subscriptions.len();
                    session
                        .subscriptions
                        .retain(|own| own.filter != filter || own.group.as_deref() != group);
                    let reason = if session.subscriptions.len() < before {
                        Reason::SUCCESS
                    } else {
                        Reason::NO_SUBSCRIPTION
                    };
                    codes.push(reason.0);
                }
                let id = asked.packet_id;
                self.answer(
                    who,
                    write::subscribed(PacketType::Unsuback, who.level, id, &[], &codes),
                );
            }
            PacketType::Pingreq => self.answer(who, write::packet(0xd0, &[])),
            PacketType::Disconnect => return self.leave(who, body).map(Some),
            _ => {
                let why = "a packet that may not stand there";
                return Err(fault(Reason::PROTOCOL_ERROR, why));
            }
        }
        Ok(None)
    }

    fn answer(&mut self, who: &Who, packet: Vec<u8>) {
        if let Some(link) = self.session(who).and_then(|own| own.link.as_ref()) {
            link.send(packet);
        }
    }

    /// Hears DISCONNECT: how the connection ends.
    fn leave(&mut self, who: &Who, body: &[u8]) -> Result<End, Fault> {
        let Some(session) = self.session(who).filter(|_| who.level.is_5()) else {
            return Ok(End::Said);
        };
        let (reason, properties) = read_disconnect(body)?;
        if let Some(expiry) = properties.number(id::SESSION_EXPIRY) {
            if session.expiry == 0 && expiry > 0 {
                let why = "a session that was not to be kept is to be kept";
                return Err(fault(Reason::PROTOCOL_ERROR, why));
            }
            session.expiry = expiry;
        }
        // Whatever else it says has the will published.
        Ok(if reason == Reason::SUCCESS {
            End::Said
        } else {
            End::Lost
        })
    }

    fn take(
        &mut self,
        who: &Who,
        head: &FixedHeader,
        packet: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let publish = Publish::read(packet, head, who.level)?;
        let publish = publish.ok_or(fault(Reason::MALFORMED, "a packet that is cut off"))?;
        let (aliases, most) = (self.options.topic_aliases, self.options.receive_maximum);
        let Some(session) = self.session(who) else {
            return Ok(());
        };
        let Some(link) = &mut session.link else {
            return Ok(());
        };
        let mut topic = publish.topic.to_owned();
        if let Some(alias) = publish.alias() {
            if alias == 0 || alias > aliases {
                return Err(fault(Reason::BAD_ALIAS, "an alias that was not granted"));
            }
            if topic.is_empty() {
                let known = link.topics.get(&alias).cloned();
                let why = "an alias that stands for nothing";
                topic = known.ok_or(fault(Reason::PROTOCOL_ERROR, why))?;
            } else {
                link.topics.insert(alias, topic.clone());
            }
        }
        let mut again = false;
        if let (2, Some(packet_id)) = (head.qos(), publish.packet_id) {
            again = !session.received.insert(packet_id);
            if who.level.is_5() && session.received.len() > most.into() {
                let why = "more messages at a time than were granted";
                return Err(fault(Reason::RECEIVE_MAXIMUM, why));
            }
        }
        if !again {
            let how = (head.qos(), head.retain());
            let payload = &packet[publish.head..];
            let properties = publish.properties;
            let message = Message::new(&who.client_id, &topic, payload, how, properties);
            self.publish(message, now);
        }
        if let Some(packet_id) = publish.packet_id {
            let kind = if head.qos() == 1 {
                PacketType::Puback
            } else {
                PacketType::Pubrec
            };
            let answer = write::acknowledgement(kind, who.level, packet_id, Reason::SUCCESS);
            self.answer(who, answer);
        }
        Ok(())
    }

    /// Gives a message to everybody who has subscribed to its topic.
    fn publish(&mut self, mut message: Message, now: Instant) {
        message.begin(now);
        let message = Arc::new(message);
        if message.retain {
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else if self.retained.len() < RETAINED || self.retained.contains_key(&message.topic) {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        let mut shared: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (client, session) in &mut self.sessions {
            for own in &session.subscriptions {
                if let Some(group) = &own.group
                    && covers(&own.filter, &message.topic)
                {
                    let key = (group.clone(), own.filter.clone());
                    let member = (client.clone(), own.qos, own.id);
                    shared.entry(key).or_default().push(member);
                }
            }
            if let Some((qos, retain, subscriptions)) =
                merge(&session.subscriptions, &message, client)
            {
                let message = message.clone();
                session.push(
                    Delivery {
                        message,
                        qos,
                        retain,
                        subscriptions,
                    },
                    now,
                );
            }
        }
        for (key, mut members) in shared {
            let here = |client: &str| {
                self.sessions
                    .get(client)
                    .is_some_and(|own| own.link.is_some())
            };
            if members.iter().any(|(client, ..)| here(client)) {
                members.retain(|(client, ..)| here(client));
            }
            let turn = self.turns.entry(key).or_default();
            *turn = turn.wrapping_add(1);
            let (client, qos, subscription) = members.swap_remove(*turn % members.len());
            if let Some(session) = self.sessions.get_mut(&client) {
                let delivery = Delivery {
                    qos: qos.min(message.qos),
                    message: message.clone(),
                    retain: false,
                    subscriptions: subscription.into_iter().collect(),
                };
                session.push(delivery, now);
            }
        }
    }

    fn subscribe(&mut self, who: &Who, body: &[u8], now: Instant) -> Result<(), Fault> {
        let asked = finback_mqtt::codec::TopicSubscription::read(
            body,
            who.level,
            PropertyPlace::Subscribe,
        )?;
        let id = asked.properties.number(id::SUBSCRIPTION_ID);
        let mut codes = Vec::new();
        let mut waiting = Vec::new();
        for own in asked.filters() {
            if self
                .options
                .refused
                .iter()
                .any(|refused| refused == own.filter)
            {
                codes.push(Reason::UNSPECIFIED.0);
                continue;
            }
            let options = own.options.unwrap_or(0);
            let (group, filter) = split(own.filter, who.level);
            let subscription = Subscription {
                group: group.map(str::to_owned),
                filter: filter.to_owned(),
                qos: options & 3,
                no_local: options & 4 != 0,
                as_published: options & 8 != 0,
                id,
            };
            let Some(session) = self.session(who) else {
                return Ok(());
            };
            let before = session.subscriptions.len();
            session
                .subscriptions
                .retain(|own| own.filter != filter || own.group.as_deref() != group);
            let new = session.subscriptions.len() == before;
            session.subscriptions.push(subscription);
            codes.push(options & 3);
            // When to send what is retained: always, if the subscription is new, never.
            let wanted = match options >> 4 & 3 {
                0 => true,
                1 => new,
                _ => false,
            };
            if group.is_none() && wanted {
                let retained = self
                    .retained
                    .values()
                    .filter(|message| covers(filter, &message.topic) && !message.has_expired(now));
                waiting.extend(retained.map(|message| Delivery {
                    message: message.clone(),
                    qos: message.qos.min(options & 3),
                    retain: true,
                    subscriptions: id.into_iter().collect(),
                }));
            }
        }
        let id = asked.packet_id;
        self.answer(
            who,
            write::subscribed(PacketType::Suback, who.level, id, &[], &codes),
        );
        if let Some(session) = self.session(who) {
            waiting.into_iter().for_each(|own| session.push(own, now));
        }
        Ok(())
    }
}

/// The group that shares a subscription, and its filter. Before MQTT 5 nothing was shared.
fn split(filter: &str, level: Level) -> (Option<&str>, &str) {
    let shared = filter
        .strip_prefix("$share/")
        .and_then(|own| own.split_once('/'));
    match shared {
        Some((group, own)) if level.is_5() => (Some(group), own),
        _ => (None, filter),
    }
}
