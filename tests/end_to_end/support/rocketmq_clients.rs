//! RocketMQ's own clients, driven over their standard input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::java;
use super::peer::{Answer, Peer, built};
use super::process::Process;
use super::rocketmq::OPENS;
use super::temporary_folder;

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Java 4.4.0 on remoting, which prefers the VIP channel.
    Java44,
    /// Java 4.9.8 on remoting.
    Java49,
    /// Java 5.5.0 on remoting.
    Java55,
    /// Java 5.2.0 on gRPC.
    Grpc,
    /// npm's ali-ons 3.12.0.
    Node,
    /// rocketmq-client-go v2.
    Go,
}

/// How a Java client on remoting writes its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON, the default.
    Json,
    /// In the binary form that is called ROCKETMQ.
    Binary,
}

/// A process with one of the clients, which may hold many producers and consumers.
pub(crate) struct Client {
    /// Which client it is.
    pub(crate) kind: Kind,
    home: PathBuf,
    peer: Peer,
}

/// A producer or a consumer in a client.
pub(crate) struct Handle<'a> {
    client: &'a Client,
    name: String,
}

/// What came of sending one message.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Its key.
    pub(crate) key: String,
    /// What its body hashes to.
    pub(crate) hash: String,
    /// Where it was stored: broker, queue and offset, as far as the client tells.
    pub(crate) place: Option<(String, u64, u64)>,
    /// `SEND_OK`, `ONE_WAY`, or empty where it failed.
    pub(crate) status: String,
    /// How it failed: `class`, `message` and `code`; null if it did not.
    pub(crate) error: Value,
    /// How long it took.
    pub(crate) millis: u64,
    /// All that was said, such as `state` of a transaction, `reply` to a request, `id` and `stored`.
    pub(crate) all: Value,
}

/// A message that a consumer was given.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Its key.
    pub(crate) key: String,
    /// Its topic, as its client sees it.
    pub(crate) topic: String,
    /// Its tag.
    pub(crate) tag: Option<String>,
    /// What its body hashes to.
    pub(crate) hash: String,
    /// Where it was stored: queue and offset; gRPC does not tell.
    pub(crate) place: Option<(u64, u64)>,
    /// How often it had been refused before.
    pub(crate) tries: u64,
    /// The properties that its producer set.
    pub(crate) properties: BTreeMap<String, String>,
    /// When it came, in milliseconds since the consumer was asked for.
    pub(crate) millis: u64,
    /// How long it was on its way, in milliseconds by the wall clock.
    pub(crate) age: u64,
}

impl Client {
    /// Starts one that writes JSON.
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_writing(kind, Encoding::Json)
    }

    /// The same with this encoding.
    pub(crate) fn start_writing(kind: Kind, encoding: Encoding) -> Self {
        let home = temporary_folder();
        let peer = match kind {
            Kind::Java44 => java("client44", encoding, &home),
            Kind::Java49 => java("client49", encoding, &home),
            Kind::Java55 => java("server55", encoding, &home),
            Kind::Grpc => java("grpc", encoding, &home),
            Kind::Node => {
                let script = built("rocketmq/node/rocketmq.js");
                let mut command = Command::new("node");
                // It keeps the offsets of broadcasting at home.
                command.arg(script).env("HOME", &home);
                Peer::start("ali-ons", &mut command)
            }
            Kind::Go => {
                let mut command = Command::new(built("rocketmq/go"));
                command.env("HOME", &home);
                Peer::start("rocketmq-client-go", &mut command)
            }
        };
        Self { kind, home, peer }
    }

    /// What it has written into a file of its home; "" if there is none yet.
    pub(crate) fn log(&self, file: &str) -> String {
        std::fs::read_to_string(self.home.join(file)).unwrap_or_default()
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.peer.process()
    }

    /// Opens a producer of this group by this address of a name server (gRPC: of a proxy).
    pub(crate) fn producer(
        &self,
        names: &str,
        group: &str,
        options: &[(&str, &str)],
    ) -> Handle<'_> {
        self.open("producer", names, group, options)
    }

    /// Opens a consumer of this group for a topic.
    pub(crate) fn consumer(
        &self,
        names: &str,
        group: &str,
        topic: &str,
        options: &[(&str, &str)],
    ) -> Handle<'_> {
        let options = [&[("topic", topic)], options].concat();
        self.open("consumer", names, group, &options)
    }

    fn open(&self, what: &str, names: &str, group: &str, options: &[(&str, &str)]) -> Handle<'_> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("{what}-{count}");
        // A client that lost the race of its first heartbeat with its first rebalance is told
        // SUBSCRIPTION_NOT_LATEST (25) until the next: after a second, not after thirty.
        let fields = [
            ("name", name.as_str()),
            ("names", names),
            ("group", group),
            ("heartbeat", "1000"),
            ("poll", "1000"),
            // The usual three seconds are little on a machine that starts many of them at once.
            ("timeout", "15000"),
        ];
        // What the caller says comes last and wins.
        self.ask(what, &[&fields, options].concat());
        Handle { client: self, name }
    }

    /// Gives a command.
    pub(crate) fn try_ask(&self, operation: &str, fields: &[(&str, &str)]) -> Answer {
        self.peer.ask(operation, fields)
    }

    /// Gives a command, which must succeed.
    pub(crate) fn ask(&self, operation: &str, fields: &[(&str, &str)]) -> Value {
        self.peer.ask(operation, fields).unwrap_or_else(|failure| {
            let tail = self.peer.process().tail();
            panic!(
                "{:?} {operation} {fields:?}: {failure:?}\n{tail}",
                self.kind
            )
        })
    }
}

