//! Real RocketMQ servers of the tests' own: name servers, brokers and its proxy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::java;
use super::peer::built;
use super::process::Process;
use super::remoting;
use super::{eventually, free_port, free_ports, temporary_folder};

/// How long a server may take to start, also on a busy machine.
const START: Duration = Duration::from_secs(90);

/// UPDATE_AND_CREATE_TOPIC, UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, GET_ROUTEINFO_BY_TOPIC,
/// SET_MESSAGE_REQUEST_MODE: RequestCode.java.
const CREATE_TOPIC: i64 = 17;
const CREATE_GROUP: i64 = 200;
const ROUTE: i64 = 105;
const REQUEST_MODE: i64 = 401;

/// Which release of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// 5.3.3.
    V53,
    /// 5.5.0.
    V55,
}

impl Release {
    /// The folder with its jars.
    fn library(self) -> PathBuf {
        built(match self {
            Self::V53 => "rocketmq/server53/lib",
            Self::V55 => "rocketmq/server55/lib",
        })
    }
}

/// A running name server; dropping it kills it.
pub(crate) struct NameServer {
    /// Its address.
    pub(crate) address: String,
    release: Release,
    folder: PathBuf,
    jvm: Vec<String>,
    process: Option<Process>,
}

/// How a broker is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Its release.
    pub(crate) release: Release,
    /// Its cluster's name.
    pub(crate) cluster: &'a str,
    /// Its name, which a master and its slaves share.
    pub(crate) name: &'a str,
    /// 0 for a master.
    pub(crate) id: u32,
    /// More lines of `broker.conf`.
    pub(crate) more: &'a str,
    /// More arguments for its JVM.
    pub(crate) jvm: &'a [String],
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self {
            release: Release::V55,
            cluster: "c1",
            name: "b1",
            id: 0,
            more: "",
            jvm: &[],
        }
    }
}

/// A running broker; dropping it kills it.
pub(crate) struct Broker {
    /// Its address; its VIP channel is two ports below.
    pub(crate) address: String,
    names: Vec<String>,
    release: Release,
    folder: PathBuf,
    jvm: Vec<String>,
    process: Option<Process>,
}

/// A running proxy of RocketMQ 5.3.3; dropping it kills it.
pub(crate) struct Proxy {
    /// Where it speaks gRPC.
    pub(crate) grpc: String,
    _process: Process,
}

impl NameServer {
    /// Starts one of 5.5.0 and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_release(Release::V55)
    }

    /// The same of another release.
    pub(crate) fn start_release(release: Release) -> Self {
        Self::start_in(release, &[])
    }

    /// The same with these arguments for its JVM.
    pub(crate) fn start_in(release: Release, jvm: &[String]) -> Self {
        let (port, folder) = (free_port(), temporary_folder());
        let f = folder.display();
        let config = format!(
            "listenPort={port}\nbindAddress=127.0.0.1\nrocketmqHome={f}\nkvConfigPath={f}/kv.json\n"
        );
        std::fs::write(folder.join("server.conf"), config).unwrap();
        let mut server = Self {
            address: format!("127.0.0.1:{port}"),
            release,
            folder,
            jvm: jvm.to_vec(),
            process: None,
        };
        server.restart();
        server
    }

    /// Kills it without a word.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Has its next process have other arguments for its JVM.
    pub(crate) fn set_jvm(&mut self, jvm: &[String]) {
        self.jvm = jvm.to_vec();
    }

    /// Starts it (again) on the same port, and waits until it serves; brokers have to register again.
    pub(crate) fn restart(&mut self) {
        let mut command = java(self.release, &self.folder, [32, 64, 32]);
        command
            .args(&self.jvm)
            .arg("org.apache.rocketmq.namesrv.NamesrvStartup")
            .arg("-c")
            .arg(self.folder.join("server.conf"));
        self.process = Some(ready("name server", &mut command, "boot success"));
    }

    /// What it says of a topic's brokers; `None` if it knows none.
    pub(crate) fn route(&self, topic: &str) -> Option<Value> {
        route(&self.address, topic)
    }
}

impl Broker {
    /// Starts a master `b1` of cluster `c1` of 5.5.0 with a fresh store, and waits until it serves.
    pub(crate) fn start(names: &NameServer) -> Self {
        Self::start_with(&[names], Setup::default())
    }

