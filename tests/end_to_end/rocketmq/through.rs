//! What Finback adds between RocketMQ's clients and servers: ports that last, topics by cluster, ends that are noticed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::mesh::{Mesh, configuration, range};
use super::stage::{Cluster, Stage, all_arrived, stored};
use crate::support::finback::Finback;
use crate::support::remoting;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Kind};
use crate::support::{eventually, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(60);

/// GET_ROUTEINFO_BY_TOPIC, GET_CONSUMER_LIST_BY_GROUP, GET_MAX_OFFSET: RequestCode.java.
const ROUTE: i64 = 105;
const CONSUMERS: i64 = 38;
const MAX_OFFSET: i64 = 30;

/// The names and addresses of the brokers that a client is told have a topic.
pub(crate) fn brokers_of(names: &str, topic: &str) -> Vec<(String, String)> {
    let reply = remoting::ask(names, ROUTE, &[("topic", topic)], &[]).unwrap();
    assert_eq!(reply.code, 0, "{}", reply.remark);
    let route: Value = serde_json::from_slice(&reply.body).unwrap();
    let brokers = route["brokerDatas"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    brokers
        .map(|own| (text(&own["brokerName"]), text(&own["brokerAddrs"]["0"])))
        .collect()
}

/// Whether a broker answers at this address, and not something else.
fn is_broker(address: &str, topic: &str) -> bool {
    let fields = [("topic", topic), ("queueId", "0")];
    remoting::ask(address, MAX_OFFSET, &fields, &[]).is_ok_and(|reply| reply.code == 0)
}

#[test]
fn brokers_keep_their_ports_over_a_restart_and_a_reload() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("lasting");
    cluster.broker.topic(&topic, 1);
    let snapshots = format!(
        "snapshots: {{ folder: \"{}\" }}\n",
        temporary_folder().display()
    );
    let ports = range(60);
    let text = configuration(&cluster.names.address, &ports, &snapshots);
    // A listener that a reload replaces is to be found again.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = text.replacen("127.0.0.1:0", &socket.local_addr().unwrap().to_string(), 1);
    drop(socket);
    let mesh = Mesh::of(Finback::start(&text));
    let brokers = brokers_of(&mesh.names, &topic);
    let address = brokers[0].1.clone();
    assert!(is_broker(&address, &topic));
    // The port two below is there for old clients.
    let (host, port) = address.rsplit_once(':').unwrap();
    let vip = format!("{host}:{}", port.parse::<u16>().unwrap() - 2);
    assert!(is_broker(&vip, &topic));
    // A reload that changes the listener: the broker is where it was, and so it is for one that changes nothing.
    for changed in [
        &text,
        &text.replace("name: mq,", "name: mq, reveal_endpoints: true,"),
    ] {
        mesh.finback.reload(changed);
        eventually("the broker", PATIENCE, || {
            is_broker(&address, &topic)
                .then_some(())
                .ok_or("not there".to_owned())
        });
    }
    assert_eq!(brokers_of(&mesh.names, &topic), brokers);
    // One that takes it away.
    let without = text.replace("  - { name: mq,", "  - { name: other,");
    mesh.finback.reload(&without);
    eventually("the end of the broker's listener", PATIENCE, || {
        let still = is_broker(&address, &topic);
        (!still).then_some(()).ok_or("still there".to_owned())
    });
    mesh.finback.reload(&text);
    mesh.finback.process().signal("TERM");
    assert!(mesh.finback.process().wait_for_end(PATIENCE).success());
    let again = Mesh::of(Finback::start(&text));
    assert!(
        is_broker(&address, &topic),
        "before anybody has asked where it is"
    );
    assert_eq!(brokers_of(&again.names, &topic), brokers);
}

#[test]
fn topics_live_in_the_clusters_that_routes_name() {
    let shop = Cluster::v55();
    let names = NameServer::start();
    let setup = Setup {
        cluster: "c2",
        name: "b2",
        ..Setup::default()
    };
    let audit = Broker::start_with(&[&names], setup);
    let [paid, seen] = ["shop-paid", "audit-seen"].map(Stage::fresh);
    // Each is in both clusters; the route says which of them is meant.
    for broker in [&shop.broker, &audit] {
        broker.topic(&paid, 1);
        broker.topic(&seen, 1);
    }
    let ports = range(60);
    let mesh = Mesh::of(Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports}, broker_cluster: shop }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: mq }}
