//! Providers as a layout reads them: their hosts may still have to be looked up.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use finback_core::discovery::Lane;

use crate::offer::{CallRules, Provider};
use crate::store::{Answer, Entries};

/// A provider whose host may still have to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    /// The host as it was written, unless the provider's address says the same.
    name: Option<Box<str>>,
    pub(crate) port: u16,
    /// It says of itself that it takes no calls: known, as every reading asks every provider.
    pub(crate) is_disabled: bool,
    /// Its address is known unless the host is a name.
    pub(crate) provider: Arc<Provider>,
}

impl Draft {
    pub(crate) fn new(host: &str, port: u16, mut provider: Provider) -> Self {
        let ip = host.parse::<IpAddr>().ok();
        if let Some(ip) = ip {
            provider.address = SocketAddr::new(ip, port);
        }
        let is_plain = ip.is_some_and(|ip| ip.to_string() == host);
        Self {
            name: (!is_plain).then(|| host.into()),
            port,
            is_disabled: is_disabled(&provider),
            provider: Arc::new(provider),
        }
    }

    /// The host as it was written.
    pub(crate) fn host(&self) -> Cow<'_, str> {
        match &self.name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(self.provider.address.ip().to_string()),
        }
    }

    /// The name that the host's addresses are looked up by; `None` if it is one itself.
    pub(crate) fn name(&self) -> Option<&str> {
        let name = self.name.as_deref();
        name.filter(|name| name.parse::<IpAddr>().is_err())
    }

    /// The same place with another description.
    pub(super) fn with(self, mut provider: Provider) -> Self {
        let former = &self.provider;
        provider.address = former.address;
        provider.parameters.share(&former.parameters);
        Self {
            is_disabled: is_disabled(&provider),
            provider: Arc::new(provider),
            ..self
        }
    }

    /// The same, sharing with another what both say alike.
    fn like(mut self, other: &Self) -> Self {
        let provider = Arc::make_mut(&mut self.provider);
        provider.labels.share(&other.provider.labels);
        provider.parameters.share(&other.provider.parameters);
        self
    }
}

fn is_disabled(provider: &Provider) -> bool {
    provider.parameters.get("disabled") == Some("true")
}

/// What a layout makes of a store's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drafts {
    pub(crate) known: bool,
    pub(crate) drafts: Vec<Draft>,
    /// Entries that cannot be read.
    pub(crate) unreadable: usize,
    /// We may not read where providers are, and never could.
    pub(crate) refused: bool,
    /// The framework's own split.
    pub(crate) lane: Option<Lane>,
    /// The framework's own rules.
    pub(crate) rules: CallRules,
    /// Providers that the store lists, those included that rules switch off.
    pub(crate) listed: usize,
}

/// What an entry describes: `None` if it cannot be read, `Some(None)` if that is no provider.
pub(super) type Read = Option<Option<Draft>>;

/// What was read last, so that a change costs what changed.
#[derive(Default)]
pub(super) struct Cached {
    entries: Arc<Entries>,
    /// What each of them describes, in their order.
    drafts: Vec<Read>,
}

impl Drafts {
    /// Reads entries one by one: one that cannot be read costs itself, never the service.
    pub(super) fn of(answer: Option<&Answer>, read: impl FnMut(&str, &[u8]) -> Read) -> Self {
        Self::again(&mut Cached::default(), answer, read)
    }

    /// The same, of which what did not change is not read again.
    pub(super) fn again(
        cached: &mut Cached,
        answer: Option<&Answer>,
        mut read: impl FnMut(&str, &[u8]) -> Read,
    ) -> Self {
        let Cached {
            entries: former,
            drafts: known,
        } = std::mem::take(cached);
        let Some(Answer::Entries(entries)) = answer else {
            return Self {
                refused: answer == Some(&Answer::Refused),
                ..Self::default()
            };
        };
        let mut known = known.into_iter().enumerate().peekable();
        let mut last: Option<Draft> = None;
        cached.drafts = Vec::with_capacity(entries.len());
        for place in 0..entries.len() {
            // Both are in order of name.
            while known
                .next_if(|(own, _)| former.compare(*own, entries, place).is_lt())
                .is_some()
            {}
            let same = known.next_if(|(own, _)| former.is_same(*own, entries, place));
            let mut fresh = || {
                let (name, value) = entries.at(place)?;
                read(&name, value)
            };
            let read = match same {
                Some((_, read)) => read,
                None => match (fresh(), &last) {
                    // Providers of one service differ in little.
                    (Some(Some(draft)), Some(last)) => Some(Some(draft.like(last))),
                    (read, _) => read,
                },
            };
            if let Some(Some(draft)) = &read {
                last = Some(draft.clone());
            }
            cached.drafts.push(read);
        }
        cached.entries = entries.clone();
        let drafts: Vec<Draft> = cached.drafts.iter().flatten().flatten().cloned().collect();
        Self {
            known: true,
            unreadable: cached.drafts.iter().filter(|read| read.is_none()).count(),
            listed: drafts.len(),
            drafts,
            ..Self::default()
        }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.known |= other.known;
        self.drafts.extend(other.drafts);
        self.unreadable += other.unreadable;
        self.refused |= other.refused;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::layout::{LayoutKind, provider};

    fn entries(values: &[(&str, u16)]) -> Answer {
        let entries = values.iter().map(|(name, port)| {
            let value = Bytes::from(port.to_string());
            ((*name).to_owned(), value)
        });
        Answer::Entries(Arc::new(entries.collect()))
    }

    #[test]
    fn a_change_has_only_what_changed_read_again() {
        let mut cached = Cached::default();
        let mut seen = |values: &[(&str, u16)]| {
            let mut asked = Vec::new();
            let read = |name: &str, value: &[u8]| {
                asked.push(name.to_owned());
                let port = std::str::from_utf8(value).ok()?.parse().ok()?;
                let parameters = [("a", "same"), ("b", name)];
                let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
                let provider = provider(LayoutKind::Dubbo, "dubbo", BTreeMap::from(parameters));
                Some(Some(Draft::new("10.0.0.1", port, provider)))
            };
            let drafts = Drafts::again(&mut cached, Some(&entries(values)), read).drafts;
            let ports: Vec<u16> = drafts.iter().map(|draft| draft.port).collect();
            (asked.join(" "), ports)
        };
        let all = [("a", 1), ("b", 2), ("d", 4)];
        assert_eq!(seen(&all), ("a b d".to_owned(), vec![1, 2, 4]));
        assert_eq!(seen(&all), (String::new(), vec![1, 2, 4]));
        let more = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
        assert_eq!(seen(&more), ("c".to_owned(), vec![1, 2, 3, 4]));
        // One gone, one with another value.
        let fewer = [("b", 2), ("c", 5), ("d", 4)];
        assert_eq!(seen(&fewer), ("c".to_owned(), vec![2, 5, 4]));
        assert_eq!(seen(&[]), (String::new(), vec![]));
        assert_eq!(seen(&all), ("a b d".to_owned(), vec![1, 2, 4]));
    }
}
