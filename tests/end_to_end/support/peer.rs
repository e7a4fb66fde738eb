//! Third-party clients and servers, driven over their standard input.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::java::{Turn, java};
use super::process::Process;

/// Longer than any single thing a test asks of a peer.
const PATIENCE: Duration = Duration::from_secs(40);

/// How the peer's framework failed a call.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exception's class.
    pub(crate) class: String,
    /// Its message, and those of its causes.
    pub(crate) text: String,
    /// What the framework sorts it by.
    pub(crate) code: Value,
}

/// What a peer made of a command.
pub(crate) type Answer = Result<Value, Failure>;

/// One running peer.
pub(crate) struct Peer {
    process: Process,
    stdin: Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, Sender<Answer>>>>,
    next: AtomicU64,
}

/// An answer that has yet to come.
pub(crate) struct Pending<'a> {
    peer: &'a Peer,
    operation: String,
    answer: Receiver<Answer>,
}

/// A peer with the fields that several calls share.
#[derive(Clone)]
pub(crate) struct Caller<'a> {
    peer: &'a Peer,
    fields: Vec<(String, String)>,
}

/// What came of calling for a while.
#[derive(Debug)]
pub(crate) struct Load {
    /// Calls with the right answer.
    pub(crate) right: u64,
    /// Calls with somebody else's answer.
    pub(crate) wrong: u64,
    /// Failures by text.
    pub(crate) errors: HashMap<String, u64>,
    /// Answers by instance.
    pub(crate) who: HashMap<String, u64>,
}

impl Peer {
    /// SOFA-RPC for Java.
    pub(crate) fn sofa() -> Self {
        Self::java("sofa", "com.acme.sofa.Main")
    }

    /// The same, whose SOFATracer writes its logs here.
    pub(crate) fn sofa_logging(folder: &Path) -> Self {
        let folder = folder.display();
        let properties = ["logging.path", "loggingRoot"].map(|name| format!("-D{name}={folder}"));
        let properties = properties.each_ref().map(String::as_str);
        Self::java_with("sofa", "com.acme.sofa.Main", &properties)
    }

    /// SOFA-RPC or Dubbo 3 for Java with OpenTelemetry's agent, which calls it `name` and exports to
    /// this collector by HTTP.
    pub(crate) fn instrumented(module: &str, name: &str, collector: &str) -> Self {
        let agent = built("otel/opentelemetry-javaagent-2.33.1.jar");
        let mut properties = vec![format!("-javaagent:{}", agent.display())];
        properties.extend(
            [
                ("service.name", name),
                ("exporter.otlp.endpoint", collector),
                ("exporter.otlp.protocol", "http/protobuf"),
                ("bsp.schedule.delay", "200"),
                ("metrics.exporter", "none"),
                ("logs.exporter", "none"),
                ("javaagent.logging", "none"),
            ]
            .map(|(key, value)| format!("-Dotel.{key}={value}")),
        );
        let main = match module {
            "sofa" => "com.acme.sofa.Main",
            _ => "com.acme.dubbo.Main",
        };
        let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
        Self::java_with(module, main, &properties)
    }

    /// Dubbo 3 for Java.
    pub(crate) fn dubbo3() -> Self {
        Self::java("dubbo3", "com.acme.dubbo.Main")
    }

    /// Dubbo 2.7 for Java.
    pub(crate) fn dubbo2() -> Self {
        Self::java("dubbo2", "com.acme.dubbo.Main")
    }

    /// The registry clients of Java frameworks.
    pub(crate) fn registry() -> Self {
        Self::java("registry", "com.acme.registry.Main")
    }

    /// The Go libraries.
    pub(crate) fn go() -> Self {
        Self::start("go", &mut Command::new(built("go/peer")))
    }

    /// The npm libraries.
    pub(crate) fn node() -> Self {
        let script = built("node/peer.js");
        Self::start("node", Command::new("node").arg(script))
    }

    /// Node's own http and http2, and npm's ws.
    pub(crate) fn web() -> Self {
        let script = built("node/web.js");
        Self::start("web", Command::new("node").arg(script))
    }

    /// npm's mqtt and mqtt-packet.
    pub(crate) fn mqtt() -> Self {
        let script = built("node/mqtt.js");
        Self::start("mqtt", Command::new("node").arg(script))
    }

    /// npm's kafkajs.
    pub(crate) fn kafka() -> Self {
        let script = built("node/kafka.js");
        Self::start("kafka", Command::new("node").arg(script))
    }

    /// HiveMQ's and Paho's clients for Java.
    pub(crate) fn mqtt_java() -> Self {
        Self::java("mqtt", "com.acme.mqtt.Main")
    }

    /// Sentinel's own token server.
    pub(crate) fn sentinel() -> Self {
        let folder = super::temporary_folder();
        let logs = format!("-Dcsp.sentinel.log.dir={}", folder.display());
        let name = "-Dproject.name=token-server";
        Self::java_with("sentinel", "com.acme.sentinel.Main", &[&logs, name])
    }

    /// A consumer of Dubbo 3 that reads rules of this ZooKeeper from its first reference on.
    pub(crate) fn dubbo3_governed(zookeeper: &str) -> Self {
        let centre = format!("-Ddubbo.config-center.address=zookeeper://{zookeeper}");
        Self::java_with("dubbo3", "com.acme.dubbo.Main", &[&centre])
    }

    fn java(module: &str, main: &str) -> Self {
        Self::java_with(module, main, &[])
    }

