//! Authorization: who may call what.
//!
//! Rules have no order. One that denies wins over any that allows; where no rule is about a call, the policy's
//! [default](Policy::default) holds. Rules are found by the identity and the service that they name, and those about one client's
//! calls of one kind are remembered; many rules that name values of an attribute, or networks, are found by these, call by call.
//! Thousands of rules cost a call no more than the few that may be about it. Other texts and topics are compared.

mod book;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::identity::Identity;
use crate::rejection::Rejection;
use crate::route::{Call, Match};

use book::Book;

use super::{
    Action, Asked, Check, Filter, Flow, Message, MessageFlow, Refusal, Tally, Target, same,
};

/// What a rule, or a policy where no rule is about a call, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
}

/// Messages of sessions that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// What is done with them; empty = only the beginning of the session is meant.
    pub actions: Vec<Action>,
    /// Whether the beginning of the session is meant, too.
    pub connect: bool,
    /// Filters of topics; empty = any topic.
    pub topics: Vec<Arc<str>>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, in metrics and logs.
    pub name: Arc<str>,
    /// What it says.
    pub effect: Effect,
    /// It is only counted when it applies.
    pub dry_run: bool,
    /// The calls, or sessions, that it is about.
    pub when: Match,
    /// The messages of these sessions that it is about; `None` = calls, sessions and all that is done in them.
    pub messages: Option<Messages>,
}

impl Rule {
    /// Whether it is about the opening of calls and sessions.
    fn is_about_opening(&self) -> bool {
        self.messages.as_ref().is_none_or(|own| own.connect)
    }

    /// Whether it is about a message of one of its sessions. A rule that denies is about every filter that could
    /// bring a topic of its own; one that allows about those that bring no other.
    fn is_about(&self, message: &Message<'_>) -> bool {
        let Some(own) = &self.messages else {
            return true;
        };
        let fits = |filter: &Arc<str>| match self.effect {
            Effect::Deny => (message.topics.meets)(filter, message.topic),
            Effect::Allow => (message.topics.covers)(filter, message.topic),
        };
        own.actions.contains(&message.action)
            && (own.topics.is_empty() || own.topics.iter().any(fits))
    }
}

/// Who may call what, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What holds where no rule is about a call.
    pub default: Effect,
    /// Nothing is refused, only counted.
    pub dry_run: bool,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// Who may call what.
#[derive(Debug)]
pub struct Authorization(Arc<Book>);

impl Authorization {
    /// By this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(Book::new(policy)))
    }
}

impl Filter for Authorization {
    fn kind(&self) -> &'static str {
        "authorization"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let rules = Rules::of(&self.0, target, tally);
        // Rules that ask who somebody is may be about whoever comes.
        let is_about_somebody = self.0.is_about_some() || !rules.about(None).is_empty();
        let is_idle = self.0.policy.default == Effect::Allow && !is_about_somebody;
        (!is_idle).then(|| Rc::new(rules) as Rc<dyn Check>)
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| other.0.policy == own.0.policy)
    }

    fn describe(&self) -> Vec<String> {
        let word = |effect| match effect {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        };
        let policy = &self.0.policy;
        let mut lines: Vec<String> = policy
            .rules
            .iter()
            .map(|rule| {
                let mut line = format!("{}: {}", rule.name, word(rule.effect));
                let conditions = rule.when.conditions();
                if !conditions.is_empty() {
                    line.push_str(" where ");
                    line.push_str(&conditions.join(", "));
                }
                if rule.dry_run {
                    line.push_str(" (dry run)");
                }
                line
            })
            .collect();
        lines.push(format!("otherwise: {}", word(policy.default)));
        lines
    }
}

