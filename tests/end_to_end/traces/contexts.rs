//! Contexts in the formats and the places of each protocol: read, written on, and left alone.

use std::process::Command;

use rdkafka::mocking::MockCluster;
use serde_json::Value;

use super::*;
use crate::support::mosquitto::Mosquitto;
use crate::support::{free_port, temporary_folder};

/// A front for Bolt, Dubbo and HTTP in one, whose endpoints note what they are told.
struct Noted {
    finback: Finback,
    seen: Seen,
    _endpoints: Vec<Endpoint>,
}

fn noted(tracing: &str) -> Noted {
    let seen = Seen::default();
    let endpoint = |speech| {
        let seen = seen.clone();
        Endpoint::scripted(speech, move |frame| {
            seen.note(&String::from_utf8_lossy(frame));
            Deed::Answer
        })
    };
    let (bolt, dubbo) = (endpoint(Speech::Bolt), endpoint(Speech::Dubbo));
    let noted = seen.clone();
    let web = http_service(move |head| {
        noted.note(head);
        200
    });
    let finback = Finback::start(&format!(
        r#"
workers: 1
{tracing}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - {{ match: {{ protocol: bolt }}, to: {{ cluster: bolt }} }}
    - {{ match: {{ protocol: dubbo }}, to: {{ cluster: dubbo }} }}
    - {{ match: {{ protocol: http }}, to: {{ cluster: web }} }}
clusters:
  bolt: {{ endpoints: [ "{}" ] }}
  dubbo: {{ endpoints: [ "{}" ] }}
  web: {{ endpoints: [ "{web}" ] }}
"#,
        bolt.address, dubbo.address
    ));
    Noted {
        finback,
        seen,
        _endpoints: vec![bolt, dubbo],
    }
}

impl Noted {
    /// What the endpoint is told of a call with these attributes.
    fn told(&self, speech: Option<Speech>, attributes: &[(&str, &str)]) -> String {
        let at = self.finback.local("all");
        match speech {
            None => assert_eq!(get(&at, "/", attributes).0, 200),
            Some(speech) => {
                let mut call = Call::new("com.acme.Pay", "pay");
                for (name, value) in attributes {
                    call = call.with(name, value);
                }
                assert!(Client::connect(&at, speech).call(&call).success);
            }
        }
        self.seen.all().pop().unwrap()
    }
}

const ALL: [Option<Speech>; 3] = [None, Some(Speech::Bolt), Some(Speech::Dubbo)];

