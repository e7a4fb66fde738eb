//! First match wins, attributes decide last, and weights are exact.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

fn route(name: &str, when: Match) -> Arc<Route> {
    Arc::new(Route {
        name: name.into(),
        when,
        to: Destination::Clusters(Vec::new()),
        timeout: None,
        retry: Retry::default(),
        priority: Default::default(),
        long_poll: false,
        tracing: None,
        filters: Default::default(),
        shadow: None,
        tap: None,
        treatment: None,
    })
}

fn exact(text: &str) -> Text {
    Text::Exact(text.into())
}

fn call(service: &str) -> Call<'_> {
    let source = IpAddr::from([10, 0, 0, 1]);
    Call {
        protocol: "p",
        service,
        method: "m",
        version: "1",
        group: "g",
        source,
    }
}

fn selected(table: &RouteTable, call: &Call<'_>, attributes: &[(&str, &str)]) -> Option<String> {
    let candidates = table.candidates(call);
    let number = candidates.select(None, &mut |name| {
        attributes
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, v)| Cow::Borrowed(*v))
    });
    number.map(|number| candidates.routes()[number].name.to_string())
}

#[test]
fn every_condition_must_hold() {
    let call = call("a.Pay");
    let holds = |when: Match| when.holds(&call);
    assert!(holds(Match::default()));
    assert!(holds(Match {
        service: exact("a.Pay"),
        method: exact("m"),
        ..Match::default()
    }));
    assert!(!holds(Match {
        service: exact("a.Pay"),
        method: exact("n"),
        ..Match::default()
    }));
    assert!(!holds(Match {
        protocol: exact("q"),
        ..Match::default()
    }));
    assert!(!holds(Match {
        version: exact(""),
        ..Match::default()
    }));
    assert!(!holds(Match {
        group: exact("h"),
        ..Match::default()
    }));
    let sources = vec!["11.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    assert!(holds(Match {
        sources: sources.clone(),
        ..Match::default()
    }));
    assert!(!holds(Match {
        sources: sources[..1].to_vec(),
        ..Match::default()
    }));
}

#[test]
fn the_first_match_wins_and_attributes_are_asked_last() {
    let gray = vec![("lane".to_owned(), exact("gray"))];
    let any = vec![("lane".to_owned(), Text::Any)];
    let table = RouteTable {
        name: "t".into(),
        routes: vec![
            route(
                "other",
                Match {
                    service: exact("b"),
                    ..Match::default()
                },
            ),
            route(
                "gray",
                Match {
                    attributes: gray,
                    ..Match::default()
                },
            ),
            route(
                "laned",
                Match {
                    attributes: any,
                    ..Match::default()
                },
            ),
            route("rest", Match::default()),
            route("never", Match::default()),
        ],
    };
    assert_eq!(table.candidates(&call("a")).routes().len(), 3);
    assert_eq!(table.candidates(&call("b")).routes().len(), 1);
    assert_eq!(
        selected(&table, &call("a"), &[("lane", "gray")]).unwrap(),
        "gray"
    );
    assert_eq!(
        selected(&table, &call("a"), &[("lane", "blue")]).unwrap(),
        "laned"
    );
    assert_eq!(selected(&table, &call("a"), &[]).unwrap(), "rest");
    assert_eq!(
        selected(&table, &call("b"), &[("lane", "gray")]).unwrap(),
        "other"
    );
    let none = RouteTable {
        name: "t".into(),
        routes: table.routes[..2].to_vec(),
    };
    assert_eq!(selected(&none, &call("a"), &[]), None);
}

