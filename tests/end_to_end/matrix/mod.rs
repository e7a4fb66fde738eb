//! Every policy in every protocol: which test holds it to its word, and what a library of others tells its application
//! of each refusal.

mod cells;
pub(crate) mod clients;
mod native;

use std::time::{Duration, Instant};

use clients::{ALLOWED, FORBIDDEN, Front, Outcome, Policies, Told, stage};
use native::{Why, native};

use crate::bearers;
use crate::support::finback::Finback;
use crate::support::{eventually, temporary_folder};
use crate::token_server::TokenServer;

const PATIENCE: Duration = Duration::from_secs(40);
/// Longer than anybody may wait to be refused.
const PROMPT: Duration = Duration::from_secs(5);

/// The columns of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Bolt,
    Dubbo,
    Triple,
    Grpc,
    Http1,
    Http2,
    Mqtt3,
    Mqtt5,
    RocketMq,
    Tcp,
}

impl Protocol {
    const ALL: [Self; 10] = [
        Self::Bolt,
        Self::Dubbo,
        Self::Triple,
        Self::Grpc,
        Self::Http1,
        Self::Http2,
        Self::Mqtt3,
        Self::Mqtt5,
        Self::RocketMq,
        Self::Tcp,
    ];

    /// What its route and cluster are called here.
    fn key(self) -> &'static str {
        match self {
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
            Self::Triple => "triple",
            Self::Grpc => "grpc",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Mqtt3 => "mqtt3",
            Self::Mqtt5 => "mqtt5",
            Self::RocketMq => "rocketmq",
            Self::Tcp => "tcp",
        }
    }

    /// What pages call it.
    fn title(self) -> &'static str {
        match self {
            Self::Bolt => "Bolt",
            Self::Dubbo => "Dubbo",
            Self::Triple => "Triple",
            Self::Grpc => "gRPC",
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Mqtt3 => "MQTT 3.1.1",
            Self::Mqtt5 => "MQTT 5",
            Self::RocketMq => "RocketMQ",
            Self::Tcp => "TCP",
        }
    }

    /// What its route matches.
    fn matched(self) -> &'static str {
        match self {
            Self::Bolt => "protocol: bolt",
            Self::Dubbo => "protocol: dubbo",
            Self::Triple => "protocol: triple",
            Self::Grpc => "protocol: grpc",
            Self::Http1 => "protocol: http, host: http1.test",
            Self::Http2 => "protocol: http, host: http2.test",
            Self::Mqtt3 => "protocol: mqtt, client_id: { prefix: three- }",
            Self::Mqtt5 => "protocol: mqtt, client_id: { prefix: five- }",
            // Names and routes are asked for by other requests.
            Self::RocketMq => "protocol: rocketmq, method: { regex: \"SEND_.*\" }",
            Self::Tcp => "protocol: tcp",
        }
    }
}

fn refused(outcome: Outcome, protocol: Protocol, why: Why) -> Told {
    let told = outcome.expect_err(protocol.key());
    assert_eq!(
        told.how,
        native(protocol, why),
        "{protocol:?} {why:?}: {told:?}"
    );
    told
}

/// Calls until a server answers: frameworks find out only now that theirs is there.
fn answers(front: &Front, protocol: Protocol) {
    eventually("an answer", PATIENCE, || {
        front
            .call(protocol, ALLOWED, &[])
            .map_err(|told| format!("{protocol:?}: {told:?}"))
    });
}

/// Checks that one call of each protocol passes these filters, and that the next is told that it came too soon.
fn one_call_passes(own: &str) {
    // Whoever finds out here that its server is there would use up its share.
    let warm = stage().front(Policies::default());
    for protocol in Protocol::ALL {
        answers(&warm, protocol);
    }
    let front = stage().front(Policies {
        own,
        ..Policies::default()
    });
    for protocol in Protocol::ALL {
        let first = front.call(protocol, ALLOWED, &[]);
        assert!(first.is_ok(), "{protocol:?}: {first:?}");
        refused(front.call(protocol, ALLOWED, &[]), protocol, Why::Limited);
    }
}

