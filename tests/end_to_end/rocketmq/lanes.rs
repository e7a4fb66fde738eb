//! Consumers of a lane and of the base: whose messages are whose, while the lane has consumers and while it has none.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::clients::GUARDED;
use super::mesh::range;
use super::stage::{Cluster, Stage, stored};
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::remoting;
use crate::support::rocketmq::{Broker, NameServer, Setup};
use crate::support::rocketmq_clients::{Client, Encoding, Handle, Kind, Received, Sent};

/// QUERY_CONSUMER_OFFSET, GET_CONSUMER_LIST_BY_GROUP: RequestCode.java.
const OFFSET: i64 = 14;
const CONSUMERS: i64 = 38;
const PATIENCE: Duration = Duration::from_secs(90);

/// Finback with a listener for the base and one for the lane `gray`, which puts what is sent through it into the lane.
fn mesh(names: &str, more: &str) -> Finback {
    let both = range(24);
    let first: u16 = both.split_once('-').unwrap().0.parse().unwrap();
    let text = format!(
        r#"
workers: 2
listeners:
  - {{ name: base, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {base}, {more} lanes: {{ others: [ gray, blue ] }} }} }}
  - {{ name: gray, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {gray}, {more} lanes: {{ own: gray }} }}, filters: [ gray ] }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ] }} }}
filters:
  gray: {{ lane: {{ attributes: {{ rocketmq: lane }}, rules: [ {{ lane: gray }} ] }} }}
"#,
        base = format_args!("{first}-{}", first + 11),
        gray = format_args!("{}-{}", first + 12, first + 23),
    );
    Finback::start_with(&text, &[("secret", "a-long-secret\n")])
}

/// One group in both lanes.
struct Play<'a> {
    cluster: &'a Cluster,
    base: String,
    gray: String,
    topic: String,
    group: String,
    how: Vec<(&'a str, &'a str)>,
    producers: [Handle<'a>; 2],
    round: usize,
}

impl<'a> Play<'a> {
    fn new(
        cluster: &'a Cluster,
        finback: &Finback,
        producer: &'a Client,
        how: &[(&'a str, &'a str)],
    ) -> Self {
        let [base, gray] = ["base", "gray"].map(|name| finback.local(name));
        let topic = Stage::fresh("laned");
        cluster.broker.topic(&topic, 2);
        let group = Stage::fresh("laned");
        cluster.broker.group(&group);
        if how.contains(&("how", "pop")) {
            for group in [group.clone(), format!("{group}-lane-gray")] {
                cluster.broker.group(&group);
                cluster.broker.pop(&topic, &group);
            }
        }
        let producers = [&base, &gray].map(|at| producer.producer(at, &Stage::fresh("p"), &[]));
        Self {
            cluster,
            base,
            gray,
            topic,
            group,
            how: how.to_vec(),
            producers,
            round: 0,
        }
    }

    fn consumer<'b>(&self, client: &'b Client, is_gray: bool, more: &[(&str, &str)]) -> Handle<'b> {
        let at = if is_gray { &self.gray } else { &self.base };
        let options = [&self.how[..], more].concat();
        client.consumer(at, &self.group, &self.topic, &options)
    }

    /// So many messages, by the producer of the base or of the lane.
    fn send(&mut self, is_gray: bool, count: &str) -> BTreeSet<String> {
        self.round += 1;
        let lane = if is_gray { "gray" } else { "base" };
        let key = format!("{lane}-{}-", self.round);
        let fields = [("key", key.as_str()), ("count", count), ("tag", "red")];
        let sent = self.producers[usize::from(is_gray)].send(&self.topic, &fields);
        stored(&sent);
        // What no subscription is for.
        let green = [("key", "green"), ("count", "1"), ("tag", "green")];
        stored(&self.producers[usize::from(is_gray)].send(&self.topic, &green));
        keys_of(&sent)
    }

    fn lane(&self) -> String {
        format!("{}-lane-gray", self.group)
    }

    /// Where a group is in both queues.
    fn offsets(&self, group: &str) -> Vec<Option<String>> {
        let offset = |queue| {
            let fields = [
                ("consumerGroup", group),
                ("topic", self.topic.as_str()),
                ("queueId", queue),
                ("setZeroIfNotFound", "false"),
            ];
            let reply = remoting::ask(&self.cluster.broker.address, OFFSET, &fields, b"").unwrap();
            reply.fields["offset"].as_str().map(str::to_owned)
        };
        ["0", "1"].map(offset).to_vec()
    }

    /// Waits until a lane's group is where the base is, so that it begins with what is new.
    fn along(&self) {
        eventually("the lane's group beside the base", PATIENCE, || {
            let both = [self.offsets(&self.group), self.offsets(&self.lane())];
            match both[0] == both[1] && both[0].iter().all(Option::is_some) {
                true => Ok(()),
                false => Err(format!("{both:?}")),
            }
        });
    }
}

