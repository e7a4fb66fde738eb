//! Rules of frameworks, applied to calls.

use super::*;
use crate::discovery::Callers;

fn endpoint(port: u16, zone: &str) -> Arc<Endpoint> {
    let labels = [("zone", zone)].into_iter().filter(|(_, v)| !v.is_empty());
    Arc::new(Endpoint {
        address: ([10, 0, 0, 1], port).into(),
        weight: 1,
        labels: labels.map(|(k, v)| (k.into(), v.into())).collect(),
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

fn not(subject: Subject, glob: &str) -> Condition {
    Condition {
        negated: true,
        ..is(subject, glob)
    }
}

fn zone() -> Subject {
    Subject::Label("zone".to_owned())
}

fn rule(when: Vec<Condition>, then: Vec<Vec<Condition>>, force: bool) -> Rule {
    let then = then.into_iter().map(|conditions| RuleDestination {
        weight: 1,
        conditions,
    });
    Rule {
        when,
        among: Vec::new(),
        then: then.collect(),
        force,
    }
}

fn rules(all: Vec<Rule>) -> Rules {
    Rules {
        first: all.into_iter().map(Arc::new).collect(),
        ..Rules::default()
    }
}

/// The ports that are left of 1 in zone a, 2 and 3 in zone b, and 4 in none.
fn left(rules: &Rules, method: &str, attributes: &[(&str, &str)], random: u64) -> Vec<u16> {
    let all = vec![
        endpoint(1, "a"),
        endpoint(2, "b"),
        endpoint(3, "b"),
        endpoint(4, ""),
    ];
    let mut facts = Facts {
        method,
        service: "s",
        version: "",
        group: "",
        source: [10, 9, 8, 7].into(),
        attribute: &mut |name| {
            let found = attributes.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        },
        read: Vec::new(),
    };
    let mut matched = MatchedRules::of(rules, &mut facts, random);
    let mut empty = Vec::new();
    loop {
        match matched.apply(all.clone()) {
            Ok(left) => return left.iter().map(|each| each.address.port()).collect(),
            Err(deserted) => matched.redraw(deserted, &mut empty, random),
        }
    }
}

fn ports(all: Vec<Rule>, method: &str) -> Vec<u16> {
    left(&rules(all), method, &[], 0)
}

#[test]
fn a_rule_is_for_the_calls_it_says() {
    let rule = || {
        let when = vec![is(Subject::Method, "get*"), is(Subject::Source, "10.*")];
        vec![rule(when, vec![vec![is(zone(), "b")]], false)]
    };
    assert_eq!(ports(rule(), "getIt"), [2, 3]);
    assert_eq!(ports(rule(), "setIt"), [1, 2, 3, 4]);
}

#[test]
fn rules_follow_one_another_and_force_leaves_none() {
    let to = |glob: &str, force| rule(vec![], vec![vec![is(Subject::Address, glob)]], force);
    let no_two = || rule(vec![], vec![vec![not(Subject::Port, "2")]], true);
    assert_eq!(
        ports(vec![to("10.0.0.1:9", false), no_two()], "m"),
        [1, 3, 4]
    );
    assert!(ports(vec![to("10.0.0.1:9", true), no_two()], "m").is_empty());
    let deny = || vec![rule(vec![is(Subject::Method, "drop")], vec![], false)];
    assert!(ports(deny(), "drop").is_empty());
    assert_eq!(ports(deny(), "keep").len(), 4);
}

#[test]
fn what_is_not_said_fulfils_no_condition() {
    let rule = |condition| vec![rule(vec![], vec![vec![condition]], true)];
    assert_eq!(ports(rule(not(zone(), "a")), "m"), [2, 3]);
    let unsaid = not(Subject::Attribute("gray".to_owned()), "1");
    let when = vec![super::tests::rule(vec![unsaid], vec![], true)];
    assert_eq!(ports(when, "m").len(), 4);
}

#[test]
fn numbers_lie_between_others() {
    let when = Condition {
        subject: Subject::Attribute("user".to_owned()),
        negated: false,
        patterns: vec![Pattern::Range(1, 10)],
    };
    let rules = rules(vec![rule(vec![when], vec![], true)]);
    let denied = |user: &str| left(&rules, "m", &[("user", user)], 0).is_empty();
    assert!(denied("1") && denied("10"));
    assert!(!denied("11") && !denied("0") && !denied("-3") && !denied("x"));
}

#[test]
fn endpoints_are_compared_with_what_the_call_says() {
    let same = Condition {
        subject: zone(),
        negated: false,
        patterns: vec![Pattern::OfCall(Subject::Attribute("zone".to_owned()))],
    };
    let rules = rules(vec![rule(vec![], vec![vec![same]], true)]);
    let of = |zone| left(&rules, "m", &[("zone", zone)], 0);
    assert_eq!(of("a"), [1]);
    assert_eq!(of("b"), [2, 3]);
    assert!(left(&rules, "m", &[], 0).is_empty());
}

#[test]
fn a_rule_leaves_alone_what_it_does_not_speak_of() {
    let narrow = |then, force| Rule {
        among: vec![is(zone(), "b")],
        ..rule(vec![], vec![vec![is(Subject::Port, then)]], force)
    };
    assert_eq!(ports(vec![narrow("2", true)], "m"), [1, 2, 4]);
    assert_eq!(ports(vec![narrow("9", true)], "m"), [1, 4]);
    assert_eq!(ports(vec![narrow("9", false)], "m"), [1, 2, 3, 4]);
}

#[test]
fn destinations_get_calls_by_weight_and_those_without_endpoints_none() {
    let to = |weight, port: &str| RuleDestination {
        weight,
        conditions: vec![is(Subject::Port, port)],
    };
    let weighted = |then, force| {
        rules(vec![Rule {
            when: vec![],
            among: vec![],
            then,
            force,
        }])
    };
    let three = weighted(vec![to(3, "1"), to(1, "2"), to(96, "9")], false);
    let mut counts = [0; 5];
    for random in 0..10_000_u64 {
        // Numbers that are spread over all their bits.
        let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let left = left(&three, "m", &[], random);
        assert_eq!(left.len(), 1);
        counts[usize::from(left[0])] += 1;
    }
    assert_eq!(counts[1] + counts[2], 10_000);
    assert!((7200..7800).contains(&counts[1]), "{counts:?}");
    let none = |force| weighted(vec![to(1, "8"), to(1, "9")], force);
    assert_eq!(left(&none(false), "m", &[], 5).len(), 4);
    assert!(left(&none(true), "m", &[], 5).is_empty());
}

#[test]
fn rules_of_callers_are_for_their_calls_and_change_at_once() {
    let callers = Arc::new(Callers::new("who"));
    let to = |port| Arc::new(rule(vec![], vec![vec![is(Subject::Port, port)]], true));
    callers.replace([("shop".to_owned(), vec![to("1")])].into());
    let rules = Rules {
        callers: Some(callers.clone()),
        ..Rules::default()
    };
    let of = |who| left(&rules, "m", &[("who", who)], 0);
    assert_eq!(of("shop"), [1]);
    assert_eq!(of("cart").len(), 4);
    callers.replace([("cart".to_owned(), vec![to("2")])].into());
    assert_eq!((of("shop").len(), of("cart")), (4, vec![2]));
}

#[test]
fn an_attribute_is_looked_for_once_a_call() {
    let mut reads = 0;
    let mut facts = Facts {
        method: "m",
        service: "s",
        version: "",
        group: "",
        source: [10, 9, 8, 7].into(),
        attribute: &mut |_| {
            reads += 1;
            None
        },
        read: Vec::new(),
    };
    let when = || vec![is(Subject::Attribute("user".to_owned()), "1")];
    let many = rules((0..50).map(|_| rule(when(), vec![], true)).collect());
    let matched = MatchedRules::of(&many, &mut facts, 0);
    assert_eq!(matched, MatchedRules::default());
    assert_eq!(reads, 1);
}
