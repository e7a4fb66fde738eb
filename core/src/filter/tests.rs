//! Filters of their own, each asked as a worker would.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::authorization::{Authorization, Effect, Messages, Policy, Rule};
use super::fault::{Fault, OnRequest, Trouble};
use super::rate_limit::{Limit, Per, RateLimit, Unit};
use super::*;
use crate::clock::Clock;
use crate::identity::IdentityKind;
use crate::rng::Share;
use crate::route::{Match, Text};

fn exact(text: &str) -> Text {
    Text::Exact(text.into())
}

/// One worker's check for calls of this method.
struct Asking {
    check: Option<Rc<dyn Check>>,
    decisions: Arc<Decisions>,
    clock: Clock,
}

struct Caller<'a> {
    now: Now,
    source: &'a str,
    client: Option<&'a str>,
    attributes: &'a [(&'a str, &'a str)],
}

const SOMEBODY: Caller<'_> = Caller {
    now: Now(1_000_000),
    source: "10.0.0.1",
    client: None,
    attributes: &[],
};

impl Asking {
    fn of(filter: &dyn Filter, service: &str, method: &str) -> Self {
        Self::of_version(filter, service, method, "")
    }

    fn of_version(filter: &dyn Filter, service: &str, method: &str, version: &str) -> Self {
        let decisions = Arc::new(Decisions::default());
        let (listener, route, name) = (Arc::from("front"), Arc::from("only"), Arc::from("f"));
        let target = Target {
            protocol: "toy",
            listener: &listener,
            route: &route,
            service,
            method,
            version,
            group: version,
        };
        Self {
            check: filter.at(&target, &decisions.of(&name)),
            decisions,
            clock: Clock::start(),
        }
    }

    fn ask<T>(
        &self,
        caller: &Caller<'_>,
        edits: &mut Edits,
        asks: impl FnOnce(&dyn Check, &mut Asked<'_, '_>) -> T,
    ) -> Option<T> {
        let check = self.check.as_ref()?;
        let id = caller.client.map(|name| {
            let spiffe = name.starts_with("spiffe://").then_some(name);
            let dns: &[&str] = if spiffe.is_none() { &[name] } else { &[] };
            Identity::of(spiffe, dns, None).unwrap()
        });
        let source: IpAddr = caller.source.parse().unwrap();
        let mut asked = Asked {
            now: caller.now,
            source,
            client: id.as_ref(),
            edits,
            clock: self.clock,
            trace: TraceId::default(),
            attributes: &mut |name| {
                let own = caller.attributes.iter().find(|(own, _)| *own == name);
                own.map(|(_, value)| Cow::Owned((*value).to_owned()))
            },
            random: &mut || 0,
        };
        Some(asks(&**check, &mut asked))
    }

    fn open(&self, caller: &Caller<'_>) -> Option<Refusal> {
        let flow = self.ask(caller, &mut Edits::default(), |check, asked| {
            check.open(asked)
        });
        match flow {
            None | Some(Flow::Continue) => None,
            Some(Flow::Refuse(refusal)) => Some(refusal),
            Some(Flow::Wait(_)) => panic!("it waits"),
        }
    }

    fn may(&self, caller: &Caller<'_>) -> bool {
        self.open(caller).is_none()
    }

    fn says(&self, caller: &Caller<'_>, action: Action, topic: &str) -> MessageFlow {
        static PLAIN: Topics = Topics {
            covers: |filter, topic| {
                let prefix = filter.strip_suffix('#');
                prefix.map_or(filter == topic, |own| topic.starts_with(own))
            },
            meets: |one, two| {
                let (one, two) = (one.trim_end_matches('#'), two.trim_end_matches('#'));
                one.starts_with(two) || two.starts_with(one)
            },
        };
        let message = Message {
            topics: &PLAIN,
            action,
            topic,
            bytes: 100,
        };
        let flow = self.ask(caller, &mut Edits::default(), |check, asked| {
            check.message(asked, &message)
        });
        flow.unwrap_or(MessageFlow::Continue)
    }

