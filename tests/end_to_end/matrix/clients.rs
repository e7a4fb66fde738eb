//! The clients and servers of the matrix: one library of others for each protocol, and how its applications learn that
//! a call came to nothing.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::Protocol;
use crate::rocketmq::mesh::range;
use crate::rocketmq::stage::{Cluster, Stage as RocketMq};
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::{Answer, Caller, Peer, built};
use crate::support::policy::Policy;
use crate::support::rocketmq_clients::{Client, Encoding, Kind};
use crate::support::world::GREETER;
use crate::support::{free_port, host_address};

/// Topics and methods that policies of the matrix are about.
pub(super) const FORBIDDEN: &str = "noted";
pub(super) const ALLOWED: &str = "who";

/// How a client library tells its application that a call failed.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// By what it is sorted: the exception and its code, the status, the packet and its reason.
    pub(super) how: String,
    /// All that it says.
    pub(super) text: String,
}

/// What a client library makes of a call.
pub(super) type Outcome = Result<Value, Told>;

/// Every library, and a server of each protocol.
pub(super) struct Stage {
    sofa: Peer,
    dubbo: Peer,
    web: Peer,
    paho: Peer,
    rocket: Client,
    policy: Policy,
    broker: Mosquitto,
    bolt: u16,
    dubbo2: u16,
    triple: u16,
    http: u64,
    topics: [String; 2],
    others: OnceLock<Others>,
}

/// A second server of each protocol, whose name is `gray`.
struct Others {
    /// Dubbo's second provider of Triple has to be a process of its own.
    _triple: Peer,
    bolt: u16,
    dubbo: u16,
    triple: u16,
    http: u64,
    policy: Policy,
    broker: Mosquitto,
}

/// The stage, set by the first test that plays on it.
pub(super) fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(Stage::new)
}

/// paho-mqtt for Python.
pub(crate) fn paho() -> Peer {
    let mut command = Command::new("/usr/bin/python3");
    command
        .env("PYTHONPATH", built("python"))
        .arg("tests/peers/python/paho_peer.py");
    Peer::start("paho", &mut command)
}

/// A proxy before all servers of the stage, with policies.
pub(super) struct Front {
    pub(super) finback: Finback,
    /// How long clients wait, in seconds.
    pub(super) patience: u32,
}

/// What calls of the matrix pass.
#[derive(Clone, Copy, Default)]
pub(super) struct Policies<'a> {
    /// What the filter `own` is, which every route names that is about a protocol of the matrix; "" for none.
    pub(super) own: &'a str,
    /// Protocols whose routes do not name it.
    pub(super) without: &'a [Protocol],
    /// More keys of the routes that name it; `NAME` is the protocol's.
    pub(super) route: &'a str,
    /// More keys of each cluster.
    pub(super) cluster: &'a str,
    /// What stands in clusters beside the server, before it: a list of endpoints that ends with a comma; or `OTHER`,
    /// the second server in the lane `gray`.
    pub(super) beside: &'a str,
    /// Whether there are clusters of second servers: `other-NAME`.
    pub(super) others: bool,
}

impl Stage {
    fn new() -> Self {
        let [bolt, dubbo2, triple] = [free_port(), free_port(), free_port()];
        let (sofa, dubbo) = (Peer::sofa(), Peer::dubbo3());
        let port = bolt.to_string();
        sofa.export(&[("host", "127.0.0.1"), ("port", &port), ("name", "own")]);
        export(&dubbo, "dubbo", dubbo2, "own");
        export(&dubbo, "tri", triple, "own");
        let web = Peer::web();
        let http = web.ask("serve", &[("name", "own")]).unwrap();
        let topics = [ALLOWED, FORBIDDEN].map(|own| RocketMq::fresh(&format!("matrix-{own}")));
        for topic in &topics {
            Cluster::v55().broker.topic(topic, 1);
        }
        Self {
            sofa,
            dubbo,
            web,
            paho: paho(),
            rocket: Client::start_writing(Kind::Java55, Encoding::Json),
            policy: Policy::start(),
            broker: Mosquitto::start(),
            bolt,
            dubbo2,
            triple,
            http: http.as_u64().unwrap(),
            topics,
            others: OnceLock::new(),
        }
    }

