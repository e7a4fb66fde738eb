//! Global rate limits by a token server of Sentinel: a call asks for a token of a rule that stands there.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use finback_core::filter::{Asked, Check, Decided, Edits, Flow, Refusal, Tally, Target};

use super::asking::{self, AskingPolicy, Asks, Outcomes};
use super::rate_limit_service::{
    Counts, DescriptorSource, Value, doubted, rate_unknown, value, words,
};
use super::server::{Server, Trouble};
use super::token_server::{FLOW, PARAM_FLOW, flow};

/// What a token server says of a request.
const OK: i8 = 0;
const BLOCKED: i8 = 1;
const SHOULD_WAIT: i8 = 2;
const NO_RULE: i8 = 3;
const TOO_MANY: i8 = -2;

/// How a token server is asked, and what its silence means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The number of the rule.
    pub rule: i64,
    /// Values of which each has a limit of its own there (a rule for parameters); a call that lacks one is not counted.
    pub values: Vec<DescriptorSource>,
    /// A call over the limit may take a token of the time to come, and waits for it.
    pub prioritized: bool,
    /// A call is refused where the server does not answer, or knows no such rule.
    pub failure_mode_deny: bool,
}

/// How many calls there may be, as a token server of Sentinel says.
pub type Sentinel = Asks<Policy>;

impl AskingPolicy for Policy {
    const KIND: &'static str = "sentinel";

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
        let values = self.values.iter().map(|own| value(own, target));
        Rc::new(Counting {
            policy: self.clone(),
            server: server.clone(),
            values: values.collect(),
            judge: Rc::new(Judge(Counts::new(&**self, server, tally))),
        })
    }

    fn describe(&self, asks: String) -> Vec<String> {
        let mut lines = vec![format!("{asks}, for a token of the rule {}", self.rule)];
        if !self.values.is_empty() {
            let key = Arc::from("value");
            let values = self.values.iter();
            let values = values.map(|own| words(&(Arc::clone(&key), own.clone())));
            let values: Vec<String> = values.collect();
            lines.push(format!("counts by {}", values.join(", ")));
        }
        lines
    }
}

/// What is asked about calls of one kind, in one worker.
struct Counting {
    policy: Arc<Policy>,
    server: Arc<Server>,
    values: Vec<Value>,
    judge: Rc<Judge>,
}

impl Check for Counting {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        if let Some(refusal) = doubted(self.values.iter(), asked) {
            return Flow::Refuse(refusal);
        }
        let values: Option<Vec<String>> = self.values.iter().map(|own| own.of(asked)).collect();
        let Some(values) = values else {
            return Flow::Continue;
        };
        let policy = &self.policy;
        let values = (!values.is_empty()).then_some(&values[..]);
        let said = flow(policy.rule, 1, values, policy.prioritized);
        let told = self.server.ask_for_token(asked.source, said);
        let told = told.map(|told| async move { Told::read(&told.await?) });
        asking::wait(&self.judge, told)
    }
}

/// An answer: its status, and how long is to be waited where that is what it says.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    status: i8,
    wait: Duration,
}

impl Told {
    /// Reads what follows an answer's number: kind, status, tokens left and milliseconds to wait.
    fn read(answer: &Bytes) -> Result<Self, Trouble> {
        let mut answer = &answer[..];
        if answer.len() < 2 || ![FLOW, PARAM_FLOW].contains(&answer.get_u8()) {
            return Err(Trouble::Failed("its answer is of another kind".into()));
        }
        let status = answer.get_i8();
        // A server that has nothing to say of them leaves them out.
        let millis = answer.get(4..8).and_then(|own| own.try_into().ok());
        let millis = millis.map_or(0, u32::from_be_bytes);
        Ok(Self {
            status,
            wait: Duration::from_millis(millis.into()),
        })
    }
}

/// Makes a decision of an answer.
struct Judge(Counts);

impl asking::Judge for Judge {
    type Answer = Told;

    fn outcomes(&self) -> &Outcomes {
        &self.0.outcomes
    }

    async fn judge(&self, told: Told) -> Decided {
        let silent = |why: String| self.0.outcomes.silent(&Trouble::Failed(why.into()));
        match told.status {
            OK => self.0.outcomes.allowed(Edits::default()),
            SHOULD_WAIT => {
                // The call's own time bounds it.
                tokio::time::sleep(told.wait).await;
                self.0.outcomes.allowed(Edits::default())
            }
            BLOCKED => self.0.limited(None),
            NO_RULE => silent("it has no such rule".to_owned()),
            TOO_MANY => silent("it is asked too often".to_owned()),
            other => silent(format!("it answers {other}")),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_sentinels_server_writes_them() {
        let told = |bytes: &'static [u8]| Told::read(&Bytes::from_static(bytes));
        let wait = Duration::from_millis(300);
        let status = |status| Told {
            status,
            wait: Duration::ZERO,
        };
        assert_eq!(told(&[1, 0, 0, 0, 0, 9, 0, 0, 0, 0]).unwrap(), status(0));
        assert_eq!(told(&[2, 1]).unwrap(), status(1));
        assert_eq!(told(&[1, 254]).unwrap(), status(-2));
        let late = told(&[1, 2, 0, 0, 0, 0, 0, 0, 1, 44]).unwrap();
        assert_eq!((late.status, late.wait), (2, wait));
        assert!(told(&[0, 0]).is_err() && told(&[1]).is_err() && told(&[]).is_err());
    }
}
