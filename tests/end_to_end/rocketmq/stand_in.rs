//! The stand-in of the demo: real clients take it for RocketMQ, directly and through Finback.

use std::sync::Arc;

use finback_simulations::rocketmq::{self, RocketMqLoad, StandIn};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::mesh::{Mesh, range};
use super::stage::{Stage, stored};
use crate::support::finback::Finback;
use crate::support::rocketmq_clients::{Client, Kind};

fn stand_in(runtime: &Runtime) -> String {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(StandIn::new(address).serve(listener));
    address.to_string()
}

#[test]
fn real_clients_take_the_stand_in_for_rocketmq() {
    let runtime = Runtime::new().unwrap();
    let address = stand_in(&runtime);
    let mesh = Mesh::start(&address);
    for kind in [Kind::Java49, Kind::Java55, Kind::Node] {
        let client = Client::start(kind);
        for at in [&address, &mesh.names] {
            let topic = Stage::fresh("stand-in");
            let group = Stage::fresh("stand-in");
            let consumer = client.consumer(at, &group, &topic, &[]);
            let producer = client.producer(at, &Stage::fresh("producers"), &[]);
            let mut sent =
                producer.send(&topic, &[("key", "sync"), ("count", "8"), ("tag", "red")]);
            if kind != Kind::Node {
                sent.extend(producer.send(&topic, &[("how", "batch"), ("count", "3")]));
            }
            stored(&sent);
            let mut keys: Vec<_> = consumer
                .receive(sent.len())
                .into_iter()
                .map(|own| (own.key, own.hash))
                .collect();
            keys.sort();
            let mut wanted: Vec<_> = sent.into_iter().map(|own| (own.key, own.hash)).collect();
            wanted.sort();
            assert_eq!(keys, wanted, "{kind:?} at {at}");
        }
    }
}

#[test]
fn the_load_generator_finds_messages_that_are_refused() {
    let runtime = Runtime::new().unwrap();
    let address = stand_in(&runtime);
    let mesh = Mesh::of(Finback::start(&format!(
        r#"
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: none }}
routes:
  mq:
    - {{ match: {{ method: SEND_MESSAGE_V2, attributes: {{ KEYS: "20" }} }}, to: {{ cluster: names }}, filters: [ nobody ] }}
    - {{ to: {{ cluster: names }} }}
  none: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ]
clusters: {{ names: {{ endpoints: [ "{address}" ] }} }}
filters: {{ nobody: {{ authorization: {{ default: deny }} }} }}
"#,
        ports = range(30),
    )));
    let run = |count| {
        let load = RocketMqLoad {
            target: mesh.names.parse().unwrap(),
            pairs: 1,
            in_flight: 4,
            count,
            size: 64,
        };
        runtime.block_on(rocketmq::run(&load, &Arc::default()))
    };
    let summary = run(20).unwrap();
    assert_eq!((summary.calls, summary.errors), (20, 0));
    let refused = run(21).unwrap_err().to_string();
    assert!(refused.contains("not stored"), "{refused}");
}
