//! Filters: policies that decide about calls of every protocol alike. The port, and the filters that need
//! nothing but what a call says.
//!
//! A filter is configured once, by name, and listeners and routes name those that their calls pass, in order.
//! Each worker asks it once for every kind of call what it does with them ([`Filter::at`]): what is equal for all of
//! a kind is decided there, and a [`Check`] is left with what differs.
//!
//! The laws of a filter, checked by [`conformance::check`]:
//!
//! * *the same for all*: asked twice of equal calls at one moment, checks made for equal targets answer alike, unless
//!   the first answer used something up;
//! * *closed*: what cannot be decided is refused, never let pass;
//! * *bounded*: whatever callers write, what is remembered of them has a bound;
//! * *prompt*: nothing blocks. What takes time is [waited](Flow::Wait) for, and the wait has an end.

pub mod authorization;
pub mod fault;
pub mod lane;
pub mod rate_limit;
pub mod strip;

pub mod conformance;
mod decisions;
mod edits;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
mod waiting;

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Now};
use crate::identity::Identity;
use crate::record::{Record, TraceId};
use crate::rejection::Rejection;

pub use decisions::{DecisionKey, Decisions, Tally};
pub use edits::{Claims, Edits};
pub use waiting::WaitingRoom;

/// What a filter is asked about: all that calls of one kind have in common.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The protocol's name.
    pub protocol: &'a str,
    /// The listener that they come in by.
    pub listener: &'a Arc<str>,
    /// The route that they take.
    pub route: &'a Arc<str>,
    /// The service.
    pub service: &'a str,
    /// The method.
    pub method: &'a str,
    /// The service's version, "" for none.
    pub version: &'a str,
    /// The service's group, "" for none.
    pub group: &'a str,
}

/// A policy, as configured; shared by all workers.
pub trait Filter: Any + fmt::Debug + Send + Sync {
    /// What kind of policy it is, as the configuration calls it.
    fn kind(&self) -> &'static str;

    /// What it does with calls of this kind; `None` if it does nothing with any. `tally` counts what it decides,
    /// under its configured name.
    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>>;

    /// Whether `other` does the same, so that it may go on in its place with what it remembers.
    fn is_same(&self, other: &dyn Filter) -> bool;

    /// Its rules in words, for an operator who asks.
    fn describe(&self) -> Vec<String>;
}

/// Whether two filters are of one type and alike; of two types they never are. The one place where a filter's type is asked
/// for.
#[must_use]
pub fn same<F: Filter>(one: &F, other: &dyn Filter, alike: impl FnOnce(&F, &F) -> bool) -> bool {
    let other: &dyn Any = other;
    other
        .downcast_ref::<F>()
        .is_some_and(|other| alike(one, other))
}

/// What a filter does with calls of one kind, in one worker.
pub trait Check {
    /// A call was opened and has a route; nothing is sent yet.
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow;

    /// A message within a session that was let pass.
    fn message(&self, asked: &mut Asked<'_, '_>, message: &Message<'_>) -> MessageFlow {
        let _ = (asked, message);
        MessageFlow::Continue
    }

    /// A session that was let pass is still there after the configuration has changed: why it has to end now, if
    /// it has to.
    fn renew(&self, asked: &mut Asked<'_, '_>) -> Option<Refusal> {
        let _ = asked;
        None
    }

    /// A call that was let pass has ended.
    fn end(&self, record: &Record<'_>) {
        let _ = record;
    }
}

/// Before the name of an attribute, it asks a protocol what else may be read there: each reading in a line of its own,
/// where a call says it more than once or in a way that servers read differently; nothing, where all read the same.
pub const READINGS: char = '\n';

/// In place of the name of an attribute, it asks a protocol whether a call is of a kind that can be given none: then it
/// answers something.
pub const BARE: &str = "\r";

/// One call, or the call by which a session began, as a filter sees it.
pub struct Asked<'a, 'b> {
    /// The moment.
    pub now: Now,
    /// Who calls.
    pub source: IpAddr,
    /// Who that is by its certificate.
    pub client: Option<&'a Identity>,
    /// What is changed about the call.
    pub edits: &'a mut Edits,
    /// For timers.
    pub clock: Clock,
    /// The trace that it is written down in, if that is known already.
    pub trace: TraceId,
    pub(crate) attributes: &'a mut dyn FnMut(&str) -> Option<Cow<'b, str>>,
    pub(crate) random: &'a mut dyn FnMut() -> u64,
}