#[test]
fn all_attributes_of_a_route_must_hold() {
    let both = vec![
        ("lane".to_owned(), exact("gray")),
        ("user".to_owned(), Text::Any),
    ];
    let table = RouteTable {
        name: "t".into(),
        routes: vec![route(
            "both",
            Match {
                attributes: both,
                ..Match::default()
            },
        )],
    };
    let taken = |attributes: &[_]| selected(&table, &call("a"), attributes).is_some();
    assert!(taken(&[("user", ""), ("lane", "gray")]));
    assert!(
        !taken(&[("lane", "gray")]),
        "a missing attribute matches nothing, not even Any"
    );
    assert!(!taken(&[("user", "u"), ("lane", "grey")]));
    assert!(!taken(&[("user", "u")]));
}

#[test]
fn attributes_are_read_only_when_asked_for_and_once_for_neighbours() {
    let lane = |value: &str| Match {
        attributes: vec![("lane".to_owned(), exact(value))],
        ..Match::default()
    };
    let reads = |routes: Vec<Arc<Route>>| {
        let table = RouteTable {
            name: "t".into(),
            routes,
        };
        let mut reads = Vec::new();
        let chosen = table.candidates(&call("a")).select(None, &mut |name| {
            reads.push(name.to_owned());
            Some("blue".into())
        });
        (chosen, reads)
    };
    let (chosen, read) = reads(vec![
        route("rest", Match::default()),
        route("x", lane("blue")),
    ]);
    assert_eq!((chosen, read.len()), (Some(0), 0));
    let laned = ["gray", "green", "blue"].map(|value| route(value, lane(value)));
    assert_eq!(reads(laned.to_vec()), (Some(2), vec!["lane".to_owned()]));
}

#[test]
fn a_table_knows_whether_it_asks_for_the_source() {
    let table = |when| RouteTable {
        name: "t".into(),
        routes: vec![route("r", when)],
    };
    assert!(!table(Match::default()).matches_on_source());
    let sources = vec!["10.0.0.0/8".parse().unwrap()];
    assert!(
        table(Match {
            sources,
            ..Match::default()
        })
        .matches_on_source()
    );
}

#[test]
fn no_candidates_no_route() {
    assert_eq!(
        Candidates::default().select(None, &mut |_| Some("x".into())),
        None
    );
}

fn weighted(weights: &[u32]) -> Vec<Weighted> {
    let one = |weight: &u32| Weighted {
        cluster: "c".into(),
        weight: *weight,
        subset: None,
        spill: true,
    };
    weights.iter().map(one).collect()
}

#[test]
fn who_is_left_shares_by_weight() {
    let destinations = weighted(&[1, 0, 3, 2]);
    let mut counts = [0_u32; 4];
    let mut rng = Rng::new(7);
    for _ in 0..3000 {
        counts[choose_but(&[0], &destinations, rng.next()).unwrap()] += 1;
    }
    assert_eq!((counts[0], counts[1]), (0, 0));
    assert!((1650..1950).contains(&counts[2]), "{counts:?}");
    assert_eq!(choose_but(&[0, 3], &destinations, rng.next()), Some(2));
    assert_eq!(choose_but(&[3, 0, 2], &destinations, rng.next()), None);
}

#[test]
fn shares_are_exact_over_fifty_thousand_calls() {
    // The 99.9 % points of chi-squared for 1 and 2 degrees of freedom.
    for (weights, bound) in [
        (vec![1, 1], 10.83),
        (vec![99, 1], 10.83),
        (vec![50, 50], 10.83),
        (vec![0, 1, 1], 10.83),
        (vec![5, 3, 2], 13.82),
    ] {
        let destinations = weighted(&weights);
        let mut rng = Rng::new(42);
        let mut counts = vec![0_u32; weights.len()];
        for _ in 0..50_000 {
            counts[choose(&destinations, rng.next()).unwrap()] += 1;
        }
        let total: u32 = weights.iter().sum();
        let mut chi_squared = 0.0;
        for (count, weight) in counts.iter().zip(&weights) {
            if *weight == 0 {
                assert_eq!(*count, 0, "weight 0 gets exactly nothing");
                continue;
            }
            let expected = 50_000.0 * f64::from(*weight) / f64::from(total);
            chi_squared += (f64::from(*count) - expected).powi(2) / expected;
        }
        assert!(
            chi_squared < bound,
            "{weights:?}: {counts:?}, chi-squared {chi_squared}"
        );
    }
}

