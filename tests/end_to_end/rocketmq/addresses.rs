//! Where brokers and name servers are: lists of them by HTTP, and hosts by name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use serde_json::Value;

use super::mesh::{Mesh, configuration, range};
use super::stage::{Cluster, Stage, all_arrived, stored};
use super::through::brokers_of;
use crate::support::finback::Finback;
use crate::support::free_port;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Kind};

/// Gives this list to whoever asks, until the test's process ends.
fn gives(list: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{list}",
                list.len()
            );
        }
    });
    address
}

/// What is sent through `names` is received through it.
fn works(cluster: &Cluster, client: &Client, names: &str) {
    let topic = Stage::fresh("addressed");
    cluster.broker.topic(&topic, 1);
    let group = Stage::fresh("addressees");
    cluster.broker.group(&group);
    let producer = client.producer(names, &Stage::fresh("producers"), &[]);
    let sent = producer.send(&topic, &[("key", "k"), ("count", "3")]);
    stored(&sent);
    let consumer = client.consumer(names, &group, &topic, &[]);
    all_arrived(&sent, &consumer.receive(3));
}

#[test]
fn name_servers_are_found_by_http_on_both_sides() {
    let cluster = Cluster::v55();
    let own = gives(format!("{};\n", cluster.names.address));
    let port = free_port();
    let ports = range(12);
    let mesh = Mesh::of(Finback::start(&format!(
        r#"
workers: 2
registries:
  list: {{ http: {{ url: "http://{own}/rocketmq/nsaddr", refresh: 1s }} }}
listeners:
  - {{ name: mq, address: "127.0.0.1:{port}", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: list }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
  list:
    - match: {{ path: /rocketmq/nsaddr }}
      respond: {{ status: 200, body: "127.0.0.1:{port}", content_type: text/plain }}
clusters:
  names: {{ discover: {{ registry: list, service: nsaddr }} }}
"#
    )));
    for kind in [Kind::Java49, Kind::Java55] {
        let client = Client::start(kind);
        works(cluster, &client, &format!("http://{}", mesh.grpc));
    }
    let registries = mesh.finback.admin("/registries").1;
    assert!(registries.contains("\"list\""), "{registries}");
}

#[test]
fn a_broker_may_be_known_by_the_name_of_its_host() {
    let names = NameServer::start();
    let broker = Broker::start_with(
        &[&names],
        Setup {
            name: "by-name",
            more: "brokerIP1=localhost\n",
            ..Setup::default()
        },
    );
    let topic = Stage::fresh("named");
    broker.topic(&topic, 1);
    let mesh = Mesh::of(Finback::start(&configuration(
        &names.address,
        &range(12),
        "",
    )));
    let told = brokers_of(&names.address, &topic);
    assert!(told[0].1.starts_with("localhost:"), "{told:?}");
    let through = brokers_of(&mesh.names, &topic);
    assert_eq!(through.len(), 1, "the first time that it is asked for");
    assert!(through[0].1.starts_with("127.0.0.1:"), "{through:?}");
    let client = Client::start(Kind::Java49);
    let producer = client.producer(&mesh.names, &Stage::fresh("producers"), &[]);
    stored(&producer.send(&topic, &[("key", "k")]));
    let listeners: Value = serde_json::from_str(&mesh.finback.admin("/listeners").1).unwrap();
    let broker = &listeners[0]["brokers"][0];
    assert_eq!(broker["address"], told[0].1.as_str(), "{listeners}");
    assert_eq!(broker["ip"], "127.0.0.1", "{listeners}");
}
