//! Filters of routes and listeners, asked about what is done within a session.

use std::rc::Rc;

use finback_core::driver::{Caller, DrivenExchange, PartedFilters, SessionFilters};
use finback_core::filter::{Action, Message, MessageFlow, READINGS, Topics};

use crate::NAME;
use crate::codec::{Connect, Level};
use crate::open::{attribute, metadata, readings};
use crate::topic::{self, covers};

static TOPICS: Topics = Topics {
    covers,
    meets: topic::reaches,
};

/// A message to this topic.
pub(crate) fn published(topic: &str, bytes: usize) -> Message<'_> {
    Message {
        topics: &TOPICS,
        action: Action::Publish,
        topic: topic::delivered(topic),
        bytes,
    }
}

/// The filters of one session.
#[derive(Default)]
pub(crate) struct Filters(Option<Box<Asked>>);

struct Asked {
    filters: SessionFilters,
    /// What the session is known by: the names and values that a CONNECT has.
    attributes: Rc<[(String, String)]>,
}

/// What a CONNECT says that has no name of a user property.
const NAMED: [&str; 5] = [
    crate::CLIENT_ID,
    ":username",
    ":will-topic",
    ":clean",
    ":keep-alive",
];

/// The same between two workers: of a session about which none of them decides.
pub(crate) struct Parted(Option<(PartedFilters, Vec<(String, String)>)>);

impl Filters {
    /// Leaves its worker; `None` where one of them decides about the session: that one stays.
    pub(crate) fn part(&self) -> Option<Parted> {
        let Some(own) = &self.0 else {
            return Some(Parted(None));
        };
        let attributes = own.attributes.to_vec();
        Some(Parted(Some((own.filters.part()?, attributes))))
    }

    /// Goes on in the worker of this caller.
    pub(crate) fn resume(caller: &Caller, level: Level, parted: Parted) -> Self {
        Self(parted.0.map(|(filters, attributes)| {
            let filters = caller.resume_filters(NAME, &metadata(level), filters);
            let attributes = attributes.into();
            Box::new(Asked {
                filters,
                attributes,
            })
        }))
    }

    /// Those of the session that `exchange` began. `key` is the client's identifier as routing knows it.
    pub(crate) fn of(exchange: &DrivenExchange, connect: &Connect<'_>, key: &str) -> Self {
        let Some(filters) = exchange.session_filters() else {
            return Self::default();
        };
        let users = connect.properties().users();
        let named = |name: &str| Some((name.to_owned(), attribute(connect, key, name)?));
        // Names that begin with a colon are no user property's.
        let users = users.filter(|(name, _)| !name.starts_with(':'));
        let users = users.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(Some(Box::new(Asked {
            filters,
            attributes: NAMED.into_iter().filter_map(named).chain(users).collect(),
        })))
    }

    /// Whether any may decide about a message.
    pub(crate) fn are_any(&self) -> bool {
        self.0.as_ref().is_some_and(|own| !own.filters.is_idle())
    }

    fn ask(&self, message: &Message<'_>) -> MessageFlow {
        let Some(own) = &self.0 else {
            return MessageFlow::Continue;
        };
        let mut read = reading(&own.attributes);
        own.filters.message(message, &mut read)
    }

    /// What becomes of a message to this topic.
    pub(crate) fn publish(&self, topic: &str, bytes: usize) -> MessageFlow {
        self.ask(&published(topic, bytes))
    }

    /// Whether the topics of this filter may be asked for.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let message = Message {
            topics: &TOPICS,
            action: Action::Subscribe,
            topic: topic::selected(filter),
            bytes: 0,
        };
        !matches!(self.ask(&message), MessageFlow::Refuse(_))
    }

    /// Whether a message to this topic may be heard, by whoever asked for it.
    pub(crate) fn may_hear(&self, topic: &str) -> bool {
        self.may_subscribe(topic)
    }

    /// Whether the configuration was changed such that the session has to end, with what it is `subscribed` to.
    pub(crate) fn are_revoked<'a>(&mut self, subscribed: impl Iterator<Item = &'a str>) -> bool {
        let Some(own) = &mut self.0 else { return false };
        if !own.filters.renew() {
            return false;
        }
        own.filters.are_against(&mut reading(&own.attributes)) || !self.may_hear_all(subscribed)
    }

    fn may_hear_all<'a>(&self, mut subscribed: impl Iterator<Item = &'a str>) -> bool {
        !self.are_any() || subscribed.all(|filter| self.may_subscribe(filter))
    }
}

fn reading(attributes: &[(String, String)]) -> impl FnMut(&str) -> Option<String> {
    |name| {
        if let Some(name) = name.strip_prefix(READINGS) {
            let all = attributes.iter();
            return readings(all.map(|(own, value)| (&**own, &**value)), name);
        }
        let own = attributes.iter().find(|(own, _)| own == name);
        own.map(|(_, value)| value.clone())
    }
}
