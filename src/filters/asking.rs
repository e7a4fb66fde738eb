//! Filters that ask a server: the question, and what no answer means.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use finback_core::filter::{Asked, Decided, Edits, Flow, Refusal, Tally, Wait};
use prost::Message;

use super::server::{Framed, Server, Trouble};

/// A policy, and the server that has to say what comes of it.
#[derive(Debug)]
pub(super) struct Asks<P> {
    pub(super) policy: Arc<P>,
    pub(super) server: Arc<Server>,
}

impl<P: PartialEq> Asks<P> {
    pub(super) fn new(policy: P, server: Arc<Server>) -> Self {
        let policy = Arc::new(policy);
        Self { policy, server }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.policy == other.policy && self.server.settings() == other.server.settings()
    }

    /// Whom it asks, for an operator.
    pub(super) fn describe(&self) -> String {
        let settings = self.server.settings();
        let (timeout, places) = (settings.timeout, settings.in_flight);
        format!("asks {settings}, for up to {timeout:?}, {places} calls at a time")
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
    pub(super) fn new(
        server: &Arc<Server>,
        tally: &Tally,
        passes: bool,
        undecided: Option<Refusal>,
    ) -> Self {
        let count = |decision| tally.count(&Arc::from(""), decision);
        Self {
            server: server.clone(),
            allowed: count("allowed"),
            error: count("error"),
            error_allowed: count("error_allowed"),
            passes,
            undecided,
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
    /// The method that is called (gRPC over HTTP/2, "Path").
    const METHOD: &'static str;
    /// What it answers.
    type Answer: Message + Default;

    fn outcomes(&self) -> &Outcomes;

    fn judge(&self, answer: Self::Answer) -> Decided;
}

/// Asks about a call, which waits for the answer.
pub(super) fn ask<J: Judge>(judge: &Rc<J>, asked: &Asked<'_, '_>, question: &impl Message) -> Flow {
    let server = &judge.outcomes().server;
    let answer = server.ask::<J::Answer>(J::METHOD, asked.source, Framed::of(question));
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) => {
            let refusal = judge.outcomes().silence(&trouble);
            return refusal.map_or(Flow::Continue, Flow::Refuse);
        }
    };
    let judge = judge.clone();
    let wait: Wait = Box::pin(async move {
        match answer.await {
            Ok(answer) => judge.judge(answer),
            Err(trouble) => Decided {
                refusal: judge.outcomes().silence(&trouble),
                ..Decided::default()
            },
        }
    });
    Flow::Wait(wait)
}
