//! Fault injection: what a caller would see if something were broken.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::rejection::Rejection;
use crate::rng::Share;
use crate::route::Cidr;

use super::{Asked, Check, Decided, Filter, Flow, Refusal, Tally, Target, same};

/// What may be wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It begins later.
    Delay(Duration),
    /// It is answered with an error of ours, in its protocol's own words.
    Refuse(Rejection),
    /// It is carried out, and its caller never hears of it.
    DropAnswer,
}

/// A caller may ask for trouble itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnRequest {
    /// In this attribute: `delay=200ms`, `refuse=REASON` or `drop`.
    pub attribute: Arc<str>,
    /// From these networks; the attribute of others is taken away.
    pub sources: Vec<Cidr>,
}

/// What a caller would see if something were broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens, and to which share of the calls; each on its own.
    pub troubles: Vec<(Share, Trouble)>,
    /// Whether callers may ask for it.
    pub on_request: Option<OnRequest>,
}

impl Filter for Fault {
    fn kind(&self) -> &'static str {
        "fault"
    }

    fn at(&self, _: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let none = Arc::from("");
        Some(Rc::new(Faulty {
            delayed: tally.count(&none, "delayed"),
            refused: tally.count(&none, "refused"),
            dropped: tally.count(&none, "answer_dropped"),
            fault: self.clone(),
            none,
        }))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, PartialEq::eq)
    }

    fn describe(&self) -> Vec<String> {
        let troubles = self.troubles.iter().map(|(share, trouble)| {
            let percent = share.as_percent();
            match trouble {
                Trouble::Delay(by) => format!("{percent} % of the calls begin {by:?} later"),
                Trouble::Refuse(why) => {
                    format!("{percent} % of the calls are refused: {}", why.name())
                }
                Trouble::DropAnswer => format!("{percent} % of the answers are dropped"),
            }
        });
        let asked = self.on_request.iter().map(|own| {
            let from: Vec<String> = own.sources.iter().map(ToString::to_string).collect();
            format!("as {} says, from {}", own.attribute, from.join(", "))
        });
        troubles.chain(asked).collect()
    }
}

/// Faults in one worker.
struct Faulty {
    fault: Fault,
    delayed: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    none: Arc<str>,
}

/// The trouble that a caller asks for.
fn requested(text: &str) -> Option<Trouble> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.trim() {
        "drop" => Some(Trouble::DropAnswer),
        "refuse" => {
            let why = Rejection::ALL
                .into_iter()
                .find(|own| own.name() == value.trim());
            why.map(Trouble::Refuse)
        }
        "delay" => {
            let millis = value.trim().strip_suffix("ms")?.parse().ok()?;
            Some(Trouble::Delay(Duration::from_millis(millis)))
        }
        _ => None,
    }
}

impl Faulty {
    /// The trouble that the caller asks for, if it may.
    fn requested(&self, asked: &mut Asked<'_, '_>) -> Option<Trouble> {
        let own = self.fault.on_request.as_ref()?;
        let text = asked.attribute(&own.attribute)?.into_owned();
        if own.sources.iter().any(|net| net.contains(asked.source)) {
            return requested(&text);
        }
        asked.edits.clear(&own.attribute);
        None
    }
}

impl Check for Faulty {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        let requested = self.requested(asked).map(|own| (Share::ALL, own));
        let (mut delay, mut refusal) = (Duration::ZERO, None);
        for (share, trouble) in self.fault.troubles.iter().copied().chain(requested) {
            if !share.holds(asked.random()) {
                continue;
            }
            match trouble {
                Trouble::Delay(by) => delay += by,
                Trouble::Refuse(why) => refusal = Some(Refusal::new(why, &self.none)),
                Trouble::DropAnswer => {
                    self.dropped.fetch_add(1, Relaxed);
                    asked.edits.drop_answer();
                }
            }
        }
        if let Some(refusal) = &mut refusal {
            self.refused.fetch_add(1, Relaxed);
            refusal.text = "a fault that was asked for".into();
        }
        if delay.is_zero() {
            return refusal.map_or(Flow::Continue, Flow::Refuse);
        }
        self.delayed.fetch_add(1, Relaxed);
        let until = asked.clock.instant(asked.now.after(delay));
        Flow::Wait(Box::pin(async move {
            tokio::time::sleep_until(until).await;
            Decided {
                refusal,
                ..Decided::default()
            }
        }))
    }
}
