//! Filters on the data path: what they refuse, what they hold up, and what a reload makes of them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use finback_core::filter::authorization::{Authorization, Effect, Policy, Rule};
use finback_core::filter::fault::{Fault, OnRequest, Trouble};
use finback_core::filter::rate_limit::{Limit, Per, RateLimit, Unit};
use finback_core::filter::{Asked, Check, Filter, Flow, Tally, Target};
use finback_core::mesh::RoutingSpec;
use finback_core::rejection::Rejection;
use finback_core::rng::Share;
use finback_core::route::{Destination, Mark, Match, Route, RoutePolicy, Shadow, Text, Treatment};
use tokio::time::Instant;

use crate::toy::*;

/// Routing to these endpoints in which every call passes these filters.
fn filtered(
    endpoints: &[std::net::SocketAddr],
    filters: Vec<(&str, Arc<dyn Filter>)>,
) -> RoutingSpec {
    let mut spec = routing(endpoints, policy(), retry(1));
    let names = filters.iter().map(|(name, _)| Arc::from(*name)).collect();
    let route = Route {
        filters: names,
        ..Route::clone(&spec.tables[0].routes[0])
    };
    spec.tables[0].routes = vec![Arc::new(route)];
    let filters = filters.into_iter();
    spec.filters = filters.map(|(name, own)| (name.into(), own)).collect();
    spec
}

fn deny(method: &str) -> Arc<dyn Filter> {
    let when = Match {
        method: Text::Exact(method.into()),
        ..Match::default()
    };
    let rule = Rule {
        name: "r".into(),
        effect: Effect::Deny,
        dry_run: false,
        when,
        messages: None,
    };
    Arc::new(Authorization::new(Policy {
        default: Effect::Allow,
        dry_run: false,
        rules: vec![rule],
    }))
}

fn limit(amount: u64, burst: u64, wait: u64) -> Arc<dyn Filter> {
    Arc::new(RateLimit::new(Limit {
        unit: Unit::Calls,
        amount,
        period: Duration::from_secs(1),
        burst,
        per: Vec::new(),
        wait: Duration::from_millis(wait),
    }))
}

fn fault(trouble: Trouble) -> Arc<dyn Filter> {
    Arc::new(Fault {
        troubles: vec![(Share::ALL, trouble)],
        on_request: None,
    })
}

/// Faults that a call asks for.
fn on_request() -> Arc<dyn Filter> {
    Arc::new(Fault {
        troubles: Vec::new(),
        on_request: Some(OnRequest {
            attribute: "fault".into(),
            sources: vec!["127.0.0.0/8".parse().unwrap()],
        }),
    })
}

fn decided(mess: &Mess, decision: &str) -> u64 {
    let all = mess.mesh.filter_decisions().into_iter();
    let own = all.filter(|((_, _, what), _)| *what == decision);
    own.map(|(_, count)| count).sum()
}

#[tokio::test]
async fn what_is_denied_never_leaves_and_its_connection_goes_on() {
    let (server, count) = echo().await;
    let mess = mess(filtered(&[server], vec![("who", deny("transfer"))]));
    let mut client = Peer::connect(mess.address).await;
    let refused = client.call(1, "svc transfer").await;
    assert_eq!(refused.rejection(), Some(Rejection::Denied));
    assert!(
        refused.text.contains("svc.transfer is not allowed"),
        "{}",
        refused.text
    );
    assert!(
        !refused.text.contains("who"),
        "policies are nobody's business outside"
    );
    assert_eq!(client.call(2, "svc get").await.rejection(), None);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(mess.records.endings(), ["denied", "success"]);
    assert_eq!(decided(&mess, "denied"), 1);
}