    fn counted(&self) -> Vec<(String, &'static str, u64)> {
        let all = self.decisions.all().into_iter();
        let own = all.map(|((_, rule, what), count)| (rule.to_string(), what, count));
        own.filter(|(.., count)| *count > 0).collect()
    }
}

fn rule(name: &str, effect: Effect, when: Match) -> Rule {
    Rule {
        name: name.into(),
        effect,
        dry_run: false,
        when,
        messages: None,
    }
}

fn policy(default: Effect, rules: Vec<Rule>) -> Policy {
    Policy {
        default,
        dry_run: false,
        rules,
    }
}

fn by(identity: &str) -> Match {
    Match {
        identity: Some((IdentityKind::of(identity), exact(identity))),
        ..Match::default()
    }
}

// === Authorization ===

#[test]
fn a_rule_that_denies_wins_and_where_none_is_about_a_call_the_default_holds() {
    let pay = Match {
        service: exact("Pay"),
        ..by("shop.test")
    };
    let transfer = Match {
        method: exact("transfer"),
        ..Match::default()
    };
    let own = Authorization::new(policy(
        Effect::Deny,
        vec![
            rule("shop", Effect::Allow, pay),
            rule("no-transfers", Effect::Deny, transfer),
        ],
    ));
    let shop = Caller {
        client: Some("shop.test"),
        ..SOMEBODY
    };
    let get = Asking::of(&own, "Pay", "get");
    assert!(get.may(&shop));
    assert!(!get.may(&SOMEBODY));
    let transfer = Asking::of(&own, "Pay", "transfer");
    let refusal = transfer.open(&shop).unwrap();
    assert_eq!(
        (refusal.why, &*refusal.rule),
        (Rejection::Denied, "no-transfers")
    );
    assert!(!Asking::of(&own, "Stock", "get").may(&shop));
    assert_eq!(get.counted(), [(String::new(), "denied", 1)]);
    let counted = [("no-transfers".to_owned(), "denied", 1)];
    assert_eq!(transfer.counted(), counted);
}

#[test]
fn conditions_on_addresses_and_attributes_are_asked_of_each_call() {
    let when = Match {
        sources: vec!["10.1.0.0/16".parse().unwrap()],
        attributes: vec![("role".to_owned(), exact("admin"))],
        ..Match::default()
    };
    let own = Authorization::new(policy(Effect::Deny, vec![rule("in", Effect::Allow, when)]));
    let asking = Asking::of(&own, "Pay", "get");
    for (source, role, may) in [
        ("10.1.2.3", "admin", true),
        ("10.2.2.3", "admin", false),
        ("10.1.2.3", "guest", false),
    ] {
        let caller = Caller {
            source,
            attributes: &[("role", role)],
            ..SOMEBODY
        };
        assert_eq!(asking.may(&caller), may, "{source} {role}");
    }
    assert!(!asking.may(&Caller {
        source: "10.1.2.3",
        ..SOMEBODY
    }));
}

#[test]
fn what_is_known_of_one_client_is_not_held_against_another() {
    let rules = (0..20).map(|n| rule("r", Effect::Allow, by(&format!("c{n}.test"))));
    let own = Authorization::new(policy(Effect::Deny, rules.collect()));
    let asking = Asking::of(&own, "Pay", "get");
    for round in 0..3 {
        for n in 0..30 {
            let name = format!("c{n}.test");
            let caller = Caller {
                client: Some(&name),
                ..SOMEBODY
            };
            assert_eq!(asking.may(&caller), n < 20, "{name} in round {round}");
        }
        assert!(!asking.may(&SOMEBODY));
    }
}

#[test]
fn ten_thousand_rules_leave_a_call_only_those_that_are_about_it() {
    let service = |n: usize| Match {
        service: exact(&format!("S{n}")),
        ..by(&format!("spiffe://acme/c{}", n % 100))
    };
    let rules = (0..10_000).map(|n| rule("r", Effect::Allow, service(n)));
    let own = Authorization::new(policy(Effect::Deny, rules.collect()));
    for n in [0, 1, 77, 9_999] {
        let asking = Asking::of(&own, &format!("S{n}"), "m");
        for client in [n % 100, (n + 1) % 100] {
            let name = format!("spiffe://acme/c{client}");
            let caller = Caller {
                client: Some(&name),
                ..SOMEBODY
            };
            assert_eq!(asking.may(&caller), client == n % 100);
        }
    }
}

