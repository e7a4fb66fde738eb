//! Admin endpoints: THE list of what the admin port serves.

use std::fmt::Write;
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;

use crate::running::Running;
use crate::{log, metrics};

use super::conversation::{Answer, Asked};
use super::explain::{Entrance, ExplainQuestion, explain};
use super::{
    Shared, clusters, dashboard, filters, health, in_flight, lists, routes, services, tap,
};

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The dashboard's page, style and script.
    Page,
    /// Its style.
    Style,
    /// Its script.
    Script,
    /// This list.
    Help,
    /// Whether the process lives.
    Live,
    /// Whether it takes new clients.
    Ready,
    /// Both.
    Health,
    /// Metrics for Prometheus.
    Metrics,
    /// What runs here, and since when.
    Version,
    /// The configuration in force.
    Config,
    /// Route tables.
    Routes,
    /// Filters.
    Filters,
    /// Listeners.
    Listeners,
    /// Clusters and endpoints.
    Clusters,
    /// Registries.
    Registries,
    /// Certificates and revocation lists.
    Certificates,
    /// What is called.
    Services,
    /// Calls in flight.
    Calls,
    /// Sessions.
    Sessions,
    /// What RocketMQ's clients have here.
    RocketMq,
    /// The slowest exchanges, and the failed ones.
    Recent,
    /// Exchanges as they end.
    Tap,
    /// Which way a call would take.
    Explain,
    /// How much is logged.
    LogLevel,
    /// The same, to be changed.
    SetLogLevel,
    /// The configuration read again.
    Reload,
    /// The end.
    Drain,
}

/// One endpoint of the admin port.
#[derive(Clone, Copy, Debug)]
pub struct AdminEndpoint {
    /// GET also stands for HEAD.
    pub method: &'static str,
    /// Its path.
    pub path: &'static str,
    /// What is served there.
    pub what: What,
    /// The same in words.
    pub about: &'static str,
}

impl AdminEndpoint {
    /// Whether it changes anything.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.method != "GET"
    }
}

const fn get(path: &'static str, what: What, about: &'static str) -> AdminEndpoint {
    AdminEndpoint {
        method: "GET",
        path,
        what,
        about,
    }
}

const fn change(
    method: &'static str,
    path: &'static str,
    what: What,
    about: &'static str,
) -> AdminEndpoint {
    AdminEndpoint {
        method,
        path,
        what,
        about,
    }
}

/// Everything that is served, in the order of the guide.
pub const ENDPOINTS: [AdminEndpoint; 27] = [
    get("/", What::Page, "the dashboard"),
    get("/dashboard.css", What::Style, "the dashboard's style"),
    get("/dashboard.js", What::Script, "the dashboard's script"),
    get("/help", What::Help, "this list, as text"),
    get(
        "/livez",
        What::Live,
        "200 while every worker looks after its connections; 503 and their numbers once one has not for 5 s: it hangs, or its thread ended; restart then. 200 also after tasks ended by a panic, with their count in the text",
    ),
    get(
        "/readyz",
        What::Ready,
        "200 while clients may be sent here; 503 with the reason until the registries of routes and clusters have answered once, are known from a snapshot, or `limits.registry_wait` is over; and 503 from the moment that it is told to stop",
    ),
    get("/healthz", What::Health, "200 if both are"),
    get("/metrics", What::Metrics, "metrics for Prometheus"),
    get(
        "/version",
        What::Version,
        "version, start, workers, whether it is stopping",
    ),
    get(
        "/config",
        What::Config,
        "the configuration in force, without secrets, and since when",
    ),
    get(
        "/routes",
        What::Routes,
        "route tables: conditions, destinations, and how often each route was taken; `?limit=N` routes of each",
    ),
    get(
        "/filters",
        What::Filters,
        "filters: what each does, who names it, and what it decided",
    ),
    get(
        "/explain",
        What::Explain,
        "which way a call would take, and why: `?service=S&method=M&attribute=NAME=VALUE`, and `version`, `group`, `protocol`, `listener`, `source`, `identity`",
    ),
    get(
        "/listeners",
        What::Listeners,
        "listeners: address, protocols, route table, connections",
    ),
    get(
        "/clusters",
        What::Clusters,
        "clusters and endpoints as routing sees them: state and why, weight, calls in flight, answer time, failures, labels; with `?limit=N` how many there are, and N of them, those with troubles first",
    ),
    get(
        "/registries",
        What::Registries,
        "registries: whether they answer, for how long they have not, what is the matter, and what is known",
    ),
    get(
        "/certificates",
        What::Certificates,
        "certificates and revocation lists, and when they end",
    ),
    get(
        "/services",
        What::Services,
        "calls by service and method since the start: by outcome, and by how long they took",
    ),
    get(
        "/calls",
        What::Calls,
        "calls in flight: how many, and of the 200 oldest age, names, endpoint and what they wait for",
    ),
    get(
        "/sessions",
        What::Sessions,
        "sessions of MQTT: how many, and of the 200 oldest age, client, endpoint",
    ),
    get(
        "/rocketmq",
        What::RocketMq,
        "RocketMQ: brokers by listener, with lanes of consumers and whether they have any, and how far groups are behind",
    ),
    get(
        "/recent",
        What::Recent,
        "the slowest exchanges of the last 15 minutes, and the last that failed",
    ),
    get(
        "/tap",
        What::Tap,
        "exchanges as they end, one JSON object a line: `?service=`, `method`, `outcome`, `slower_than`, `protocol`, `listener`, `route`, `cluster`, `endpoint`, `rate`",
    ),
    get("/log/level", What::LogLevel, "how much is logged"),
    change(
        "PUT",
        "/log/level",
        What::SetLogLevel,
        "set the log level: `error`, `warn`, `info`, `debug` or a filter as in `RUST_LOG`",
    ),
    change(
        "POST",
        "/reload",
        What::Reload,
        "read the configuration again, as at SIGHUP; 422 and the reason if it is refused",
    ),
    change("POST", "/drain", What::Drain, "stop, as at SIGTERM"),
];

