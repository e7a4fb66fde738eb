//! Global rate limits: another server counts the calls of many, by Envoy's protocol
//! (`envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use finback_core::filter::rate_limit::Per;
use finback_core::filter::{Asked, Check, Decided, Flow, Refusal, Tally, Target};
use finback_core::rejection::Rejection;
use finback_core::text::cut;

use super::answers::edits;
use super::asking::{self, AskingPolicy, Asks, Outcomes};
use super::messages::{Descriptor, Entry, RateLimitRequest, RateLimitResponse};
use super::server::{Framed, Server, Trouble};

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// What is told of a value, in bytes: longer ones that begin alike are counted together.
const VALUE: usize = 256;
/// `envoy.service.ratelimit.v3.RateLimitResponse.Code`.
const OK: i32 = 1;
const OVER_LIMIT: i32 = 2;
/// Callers are told to wait no longer than this.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a value of a descriptor comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DescriptorSource {
    /// It is always the same.
    Constant(Arc<str>),
    /// The call says it.
    Call(Per),
}

/// What of calls is counted together: keys and their values.
pub type Counted = Vec<(Arc<str>, DescriptorSource)>;

/// How a server is asked, and what its silence means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whose limits these are.
    pub domain: String,
    /// What is counted; a call that lacks a value of one is not counted by that.
    pub descriptors: Vec<Counted>,
    /// A call is refused where the server does not answer.
    pub failure_mode_deny: bool,
}

/// How many calls there may be, as another server says.
pub type RateLimitService = Asks<Policy>;

/// A value of a descriptor for calls of one kind.
pub(super) enum Value {
    Known(String),
    Read(Per),
}

pub(super) fn value(source: &DescriptorSource, target: &Target<'_>) -> Value {
    let known = |text: &str| Value::Known(cut(text, VALUE).to_owned());
    match source {
        DescriptorSource::Constant(text) => known(text),
        DescriptorSource::Call(Per::Listener) => known(target.listener),
        DescriptorSource::Call(Per::Route) => known(target.route),
        DescriptorSource::Call(Per::Service) => known(target.service),
        DescriptorSource::Call(Per::Method) => known(target.method),
        DescriptorSource::Call(other) => Value::Read(other.clone()),
    }
}

/// What a call is told whose rate no server tells: nobody knows whether the caller used up anything.
pub(super) fn rate_unknown() -> Refusal {
    let mut undecided = Refusal::new(Rejection::Overloaded, &Arc::from(""));
    undecided.text = "its rate cannot be told".into();
    undecided
}

impl AskingPolicy for Policy {
    const KIND: &'static str = "rate_limit_service";

    fn passes_unanswered(&self) -> bool {
        !self.failure_mode_deny
    }

    fn undecided(&self) -> Option<Refusal> {
        Some(rate_unknown())
    }

    fn check(
        self: &Arc<Self>,
        server: &Arc<Server>,
        target: &Target<'_>,
        tally: &Tally,
    ) -> Rc<dyn Check> {
        let descriptors = self.descriptors.iter().map(|entries| {
            let entries = entries.iter();
            let own = entries.map(|(key, source)| (key.clone(), value(source, target)));
            own.collect()
        });
        Rc::new(Counting {
            domain: self.domain.clone(),
            server: server.clone(),
            descriptors: descriptors.collect(),
            judge: Rc::new(Judge(Counts::new(&**self, server, tally))),
        })
    }

    fn describe(&self, asks: String) -> Vec<String> {
        let mut lines = vec![format!("{asks}, in the domain {}", self.domain)];
        lines.extend(self.descriptors.iter().map(|entries| {
            let entries: Vec<String> = entries.iter().map(words).collect();
            format!("counts by {}", entries.join(", "))
        }));
        lines
    }
}

pub(super) fn words((key, source): &(Arc<str>, DescriptorSource)) -> String {
    match source {
        DescriptorSource::Constant(text) => format!("{key}={text}"),
        DescriptorSource::Call(Per::Attribute(name)) => format!("{key} (attribute {name})"),
        DescriptorSource::Call(per) => format!("{key} ({})", format!("{per:?}").to_lowercase()),
    }
}

impl Value {
    /// What it is for a call; `None` if the call lacks it.
    pub(super) fn of(&self, asked: &mut Asked<'_, '_>) -> Option<String> {
        match self {
            Self::Known(text) => Some(text.clone()).filter(|own| !own.is_empty()),
            Self::Read(per) => read(per, asked),
        }
    }
}

