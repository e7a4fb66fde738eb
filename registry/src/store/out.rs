//! Answers of a query: where a store puts them, and what it reports when it gets no more.
//!
//! A failure to read is no answer: what was answered last stays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;

use super::followed::Latest;
use super::{Answer, Entries, Query};
use crate::lock;

/// What cannot be read any more, by the number of its [`Out`].
pub(super) type Troubles = Arc<Mutex<HashMap<u64, Trouble>>>;

/// A query that was answered once and cannot be now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    /// The servers do not let us; else they answer with another error.
    pub(crate) refused: bool,
    /// Since when.
    pub(crate) since: Instant,
}

/// Where the answers of one query go.
pub(crate) struct Out {
    latest: Arc<Latest>,
    troubles: Troubles,
    number: u64,
    is_troubled: AtomicBool,
}

impl Drop for Out {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Out {
    pub(super) fn new(latest: Arc<Latest>, troubles: Troubles) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            latest,
            troubles,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            is_troubled: AtomicBool::new(false),
        }
    }

    pub(crate) fn publish(&self, answer: Answer) {
        self.settle();
        self.latest.set(answer);
    }

    /// The servers do not let us read it: whoever never could is told so, and whoever could keeps
    /// what there was.
    pub(super) fn refuse(&self, query: &Query) {
        let knows = self.knows();
        forbidden(query, knows);
        if knows {
            self.trouble(true);
        } else {
            self.publish(Answer::Refused);
        }
    }

    /// It cannot be read now.
    pub(super) fn fail(&self) {
        if self.knows() {
            self.trouble(false);
        }
    }

    /// What was answered last, if that was a list.
    pub(super) fn entries(&self) -> Arc<Entries> {
        self.latest.with(|answer| match answer {
            Some(Answer::Entries(entries)) => entries.clone(),
            _ => Arc::default(),
        })
    }

    /// Whether there was an answer.
    fn knows(&self) -> bool {
        let is_answer = |answer: Option<&Answer>| !matches!(answer, None | Some(Answer::Refused));
        self.latest.with(is_answer)
    }

    fn trouble(&self, refused: bool) {
        self.is_troubled.store(true, Ordering::Relaxed);
        let mut troubles = lock(&self.troubles);
        let since = troubles.get(&self.number).map(|own| own.since);
        let since = since.unwrap_or_else(Instant::now);
        troubles.insert(self.number, Trouble { refused, since });
    }

    fn settle(&self) {
        if self.is_troubled.swap(false, Ordering::Relaxed) {
            lock(&self.troubles).remove(&self.number);
        }
    }
}

/// Says that the servers do not let us read what some caller may have asked for.
fn forbidden(query: &Query, knows: bool) {
    static FORBIDDEN: LogLimit = LogLimit::usual();
    if let Some(left_out) = FORBIDDEN.admit(crate::now()) {
        let path = Escaped(query.path());
        if knows {
            tracing::warn!(%path, left_out, "not allowed to read any more; what is known stays");
        } else {
            tracing::warn!(%path, left_out, "not allowed to read; taken as empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn out() -> (Out, Arc<Latest>, Troubles) {
        let latest = Arc::<Latest>::default();
        let troubles = Troubles::default();
        (Out::new(latest.clone(), troubles.clone()), latest, troubles)
    }

    #[test]
    fn a_refusal_or_failure_after_an_answer_keeps_the_answer_and_counts() {
        let (out, answers, troubles) = out();
        let answer = Answer::Value(Bytes::from_static(b"x"));
        out.publish(answer.clone());
        out.fail();
        assert!(!lock(&troubles)[&out.number].refused);
        let since = lock(&troubles)[&out.number].since;
        out.refuse(&Query::Value("a".into()));
        assert_eq!(answers.with(|own| own.cloned()), Some(answer.clone()));
        assert!(lock(&troubles)[&out.number].refused);
        assert_eq!(lock(&troubles)[&out.number].since, since);
        // The same answer again ends the trouble.
        out.publish(answer);
        assert!(lock(&troubles).is_empty());
        out.fail();
        drop(out);
        assert!(lock(&troubles).is_empty());
    }

    #[test]
    fn who_never_could_read_is_told_so_and_is_no_trouble() {
        let (out, answers, troubles) = out();
        out.fail();
        assert_eq!(answers.with(|own| own.cloned()), None);
        out.refuse(&Query::Value("a".into()));
        out.refuse(&Query::Value("a".into()));
        assert_eq!(answers.with(|own| own.cloned()), Some(Answer::Refused));
        assert!(lock(&troubles).is_empty());
    }
}