#[test]
fn who_is_not_allowed_is_told_so() {
    let [allowed, forbidden] = stage().topics();
    let rules = format!(
        "{{ authorization: {{ default: deny, rules: [ \
         {{ effect: allow, match: {{ protocol: {{ regex: \"bolt|dubbo|triple|grpc|http\" }} }} }}, \
         {{ effect: deny, match: {{ method: {FORBIDDEN} }} }}, \
         {{ effect: deny, match: {{ path: /{FORBIDDEN} }} }}, \
         {{ effect: allow, match: {{ protocol: mqtt }}, actions: [ connect ] }}, \
         {{ effect: allow, match: {{ protocol: mqtt }}, topics: [ {ALLOWED} ] }}, \
         {{ effect: allow, match: {{ protocol: rocketmq }}, actions: [ send ], topics: [ {allowed} ] }}, \
         {{ effect: deny, match: {{ protocol: rocketmq }}, topics: [ {forbidden} ] }}, \
         {{ effect: allow, match: {{ protocol: tcp, source: 127.0.0.1 }} }} ] }} }}"
    );
    let front = stage().front(Policies {
        own: &rules,
        ..Policies::default()
    });
    for protocol in Protocol::ALL {
        answers(&front, protocol);
        let begun = Instant::now();
        let told = refused(front.call(protocol, FORBIDDEN, &[]), protocol, Why::Denied);
        assert!(begun.elapsed() < PROMPT, "{protocol:?}");
        if protocol == Protocol::Mqtt5 {
            // The filter and the message.
            assert_eq!(told.text.matches("Not authorized").count(), 2, "{told:?}");
        }
        // Nobody is left out for what it was refused.
        answers(&front, protocol);
    }
    let stranger = stage().front(Policies {
        own: "{ authorization: { } }",
        ..Policies::default()
    });
    for protocol in [Protocol::Mqtt3, Protocol::Mqtt5] {
        refused(
            stranger.call(protocol, ALLOWED, &[]),
            protocol,
            Why::NotLetIn,
        );
    }
}

#[test]
fn what_another_server_says_of_a_call_is_told_in_its_own_words() {
    let policy = stage().policy();
    let asks = |verdict: &str| {
        format!(
            "{{ external_authorization: {{ server: \"{}\", timeout: 10s, context: {{ verdict: \"{verdict}\" }} }} }}",
            policy.url()
        )
    };
    for (verdict, why) in [("denied", Why::NotLetIn), ("limited", Why::Limited)] {
        let front = stage().front(Policies {
            own: &asks(verdict),
            ..Policies::default()
        });
        for protocol in Protocol::ALL {
            refused(front.call(protocol, ALLOWED, &[]), protocol, why);
        }
    }
    let front = stage().front(Policies {
        own: &asks("well"),
        ..Policies::default()
    });
    for protocol in Protocol::ALL {
        answers(&front, protocol);
    }
}

#[test]
fn who_does_not_prove_who_it_is_is_told_so() {
    let file = temporary_folder().join("keys.json");
    std::fs::write(&file, bearers::set(&[("k1", bearers::FIRST)])).unwrap();
    let login = format!(
        "{{ jwt: {{ attributes: [ bearer, rpc_req_baggage.bearer ], issuers: \
         [ {{ issuer: far, audiences: [ mesh ], key: \"{}\" }} ] }} }}",
        file.display()
    );
    let without = [Protocol::Mqtt3, Protocol::Mqtt5, Protocol::Tcp];
    let front = stage().front(Policies {
        own: &login,
        without: &without,
        ..Policies::default()
    });
    let token = bearers::token("k1", bearers::FIRST, &bearers::claims("x", 1.into()));
    for protocol in Protocol::ALL {
        if without.contains(&protocol) {
            continue;
        }
        eventually("an answer", PATIENCE, || {
            let outcome = front.call(protocol, ALLOWED, &[("bearer", &token)]);
            outcome.map_err(|told| format!("{protocol:?}: {told:?}"))
        });
        refused(
            front.call(protocol, ALLOWED, &[]),
            protocol,
            Why::Unauthenticated,
        );
        let forged = [("bearer", "a.b.c")];
        refused(
            front.call(protocol, ALLOWED, &forged),
            protocol,
            Why::Unauthenticated,
        );
    }
    // Where there is no place for a token, a route cannot ask for one, and a listener lets nobody in.
    let routes = stage().configuration(Policies {
        own: &login,
        ..Policies::default()
    });
    let (is_good, said) = Finback::check(&routes);
    assert!(
        !is_good && said.contains("no protocol there has a place for one"),
        "{said}"
    );
    let listeners = stage()
        .configuration(Policies {
            own: &login,
            without: &Protocol::ALL,
            ..Policies::default()
        })
        .replace(", routes: all", ", filters: [ own ], routes: all");
    let front = Front::of(Finback::start(&listeners));
    for protocol in without {
        refused(
            front.call(protocol, ALLOWED, &[]),
            protocol,
            Why::Unauthenticated,
        );
    }
}

