//! Protocols: THE list of them, in sniffing order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use finback_core::driver::{ListenerSpec, Protocol};
use finback_core::frame::Status;
use finback_core::health::{Accepts, Probe};
use finback_core::route::{Route, Treatment};
use finback_grpc::GrpcProbe;
use finback_http::{Dialect, Http, HttpProbe};
use finback_mqtt::MqttProbe;
use finback_observability::trace;
use finback_rocketmq::Brokers;

use crate::rocketmq;

/// What a listener may set about its protocols.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The longest frame in bytes; `None` for each protocol's own default.
    pub max_frame: Option<usize>,
    /// What may wait for a client in bytes: no protocol's default frame is longer.
    pub queue_hard: usize,
    /// The service as which calls are routed whose serialization cannot be read.
    pub opaque_service: Option<String>,
    /// What `auto` does not know is passed through as TCP.
    pub tcp_fallback: bool,
    /// MQTT's own.
    pub mqtt: finback_mqtt::Config,
    /// HTTP's own.
    pub http: finback_http::Config,
    /// RocketMQ's own, where it is spoken.
    pub rocketmq: Option<RocketMq>,
}

/// What a listener in front of RocketMQ's name servers is made of.
#[derive(Clone)]
pub struct RocketMq {
    /// What it was configured with.
    pub settings: rocketmq::Settings,
    /// Who has listeners stand for brokers.
    pub brokers: Arc<dyn Brokers>,
}

impl fmt::Debug for RocketMq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// One protocol as the binary knows it.
struct Entry {
    name: &'static str,
    /// Where its services are registered unless a route says otherwise.
    layout: &'static str,
    make: fn(&Settings) -> Arc<dyn Protocol>,
}

const ENTRIES: &[Entry] = &[
    Entry {
        name: finback_dubbo::NAME,
        layout: "dubbo",
        make: dubbo,
    },
    Entry {
        name: finback_bolt::NAME,
        layout: "sofa",
        make: bolt,
    },
    // It claims one path of HTTP's, so it comes before it.
    Entry {
        name: finback_mqtt::NAME,
        layout: "native",
        make: |settings| Arc::new(finback_mqtt::Mqtt::new(settings.mqtt.clone())),
    },
    Entry {
        name: finback_http::NAME,
        layout: "spring",
        make: http,
    },
    // It needs ports for brokers, so it is spoken only where it is asked for.
    Entry {
        name: finback_rocketmq::NAME,
        layout: "native",
        make: rocketmq_of,
    },
    // It claims everything, so it comes last, and only where it is asked for.
    Entry {
        name: finback_tcp::NAME,
        layout: "native",
        make: |_| Arc::new(finback_tcp::Tcp),
    },
];

impl Settings {
    /// The longest frame of a protocol that has this one by default.
    fn frame(&self, default: usize) -> usize {
        self.max_frame.unwrap_or(default.min(self.queue_hard))
    }
}

/// What is spoken in HTTP: names that routes know, and the layouts of their services.
const DIALECTS: &[(&str, &str)] = &[
    (finback_grpc::TRIPLE, "dubbo"),
    (finback_grpc::NAME, "grpc"),
    (finback_grpc::ROCKETMQ, "native"),
];

/// The names by which routes know calls of a protocol.
fn known_as(protocol: &'static str) -> impl Iterator<Item = &'static str> {
    let dialects = DIALECTS
        .iter()
        .filter(move |_| protocol == finback_http::NAME);
    std::iter::once(protocol).chain(dialects.map(|(name, _)| *name))
}

/// The protocols whose calls may take a route of a table, as routes know them.
pub fn reaching(listeners: &[ListenerSpec], table: &str, route: &Route) -> Vec<&'static str> {
    let own = listeners.iter().filter(|own| *own.routes == *table);
    let spoken = own.flat_map(|own| own.protocols.iter().map(|own| own.name()));
    let known = spoken.flat_map(known_as);
    known
        .filter(|own| route.when.protocol.matches(own))
        .collect()
}

/// Whether calls that routes know by this name are treated as a route says.
#[must_use]
pub fn treats(protocol: &str, treatment: &Treatment) -> bool {
    known_as(treatment.protocol()).any(|name| name == protocol)
}

/// The protocols whose calls may take a route of a table, and are not treated as it says.
pub fn untreated(listeners: &[ListenerSpec], table: &str, route: &Route) -> Vec<&'static str> {
    let Some(treatment) = &route.treatment else {
        return Vec::new();
    };
    let mut spoken = reaching(listeners, table, route);
    spoken.retain(|own| !treats(own, treatment));
    spoken.sort_unstable();
    spoken.dedup();
    spoken
}