#[test]
fn conditions_are_compared_for_a_call_only_of_rules_that_may_be_about_it() {
    let when = |n: usize| Match {
        service: exact(&format!("S{}", n / 2)),
        method: exact(["get", "put"][n % 2]),
        attributes: vec![("role".to_owned(), exact("admin"))],
        ..Match::default()
    };
    let looks = |rules: usize| {
        let rules = (0..rules).map(|n| rule("r", Effect::Deny, when(n)));
        let own = Authorization::new(policy(Effect::Allow, rules.collect()));
        let asking = Asking::of(&own, "S3", "put");
        let check = asking.check.unwrap();
        let mut looks = 0;
        for _ in 0..3 {
            let flow = check.open(&mut Asked {
                now: SOMEBODY.now,
                source: "10.0.0.1".parse().unwrap(),
                client: None,
                edits: &mut Edits::default(),
                clock: asking.clock,
                trace: TraceId::default(),
                attributes: &mut |name| {
                    looks += usize::from(name == "role");
                    None
                },
                random: &mut || 0,
            });
            assert!(matches!(flow, Flow::Continue));
        }
        looks
    };
    assert_eq!([looks(10), looks(10_000)], [3, 3]);
}

#[test]
fn a_dry_run_refuses_nothing_and_is_counted() {
    let mut deny = rule("deny", Effect::Deny, Match::default());
    deny.dry_run = true;
    let own = Authorization::new(policy(Effect::Allow, vec![deny.clone()]));
    let asking = Asking::of(&own, "Pay", "get");
    assert!(asking.may(&SOMEBODY));
    assert_eq!(asking.counted(), [("deny".to_owned(), "would_deny", 1)]);
    // A rule that would allow, but only on trial, allows nothing.
    let mut allow = rule("allow", Effect::Allow, Match::default());
    allow.dry_run = true;
    let own = Authorization::new(policy(Effect::Deny, vec![allow]));
    assert!(!Asking::of(&own, "Pay", "get").may(&SOMEBODY));
    let mut whole = policy(Effect::Deny, vec![]);
    whole.dry_run = true;
    let asking = Asking::of(&Authorization::new(whole), "Pay", "get");
    assert!(asking.may(&SOMEBODY));
    assert_eq!(asking.counted(), [(String::new(), "would_deny", 1)]);
}

#[test]
fn a_policy_that_can_be_about_nobody_costs_nothing() {
    let elsewhere = Match {
        service: exact("Stock"),
        ..Match::default()
    };
    let own = policy(Effect::Allow, vec![rule("r", Effect::Deny, elsewhere)]);
    let own = Authorization::new(own);
    assert!(Asking::of(&own, "Pay", "get").check.is_none());
    assert!(!Asking::of(&own, "Stock", "get").may(&SOMEBODY));
}

#[test]
fn whoever_has_an_identity_of_a_kind_that_is_denied_is_denied() {
    for text in [
        Text::Prefix("spiffe://evil/".into()),
        Text::regex("spiffe://evil/.*").unwrap(),
    ] {
        let when = Match {
            identity: Some((IdentityKind::Spiffe, text)),
            ..Match::default()
        };
        let own = Authorization::new(policy(Effect::Allow, vec![rule("r", Effect::Deny, when)]));
        let asking = Asking::of(&own, "Pay", "get");
        for (name, may) in [("spiffe://evil/x", false), ("spiffe://acme/x", true)] {
            let caller = Caller {
                client: Some(name),
                ..SOMEBODY
            };
            assert_eq!(asking.may(&caller), may, "{name}");
        }
        assert!(asking.may(&SOMEBODY));
    }
}

