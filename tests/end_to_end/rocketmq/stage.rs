//! Where a scenario plays: a client, the address that it dials, and the broker behind it.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::rocketmq::{Broker, NameServer, Proxy, Release, Setup};
use crate::support::rocketmq_clients::{Client, Handle, Kind, Received, Sent};

/// A name server and a broker that scenarios share; each has topics and groups of its own.
pub(crate) struct Cluster {
    /// The name server.
    pub(crate) names: NameServer,
    /// The broker.
    pub(crate) broker: Broker,
    proxy: OnceLock<Proxy>,
}

/// Where a scenario plays.
#[derive(Clone, Copy)]
pub(crate) struct Stage<'a> {
    /// What the client dials: a name server, RocketMQ's proxy for gRPC, or what stands before them.
    pub(crate) address: &'a str,
    /// Who has the topics.
    pub(crate) broker: &'a Broker,
    /// Who plays.
    pub(crate) client: &'a Client,
}

/// What a scenario came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What must be the same however the client reached the broker.
    pub(crate) same: Value,
    /// How long things took, in milliseconds.
    pub(crate) millis: BTreeMap<&'static str, u64>,
}

/// A scenario.
pub(crate) type Scenario = fn(Stage<'_>) -> Outcome;

impl Cluster {
    fn start(release: Release) -> Self {
        let names = NameServer::start_release(release);
        let setup = Setup {
            release,
            ..Setup::default()
        };
        let broker = Broker::start_with(&[&names], setup);
        Self {
            names,
            broker,
            proxy: OnceLock::new(),
        }
    }

    /// That of 5.5.0, started by the first test that wants it.
    pub(crate) fn v55() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| Self::start(Release::V55))
    }

    /// That of 5.3.3.
    pub(crate) fn v53() -> &'static Self {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(|| Self::start(Release::V53))
    }

    /// RocketMQ's own proxy in front of it.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.get_or_init(|| Proxy::start(&self.names))
    }

    /// The stage on which a client is connected directly.
    pub(crate) fn direct<'a>(&'a self, client: &'a Client) -> Stage<'a> {
        let address = match client.kind {
            Kind::Grpc => &self.proxy().grpc,
            _ => &self.names.address,
        };
        Stage {
            address,
            broker: &self.broker,
            client,
        }
    }
}

impl<'a> Stage<'a> {
    /// A name that nobody else uses, which begins with this.
    pub(crate) fn fresh(name: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// A new topic with so many queues.
    pub(crate) fn topic(&self, name: &str, queues: u32) -> String {
        let topic = Self::fresh(name);
        self.broker.topic(&topic, queues);
        topic
    }

    /// A new group.
    pub(crate) fn group(&self, name: &str) -> String {
        let group = Self::fresh(name);
        self.broker.group(&group);
        group
    }

    /// A producer; the one for gRPC wants to know the topic.
    pub(crate) fn producer(&self, topic: &str, options: &[(&str, &str)]) -> Handle<'a> {
        let options = [&[("topic", topic)], options].concat();
        let group = Self::fresh("producers");
        self.client.producer(self.address, &group, &options)
    }

    /// A consumer of a group.
    pub(crate) fn consumer(
        &self,
        group: &str,
        topic: &str,
        options: &[(&str, &str)],
    ) -> Handle<'a> {
        self.client.consumer(self.address, group, topic, options)
    }

    /// Plays all of these at the same time: most of what they do is wait.
    pub(crate) fn play(
        self,
        scenarios: &[(&'static str, Scenario)],
    ) -> BTreeMap<&'static str, Outcome> {
        thread::scope(|scope| {
            let playing: Vec<_> = scenarios
                .iter()
                .map(|(name, scenario)| (*name, scope.spawn(move || scenario(self))))
                .collect();
            let over = playing.into_iter();
            over.map(|(name, playing)| {
                let outcome = playing
                    .join()
                    .unwrap_or_else(|_| panic!("{:?}: {name} failed", self.client.kind));
                (name, outcome)
            })
            .collect()
        })
    }
}

impl Outcome {
    /// An outcome without times.
    pub(crate) fn of(same: Value) -> Self {
        Self {
            same,
            millis: BTreeMap::new(),
        }
    }

    /// The same with a time.
    pub(crate) fn took(mut self, what: &'static str, millis: u64) -> Self {
        self.millis.insert(what, millis);
        self
    }
}

/// Asserts that each of these was stored.
pub(crate) fn stored(sent: &[Sent]) {
    for own in sent {
        assert!(
            own.error.is_null() && matches!(own.status.as_str(), "SEND_OK" | "ONE_WAY"),
            "{own:?}"
        );
    }
}

/// Asserts that each message that was sent has been received once, whole, and from where it was
/// said to be stored.
pub(crate) fn all_arrived(sent: &[Sent], received: &[Received]) {
    let mut keys: Vec<_> = received.iter().map(|own| &own.key).collect();
    let mut wanted: Vec<_> = sent.iter().map(|own| &own.key).collect();
    keys.sort();
    wanted.sort();
    assert_eq!(keys, wanted);
    for own in sent {
        let got = received.iter().find(|got| got.key == own.key).unwrap();
        assert_eq!(got.hash, own.hash, "{}", own.key);
        if let (Some((_, queue, offset)), Some(place)) = (&own.place, got.place) {
            assert_eq!((*queue, *offset), place, "{}", own.key);
        }
    }
}

/// What is the same of messages wherever they were stored, by key.
pub(crate) fn summary(received: &[Received]) -> Value {
    let by_key: BTreeMap<String, Value> = received
        .iter()
        .map(|own| {
            let key = format!("{} {}", own.key, own.tries);
            (key, json!([own.hash, own.tag, own.properties]))
        })
        .collect();
    json!(by_key)
}