impl Handle<'_> {
    /// Gives a command to it.
    pub(crate) fn try_ask(&self, operation: &str, fields: &[(&str, &str)]) -> Answer {
        let fields = [&[("name", self.name.as_str())], fields].concat();
        self.client.peer.ask(operation, &fields)
    }

    /// Gives a command to it, which must succeed.
    pub(crate) fn ask(&self, operation: &str, fields: &[(&str, &str)]) -> Value {
        let fields = [&[("name", self.name.as_str())], fields].concat();
        self.client.ask(operation, &fields)
    }

    /// Sends to a topic: `how` (`sync`, `async`, `one-way`, `batch`, `queue` with `queue`,
    /// `transaction`, `request`), `count`, `key` (a number is added), `size`, `tag`, `delay`, and
    /// properties as `@name`.
    pub(crate) fn send(&self, topic: &str, fields: &[(&str, &str)]) -> Vec<Sent> {
        let fields = [&[("topic", topic)], fields].concat();
        let answer = self.ask("send", &fields);
        answer.as_array().unwrap().iter().map(Sent::of).collect()
    }

    /// Waits for so many messages, for at most half a minute, and takes what has come.
    pub(crate) fn receive(&self, count: usize) -> Vec<Received> {
        self.receive_within(count, 30_000)
    }

    /// The same for at most this many milliseconds, which are less than a peer's patience.
    pub(crate) fn receive_within(&self, count: usize, millis: u32) -> Vec<Received> {
        let fields = [("count", count.to_string()), ("wait", millis.to_string())];
        let fields = fields
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let answer = self.ask("received", &fields);
        let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().map(Received::of).collect()
    }

    /// Shuts it down in good order.
    pub(crate) fn close(self) {
        self.ask("close", &[]);
    }
}

impl Sent {
    fn of(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let place = value["offset"]
            .as_u64()
            .zip(value["queue"].as_u64())
            .map(|(offset, queue)| (text("broker"), queue, offset));
        Self {
            key: text("key"),
            hash: text("hash"),
            place,
            status: text("status"),
            error: value["error"].clone(),
            millis: value["ms"].as_u64().unwrap_or_default(),
            all: value.clone(),
        }
    }
}

impl Received {
    fn of(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| value[name].as_u64().unwrap_or_default();
        let properties = value["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, own)| (name.clone(), own.as_str().unwrap_or_default().to_owned()))
            .collect();
        Self {
            key: text("key"),
            topic: text("topic"),
            tag: Some(text("tag")).filter(|tag| !tag.is_empty()),
            hash: text("hash"),
            place: value["queue"].as_u64().zip(value["offset"].as_u64()),
            tries: number("tries"),
            properties,
            millis: number("ms"),
            age: number("at").saturating_sub(number("born")),
        }
    }
}

fn java(module: &str, encoding: Encoding, own: &Path) -> Peer {
    let home = built(&format!("rocketmq/{module}"));
    let mut command = java::java();
    command
        .arg("-Xmx192m")
        .args(OPENS)
        // Logs, and the offsets of broadcasting, go below.
        .arg(format!("-Duser.home={}", own.display()))
        .arg(format!(
            "-Drocketmq.client.localOffsetStoreDir={}",
            own.display()
        ))
        .arg("-Drocketmq.client.logUseSlf4j=true")
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    if encoding == Encoding::Binary {
        command.arg("-Drocketmq.serialize.type=ROCKETMQ");
    }
    let home = home.display();
    command
        .arg("-cp")
        .arg(format!("{home}/classes:{home}/lib/*"))
        .arg("com.acme.rocketmq.Main");
    let _turn = java::Turn::take();
    Peer::start(module, &mut command)
}