#[test]
fn messages_are_told_apart_from_the_session_that_they_are_in() {
    let messages = |actions: &[Action], connect, topics: &[&str]| {
        Some(Messages {
            actions: actions.to_vec(),
            connect,
            topics: topics.iter().map(|own| Arc::from(*own)).collect(),
        })
    };
    let mut connect = rule("in", Effect::Allow, Match::default());
    connect.messages = messages(&[], true, &[]);
    let mut publish = rule("out", Effect::Allow, Match::default());
    publish.messages = messages(&[Action::Publish], false, &["plant/#"]);
    let mut hear = rule("hear", Effect::Allow, Match::default());
    hear.messages = messages(&[Action::Subscribe], false, &["plant/#"]);
    let mut secret = rule("secret", Effect::Deny, Match::default());
    secret.messages = messages(
        &[Action::Publish, Action::Subscribe],
        false,
        &["plant/secret"],
    );
    let own = policy(Effect::Deny, vec![connect, publish, hear, secret]);
    let asking = Asking::of(&Authorization::new(own), "(s)", "connect");
    assert!(asking.may(&SOMEBODY));
    for (action, topic, goes) in [
        (Action::Publish, "plant/1", true),
        (Action::Publish, "plant/secret", false),
        (Action::Publish, "other", false),
        (Action::Subscribe, "plant/1", true),
        (Action::Subscribe, "plant/secret", false),
        // It would bring what is denied, and what nobody allowed.
        (Action::Subscribe, "plant/#", false),
        (Action::Subscribe, "#", false),
    ] {
        let flow = asking.says(&SOMEBODY, action, topic);
        assert_eq!(flow == MessageFlow::Continue, goes, "{action:?} {topic}");
    }
}

// === Rate limits ===

fn limit(amount: u64, burst: u64) -> Limit {
    Limit {
        unit: Unit::Calls,
        amount,
        period: Duration::from_secs(1),
        burst,
        per: Vec::new(),
        wait: Duration::ZERO,
    }
}

fn at(millis: u64) -> Caller<'static> {
    Caller {
        now: Now(1_000_000 + millis * 1000),
        ..SOMEBODY
    }
}

#[test]
fn a_limit_lets_the_burst_and_then_the_rate_pass() {
    let asking = Asking::of(&RateLimit::new(limit(100, 5)), "Pay", "get");
    let passed = |millis| (0..1000).filter(|_| asking.may(&at(millis))).count();
    assert_eq!(passed(0), 5);
    assert_eq!(passed(9), 0);
    assert_eq!(passed(10), 1);
    assert_eq!(passed(35), 2);
    assert_eq!(passed(10_000), 5);
    // Asked all the time, it gives its figure.
    let all: usize = (10_001..20_001).map(passed).sum();
    assert!((998..=1002).contains(&all), "{all}");
}

#[test]
fn who_is_over_the_limit_is_told_when_to_come_again() {
    let asking = Asking::of(&RateLimit::new(limit(10, 1)), "Pay", "get");
    assert!(asking.may(&at(0)));
    let refusal = asking.open(&at(40)).unwrap();
    assert_eq!(refusal.why, Rejection::Limited);
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(60)));
    assert!(!asking.may(&at(99)));
    assert!(asking.may(&at(100)));
    assert_eq!(asking.counted(), [(String::new(), "limited", 2)]);
}

#[test]
fn another_limit_is_another_filter() {
    let mut waits = limit(10, 1);
    waits.wait = Duration::from_secs(1);
    let own = RateLimit::new(limit(10, 1));
    assert!(own.is_same(&RateLimit::new(limit(10, 1))));
    for other in [limit(11, 1), limit(10, 2), waits] {
        assert!(!own.is_same(&RateLimit::new(other)));
    }
}

#[test]
fn a_bucket_that_made_room_is_the_same_for_all_workers_when_it_is_there_again() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Attribute("key".into())];
    let filter = RateLimit::new(own);
    let workers = [0, 1].map(|_| Asking::of(&filter, "Pay", "get"));
    let may = |worker: usize, key: u32, millis: u64| {
        let key = key.to_string();
        let attributes = [("key", &*key)];
        workers[worker].may(&Caller {
            attributes: &attributes,
            ..at(millis)
        })
    };
    assert!(may(0, 0, 0));
    // Others fill all that there is, and later as many are looked at as there are.
    assert!((1..65_536).all(|key| may(1, key, 0)));
    assert!((100_000..102_000).all(|key| may(1, key, 2000)));
    assert!(may(1, 0, 4000));
    assert!(!may(0, 0, 4001), "it remembers the one of before");
}

