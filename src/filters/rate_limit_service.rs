//! Global rate limits: another server counts the calls of many, by Envoy's protocol
//! (`envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use finback_core::filter::rate_limit::Per;
use finback_core::filter::{Asked, Check, Decided, Filter, Flow, Refusal, Tally, Target, same};
use finback_core::rejection::Rejection;
use finback_core::text::cut;

use super::answers::edits;
use super::asking::{self, Asks, Outcomes};
use super::messages::{Descriptor, Entry, RateLimitRequest, RateLimitResponse};
use super::server::{Server, Trouble};

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
#[derive(Debug)]
pub struct RateLimitService(Asks<Policy>);

impl RateLimitService {
    /// As this server says.
    #[must_use]
    pub fn new(policy: Policy, server: Arc<Server>) -> Self {
        Self(Asks::new(policy, server))
    }
}

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

impl Filter for RateLimitService {
    fn kind(&self) -> &'static str {
        "rate_limit_service"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let Asks { policy, server } = &self.0;
        let none = Arc::from("");
        // Nobody knows whether the caller used up anything.
        let mut undecided = Refusal::new(Rejection::Overloaded, &none);
        undecided.text = "its rate cannot be told".into();
        let passes = !policy.failure_mode_deny;
        let descriptors = policy.descriptors.iter().map(|entries| {
            let entries = entries.iter();
            let own = entries.map(|(key, source)| (key.clone(), value(source, target)));
            own.collect()
        });
        Some(Rc::new(Counting {
            domain: policy.domain.clone(),
            descriptors: descriptors.collect(),
            judge: Rc::new(Judge {
                outcomes: Outcomes::new(server, tally, passes, Some(undecided)),
                limited: tally.count(&none, "limited"),
                none,
            }),
        }))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| own.0.is_same(&other.0))
    }

    fn describe(&self) -> Vec<String> {
        let policy = &self.0.policy;
        let mut lines = vec![format!(
            "{}, in the domain {}",
            self.0.describe(),
            policy.domain
        )];
        lines.extend(policy.descriptors.iter().map(|entries| {
            let entries: Vec<String> = entries.iter().map(words).collect();
            format!("counts by {}", entries.join(", "))
        }));
        let silent = match policy.failure_mode_deny {
            true => "calls are refused where it does not answer",
            false => "calls pass where it does not answer",
        };
        lines.push(silent.to_owned());
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
        for (_, value) in self.descriptors.iter().flatten() {
            if let Value::Read(Per::Attribute(name)) = value
                && let Some(refusal) = asked.doubt(name, &self.judge.none)
            {
                return Flow::Refuse(refusal);
            }
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
        asking::ask(&self.judge, asked, &question)
    }
}

/// Makes a decision of an answer.
struct Judge {
    outcomes: Outcomes,
    limited: Arc<AtomicU64>,
    none: Arc<str>,
}

impl Judge {
    /// One that says nothing is none.
    fn silent(&self, why: String) -> Decided {
        Decided {
            refusal: self.outcomes.silence(&Trouble::Failed(why.into())),
            ..Decided::default()
        }
    }
}

impl asking::Judge for Judge {
    const METHOD: &'static str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    type Answer = RateLimitResponse;

    fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    fn judge(&self, answer: RateLimitResponse) -> Decided {
        match answer.overall_code {
            OK => match edits(answer.request_headers_to_add.iter(), [].iter()) {
                Ok(edits) => self.outcomes.allowed(edits),
                Err(what) => self.silent(format!("its answer has {what}")),
            },
            OVER_LIMIT => {
                self.limited.fetch_add(1, Relaxed);
                let mut refusal = Refusal::new(Rejection::Limited, &self.none);
                refusal.retry_after = until_reset(&answer);
                Decided {
                    refusal: Some(refusal),
                    ..Decided::default()
                }
            }
            other => self.silent(format!("its answer has the code {other}")),
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
