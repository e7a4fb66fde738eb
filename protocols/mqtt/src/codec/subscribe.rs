//! SUBSCRIBE and UNSUBSCRIBE (MQTT 5, sections 3.8, 3.10).

use super::Level;
use super::properties::{Properties, PropertyPlace};
use super::reader::{Fault, Reader};
use crate::topic;

/// What a client wants to hear, or to hear no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSubscription<'a> {
    /// Its identifier.
    pub packet_id: u16,
    /// Its properties.
    pub properties: Properties<'a>,
    filters: &'a [u8],
    with_options: bool,
}

/// One topic filter of a SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    /// The filter.
    pub filter: &'a str,
    /// SUBSCRIBE: the options of the subscription (3.1.1: the quality of service).
    pub options: Option<u8>,
}

/// Topic filters of one packet, at most.
const MAX_FILTERS: usize = 8192;

impl<'a> TopicSubscription<'a> {
    /// Reads what follows the fixed header.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(body: &'a [u8], level: Level, place: PropertyPlace) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let packet_id = reader.packet_id()?;
        let properties = if level.is_5() {
            Properties::read(&mut reader, place)?
        } else {
            Properties::default()
        };
        let own = Self {
            packet_id,
            properties,
            filters: reader.rest(),
            with_options: place == PropertyPlace::Subscribe,
        };
        own.check(level)?;
        Ok(own)
    }

    fn check(&self, level: Level) -> Result<(), Fault> {
        let mut reader = Reader::new(self.filters);
        let mut number = 0;
        while !reader.rest().is_empty() {
            let TopicFilter { filter, options } = self.next(&mut reader)?;
            topic::check_filter(filter, level)?;
            let options = options.unwrap_or(0);
            // MQTT 5, section 3.8.3.1; MQTT 3.1.1, section 3.8.3.
            let sound = if level.is_5() {
                options & 0xc0 == 0 && options & 3 != 3 && options >> 4 & 3 != 3
            } else {
                options <= 2
            };
            if !sound {
                return Err(Fault::protocol(
                    "a subscription has options that there are not",
                ));
            }
            // MQTT 5, section 3.8.3.1: No Local with a shared subscription.
            if level.is_5() && options & 4 != 0 && filter.starts_with(topic::SHARE) {
                return Err(Fault::protocol(
                    "a shared subscription excludes its own messages",
                ));
            }
            number += 1;
            if number > MAX_FILTERS {
                return Err(Fault::quota("too many topic filters in one packet"));
            }
        }
        // MQTT 5, sections 3.8.3 and 3.10.3.
        if number == 0 {
            return Err(Fault::protocol("a packet without a topic filter"));
        }
        Ok(())
    }

    fn next(&self, reader: &mut Reader<'a>) -> Result<TopicFilter<'a>, Fault> {
        let filter = reader.text()?;
        let options = self.with_options.then(|| reader.byte()).transpose()?;
        Ok(TopicFilter { filter, options })
    }

    /// Its topic filters, in order.
    pub fn filters(&self) -> impl Iterator<Item = TopicFilter<'a>> {
        let own = *self;
        let mut reader = Reader::new(self.filters);
        std::iter::from_fn(move || {
            if reader.rest().is_empty() {
                return None;
            }
            own.next(&mut reader).ok()
        })
    }
}