    fn others(&self) -> &Others {
        self.others.get_or_init(|| {
            let [bolt, dubbo, triple] = [free_port(), free_port(), free_port()];
            let port = bolt.to_string();
            self.sofa
                .export(&[("host", "127.0.0.1"), ("port", &port), ("name", "gray")]);
            export(&self.dubbo, "dubbo", dubbo, "gray");
            let own = Peer::dubbo3();
            export(&own, "tri", triple, "gray");
            let http = self.web.ask("serve", &[("name", "gray")]).unwrap();
            Others {
                _triple: own,
                bolt,
                dubbo,
                triple,
                http: http.as_u64().unwrap(),
                policy: Policy::start(),
                broker: Mosquitto::start(),
            }
        })
    }

    /// The address of a protocol's second server.
    pub(super) fn other(&self, protocol: Protocol) -> String {
        let others = self.others();
        match protocol {
            Protocol::Bolt => format!("127.0.0.1:{}", others.bolt),
            Protocol::Dubbo => format!("{}:{}", host_address(), others.dubbo),
            Protocol::Triple => format!("{}:{}", host_address(), others.triple),
            Protocol::Grpc => format!("127.0.0.1:{}", others.policy.port),
            Protocol::Http1 | Protocol::Http2 | Protocol::Tcp => {
                format!("127.0.0.1:{}", others.http)
            }
            Protocol::Mqtt3 | Protocol::Mqtt5 => others.broker.address(),
            Protocol::RocketMq => unreachable!("it has no second server"),
        }
    }

    /// Whether the second server has given an answer, as it tells itself, or its log.
    pub(super) fn is_of_other(&self, protocol: Protocol, answer: &Value) -> bool {
        let others = self.others();
        match protocol {
            Protocol::Grpc => answer["server-port"] == others.policy.port,
            Protocol::Http1 | Protocol::Http2 | Protocol::Tcp => answer["name"] == "gray",
            Protocol::Mqtt3 | Protocol::Mqtt5 => {
                let log = |broker: &Mosquitto| broker.process().tail_of(usize::MAX).join("\n");
                let id = format!(" as {} ", text(&answer[0]["id"]));
                let [here, there] =
                    [&self.broker, &others.broker].map(|own| log(own).contains(&id));
                assert!(here != there, "{id}");
                there
            }
            _ => answer == "gray",
        }
    }

    /// Envoy's services by grpcio, which the stage's gRPC is, too.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Names of RocketMQ's topics: one that is allowed, one that is not.
    pub(super) fn topics(&self) -> [&str; 2] {
        self.topics.each_ref().map(String::as_str)
    }

    /// The stage's client of MQTT.
    pub(super) fn mqtt(&self) -> &Peer {
        &self.paho
    }

    /// The address of a protocol's server.
    fn server(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Bolt => format!("127.0.0.1:{}", self.bolt),
            Protocol::Dubbo => format!("{}:{}", host_address(), self.dubbo2),
            Protocol::Triple => format!("{}:{}", host_address(), self.triple),
            Protocol::Grpc => format!("127.0.0.1:{}", self.policy.port),
            Protocol::Http1 | Protocol::Http2 | Protocol::Tcp => format!("127.0.0.1:{}", self.http),
            Protocol::Mqtt3 | Protocol::Mqtt5 => self.broker.address(),
            Protocol::RocketMq => Cluster::v55().names.address.clone(),
        }
    }

    /// What a proxy before all of them is configured as.
    pub(super) fn configuration(&self, policies: Policies<'_>) -> String {
        let mut routes = String::new();
        let mut clusters = String::new();
        for protocol in Protocol::ALL {
            let (name, matched) = (protocol.key(), protocol.matched());
            let is_meant = !policies.without.contains(&protocol);
            let filters = match is_meant && !policies.own.is_empty() {
                true => ", filters: [ own ]",
                false => "",
            };
            let route = policies.route.replace("NAME", name);
            let route = if is_meant { &*route } else { "" };
            routes.push_str(&format!(
                "    - {{ name: {name}, match: {{ {matched} }}, to: {{ cluster: {name} }}{filters}{route} }}\n"
            ));
            let beside = match (is_meant, policies.beside) {
                (true, "OTHER") => format!(
                    "{{ address: \"{}\", labels: {{ lane: gray }} }}, ",
                    self.other(protocol)
                ),
                (true, other) => other.to_owned(),
                (false, _) => String::new(),
            };
            clusters.push_str(&format!(
                "  {name}: {{ endpoints: [ {beside}\"{}\" ]{} }}\n",
                self.server(protocol),
                if is_meant { policies.cluster } else { "" }
            ));
            if policies.others && is_meant {
                let other = self.other(protocol);
                clusters.push_str(&format!(
                    "  other-{name}: {{ endpoints: [ \"{other}\" ] }}\n"
                ));
            }
        }
        let filters = match policies.own {
            "" => String::new(),
            own => format!("filters: {{ own: {own} }}\n"),
        };
        format!(
            r#"
workers: 2
listeners:
  - {{ name: all, address: "0.0.0.0:0", routes: all }}
  - {{ name: tcp, address: "127.0.0.1:0", protocol: tcp, routes: all }}
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: all, rocketmq: {{ broker_ports: {}, broker_cluster: rocketmq }} }}
routes:
  all:
{routes}    - {{ match: {{ protocol: rocketmq }}, to: {{ cluster: rocketmq }} }}
clusters:
{clusters}{filters}"#,
            range(12)
        )
    }

    /// A proxy with these policies.
    pub(super) fn front(&self, policies: Policies<'_>) -> Front {
        Front::of(Finback::start(&self.configuration(policies)))
    }
}

