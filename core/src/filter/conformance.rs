//! The laws of a filter, as one function to call from a test.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::clock::Clock;
use crate::identity::Identity;
use crate::record::TraceId;

use super::{Asked, Decisions, Edits, Filter, Flow, Target};

/// Callers that a filter is shown, each with its own address, identity and values.
const CALLERS: u32 = 2000;

fn word(flow: &Flow) -> String {
    match flow {
        Flow::Refuse(refusal) => format!("refused: {:?} by '{}'", refusal.why, refusal.rule),
        Flow::Continue | Flow::Wait(_) => format!("{flow:?}"),
    }
}

/// Checks the laws of [filters](super) of whatever `make` makes, which each time is the same.
///
/// # Panics
/// If a law is broken, with what happened.
pub fn check(make: &dyn Fn() -> Box<dyn Filter>) {
    let (one, other) = (make(), make());
    assert!(one.is_same(&*other), "it is not the same as itself");
    assert!(
        !one.kind().is_empty() && !one.describe().is_empty(),
        "it says nothing"
    );
    let (listener, route): (Arc<str>, Arc<str>) = ("front".into(), "only".into());
    let target = Target {
        protocol: "toy",
        listener: &listener,
        route: &route,
        service: "svc",
        method: "m",
        version: "",
        group: "",
    };
    // Whatever both were asked, they answer alike: by their own clocks and chances, which are the same.
    let answers = |filter: &dyn Filter| -> Vec<String> {
        let (decisions, name) = (Arc::new(Decisions::default()), Arc::from("f"));
        let Some(check) = filter.at(&target, &decisions.of(&name)) else {
            return Vec::new();
        };
        let clock = Clock::start();
        let now = crate::clock::Now(1_000_000);
        let mut answers = Vec::new();
        for caller in 0..CALLERS {
            let client = Identity::of(None, &[&format!("c{caller}.test")], None);
            let mut edits = Edits::default();
            let mut chance = crate::rng::Rng::new(caller.into());
            let flow = check.open(&mut Asked {
                now,
                source: IpAddr::V4(Ipv4Addr::from(caller)),
                client: client.as_ref(),
                edits: &mut edits,
                clock,
                trace: TraceId::default(),
                attributes: &mut |name| Some(Cow::Owned(format!("{name}-{caller}"))),
                random: &mut || chance.next(),
            });
            answers.push(format!("{} {edits:?}", word(&flow)));
        }
        // What is counted has the names of the configuration, and callers cannot add any.
        assert!(
            decisions.all().len() < 100,
            "callers make up names of counts"
        );
        answers
    };
    let (first, second) = (answers(&*one), answers(&*other));
    assert_eq!(first, second, "equal calls are treated unlike");
}