#[test]
fn every_format_is_written_on_where_it_came_in() {
    let jaeger = Jaeger::start();
    let propagation =
        "propagation: { read: [ w3c, jaeger, b3, b3-multi, skywalking, sofatracer ], write: [] }";
    let tracing = |name: &str, sampling: &str, more: &str| {
        let endpoint = &jaeger.grpc;
        format!(
            "tracing: {{ endpoint: \"{endpoint}\", service_name: {name}, sampling: {sampling}, {more} }}"
        )
    };
    let sampled = noted(&tracing("formats", "always", propagation));
    let trace = "80f198ee56343ba864fe8b2a57d3eff7";
    let b3 = format!("{trace}-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90");
    let uber = format!("{trace}:e457b5a2e4d86bd1:0:1");
    let sw8 = "1-ODBmMTk4ZWU1NjM0M2JhODY0ZmU4YjJhNTdkM2VmZjc=-MS4yLjM=-4-YQ==-Yg==-Yw==-ZA==";
    for speech in ALL {
        let skywalking = match speech {
            Some(Speech::Bolt) => "skywalking.sw8",
            _ => "sw8",
        };
        let formats: [(&str, &[(&str, &str)]); 4] = [
            ("b3", &[("b3", &b3)]),
            (
                "uber-trace-id",
                &[("uber-trace-id", &uber), ("uberctx-tenant", "north")],
            ),
            (
                "X-B3-SpanId",
                &[
                    ("X-B3-TraceId", trace),
                    ("X-B3-SpanId", "e457b5a2e4d86bd1"),
                    ("X-B3-Sampled", "1"),
                ],
            ),
            (skywalking, &[(skywalking, sw8)]),
        ];
        for (name, came) in formats {
            let told = sampled.told(speech, came);
            // The caller's span is not the endpoint's parent any more, and no other format was added.
            assert!(
                !told.contains("e457b5a2e4d86bd1") && !told.contains(sw8),
                "{name}: {told}"
            );
            assert!(
                told.to_lowercase().contains(&name.to_lowercase()),
                "{name}: {told}"
            );
            assert!(!told.contains("traceparent"), "{name}: {told}");
            assert_eq!(told.contains("north"), name == "uber-trace-id", "{told}");
        }
        // Four formats, and of each a span of the call and one of its attempt.
        let spans = jaeger.trace(trace, 8);
        assert!(spans.len() >= 8);
    }
    let spans = jaeger.trace(trace, 24);
    assert_eq!(spans.len(), 24, "{spans:#?}");
    let marked = spans.iter().filter(|own| own.tag("sw8.trace_id") == trace);
    assert_eq!(marked.count(), 3);
    // Nobody touches a context of calls that are not traced, and none is given to those without.
    let left = noted(&tracing("left", "never", "tails: { failed: true }"));
    for speech in ALL {
        for came in [CHOSEN, LEFT_OUT] {
            let told = left.told(speech, &[("traceparent", came), ("tracestate", "a=b")]);
            assert_eq!(
                traceparent(told.as_bytes()).as_deref(),
                Some(came),
                "{told}"
            );
        }
        let told = left.told(speech, &[]);
        assert!(!told.contains("traceparent"), "{told}");
    }
}

#[test]
fn sofatracer_has_its_children_counted_and_its_names_kept() {
    let jaeger = Jaeger::start();
    let endpoint = &jaeger.grpc;
    let sofa = "propagation: { read: [ sofatracer ], write: [ w3c ] }";
    let noted = noted(&format!(
        "tracing: {{ endpoint: \"{endpoint}\", service_name: sofa, {sofa} }}"
    ));
    let came = [
        (
            "rpc_trace_context.sofaTraceId",
            "0a0fe87c1590657045031100112345",
        ),
        ("rpc_trace_context.sofaRpcId", "0.1"),
        ("rpc_trace_context.samp", "true"),
        ("rpc_trace_context.sofaPenAttrs", "tenant=north&"),
    ];
    let told = noted.told(Some(Speech::Bolt), &came);
    let has = |name: &str, value: &str| {
        // Key, four bytes of a length, value.
        let (_, after) = told.split_once(name).unwrap();
        after.as_bytes()[4..].starts_with(value.as_bytes())
    };
    assert!(has(came[0].0, came[0].1), "{told}");
    assert!(has(came[1].0, "0.1.1"), "{told}");
    assert!(
        has(came[2].0, "true") && has(came[3].0, "tenant=north&"),
        "{told}"
    );
    let context = traceparent(told.as_bytes()).unwrap();
    let spans = jaeger.trace(&context[3..35], 2);
    let server = named(&spans, "server", "com.acme.Pay/pay");
    assert_eq!(server.tag("sofa.trace_id"), came[0].1);
    assert_eq!(server.tag("sofa.rpc_id"), "0.1");
}

/// The last line of a log of SOFATracer's about this method.
fn digest(folder: &std::path::Path, log: &str) -> Value {
    let log = folder.join("tracelog").join(log);
    eventually("a line of SOFATracer", PATIENCE, || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        let mut lines = text.lines().rev();
        let last = lines
            .find(|line| line.contains("sayHello"))
            .ok_or(text.clone())?;
        serde_json::from_str(last).map_err(|error| error.to_string())
    })
}

