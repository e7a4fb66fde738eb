//! What clients raise when the proxy itself has to answer: a clean native error with a reason,
//! soon, and never a hang.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::peer::{Caller, Failure};
use crate::support::rpc::{Call, Client, SPEECHES};
use crate::support::world::{GREETER, world};
use crate::support::{free_port, host_address};

/// What stands in the way of a call, by the method that meets it.
struct Obstacle {
    method: &'static str,
    argument: &'static str,
    /// A word of the reason that the caller shall read, where its protocol carries text.
    reason: &'static str,
    /// What SOFA-RPC for Java sorts the error by.
    sofa: u64,
    /// What Dubbo for Java sorts the error by.
    dubbo: u64,
}

const OBSTACLES: [Obstacle; 5] = [
    // 199: the server failed the call. 1: network, which is what Dubbo's own servers cause too.
    Obstacle {
        method: "add",
        argument: "1,2",
        reason: "route",
        sofa: 199,
        dubbo: 1,
    },
    Obstacle {
        method: "noted",
        argument: "",
        reason: "com.acme.Greeter",
        sofa: 199,
        dubbo: 1,
    },
    Obstacle {
        method: "sayHello",
        argument: "you",
        reason: "connect",
        sofa: 199,
        dubbo: 1,
    },
    Obstacle {
        method: "sleep",
        argument: "1",
        reason: "",
        sofa: 200,
        dubbo: 2,
    },
    Obstacle {
        method: "large",
        argument: "1",
        reason: "lost",
        sofa: 199,
        dubbo: 1,
    },
];

/// The client's own patience is far longer than it may take to be told.
const PROMPT: Duration = Duration::from_secs(3);

/// A proxy in front of obstacles only.
fn finback() -> &'static Finback {
    static FINBACK: OnceLock<Finback> = OnceLock::new();
    FINBACK.get_or_init(|| {
        let closed = free_port();
        let silent = upstream(|_| {
            loop {
                thread::park();
            }
        });
        let rude = upstream(|mut stream| {
            // Takes some of the request, then hangs up on it.
            let _ = stream.read(&mut [0; 64]);
        });
        Finback::start(&format!(
            r#"
workers: 1
registries:
  none: {{ memory: [] }}
listeners:
  - {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }}
routes:
  rpc:
    - match: {{ method: noted }}
      to: {{ registry: none }}
    - match: {{ method: sayHello }}
      to: {{ cluster: closed }}
    - match: {{ method: sleep }}
      to: {{ cluster: silent }}
      timeout: 500ms
    - match: {{ method: large }}
      to: {{ cluster: rude }}
    - match: {{ method: measure }}
      respond: {{ status: 200, body: "for HTTP" }}
    - match: {{ method: who }}
      to: {{ cluster: busy }}
      timeout: 2s
clusters:
  closed: {{ endpoints: [ "127.0.0.1:{closed}" ] }}
  silent: {{ endpoints: [ "127.0.0.1:{silent}" ] }}
  rude: {{ endpoints: [ "127.0.0.1:{rude}" ] }}
  busy:
    endpoints: [ "127.0.0.1:{silent}" ]
    limits: {{ in_flight: 1 }}
"#
        ))
    })
}

/// A server that treats every connection in its own way, for as long as the tests run.
fn upstream(treat: impl Fn(std::net::TcpStream) + Copy + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || treat(stream));
        }
    });
    port
}

fn refused(caller: &Caller<'_>, obstacle: &Obstacle) -> Failure {
    let begun = Instant::now();
    let failure = caller.call(obstacle.method, obstacle.argument).unwrap_err();
    let took = begun.elapsed();
    assert!(
        took < PROMPT,
        "{} took {took:?}: {failure:?}",
        obstacle.method
    );
    failure
}

fn sofa() -> Caller<'static> {
    let url = format!("bolt://{}", finback().local("rpc"));
    world().sofa().caller(&[("url", &url)])
}

fn dubbo(peer: &'static crate::support::peer::Peer, serialization: &str) -> Caller<'static> {
    let port = finback().port("rpc");
    let url = format!(
        "dubbo://{}:{port}/{GREETER}?serialization={serialization}\
         &prefer.serialization={serialization}",
        host_address()
    );
    peer.caller(&[("url", &url)])
}

fn node(protocol: &str) -> Caller<'static> {
    let address = finback().local("rpc");
    let place = [
        ("protocol", protocol),
        ("address", &address),
        ("interface", GREETER),
    ];
    world().node().caller(&place)
}

#[test]
fn sofa_for_java_raises_its_own_exceptions() {
    let caller = sofa();
    for obstacle in &OBSTACLES {
        let failure = refused(&caller, obstacle);
        let class = match obstacle.sofa {
            200 => "com.alipay.sofa.rpc.core.exception.SofaTimeOutException",
            _ => "com.alipay.sofa.rpc.core.exception.SofaRpcException",
        };
        assert_eq!(failure.class, class, "{failure:?}");
        assert_eq!(failure.code, json!(obstacle.sofa), "{failure:?}");
        assert!(
            failure.text.contains(obstacle.reason),
            "{}: {failure:?}",
            obstacle.method
        );
    }
}

