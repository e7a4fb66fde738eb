//! The rules of a policy, sorted by what they name, so that a call has few of them looked at, however many there are.

use std::collections::{BTreeMap, HashMap};

use super::{Asked, Effect, Policy, Rule};
use crate::identity::Identity;
use crate::route::{Call, Cidr, Text};

/// So many rules are compared one by one at less cost than they are looked up.
const FEW: usize = 16;

/// Rules that may be about the same calls, by their numbers.
#[derive(Debug, Default)]
struct ByService {
    /// Those that name one service, by its name.
    named: BTreeMap<Box<str>, Vec<usize>>,
    others: Vec<usize>,
}

impl ByService {
    fn add(&mut self, number: usize, rule: &Rule) {
        let numbers = match &rule.when.service {
            Text::Exact(name) => self.named.entry(name.clone()).or_default(),
            _ => &mut self.others,
        };
        numbers.push(number);
    }

    /// The numbers of those that may be about this service.
    fn of(&self, service: &str) -> impl Iterator<Item = usize> {
        let named = self.named.get(service).into_iter().flatten();
        named.chain(&self.others).copied()
    }
}

/// Rules that may be about the same callers.
#[derive(Debug, Default)]
struct ByIdentity {
    /// Those that name one identity, by its name.
    named: BTreeMap<Box<str>, ByService>,
    others: ByService,
}

impl ByIdentity {
    fn add(&mut self, number: usize, rule: &Rule) {
        let index = match &rule.when.identity {
            Some((_, Text::Exact(name))) => self.named.entry(name.clone()).or_default(),
            _ => &mut self.others,
        };
        index.add(number, rule);
    }

    /// The numbers of those that may be about calls to this service by this client. A client may have a name twice, and
    /// then so is a number.
    fn of(&self, service: &str, client: Option<&Identity>) -> impl Iterator<Item = usize> {
        let named = client.into_iter().flat_map(Identity::names);
        let named = named.filter_map(|name| self.named.get(name));
        named
            .chain([&self.others])
            .flat_map(move |own| own.of(service))
    }
}

/// What is looked up of each call to find a rule that is about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    /// An attribute, and the value that is asked for.
    Attribute(&'a str, &'a str),
    /// A network of addresses.
    Network(Cidr),
}

/// What a rule could be found by: one value each of several attributes, all the networks of callers together.
fn keys(rule: &Rule) -> Vec<Vec<Key<'_>>> {
    let exact = rule.when.attributes.iter();
    let exact = exact.filter_map(|(name, text)| match text {
        Text::Exact(value) => Some(vec![Key::Attribute(name, value)]),
        Text::Any | Text::Prefix(_) | Text::Regex(_) => None,
    });
    let mut keys: Vec<_> = exact.collect();
    if !rule.when.sources.is_empty() {
        let networks = rule.when.sources.iter().copied();
        keys.push(networks.map(Key::Network).collect());
    }
    keys
}

/// A policy with its rules sorted out.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) policy: Policy,
    /// Rules that are found by whose call it is and what it is about, once for all calls of a kind by one client.
    general: ByIdentity,
    /// Rules that are found by the value of an attribute, by the attribute and the value.
    by_attribute: BTreeMap<Box<str>, HashMap<Box<str>, ByIdentity>>,
    /// Rules that are found by the caller's address.
    by_network: HashMap<Cidr, ByIdentity>,
    /// The prefix lengths of these networks, of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
    /// Some rule asks who somebody is.
    asks_who: bool,
}