#[test]
fn sofatracer_for_java_sees_one_trace_on_both_sides() {
    let jaeger = Jaeger::start();
    let folder = temporary_folder();
    let java = Peer::sofa_logging(&folder);
    let port = free_port().to_string();
    java.export(&[("host", "127.0.0.1"), ("port", &port), ("name", "traced")]);
    let finback = Finback::start(&format!(
        r#"
workers: 1
tracing: {{ endpoint: "{}", service_name: java, propagation: {{ read: [ sofatracer ] }} }}
listeners: [ {{ name: bolt, address: "127.0.0.1:0", routes: bolt }} ]
routes: {{ bolt: [ {{ to: {{ cluster: java }} }} ] }}
clusters: {{ java: {{ endpoints: [ "127.0.0.1:{port}" ] }} }}
"#,
        jaeger.grpc
    ));
    let url = format!("bolt://{}", finback.local("bolt"));
    let caller = java.caller(&[("url", &url)]);
    assert_eq!(
        caller.call("sayHello", "you").unwrap(),
        "hello you from traced"
    );
    let client = digest(&folder, "rpc-client-digest.log");
    let server = digest(&folder, "rpc-server-digest.log");
    assert_eq!(server["tracerId"], client["tracerId"]);
    // The proxy's attempt is the first child of the caller's span.
    let path = client["spanId"].as_str().unwrap();
    assert_eq!(server["spanId"], format!("{path}.1"));
    let spans = jaeger.service("java", 2);
    let traced = spans.iter().find(|own| own.kind() == "server").unwrap();
    assert_eq!(
        traced.tag("sofa.trace_id"),
        client["tracerId"].as_str().unwrap()
    );
    assert_eq!(traced.tag("sofa.rpc_id"), path);
}

