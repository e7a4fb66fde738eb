//! Filters that ask a server: the question, and what no answer means.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use finback_core::filter::{
    Check, Decided, Edits, Filter, Flow, Refusal, Tally, Target, Wait, same,
};

use super::server::{Server, Trouble};

/// What a server is asked, as configured.
pub trait AskingPolicy: PartialEq + fmt::Debug + Send + Sync + 'static {
    /// What the configuration calls it.
    const KIND: &'static str;

    /// Whether calls pass where the server does not answer.
    fn passes_unanswered(&self) -> bool;

    /// What a call is told about which nothing was decided; `None` if it passes all the same.
    fn undecided(&self) -> Option<Refusal>;

    /// How it asks `server` about calls of this kind.
    fn check(
        self: &Arc<Self>,
        server: &Arc<Server>,
        target: &Target<'_>,
        tally: &Tally,
    ) -> Rc<dyn Check>;

    /// Its rules in words, what silence means left out; `asks` says whom it asks.
    fn describe(&self, asks: String) -> Vec<String>;
}

/// A policy, and the server that has to say what comes of it.
#[derive(Debug)]
pub struct Asks<P> {
    policy: Arc<P>,
    server: Arc<Server>,
}

impl<P: AskingPolicy> Asks<P> {
    /// As this server says.
    #[must_use]
    pub fn new(policy: P, server: Arc<Server>) -> Self {
        let policy = Arc::new(policy);
        Self { policy, server }
    }
}

impl<P: AskingPolicy> Filter for Asks<P> {
    fn kind(&self) -> &'static str {
        P::KIND
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        Some(self.policy.check(&self.server, target, tally))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| {
            own.policy == other.policy && own.server.settings() == other.server.settings()
        })
    }

    fn describe(&self) -> Vec<String> {
        let settings = self.server.settings();
        let (timeout, places) = (settings.timeout, settings.in_flight);
        let asks = format!("asks {settings}, for up to {timeout:?}, {places} calls at a time");
        let mut lines = self.policy.describe(asks);
        let unanswered = match self.policy.passes_unanswered() {
            true => "calls pass where it does not answer",
            false => "calls are refused where it does not answer",
        };
        lines.push(unanswered.to_owned());
        lines
    }
}

/// What comes of a server's answers, and of its silence, in one worker.
pub(super) struct Outcomes {
    server: Arc<Server>,
    allowed: Arc<AtomicU64>,
    error: Arc<AtomicU64>,
    error_allowed: Arc<AtomicU64>,
    /// Calls pass where it does not answer.
    passes: bool,
    /// What a call is told about which nothing was decided; `None` if it passes all the same.
    undecided: Option<Refusal>,
}

impl Outcomes {
    pub(super) fn new(policy: &impl AskingPolicy, server: &Arc<Server>, tally: &Tally) -> Self {
        let count = |decision| tally.count(&Arc::from(""), decision);
        Self {
            server: server.clone(),
            allowed: count("allowed"),
            error: count("error"),
            error_allowed: count("error_allowed"),
            passes: policy.passes_unanswered(),
            undecided: policy.undecided(),
        }
    }

    /// It may pass, changed so.
    pub(super) fn allowed(&self, edits: Edits) -> Decided {
        self.allowed.fetch_add(1, Relaxed);
        Decided {
            edits,
            refusal: None,
        }
    }

    /// What comes of no answer, or of one that says nothing.
    pub(super) fn silent(&self, trouble: &Trouble) -> Decided {
        Decided {
            refusal: self.silence(trouble),
            ..Decided::default()
        }
    }

    /// What no answer means.
    pub(super) fn silence(&self, trouble: &Trouble) -> Option<Refusal> {
        self.server.complain(trouble);
        if self.passes {
            self.error_allowed.fetch_add(1, Relaxed);
            return None;
        }
        self.undecided()
    }

    /// What cannot be asked about, or an answer that may not be: refused, whatever silence means.
    pub(super) fn misled(&self, why: &str) -> Option<Refusal> {
        self.server.complain(&why);
        self.undecided()
    }

    fn undecided(&self) -> Option<Refusal> {
        self.error.fetch_add(1, Relaxed);
        self.undecided.clone()
    }
}

/// Makes decisions of answers.
pub(super) trait Judge: 'static {
    /// What the server answers.
    type Answer;

    fn outcomes(&self) -> &Outcomes;

    /// What comes of an answer; it may have the call wait.
    fn judge(&self, answer: Self::Answer) -> impl Future<Output = Decided>;
}

/// Has a call wait for the answer to what was asked about it.
pub(super) fn wait<J: Judge>(
    judge: &Rc<J>,
    asked: Result<impl Future<Output = Result<J::Answer, Trouble>> + 'static, Trouble>,
) -> Flow {
    let answer = match asked {
        Ok(answer) => answer,
        Err(trouble) => {
            let refusal = judge.outcomes().silence(&trouble);
            return refusal.map_or(Flow::Continue, Flow::Refuse);
        }
    };
    let judge = judge.clone();
    let wait: Wait = Box::pin(async move {
        match answer.await {
            Ok(answer) => judge.judge(answer).await,
            Err(trouble) => judge.outcomes().silent(&trouble),
        }
    });
    Flow::Wait(wait)
}