fn keys_of(sent: &[Sent]) -> BTreeSet<String> {
    sent.iter().map(|own| own.key.clone()).collect()
}

/// Waits for all of these, and tells what else came.
fn all(of: &Handle<'_>, wanted: &BTreeSet<String>) -> Vec<Received> {
    let mut received = Vec::new();
    eventually("all of them", PATIENCE, || {
        received.extend(of.receive_within(1, 300));
        let seen: BTreeSet<_> = received
            .iter()
            .map(|own: &Received| own.key.clone())
            .collect();
        match seen.is_superset(wanted) {
            true => Ok(()),
            false => Err(format!("{seen:?} of {wanted:?}")),
        }
    });
    received
}

fn only(received: &[Received], wanted: &BTreeSet<String>) {
    let seen: Vec<&str> = received.iter().map(|own| own.key.as_str()).collect();
    assert!(
        seen.iter().all(|key| wanted.contains(*key)),
        "{seen:?} beside {wanted:?}"
    );
}

fn is_live(play: &Play<'_>) -> bool {
    let fields = [("consumerGroup", &*play.lane())];
    let reply = remoting::ask(&play.cluster.broker.address, CONSUMERS, &fields, b"").unwrap();
    reply.code == 0
        && serde_json::from_slice(&reply.body)
            .is_ok_and(|own: Value| !own["consumerIdList"].as_array().unwrap().is_empty())
}

/// Probes until the lane's messages come to the lane alone: each queue of the base has then given what was sent after them.
fn settle(play: &mut Play<'_>, base: &Handle<'_>, gray: &Handle<'_>, finback: &Finback) {
    eventually("the lane's messages in the lane alone", PATIENCE, || {
        let (grays, bases) = (play.send(true, "4"), play.send(false, "6"));
        all(gray, &grays);
        let mut received = all(base, &bases);
        received.extend(base.receive_within(1, 300));
        match received.iter().any(|own| grays.contains(&own.key)) {
            true => Err(format!("{received:?}\n{}", finback.admin("/rocketmq").1)),
            false => Ok(()),
        }
    });
}

fn played(kind: Kind, encoding: Encoding, how: &[(&str, &str)], leaves: bool) {
    let cluster = Cluster::v55();
    let finback = mesh(&cluster.names.address, "");
    let client = Client::start_writing(kind, encoding);
    let mut play = Play::new(cluster, &finback, &client, how);
    let base = play.consumer(&client, false, &[]);
    // As long as the lane has no consumers, its messages are the base's.
    let mut sent = play.send(true, "6");
    sent.extend(play.send(false, "6"));
    only(&all(&base, &sent), &sent);
    play.along();

    let second = Client::start_writing(kind, encoding);
    // Each message of the lane fails once, and comes again to the lane.
    let gray = play.consumer(&second, true, &[("fail", "1")]);
    eventually("a consumer in the lane", PATIENCE, || {
        is_live(&play)
            .then_some(())
            .ok_or_else(|| "none".to_owned())
    });
    settle(&mut play, &base, &gray, &finback);
    let grays = play.send(true, "6");
    let bases = play.send(false, "6");
    only(&all(&base, &bases), &bases);
    let mut received = all(&gray, &grays);
    let again = |received: &[Received]| {
        let again = received.iter().filter(|own| own.tries > 0);
        again.filter(|own| grays.contains(&own.key)).count()
    };
    eventually("each once more", PATIENCE, || {
        received.extend(gray.receive_within(1, 300));
        match again(&received) >= grays.len() {
            true => Ok(()),
            false => Err(format!("{received:?}")),
        }
    });
    assert!(
        received.iter().all(|own| own.topic == play.topic),
        "{received:?}"
    );
    assert!(
        received.iter().all(|own| own.key.starts_with("gray-")),
        "{received:?}"
    );
    assert!(base.receive_within(1, 300).is_empty());

    // What is sent while nobody knows yet that the lane is gone, and later, comes to the base.
    match leaves {
        true => gray.close(),
        false => drop(second),
    }
    let lost = play.send(true, "6");
    let received = all(&base, &lost);
    // What comes a second time was handed back, and is counted before.
    let twice = received.iter().filter(|own| own.tries > 0).count() as u64;
    let counted = |outcome: &str| finback.metric("finback_lane_messages_total", outcome);
    assert!(counted("handed_back") >= twice, "{received:?}");
    assert_eq!([counted("refused"), counted("left_out")], [0, 0]);
    let later = play.send(true, "4");
    all(&base, &later);

    // A lane that comes back does not begin with what the base has consumed in its place.
    play.along();
    let third = Client::start_writing(kind, encoding);
    let gray = play.consumer(&third, true, &[]);
    let new = play.send(true, "4");
    let received = all(&gray, &new);
    let old: BTreeSet<_> = received.iter().map(|own| own.key.clone()).collect();
    assert!(
        old.is_disjoint(&lost) && old.is_disjoint(&later),
        "{received:?}"
    );
}