#[tokio::test]
async fn a_listener_filter_comes_before_those_of_routes() {
    let (server, _) = echo().await;
    let mut spec = filtered(&[server], vec![("slow", limit(1, 1, 0))]);
    spec.filters.push(("who".into(), deny("transfer")));
    let names: Arc<[Arc<str>]> = ["who".into()].into();
    spec.listener_filters = [("front".into(), names)].into();
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    for id in 0..5 {
        let refused = client.call(id, "svc transfer").await;
        assert_eq!(refused.rejection(), Some(Rejection::Denied));
    }
    // None of these took from what the route allows.
    assert_eq!(client.call(6, "svc get").await.rejection(), None);
    let limited = client.call(7, "svc get").await;
    assert_eq!(limited.rejection(), Some(Rejection::Limited));
    assert!(limited.text.contains("try again in"), "{}", limited.text);
}

#[tokio::test]
async fn a_filter_that_is_not_there_lets_nothing_pass() {
    let (server, count) = echo().await;
    let mut spec = filtered(&[server], vec![("who", deny("transfer"))]);
    spec.filters.clear();
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    let refused = client.call(1, "svc get").await;
    assert_eq!(refused.rejection(), Some(Rejection::Denied));
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

/// A policy of a protocol that nobody speaks here.
#[derive(Debug)]
struct Foreign;

impl RoutePolicy for Foreign {
    fn protocol(&self) -> &'static str {
        "foreign"
    }
}

