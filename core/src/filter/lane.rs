//! Lanes: some calls go to other versions of their services, from the first service to the last.
//!
//! A lane is a name. Where calls come in, rules choose it; from there it travels with the call in one attribute, and
//! each hop has the call go to the endpoints whose label says the same, or where there are none to those that stand in
//! no lane, the *base*. Applications that pass on nothing but their trace keep the lane all the same: the filter
//! [remembers](Memory) for a while which lane a trace is in. What is not certain is the base lane, never another one.

mod memory;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::record::TraceId;
use crate::rng::Share;
use crate::route::{Call, Cidr, Match};
use crate::subset::InLane;
use crate::trace::{Field, Read};

use super::{Asked, Check, Filter, Flow, Refusal, Tally, Target, same};

pub use memory::Memory;

/// The longest name of a lane, in bytes.
pub const LONGEST: usize = 64;

/// Whether a lane may be called so: letters, digits, `-`, `_` and `.`, of which there are at most [`LONGEST`].
#[must_use]
pub fn is_name(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(is_fit)
}

/// How a call says which trace it is part of.
pub trait Contexts: fmt::Debug + Send + Sync {
    /// The trace that a call of this protocol is part of.
    fn trace(&self, protocol: &str, read: Read<'_, '_>) -> TraceId;

    /// The attributes by which a call of this protocol becomes part of a trace that nobody writes down.
    fn begin(&self, protocol: &str, trace: TraceId, span: u64) -> Vec<Field>;
}

/// Which calls are put into a lane where they come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The lane.
    pub lane: Arc<str>,
    /// The calls.
    pub when: Match,
    /// Their share.
    pub share: Share,
}

/// Lanes, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The first whose calls it is about, and whose share holds, chooses.
    pub rules: Vec<Rule>,
    /// The attribute in which the lane travels.
    pub attribute: Arc<str>,
    /// The same in some protocols, by their names.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// The label of endpoints that names their lane.
    pub label: Arc<str>,
    /// Callers from here are taken at their word; the word of others is taken away.
    pub sources: Vec<Cidr>,
    /// How long it is remembered which lane a trace is in; zero for not at all.
    pub remember: Duration,
    /// Calls of a lane without endpoints go nowhere.
    pub strict: bool,
}

/// Lanes.
#[derive(Debug)]
pub struct Lanes {
    policy: Arc<Policy>,
    /// Which lane a trace is in.
    memory: Arc<Memory>,
    contexts: Arc<dyn Contexts>,
}

impl Lanes {
    /// By this policy.
    #[must_use]
    pub fn new(policy: Policy, contexts: Arc<dyn Contexts>) -> Self {
        Self {
            memory: Arc::new(Memory::new(policy.remember)),
            policy: Arc::new(policy),
            contexts,
        }
    }
}

impl Filter for Lanes {
    fn kind(&self) -> &'static str {
        "lane"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let policy = &self.policy;
        let call = Call {
            protocol: target.protocol,
            service: target.service,
            method: target.method,
            version: target.version,
            group: target.group,
            // Rules that ask for it do so call by call.
            source: std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        let own = policy.attributes.get(target.protocol);
        let rules = policy.rules.iter().enumerate();
        let rules = rules.filter(|(_, rule)| rule.when.names(&call));
        let rules = rules.map(|(number, rule)| (number, tally.count(&rule.lane, "chosen")));
        Some(Rc::new(Placing {
            rules: rules.collect(),
            attribute: own.unwrap_or(&policy.attribute).clone(),
            protocol: target.protocol.into(),
            kept: tally.count(&Arc::from(""), "kept"),
            recalled: tally.count(&Arc::from(""), "recalled"),
            stripped: tally.count(&Arc::from(""), "stripped"),
            policy: policy.clone(),
            memory: self.memory.clone(),
            contexts: self.contexts.clone(),
        }))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| other.policy == own.policy)
    }

    fn describe(&self) -> Vec<String> {
        let policy = &self.policy;
        let rules = policy.rules.iter().map(|rule| {
            let mut line = format!("lane {}: {} %", rule.lane, rule.share.as_percent());
            let conditions = rule.when.conditions();
            if !conditions.is_empty() {
                line.push_str(" of the calls where ");
                line.push_str(&conditions.join(", "));
            }
            line
        });
        let fallback = match policy.strict {
            true => "a lane without endpoints: refused",
            false => "a lane without endpoints: those in no lane",
        };
        let remembered = format!("a trace's lane is remembered for {:?}", policy.remember);
        rules.chain([fallback.to_owned(), remembered]).collect()
    }
}

/// Lanes of calls of one kind, in one worker.
struct Placing {
    policy: Arc<Policy>,
    memory: Arc<Memory>,
    contexts: Arc<dyn Contexts>,
    protocol: Box<str>,
    /// Where the lane travels.
    attribute: Arc<str>,
    /// The numbers of the rules that may be about them, and how often each chose.
    rules: Vec<(usize, Arc<AtomicU64>)>,
    kept: Arc<AtomicU64>,
    recalled: Arc<AtomicU64>,
    stripped: Arc<AtomicU64>,
}

