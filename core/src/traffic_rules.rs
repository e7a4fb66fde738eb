//! Traffic rules of frameworks: which endpoints a call may go to, by what the call says.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::discovery::{Condition, Pattern, Rule, RuleDestination, Rules, Subject};
use crate::endpoint::Endpoint;

/// Destinations of one rule, at most: those without endpoints are bits of a set.
pub const MAX_DESTINATIONS: usize = 64;

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
    /// Attributes that rules asked for: each is looked for once a call.
    pub read: Vec<(String, Option<String>)>,
}

impl Facts<'_> {
    /// The value of an attribute.
    pub fn attribute(&mut self, name: &str) -> Option<&str> {
        let at = match self.read.iter().position(|(own, _)| own == name) {
            Some(at) => at,
            None => {
                let value = (self.attribute)(name);
                self.read.push((name.to_owned(), value));
                self.read.len() - 1
            }
        };
        self.read[at].1.as_deref()
    }

    fn of(&mut self, subject: &Subject) -> Option<Cow<'_, str>> {
        match subject {
            Subject::Method => Some(self.method.into()),
            Subject::Service => Some(self.service.into()),
            Subject::Version => Some(self.version.into()),
            Subject::Group => Some(self.group.into()),
            Subject::Source => Some(self.source.to_string().into()),
            Subject::Attribute(name) => self.attribute(name).map(Cow::Borrowed),
            Subject::Address | Subject::Host | Subject::Port | Subject::Label(_) => None,
        }
    }

    fn holds(&mut self, condition: &Condition) -> bool {
        if self.of(&condition.subject).is_none() {
            return false;
        }
        let any = condition.patterns.iter().any(|pattern| match pattern {
            Pattern::OfCall(other) => {
                let other = self.of(other).map(Cow::into_owned);
                self.of(&condition.subject).as_deref() == other.as_deref()
            }
            pattern => self
                .of(&condition.subject)
                .is_some_and(|value| fits(pattern, &value)),
        });
        any != condition.negated
    }
}

/// The rules that are for one call, and what the call says that endpoints are compared with.
#[derive(Clone, Debug, Default)]
pub struct MatchedRules {
    rules: Vec<Arc<Rule>>,
    /// By rule and pattern, in their order.
    compared: Vec<Option<String>>,
    /// The destination drawn for each rule that has several, in their order; `None` if none of
    /// them has endpoints.
    drawn: Vec<Option<usize>>,
}

/// Rules are the same if they are the same object: those of a former snapshot are not.
impl PartialEq for MatchedRules {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, two): (&Arc<Rule>, &Arc<Rule>)| Arc::ptr_eq(one, two);
        self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(same)
            && self.compared == other.compared
            && self.drawn == other.drawn
    }
}

impl Eq for MatchedRules {}

/// A destination that was drawn and has no endpoints: the position of the drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deserted(usize);

impl MatchedRules {
    /// The rules that are for a call; `random` draws their destinations.
    pub fn of(rules: &Rules, facts: &mut Facts<'_>, random: u64) -> Self {
        let mut matched = Self::default();
        matched.add(&rules.first, facts);
        if let Some(callers) = &rules.callers {
            let by_caller = callers.rules();
            if !by_caller.is_empty()
                && let Some(own) = facts
                    .attribute(&callers.attribute)
                    .and_then(|caller| by_caller.get(caller))
            {
                matched.add(own, facts);
            }
        }
        matched.add(&rules.last, facts);
        matched.prepare(facts, random);
        matched
    }

    fn add(&mut self, rules: &[Arc<Rule>], facts: &mut Facts<'_>) {
        for rule in rules {
            if rule.when.iter().all(|condition| facts.holds(condition)) {
                self.rules.push(rule.clone());
            }
        }
    }

    fn prepare(&mut self, facts: &mut Facts<'_>, random: u64) {
        for rule in &self.rules {
            for pattern in patterns(rule) {
                if let Pattern::OfCall(subject) = pattern {
                    self.compared.push(facts.of(subject).map(Cow::into_owned));
                }
            }
            if rule.then.len() > 1 {
                let turn = u32::try_from(self.drawn.len()).unwrap_or(u32::MAX);
                let random = random.rotate_left(turn.wrapping_mul(17));
                self.drawn.push(draw(&rule.then, 0, random));
            }
        }
    }

    /// Draws another destination instead of one without endpoints. `empty` has those found so far
    /// for each drawing, a bit each.
    pub fn redraw(&mut self, Deserted(at): Deserted, empty: &mut Vec<u64>, random: u64) {
        let several = self.rules.iter().filter(|rule| rule.then.len() > 1);
        let (Some(rule), Some(Some(last))) = (several.into_iter().nth(at), self.drawn.get(at))
        else {
            return;
        };
        empty.resize(self.drawn.len(), 0);
        empty[at] |= 1 << (last % MAX_DESTINATIONS);
        let turn = empty[at].count_ones().wrapping_mul(13);
        let drawn = draw(&rule.then, empty[at], random.rotate_left(turn));
        self.drawn[at] = drawn;
    }

