//! Adaptive concurrency and breakers: what is understood, and what could have no effect and is refused.

use std::path::Path;

use finback_core::cluster::ClusterPolicy;
use finback_core::concurrency::{AdaptiveConcurrency, Priority};
use finback_core::outlier::{FailurePercentage, SuccessRate};

use super::refused;
use crate::config::{Config, parse};

fn text(protocol: &str, route: &str, cluster: &str) -> String {
    format!(
        r#"listeners:
  - {{ name: in, address: "127.0.0.1:0", protocol: {protocol}, routes: all }}
routes:
  all:
    - {{ {route} }}
clusters:
  pay: {{ endpoints: [ "127.0.0.1:1" ], {cluster} }}
  other: {{ endpoints: [ "127.0.0.1:2" ] }}
"#
    )
}

fn config(route: &str, cluster: &str) -> Config {
    let text = text("bolt", route, cluster);
    parse(&text, Path::new("f.yaml")).unwrap_or_else(|error| panic!("{error}"))
}

fn policy(cluster: &str) -> ClusterPolicy {
    let config = config("to: { cluster: pay }", cluster);
    let mut clusters = config.routing.clusters.into_iter();
    clusters.find(|own| &*own.name == "pay").unwrap().policy
}

#[test]
fn it_is_off_unless_it_is_written() {
    let policy = policy("connect_timeout: 1s");
    assert_eq!(policy.adaptive_concurrency, None);
    assert!(!policy.outlier.is_rated());
}

#[test]
fn every_key_arrives() {
    let default = AdaptiveConcurrency::default();
    for (written, expected) in [
        ("{}", default),
        (
            "{ min: 8, max: 500, percentile: 50, buffer: 10 }",
            AdaptiveConcurrency {
                min: 8,
                max: 500,
                percentile: 50,
                buffer: 10,
            },
        ),
        // One bound moves the other's default out of its way.
        (
            "{ min: 5000 }",
            AdaptiveConcurrency {
                min: 5000,
                max: 5000,
                ..default
            },
        ),
        (
            "{ max: 2 }",
            AdaptiveConcurrency {
                min: 2,
                max: 2,
                ..default
            },
        ),
    ] {
        let policy = policy(&format!("adaptive_concurrency: {written}"));
        assert_eq!(policy.adaptive_concurrency, Some(expected), "{written}");
    }
    let outlier = policy(
        "outlier: { success_rate: { min_endpoints: 3, volume: 20, stdev_factor: 1.5 }, \
         failure_percentage: { threshold: 50, min_endpoints: 2, volume: 10 }, interval: 5s }",
    )
    .outlier;
    let expected = SuccessRate {
        min_endpoints: 3,
        volume: 20,
        stdev_factor: 1500,
    };
    assert_eq!(outlier.success_rate, Some(expected));
    let expected = FailurePercentage {
        threshold: 50,
        min_endpoints: 2,
        volume: 10,
    };
    assert_eq!(outlier.failure_percentage, Some(expected));
    assert_eq!(outlier.interval.as_secs(), 5);
}

#[test]
fn routes_say_who_is_shed_first() {
    for (written, priority, long_poll) in [
        ("", Priority::Default, false),
        (", priority: critical", Priority::Critical, false),
        (", priority: default", Priority::Default, false),
        (
            ", priority: sheddable, long_poll: true",
            Priority::Sheddable,
            true,
        ),
    ] {
        let route = format!("to: {{ cluster: pay }}{written}");
        let config = config(&route, "adaptive_concurrency: {}");
        let route = &config.routing.tables[0].routes[0];
        assert_eq!((route.priority, route.long_poll), (priority, long_poll));
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let to = "to: { cluster: pay }";
    let on = "adaptive_concurrency: {}";
    for (protocol, route, cluster, expected) in [
        (
            "bolt",
            "to: { cluster: pay }, priority: urgent",
            on,
            "f.yaml:5:41: `urgent` is not a priority; write critical, default or sheddable",
        ),
        (
            "bolt",
            to,
            "adaptive_concurrency: { min: 10, max: 9 }",
            "`max` is below `min`: no limit is between 10 and 9",
        ),
        (
            "bolt",
            to,
            "adaptive_concurrency: { percentile: 0 }",
            "of 0 percent of the answers nothing can be learnt",
        ),
        ("bolt", to, "adaptive_concurrency: { probe: 3 }", "probe"),
        (
            "bolt",
            to,
            "outlier: { interval: 5s }",
            "f.yaml:7:61: nothing is counted in intervals",
        ),
        (
            "bolt",
            to,
            "outlier: { success_rate: { stdev_factor: -1.0 } }",
            "-1 is not a factor; write 0 to 100",
        ),
        // What could have no effect.
        (
            "bolt",
            "to: { cluster: other }, priority: critical",
            on,
            "f.yaml:5:43: no cluster that it leads to has `adaptive_concurrency`; take `priority` away",
        ),
        (
            "bolt",
            "to: { cluster: other }, long_poll: true",
            on,
            "no cluster that it leads to has `adaptive_concurrency`; take `long_poll` away",
        ),
        (
            "http",
            "respond: { status: 200 }, priority: critical",
            on,
            "its calls are answered here, and go to no cluster; take `priority` away",
        ),
        (
            "auto",
            "match: { protocol: tcp }, to: { cluster: other }, priority: critical",
            on,
            "sessions and connections are left out of adaptive concurrency; take `priority` away",
        ),
        (
            "mqtt",
            to,
            on,
            "only sessions and connections go there, and these are left out of it",
        ),
        (
            "auto",
            "match: { protocol: mqtt }, to: { cluster: pay }",
            on,
            "only sessions and connections go there, and these are left out of it",
        ),
    ] {
        let error = refused(&text(protocol, route, cluster));
        let error = error.replace("dir/", "");
        assert!(error.contains(expected), "{route} {cluster}: {error}");
    }
    // One of several is enough.
    let several = "to: [ { cluster: other }, { cluster: pay } ], priority: critical";
    config(several, on);
}