#[test]
fn every_dubbo_for_java_raises_its_own_exceptions() {
    let world = world();
    for caller in [
        dubbo(world.dubbo3(), "hessian2"),
        dubbo(world.dubbo3(), "fastjson2"),
        dubbo(world.dubbo2(), "hessian2"),
    ] {
        for obstacle in &OBSTACLES {
            let failure = refused(&caller, obstacle);
            assert_eq!(
                failure.class, "org.apache.dubbo.rpc.RpcException",
                "{failure:?}"
            );
            assert_eq!(failure.code, json!(obstacle.dubbo), "{failure:?}");
            assert!(
                failure.text.contains(obstacle.reason),
                "{}: {failure:?}",
                obstacle.method
            );
        }
    }
}

#[test]
fn npm_clients_of_both_protocols_raise_errors_with_the_reason() {
    for protocol in ["bolt", "bolt2", "dubbo"] {
        let caller = node(protocol);
        for obstacle in &OBSTACLES {
            let failure = refused(&caller, obstacle);
            assert_ne!(
                failure.class, "RpcSocketCloseError",
                "{protocol}: {failure:?}"
            );
            assert_ne!(
                failure.class, "RpcResponseTimeoutError",
                "{protocol}: {failure:?}"
            );
            assert!(
                failure.text.contains(obstacle.reason),
                "{}: {failure:?}",
                obstacle.method
            );
        }
    }
}

#[test]
fn a_route_that_answers_http_refuses_others_and_says_so() {
    let own = Obstacle {
        method: "measure",
        argument: "5",
        reason: "answers by itself, and not in this protocol",
        sofa: 199,
        dubbo: 1,
    };
    for caller in [sofa(), dubbo(world().dubbo3(), "hessian2"), node("dubbo")] {
        let failure = refused(&caller, &own);
        assert!(failure.text.contains(own.reason), "{failure:?}");
    }
}

/// Headers may have the names by which routes know parts of other protocols.
#[test]
fn what_a_route_does_for_mqtt_is_not_left_out_for_a_call_that_looks_like_it() {
    for speech in SPEECHES {
        let endpoint = Endpoint::start(speech, Deed::Answer);
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners:
  - {{ name: all, address: "127.0.0.1:0", protocol: auto, routes: all }}
routes:
  all:
    - match: {{ username: meter }}
      mqtt: {{ acl: [ {{ allow: publish, topics: [ "up/#" ] }} ] }}
      to: {{ cluster: all }}
    - {{ to: {{ cluster: all }} }}
clusters: {{ all: {{ endpoints: [ "{}" ] }} }}
"#,
            endpoint.address
        ));
        let call = Call::new("com.acme.Pay", "pay");
        let mut client = Client::connect(&finback.local("all"), speech);
        assert!(client.call(&call).success, "{speech:?}");
        let refused = client.call(&call.with(":username", "meter"));
        let why = "is not for this protocol";
        assert!(refused.text.contains(why), "{speech:?}: {refused:?}");
        assert_eq!(endpoint.calls(), 1, "{speech:?}");
    }
}

#[test]
fn the_address_of_an_endpoint_is_told_only_where_the_listener_says_so() {
    let closed = format!("127.0.0.1:{}", free_port());
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - {{ name: outside, address: "127.0.0.1:0", routes: all }}
  - {{ name: inside, address: "127.0.0.1:0", routes: all, reveal_endpoints: true }}
routes: {{ all: [ {{ to: {{ cluster: closed }} }} ] }}
clusters: {{ closed: {{ endpoints: [ "{closed}" ] }} }}
"#
    ));
    for (listener, told) in [("outside", false), ("inside", true)] {
        let mut stream = TcpStream::connect(finback.local(listener)).unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert_eq!(answer.contains(&closed), told, "{listener}: {answer}");

        let place = [
            ("protocol", "dubbo"),
            ("address", &finback.local(listener)),
            ("interface", GREETER),
        ];
        let caller = world().node().caller(&place);
        let failure = caller.call("sayHello", "you").unwrap_err();
        assert_eq!(
            failure.text.contains(&closed),
            told,
            "{listener}: {failure:?}"
        );
    }
}

#[test]
fn overload_is_told_as_overload() {
    // Whoever comes first fills the cluster's one place until its deadline.
    let first = node("bolt").begin("who", "");
    thread::sleep(Duration::from_millis(300));
    let second = Obstacle {
        method: "who",
        argument: "",
        reason: "",
        sofa: 100,
        dubbo: 1,
    };
    let failure = refused(&sofa(), &second);
    assert_eq!(failure.code, json!(100), "{failure:?}");
    let failure = refused(&dubbo(world().dubbo3(), "hessian2"), &second);
    assert_eq!(failure.code, json!(1), "{failure:?}");
    assert!(
        failure.text.contains("limit") || failure.text.contains("overload"),
        "{failure:?}"
    );
    first.wait().unwrap_err();
}

#[test]
fn the_callers_own_deadline_counts_where_it_is_shorter() {
    // The silent cluster behind `who` would let the route wait for two seconds.
    let begun = Instant::now();
    let failure = sofa()
        .with("timeout", "700")
        .call("sleep", "1")
        .unwrap_err();
    assert_eq!(failure.code, json!(200), "{failure:?}");
    assert!(
        begun.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn the_admin_port_counts_what_was_refused() {
    let failure = node("dubbo").call("add", "1,2").unwrap_err();
    assert!(failure.text.contains("route"), "{failure:?}");
    let (status, page) = finback().admin("/metrics");
    assert_eq!(status, 200);
    let counted = page
        .lines()
        .any(|line| line.contains("no_route") && line.contains("dubbo") && !line.ends_with(" 0"));
    assert!(counted, "{page}");
    assert_eq!(finback().admin("/healthz").0, 200);
    assert_eq!(finback().admin("/readyz").0, 200);
}
