//! External authorization: another server says who may call what, by Envoy's protocol
//! (`envoy.service.auth.v3.Authorization/Check`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use finback_core::filter::{Asked, Check, Decided, Edits, Flow, Refusal, Tally, Target};
use finback_core::rejection::Rejection;
use finback_core::text::cut;

use super::answers::edits;
use super::asking::{self, AskingPolicy, Asks, Outcomes};
use super::messages::{
    Address, AttributeContext, Caller, CheckRequest, CheckResponse, DeniedResponse, HttpRequest,
    Request, Seconds, SocketAddress,
};
use super::server::{Framed, Server, Trouble};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// All that a question says of attributes, in bytes. A call that has more is not asked about: what was left out might
/// decide.
const QUESTION: usize = 64 * 1024;
const TOO_MUCH: &str = "the call says too much to be asked about";
/// What a caller is told of the server's words, in bytes.
const TEXT: usize = 1024;

/// How a server is asked, and what its silence means.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The attributes that it is told.
    pub attributes: Vec<Arc<str>>,
    /// What else it is told, the same of all calls.
    pub context: BTreeMap<String, String>,
    /// A call passes where it does not answer.
    pub failure_mode_allow: bool,
    /// Nothing is refused and nothing changed, only counted.
    pub dry_run: bool,
}

/// Who may call what, as another server says.
pub type ExternalAuthorization = Asks<Policy>;

impl AskingPolicy for Policy {
    const KIND: &'static str = "external_authorization";

    fn passes_unanswered(&self) -> bool {
        self.failure_mode_allow
    }

    fn undecided(&self) -> Option<Refusal> {
        (!self.dry_run).then(|| Refusal::new(Rejection::Denied, &Arc::from("")))
    }

    fn check(
        self: &Arc<Self>,
        server: &Arc<Server>,
        target: &Target<'_>,
        tally: &Tally,
    ) -> Rc<dyn Check> {
        let none = Arc::from("");
        let own = [
            ("protocol", target.protocol),
            ("listener", target.listener),
            ("route", target.route),
            ("service", target.service),
            ("method", target.method),
            ("version", target.version),
            ("group", target.group),
        ];
        let mut context = self.context.clone();
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        context.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Rc::new(Questions {
            policy: self.clone(),
            server: server.clone(),
            is_http: target.protocol == finback_http::NAME,
            protocol: target.protocol.into(),
            path: format!("/{}/{}", target.service, target.method),
            context,
            judge: Rc::new(Judge {
                outcomes: Outcomes::new(&**self, server, tally),
                policy: self.clone(),
                denied: tally.count(&none, "denied"),
                would_deny: tally.count(&none, "would_deny"),
                limited: tally.count(&none, "limited"),
                none,
            }),
        })
    }

    fn describe(&self, asks: String) -> Vec<String> {
        let mut lines = vec![asks];
        if !self.attributes.is_empty() {
            lines.push(format!("tells it of {}", self.attributes.join(", ")));
        }
        if self.dry_run {
            lines.push("refuses nothing (dry run)".to_owned());
        }
        lines
    }
}

/// What is asked about calls of one kind, in one worker.
struct Questions {
    policy: Arc<Policy>,
    server: Arc<Server>,
    /// Its attributes have the request line; in other protocols they are what callers make of them.
    is_http: bool,
    protocol: Box<str>,
    /// The path of calls that have none of their own, as gRPC makes it.
    path: String,
    context: BTreeMap<String, String>,
    judge: Rc<Judge>,
}