#[test]
fn who_calls_too_often_is_told_so() {
    for own in [
        "{ rate_limit: { rate: 1/h, burst: 1, per: [ route ] } }".to_owned(),
        format!(
            "{{ rate_limit_service: {{ server: \"{}\", timeout: 10s, domain: {}, failure_mode_deny: true, \
             descriptors: [ [ {{ key: route, of: route }}, {{ key: limit, value: \"1\" }} ] ] }} }}",
            stage().policy().url(),
            "matrix"
        ),
    ] {
        one_call_passes(&own);
    }
}

#[test]
fn who_gets_no_token_is_told_so() {
    let tokens = TokenServer::start();
    tokens.rules("101", "201", "1");
    let own = format!(
        "{{ sentinel: {{ server: \"{}\", namespace: {}, flow_id: 201, values: [ route ], timeout: 10s, \
         failure_mode_deny: true }} }}",
        tokens.address, tokens.namespace
    );
    one_call_passes(&own);
}

#[test]
fn trouble_on_purpose_looks_like_trouble() {
    let of = |own: &str| {
        stage().front(Policies {
            own,
            ..Policies::default()
        })
    };
    let late = of("{ fault: { delay: { percent: 100, time: 400ms } } }");
    let busy = of("{ fault: { refuse: { percent: 100, reason: overloaded } } }");
    for protocol in Protocol::ALL {
        answers(&late, protocol);
        let begun = Instant::now();
        assert!(late.call(protocol, ALLOWED, &[]).is_ok(), "{protocol:?}");
        assert!(
            begun.elapsed() >= Duration::from_millis(400),
            "{protocol:?}"
        );
        refused(busy.call(protocol, ALLOWED, &[]), protocol, Why::Overloaded);
    }
}

/// Protocols that have no answers of their own.
const SESSIONS: [Protocol; 3] = [Protocol::Mqtt3, Protocol::Mqtt5, Protocol::Tcp];
/// Those, and the one whose calls are for the broker that its clients choose.
const NOT_BALANCED: [Protocol; 4] = [
    Protocol::Mqtt3,
    Protocol::Mqtt5,
    Protocol::RocketMq,
    Protocol::Tcp,
];

/// Protocols that are not among these.
fn others(without: &[Protocol]) -> impl Iterator<Item = Protocol> {
    let all = Protocol::ALL.into_iter();
    all.filter(|own| !without.contains(own))
}

#[test]
fn an_answer_that_is_dropped_is_never_heard() {
    let drops = "{ fault: { drop_response: { percent: 100 } } }";
    let mut front = stage().front(Policies {
        own: drops,
        without: &SESSIONS,
        ..Policies::default()
    });
    front.patience = 2;
    for protocol in others(&SESSIONS) {
        let told = front
            .call(protocol, ALLOWED, &[])
            .expect_err(protocol.key());
        // Dubbo's own clock may be the first to say so, or what the mesh says when that time is over.
        let is_own = protocol == Protocol::Triple && told.how == "RpcException 2";
        assert!(
            is_own || told.how == native(protocol, Why::Silence),
            "{protocol:?}: {told:?}"
        );
    }
    // Where there is none, a route cannot ask for it.
    let (is_good, said) = Finback::check(&stage().configuration(Policies {
        own: drops,
        ..Policies::default()
    }));
    assert!(
        !is_good && said.contains("no protocol there has any"),
        "{said}"
    );
}