impl Book {
    pub(super) fn new(policy: Policy) -> Self {
        let mut own = Self {
            asks_who: policy.rules.iter().any(|rule| rule.when.identity.is_some()),
            general: ByIdentity::default(),
            by_attribute: BTreeMap::new(),
            by_network: HashMap::new(),
            lengths: Default::default(),
            policy: Policy {
                rules: Vec::new(),
                ..policy
            },
        };
        let all: Vec<_> = policy.rules.iter().map(keys).collect();
        let mut uses: HashMap<Key<'_>, usize> = HashMap::new();
        for key in all.iter().flatten().flatten() {
            *uses.entry(*key).or_default() += 1;
        }
        let is_few = all.iter().filter(|own| !own.is_empty()).count() <= FEW;
        for ((number, rule), keys) in policy.rules.iter().enumerate().zip(all) {
            let most = |keys: &Vec<Key<'_>>| keys.iter().map(|key| uses[key]).max();
            // What few others are found by, too, leaves the fewest to be compared.
            match keys.into_iter().min_by_key(most) {
                Some(keys) if !is_few => own.add_by(&keys, number, rule),
                _ => own.general.add(number, rule),
            }
        }
        drop(uses);
        own.policy.rules = policy.rules;
        own
    }

    fn add_by(&mut self, keys: &[Key<'_>], number: usize, rule: &Rule) {
        for key in keys {
            let index = match key {
                Key::Attribute(name, value) => {
                    let values = self.by_attribute.entry((*name).into()).or_default();
                    values.entry((*value).into()).or_default()
                }
                Key::Network(network) => {
                    let lengths = &mut self.lengths[usize::from(network.is_v6())];
                    if !lengths.contains(&network.bits()) {
                        lengths.push(network.bits());
                    }
                    self.by_network.entry(*network).or_default()
                }
            };
            index.add(number, rule);
        }
    }

    /// Whether some rule may be about calls of this kind, depending on who calls, from where, or with which attributes.
    pub(super) fn is_about_some(&self) -> bool {
        self.asks_who || self.has_keys()
    }

    /// Whether rules are found by what differs between calls of a kind.
    pub(super) fn has_keys(&self) -> bool {
        !self.by_attribute.is_empty() || !self.by_network.is_empty()
    }

    /// Whether calls may pass that only these rules are about, whatever else is said in them.
    pub(super) fn passes(&self, about: &[usize]) -> bool {
        let mut allowed = self.policy.default == Effect::Allow;
        for number in about {
            let rule = &self.policy.rules[*number];
            let is_certain = rule.when.attributes.is_empty() && rule.when.sources.is_empty();
            match rule.effect {
                _ if !rule.is_about_opening() => {}
                // One that only counts has to be asked, too.
                Effect::Deny => return false,
                Effect::Allow => allowed |= is_certain && !rule.dry_run,
            }
        }
        allowed && !self.has_keys()
    }

    /// The numbers of the other rules that have to be looked at for calls to this service by this client.
    pub(super) fn candidates(
        &self,
        service: &str,
        client: Option<&Identity>,
    ) -> impl Iterator<Item = usize> {
        self.general.of(service, client)
    }

    /// The numbers, in order, of those of these that are about calls of this kind by this client.
    pub(super) fn fit(
        &self,
        candidates: impl Iterator<Item = usize>,
        call: &Call<'_>,
        client: Option<&Identity>,
    ) -> Vec<usize> {
        let mut about: Vec<usize> = candidates
            .filter(|number| {
                let when = &self.policy.rules[*number].when;
                when.names(call) && when.identifies(client)
            })
            .collect();
        about.sort_unstable();
        about.dedup();
        about
    }

    /// The numbers of the rules that are found by an attribute or by the address, and have to be looked at for this call.
    pub(super) fn found(&self, service: &str, asked: &mut Asked<'_, '_>) -> Vec<usize> {
        let client = asked.client;
        let mut found = Vec::new();
        let mut add = |index: Option<&ByIdentity>| {
            found.extend(index.into_iter().flat_map(|own| own.of(service, client)));
        };
        let source = asked.source.to_canonical();
        for bits in &self.lengths[usize::from(source.is_ipv6())] {
            add(self.by_network.get(&Cidr::around(source, *bits)));
        }
        for (name, values) in &self.by_attribute {
            if let Some(value) = asked.attribute(name) {
                add(values.get(&*value));
            }
            // A rule that denies holds by any other reading, too.
            if let Some(readings) = asked.readings(name) {
                readings.lines().for_each(|own| add(values.get(own)));
            }
        }
        found
    }
}
