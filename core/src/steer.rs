//! Frameworks' own rules: which endpoints a call may go to, by what the call says.

use std::net::IpAddr;
use std::sync::Arc;

use crate::discovery::{Condition, Pattern, Rule, Subject};
use crate::endpoint::Endpoint;

/// Rules of one cluster, at most: each is a bit of a call's [`matching`] set.
pub const MAX_RULES: usize = 64;

/// What a call says of itself.
pub struct Facts<'a> {
    /// The method.
    pub method: &'a str,
    /// The service.
    pub service: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its group.
    pub group: &'a str,
    /// The caller's address.
    pub source: IpAddr,
    /// The value of an attribute.
    pub attribute: &'a mut dyn FnMut(&str) -> Option<String>,
}

impl Facts<'_> {
    fn of(&mut self, subject: &Subject) -> Option<String> {
        match subject {
            Subject::Method => Some(self.method.to_owned()),
            Subject::Service => Some(self.service.to_owned()),
            Subject::Version => Some(self.version.to_owned()),
            Subject::Group => Some(self.group.to_owned()),
            Subject::Source => Some(self.source.to_string()),
            Subject::Attribute(name) => (self.attribute)(name),
            Subject::Address | Subject::Host | Subject::Port | Subject::Label(_) => None,
        }
    }

    fn holds(&mut self, condition: &Condition) -> bool {
        let value = self.of(&condition.subject);
        let mut any = false;
        for pattern in &condition.patterns {
            any |= match pattern {
                Pattern::Glob(glob) => fits(glob, value.as_deref()),
                Pattern::OfCall(other) => value.is_some() && self.of(other) == value,
            };
        }
        any != condition.negated
    }
}

/// The rules that are for a call, a bit each.
pub fn matching(rules: &[Rule], facts: &mut Facts<'_>) -> u64 {
    let mut set = 0;
    for (bit, rule) in rules.iter().enumerate().take(MAX_RULES) {
        if rule.when.iter().all(|condition| facts.holds(condition)) {
            set |= 1 << bit;
        }
    }
    set
}

/// What the call says of every subject that the endpoints of these rules are compared with, in
/// the order of the rules.
pub fn compared(rules: &[Rule], set: u64, facts: &mut Facts<'_>) -> Vec<Option<String>> {
    let mut values = Vec::new();
    for pattern in chosen(rules, set).flat_map(patterns) {
        if let Pattern::OfCall(subject) = pattern {
            values.push(facts.of(subject));
        }
    }
    values
}

/// The endpoints that the rules of `set` leave, `compared` being what [`compared`] gave.
#[must_use]
pub fn steer(
    mut endpoints: Vec<Arc<Endpoint>>,
    rules: &[Rule],
    set: u64,
    compared: &[Option<String>],
) -> Vec<Arc<Endpoint>> {
    let mut rest = compared;
    for rule in chosen(rules, set) {
        let count = patterns(rule)
            .filter(|pattern| matches!(pattern, Pattern::OfCall(_)))
            .count();
        let (own, after) = rest.split_at(count.min(rest.len()));
        rest = after;
        let left: Vec<_> = match &rule.then {
            None => Vec::new(),
            Some(then) => endpoints
                .iter()
                .filter(|endpoint| is_left(endpoint, then, own))
                .cloned()
                .collect(),
        };
        if !left.is_empty() || rule.force || rule.then.is_none() {
            endpoints = left;
        }
    }
    endpoints
}

fn chosen(rules: &[Rule], set: u64) -> impl Iterator<Item = &Rule> {
    let numbered = rules.iter().enumerate().take(MAX_RULES);
    numbered.filter_map(move |(bit, rule)| (set & 1 << bit != 0).then_some(rule))
}

fn patterns(rule: &Rule) -> impl Iterator<Item = &Pattern> {
    let then = rule.then.iter().flatten();
    then.flat_map(|condition| &condition.patterns)
}