#[test]
fn messages_of_a_lane_are_its_consumers_as_long_as_it_has_some() {
    played(
        Kind::Java49,
        Encoding::Json,
        &[("tags", "red || blue")],
        false,
    );
}

#[test]
fn ordered_consumers_are_in_lanes_too() {
    let how = [("how", "orderly"), ("sql", "TAGS = 'red'")];
    played(Kind::Java55, Encoding::Binary, &how, true);
}

#[test]
fn consumers_by_pop_are_in_lanes_too() {
    let how = [("how", "pop"), ("tags", "red || blue")];
    played(Kind::Java55, Encoding::Json, &how, true);
}

#[test]
fn what_is_signed_is_signed_again_with_a_key_that_is_known() {
    let names = NameServer::start();
    let setup = Setup {
        more: GUARDED,
        ..Setup::default()
    };
    let _broker = Broker::start_with(&[&names], setup);
    let key = "administration: true, keys: [ { access_key: mesh, secret_key_file: secret } ],";
    let good = mesh(&names.address, key);
    let right = [("access", "mesh"), ("secret", "a-long-secret")];
    for (kind, encoding) in [
        (Kind::Java49, Encoding::Json),
        (Kind::Java55, Encoding::Json),
    ] {
        let client = Client::start_writing(kind, encoding);
        let [topic, group] = ["signed-lane"; 2].map(Stage::fresh);
        let at = |finback: &Finback, name: &str| finback.local(name);
        let [usual, canary] = ["base", "gray"]
            .map(|name| client.producer(&at(&good, name), &Stage::fresh("p"), &right));
        eventually("the topic", PATIENCE, || {
            let made = usual.try_ask("topic", &[("topic", &topic), ("queues", "1")]);
            made.map_err(|failure| format!("{failure:?}"))
        });
        let [base, gray] =
            ["base", "gray"].map(|name| client.consumer(&at(&good, name), &group, &topic, &right));
        let mut round = 0;
        let mut send = |by: &Handle<'_>, name: &str| {
            round += 1;
            let key = format!("{name}-{round}-");
            let sent = by.send(&topic, &[("key", &key), ("count", "3")]);
            stored(&sent);
            keys_of(&sent)
        };
        eventually("the lane's messages in the lane alone", PATIENCE, || {
            let sent = send(&canary, "gray");
            all(&gray, &sent);
            match base.receive_within(1, 500) {
                none if none.is_empty() => Ok(()),
                some => Err(format!("{some:?}")),
            }
        });
        let bases = send(&usual, "base");
        only(&all(&base, &bases), &bases);
        assert!(gray.receive_within(1, 500).is_empty());
        // Who does not know the secret is let through nowhere, though we know it.
        let wrong = [("access", "mesh"), ("secret", "another"), ("retries", "0")];
        let forger = client.producer(&at(&good, "gray"), &Stage::fresh("p"), &wrong);
        let forged = forger.send(&topic, &[("key", "forged"), ("count", "1")]);
        assert_eq!(forged[0].error["code"], 16, "{forged:?}");
        // Where the key is not known nothing is changed, and what would have to be is refused.
        let unknown = mesh(&names.address, "");
        let refused = client.producer(&at(&unknown, "gray"), &Stage::fresh("p"), &right);
        let sent = refused.send(&topic, &[("key", "unknown"), ("count", "1")]);
        assert_eq!(sent[0].error["code"], 16, "{sent:?}");
        let plain = client.producer(&at(&unknown, "base"), &Stage::fresh("p"), &right);
        stored(&plain.send(&topic, &[("key", "plain"), ("count", "1")]));
    }
}