    /// The endpoints that are left.
    ///
    /// # Errors
    /// If a destination that was drawn has none: another is to be drawn.
    pub fn apply(&self, mut endpoints: Vec<Arc<Endpoint>>) -> Result<Vec<Arc<Endpoint>>, Deserted> {
        let mut rest = &*self.compared;
        let mut drawing = 0;
        for rule in &self.rules {
            let compares = |pattern: &&Pattern| matches!(pattern, Pattern::OfCall(_));
            let count = patterns(rule).filter(compares).count();
            let (own, after) = rest.split_at(count.min(rest.len()));
            rest = after;
            let (chosen, is_drawn) = match &*rule.then {
                [] => (None, false),
                [_] => (Some(0), false),
                _ => {
                    drawing += 1;
                    (self.drawn.get(drawing - 1).copied().flatten(), true)
                }
            };
            let passes = |endpoint: &&Arc<Endpoint>| {
                chosen.is_some_and(|chosen| is_left(endpoint, rule, chosen, own))
            };
            let spoken_of = |endpoint: &&Arc<Endpoint>| all_hold(endpoint, &rule.among);
            let mine = || endpoints.iter().filter(spoken_of);
            if mine().any(|endpoint| passes(&endpoint)) {
                endpoints.retain(|each| !spoken_of(&each) || passes(&each));
            } else if is_drawn && chosen.is_some() && mine().next().is_some() {
                return Err(Deserted(drawing - 1));
            } else if rule.force || rule.then.is_empty() {
                endpoints.retain(|each| !spoken_of(&each));
            }
        }
        Ok(endpoints)
    }
}

/// Draws a destination by weight, but none of `empty`.
fn draw(destinations: &[RuleDestination], empty: u64, random: u64) -> Option<usize> {
    let numbered = || {
        let taken = destinations.iter().enumerate().take(MAX_DESTINATIONS);
        taken.filter(|(at, each)| empty & (1 << at) == 0 && each.weight > 0)
    };
    let total: u64 = numbered().map(|(_, each)| u64::from(each.weight)).sum();
    let mut left = random.checked_rem(total)?;
    for (at, each) in numbered() {
        match left.checked_sub(u64::from(each.weight)) {
            Some(less) => left = less,
            None => return Some(at),
        }
    }
    None
}

fn patterns(rule: &Rule) -> impl Iterator<Item = &Pattern> {
    let conditions = rule.then.iter().flat_map(|each| &each.conditions);
    conditions.flat_map(|condition| &condition.patterns)
}

/// Whether an endpoint is of this destination of a rule.
fn is_left(endpoint: &Endpoint, rule: &Rule, chosen: usize, compared: &[Option<String>]) -> bool {
    let mut rest = compared.iter();
    let mut left = true;
    for (at, destination) in rule.then.iter().enumerate() {
        for condition in &destination.conditions {
            let value = value(endpoint, &condition.subject);
            let mut any = false;
            for pattern in &condition.patterns {
                any |= match pattern {
                    Pattern::OfCall(_) => {
                        let own = rest.next().and_then(Option::as_deref);
                        value.is_some() && own == value.as_deref()
                    }
                    pattern => value.as_deref().is_some_and(|value| fits(pattern, value)),
                };
            }
            let holds = value.is_some() && any != condition.negated;
            left &= holds || at != chosen;
        }
    }
    left
}

fn all_hold(endpoint: &Endpoint, conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| {
        let Some(value) = value(endpoint, &condition.subject) else {
            return false;
        };
        let any = condition.patterns.iter().any(|each| fits(each, &value));
        any != condition.negated
    })
}

fn value<'a>(endpoint: &'a Endpoint, subject: &Subject) -> Option<Cow<'a, str>> {
    match subject {
        Subject::Address => Some(endpoint.address.to_string().into()),
        Subject::Host => Some(endpoint.address.ip().to_string().into()),
        Subject::Port => Some(endpoint.address.port().to_string().into()),
        Subject::Label(name) => endpoint.labels.get(name).map(|value| value.into()),
        _ => None,
    }
}

fn fits(pattern: &Pattern, value: &str) -> bool {
    match pattern {
        Pattern::Glob(glob) => is_glob(glob, value),
        Pattern::Range(low, high) => {
            let digits = value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse().ok().filter(|_| digits).unwrap_or(0);
            (*low..=*high).contains(&number)
        }
        Pattern::OfCall(_) => false,
    }
}

/// Whether a text fits a glob, whose last `*` stands for anything; what is before and after it
/// may overlap in the text.
#[must_use]
pub fn is_glob(glob: &str, value: &str) -> bool {
    match glob.rsplit_once('*') {
        None => glob == value,
        Some((beginning, end)) => value.starts_with(beginning) && value.ends_with(end),
    }
}

#[cfg(test)]
mod tests;
