//! What is kept of a client: its subscriptions, and messages on their way.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use finback_mqtt::Reason;
use finback_mqtt::codec::{Level, PacketType, write};
use finback_mqtt::covers;

use super::link::Link;
use super::message::{Delivery, Message};

/// Messages that wait for one client; more are left out.
const QUEUE: usize = 10_000;
/// A session whose expiry interval says so never expires.
pub(super) const NEVER: u32 = u32::MAX;

/// A topic filter that a client has subscribed to.
pub(super) struct Subscription {
    /// The name of the group that shares it, and the filter.
    pub(super) group: Option<String>,
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    /// Whether messages tell if they were retained by their publisher.
    pub(super) as_published: bool,
    pub(super) id: Option<u32>,
}

/// How far a message of quality of service 1 or 2 has come.
#[derive(PartialEq, Eq)]
enum Stage {
    Published,
    /// The client has it, and is to forget its identifier.
    Released,
}

struct Flight {
    packet_id: u16,
    delivery: Delivery,
    stage: Stage,
}

/// What is published when a client goes away without a word.
pub(super) struct Will {
    pub(super) message: Message,
    /// Seconds.
    pub(super) delay: u32,
    /// When it is due, once the client has gone.
    pub(super) due: Option<Instant>,
}

/// A client's session.
#[derive(Default)]
pub(super) struct Session {
    /// Of all connections that it has had, the last.
    pub(super) serial: u64,
    pub(super) link: Option<Link>,
    pub(super) subscriptions: Vec<Subscription>,
    /// Seconds for which it is kept without a connection.
    pub(super) expiry: u32,
    /// When it ends, if there is no connection.
    pub(super) ends: Option<Instant>,
    pub(super) will: Option<Will>,
    /// Identifiers of messages of quality of service 2 that the client has not released.
    pub(super) received: HashSet<u16>,
    queue: VecDeque<Delivery>,
    flights: VecDeque<Flight>,
    last_id: u16,
}

/// How one session takes a message, by those of its subscriptions that no others share.
pub(super) fn merge(
    subscriptions: &[Subscription],
    message: &Message,
    client: &str,
) -> Option<(u8, bool, Vec<u32>)> {
    let mut merged: Option<(u8, bool, Vec<u32>)> = None;
    for own in subscriptions {
        let shared = own.group.is_some();
        let local = own.no_local && message.from == client;
        if shared || local || !covers(&own.filter, &message.topic) {
            continue;
        }
        let (qos, retain, ids) = merged.get_or_insert_default();
        *qos = (*qos).max(own.qos.min(message.qos));
        *retain |= own.as_published && message.retain;
        ids.extend(own.id);
    }
    merged
}

impl Session {
    /// Takes a message, and sends it if there is room on its way.
    pub(super) fn push(&mut self, delivery: Delivery, now: Instant) {
        let lost = delivery.qos == 0 && self.link.as_ref().is_none_or(Link::is_behind);
        if !lost && self.queue.len() < QUEUE {
            self.queue.push_back(delivery);
            self.pump(now);
        }
    }

    /// Sends what waits, as far as the client takes it.
    pub(super) fn pump(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        while let Some(first) = self.queue.front() {
            if first.qos > 0 && self.flights.len() >= link.receive_maximum {
                return;
            }
            let Some(delivery) = self.queue.pop_front() else {
                return;
            };
            if delivery.message.has_expired(now) {
                continue;
            }
            if delivery.qos == 0 {
                delivery.send(link, None, false, now);
                continue;
            }
            // There are more identifiers than messages on their way.
            let packet_id = loop {
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                if self.flights.iter().all(|own| own.packet_id != self.last_id) {
                    break self.last_id;
                }
            };
            // What is too long for the client is left out, as if it had been received.
            if delivery.send(link, Some(packet_id), false, now) {
                self.flights.push_back(Flight {
                    packet_id,
                    delivery,
                    stage: Stage::Published,
                });
            }
        }
    }

    /// Sends again what was on its way when the last connection ended, and what has come since.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        for own in &self.flights {
            match own.stage {
                Stage::Published => own.delivery.send(link, Some(own.packet_id), true, now),
                Stage::Released => {
                    let (kind, id) = (PacketType::Pubrel, own.packet_id);
                    link.send(write::acknowledgement(
                        kind,
                        link.level,
                        id,
                        Reason::SUCCESS,
                    ))
                }
            };
        }
        self.pump(now);
    }

    /// Hears PUBACK, PUBREC or PUBCOMP.
    pub(super) fn hear(&mut self, kind: PacketType, packet_id: u16, refused: bool, now: Instant) {
        let at = self
            .flights
            .iter()
            .position(|own| own.packet_id == packet_id);
        if kind != PacketType::Pubrec || refused {
            if let Some(at) = at {
                self.flights.remove(at);
            }
            self.pump(now);
            return;
        }
        let known = at.and_then(|at| self.flights.get_mut(at));
        let reason = match known {
            Some(own) => {
                own.stage = Stage::Released;
                Reason::SUCCESS
            }
            None => Reason::UNKNOWN_PACKET_ID,
        };
        if let Some(link) = &self.link {
            link.send(write::acknowledgement(
                PacketType::Pubrel,
                link.level,
                packet_id,
                reason,
            ));
        }
    }

    /// The connection is gone.
    pub(super) fn part(&mut self, now: Instant) {
        self.link = None;
        self.ends = match self.expiry {
            NEVER => None,
            seconds => Some(now + Duration::from_secs(seconds.into())),
        };
        // Without a connection, nobody waits for what may get lost.
        self.queue.retain(|delivery| delivery.qos > 0);
    }

    /// Says goodbye to a client that may hear it.
    pub(super) fn dismiss(&mut self, reason: Reason) {
        if let Some(link) = self.link.take()
            && link.level == Level::V5
        {
            link.send(write::disconnect(reason, "", None));
        }
    }
}