    /// The same, set up otherwise.
    pub(crate) fn start_with(names: &[&NameServer], setup: Setup<'_>) -> Self {
        let (port, folder) = (three_ports(), temporary_folder());
        let names: Vec<String> = names.iter().map(|own| own.address.clone()).collect();
        std::fs::write(
            folder.join("server.conf"),
            configuration(port, &folder, &names, setup),
        )
        .unwrap();
        let mut broker = Self {
            address: format!("127.0.0.1:{port}"),
            names,
            release: setup.release,
            folder,
            jvm: setup.jvm.to_vec(),
            process: None,
        };
        broker.restart();
        broker
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Kills it without a word; its store stays.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Has it shut down in good order, which unregisters it, and waits for its end.
    pub(crate) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal("TERM");
            process.wait_for_end(Duration::from_secs(30));
        }
    }

    /// Starts it (again) on the same ports with the same store, and waits until it is registered.
    pub(crate) fn restart(&mut self) {
        // Each thread that writes takes 4 MB outside of the heap: with 128 MB, POP and checks of
        // transactions fail for want of it, and nobody is told.
        let mut command = java(self.release, &self.folder, [128, 256, 512]);
        command
            .args(&self.jvm)
            .arg("org.apache.rocketmq.broker.BrokerStartup")
            .arg("-c")
            .arg(self.folder.join("server.conf"));
        let process = ready("broker", &mut command, "boot success");
        for names in &self.names {
            eventually("the broker in the name server", START, || {
                let known = route(names, "SELF_TEST_TOPIC").map(|own| own.to_string());
                match known {
                    Some(text) if self.is_in(&text) => Ok(()),
                    other => Err(format!("{other:?}\n{}", process.tail())),
                }
            });
        }
        self.process = Some(process);
    }

    /// Whether a route tells of it, by its address or by its host's name.
    fn is_in(&self, route: &str) -> bool {
        let port = self.address.trim_start_matches(|char| char != ':');
        route.contains(&format!("{port}\""))
    }

    /// Creates a topic with so many queues, and waits until every name server knows it: a client that
    /// looks for one which is not there yet waits for up to half a minute.
    pub(crate) fn topic(&self, name: &str, queues: u32) {
        let queues = queues.to_string();
        let fields = [
            ("topic", name),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", &queues),
            ("writeQueueNums", &queues),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
        ];
        self.succeed(CREATE_TOPIC, &fields, b"");
        for names in &self.names {
            eventually("the topic's route", Duration::from_secs(20), || {
                let found = route(names, name).ok_or("none")?;
                let brokers = found["brokerDatas"].to_string();
                if self.is_in(&brokers) {
                    Ok(())
                } else {
                    Err(brokers)
                }
            });
        }
    }

    /// Creates a consumer group and the topic that its refused messages go to: a consumer that finds
    /// that topic later only looks at it at its next rebalance, up to twenty seconds later.
    pub(crate) fn group(&self, name: &str) {
        let body = json!({
            "groupName": name, "consumeEnable": true, "consumeFromMinEnable": true, "retryQueueNums": 1,
            "retryMaxTimes": 16, "brokerId": 0, "whichBrokerWhenConsumeSlowly": 1,
        });
        self.succeed(CREATE_GROUP, &[], body.to_string().as_bytes());
        self.topic(&format!("%RETRY%{name}"), 1);
    }

    /// Has a group consume a topic by POP, which its 5.x consumers follow.
    pub(crate) fn pop(&self, topic: &str, group: &str) {
        let body = json!({
            "topic": topic, "consumerGroup": group, "mode": "POP", "popShareQueueNum": 0,
        });
        self.succeed(REQUEST_MODE, &[], body.to_string().as_bytes());
    }

    fn succeed(&self, code: i64, fields: &[(&str, &str)], body: &[u8]) {
        let reply = remoting::ask(&self.address, code, fields, body).unwrap();
        assert_eq!(reply.code, 0, "{code}: {}", reply.remark);
    }
}