/// Has Dubbo offer its service by one of its protocols.
fn export(dubbo: &Peer, protocol: &str, port: u16, name: &str) {
    let port = port.to_string();
    let name = format!("{name}{}", if name == "own" { protocol } else { "" });
    let own = [
        ("protocol", protocol),
        ("port", &port),
        ("group", protocol),
        ("name", &name),
    ];
    let serialization = [("serialization", "hessian2")];
    let more = &serialization[..usize::from(protocol == "dubbo")];
    dubbo.export(&[&own[..], more].concat());
}

impl Front {
    pub(super) fn of(finback: Finback) -> Self {
        Self {
            finback,
            patience: 10,
        }
    }

    /// Calls by a protocol's library: a method, or what stands for one. `more` are attributes.
    pub(super) fn call(&self, protocol: Protocol, method: &str, more: &[(&str, &str)]) -> Outcome {
        let stage = stage();
        match protocol {
            Protocol::Bolt | Protocol::Dubbo | Protocol::Triple => {
                let (method, argument) = method.split_once('/').unwrap_or((method, "1"));
                java(self.caller(protocol, more).call(method, argument))
            }
            Protocol::Grpc => self.grpc(method, more),
            Protocol::Http1 | Protocol::Http2 => self.http(protocol, &format!("/{method}"), more),
            Protocol::Mqtt3 | Protocol::Mqtt5 => self.mqtt(protocol, method, more),
            Protocol::RocketMq => {
                let [allowed, forbidden] = stage.topics();
                let topic = if method == FORBIDDEN {
                    forbidden
                } else {
                    allowed
                };
                self.rocketmq(topic, more)
            }
            Protocol::Tcp => {
                let address = if method == FORBIDDEN {
                    "127.0.0.2"
                } else {
                    "127.0.0.1"
                };
                let url = format!("http://{}/who", self.finback.local("tcp"));
                self.curl(&["--interface", address, &url])
            }
        }
    }

