//! Hedging of framed calls: a second attempt beside one that takes long; the first answer counts.
//!
//! The call stays with its first attempt, in the table of that one's connection. The second is an entry of its own in the table of
//! another, which leads back to the call by what both [know each other](Pair) by. Whichever answers first takes the call along; the id
//! of the other stays blocked until its late answer comes, which reaches nobody. No call has a timer: when the second attempt is due, its
//! connection is looked at as for a deadline.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use bytes::Bytes;

use crate::clock::Now;
use crate::frame::{Answer, Head, Kind, Reading};
use crate::mesh::{AttemptEnd, Exchange, Fitting, Lease, Repeat, rule};

use super::call::{self, Call};
use super::upstream::Upstream;
use super::worker::Worker;

/// What two attempts of one call know each other by.
#[derive(Default)]
pub(super) struct Pair {
    /// Where the second one is, once there is one.
    second: RefCell<Weak<Upstream>>,
    /// Where the first one is, with the call.
    first: RefCell<Weak<Upstream>>,
}

/// What a call knows of its second attempt. Dropping it gives that one up.
pub(crate) struct Hedge {
    /// When it is due; the end of time once it was made, or could not be.
    at: Now,
    pair: Rc<Pair>,
}

impl Hedge {
    /// When the second attempt is due.
    pub(super) fn at(&self) -> Now {
        self.at
    }

    /// Whether this is the call that `pair` belongs to.
    pub(super) fn is_of(&self, pair: &Rc<Pair>) -> bool {
        Rc::ptr_eq(&self.pair, pair)
    }

    /// Takes the second attempt away from its connection, if it is there.
    fn take_second(&self) -> Option<Box<Second>> {
        let second = self.pair.second.take().upgrade()?;
        second.take_second(&self.pair)
    }
}

impl Drop for Hedge {
    fn drop(&mut self) {
        // The exchange of its call is over: there is nobody to tell.
        if let Some(second) = self.take_second() {
            second.lease.leave_out();
        }
    }
}

/// The second attempt of a call.
pub(super) struct Second {
    pub(super) pair: Rc<Pair>,
    pub(super) lease: Lease,
    pub(super) head: Head,
    pub(super) wire: Bytes,
    pub(super) fitting: Option<Fitting>,
}

/// Notes when a second attempt of a call is due that is about to be sent on this connection.
#[cold]
pub(super) fn arm(call: &mut Call, first: &Rc<Upstream>, now: Now) {
    // The connections of a session are for one endpoint each.
    let is_apt = call.head.kind == Kind::Request && call.reply.owner().is_none();
    let delay = call.exchange.hedging_delay().filter(|_| is_apt);
    call.hedge = delay.map(|delay| {
        Box::new(Hedge {
            at: now.after(delay),
            pair: Rc::new(Pair {
                first: RefCell::new(Rc::downgrade(first)),
                ..Pair::default()
            }),
        })
    });
}

/// What a second attempt needs of its call, which stays where it is.
pub(super) struct Due {
    second: Box<Second>,
    reply: Rc<dyn super::reply::Reply>,
    variant: u8,
}

/// The second attempt of a call whose time has come, unless it is none's. After a pause of ours it is put off: what was sent
/// to us meanwhile may be the answer.
pub(super) fn due(worker: &Worker, call: &mut Call, stalled: bool) -> Option<Due> {
    let now = worker.now();
    let hedge = call.hedge.as_mut().filter(|own| own.at <= now)?;
    let delay = call.exchange.hedging_delay();
    hedge.at = match delay.filter(|_| stalled) {
        Some(delay) => now.after(delay),
        None => Now(u64::MAX),
    };
    let (pair, first) = (hedge.pair.clone(), call.lease.as_ref()?);
    if stalled || first.deadline <= now {
        return None;
    }
    let wire = call.wire.clone()?;
    let codec = call.reply.codec().clone();
    let Ok(Reading::Call(metadata)) = codec.read(&call.head, &wire) else {
        return None;
    };
    let variant = call::pool_variant(&call.head, &metadata);
    let mut attributes = |name: &str| call.reply.attribute(&wire, &metadata, name);
    let lease = call.exchange.hedge(worker, first, &mut attributes)?;
    let fitting = call.exchange.fitting(&lease);
    drop(metadata);
    Some(Due {
        second: Box::new(Second {
            pair,
            lease,
            head: call.head,
            wire,
            fitting,
        }),
        reply: call.reply.clone(),
        variant,
    })
}

/// Sends a second attempt. One that its endpoint's connections do not take is not made: it must not hold up first ones.
pub(super) fn send(worker: &Rc<Worker>, due: Due) {
    let Due {
        second,
        reply,
        variant,
    } = due;
    let pool = super::pool::of(worker, &second.lease.local_endpoint, &reply, variant);
    let pair = second.pair.clone();
    if let Some(upstream) = pool.choose(worker)
        && upstream.send_second(worker, second)
    {
        pair.second.replace(Rc::downgrade(&upstream));
    }
}

/// A second attempt was answered: its call is, unless that is left to the first.
pub(super) fn answered(
    worker: &Rc<Worker>,
    second: Second,
    (head, wire): (&Head, &[u8]),
    answer: Answer,
) {
    if Exchange::is_left_to_other(answer.outcome) {
        return failed(second, AttemptEnd::Answered(answer.outcome));
    }
    let first = second.pair.first.borrow().upgrade();
    let Some(mut call) = first.and_then(|first| first.take_call(&second.pair)) else {
        // Whoever gives a call up gives up its second attempt.
        return;
    };
    if let Some(lost) = call.lease.replace(second.lease)
        && let Some(stays) = &call.lease
    {
        call.exchange.over(lost, AttemptEnd::Abandoned, stays);
    }
    call::deliver(call, worker, head, wire, answer);
}

/// A second attempt came to nothing: its call waits for the first.
pub(super) fn failed(second: Second, end: AttemptEnd) {
    let first = second.pair.first.borrow().upgrade();
    if let Some(first) = first {
        first.end_second(second, end);
    }
}

/// The first attempt came to nothing: its call stays with the second, if there is one.
///
/// # Errors
/// The call, if there is none.
pub(super) fn stay_with_second(
    worker: &Worker,
    mut call: Box<Call>,
    end: AttemptEnd,
) -> Result<(), Box<Call>> {
    if rule(end, false).repeat == Repeat::Never || call.exchange.deadline <= worker.now() {
        return Err(call);
    }
    let Some(hedge) = call.hedge.take() else {
        return Err(call);
    };
    let upstream = hedge.pair.second.borrow().upgrade();
    match upstream {
        Some(upstream) => upstream.promote(call, &hedge.pair, end),
        None => Err(call),
    }
}

/// The first attempt has answered: the second is given up.
#[cold]
pub(super) fn give_up_second(call: &mut Call) {
    let second = call.hedge.take().and_then(|hedge| hedge.take_second());
    if let (Some(second), Some(stays)) = (second, &call.lease) {
        call.exchange
            .over(second.lease, AttemptEnd::Abandoned, stays);
    }
}