fn dubbo(settings: &Settings) -> Arc<dyn Protocol> {
    let mut config = finback_dubbo::Config::default();
    config.max_frame = settings.frame(config.max_frame);
    if let Some(service) = &settings.opaque_service {
        config.opaque_service.clone_from(service);
    }
    Arc::new(finback_dubbo::Dubbo::new(config))
}

fn bolt(settings: &Settings) -> Arc<dyn Protocol> {
    let mut config = finback_bolt::Config::default();
    config.max_frame = settings.frame(config.max_frame);
    Arc::new(finback_bolt::Bolt::new(config))
}

fn rocketmq_of(settings: &Settings) -> Arc<dyn Protocol> {
    Arc::new(match settings.rocketmq.clone() {
        Some(RocketMq { settings, brokers }) => {
            finback_rocketmq::RocketMq::of_name_servers(settings.config, brokers)
        }
        None => finback_rocketmq::RocketMq::of_broker(finback_rocketmq::Config::default()),
    })
}

fn http(settings: &Settings) -> Arc<dyn Protocol> {
    let dialects: Vec<Arc<dyn Dialect>> = vec![
        Arc::new(finback_grpc::RocketMq),
        Arc::new(finback_grpc::Triple),
        Arc::new(finback_grpc::Grpc),
        Arc::new(finback_grpc::GrpcWeb),
    ];
    Arc::new(Http::new(settings.http.clone(), dialects))
}

/// What a status in a record is called in its protocol: a name, or for HTTP its number. `None` where
/// the protocol has no such status.
#[must_use]
pub fn status_name(protocol: &str, status: Status) -> Option<Cow<'static, str>> {
    let code = status.is_some().then_some(status.0)?;
    let name = match protocol {
        finback_dubbo::NAME => finback_dubbo::status_name(code),
        finback_bolt::NAME => finback_bolt::status_name(code),
        finback_mqtt::NAME => finback_mqtt::status_name(code),
        finback_rocketmq::NAME => finback_rocketmq::status_name(code),
        // Triple's unary calls have HTTP's numbers, which are above all of gRPC's.
        finback_grpc::NAME | finback_grpc::TRIPLE if code < 100 => finback_grpc::status_name(code),
        finback_grpc::ROCKETMQ => finback_grpc::rocketmq_status_name(code),
        finback_http::NAME | finback_grpc::TRIPLE => return Some(code.to_string().into()),
        _ => None,
    };
    name.map(Cow::Borrowed)
}

/// How each protocol is traced: what its calls are called there, and how it spells the keys of contexts.
#[must_use]
pub fn traced() -> HashMap<&'static str, trace::ProtocolConventions> {
    const PLAIN: trace::Spelling = trace::Spelling {
        skywalking: "",
        sofatracer: None,
    };
    let sofa = |trace, span, sampled| trace::Spelling {
        sofatracer: Some(trace::SofaKeys {
            trace,
            span,
            sampled,
        }),
        ..PLAIN
    };
    // OpenTelemetry, RPC spans, Dubbo and gRPC: what is a server's fault. SOFA-RPC has no such list.
    let rpc = |name, server_faults| trace::System::Rpc {
        name,
        server_faults,
    };
    let dubbo = &[
        "SERVER_ERROR",
        "SERVER_THREADPOOL_EXHAUSTED_ERROR",
        "SERVER_TIMEOUT",
        "SERVICE_ERROR",
    ];
    let grpc = &[
        "DATA_LOSS",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "UNAVAILABLE",
        "UNIMPLEMENTED",
        "UNKNOWN",
    ];
    let triple = sofa("tri-trace-traceid", "tri-trace-rpcid", "tri-trace-samp");
    let in_bolt = trace::Spelling {
        skywalking: "skywalking.",
        ..sofa(
            "rpc_trace_context.sofaTraceId",
            "rpc_trace_context.sofaRpcId",
            "rpc_trace_context.samp",
        )
    };
    let of = |system, spelling| trace::ProtocolConventions {
        system,
        spelling,
        status: status_name,
    };
    let in_http = sofa("sofaTraceId", "sofaRpcId", "samp");
    HashMap::from([
        (finback_bolt::NAME, of(rpc("sofarpc", &[]), in_bolt)),
        (finback_dubbo::NAME, of(rpc("dubbo", dubbo), PLAIN)),
        (finback_grpc::NAME, of(rpc("grpc", grpc), PLAIN)),
        (finback_grpc::TRIPLE, of(rpc("dubbo", grpc), triple)),
        (finback_http::NAME, of(trace::System::Http, in_http)),
        (
            finback_mqtt::NAME,
            of(trace::System::Messaging { name: "mqtt" }, PLAIN),
        ),
        (
            finback_rocketmq::NAME,
            of(trace::System::Messaging { name: "rocketmq" }, PLAIN),
        ),
        (
            finback_grpc::ROCKETMQ,
            of(trace::System::Messaging { name: "rocketmq" }, PLAIN),
        ),
        (finback_tcp::NAME, of(trace::System::Connection, PLAIN)),
    ])
}