#[tokio::test]
async fn what_a_route_does_beyond_routing_is_never_left_out() {
    let (server, count) = echo().await;
    let mut spec = filtered(&[server], vec![("slow", limit(1, 1, 0))]);
    let route = Route {
        treatment: Some(Treatment::new(Foreign)),
        ..Route::clone(&spec.tables[0].routes[0])
    };
    spec.tables[0].routes = vec![Arc::new(route)];
    let mess = mess(spec);
    let mut client = Peer::connect(mess.address).await;
    for id in 0..3 {
        let refused = client.call(id, "svc get").await;
        assert_eq!(refused.rejection(), Some(Rejection::Denied));
        let why = "is not for this protocol";
        assert!(refused.text.contains(why), "{}", refused.text);
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(mess.records.endings(), ["denied"; 3]);
}

#[tokio::test]
async fn workers_share_a_limit() {
    let (server, _) = echo().await;
    let spec = filtered(&[server], vec![("rate", limit(1000, 50, 0))]);
    let mess = mess_of(spec, 8);
    let began = Instant::now();
    let clients = (0..16).map(|_| {
        let address = mess.address;
        tokio::spawn(async move {
            let mut client = Peer::connect(address).await;
            let mut passed = 0;
            for id in 0.. {
                let answer = client.call(id, "svc get").await;
                match answer.rejection() {
                    None => passed += 1,
                    Some(Rejection::Limited) => {}
                    other => panic!("{other:?}"),
                }
                if began.elapsed() >= Duration::from_secs(3) {
                    break;
                }
            }
            passed
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.unwrap();
    }
    let expected = 50.0 + 3000.0;
    let off = (f64::from(passed) - expected).abs() / expected;
    assert!(off < 0.02, "{passed} of {expected}");
}

/// A limit that counts how often it is asked, about kinds of calls and about calls.
#[derive(Debug)]
struct Counted {
    limit: Arc<dyn Filter>,
    kinds: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

struct CountedCheck {
    check: Rc<dyn Check>,
    calls: Arc<AtomicU64>,
}

impl Filter for Counted {
    fn kind(&self) -> &'static str {
        self.limit.kind()
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        self.kinds.fetch_add(1, Ordering::SeqCst);
        let check = self.limit.at(target, tally)?;
        let calls = self.calls.clone();
        Some(Rc::new(CountedCheck { check, calls }))
    }

    fn is_same(&self, _: &dyn Filter) -> bool {
        false
    }

    fn describe(&self) -> Vec<String> {
        self.limit.describe()
    }
}

impl Check for CountedCheck {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.check.open(asked)
    }
}

#[tokio::test]
async fn of_ten_thousand_limits_a_call_passes_only_those_of_its_route() {
    let (server, _) = echo().await;
    for limits in [10, 10_000] {
        let (kinds, calls) = (Arc::default(), Arc::default());
        // Nothing fills up again while the test runs.
        let two: Arc<dyn Filter> = Arc::new(RateLimit::new(Limit {
            unit: Unit::Calls,
            amount: 1,
            period: Duration::from_secs(3600),
            burst: 2,
            per: vec![Per::Service],
            wait: Duration::ZERO,
        }));
        let mut spec = filtered(&[server], Vec::new());
        let route = spec.tables[0].routes[0].clone();
        spec.tables[0].routes.clear();
        for number in 0..limits {
            let name: Arc<str> = format!("limit-{number}").into();
            spec.filters.push((
                name.clone(),
                Arc::new(Counted {
                    limit: two.clone(),
                    kinds: Arc::clone(&kinds),
                    calls: Arc::clone(&calls),
                }),
            ));
            spec.tables[0].routes.push(Arc::new(Route {
                name: name.clone(),
                when: Match {
                    service: Text::Exact(format!("svc{number}").into()),
                    ..Match::default()
                },
                filters: [name].into(),
                ..Route::clone(&route)
            }));
        }
        let mess = mess(spec);
        let mut client = Peer::connect(mess.address).await;
        for (id, refused) in [(1, None), (2, None), (3, Some(Rejection::Limited))] {
            let answer = client.call(id, "svc7 get").await;
            assert_eq!(answer.rejection(), refused, "call {id}, {limits} limits");
        }
        let asked = [&kinds, &calls].map(|own: &Arc<AtomicU64>| own.load(Ordering::SeqCst));
        assert_eq!(asked, [1, 3], "{limits} limits");
    }
}

#[tokio::test]
async fn a_call_that_is_held_up_holds_up_no_other() {
    let (server, _) = echo().await;
    let mess = mess(filtered(&[server], vec![("fault", on_request())]));
    let mut client = Peer::connect(mess.address).await;
    let began = Instant::now();
    client.send(1, 1, "svc get fault=delay=300ms").await;
    client.send(1, 2, "svc get").await;
    let first = client.get().await.unwrap();
    assert_eq!(first.id, 2);
    assert!(began.elapsed() < Duration::from_millis(250));
    let second = client.get().await.unwrap();
    assert_eq!((second.id, second.rejection()), (1, None));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn who_waits_for_a_filter_is_answered_when_its_time_is_over_or_we_stop() {
    let (server, count) = echo().await;
    let mess = mess(filtered(
        &[server],
        vec![("fault", fault(Trouble::Delay(Duration::from_secs(60))))],
    ));
    let mut client = Peer::connect(mess.address).await;
    let late = client.call(1, "svc get timeout=100").await;
    assert_eq!(late.rejection(), Some(Rejection::DeadlineExceeded));
    assert_eq!(mess.records.last().filter, "fault");
    // One that goes away is forgotten.
    let mut gone = Peer::connect(mess.address).await;
    gone.send(1, 1, "svc get").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gone.0.set_zero_linger().unwrap();
    drop(gone);
    client.send(1, 2, "svc get").await;
    client.send(2, 3, "svc one-way").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let workers = mess.workers;
    let stopping = tokio::spawn(async move { workers.drain().await });
    assert_eq!(client.get().await.unwrap().kind, 6, "a goodbye");
    let drained = client.get().await.unwrap();
    assert_eq!(
        (drained.id, drained.rejection()),
        (2, Some(Rejection::Draining))
    );
    stopping.await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);
    let mut endings = mess.records.endings();
    endings.sort_unstable();
    assert_eq!(
        endings,
        ["abandoned", "deadline_exceeded", "draining", "draining"]
    );
}

#[tokio::test]
async fn an_answer_that_is_dropped_is_given_to_nobody() {
    let (server, count) = echo().await;
    let mess = mess(filtered(&[server], vec![("fault", on_request())]));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 1, "svc get fault=drop").await;
    client.send(1, 2, "svc get").await;
    assert_eq!(client.get().await.unwrap().id, 2);
    client.get_nothing(Duration::from_millis(200)).await;
    assert_eq!(count.load(Ordering::SeqCst), 2, "it was carried out");
    assert_eq!(decided(&mess, "answer_dropped"), 1);
    // Its place is free.
    assert_eq!(mess.mesh.status()[0].in_flight, 0);
}

#[tokio::test]
async fn what_a_filter_takes_away_does_not_reach_the_endpoint() {
    let (server, _) = echo().await;
    let untrusting = Arc::new(Fault {
        troubles: Vec::new(),
        on_request: Some(OnRequest {
            attribute: "fault".into(),
            sources: vec!["192.0.2.0/24".parse().unwrap()],
        }),
    });
    let mess = mess(filtered(&[server], vec![("fault", untrusting)]));
    let mut client = Peer::connect(mess.address).await;
    let echoed = client.call(1, "svc get fault=drop a=b").await;
    assert_eq!(echoed.text, "svc get a=b fault=");
}

#[tokio::test]
async fn a_call_that_has_no_room_for_what_filters_change_goes_nowhere() {
    let (server, count) = echo().await;
    let untrusting = Arc::new(Fault {
        troubles: Vec::new(),
        on_request: Some(OnRequest {
            attribute: "fault".into(),
            sources: vec!["192.0.2.0/24".parse().unwrap()],
        }),
    });
    let stiff = Toy {
        has_no_room: true,
        ..Toy::default()
    };
    let mess = mess_with(
        filtered(&[server], vec![("fault", untrusting)]),
        1,
        stiff,
        None,
    );
    let mut client = Peer::connect(mess.address).await;
    let refused = client.call(1, "svc get fault=drop").await;
    assert_eq!(refused.rejection(), Some(Rejection::Denied));
    assert!(refused.text.contains("has no room"), "{}", refused.text);
    assert_eq!(mess.records.last().filter, "fault");
    assert_eq!(client.call(2, "svc get").await.rejection(), None);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_reload_holds_at_once_and_keeps_what_did_not_change() {
    let (server, _) = echo().await;
    let with = |method| {
        let filters = vec![("who", deny(method)), ("rate", limit(1, 3, 0))];
        filtered(&[server], filters)
    };
    let mess = mess(with("transfer"));
    let mut client = Peer::connect(mess.address).await;
    assert_eq!(client.call(1, "svc get").await.rejection(), None);
    mess.mesh.apply(with("get"));
    let refused = client.call(2, "svc get").await;
    assert_eq!(refused.rejection(), Some(Rejection::Denied));
    // Three at once: one went before the reload.
    for id in 3..5 {
        assert_eq!(client.call(id, "svc transfer").await.rejection(), None);
    }
    let limited = client.call(6, "svc transfer").await;
    assert_eq!(limited.rejection(), Some(Rejection::Limited));
}

#[tokio::test]
async fn what_waits_for_its_turn_goes_in_order_and_no_longer_than_was_asked_for() {
    let (server, _) = echo().await;
    let mess = mess(filtered(&[server], vec![("rate", limit(20, 1, 160))]));
    let mut client = Peer::connect(mess.address).await;
    for id in 0..8 {
        client.send(1, id, "svc get").await;
    }
    let mut passed = Vec::new();
    for _ in 0..8 {
        let answer = client.get().await.unwrap();
        if answer.rejection().is_none() {
            passed.push(answer.id);
        }
    }
    // One at once, and those that come 50, 100 and 150 ms later.
    assert_eq!(passed, [0, 1, 2, 3]);
    assert_eq!(decided(&mess, "delayed"), 3);
    assert_eq!(decided(&mess, "limited"), 4);
}

// === Shadows ===

/// Routing whose calls are copied to a second endpoint.
fn shadowed(
    endpoint: std::net::SocketAddr,
    shadow: std::net::SocketAddr,
    marks: &[Mark],
) -> RoutingSpec {
    let mut spec = routing(&[endpoint], policy(), retry(1));
    let mut other = routing(&[shadow], policy(), retry(1));
    other.clusters[0].name = "shadow".into();
    let Destination::Clusters(to) = &spec.tables[0].routes[0].to else {
        unreachable!()
    };
    let mut to = to.clone();
    to[0].cluster = "shadow".into();
    let mut copies = table(Destination::Clusters(to), retry(1));
    copies.name = "copies".into();
    let route = Route {
        shadow: Some(Arc::new(Shadow {
            table: "copies".into(),
            share: Share::ALL,
            marks: marks.into(),
        })),
        ..Route::clone(&spec.tables[0].routes[0])
    };
    spec.tables[0].routes = vec![Arc::new(route)];
    spec.tables.push(copies);
    spec.clusters.append(&mut other.clusters);
    spec
}

fn mark(name: &str, value: &str, appends: bool) -> Mark {
    Mark {
        protocol: None,
        name: name.into(),
        value: value.into(),
        appends,
    }
}

#[tokio::test]
async fn a_copy_goes_to_the_shadow_and_only_the_copy_is_marked() {
    let (server, shadow) = (Server::bind().await, Server::bind().await);
    let marks = [mark("shadow", "1", false), mark("bag", "mark=T&", true)];
    let mess = mess(shadowed(server.address, shadow.address, &marks));
    let mut client = Peer::connect(mess.address).await;
    client.send(1, 7, "svc get bag=a=b&").await;
    let mut upstream = server.accept().await;
    let own = upstream.get().await.unwrap();
    assert_eq!(own.text, "svc get bag=a=b&");
    let mut copied = shadow.accept().await;
    let copy = copied.get().await.unwrap();
    assert_eq!(copy.text, "svc get shadow=1 bag=a=b&mark=T&");
    // Whatever the shadow says, and whenever, reaches nobody.
    copied.answer(&copy, 3, "no").await;
    upstream.answer(&own, 0, "yes").await;
    let answer = client.get().await.unwrap();
    assert_eq!((answer.id, answer.text.as_str()), (7, "yes"));
    client.get_nothing(Duration::from_millis(100)).await;
    client.send(2, 8, "svc fire").await;
    assert_eq!(
        copied.get().await.unwrap().kind,
        2,
        "one-ways are copied, too"
    );
    assert_eq!(upstream.get().await.unwrap().kind, 2);
    let mut endings = mess.records.endings();
    endings.sort_unstable();
    assert_eq!(endings, ["failed", "sent", "sent", "success"]);
}

#[tokio::test]
async fn a_shadow_that_hangs_or_is_gone_changes_nothing_for_the_call() {
    let (server, _) = echo().await;
    let hangs = Server::bind().await;
    let mess = mess(shadowed(server, hangs.address, &[]));
    let mut client = Peer::connect(mess.address).await;
    for id in 0..3000 {
        assert_eq!(
            client.call(id, "svc get timeout=60000").await.rejection(),
            None
        );
    }
    // As many as there is room for wait; the others were left out.
    let dropped = mess.mesh.stats.shadows_dropped.load(Ordering::Relaxed);
    assert_eq!(dropped, 3000 - 1024);
    let status = mess.mesh.status();
    let of = |name: &str| status.iter().find(|own| &*own.name == name).unwrap();
    assert_eq!(
        (of("all").in_flight, of("all").endpoints[0].failures),
        (0, 0)
    );
    drop(hangs);
    for id in 0..100 {
        assert_eq!(client.call(id, "svc get").await.rejection(), None);
    }
}

#[tokio::test]
async fn copies_do_not_keep_us_from_stopping() {
    let (server, _) = echo().await;
    let hangs = Server::bind().await;
    let mess = mess(shadowed(server, hangs.address, &[]));
    let mut client = Peer::connect(mess.address).await;
    assert_eq!(
        client.call(1, "svc get timeout=60000").await.rejection(),
        None
    );
    drop(client);
    let began = Instant::now();
    mess.workers.drain().await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}