/// The headers of the records of a topic.
fn headers(brokers: &str, topic: &str) -> Vec<Value> {
    let read = Command::new("kcat")
        .args([
            "-b",
            brokers,
            "-t",
            topic,
            "-C",
            "-e",
            "-q",
            "-J",
            "-o",
            "beginning",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.map(|own| own["headers"].clone()).collect()
}

#[test]
fn a_message_is_one_trace_from_mqtt_into_kafka() {
    let jaeger = Jaeger::start();
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("plant", 1, 1).unwrap();
    let brokers = kafka.bootstrap_servers();
    let finback = Finback::start(&format!(
        r##"
workers: 1
tracing: {{ endpoint: "{}", service_name: iot, sampling: always }}
kafka: {{ events: {{ brokers: "{brokers}" }} }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - name: devices
      match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: "{{1}}" }}
      mqtt: {{ authenticate: none, acl: [ {{ allow: publish, topics: [ "#" ] }} ] }}
    - name: bridge
      match: {{ protocol: http }}
      produce: {{ kafka: events, topic: "{{1}}" }}
"##,
        jaeger.grpc
    ));
    let peer = Peer::mqtt();
    let url = format!("mqtt://{}", finback.local("all"));
    for version in ["4", "5"] {
        let name = [("name", version)];
        let fields = [("url", &*url), ("id", version), ("version", version)];
        peer.ask("connect", &[&name[..], &fields[..]].concat())
            .unwrap();
        let user = format!("{{\"userProperties\":{{\"traceparent\":\"{CHOSEN}\"}}}}");
        for qos in ["0", "1", "2"] {
            let mut fields = vec![("topic", "plant/7/power"), ("payload", "1"), ("qos", qos)];
            if version == "5" {
                fields.push(("properties", &*user));
            }
            peer.ask("publish", &[&name[..], &fields[..]].concat())
                .unwrap();
        }
    }
    let mut web = TcpStream::connect(finback.local("all")).unwrap();
    let request = format!(
        "POST /plant HTTP/1.1\r\nHost: a\r\ntraceparent: {CHOSEN}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    );
    web.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Three messages that came with a context, and a body.
    let spans = jaeger.trace(TRACE, 8);
    assert_eq!(spans.len(), 8, "{spans:#?}");
    let records = headers(&brokers, "plant");
    assert_eq!(records.len(), 7, "{records:?}");
    let carried: Vec<String> = records
        .iter()
        .map(|own| traceparent(own.to_string().as_bytes()).unwrap())
        .collect();
    for record in &records {
        assert_eq!(
            record.to_string().matches("traceparent").count(),
            1,
            "{record}"
        );
    }
    let sends: Vec<&Span> = spans
        .iter()
        .filter(|own| own.kind() == "producer")
        .collect();
    assert_eq!(sends.len(), 4);
    for send in &sends {
        assert_eq!(send.name, "send plant");
        assert_eq!(send.tag("messaging.system"), "kafka");
        assert_eq!(send.tag("messaging.destination.name"), "plant");
        assert!(
            carried.contains(&format!("00-{TRACE}-{}-01", send.id)),
            "{carried:?}"
        );
    }
    let publish = named(&spans, "server", "publish");
    assert_eq!(publish.parent.as_deref(), Some("00f067aa0ba902b7"));
    let said = [
        "messaging.system",
        "messaging.destination.name",
        "messaging.client.id",
    ];
    assert_eq!(
        said.map(|key| publish.tag(key)),
        ["mqtt", "plant/7/power", "5"]
    );
    // What came without begins a trace of its own.
    let fresh: Vec<&String> = carried.iter().filter(|own| !own.contains(TRACE)).collect();
    assert_eq!(fresh.len(), 3);
    for own in fresh {
        assert_eq!(jaeger.trace(&own[3..35], 2).len(), 2);
    }
}

#[test]
fn a_message_of_mqtt_5_tells_its_broker_of_its_trace() {
    let jaeger = Jaeger::start();
    let broker = Mosquitto::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
tracing: {{ endpoint: "{}", service_name: broker, sampling: parent-based }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {{ match: {{ protocol: mqtt }}, to: {{ cluster: broker }} }} ] }}
clusters: {{ broker: {{ endpoints: [ "{}" ] }} }}
"#,
        jaeger.grpc,
        broker.address()
    ));
    let peer = Peer::mqtt();
    let url = format!("mqtt://{}", finback.local("all"));
    for name in ["one", "two"] {
        let fields = [
            ("name", name),
            ("url", &*url),
            ("id", name),
            ("version", "5"),
        ];
        peer.ask("connect", &fields).unwrap();
    }
    let subscribed = [("name", "two"), ("filters", "a/#"), ("qos", "1")];
    peer.ask("subscribe", &subscribed).unwrap();
    for context in [CHOSEN, LEFT_OUT] {
        let user =
            format!("{{\"userProperties\":{{\"traceparent\":\"{context}\",\"own\":\"kept\"}}}}");
        let fields = [
            ("name", "one"),
            ("topic", "a/b"),
            ("payload", "1"),
            ("qos", "1"),
            ("properties", &*user),
        ];
        peer.ask("publish", &fields).unwrap();
    }
    let heard = peer
        .ask("heard", &[("name", "two"), ("count", "2")])
        .unwrap();
    let told = |number: usize| heard[number]["properties"]["userProperties"].clone();
    let spans = jaeger.trace(TRACE, 3);
    let attempt = named(&spans, "producer", "publish");
    // On its way back from the broker it is one step further.
    let delivery = named(&spans, "server", "deliver");
    assert_eq!(delivery.parent.as_deref(), Some(&*attempt.id));
    assert_eq!(
        told(0)["traceparent"],
        format!("00-{TRACE}-{}-01", delivery.id)
    );
    assert_eq!(told(1)["traceparent"], LEFT_OUT);
    assert_eq!(
        (&told(0)["own"], &told(1)["own"]),
        (&"kept".into(), &"kept".into())
    );
    for own in [attempt, delivery] {
        assert_eq!(own.tag("messaging.destination.name"), "a/b");
    }
}