/// The list for a reader of plain text.
pub(super) fn list(shown: impl Fn(&AdminEndpoint) -> bool) -> String {
    let mut text = String::new();
    for own in ENDPOINTS.iter().filter(|own| shown(own)) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{:4} {:16} {}", own.method, own.path, own.about);
    }
    text
}

/// The list as the guide prints it, in Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| request | what |\n|---|---|\n");
    for own in &ENDPOINTS {
        let _ = writeln!(text, "| `{} {}` | {} |", own.method, own.path, own.about);
    }
    text
}

/// Answers a request that may be made.
pub(super) async fn answer(asked: Asked, shared: &Arc<Shared>) -> Answer {
    let running = &shared.running;
    match asked.endpoint.what {
        What::Page => dashboard::page(),
        What::Style => dashboard::style(),
        What::Script => dashboard::script(),
        What::Help => Answer::text(StatusCode::OK, list(|_| true)),
        What::Live => health::live(running),
        What::Ready => health::ready(running),
        What::Health => health::healthy(running),
        What::Metrics => Answer::new(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics::page(running),
        ),
        What::Version => Answer::json(&lists::version(running, shared.trace_url.as_deref())),
        What::Config => Answer::json(&lists::configuration(running)),
        What::Routes => with_limit(&asked, |limit| {
            routes::list(&running.mesh, limit.unwrap_or(usize::MAX))
        }),
        What::Filters => Answer::json(&filters::list(&running.mesh)),
        What::Explain => explained(&asked, running).await,
        What::Services => Answer::compact(&services::totals(running)),
        What::Calls => Answer::json(&in_flight::calls(running).await),
        What::Sessions => Answer::json(&in_flight::sessions(running).await),
        What::RocketMq => Answer::json(&lists::rocketmq(running).await),
        What::Recent => match &shared.recent {
            Some(recent) => Answer::json(&recent.value()),
            None => Answer::text(StatusCode::NOT_FOUND, "not here\n"),
        },
        What::Tap => tap::begin(&asked.query, running, &shared.taps),
        What::Listeners => Answer::json(&lists::listeners(running).await),
        What::Clusters => with_limit(&asked, |limit| match limit {
            None => clusters::list(&running.mesh.status()),
            Some(limit) => clusters::first(running.mesh.status(), limit),
        }),
        What::Registries => Answer::json(&lists::registries(&running.registries.status())),
        What::Certificates => Answer::json(&lists::certificates(running)),
        What::LogLevel => Answer::json(&json!({ "level": log::level() })),
        What::SetLogLevel => set_log_level(&asked),
        What::Reload => match running.orders.reload().await {
            Ok(fixed) => Answer::json(&json!({ "reloaded": true, "needs_restart": fixed })),
            Err(why) => Answer::text(StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")),
        },
        What::Drain => {
            running.orders.drain();
            let mut answer = Answer::json(&json!({ "draining": true }));
            answer.status = StatusCode::ACCEPTED;
            answer
        }
    }
}

fn set_log_level(asked: &Asked) -> Answer {
    let level = String::from_utf8_lossy(&asked.body);
    match log::set_level(level.trim()) {
        Ok(()) => Answer::json(&json!({ "level": log::level() })),
        Err(why) => Answer::text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

/// What takes a `limit`.
fn with_limit(asked: &Asked, tell: impl FnOnce(Option<usize>) -> serde_json::Value) -> Answer {
    let limit = asked.query.get("limit").map(str::parse).transpose();
    match (limit, asked.query.unknown(&["limit"])) {
        (Ok(limit), None) => Answer::json(&tell(limit)),
        _ => Answer::text(
            StatusCode::BAD_REQUEST,
            "write `limit=NUMBER`, or nothing\n",
        ),
    }
}

async fn explained(asked: &Asked, running: &Running) -> Answer {
    let bad = |why: String| Answer::text(StatusCode::BAD_REQUEST, format!("{why}\n"));
    let question = match ExplainQuestion::read(&asked.query) {
        Ok(question) => question,
        Err(why) => return bad(why),
    };
    let listeners = running.listeners().await.into_iter();
    let entrances: Vec<_> = listeners
        .map(|own| Entrance {
            name: own.name,
            table: own.routes,
            protocols: own.protocols,
        })
        .collect();
    let registries = Some(&*running.registries);
    match explain(&question, &entrances, &running.mesh, registries).await {
        Ok(told) => Answer::json(&told),
        Err(why) => bad(why),
    }
}