/// What is asked about calls of one kind, in one worker.
struct Counting {
    domain: String,
    server: Arc<Server>,
    descriptors: Vec<Vec<(Arc<str>, Value)>>,
    judge: Rc<Judge>,
}

fn read(per: &Per, asked: &mut Asked<'_, '_>) -> Option<String> {
    let text = match per {
        Per::Source => asked.source.to_string(),
        Per::Identity => asked.client?.text().to_owned(),
        Per::Attribute(name) => cut(&asked.attribute(name)?, VALUE).to_owned(),
        Per::Listener | Per::Route | Per::Service | Per::Method | Per::Topic => return None,
    };
    (!text.is_empty()).then_some(text)
}

impl Counting {
    /// A descriptor of a call; `None` if the call lacks a value of it.
    fn descriptor(entries: &[(Arc<str>, Value)], asked: &mut Asked<'_, '_>) -> Option<Descriptor> {
        let entries = entries.iter().map(|(key, value)| {
            Some(Entry {
                key: key.to_string(),
                value: value.of(asked)?,
            })
        });
        let entries: Option<Vec<Entry>> = entries.collect();
        entries.map(|entries| Descriptor { entries })
    }
}

impl Check for Counting {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        let values = self.descriptors.iter().flatten();
        if let Some(refusal) = doubted(values.map(|(_, value)| value), asked) {
            return Flow::Refuse(refusal);
        }
        let descriptors = self.descriptors.iter();
        let descriptors = descriptors.filter_map(|own| Self::descriptor(own, asked));
        let descriptors: Vec<Descriptor> = descriptors.collect();
        if descriptors.is_empty() {
            return Flow::Continue;
        }
        let question = RateLimitRequest {
            domain: self.domain.clone(),
            descriptors,
            hits_addend: 1,
        };
        let question = Framed::of(&question);
        let answer = self.server.ask(METHOD, asked.source, question);
        asking::wait(&self.judge, answer)
    }
}

/// What was decided about rates, and how often.
pub(super) struct Counts {
    pub(super) outcomes: Outcomes,
    limited: Arc<AtomicU64>,
}

impl Counts {
    pub(super) fn new(policy: &impl AskingPolicy, server: &Arc<Server>, tally: &Tally) -> Self {
        Self {
            outcomes: Outcomes::new(policy, server, tally),
            limited: tally.count(&Arc::from(""), "limited"),
        }
    }

    /// It is over a limit, for so long.
    pub(super) fn limited(&self, retry_after: Option<Duration>) -> Decided {
        self.limited.fetch_add(1, Relaxed);
        let mut refusal = Refusal::new(Rejection::Limited, &Arc::from(""));
        refusal.retry_after = retry_after;
        Decided {
            refusal: Some(refusal),
            ..Decided::default()
        }
    }
}

/// Why a call cannot be counted by one of these, where it says in two ways what that is.
pub(super) fn doubted<'a>(
    mut values: impl Iterator<Item = &'a Value>,
    asked: &mut Asked<'_, '_>,
) -> Option<Refusal> {
    values.find_map(|value| match value {
        Value::Read(Per::Attribute(name)) => asked.doubt(name, &Arc::from("")),
        Value::Read(_) | Value::Known(_) => None,
    })
}

/// Makes a decision of an answer.
struct Judge(Counts);

impl asking::Judge for Judge {
    type Answer = RateLimitResponse;

    fn outcomes(&self) -> &Outcomes {
        &self.0.outcomes
    }

    async fn judge(&self, answer: RateLimitResponse) -> Decided {
        let outcomes = &self.0.outcomes;
        // One that says nothing is none.
        let silent = |why: String| outcomes.silent(&Trouble::Failed(why.into()));
        match answer.overall_code {
            OK => match edits(answer.request_headers_to_add.iter(), [].iter()) {
                Ok(edits) => outcomes.allowed(edits),
                Err(what) => silent(format!("its answer has {what}")),
            },
            OVER_LIMIT => self.0.limited(until_reset(&answer)),
            other => silent(format!("its answer has the code {other}")),
        }
    }
}

/// When the last of the limits that are reached begins anew.
fn until_reset(answer: &RateLimitResponse) -> Option<Duration> {
    let reached = answer.statuses.iter().filter(|own| own.code == OVER_LIMIT);
    let resets = reached.filter_map(|own| {
        let own = own.duration_until_reset.as_ref()?;
        let seconds = u64::try_from(own.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(own.nanos).ok()?).min(LONGEST))
    });
    resets.max()
}