impl Proxy {
    /// Starts one of 5.3.3 in front of the cluster `c1` and waits until it serves.
    pub(crate) fn start(names: &NameServer) -> Self {
        let (grpc, remoting, folder) = (free_port(), free_port(), temporary_folder());
        let config = json!({
            "rocketMQClusterName": "c1", "namesrvAddr": names.address, "proxyMode": "CLUSTER",
            "grpcServerPort": grpc, "remotingListenPort": remoting, "enableTopicMessageTypeCheck": false,
            // Else it tells clients its own port, and they go past whoever stands before it.
            "useEndpointPortFromRequest": true,
            // Brokers ask it about transactions only once it has told them of its producers.
            "transactionHeartbeatPeriodSecond": 1,
        });
        let path = folder.join("proxy.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = java(Release::V53, &folder, [64, 192, 256]);
        command
            .env("RMQ_PROXY_HOME", &folder)
            .arg("org.apache.rocketmq.proxy.ProxyStartup")
            .arg("-pc")
            .arg(path)
            .args(["-pm", "cluster", "-n", &names.address]);
        Self {
            grpc: format!("127.0.0.1:{grpc}"),
            _process: ready("proxy", &mut command, "startup successfully"),
        }
    }
}

/// A broker listens at this port, two below (VIP channel) and one above (replication).
fn three_ports() -> u16 {
    free_ports(4) + 2
}

/// Small files, checks of transactions within seconds instead of a minute, and patience with a busy machine.
fn configuration(port: u16, folder: &Path, names: &[String], setup: Setup<'_>) -> String {
    let role = if setup.id == 0 {
        "ASYNC_MASTER"
    } else {
        "SLAVE"
    };
    format!(
        "brokerClusterName={cluster}\nbrokerName={name}\nbrokerId={id}\nbrokerRole={role}\n\
         brokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort={port}\nhaListenPort={ha}\n\
         namesrvAddr={names}\nrocketmqHome={f}\n\
         storePathRootDir={f}/store\nstorePathCommitLog={f}/store/commitlog\n\
         mappedFileSizeCommitLog=16777216\nmappedFileSizeConsumeQueue=600000\n\
         maxIndexNum=40000\nmaxHashSlotNum=10000\ndiskMaxUsedSpaceRatio=99\n\
         autoCreateTopicEnable=true\nenablePropertyFilter=true\nflushDiskType=ASYNC_FLUSH\n\
         traceTopicEnable=true\nwaitTimeMillsInSendQueue=5000\n\
         transactionCheckInterval=3000\ntransactionTimeOut=3000\n{more}\n",
        cluster = setup.cluster,
        name = setup.name,
        id = setup.id,
        ha = port + 1,
        names = names.join(";"),
        f = folder.display(),
        more = setup.more,
    )
}

fn route(names: &str, topic: &str) -> Option<Value> {
    let fields = [("topic", topic), ("acceptStandardJsonOnly", "true")];
    let reply = remoting::ask(names, ROUTE, &fields, b"").ok()?;
    (reply.code == 0).then(|| serde_json::from_slice(&reply.body).unwrap())
}

/// A JVM with these MB of heap at first, at most, and outside of it.
fn java(release: Release, folder: &Path, megabytes: [u32; 3]) -> Command {
    let [first, most, direct] = megabytes;
    let mut command = java::java();
    command
        .env("ROCKETMQ_HOME", folder)
        .arg(format!("-Xms{first}m"))
        .arg(format!("-Xmx{most}m"))
        .arg(format!("-XX:MaxDirectMemorySize={direct}m"))
        .args(OPENS)
        // Logs go below.
        .arg(format!("-Duser.home={}", folder.display()))
        .arg("-cp")
        .arg(format!("{}/*", release.library().display()));
    command
}

/// What RocketMQ reaches into Java for.
pub(crate) const OPENS: [&str; 8] = [
    "--add-opens",
    "java.base/java.nio=ALL-UNNAMED",
    "--add-opens",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.lang=ALL-UNNAMED",
    "--add-exports",
    "java.base/jdk.internal.ref=ALL-UNNAMED",
];

/// Starts a server and waits until it says that it is ready. On a busy machine some give up over time-outs of their
/// own: they are started again.
fn ready(name: &str, command: &mut Command, says: &str) -> Process {
    let _turn = java::Turn::take();
    for _ in 0..2 {
        let process = Process::start(name, command);
        let is_ready = process.try_wait_for(START, 0, |line| line.contains(says).then_some(()));
        if is_ready.is_some() {
            return process;
        }
    }
    let process = Process::start(name, command);
    process.wait_for(says, START, 0, |line| line.contains(says).then_some(()));
    process
}
