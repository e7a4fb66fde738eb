//! Messages in a lane: a property that brokers choose by for consumers.

use super::mesh::{Mesh, range};
use super::stage::{Cluster, Stage, stored};
use super::through::brokers_of;
use crate::support::finback::Finback;
use crate::support::remoting;
use crate::support::rocketmq_clients::{Client, Encoding, Kind, Received};

fn mesh(cluster: &Cluster, canary: &str) -> Mesh {
    Mesh::of(Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }}, filters: [ lanes ] }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: none }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
  none: [ {{ match: {{ protocol: http }}, respond: {{ status: 404 }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
filters:
  lanes:
    lane:
      attributes: {{ rocketmq: lane }}
      rules: [ {{ lane: gray, match: {{ protocol: rocketmq, group: {canary} }} }} ]
      source: 192.0.2.0/24
"#,
        ports = range(30),
        names = cluster.names.address,
    )))
}

fn keys(received: &[Received]) -> Vec<&str> {
    let mut keys: Vec<_> = received.iter().map(|own| &*own.key).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn messages_of_a_lane_are_for_those_who_ask_for_it() {
    let cluster = Cluster::v55();
    for (kind, encoding) in [
        (Kind::Java49, Encoding::Json),
        (Kind::Java55, Encoding::Binary),
    ] {
        let canary = Stage::fresh("canary");
        let mesh = mesh(cluster, &canary);
        let client = Client::start_writing(kind, encoding);
        let stage = mesh.stage(cluster, &client);
        let topic = stage.topic("lanes", 2);
        let base_group = stage.group("base");
        cluster.broker.group(&canary);
        let base = stage.consumer(&base_group, &topic, &[("sql", "lane is null")]);
        // Its fetches and heartbeats have the group that the rule is about, and can bear no lane.
        let gray = stage.consumer(&canary, &topic, &[("sql", "lane = 'gray'")]);
        let at = &mesh.names;
        let usual = client.producer(at, &Stage::fresh("usual"), &[]);
        let sender = client.producer(at, &canary, &[]);
        // A stranger's own word is taken away.
        let own = [("key", "usual"), ("count", "3"), ("@lane", "gray")];
        stored(&usual.send(&topic, &own));
        stored(&usual.send(&topic, &[("how", "batch"), ("key", "all"), ("count", "2")]));
        stored(&sender.send(&topic, &[("key", "gray"), ("count", "3")]));
        stored(&sender.send(
            &topic,
            &[("how", "batch"), ("key", "grays"), ("count", "2")],
        ));
        let received = gray.receive(5);
        assert_eq!(
            keys(&received),
            ["gray0", "gray1", "gray2", "grays0", "grays1"]
        );
        assert!(received.iter().all(|own| own.properties["lane"] == "gray"));
        let received = base.receive(5);
        assert_eq!(
            keys(&received),
            ["all0", "all1", "usual0", "usual1", "usual2"]
        );
        assert!(gray.receive_within(1, 1000).is_empty());
        assert!(base.receive_within(1, 300).is_empty());
    }
}

#[test]
fn what_is_signed_cannot_be_put_into_a_lane() {
    let cluster = Cluster::v55();
    let canary = Stage::fresh("canary");
    let mesh = mesh(cluster, &canary);
    let topic = Stage::fresh("signed-lane");
    cluster.broker.topic(&topic, 1);
    let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
    let ask = |group: &str| remoting::send(&broker, group, &topic, remoting::SIGNATURE);
    let refused = ask(&canary);
    assert_eq!(refused.code, 16, "{}", refused.remark);
    assert!(refused.remark.contains("no room"), "{}", refused.remark);
    assert_eq!(ask("usual").code, 0);
}