#[test]
fn a_call_over_a_limit_that_was_found_out_is_told_so() {
    let policies = Policies {
        cluster: ", adaptive_concurrency: { min: 1, max: 1 }",
        ..Policies::default()
    };
    // Sessions and connections hold no place: they wait for something to happen.
    let (is_good, said) = Finback::check(&stage().configuration(policies));
    assert!(
        !is_good && said.contains("these are left out of it"),
        "{said}"
    );
    let front = stage().front(Policies {
        without: &NOT_BALANCED,
        ..policies
    });
    let sleep = |protocol| match protocol {
        Protocol::Grpc => front.call(protocol, "sleep", &[("seconds", "3")]),
        _ => front.call(protocol, "sleep/3000", &[]),
    };
    for protocol in others(&NOT_BALANCED) {
        answers(&front, protocol);
        std::thread::scope(|scope| {
            let held = scope.spawn(|| sleep(protocol));
            eventually("the call that holds the place", PATIENCE, || {
                let cluster = front.finback.cluster(protocol.key()).unwrap();
                match cluster["in_flight"].as_u64() {
                    Some(1) => Ok(()),
                    other => Err(format!("{protocol:?}: {other:?}")),
                }
            });
            refused(
                front.call(protocol, ALLOWED, &[]),
                protocol,
                Why::Overloaded,
            );
            let held = held.join().unwrap();
            assert!(held.is_ok(), "{protocol:?}: {held:?}");
        });
        answers(&front, protocol);
    }
}

#[test]
fn calls_of_a_lane_reach_its_own_server() {
    let without = [Protocol::RocketMq];
    let lanes = "{ lane: { source: [ 127.0.0.0/8, 0.0.0.0/0 ], \
        attributes: { bolt: rpc_req_baggage.x-lane }, rules: [ \
        { lane: gray, match: { protocol: mqtt, client_id: { prefix: three- } } }, \
        { lane: gray, match: { protocol: tcp, source: 127.0.0.2 } } ] } }";
    let front = stage().front(Policies {
        own: lanes,
        without: &without,
        beside: "OTHER",
        ..Policies::default()
    });
    for protocol in others(&without) {
        let (method, attribute) = match protocol {
            // It has no attributes: who comes from this address.
            Protocol::Tcp => (FORBIDDEN, None),
            // It has none either: who is called so.
            Protocol::Mqtt3 => (ALLOWED, None),
            Protocol::Dubbo => (ALLOWED, Some(("dubbo.tag", "gray"))),
            _ => (ALLOWED, Some(("x-lane", "gray"))),
        };
        let attributes = attribute.as_slice();
        // By chance, five of five would be one in thirty-two.
        for _ in 0..5 {
            let answer = eventually("an answer", PATIENCE, || {
                let outcome = front.call(protocol, method, attributes);
                outcome.map_err(|told| format!("{protocol:?}: {told:?}"))
            });
            assert!(
                stage().is_of_other(protocol, &answer),
                "{protocol:?}: {answer}"
            );
            if protocol != Protocol::Mqtt3 {
                let answer = front.call(protocol, ALLOWED, &[]).unwrap();
                assert!(
                    !stage().is_of_other(protocol, &answer),
                    "{protocol:?}: {answer}"
                );
            }
        }
    }
}

#[test]
fn copies_arrive_at_the_shadow() {
    let front = stage().front(Policies {
        without: &NOT_BALANCED,
        route: ", shadow: { cluster: other-NAME, mark: { x-shadow: \"1\" } }",
        others: true,
        ..Policies::default()
    });
    for protocol in others(&NOT_BALANCED) {
        let answer = eventually("an answer", PATIENCE, || {
            let outcome = front.call(protocol, ALLOWED, &[]);
            outcome.map_err(|told| format!("{protocol:?}: {told:?}"))
        });
        assert!(
            !stage().is_of_other(protocol, &answer),
            "{protocol:?}: {answer}"
        );
        // The second server has answered it, and well.
        eventually("the copy", PATIENCE, || {
            let cluster = front
                .finback
                .cluster(&format!("other-{}", protocol.key()))
                .unwrap();
            let (_, page) = front.finback.admin("/metrics");
            let is_copy = |line: &&str| {
                line.starts_with("finback_requests_total{")
                    && line.contains("listener=\"(shadow)\"")
                    && line.contains("outcome=\"success\"")
                    && line.contains(match protocol {
                        Protocol::Http1 => "service=\"http1.test\"",
                        Protocol::Http2 => "service=\"http2.test\"",
                        Protocol::Grpc => "protocol=\"grpc\"",
                        Protocol::Triple => "protocol=\"triple\"",
                        Protocol::Dubbo => "protocol=\"dubbo\"",
                        _ => "protocol=\"bolt\"",
                    })
            };
            let found = page.lines().any(|line| is_copy(&line));
            found
                .then_some(())
                .ok_or(format!("{protocol:?}: {cluster} {page}"))
        });
    }
}

