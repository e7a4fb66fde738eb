//! Who goes to which lane, and who is not believed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::memory::TRACES;
use super::*;
use crate::clock::{Clock, Now};
use crate::filter::{BARE, Decisions, Edits, conformance};
use crate::rng::Rng;
use crate::route::Text;

/// Contexts that have nothing but their trace in them.
#[derive(Debug)]
struct Plain;

impl Contexts for Plain {
    fn trace(&self, _: &str, read: Read<'_, '_>) -> TraceId {
        let name = read("trace").and_then(|own| own.parse::<u128>().ok());
        TraceId(name.unwrap_or_default().to_be_bytes())
    }

    fn begin(&self, _: &str, trace: TraceId, _: u64) -> Vec<Field> {
        let name = u128::from_be_bytes(trace.0);
        vec![("trace".into(), name.to_string())]
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy {
        rules,
        attribute: "x-lane".into(),
        attributes: [("toy".into(), "toy.tag".into())].into(),
        label: "lane".into(),
        sources: vec!["10.0.0.0/8".parse().unwrap()],
        remember: Duration::from_secs(60),
        strict: false,
    }
}

fn rule(lane: &str, attribute: Option<(&str, &str)>, percent: f64) -> Rule {
    let when = Match {
        attributes: attribute
            .map(|(name, value)| (name.to_owned(), Text::Exact(value.into())))
            .into_iter()
            .collect(),
        ..Match::default()
    };
    Rule {
        lane: lane.into(),
        when,
        share: Share::percent(percent).unwrap(),
    }
}

fn lanes(rules: Vec<Rule>) -> Lanes {
    Lanes::new(policy(rules), Arc::new(Plain))
}

const TRUSTED: &str = "10.1.1.1";
const STRANGER: &str = "192.0.2.1";

/// The lane of a call, and what is changed about it.
fn place(
    lanes: &Lanes,
    protocol: &str,
    source: &str,
    attributes: &[(&str, &str)],
    at: u64,
) -> (Option<String>, Edits) {
    let (listener, route) = (Arc::from("front"), Arc::from("only"));
    let target = Target {
        protocol,
        listener: &listener,
        route: &route,
        service: "svc",
        method: "m",
        version: "",
        group: "",
    };
    let tally = Arc::new(Decisions::default()).of(&Arc::from("lanes"));
    let check = lanes.at(&target, &tally).unwrap();
    let mut edits = Edits::default();
    let mut chance = Rng::new(at);
    let flow = check.open(&mut Asked {
        now: Now(at * 1_000_000),
        source: source.parse().unwrap(),
        client: None,
        edits: &mut edits,
        clock: Clock::start(),
        trace: TraceId::default(),
        attributes: &mut |name| {
            let own = attributes.iter().find(|(own, _)| *own == name);
            own.map(|(_, value)| Cow::Owned((*value).to_owned()))
        },
        random: &mut || chance.next(),
    });
    assert!(matches!(flow, Flow::Continue));
    let placed = edits.placed().unwrap();
    assert_eq!((&*placed.label, placed.strict), ("lane", false));
    (placed.lane.as_deref().map(str::to_owned), edits)
}

#[test]
fn rules_choose_where_a_call_comes_in_and_its_own_word_is_kept_from_whom_it_is_believed() {
    let own = lanes(vec![rule("gray", Some(("user", "beta")), 100.0)]);
    let of = |source: &str, attributes: &[(&str, &str)]| {
        let (lane, edits) = place(&own, "web", source, attributes, 1);
        (
            lane.unwrap_or_default(),
            edits.get("x-lane").map(str::to_owned),
        )
    };
    assert_eq!(of(STRANGER, &[]), (String::new(), None));
    assert_eq!(
        of(STRANGER, &[("user", "beta")]),
        ("gray".to_owned(), Some("gray".to_owned()))
    );
    // A stranger's word is taken away, a friend's kept as it is, without writing it again.
    assert_eq!(
        of(STRANGER, &[("x-lane", "blue")]),
        (String::new(), Some(String::new()))
    );
    assert_eq!(
        of(TRUSTED, &[("x-lane", "blue")]),
        ("blue".to_owned(), None)
    );
    // What is no name is no lane.
    let long = "x".repeat(LONGEST + 1);
    for bad in ["", "a b", "a\nb", "ü", &long] {
        let (lane, _) = of(TRUSTED, &[("x-lane", bad)]);
        assert_eq!(lane, "", "{bad:?}");
    }
    assert_eq!(of(TRUSTED, &[("x-lane", &long[1..])]).0.len(), LONGEST);
}

#[test]
fn what_can_bear_no_lane_is_in_none() {
    let own = lanes(vec![rule("gray", None, 100.0)]);
    let (listener, route) = (Arc::from("front"), Arc::from("only"));
    let target = Target {
        protocol: "web",
        listener: &listener,
        route: &route,
        service: "svc",
        method: "m",
        version: "",
        group: "",
    };
    let tally = Arc::new(Decisions::default()).of(&Arc::from("lanes"));
    let check = own.at(&target, &tally).unwrap();
    for is_bare in [false, true] {
        let mut edits = Edits::default();
        let flow = check.open(&mut Asked {
            now: Now(1),
            source: STRANGER.parse().unwrap(),
            client: None,
            edits: &mut edits,
            clock: Clock::start(),
            trace: TraceId::default(),
            attributes: &mut |name| (is_bare && name == BARE).then_some(Cow::Borrowed("")),
            random: &mut || 1,
        });
        assert!(matches!(flow, Flow::Continue));
        assert_eq!(edits.attributes().is_empty(), is_bare);
        let lane = edits.placed().unwrap().lane.as_deref();
        assert_eq!(lane, (!is_bare).then_some("gray"));
    }
}

#[test]
fn each_protocol_has_its_own_attribute() {
    let own = lanes(vec![rule("gray", None, 100.0)]);
    let (lane, edits) = place(&own, "toy", STRANGER, &[], 1);
    assert_eq!(lane.as_deref(), Some("gray"));
    assert_eq!(
        (edits.get("toy.tag"), edits.get("x-lane")),
        (Some("gray"), None)
    );
    let (lane, _) = place(
        &own,
        "toy",
        TRUSTED,
        &[("toy.tag", "red"), ("x-lane", "blue")],
        1,
    );
    assert_eq!(lane.as_deref(), Some("red"));
}

#[test]
fn a_trace_keeps_its_lane_for_a_while() {
    let own = lanes(vec![rule("gray", Some(("user", "beta")), 100.0)]);
    let (_, edits) = place(&own, "web", STRANGER, &[("user", "beta")], 1);
    // It had no trace: it has one now.
    let trace = edits.get("trace").unwrap().to_owned();
    let again = |source, trace: &str, at| place(&own, "other", source, &[("trace", trace)], at);
    let (lane, edits) = again(TRUSTED, &trace, 50);
    assert_eq!(lane.as_deref(), Some("gray"));
    assert_eq!(edits.get("x-lane"), Some("gray"));
    assert_eq!(again(TRUSTED, "5", 50).0, None, "another trace");
    assert_eq!(
        again(STRANGER, &trace, 50).0,
        None,
        "not by a stranger's word"
    );
    assert_eq!(again(TRUSTED, &trace, 62).0, None, "it is over");
    // A trace that came with the call is the one that is remembered.
    let (_, edits) = place(
        &own,
        "web",
        STRANGER,
        &[("user", "beta"), ("trace", "7")],
        100,
    );
    assert_eq!(edits.get("trace"), None);
    assert_eq!(again(TRUSTED, "7", 101).0.as_deref(), Some("gray"));
    // So is that of one whose word was taken.
    place(
        &own,
        "web",
        TRUSTED,
        &[("x-lane", "blue"), ("trace", "8")],
        100,
    );
    assert_eq!(again(TRUSTED, "8", 101).0.as_deref(), Some("blue"));
    // Nothing is certain of one that was in two.
    place(
        &own,
        "web",
        TRUSTED,
        &[("x-lane", "gray"), ("trace", "8")],
        102,
    );
    assert_eq!(again(TRUSTED, "8", 103).0, None);
}

#[test]
fn nothing_is_remembered_where_that_is_off_and_no_trace_begun() {
    let mut policy = policy(vec![rule("gray", None, 100.0)]);
    policy.remember = Duration::ZERO;
    let own = Lanes::new(policy, Arc::new(Plain));
    let (_, edits) = place(&own, "web", STRANGER, &[], 1);
    assert_eq!(edits.get("trace"), None);
    assert!(own.memory.is_empty());
}

#[test]
fn traces_that_are_remembered_have_a_bound() {
    let memory = Memory::new(Duration::from_secs(60));
    let lane = Arc::from("gray");
    let name = |number: usize| TraceId((number as u128).to_be_bytes());
    for number in 1..=3 * TRACES {
        memory.put(name(number), &lane, Now(1));
    }
    let known = (1..=3 * TRACES).filter(|own| memory.get(name(*own), Now(1)).is_some());
    let known: Vec<_> = known.collect();
    assert!(
        (TRACES / 2..=TRACES).contains(&known.len()),
        "{}",
        known.len()
    );
    assert_eq!(known.last(), Some(&(3 * TRACES)));
    // No name is no trace.
    memory.put(TraceId::default(), &lane, Now(1));
    assert_eq!(memory.get(TraceId::default(), Now(1)), None);
}

#[test]
fn a_share_is_drawn_for_each_call() {
    let own = lanes(vec![rule("gray", None, 10.0)]);
    let gray = (0..2000).filter(|at| place(&own, "web", STRANGER, &[], *at).0.is_some());
    let gray = gray.count();
    assert!((140..260).contains(&gray), "{gray}");
}

#[test]
fn lanes_obey_the_laws_of_filters() {
    conformance::check(&|| {
        let rules = vec![
            rule("gray", Some(("user", "user-7")), 100.0),
            rule("blue", None, 5.0),
        ];
        Box::new(lanes(rules))
    });
}
