//! Global rate limits by a token server of Sentinel: a call asks for a token of a rule that stands there.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, Bytes};
use finback_core::filter::rate_limit::Per;
use finback_core::filter::{
    Asked, Check, Decided, Edits, Filter, Flow, Refusal, Tally, Target, Wait, same,
};
use finback_core::rejection::Rejection;

use super::asking::{Asks, Outcomes};
use super::rate_limit_service::{DescriptorSource, Value, value, words};
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
#[derive(Debug)]
pub struct Sentinel(Asks<Policy>);

impl Sentinel {
    /// As this server says.
    #[must_use]
    pub fn new(policy: Policy, server: Arc<Server>) -> Self {
        Self(Asks::new(policy, server))
    }
}

impl Filter for Sentinel {
    fn kind(&self) -> &'static str {
        "sentinel"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let Asks { policy, server } = &self.0;
        let none = Arc::from("");
        let mut undecided = Refusal::new(Rejection::Overloaded, &none);
        undecided.text = "its rate cannot be told".into();
        let values = policy.values.iter().map(|own| value(own, target));
        Some(Rc::new(Counting {
            policy: policy.clone(),
            server: server.clone(),
            values: values.collect(),
            judge: Rc::new(Judge {
                outcomes: Outcomes::new(server, tally, !policy.failure_mode_deny, Some(undecided)),
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
            "{}, for a token of the rule {}",
            self.0.describe(),
            policy.rule
        )];
        if !policy.values.is_empty() {
            let key = Arc::from("value");
            let values = policy
                .values
                .iter()
                .map(|own| words(&(Arc::clone(&key), own.clone())));
            let values: Vec<String> = values.collect();
            lines.push(format!("counts by {}", values.join(", ")));
        }
        let silent = match policy.failure_mode_deny {
            true => "calls are refused where it does not answer",
            false => "calls pass where it does not answer",
        };
        lines.push(silent.to_owned());
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
        for value in &self.values {
            if let Value::Read(Per::Attribute(name)) = value
                && let Some(refusal) = asked.doubt(name, &self.judge.none)
            {
                return Flow::Refuse(refusal);
            }
        }
        let values: Option<Vec<String>> = self.values.iter().map(|own| own.of(asked)).collect();
        let Some(values) = values else {
            return Flow::Continue;
        };
        let policy = &self.policy;
        let values = (!values.is_empty()).then_some(&values[..]);
        let said = flow(policy.rule, 1, values, policy.prioritized);
        let told = match self.server.ask_for_token(asked.source, said) {
            Ok(told) => told,
            Err(trouble) => {
                let refusal = self.judge.outcomes.silence(&trouble);
                return refusal.map_or(Flow::Continue, Flow::Refuse);
            }
        };
        let judge = self.judge.clone();
        let wait: Wait = Box::pin(async move {
            match told.await.and_then(|answer| Told::read(&answer)) {
                Ok(told) => judge.judge(told).await,
                Err(trouble) => judge.silent(trouble),
            }
        });
        Flow::Wait(wait)
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
struct Judge {
    outcomes: Outcomes,
    limited: Arc<AtomicU64>,
    none: Arc<str>,
}

impl Judge {
    async fn judge(&self, told: Told) -> Decided {
        match told.status {
            OK => self.outcomes.allowed(Edits::default()),
            SHOULD_WAIT => {
                // The call's own time bounds it.
                tokio::time::sleep(told.wait).await;
                self.outcomes.allowed(Edits::default())
            }
            BLOCKED => {
                self.limited.fetch_add(1, Relaxed);
                Decided {
                    refusal: Some(Refusal::new(Rejection::Limited, &self.none)),
                    ..Decided::default()
                }
            }
            NO_RULE => self.silent(Trouble::Failed("it has no such rule".into())),
            TOO_MANY => self.silent(Trouble::Failed("it is asked too often".into())),
            other => self.silent(Trouble::Failed(format!("it answers {other}").into())),
        }
    }

    /// What is no answer.
    fn silent(&self, trouble: Trouble) -> Decided {
        Decided {
            refusal: self.outcomes.silence(&trouble),
            ..Decided::default()
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