#[test]
fn buckets_are_shared_by_those_that_have_in_common_what_was_asked_for() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Method, Per::Source, Per::Attribute("tenant".into())];
    let filter = RateLimit::new(own);
    let (get, put) = (
        Asking::of(&filter, "Pay", "get"),
        Asking::of(&filter, "Pay", "put"),
    );
    let again = Asking::of(&filter, "Pay", "get");
    let caller = |source: &'static str, tenant: &'static [(&str, &str)]| Caller {
        source,
        attributes: tenant,
        ..SOMEBODY
    };
    assert!(get.may(&caller("10.0.0.1", &[("tenant", "a")])));
    // Another worker has the same bucket.
    assert!(!again.may(&caller("10.0.0.1", &[("tenant", "a")])));
    assert!(again.may(&caller("10.0.0.1", &[("tenant", "b")])));
    assert!(get.may(&caller("10.0.0.2", &[("tenant", "a")])));
    assert!(put.may(&caller("10.0.0.1", &[("tenant", "a")])));
    assert!(get.may(&caller("10.0.0.1", &[])));
    assert!(!get.may(&caller("10.0.0.1", &[])));
}

#[test]
fn callers_without_end_share_what_is_left_and_idle_ones_make_room() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Attribute("key".into())];
    let filter = RateLimit::new(own);
    let asking = Asking::of(&filter, "Pay", "get");
    let may = |key: u32, millis: u64| {
        let key = key.to_string();
        let attributes = [("key", &*key)];
        asking.may(&Caller {
            attributes: &attributes,
            ..at(millis)
        })
    };
    let passed = (0..70_000).filter(|key| may(*key, 0)).count();
    assert_eq!(
        passed,
        65_536 + 1,
        "as many as there are buckets, and one for the others"
    );
    // A second later all are full, and make room; whoever remembers one asks anew.
    assert!((0..3000).all(|key| may(key, 1500)));
    assert!((0..3000).all(|key| !may(key, 1501)));
    let fresh = (100_000..103_000).filter(|key| may(*key, 3000)).count();
    assert_eq!(fresh, 3000);
    assert!((100_000..103_000).all(|key| !may(key, 3001)));
}

#[test]
fn large_messages_cost_what_they_are() {
    let mut own = limit(10_000_000_000, 200_000_000);
    own.unit = Unit::MessageBytes;
    own.period = Duration::from_secs(24 * 3600);
    let asking = Asking::of(&RateLimit::new(own), "(s)", "connect");
    let says = |bytes| {
        asking.ask(&at(0), &mut Edits::default(), |check, asked| {
            let message = Message {
                topics: &Topics {
                    covers: |_, _| false,
                    meets: |_, _| false,
                },
                action: Action::Publish,
                topic: "t",
                bytes,
            };
            check.message(asked, &message)
        })
    };
    let passed = (0..100)
        .filter(|_| says(10_000_000) == Some(MessageFlow::Continue))
        .count();
    assert_eq!(passed, 20);
}

#[test]
fn names_that_callers_make_up_leave_buckets_for_others() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Method];
    let filter = RateLimit::new(own);
    let may = |method: &str, millis| Asking::of(&filter, "Pay", method).may(&at(millis));
    for n in 0..65_536 {
        assert!(may(&n.to_string(), 0));
    }
    // Those that are quiet make room.
    assert!(may("get", 2000) && !may("get", 2001) && may("put", 2001));
}

#[test]
fn another_version_or_group_is_no_way_to_another_bucket() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Service, Per::Method];
    let filter = RateLimit::new(own);
    let may = |version: &str| Asking::of_version(&filter, "Pay", "get", version).may(&SOMEBODY);
    assert!(may("1.0"));
    for other in ["1.0", "2.0", "", "made up"] {
        assert!(!may(other), "{other}");
    }
}