#[test]
fn the_largest_weights_and_draws_fit() {
    let both = weighted(&[u32::MAX, u32::MAX]);
    assert_eq!(choose(&both, 0), Some(0));
    assert_eq!(choose(&both, u64::MAX), Some(1));
}

#[test]
fn no_weight_no_choice() {
    assert_eq!(choose(&weighted(&[0]), 7), None);
    assert_eq!(choose(&weighted(&[0, 0]), 7), None);
    assert_eq!(choose(&[], 7), None);
}

proptest! {
    /// Candidates and selection together are the naive reading of the table.
    #[test]
    fn selection_is_the_first_route_all_of_whose_conditions_hold(
        rules in prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..3), 0..8),
        service in 0_u8..3, lane in 0_u8..3,
    ) {
        let text = |n: u8| if n == 0 { Text::Any } else { exact(&n.to_string()) };
        let routes: Vec<_> = rules.iter().enumerate().map(|(n, (s, has_lane, l))| {
            let attributes =
                if *has_lane > 0 { vec![("lane".to_owned(), text(*l))] } else { Vec::new() };
            route(&n.to_string(), Match { service: text(*s), attributes, ..Match::default() })
        }).collect();
        let table = RouteTable { name: "t".into(), routes };
        let (service, lane_value) = (service.to_string(), lane.to_string());
        let attributes = if lane > 0 { vec![("lane", lane_value.as_str())] } else { Vec::new() };
        let naive = rules.iter().position(|(s, has_lane, l)| {
            (*s == 0 || s.to_string() == service)
                && (*has_lane == 0 || (lane > 0 && (*l == 0 || *l == lane)))
        });
        prop_assert_eq!(selected(&table, &call(&service), &attributes), naive.map(|n| n.to_string()));
    }

    #[test]
    fn a_choice_is_never_of_weight_zero(weights in prop::collection::vec(0_u32..5, 0..8), random: u64) {
        match choose(&weighted(&weights), random) {
            Some(chosen) => prop_assert!(weights[chosen] > 0),
            None => prop_assert!(weights.iter().all(|w| *w == 0)),
        }
    }
}

#[test]
fn a_condition_on_the_client_is_on_one_kind_of_name() {
    let workload = Identity::of(
        Some("spiffe://acme/pay"),
        &["a.test", "b.test"],
        Some("pay"),
    );
    let common = Identity::of(None, &[], Some("spiffe://acme/pay"));
    let is_taken = |kind, text: &str, client: Option<&Identity>| {
        let when = Match {
            identity: Some((kind, exact(text))),
            ..Match::default()
        };
        let rest = route("rest", Match::default());
        let table = RouteTable {
            name: "t".into(),
            routes: vec![route("certain", when), rest],
        };
        let candidates = table.candidates(&call("a"));
        assert_eq!(candidates.routes().len(), 2);
        candidates.select(client, &mut |_| None) == Some(0)
    };
    use identity::IdentityKind::{CommonName, Dns, Spiffe};
    for (kind, text, by_workload, by_common) in [
        (Spiffe, "spiffe://acme/pay", true, false),
        (Dns, "a.test", true, false),
        (Dns, "b.test", true, false),
        (Dns, "spiffe://acme/pay", false, false),
        (CommonName, "cn:pay", false, false),
        (CommonName, "cn:spiffe://acme/pay", false, true),
    ] {
        assert_eq!(
            is_taken(kind, text, workload.as_ref()),
            by_workload,
            "{text}"
        );
        assert_eq!(is_taken(kind, text, common.as_ref()), by_common, "{text}");
        assert!(!is_taken(kind, text, None), "{text}");
    }
}