routes:
  mq:
    - {{ match: {{ service: {{ prefix: "audit-" }} }}, to: {{ cluster: audit }} }}
    - {{ match: {{ service: {{ prefix: "secret-" }}, attributes: {{ ":tag": none }} }}, to: {{ cluster: audit }} }}
    - {{ match: {{ service: {{ regex: "[^s].*|s[^e].*" }} }}, to: {{ cluster: shop }} }}
clusters:
  shop: {{ endpoints: [ "{}" ] }}
  audit: {{ endpoints: [ "{}" ] }}
"#,
        shop.names.address, names.address
    )));
    let name = |topic: &str| brokers_of(&mesh.names, topic)[0].0.clone();
    assert_eq!((&*name(&paid), &*name(&seen)), ("b1", "b2"));
    let client = Client::start(Kind::Java49);
    let producer = client.producer(&mesh.names, &Stage::fresh("producers"), &[]);
    for (topic, broker) in [(&paid, "b1"), (&seen, "b2")] {
        let sent = producer.send(topic, &[("key", "one")]);
        stored(&sent);
        assert_eq!(sent[0].place.as_ref().unwrap().0, broker);
    }
    // What no route takes is refused as a topic that there is not, by name servers and brokers alike.
    for address in [&mesh.names, &brokers_of(&mesh.names, &paid)[0].1] {
        let reply = remoting::ask(address, ROUTE, &[("topic", "secret-plan")], &[]).unwrap();
        assert_eq!(reply.code, 17, "{}", reply.remark);
    }
    let failed = producer.send("secret-plan", &[("key", "two")]);
    assert!(
        failed[0].error["message"]
            .as_str()
            .unwrap()
            .contains("secret-plan"),
        "{failed:?}"
    );
}

#[test]
fn the_queues_of_a_consumer_that_is_killed_go_to_another_at_once() {
    let cluster = Cluster::v55();
    let mesh = Mesh::start(&cluster.names.address);
    let [topic, group] = ["orphaned", "orphans"].map(Stage::fresh);
    cluster.broker.topic(&topic, 4);
    cluster.broker.group(&group);
    let clients = [(); 2].map(|()| Client::start(Kind::Java49));
    // The usual heartbeat: it is not by that that the broker learns of the end.
    let options = [("heartbeat", "30000")];
    let [first, second] =
        [0, 1].map(|at: usize| clients[at].consumer(&mesh.names, &group, &topic, &options));
    let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
    let members = || -> usize {
        let reply = remoting::ask(&broker, CONSUMERS, &[("consumerGroup", &group)], &[]);
        let body = reply.map(|reply| reply.body).unwrap_or_default();
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        list["consumerIdList"].as_array().map_or(0, Vec::len)
    };
    eventually("both consumers", PATIENCE, || {
        (members() == 2).then_some(()).ok_or(members().to_string())
    });
    clients[1].process().signal("KILL");
    let began = Instant::now();
    eventually("the end of one", PATIENCE, || {
        (members() == 1).then_some(()).ok_or(members().to_string())
    });
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    drop(second);
    let producer = clients[0].producer(&mesh.names, &Stage::fresh("producers"), &[]);
    let sent = producer.send(&topic, &[("key", "all"), ("count", "8")]);
    stored(&sent);
    all_arrived(&sent, &first.receive(8));
}

#[test]
fn what_is_acknowledged_while_we_stop_is_stored() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("stopping");
    cluster.broker.topic(&topic, 2);
    for kind in [Kind::Java55, Kind::Java49] {
        let mesh = Mesh::start(&cluster.names.address);
        let client = Client::start(kind);
        let options = [("timeout", "3000"), ("retries", "0")];
        let producer = client.producer(&mesh.names, &Stage::fresh("producers"), &options);
        let consumer = client.consumer(&mesh.names, &Stage::fresh("waiting"), &topic, &[]);
        stored(&producer.send(&topic, &[("key", "before")]));
        mesh.finback.process().signal("TERM");
        let mut acknowledged = BTreeSet::new();
        let began = Instant::now();
        for n in 0.. {
            let key = format!("{kind:?}-{n}-");
            let sent = producer.send(&topic, &[("key", &key)]);
            if sent[0].status == "SEND_OK" {
                acknowledged.insert(sent[0].key.clone());
            } else if began.elapsed() > Duration::from_secs(8) {
                break;
            }
        }
        // Consumers wait for messages all the time, and are told to go: nobody waits until they time out.
        assert!(
            mesh.finback
                .process()
                .wait_for_end(Duration::from_secs(20))
                .success()
        );
        assert!(acknowledged.len() > 10, "{}", acknowledged.len());
        drop(consumer);
        let reader = Client::start(Kind::Java49);
        let all = reader.consumer(
            &cluster.names.address,
            &Stage::fresh("readers"),
            &topic,
            &[],
        );
        let mut got = BTreeSet::new();
        eventually("all that was acknowledged", PATIENCE, || {
            got.extend(all.receive_within(1, 500).into_iter().map(|own| own.key));
            let lost: Vec<_> = acknowledged.difference(&got).collect();
            lost.is_empty().then_some(()).ok_or(format!("{lost:?}"))
        });
    }
}