#[test]
fn messages_over_the_limit_have_their_sender_wait() {
    let mut own = limit(10, 1);
    own.unit = Unit::Messages;
    own.wait = Duration::from_secs(1);
    let asking = Asking::of(&RateLimit::new(own), "(s)", "connect");
    let says = |millis| asking.says(&at(millis), Action::Publish, "t");
    assert_eq!(says(0), MessageFlow::Continue);
    assert_eq!(says(0), MessageFlow::Pause(at(100).now));
    assert_eq!(
        asking.says(&at(0), Action::Subscribe, "t"),
        MessageFlow::Continue
    );
    let refused = (0..20)
        .filter(|_| matches!(says(0), MessageFlow::Refuse(_)))
        .count();
    assert_eq!(refused, 11, "nobody waits for longer than was asked for");
    assert!(asking.may(&at(0)), "calls are not counted");
}

// === Faults ===

#[test]
fn only_trusted_callers_ask_for_faults_and_what_others_write_is_taken_away() {
    let own = Fault {
        troubles: Vec::new(),
        on_request: Some(OnRequest {
            attribute: "x-fault".into(),
            sources: vec!["10.0.0.0/8".parse().unwrap()],
        }),
    };
    let asking = Asking::of(&own, "Pay", "get");
    let asks = |source: &'static str, what: &'static str| {
        let caller = Caller {
            source,
            attributes: &[("x-fault", what)],
            ..SOMEBODY
        };
        let mut edits = Edits::default();
        let flow = asking.ask(&caller, &mut edits, |check, asked| check.open(asked));
        (flow.unwrap(), edits)
    };
    let (flow, _) = asks("10.0.0.1", "refuse=connection_lost");
    let Flow::Refuse(refusal) = flow else {
        panic!("{flow:?}")
    };
    assert_eq!(refusal.why, Rejection::ConnectionLost);
    assert!(matches!(asks("10.0.0.1", "delay=20ms").0, Flow::Wait(_)));
    assert!(asks("10.0.0.1", "drop").1.drops_answer());
    for nonsense in [
        "",
        "refuse",
        "refuse=all",
        "delay=soon",
        "delay=-1ms",
        "explode",
    ] {
        let (flow, edits) = asks("10.0.0.1", nonsense);
        assert!(
            matches!(flow, Flow::Continue) && edits.is_empty(),
            "{nonsense}"
        );
    }
    let (flow, edits) = asks("192.0.2.1", "drop");
    assert!(matches!(flow, Flow::Continue) && !edits.drops_answer());
    assert_eq!(edits.get("x-fault"), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_call_may_be_late_and_refused_then() {
    let all = |trouble| (Share::percent(100.0).unwrap(), trouble);
    let own = Fault {
        troubles: vec![
            all(Trouble::Delay(Duration::from_millis(20))),
            all(Trouble::Refuse(Rejection::Overloaded)),
        ],
        on_request: None,
    };
    let asking = Asking::of(&own, "Pay", "get");
    let begun = tokio::time::Instant::now();
    let caller = Caller {
        now: asking.clock.now(),
        ..SOMEBODY
    };
    let mut edits = Edits::default();
    let flow = asking.ask(&caller, &mut edits, |check, asked| check.open(asked));
    let Some(Flow::Wait(wait)) = flow else {
        panic!("{flow:?}")
    };
    let refusal = wait.await.refusal.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(19));
    assert_eq!(refusal.why, Rejection::Overloaded);
    let counted = [(String::new(), "delayed", 1), (String::new(), "refused", 1)];
    assert_eq!(asking.counted(), counted);
}

#[test]
fn a_share_is_what_it_says() {
    assert_eq!(Share::percent(100.5), None);
    assert_eq!(Share::percent(-1.0), None);
    let of = |percent: f64| {
        let share = Share::percent(percent).unwrap();
        let own = Fault {
            troubles: vec![(share, Trouble::Refuse(Rejection::Overloaded))],
            on_request: None,
        };
        let asking = Asking::of(&own, "Pay", "get");
        let check = asking.check.unwrap();
        let mut rng = crate::rng::Rng::new(7);
        let calls = (0..10_000).filter(|_| {
            let flow = check.open(&mut Asked {
                now: Now(1),
                source: "10.0.0.1".parse().unwrap(),
                client: None,
                edits: &mut Edits::default(),
                clock: asking.clock,
                trace: TraceId::default(),
                attributes: &mut |_| None,
                random: &mut || rng.next(),
            });
            matches!(flow, Flow::Refuse(_))
        });
        calls.count()
    };
    assert_eq!((of(0.0), of(100.0)), (0, 10_000));
    let tenth = of(10.0);
    assert!((900..1100).contains(&tenth), "{tenth}");
}

// === Laws ===

#[test]
fn filters_obey_their_laws() {
    conformance::check(&|| {
        let rules = vec![rule("r", Effect::Allow, by("c7.test"))];
        Box::new(Authorization::new(policy(Effect::Deny, rules)))
    });
    conformance::check(&|| {
        let mut own = limit(100, 50);
        own.per = vec![Per::Source, Per::Identity, Per::Attribute("a".into())];
        Box::new(RateLimit::new(own))
    });
    conformance::check(&|| {
        Box::new(Fault {
            troubles: vec![(Share::percent(50.0).unwrap(), Trouble::DropAnswer)],
            on_request: None,
        })
    });
}

// === Readings ===

/// Rules about nobody, as many as have them looked up rather than compared.
fn fillers(many: bool) -> impl Iterator<Item = Rule> {
    let count = if many { 40 } else { 0 };
    (0..count).map(|number| {
        let when = Match {
            attributes: vec![("filler".to_owned(), exact(&number.to_string()))],
            ..Match::default()
        };
        rule("filler", Effect::Deny, when)
    })
}

#[test]
fn who_denies_does_so_by_any_reading_and_who_allows_by_all() {
    for many in [false, true] {
        any_denies_and_all_allow(many);
    }
}

fn any_denies_and_all_allow(many: bool) {
    let by = |effect| {
        let when = Match {
            attributes: vec![("role".to_owned(), exact("admin"))],
            ..Match::default()
        };
        let other = match effect {
            Effect::Allow => Effect::Deny,
            Effect::Deny => Effect::Allow,
        };
        let mut rules = vec![rule("r", effect, when)];
        rules.extend(fillers(many));
        Authorization::new(policy(other, rules))
    };
    let (allows, denies) = (by(Effect::Allow), by(Effect::Deny));
    for (value, readings, allowed, denied) in [
        (None, None, false, false),
        (Some("admin"), None, true, true),
        (Some("user"), None, false, false),
        (Some("user, admin"), Some("user\nadmin"), false, true),
        (Some("admin, user"), Some("admin\nuser"), false, true),
        (Some("admin"), Some("admin\nuser"), false, true),
        (None, Some("admin"), false, true),
        (None, Some("user"), false, false),
        (Some("admin"), Some("admin\nadmin"), true, true),
    ] {
        let own = value.map(|own| ("role", own));
        let others = readings.map(|own| ("\nrole", own));
        let attributes: Vec<_> = own.into_iter().chain(others).collect();
        let caller = Caller {
            attributes: &attributes,
            ..SOMEBODY
        };
        let asked = format!("{value:?} {readings:?}");
        assert_eq!(
            Asking::of(&allows, "Pay", "get").may(&caller),
            allowed,
            "{asked}"
        );
        assert_eq!(
            Asking::of(&denies, "Pay", "get").may(&caller),
            !denied,
            "{asked}"
        );
    }
}

/// One of these, or none, by what is left of a number, which it takes a part of.
fn one_of<T: Clone>(number: &mut u64, all: &[T]) -> Option<T> {
    let count = all.len() as u64 + 1;
    let own = all.get((*number % count) as usize);
    *number /= count;
    own.cloned()
}

/// What a rule may ask for, by a number.
fn conditions(mut number: u64) -> Match {
    let number = &mut number;
    let pair = |name: &str, text: Option<Text>| text.map(|text| (name.to_owned(), text));
    let regex = Text::Regex(regex::Regex::new("^[ab]$").unwrap());
    let texts = [
        exact("a"),
        exact("b"),
        Text::Any,
        Text::Prefix("a".into()),
        regex,
    ];
    let user = pair("user", one_of(number, &texts));
    let site = pair("site", one_of(number, &texts[..3]));
    let networks = ["10.0.0.0/8", "10.0.0.1", "10.0.0.0/31", "2001:db8::/32"];
    let sources = [one_of(number, &networks), one_of(number, &networks)];
    let names = ["spiffe://acme/a", "spiffe://acme/b"].map(exact);
    let identity = one_of(number, &names).map(|text| (IdentityKind::Spiffe, text));
    Match {
        attributes: user.into_iter().chain(site).collect(),
        sources: sources
            .into_iter()
            .flatten()
            .map(|own| own.parse().unwrap())
            .collect(),
        identity,
        service: one_of(number, &["Pay", "Cart"].map(exact)).unwrap_or(Text::Any),
        method: one_of(number, &["get", "put"].map(exact)).unwrap_or(Text::Any),
        ..Match::default()
    }
}

#[test]
fn rules_that_are_looked_up_decide_what_they_do_when_they_are_compared() {
    let mut random = crate::rng::Rng::new(7);
    let (mut refused, mut passed) = (0, 0);
    for _ in 0..400 {
        let rules = (0..random.next() % 7).map(|number| {
            let effect = [Effect::Allow, Effect::Deny][(random.next() % 2) as usize];
            Rule {
                dry_run: random.next().is_multiple_of(5),
                ..rule(&format!("r{number}"), effect, conditions(random.next()))
            }
        });
        let rules: Vec<_> = rules.collect();
        let default = [Effect::Allow, Effect::Deny][(random.next() % 2) as usize];
        let both = [false, true].map(|many| {
            let all = rules.iter().cloned().chain(fillers(many)).collect();
            let own = Authorization::new(policy(default, all));
            Asking::of(&own, "Pay", "get")
        });
        for _ in 0..20 {
            let number = &mut random.next();
            let user = one_of(number, &["a", "b", "ab"]).map(|own| ("user", own));
            let other = one_of(number, &["a\nb", "b\nb"]).map(|own| ("\nuser", own));
            let site = one_of(number, &["a", "b"]).map(|own| ("site", own));
            let attributes: Vec<_> = user.into_iter().chain(other).chain(site).collect();
            let sources = ["10.0.0.1", "10.1.0.0", "::ffff:10.0.0.0", "2001:db8::1"];
            let caller = Caller {
                attributes: &attributes,
                source: one_of(number, &sources).unwrap_or("192.0.2.1"),
                client: one_of(number, &["spiffe://acme/a", "spiffe://acme/b", "host"]),
                ..SOMEBODY
            };
            let [one, other] = both
                .each_ref()
                .map(|own| own.open(&caller).map(|own| own.rule));
            assert_eq!(
                one, other,
                "{rules:?} of {attributes:?} from {}",
                caller.source
            );
            *(if one.is_some() {
                &mut refused
            } else {
                &mut passed
            }) += 1;
        }
        let [one, other] = both.each_ref().map(Asking::counted);
        assert_eq!(one, other, "{rules:?}");
    }
    assert!(refused > 1000 && passed > 1000, "{refused} {passed}");
}

#[test]
fn whose_call_it_is_that_says_two_names_nobody_knows() {
    let mut own = limit(1, 1);
    own.per = vec![Per::Attribute("tenant".into())];
    let asking = Asking::of(&RateLimit::new(own), "Pay", "get");
    let two = Caller {
        attributes: &[("tenant", "a, b"), ("\ntenant", "a\nb")],
        ..SOMEBODY
    };
    assert_eq!(asking.open(&two).unwrap().why, Rejection::BadRequest);
    let one = Caller {
        attributes: &[("tenant", "a")],
        ..SOMEBODY
    };
    assert!(asking.may(&one) && !asking.may(&one));
    // What a filter set before stands there once, whatever the caller wrote.
    let mut edits = Edits::default();
    edits.set("tenant", "c");
    let flow = asking.ask(&two, &mut edits, |check, asked| check.open(asked));
    assert!(matches!(flow, Some(Flow::Continue)));
}