/// A rule by its number, or where none is about a call.
type By = Option<usize>;
/// What was decided by which rule, and how often.
type Counts = BTreeMap<(By, &'static str), Arc<AtomicU64>>;
/// A client, and the rules about it.
struct Remembered {
    client: Option<Identity>,
    about: Rc<[usize]>,
    /// Its calls may pass, whatever else is said in them.
    passes: bool,
}

/// Clients whose rules one worker remembers for one kind of call.
const CLIENTS: usize = 8;

/// The rules about calls of one kind, in one worker.
struct Rules {
    book: Arc<Book>,
    /// Protocol, service, method, version and group.
    names: [Box<str>; 5],
    /// The rules about the clients that called last.
    known: RefCell<Vec<Remembered>>,
    tally: Tally,
    counts: RefCell<Counts>,
}

impl Rules {
    fn of(book: &Arc<Book>, target: &Target<'_>, tally: &Tally) -> Self {
        Self {
            book: book.clone(),
            names: [
                target.protocol,
                target.service,
                target.method,
                target.version,
                target.group,
            ]
            .map(Box::from),
            known: RefCell::default(),
            tally: tally.clone(),
            counts: RefCell::default(),
        }
    }

    /// What is equal for all calls of its kind.
    fn call(&self) -> Call<'_> {
        let [protocol, service, method, version, group] = &self.names;
        Call {
            protocol,
            service,
            method,
            version,
            group,
            // Rules that ask for it do so call by call.
            source: Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    fn about(&self, client: Option<&Identity>) -> Vec<usize> {
        let candidates = self.book.candidates(&self.names[1], client);
        self.book.fit(candidates, &self.call(), client)
    }

    /// The same, mostly remembered.
    fn known_about(&self, client: Option<&Identity>) -> Rc<[usize]> {
        let mut known = self.known.borrow_mut();
        let at = known.iter().position(|own| own.client.as_ref() == client);
        if let Some(at) = at {
            let before = at.saturating_sub(1);
            known.swap(at, before);
            return known[before].about.clone();
        }
        let about: Rc<[usize]> = self.about(client).into();
        if known.len() >= CLIENTS {
            known.pop();
        }
        known.push(Remembered {
            client: client.cloned(),
            about: about.clone(),
            passes: self.book.passes(&about),
        });
        about
    }

    /// Whether it was found before that all calls of this client pass.
    fn is_known_to_pass(&self, client: Option<&Identity>) -> bool {
        let known = self.known.borrow();
        let mut known = known.iter();
        known.any(|own| own.passes && own.client.as_ref() == client)
    }

    /// Why the rules that `is_about` picks refuse it, if they do.
    fn refuse(
        &self,
        asked: &mut Asked<'_, '_>,
        is_about: impl Fn(&Rule) -> bool,
    ) -> Option<Refusal> {
        let policy = &self.book.policy;
        let mut allowed = policy.default == Effect::Allow;
        let mut denied = None;
        let known = self.known_about(asked.client);
        let mut all = Cow::Borrowed(&*known);
        if self.book.has_keys() {
            let found = self.book.found(&self.names[1], asked).into_iter();
            let found = self.book.fit(found, &self.call(), asked.client);
            all.to_mut().extend(found);
            all.to_mut().sort_unstable();
        }
        for number in &*all {
            let rule = &policy.rules[*number];
            if !is_about(rule) || !holds(rule, asked) {
                continue;
            }
            match (rule.effect, rule.dry_run) {
                (Effect::Deny, true) => self.count(Some(*number), "would_deny"),
                (Effect::Deny, false) => {
                    denied = Some(*number);
                    break;
                }
                (Effect::Allow, true) => {}
                (Effect::Allow, false) => allowed = true,
            }
        }
        if denied.is_none() && allowed {
            return None;
        }
        if policy.dry_run {
            self.count(denied, "would_deny");
            return None;
        }
        self.count(denied, "denied");
        Some(Refusal::new(Rejection::Denied, &self.name(denied)))
    }

    fn name(&self, rule: By) -> Arc<str> {
        let rule = rule.map(|number| self.book.policy.rules[number].name.clone());
        rule.unwrap_or_else(|| Arc::from(""))
    }

    fn count(&self, rule: By, decision: &'static str) {
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry((rule, decision));
        let count = count.or_insert_with(|| self.tally.count(&self.name(rule), decision));
        count.fetch_add(1, Relaxed);
    }
}

impl Check for Rules {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        if self.is_known_to_pass(asked.client) {
            return Flow::Continue;
        }
        let refusal = self.refuse(asked, Rule::is_about_opening);
        refusal.map_or(Flow::Continue, Flow::Refuse)
    }

    fn message(&self, asked: &mut Asked<'_, '_>, message: &Message<'_>) -> MessageFlow {
        let refusal = self.refuse(asked, |rule| rule.is_about(message));
        refusal.map_or(MessageFlow::Continue, MessageFlow::Refuse)
    }

    fn renew(&self, asked: &mut Asked<'_, '_>) -> Option<Refusal> {
        self.refuse(asked, Rule::is_about_opening)
    }
}

/// Whether a rule's conditions hold that may differ between calls of one kind by one client. Where an endpoint may read
/// an attribute in several ways, a rule that denies holds by any of them, one that allows by all.
fn holds(rule: &Rule, asked: &mut Asked<'_, '_>) -> bool {
    let when = &rule.when;
    when.is_from(asked.source)
        && when.attributes.iter().all(|(name, text)| {
            let value = asked.attribute(name);
            let says_so = value.is_some_and(|value| text.matches(&value));
            match (rule.effect, says_so) {
                (Effect::Allow, true) => {
                    let others = asked.readings(name);
                    others.is_none_or(|own| own.lines().all(|own| text.matches(own)))
                }
                (Effect::Deny, false) => {
                    let others = asked.readings(name);
                    others.is_some_and(|own| own.lines().any(|own| text.matches(own)))
                }
                (_, says_so) => says_so,
            }
        })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Decisions, Edits};
    use super::*;
    use crate::clock::{Clock, Now};
    use crate::identity::IdentityKind;
    use crate::record::TraceId;
    use crate::route::Text;

    /// A policy of so many rules, each of which is about something else.
    fn of(rules: usize, when: impl Fn(usize) -> Match) -> Authorization {
        let rules = (0..rules).map(|number| Rule {
            name: "r".into(),
            effect: Effect::Allow,
            dry_run: false,
            when: when(number),
            messages: None,
        });
        Authorization::new(Policy {
            default: Effect::Deny,
            dry_run: false,
            rules: rules.collect(),
        })
    }

    fn client(number: usize) -> String {
        format!("spiffe://acme/c{number}")
    }

    fn service(number: usize) -> Match {
        Match {
            service: Text::Exact(format!("S{number}").into()),
            ..Match::default()
        }
    }

    fn identity(number: usize) -> Match {
        let name = Text::Exact(client(number).into());
        Match {
            identity: Some((IdentityKind::Spiffe, name)),
            ..Match::default()
        }
    }

    #[test]
    fn ten_thousand_rules_cost_a_call_the_looks_that_ten_do() {
        let both = |number| Match {
            identity: identity(number).identity,
            ..service(number)
        };
        let shared = |number| Match {
            identity: identity(number).identity,
            ..service(7)
        };
        let shapes: [&dyn Fn(usize) -> Match; 4] = [&service, &identity, &both, &shared];
        let who = Identity::of(Some(&client(7)), &[], None).unwrap();
        for (number, when) in shapes.into_iter().enumerate() {
            for rules in [10, 10_000] {
                let own = of(rules, when);
                let looks = own.0.candidates("S7", Some(&who)).count();
                assert_eq!(looks, 1, "{rules} rules of shape {number}");
            }
        }
    }

    fn attribute(name: &str, value: &str) -> (String, Text) {
        (name.to_owned(), Text::Exact(value.into()))
    }

    fn user(number: usize) -> Match {
        Match {
            // All of them have this, too.
            attributes: vec![
                attribute("site", "a"),
                attribute("user", &format!("u{number}")),
            ],
            ..Match::default()
        }
    }

    fn network(number: usize) -> Match {
        let network = match number {
            7 => "10.0.0.0/8".to_owned(),
            number => format!("172.{}.{}.0/24", 16 + number / 256, number % 256),
        };
        Match {
            sources: vec!["192.0.2.1".parse().unwrap(), network.parse().unwrap()],
            attributes: vec![attribute("site", "a")],
            ..Match::default()
        }
    }

    #[test]
    fn ten_thousand_users_or_networks_cost_a_call_what_few_do() {
        let shapes: [&dyn Fn(usize) -> Match; 2] = [&user, &|number| Match {
            sources: network(number).sources[1..].to_vec(),
            ..network(number)
        }];
        for (number, when) in shapes.into_iter().enumerate() {
            for rules in [100, 10_000] {
                let own = of(rules, when);
                let mut edits = Edits::default();
                let found = own.0.found(
                    "S",
                    &mut Asked {
                        now: Now(0),
                        source: "::ffff:10.1.2.3".parse().unwrap(),
                        client: None,
                        edits: &mut edits,
                        clock: Clock::start(),
                        trace: TraceId::default(),
                        attributes: &mut |name| match name {
                            "user" => Some("u7".into()),
                            "site" => Some("a".into()),
                            _ => None,
                        },
                        random: &mut || 0,
                    },
                );
                assert_eq!(found, [7], "{rules} rules of shape {number}");
                assert_eq!(own.0.candidates("S", None).count(), 0);
            }
        }
        let few = of(10, user);
        assert_eq!(few.0.candidates("S", None).count(), 10);
        assert!(!few.0.has_keys());
    }

    #[test]
    fn rules_are_looked_for_once_for_a_client_and_a_kind_of_call() {
        let own = of(10_000, service);
        let nothing = Arc::from("");
        let target = Target {
            protocol: "toy",
            listener: &nothing,
            route: &nothing,
            service: "S7",
            method: "get",
            version: "",
            group: "",
        };
        let decisions = Arc::new(Decisions::default());
        let rules = Rules::of(&own.0, &target, &decisions.of(&nothing));
        let who = Identity::of(Some(&client(7)), &[], None).unwrap();
        let first = rules.known_about(Some(&who));
        assert_eq!(*first, [7]);
        assert!(Rc::ptr_eq(&first, &rules.known_about(Some(&who))));
        // Others in between change nothing about that.
        assert!(!Rc::ptr_eq(&first, &rules.known_about(None)));
        assert!(Rc::ptr_eq(&first, &rules.known_about(Some(&who))));
    }
}
