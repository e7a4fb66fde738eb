//! Subscriptions of a session: SUBSCRIBE and UNSUBSCRIBE under the route's names, rules and bounds.

use std::collections::BTreeSet;

use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::properties::PropertyPlace;
use crate::codec::{Fault, FixedHeader, PacketType, TopicSubscription, write};
use crate::reason::Reason;
use crate::tally::{Asked, SESSION, method};
use crate::topic;

use super::direction::Fate;
use super::{MAX_AWAITED, Session};

/// What the filters of a session take together, at most: so many bytes for each that it may have.
const BYTES: usize = 256;

/// The topic filters that a session has asked for.
#[derive(Default)]
pub(super) struct Filters {
    all: BTreeSet<Box<str>>,
    bytes: usize,
}

impl Filters {
    /// Whether there is room for this one among `most`, and it is there now.
    fn add(&mut self, filter: &str, most: usize) -> bool {
        if self.all.contains(filter) {
            return true;
        }
        let bytes = self.bytes + filter.len();
        let has_room = self.all.len() < most && bytes <= most.saturating_mul(BYTES);
        if has_room {
            self.bytes = bytes;
            self.all.insert(filter.into());
        }
        has_room
    }

    fn remove(&mut self, filter: &str) {
        if let Some(own) = self.all.take(filter) {
            self.bytes -= own.len();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|own| &**own)
    }
}

impl Session {
    pub(super) fn subscribe(&mut self, packet: &[u8], head: &FixedHeader) -> Result<Fate, Fault> {
        let body = &packet[head.header..];
        let subscription = TopicSubscription::read(body, self.level, PropertyPlace::Subscribe)?;
        let id = subscription.packet_id;
        let method = method::SUBSCRIBE;
        let codes: Vec<Option<u8>> = subscription
            .filters()
            .map(|own| self.refusal_of(own.filter))
            .collect();
        if codes.iter().all(Option::is_some) {
            let codes: Vec<u8> = codes.into_iter().flatten().collect();
            let answer = write::subscribed(PacketType::Suback, self.level, id, &[], &codes);
            self.client.queue(&answer);
            let denied = Ending::Rejected(Rejection::Denied);
            self.tally.sent(method, SESSION, packet.len(), denied);
            return Ok(Fate::Drop);
        }
        self.tally
            .asked(Asked::Packet(id), method, SESSION, packet.len());
        let whole = codes.iter().all(Option::is_none);
        let names = self.applied.as_ref().map(|own| &own.names);
        let names = names.filter(|own| !own.are_plain());
        if whole && names.is_none() {
            return Ok(Fate::Pass);
        }
        let kept = subscription.filters().zip(&codes);
        let kept = kept.filter(|(_, code)| code.is_none());
        let kept = kept.map(|(own, _)| {
            let filter = names.map_or(own.filter.into(), |names| names.up_filter(own.filter));
            (filter, own.options)
        });
        let properties = subscription.properties.bytes();
        let written = write::subscription(packet[0], self.level, id, properties, kept);
        self.check_length(&written)?;
        if !whole {
            self.state.partial.retain(|(own, _)| *own != id);
            if self.state.partial.len() >= MAX_AWAITED {
                return Err(Fault::quota("too many subscriptions wait for their answer"));
            }
            self.state.partial.push((id, codes));
        }
        Ok(Fate::Replace(written, packet.len()))
    }

    /// What SUBACK says of a filter that does not get to the broker; `None` if it does.
    fn refusal_of(&mut self, filter: &str) -> Option<u8> {
        let applied = self.applied.as_ref().filter(|own| own.is_about_topics());
        let forbidden = applied.is_some_and(|own| !own.may_subscribe(filter));
        let reason = if forbidden || !self.filters.may_subscribe(filter) {
            Some(Reason::NOT_AUTHORIZED)
        } else if applied.is_some_and(|own| {
            let renamed = own.names.up_filter(filter);
            topic::check_renamed(topic::unshared(&renamed), Reason::BAD_FILTER).is_err()
        }) {
            Some(Reason::BAD_FILTER)
        } else if !self.state.filters.add(filter, self.bounds.subscriptions) {
            Some(Reason::QUOTA)
        } else {
            None
        };
        // Before MQTT 5 there is one word for all that.
        reason.map(|reason| if self.level.is_5() { reason.0 } else { 0x80 })
    }

    pub(super) fn unsubscribe(&mut self, packet: &[u8], head: &FixedHeader) -> Result<Fate, Fault> {
        let body = &packet[head.header..];
        let subscription = TopicSubscription::read(body, self.level, PropertyPlace::Unsubscribe)?;
        let id = subscription.packet_id;
        for own in subscription.filters() {
            self.state.filters.remove(own.filter);
        }
        self.tally.asked(
            Asked::Packet(id),
            method::UNSUBSCRIBE,
            SESSION,
            packet.len(),
        );
        let Some(applied) = self.applied.as_ref().filter(|own| !own.names.are_plain()) else {
            return Ok(Fate::Pass);
        };
        let filters = subscription.filters();
        let renamed = filters.map(|own| (applied.names.up_filter(own.filter), own.options));
        let properties = subscription.properties.bytes();
        let written = write::subscription(packet[0], self.level, id, properties, renamed);
        self.check_length(&written)?;
        Ok(Fate::Replace(written, packet.len()))
    }

    fn check_length(&self, written: &[u8]) -> Result<(), Fault> {
        if written.len() > self.endpoint_takes {
            let why = "the packet is longer than its broker takes";
            return Err(Fault::new(Reason::TOO_LARGE, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_bounded_in_number_and_bytes() {
        let mut own = Filters::default();
        assert!(own.add("a", 2) && own.add("b", 2) && own.add("a", 2));
        assert!(!own.add("c", 2));
        own.remove("a");
        own.remove("a");
        assert!(
            !own.add(&"x".repeat(2 * BYTES), 2),
            "longer than there is room"
        );
        assert!(own.add(&"x".repeat(2 * BYTES - 1), 2));
        own.remove("b");
        own.remove(&"x".repeat(2 * BYTES - 1));
        assert_eq!((own.iter().count(), own.bytes), (0, 0));
    }
}