#[test]
fn words_of_strangers_do_not_arrive() {
    let strip = |source: &str| {
        format!(
            "{{ strip: {{ attributes: [ x-internal, rpc_req_baggage.x-internal ], source: {source} }} }}"
        )
    };
    for (source, is_trusted) in [("203.0.113.0/24", false), ("0.0.0.0/0", true)] {
        let front = stage().front(Policies {
            own: &strip(source),
            without: &NOT_BALANCED,
            ..Policies::default()
        });
        for protocol in others(&NOT_BALANCED) {
            let method = match protocol {
                Protocol::Bolt | Protocol::Dubbo | Protocol::Triple => "attachment/x-internal",
                _ => ALLOWED,
            };
            let answer = eventually("an answer", PATIENCE, || {
                let outcome = front.call(
                    protocol,
                    method,
                    &[("x-internal", "inside"), ("x-own", "kept")],
                );
                outcome.map_err(|told| format!("{protocol:?}: {told:?}"))
            });
            let arrived = answer.to_string().contains("inside");
            assert_eq!(arrived, is_trusted, "{protocol:?}: {answer}");
        }
    }
}

#[test]
fn words_of_strangers_are_in_no_connect() {
    use std::io::{Read, Write};
    let broker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = broker.local_addr().unwrap();
    let (connects, came) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in broker.incoming().flatten() {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or_default();
            let _ = stream.write_all(b"\x20\x03\0\0\0");
            let _ = connects.send(String::from_utf8_lossy(&bytes[..read]).into_owned());
        }
    });
    for (source, is_trusted) in [("203.0.113.0/24", false), ("127.0.0.0/8", true)] {
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt, filters: [ strip ] }} ]
routes: {{ mqtt: [ {{ to: {{ cluster: broker }} }} ] }}
clusters: {{ broker: {{ endpoints: [ "{address}" ] }} }}
filters: {{ strip: {{ strip: {{ attributes: [ x-internal ], source: {source} }} }} }}
"#
        ));
        let port = finback.port("mqtt").to_string();
        let session = [
            ("name", source),
            ("host", "127.0.0.1"),
            ("port", &port),
            ("version", "5"),
            ("id", source),
            ("connect", "x-internal=inside,x-own=kept"),
        ];
        stage().mqtt().ask("open", &session).unwrap();
        // A look whether it is there has none.
        let mut connect = std::iter::repeat_with(|| came.recv_timeout(PATIENCE).unwrap());
        let connect = connect.find(|own| !own.is_empty()).unwrap();
        assert!(connect.contains("kept"), "{connect:?}");
        assert_eq!(connect.contains("inside"), is_trusted, "{connect:?}");
    }
}

/// The address of somebody who takes connections and hangs up.
fn rude() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

#[test]
fn who_fails_is_left_alone() {
    // Whoever hangs up before HTTP/2 begins was sent nothing: there, one that says that it could not do it.
    let broken = stage().front(Policies {
        own: "{ fault: { refuse: { percent: 100, reason: connection_lost } } }",
        ..Policies::default()
    });
    let in_http2 = [Protocol::Triple, Protocol::Grpc];
    // A connection that ends has done nothing wrong, and brokers are chosen by clients: one that cannot be reached.
    let unreachable = [Protocol::RocketMq, Protocol::Tcp];
    let nobody = format!("127.0.0.1:{}", crate::support::free_port());
    for (bad, without) in [
        (rude(), &[in_http2, unreachable].concat()),
        (broken.finback.public("all"), &others(&in_http2).collect()),
        (nobody, &others(&unreachable).collect::<Vec<_>>()),
    ] {
        let beside = format!("\"{bad}\", ");
        let front = stage().front(Policies {
            without,
            beside: &beside,
            cluster: ", balance: round-robin, outlier: { consecutive: 2, base: 5m, max_percent: 100 }",
            ..Policies::default()
        });
        for protocol in others(without) {
            let left_alone = || front.finback.endpoints(protocol.key(), "available", false);
            eventually("it to be left alone", PATIENCE, || {
                let outcome = front.call(protocol, ALLOWED, &[]);
                match left_alone() == [&*bad] {
                    true => Ok(()),
                    false => Err(format!("{protocol:?}: {outcome:?}")),
                }
            });
            for _ in 0..4 {
                let outcome = front.call(protocol, ALLOWED, &[]);
                assert!(outcome.is_ok(), "{protocol:?}: {outcome:?}");
            }
        }
    }
}