impl Questions {
    /// The question; `None` if it would be too long.
    fn question(&self, asked: &mut Asked<'_, '_>) -> Option<CheckRequest> {
        let mut headers = BTreeMap::new();
        let mut bytes = 0;
        for name in &self.policy.attributes {
            if let Some(value) = asked.attribute(name) {
                bytes += name.len() + value.len();
                headers.insert(name.to_string(), value.into_owned());
            }
        }
        let mut http = HttpRequest {
            method: "POST".to_owned(),
            headers,
            path: self.path.clone(),
            host: String::new(),
            scheme: String::new(),
            size: -1,
            protocol: self.protocol.to_string(),
        };
        if self.is_http {
            let mut said = |name| {
                let value = asked.attribute(name);
                value.map_or_else(String::new, |own| own.into_owned())
            };
            http.method = said(":method");
            http.path = said(":path");
            http.host = said(":authority");
            http.scheme = said(":scheme");
            let query = said(":query");
            if !query.is_empty() {
                http.path.push('?');
                http.path.push_str(&query);
            }
            bytes += http.path.len() + http.host.len();
        }
        let address = SocketAddress {
            address: asked.source.to_string(),
            port: Some(0),
        };
        let source = Caller {
            address: Some(Address {
                socket_address: Some(address),
            }),
            principal: asked.client.map_or("", |own| own.text()).to_owned(),
        };
        (bytes <= QUESTION).then(|| CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                request: Some(Request {
                    time: Seconds::now(),
                    http: Some(http),
                }),
                context_extensions: self.context.clone(),
            }),
        })
    }
}

impl Check for Questions {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        let Some(question) = self.question(asked) else {
            let refusal = self.judge.outcomes.misled(TOO_MUCH);
            return refusal.map_or(Flow::Continue, Flow::Refuse);
        };
        let question = Framed::of(&question);
        let answer = self.server.ask(METHOD, asked.source, question);
        asking::wait(&self.judge, answer)
    }
}

/// Makes a decision of an answer.
struct Judge {
    policy: Arc<Policy>,
    outcomes: Outcomes,
    denied: Arc<AtomicU64>,
    would_deny: Arc<AtomicU64>,
    limited: Arc<AtomicU64>,
    none: Arc<str>,
}

impl asking::Judge for Judge {
    type Answer = CheckResponse;

    fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    async fn judge(&self, answer: CheckResponse) -> Decided {
        let outcomes = &self.outcomes;
        let code = answer.status.map_or(0, |own| own.code);
        let refusal = match (code, answer.denied) {
            _ if answer.error.is_some() => outcomes.silence(&Trouble::Failed("it says so".into())),
            (0, None) => {
                let ok = answer.ok.unwrap_or_default();
                let set = ok.headers.iter().filter_map(|own| own.header.as_ref());
                match edits(set, ok.headers_to_remove.iter()) {
                    Ok(_) if self.policy.dry_run => return outcomes.allowed(Edits::default()),
                    Ok(edits) => return outcomes.allowed(edits),
                    Err(what) => outcomes.misled(&format!("its answer has {what}")),
                }
            }
            (_, denied) => self.denied(&denied.unwrap_or_default()),
        };
        Decided {
            refusal,
            ..Decided::default()
        }
    }
}

impl Judge {
    fn denied(&self, answer: &DeniedResponse) -> Option<Refusal> {
        if self.policy.dry_run {
            self.would_deny.fetch_add(1, Relaxed);
            return None;
        }
        let status = answer.status.as_ref().map_or(403, |own| own.code);
        let (count, why) = match status {
            429 => (&self.limited, Rejection::Limited),
            401 => (&self.denied, Rejection::Unauthenticated),
            _ => (&self.denied, Rejection::Denied),
        };
        count.fetch_add(1, Relaxed);
        let mut refusal = Refusal::new(why, &self.none);
        let text = cut(answer.body.trim(), TEXT);
        refusal.text = text.replace(char::is_control, " ").into();
        // RFC 9110, section 10.2.3: in seconds; a date is not read.
        let mut headers = answer.headers.iter().filter_map(|own| own.header.as_ref());
        let later = headers.find(|own| own.key.eq_ignore_ascii_case("retry-after"));
        let later = later.and_then(|own| own.value.trim().parse::<u32>().ok());
        refusal.retry_after = later
            .filter(|_| why == Rejection::Limited)
            .map(|own| Duration::from_secs(own.into()));
        Some(refusal)
    }
}