impl Asked<'_, '_> {
    /// An attribute (header, attachment, user property) of the call, as filters before this one left it.
    #[must_use]
    pub fn attribute(&mut self, name: &str) -> Option<Cow<'_, str>> {
        // No caller proves anything by writing it there.
        if let Some(claim) = edits::claim(name) {
            return self.edits.claimed(claim).map(Cow::Borrowed);
        }
        if let Some(edited) = self.edits.get(name) {
            return (!edited.is_empty()).then(|| Cow::Owned(edited.to_owned()));
        }
        (self.attributes)(name)
    }

    /// Whether nothing can be written into calls of its kind: none of them says anything to whoever it reaches.
    #[must_use]
    pub fn bears_nothing(&mut self) -> bool {
        (self.attributes)(BARE).is_some()
    }

    /// What else its endpoint may read there than [`attribute`](Self::attribute) gives, each in a line of its own.
    /// Whoever refuses by what it says refuses by any of these; whoever lets pass has all of them say so.
    #[must_use]
    pub fn readings(&mut self, name: &str) -> Option<Cow<'_, str>> {
        let is_ours = edits::claim(name).is_some() || self.edits.get(name).is_some();
        if is_ours {
            return None;
        }
        (self.attributes)(&format!("{READINGS}{name}"))
    }

    /// Why a call cannot be judged by an attribute, if its endpoint may read something else there.
    #[must_use]
    pub fn doubt(&mut self, name: &str, rule: &Arc<str>) -> Option<Refusal> {
        self.readings(name)?;
        let mut refusal = Refusal::new(Rejection::BadRequest, rule);
        refusal.text = "what it is judged by stands in it more than once".into();
        Some(refusal)
    }

    /// A random number.
    pub fn random(&mut self) -> u64 {
        (self.random)()
    }

    /// Has the call go on at a later moment.
    #[must_use]
    pub fn wait_until(&self, moment: Now) -> Flow {
        let moment = self.clock.instant(moment);
        Flow::Wait(Box::pin(async move {
            tokio::time::sleep_until(moment).await;
            Decided::default()
        }))
    }
}

/// What is done with a message within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It goes to the topic.
    Publish,
    /// The topics of a filter are asked for.
    Subscribe,
}

impl Action {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// How topics and filters of topics of one protocol are compared.
#[derive(Debug)]
pub struct Topics {
    /// Whether a filter brings all that a topic, or another filter, stands for.
    pub covers: fn(&str, &str) -> bool,
    /// Whether some topic is brought by both filters, or could be by another spelling of the second.
    pub meets: fn(&str, &str) -> bool,
}

/// A message within a session.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// How its protocol compares topics.
    pub topics: &'static Topics,
    /// What is done with it.
    pub action: Action,
    /// Its topic, or the filter of the topics that are asked for, as the client names it.
    pub topic: &'a str,
    /// Bytes of its payload.
    pub bytes: usize,
}

/// What a filter makes of a call.
pub enum Flow {
    /// It goes on.
    Continue,
    /// It is answered here.
    Refuse(Refusal),
    /// It goes on, or is refused, when this is ready. Whoever waits bounds it by the call's deadline.
    Wait(Wait),
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Continue => f.write_str("Continue"),
            Self::Refuse(refusal) => f.debug_tuple("Refuse").field(refusal).finish(),
            Self::Wait(_) => f.write_str("Wait"),
        }
    }
}

/// What a filter makes of a message within a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageFlow {
    /// It goes on.
    Continue,
    /// It goes on, and its sender is not read before this moment.
    Pause(Now),
    /// It goes nowhere, and its sender is told so where its protocol has a word for that.
    Refuse(Refusal),
}

/// What a call waits for before it goes on; dropped when its caller is gone.
pub type Wait = Pin<Box<dyn Future<Output = Decided>>>;

/// What came of waiting.
#[derive(Debug, Default)]
pub struct Decided {
    /// What is changed about the call.
    pub edits: Edits,
    /// Why it goes no further, if it does not.
    pub refusal: Option<Refusal>,
}

/// Why a call goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub why: Rejection,
    /// The rule that decided; "" if it is what holds where no rule does.
    pub rule: Arc<str>,
    /// More about it for the caller; "" for nothing more.
    pub text: Cow<'static, str>,
    /// When it may try again, if that is known.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// For this reason, with nothing more to say.
    #[must_use]
    pub fn new(why: Rejection, rule: &Arc<str>) -> Self {
        Self {
            why,
            rule: rule.clone(),
            text: Cow::Borrowed(""),
            retry_after: None,
        }
    }
}

/// A check by the name of its filter.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) name: Arc<str>,
    pub(crate) check: Rc<dyn Check>,
}

/// What is done where a filter is asked for that is not there.
struct Nobody;

impl Check for Nobody {
    fn open(&self, _: &mut Asked<'_, '_>) -> Flow {
        Flow::Refuse(Refusal::new(Rejection::Denied, &Arc::from("")))
    }

    fn message(&self, _: &mut Asked<'_, '_>, _: &Message<'_>) -> MessageFlow {
        MessageFlow::Refuse(Refusal::new(Rejection::Denied, &Arc::from("")))
    }

    // A filter that was taken out of the configuration ends nobody.
}

/// The check in the place of a filter that is not there: it refuses everything.
pub(crate) fn nobody() -> Rc<dyn Check> {
    Rc::new(Nobody)
}