fn is_left(endpoint: &Endpoint, then: &[Condition], mut compared: &[Option<String>]) -> bool {
    let mut left = true;
    for condition in then {
        let value = match &condition.subject {
            Subject::Address => Some(endpoint.address.to_string()),
            Subject::Host => Some(endpoint.address.ip().to_string()),
            Subject::Port => Some(endpoint.address.port().to_string()),
            Subject::Label(name) => endpoint.labels.get(name).cloned(),
            _ => None,
        };
        let mut any = false;
        for pattern in &condition.patterns {
            any |= match pattern {
                Pattern::Glob(glob) => fits(glob, value.as_deref()),
                Pattern::OfCall(_) => {
                    let own = compared.split_first();
                    compared = own.map_or(compared, |(_, rest)| rest);
                    value.is_some() && own.is_some_and(|(own, _)| *own == value)
                }
            };
        }
        left &= any != condition.negated;
    }
    left
}

/// Whether a text fits; one that is not there fits nothing.
fn fits(glob: &str, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    match glob.split_once('*') {
        None => glob == value,
        Some((beginning, end)) => {
            value.len() >= beginning.len() + end.len()
                && value.starts_with(beginning)
                && value.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16, zone: &str) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: ([10, 0, 0, 1], port).into(),
            weight: 1,
            labels: [("zone".to_owned(), zone.to_owned())].into(),
            warm_up: None,
            terms: None,
            health: Arc::default(),
        })
    }

    fn is(subject: Subject, glob: &str) -> Condition {
        Condition {
            subject,
            negated: false,
            patterns: vec![Pattern::Glob(glob.to_owned())],
        }
    }

    fn zone() -> Subject {
        Subject::Label("zone".to_owned())
    }

    fn ports(rules: &[Rule], method: &str, zone: Option<&str>) -> Vec<u16> {
        let all = vec![endpoint(1, "a"), endpoint(2, "b"), endpoint(3, "b")];
        let mut facts = Facts {
            method,
            service: "s",
            version: "",
            group: "",
            source: [10, 9, 8, 7].into(),
            attribute: &mut |_| zone.map(str::to_owned),
        };
        let set = matching(rules, &mut facts);
        let compared = compared(rules, set, &mut facts);
        let left = steer(all, rules, set, &compared);
        left.iter().map(|each| each.address.port()).collect()
    }

    #[test]
    fn a_rule_is_for_the_calls_it_says() {
        let rules = [Rule {
            when: vec![is(Subject::Method, "get*"), is(Subject::Source, "10.*")],
            then: Some(vec![is(zone(), "b")]),
            force: false,
        }];
        assert_eq!(ports(&rules, "getIt", None), [2, 3]);
        assert_eq!(ports(&rules, "setIt", None), [1, 2, 3]);
    }

    #[test]
    fn rules_follow_one_another_and_force_leaves_none() {
        let to = |glob: &str, force| Rule {
            when: vec![],
            then: Some(vec![is(Subject::Address, glob)]),
            force,
        };
        let not = Rule {
            when: vec![],
            then: Some(vec![Condition {
                negated: true,
                ..is(Subject::Port, "2")
            }]),
            force: true,
        };
        let rules = [to("10.0.0.1:9", false), not.clone()];
        assert_eq!(ports(&rules, "m", None), [1, 3]);
        assert!(ports(&[to("10.0.0.1:9", true), not], "m", None).is_empty());
        let deny = Rule {
            when: vec![is(Subject::Method, "drop")],
            then: None,
            force: false,
        };
        assert!(ports(std::slice::from_ref(&deny), "drop", None).is_empty());
        assert_eq!(ports(&[deny], "keep", None).len(), 3);
    }

    #[test]
    fn endpoints_are_compared_with_what_the_call_says() {
        let same = Condition {
            subject: zone(),
            negated: false,
            patterns: vec![Pattern::OfCall(Subject::Attribute("zone".to_owned()))],
        };
        let rules = [Rule {
            when: vec![],
            then: Some(vec![same]),
            force: true,
        }];
        assert_eq!(ports(&rules, "m", Some("a")), [1]);
        assert_eq!(ports(&rules, "m", Some("b")), [2, 3]);
        assert!(ports(&rules, "m", None).is_empty());
    }
}