/// What a status is called in a label: its name, but a number that no standard knows is known by its class
/// only, for there is no end of those.
#[must_use]
pub fn status_label(protocol: &str, status: Status) -> Option<Cow<'static, str>> {
    let name = status_name(protocol, status)?;
    let is_number = name.starts_with(|char: char| char.is_ascii_digit());
    if !is_number {
        return Some(name);
    }
    let code = http::StatusCode::from_u16(status.0).ok()?;
    Some(match code.canonical_reason() {
        Some(_) => name,
        None => format!("{}xx", status.0 / 100).into(),
    })
}

/// The names of all protocols.
#[must_use]
pub fn names() -> Vec<&'static str> {
    ENTRIES.iter().map(|entry| entry.name).collect()
}

/// The protocol of this name, or for `auto` all of them; `None` if there is no such name.
#[must_use]
pub fn named(name: &str, settings: &Settings) -> Option<Vec<Arc<dyn Protocol>>> {
    let chosen: Vec<_> = ENTRIES
        .iter()
        .filter(|entry| match entry.name {
            finback_tcp::NAME => name == finback_tcp::NAME || settings.tcp_fallback,
            finback_rocketmq::NAME => name == finback_rocketmq::NAME,
            own => name == "auto" || name == own,
        })
        .map(|entry| (entry.make)(settings))
        .collect();
    (!chosen.is_empty()).then_some(chosen)
}

/// What an endpoint is asked by a health check.
#[derive(Clone, Debug)]
pub struct Question {
    /// HTTP: whether HTTP/2 is spoken.
    pub http2: bool,
    /// HTTP: what is asked for.
    pub path: String,
    /// HTTP, gRPC: whom it is asked of.
    pub host: Option<String>,
    /// HTTP: statuses of one that is healthy.
    pub statuses: RangeInclusive<u16>,
    /// gRPC: the service; "" for the server.
    pub service: String,
    /// MQTT: the client identifier.
    pub client_id: Option<String>,
    /// MQTT: as whom.
    pub username: Option<String>,
    /// MQTT: with this password.
    pub password: Option<Secret>,
}

/// What is not to be read in logs, but told apart from others.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keyed anew in each process: nobody finds out by trying words.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        write!(f, "({:016x})", KEY.hash_one(&self.0))
    }
}

/// Who asks endpoints in the protocol of this name; `None` if nobody can.
#[must_use]
pub fn probe(name: &str, question: Question) -> Option<Arc<dyn Probe>> {
    let Question {
        http2,
        path,
        host,
        statuses,
        service,
        client_id,
        username,
        password,
    } = question;
    Some(match name {
        finback_tcp::NAME => Arc::new(Accepts),
        finback_bolt::NAME => finback_bolt::probe(),
        finback_dubbo::NAME => finback_dubbo::probe(),
        finback_grpc::NAME => Arc::new(GrpcProbe { service, host }),
        finback_http::NAME => Arc::new(HttpProbe {
            http2,
            path,
            host,
            statuses,
        }),
        finback_mqtt::NAME => Arc::new(MqttProbe {
            client_id,
            username,
            password: password.map(|Secret(own)| own),
        }),
        _ => return None,
    })
}

/// What the protocols are called in TLS's negotiation of application protocols.
#[must_use]
pub fn applications() -> Vec<&'static [u8]> {
    let made = ENTRIES.iter().map(|own| (own.make)(&Settings::default()));
    made.flat_map(|own| own.application_protocols())
        .copied()
        .collect()
}

/// The layout of each protocol's services.
#[must_use]
pub fn layouts() -> HashMap<&'static str, Arc<str>> {
    ENTRIES
        .iter()
        .map(|entry| (entry.name, entry.layout))
        .chain(DIALECTS.iter().copied())
        .map(|(name, layout)| (name, Arc::from(layout)))
        .collect()
}