    /// Calls of a framework for Java.
    pub(super) fn caller(&self, protocol: Protocol, more: &[(&str, &str)]) -> Caller<'static> {
        let stage = stage();
        let at = self.finback.public("all");
        let caller = match protocol {
            Protocol::Bolt => {
                let url = format!("bolt://{}", self.finback.local("all"));
                stage.sofa.caller(&[("url", &url)])
            }
            Protocol::Triple => {
                let url = format!("tri://{at}/{GREETER}");
                stage.dubbo.caller(&[("url", &url), ("group", "tri")])
            }
            _ => {
                let url = format!(
                    "dubbo://{at}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2"
                );
                stage.dubbo.caller(&[("url", &url), ("group", "dubbo")])
            }
        };
        let patience = (self.patience * 1000).to_string();
        let attributes = more.iter();
        attributes.fold(
            caller.with("timeout", &patience),
            |caller, (name, value)| caller.with(&format!("@{name}"), value),
        )
    }

    fn grpc(&self, method: &str, more: &[(&str, &str)]) -> Outcome {
        let metadata: Vec<_> = more
            .iter()
            .map(|(name, own)| format!("{name}={own}"))
            .collect();
        let path = format!("/acme.Shop/{method}");
        let at = self.finback.local("all");
        let patience = self.patience.to_string();
        let answer = stage()
            .policy
            .call_within(&patience, &at, &path, &metadata.join(","));
        match answer["code"].as_str() {
            None => Ok(answer["said"].clone()),
            Some(code) => Err(Told {
                how: code.to_owned(),
                text: answer.to_string(),
            }),
        }
    }

    /// A request by curl.
    pub(super) fn http(&self, protocol: Protocol, path: &str, more: &[(&str, &str)]) -> Outcome {
        let version = match protocol {
            Protocol::Http2 => "--http2-prior-knowledge",
            _ => "--http1.1",
        };
        let host = format!("Host: {}.test", protocol.key());
        let url = format!("http://{}{path}", self.finback.local("all"));
        let headers: Vec<_> = more
            .iter()
            .map(|(name, own)| format!("{name}: {own}"))
            .collect();
        let mut arguments = vec![version, "-H", &host];
        arguments.extend(headers.iter().flat_map(|own| ["-H", own]));
        arguments.push(&url);
        self.curl(&arguments)
    }

    fn curl(&self, arguments: &[&str]) -> Outcome {
        let patience = self.patience.to_string();
        curl(&[&["--max-time", &patience][..], arguments].concat())
    }

    fn mqtt(&self, protocol: Protocol, topic: &str, more: &[(&str, &str)]) -> Outcome {
        let port = self.finback.port("all").to_string();
        let (version, id) = match protocol {
            Protocol::Mqtt3 => ("4", RocketMq::fresh("three")),
            _ => ("5", RocketMq::fresh("five")),
        };
        let own: Vec<_> = more
            .iter()
            .map(|(name, own)| format!("{name}={own}"))
            .collect();
        let own = own.join(",");
        let fields = [
            ("host", "127.0.0.1"),
            ("port", &port),
            ("version", version),
            ("id", &id),
            ("topic", topic),
            ("connect", &own),
        ];
        let said = stage().paho.ask("visit", &fields);
        let said = said.map_err(|failure| Told {
            how: failure.class,
            text: failure.text,
        })?;
        let steps = said.as_array().unwrap();
        let is_bad = |step: &&Value| {
            step["what"] == "END" || step["code"].as_u64().is_none_or(|code| code >= 0x80)
        };
        match steps.iter().find(is_bad) {
            None => Ok(said),
            Some(step) => Err(Told {
                how: format!("{} {}", text(&step["what"]), text(&step["reason"])),
                text: said.to_string(),
            }),
        }
    }

    fn rocketmq(&self, topic: &str, more: &[(&str, &str)]) -> Outcome {
        let names = self.finback.local("mq");
        let group = RocketMq::fresh("matrix");
        let client = &stage().rocket;
        let mut options = vec![("topic", topic)];
        if self.patience < 10 {
            // What takes too long is sent once.
            options.extend([("timeout", "4000"), ("retries", "0")]);
        }
        let producer = client.producer(&names, &group, &options);
        let own: Vec<_> = more
            .iter()
            .map(|(name, own)| (format!("@{name}"), *own))
            .collect();
        let mut fields = vec![("count", "1")];
        fields.extend(own.iter().map(|(name, own)| (name.as_str(), *own)));
        let sent = producer.send(topic, &fields).remove(0);
        producer.close();
        match sent.error.is_null() {
            true => Ok(sent.all),
            false => Err(Told {
                how: format!("{} {}", class(&sent.error["class"]), sent.error["code"]),
                text: sent.error.to_string(),
            }),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A class without its package.
fn class(name: &Value) -> String {
    let name = name.as_str().unwrap_or_default();
    name.rsplit('.').next().unwrap_or_default().to_owned()
}

/// What a framework for Java made of a call.
pub(super) fn java(answer: Answer) -> Outcome {
    answer.map_err(|failure| {
        let class = failure.class.rsplit('.').next().unwrap_or_default();
        // What Triple sorts by stands in the text.
        let status = failure.text.split_once("StatusRpcException: ");
        let how = match status.and_then(|(_, own)| own.split(' ').next()) {
            Some(status) => format!("StatusRpcException {status}"),
            None if failure.code.is_null() => class.to_owned(),
            None => format!("{class} {}", failure.code),
        };
        Told {
            how,
            text: failure.text,
        }
    })
}

/// What curl says: the answer's body where the status is 200, else the status, or what curl ends with.
fn curl(arguments: &[&str]) -> Outcome {
    let out = Command::new("curl")
        .args(["-s", "-i"])
        .args(arguments)
        .output()
        .expect("curl is missing: run `make peers`");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        return Err(Told {
            how: format!("exit {}", out.status.code().unwrap_or(-1)),
            text,
        });
    }
    match text.split(' ').nth(1) {
        Some("200") => {
            let body = text.split_once("\r\n\r\n").map_or("", |own| own.1);
            Ok(serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
        }
        status => Err(Told {
            how: status.unwrap_or_default().to_owned(),
            text,
        }),
    }
}
