//! Which series there are, how full they may be, and what is shown of them.

use super::*;
use crate::Page;
use finback_core::frame::Outcome;
use finback_core::record::{Ending, Ends, Record};
use finback_core::rejection::Rejection;

fn key(service: &str) -> SeriesKey {
    SeriesKey {
        protocol: "p",
        known: true,
        listener: "l".into(),
        service: service.into(),
        method: "m".into(),
    }
}

fn metrics() -> Metrics {
    Metrics::new(|_, status| (status.0 < 600).then(|| status.0.to_string().into()))
}

const NOBODY: Ends = Ends {
    source: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    endpoint: None,
};

fn record(ending: Ending, micros: u64) -> Record<'static> {
    Record {
        micros,
        attempts: 1,
        request_bytes: 10,
        response_bytes: 20,
        ..Record::new(ending, &NOBODY)
    }
}

#[test]
fn workers_are_summed_and_buckets_cumulate() {
    let metrics = metrics();
    let success = Ending::Answered(Outcome::Success);
    metrics.series(0, &key("s")).record(&record(success, 100));
    metrics.series(1, &key("s")).record(&record(success, 101));
    metrics
        .series(0, &key("s"))
        .record(&record(Ending::Rejected(Rejection::NoRoute), 70_000_000));
    let mut page = Page::default();
    metrics.collect(&mut page);
    let text = page.into_text();
    let labels = r#"protocol="p",listener="l",service="s",method="m""#;
    for line in [
        format!("finback_requests_total{{{labels},outcome=\"success\",status=\"\"}} 2"),
        format!("finback_requests_total{{{labels},outcome=\"no_route\",status=\"\"}} 1"),
        format!("finback_request_duration_seconds_bucket{{{labels},le=\"0.0001\"}} 1"),
        format!("finback_request_duration_seconds_bucket{{{labels},le=\"0.00025\"}} 2"),
        format!("finback_request_duration_seconds_bucket{{{labels},le=\"60\"}} 2"),
        format!("finback_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 3"),
        format!("finback_request_duration_seconds_count{{{labels}}} 3"),
        format!("finback_response_bytes_total{{{labels}}} 60"),
    ] {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

/// Service and method of every series, and how many exchanges it counted.
fn counted(metrics: &Metrics) -> Vec<(String, String, String, u64)> {
    let each = metrics.rows().into_iter().map(|row| {
        let [listener, service, method] =
            [&row.listener, &row.name.service, &row.name.method].map(ToString::to_string);
        (listener, service, method, row.sums.latencies.count())
    });
    each.collect()
}

fn count(metrics: &Metrics, worker: usize, key: &SeriesKey) {
    metrics.series(worker, key).record(&record(Ending::Sent, 1));
}

#[test]
fn services_that_nobody_knows_are_one_series_each_for_protocol_and_listener() {
    let metrics = metrics();
    for n in 0..10_000 {
        for (protocol, listener) in [("p", "l"), ("q", "l"), ("p", "other")] {
            let invented = SeriesKey {
                protocol,
                known: false,
                listener: listener.into(),
                ..key(&format!("invented.{n}"))
            };
            count(&metrics, n % 4, &invented);
        }
    }
    count(&metrics, 0, &key("real"));
    let all = counted(&metrics);
    assert_eq!(all.len(), 4);
    let others = all.iter().filter(|(_, service, ..)| service == OTHER);
    assert_eq!(others.map(|(.., sent)| sent).sum::<u64>(), 30_000);
    let real = ("l".to_owned(), "real".to_owned(), "m".to_owned(), 1);
    assert!(all.contains(&real), "{all:?}");
}

#[test]
fn names_beyond_a_listeners_bound_share_one_series() {
    let metrics = metrics();
    // Workers that see different names share the bound.
    for n in 0..MAX_SERIES + 100 {
        count(&metrics, n % 3, &key(&n.to_string()));
    }
    let another = SeriesKey {
        listener: "another".into(),
        ..key("s")
    };
    count(&metrics, 0, &another);
    let all = counted(&metrics);
    assert_eq!(all.len(), MAX_SERIES + 2);
    let other = ("l".to_owned(), OTHER.to_owned(), String::new(), 100);
    assert!(all.contains(&other));
    let another = ("another".to_owned(), "s".to_owned(), "m".to_owned(), 1);
    assert!(all.contains(&another), "one listener blinds another");
    // One that is there already goes on, in every worker.
    count(&metrics, 7, &key("0"));
    let first = ("l".to_owned(), "0".to_owned(), "m".to_owned(), 2);
    assert!(counted(&metrics).contains(&first));
}

#[test]
fn methods_that_callers_invent_do_not_use_up_the_bound() {
    let metrics = metrics();
    for n in 0..MAX_SERIES + 100 {
        let invented = SeriesKey {
            method: n.to_string().into(),
            ..key("s")
        };
        count(&metrics, 0, &invented);
    }
    let all = counted(&metrics);
    assert_eq!(all.len(), MAX_METHODS + 1);
    let beyond = (MAX_SERIES + 100 - MAX_METHODS) as u64;
    let other = ("l".to_owned(), "s".to_owned(), OTHER.to_owned(), beyond);
    assert!(all.contains(&other));
    count(&metrics, 0, &key("t"));
    assert_eq!(counted(&metrics).len(), MAX_METHODS + 2);
}

#[test]
fn long_names_are_cut_between_characters() {
    let metrics = metrics();
    let long = "é".repeat(200);
    for name in [long.clone(), format!("{long}!")] {
        count(&metrics, 0, &key(&name));
    }
    let all = counted(&metrics);
    let services: Vec<_> = all.iter().map(|(_, service, ..)| service.clone()).collect();
    assert_eq!(services, ["é".repeat(MAX_LABEL / 2)]);
}

#[test]
fn a_series_asked_for_again_goes_on_counting() {
    let metrics = metrics();
    for _ in 0..3 {
        count(&metrics, 5, &key("s"));
    }
    let all = counted(&metrics);
    assert_eq!(all, [("l".into(), "s".into(), "m".into(), 3)]);
}

#[test]
fn names_from_outside_cannot_break_the_page() {
    let metrics = metrics();
    let forged = "x\"} 1\nfinback_forged{a=\"\r\u{2028}\0\\";
    count(&metrics, 0, &key(forged));
    let mut page = Page::default();
    metrics.collect(&mut page);
    let text = page.into_text();
    for line in text.lines() {
        let sound = line.starts_with('#') || line.starts_with("finback_request");
        let other = ["finback_response", "finback_metric_"];
        let sound = sound || other.iter().any(|own| line.starts_with(own));
        assert!(sound, "{line}");
        assert!(!line.contains(char::is_control), "{line}");
    }
}

#[test]
fn statuses_have_series_of_their_own_up_to_a_bound() {
    let metrics = metrics();
    let series = metrics.series(0, &key("s"));
    let end = |outcome, status| Record {
        status: Status(status),
        ..record(Ending::Answered(outcome), 1)
    };
    for _ in 0..3 {
        series.record(&end(Outcome::Success, 200));
        series.record(&end(Outcome::Exception, 404));
        series.record(&end(Outcome::Exception, 777));
    }
    for status in 0..500 {
        series.record(&end(Outcome::Failed, status));
    }
    let mut page = Page::default();
    metrics.collect(&mut page);
    let text = page.into_text();
    let shown = |outcome: &str, status: &str| {
        let start =
            "finback_requests_total{protocol=\"p\",listener=\"l\",service=\"s\",method=\"m\",";
        let own = format!("{start}outcome=\"{outcome}\",status=\"{status}\"}} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&own)?.parse::<u64>().ok())
    };
    assert_eq!(shown("success", "200"), Some(3));
    assert_eq!(shown("exception", "404"), Some(3));
    assert_eq!(shown("exception", "(other)"), Some(3));
    assert_eq!(shown("failed", "60"), Some(1));
    assert_eq!(shown("failed", "61"), None);
    assert_eq!(shown("failed", "(other)"), Some(439));
    // What was known before the bound was reached goes on.
    series.record(&end(Outcome::Success, 200));
    assert_eq!(metrics.rows()[0].sums.latencies.count(), 510);
}

#[test]
fn sessions_and_messages_are_no_calls() {
    let metrics = metrics();
    let mqtt = |service: &str, method: &str| SeriesKey {
        protocol: "mqtt",
        method: method.into(),
        ..key(service)
    };
    for (service, method, times) in [
        ("(mqtt)", "connect", 3),
        ("(connack)", "success", 3),
        ("(connack)", "not authorized", 2),
        ("(session)", "session", 1),
        ("(session)", "ping", 4),
        ("plant", "publish.qos1", 5),
        ("plant", "deliver.qos0", 6),
    ] {
        for _ in 0..times {
            count(&metrics, 0, &mqtt(service, method));
        }
    }
    let tcp = SeriesKey {
        protocol: "tcp",
        ..key("db")
    };
    count(&metrics, 0, &tcp);
    let mut page = Page::default();
    metrics.collect(&mut page);
    let text = page.into_text();
    assert!(!text.contains("finback_requests_total{"), "{text}");
    assert!(
        !text.contains("finback_request_duration_seconds_count{"),
        "{text}"
    );
    for line in [
        "finback_mqtt_sessions{listener=\"l\"} 2",
        "finback_mqtt_connects_total{listener=\"l\",outcome=\"sent\"} 3",
        "finback_mqtt_connect_duration_seconds_count{listener=\"l\"} 3",
        "finback_mqtt_connacks_total{listener=\"l\",reason=\"not authorized\"} 2",
        "finback_mqtt_sessions_ended_total{listener=\"l\",outcome=\"sent\"} 1",
        "finback_mqtt_session_bytes_total{listener=\"l\",direction=\"sent\"} 20",
        "finback_mqtt_packets_total{listener=\"l\",packet=\"ping\",outcome=\"sent\"} 4",
        "finback_mqtt_messages_total{listener=\"l\",topic=\"plant\",kind=\"publish\",qos=\"1\",outcome=\"sent\"} 5",
        "finback_mqtt_messages_total{listener=\"l\",topic=\"plant\",kind=\"deliver\",qos=\"0\",outcome=\"sent\"} 6",
        "finback_mqtt_message_duration_seconds_count{listener=\"l\",topic=\"plant\",kind=\"publish\",qos=\"1\"} 5",
        "finback_tcp_connections_total{listener=\"l\",service=\"db\",outcome=\"sent\"} 1",
        "finback_tcp_bytes_total{listener=\"l\",service=\"db\",direction=\"received\"} 10",
    ] {
        assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
    }
    let unacknowledged = "finback_mqtt_message_duration_seconds_count{listener=\"l\",topic=\"plant\",kind=\"deliver\"";
    assert!(!text.contains(unacknowledged), "{text}");
}

#[test]
fn what_has_no_room_is_counted() {
    let metrics = metrics();
    for n in 0..MAX_SERIES + 7 {
        count(&metrics, 0, &key(&n.to_string()));
    }
    for n in 0..MAX_METHODS {
        let method = SeriesKey {
            method: n.to_string().into(),
            listener: "m".into(),
            ..key("s")
        };
        count(&metrics, 0, &method);
        count(
            &metrics,
            0,
            &SeriesKey {
                service: "t".into(),
                ..method
            },
        );
    }
    let one_more = SeriesKey {
        listener: "m".into(),
        ..key("s")
    };
    count(&metrics, 0, &one_more);
    let fill = metrics.fill();
    assert_eq!(
        fill[0].refused,
        Refused {
            methods: 0,
            series: 7
        }
    );
    assert_eq!(
        fill[1].refused,
        Refused {
            methods: 1,
            series: 0
        }
    );
    // The one of those that have none is there, too.
    assert_eq!(fill[0].series, MAX_SERIES + 1);
}