impl Placing {
    /// The lane that a caller names, if it is one.
    fn named(&self, asked: &mut Asked<'_, '_>) -> Option<Arc<str>> {
        let named = asked.attribute(&self.attribute)?;
        is_name(&named).then(|| Arc::from(&*named))
    }

    fn is_trusted(&self, asked: &Asked<'_, '_>) -> bool {
        let sources = &self.policy.sources;
        sources.iter().any(|own| own.contains(asked.source))
    }

    /// The first rule about a call whose share holds.
    fn chosen(
        &self,
        asked: &mut Asked<'_, '_>,
        holds: impl Fn(&mut Asked<'_, '_>, Share) -> bool,
    ) -> Option<&(usize, Arc<AtomicU64>)> {
        self.rules.iter().find(|(number, _)| {
            let rule = &self.policy.rules[*number];
            is_about(rule, asked) && holds(asked, rule.share)
        })
    }

    /// The trace that a call is part of.
    fn trace(&self, asked: &mut Asked<'_, '_>) -> TraceId {
        if asked.trace.is_some() {
            return asked.trace;
        }
        self.contexts.trace(&self.protocol, &mut |name| {
            let found = asked.attribute(name)?;
            Some(found.into_owned().into())
        })
    }

    /// Has the lane of a call's trace remembered, which begins here if there is none.
    fn remember(&self, asked: &mut Asked<'_, '_>, trace: Option<TraceId>, lane: &Arc<str>) {
        if self.policy.remember.is_zero() {
            return;
        }
        let mut trace = trace.unwrap_or_else(|| self.trace(asked));
        if !trace.is_some() {
            let name = u128::from(asked.random()) << 64 | u128::from(asked.random());
            trace = TraceId(name.max(1).to_be_bytes());
            let span = asked.random().max(1);
            for (name, value) in self.contexts.begin(&self.protocol, trace, span) {
                asked.edits.set(&name, &value);
            }
        }
        self.memory.put(trace, lane, asked.now);
    }

    fn place(&self, asked: &mut Asked<'_, '_>, lane: Option<Arc<str>>) {
        asked.edits.place(InLane {
            label: self.policy.label.clone(),
            lane,
            strict: self.policy.strict,
        });
    }

    /// Takes away what a caller says of its lane, where that is not the one that it is in.
    fn strip(&self, asked: &mut Asked<'_, '_>) {
        let says = asked.attribute(&self.attribute);
        let is_said = says.is_some_and(|own| !own.is_empty());
        // Several messages of one call may say several things, and it none.
        if is_said || asked.readings(&self.attribute).is_some() {
            self.stripped.fetch_add(1, Relaxed);
            asked.edits.clear(&self.attribute);
        }
    }
}

/// Whether a rule is about a call of its kind.
fn is_about(rule: &Rule, asked: &mut Asked<'_, '_>) -> bool {
    let when = &rule.when;
    when.is_from(asked.source)
        && when.identifies(asked.client)
        && when.attributes.iter().all(|(name, text)| {
            let is_it = asked
                .attribute(name)
                .is_some_and(|value| text.matches(&value));
            // What may be read otherwise is not certain.
            is_it && asked.readings(name).is_none()
        })
}

impl Check for Placing {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        // What can bear no lane is in none, as whatever is asked on the way of a message.
        if asked.bears_nothing() {
            self.place(asked, None);
            return Flow::Continue;
        }
        let is_trusted = self.is_trusted(asked);
        if is_trusted && let Some(lane) = self.named(asked) {
            self.kept.fetch_add(1, Relaxed);
            self.remember(asked, None, &lane);
            self.place(asked, Some(lane));
            return Flow::Continue;
        }
        let mut trace = None;
        let mut lane = None;
        if is_trusted && !self.memory.is_empty() {
            let own = self.trace(asked);
            lane = self.memory.get(own, asked.now);
            trace = Some(own);
            self.recalled.fetch_add(u64::from(lane.is_some()), Relaxed);
        }
        if lane.is_none()
            && let Some((number, count)) =
                self.chosen(asked, |asked, share| share.holds(asked.random()))
        {
            count.fetch_add(1, Relaxed);
            let own = &self.policy.rules[*number].lane;
            self.remember(asked, trace, own);
            lane = Some(own.clone());
        }
        match &lane {
            Some(own) => asked.edits.set(&self.attribute, own),
            None => self.strip(asked),
        }
        self.place(asked, lane);
        Flow::Continue
    }

    fn renew(&self, asked: &mut Asked<'_, '_>) -> Option<Refusal> {
        let is_trusted = self.is_trusted(asked);
        let mut lane = is_trusted.then(|| self.named(asked)).flatten();
        if lane.is_none() {
            // Whose lot decides is in the base for whoever only asks.
            let chosen = self.chosen(asked, |_, share| share == Share::ALL);
            lane = chosen.map(|(number, _)| self.policy.rules[*number].lane.clone());
        }
        self.place(asked, lane);
        None
    }
}