    fn java_with(module: &str, main: &str, properties: &[&str]) -> Self {
        let home = built(&format!("java/{module}"));
        let mut command = java();
        command.arg("-Xmx256m");
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        command.arg("-Ddubbo.application.logger=slf4j");
        command.args(properties);
        for package in [
            "java.lang",
            "java.util",
            "java.util.concurrent",
            "java.math",
            "java.time",
            "java.net",
            "java.io",
            "java.text",
        ] {
            command
                .arg("--add-opens")
                .arg(format!("java.base/{package}=ALL-UNNAMED"));
        }
        let home = home.display();
        command
            .arg("-cp")
            .arg(format!("{home}/classes:{home}/lib/*"))
            .arg(main);
        let _turn = Turn::take();
        Self::start(module, &mut command)
    }

    /// One that this command runs.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let waiting = Arc::<Mutex<HashMap<u64, Sender<Answer>>>>::default();
        let (ready, started) = channel();
        waiting.lock().unwrap().insert(0, ready);
        let answered = Arc::clone(&waiting);
        let (process, stdin) = Process::converse(name, command, move |line| {
            // Whatever else a framework prints is only kept.
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                return;
            };
            let Some(id) = value["id"].as_u64() else {
                return;
            };
            if let Some(sender) = answered.lock().unwrap().remove(&id) {
                // A test that failed meanwhile does not wait any more.
                let _ = sender.send(answer(&value));
            }
        });
        let peer = Self {
            process,
            stdin: Mutex::new(stdin),
            waiting,
            next: AtomicU64::new(1),
        };
        Pending {
            peer: &peer,
            operation: "start".into(),
            answer: started,
        }
        .wait()
        .unwrap();
        peer
    }

    /// Gives a command and waits for its answer.
    pub(crate) fn ask(&self, operation: &str, fields: &[(&str, &str)]) -> Answer {
        self.begin(operation, fields).wait()
    }

    /// Gives a command.
    pub(crate) fn begin(&self, operation: &str, fields: &[(&str, &str)]) -> Pending<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = channel();
        self.waiting.lock().unwrap().insert(id, sender);
        let mut line = format!("{id}\t{operation}");
        for (key, value) in fields {
            assert!(
                !value.contains(['\t', '\n']),
                "{key} cannot be told in one line"
            );
            line.push_str(&format!("\t{key}={value}"));
        }
        line.push('\n');
        let sent = self.stdin.lock().unwrap().write_all(line.as_bytes());
        assert!(sent.is_ok(), "the peer is gone\n{}", self.process.tail());
        Pending {
            peer: self,
            operation: line.trim().to_owned(),
            answer,
        }
    }

    /// Has it offer a service; panics if it cannot.
    pub(crate) fn export(&self, fields: &[(&str, &str)]) {
        self.ask("export", fields)
            .unwrap_or_else(|failure| panic!("{failure:?}\n{}", self.process.tail()));
    }

    /// Calls with these fields in common.
    pub(crate) fn caller(&self, fields: &[(&str, &str)]) -> Caller<'_> {
        let fields = fields
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        Caller { peer: self, fields }
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

impl Pending<'_> {
    /// Waits for the answer; panics if none comes.
    pub(crate) fn wait(self) -> Answer {
        self.answer.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!(
                "no answer to {:?}\n{}",
                self.operation,
                self.peer.process.tail()
            )
        })
    }
}

impl<'a> Caller<'a> {
    /// The same with another field.
    pub(crate) fn with(&self, key: &str, value: &str) -> Self {
        let mut fields = self.fields.clone();
        fields.push((key.into(), value.into()));
        Self {
            peer: self.peer,
            fields,
        }
    }

    /// Calls a method.
    pub(crate) fn call(&self, method: &str, argument: &str) -> Answer {
        self.begin(method, argument).wait()
    }

    /// Calls a method and does not wait.
    pub(crate) fn begin(&self, method: &str, argument: &str) -> Pending<'a> {
        self.with("method", method)
            .with("arg", argument)
            .start("call")
    }

    /// Another operation with these fields.
    pub(crate) fn ask(&self, operation: &str) -> Answer {
        self.start(operation).wait()
    }

    /// Another operation, without waiting.
    pub(crate) fn start(&self, operation: &str) -> Pending<'a> {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        self.peer.begin(operation, &fields)
    }

    /// Calls from several threads for so long.
    pub(crate) fn load(&self, millis: u64) -> Pending<'a> {
        self.with("millis", &millis.to_string()).start("load")
    }
}

impl Load {
    /// Reads what a load came to.
    pub(crate) fn of(pending: Pending<'_>) -> Self {
        let value = pending.wait().unwrap();
        let table = |key: &str| {
            let table = value[key].as_object().unwrap();
            table
                .iter()
                .map(|(key, count)| (key.clone(), count.as_u64().unwrap()))
                .collect()
        };
        Self {
            right: value["right"].as_u64().unwrap(),
            wrong: value["wrong"].as_u64().unwrap(),
            errors: table("errors"),
            who: table("who"),
        }
    }
}

fn answer(value: &Value) -> Answer {
    if value["ok"] == true {
        return Ok(value["value"].clone());
    }
    let error = &value["error"];
    let mut text = error["message"].as_str().unwrap_or_default().to_owned();
    for cause in error["causes"].as_array().into_iter().flatten() {
        text.push('\n');
        text.push_str(cause.as_str().unwrap_or_default());
    }
    let class = error["class"].as_str().unwrap_or_default().to_owned();
    Err(Failure {
        class,
        text,
        code: error["code"].clone(),
    })
}

/// A part of what `make peers` builds.
pub(crate) fn built(part: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/peers")
        .join(part);
    assert!(
        path.exists(),
        "{} is missing: run `make peers` first",
        path.display()
    );
    path
}