#[test]
fn a_client_that_is_told_to_go_comes_again_and_loses_nothing() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("moving");
    cluster.broker.topic(&topic, 1);
    let text = configuration(&cluster.names.address, &range(12), "");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = text.replacen("127.0.0.1:0", &socket.local_addr().unwrap().to_string(), 1);
    drop(socket);
    let mesh = Mesh::of(Finback::start(&text));
    let client = Client::start(Kind::Java55);
    let options = [("timeout", "10000"), ("retries", "0")];
    let producer = client.producer(&mesh.names, &Stage::fresh("producers"), &options);
    stored(&producer.send(&topic, &[("key", "before")]));
    // Another listener takes the place of the one that it is connected to.
    for reveals in [true, false] {
        let changed = format!("name: mq, reveal_endpoints: {reveals},");
        mesh.finback.reload(&text.replace("name: mq,", &changed));
        for n in 0..5 {
            let key = format!("{reveals}-{n}-");
            stored(&producer.send(&topic, &[("key", &key)]));
        }
    }
    let metrics = mesh.finback.admin("/metrics").1;
    // Whatever it asks first, on a slow machine maybe a heartbeat.
    let told = metrics
        .lines()
        .find(|line| line.contains("status=\"GO_AWAY\""));
    assert!(
        told.is_some_and(|line| line.contains("\"draining\"")),
        "{metrics}"
    );
}

/// Sends bytes; whether the other side ends the connection within a while.
fn is_cut(address: &str, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let _ = stream.write_all(bytes);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_ok()
}

#[test]
fn bad_bytes_cost_their_own_connection_and_nothing_else() {
    let cluster = Cluster::v55();
    let mesh = Mesh::start(&cluster.names.address);
    let topic = Stage::fresh("robust");
    cluster.broker.topic(&topic, 1);
    let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
    let client = Client::start(Kind::Java49);
    let producer = client.producer(&mesh.names, &Stage::fresh("producers"), &[]);
    stored(&producer.send(&topic, &[("key", "before")]));
    let header = |text: &str| {
        let length = u32::try_from(text.len()).unwrap();
        [
            &(length + 4).to_be_bytes()[..],
            &length.to_be_bytes(),
            text.as_bytes(),
        ]
        .concat()
    };
    let deep = format!(
        "{{\"code\":310,\"extFields\":{{\"b\":{}",
        "[".repeat(100_000)
    );
    let many: String = (0..8_000).map(|n| format!("\"k{n}\":\"v\",")).collect();
    let bad = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0xff; 64],
        vec![0, 0, 0, 2, 0, 0, 0, 0],
        vec![0, 0, 1, 0, 0, 0xff, 0xff, 0xff],
        vec![0, 0, 0, 20, 7, 0, 0, 16],
        header("{"),
        header("{\"code\":}"),
        header("{\"code\":310,\"code\":11}"),
        header(&deep),
    ];
    for address in [&mesh.names, &broker] {
        for bytes in &bad {
            assert!(
                is_cut(address, bytes),
                "{}: {:?}",
                address,
                &bytes[..bytes.len().min(40)]
            );
        }
        // A header of very many fields is only long.
        let text = format!("{{\"code\":38,\"opaque\":1,\"extFields\":{{{many}\"z\":\"\"}}}}");
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&header(&text)).unwrap();
        let mut answer = [0; 8];
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.read_exact(&mut answer).unwrap();
        // Codes that nobody knows pass, and their server answers.
        let reply = remoting::ask(address, 123_456, &[], &[]).unwrap();
        assert_eq!(reply.code, 3, "{}", reply.remark);
    }
    let rss = mesh.finback.process().rss();
    assert!(rss < 200 * 1024, "{rss} KiB");
    stored(&producer.send(&topic, &[("key", "after")]));
    assert_eq!(mesh.finback.process().count("panicked"), 0);
}
