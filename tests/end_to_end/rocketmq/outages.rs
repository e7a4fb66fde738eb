//! Servers that stall, die, leave and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::mesh::Mesh;
use super::stage::{Outcome, Stage};
use crate::support::eventually;
use crate::support::rocketmq::{Broker, NameServer};
use crate::support::rocketmq_clients::{Client, Handle, Kind, Received};

/// How long a client may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

/// The broker stalls, dies and comes back, the name server dies and comes back, and at last the broker
/// leaves: what was acknowledged arrives, and what could not be was refused.
pub(crate) fn outlived(
    address: &str,
    names: &mut NameServer,
    broker: &mut Broker,
    client: &Client,
) -> Outcome {
    let [topic, group] = ["outlived", "outliving"].map(Stage::fresh);
    broker.topic(&topic, 1);
    broker.group(&group);
    let consumer = client.consumer(address, &group, &topic, &[]);
    let options = [("timeout", "2000"), ("retries", "0")];
    let producer = client.producer(address, "outlived", &options);
    let mut all = Vec::new();
    // A client that has just started may need longer than it gives a message.
    sends_again(&producer, &topic, "before");

    broker.process().signal("STOP");
    let stalled = producer.send(&topic, &[("key", "stalled")]);
    broker.process().signal("CONT");
    sends_again(&producer, &topic, "continued");
    heard(&consumer, &mut all, "continued0");

    broker.kill();
    let dead = producer.send(&topic, &[("key", "dead")]);
    broker.restart();
    sends_again(&producer, &topic, "restarted");
    heard(&consumer, &mut all, "restarted0");

    // Routes that are known stay good.
    names.kill();
    sends_again(&producer, &topic, "nameless");
    heard(&consumer, &mut all, "nameless0");
    names.restart();

    consumer.close();
    broker.stop();
    let left = producer.send(&topic, &[("key", "left")]);
    eventually("the broker leaves the route", PATIENCE, || {
        names
            .route(&topic)
            .map_or(Ok(()), |route| Err(route.to_string()))
    });
    producer.close();
    for own in [&stalled[0], &dead[0], &left[0]] {
        assert!(!own.error.is_null(), "{own:?}");
    }
    let keys: BTreeSet<_> = all.iter().map(|own| own.key.as_str()).collect();
    for own in ["before0", "continued0", "restarted0", "nameless0"] {
        assert!(keys.contains(own), "{own}: {keys:?}");
    }
    // What was sent to a stalled broker may have been stored for all that.
    let never: Vec<_> = keys
        .iter()
        .filter(|key| matches!(**key, "dead0" | "left0"))
        .collect();
    let classes = [&stalled, &dead].map(|own| own[0].error["class"].clone());
    Outcome::of(json!([never, classes]))
        .took("refused by the stalled", stalled[0].millis)
        .took("refused by the dead", dead[0].millis)
}

/// Sends until it is acknowledged.
fn sends_again(producer: &Handle<'_>, topic: &str, key: &str) {
    eventually("a message is stored", PATIENCE, || {
        let sent = producer.send(topic, &[("key", key)]);
        if sent[0].status == "SEND_OK" {
            Ok(())
        } else {
            Err(format!("{sent:?}"))
        }
    });
}

/// Receives until this one has come.
fn heard(consumer: &Handle<'_>, all: &mut Vec<Received>, key: &str) {
    eventually("the message", PATIENCE, || {
        all.extend(consumer.receive_within(1, 1000));
        if all.iter().any(|own| own.key == key) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
}

#[test]
fn java_5_5_outlives_its_servers() {
    let (direct, through) = std::thread::scope(|scope| {
        let direct = scope.spawn(|| play(false));
        let through = play(true);
        (direct.join().unwrap(), through)
    });
    println!("outlived: {through:?}, directly {direct:?}");
    // The exceptions differ: a broker that is gone refuses connections, and we say that it is gone.
    assert_eq!(through.same[0], json!([]));
    assert_eq!(direct.same[0], json!([]));
}

fn play(is_through: bool) -> Outcome {
    let mut names = NameServer::start();
    let mut broker = Broker::start(&names);
    let client = Client::start(Kind::Java55);
    let mesh = is_through.then(|| Mesh::start(&names.address));
    let address = mesh
        .as_ref()
        .map_or(&names.address, |mesh| &mesh.names)
        .clone();
    outlived(&address, &mut names, &mut broker, &client)
}
