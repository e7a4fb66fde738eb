//! One downstream connection of a framed protocol: frames in, exchanges opened, answers out.

mod session;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::codec::{Codec, Signal, Unambiguous};
use crate::frame::{Edit, Head, Kind, Malformed, Metadata, Names, Reading, Status};
use crate::identity::Identity;
use crate::log_limit::LogLimit;
use crate::mesh::{Exchange, Origin, RouteCache, Routed};
use crate::net::{ConnectionEnds, Transport};
use crate::rejection::Rejection;
use crate::stats::increment;

use super::call::{self, Call};
use super::reply::{Reply, Waiting};
use super::resident::Resident;
use super::shadow;
use super::upstream::Upstream;
use super::worker::Worker;
use super::write_queue::WriteQueue;

pub use session::serve;

/// While draining, a client that was quiet for this long has nothing on its way to us.
const QUIET: Duration = Duration::from_secs(1);
/// The rate of a frame that has begun is looked at this often.
const WINDOW: Duration = Duration::from_secs(10);
/// An unfinished frame of fewer bytes is read on whatever room there is.
pub(super) const SMALL_FRAME: usize = 64 * 1024;
/// Services that are looked up for the calls of one client at a time: whoever invents names must not use
/// up what all share.
const LOOKUPS: usize = 256;
/// Calls of endpoints that a client has not answered and still may, at most.
const CALLED_BACK: usize = 256;
/// More than `queue_hard` may wait for a client this long: what was appended in one turn is no sign
/// that it does not read.
const SLOW: Duration = Duration::from_secs(1);

/// The lines of the log that clients cause, as few as suit everybody.
static LINES: LogLimit = LogLimit::usual();

/// Where a client connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests are read.
    Serving,
    /// No more requests are read; what is in flight is finished.
    Finishing,
    /// It goes on in another worker once nothing of it is in flight.
    Moving,
    /// Over; answers that still come have nobody to go to.
    Gone,
}

/// A client connection, as the calls in flight know it.
pub(crate) struct Client {
    link: Rc<WriteQueue>,
    codec: Arc<dyn Codec>,
    protocol: &'static str,
    peer: SocketAddr,
    /// What its TLS tells.
    transport: Option<Rc<Transport>>,
    origin: Rc<Origin>,
    route_cache: RefCell<RouteCache>,
    in_flight: Cell<u32>,
    /// It is not read because as many calls are in flight as may be.
    at_limit: Cell<bool>,
    /// Upstream connections that want no more from this client for now.
    holds: Cell<u32>,
    phase: Cell<Phase>,
    heard: Cell<Now>,
    /// The last frame read: messages of our own have its version and serialization.
    last_head: Cell<Option<Head>>,
    /// Since it is to go away: until when new calls are still served on it.
    grace_ends: Cell<Option<Now>>,
    /// When it closed its sending side.
    half_closed: Cell<Option<Now>>,
    /// It closed that side so long ago that its calls were given up.
    given_up: Cell<bool>,
    /// Since when more waits for it than may.
    over_since: Cell<Option<Now>>,
    /// When its unfinished frame began, and how many bytes of it there are.
    unfinished: Cell<Option<(Now, usize)>>,
    /// When its rate was last found good, and how many bytes of it there were.
    rated: Cell<Option<(Now, usize)>>,
    /// It is not read because unfinished frames, its own among them, take all the room they may.
    no_room: Cell<bool>,
    /// The clusters that its calls wait for, with how many do.
    lookups: RefCell<Vec<(usize, u32)>>,
    /// What is its own where its upstream connections are.
    session: Option<OwnSession>,
    /// That frame comes too slowly; what it took is given back.
    too_slow: Cell<bool>,
}

/// What a client has that shares no upstream connection.
struct OwnSession {
    /// The number by which its connections are known.
    number: u64,
    /// Where it connected to.
    local: Option<SocketAddr>,
    /// Calls of endpoints that it has not answered: their ids, and over which connection they came.
    called_back: RefCell<Vec<(u64, Weak<Upstream>)>>,
}

// === Requests ===

impl Client {
    fn source(&self) -> IpAddr {
        self.peer.ip()
    }

    fn receive(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        match head.kind {
            Kind::Request | Kind::OneWay => {
                self.last_head.set(Some(head));
                self.request(worker, head, wire)
            }
            Kind::Ping => {
                self.last_head.set(Some(head));
                let codec = &self.codec;
                self.link.append(worker, |out| {
                    codec.signal(Signal::Pong { wire }, &head, out)
                });
                self.check_queue(worker);
                Ok(())
            }
            Kind::Response if self.session.is_some() => {
                self.answer_back(worker, head, wire);
                Ok(())
            }
            // We ask nothing of clients, so there is nothing they could answer.
            Kind::Response | Kind::Pong | Kind::GoAway | Kind::Resume | Kind::Ignored => Ok(()),
        }
    }

    fn request(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        mut head: Head,
        wire: &[u8],
    ) -> Result<(), Malformed> {
        // Used where it stands: it is large.
        let reading = self.codec.read(&head, wire);
        let metadata = match &reading {
            Ok(Reading::Call(metadata)) => metadata,
            Ok(Reading::Answer(_)) => return Err(Malformed::Garbage("not a call")),
            Err(Malformed::Content(why)) => {
                self.refuse_unreadable(worker, &head, Rejection::BadRequest, why);
                return Ok(());
            }
            Err(malformed) => return Err(malformed.clone()),
        };
        head.codec_data = metadata.codec_data;
        let source = self.source();
        let resolved = self.route_cache.borrow_mut().find(
            worker,
            &self.origin,
            self.protocol,
            source,
            metadata,
        );
        let mut attributes = |name: &str| self.attribute(wire, metadata, name);
        // Whom it would be judged by may not be whom it would reach.
        let mut refused = |known: &mut Unambiguous| {
            if metadata.refused.is_some() {
                return metadata.refused;
            }
            let is_ambiguous = self.codec.is_ambiguous(&head, wire, metadata, known);
            is_ambiguous.then_some(Rejection::BadRequest)
        };
        // Its place is there before it: made elsewhere, all of it would be copied.
        let place = Box::new_uninit();
        let call = Box::write(
            place,
            Call {
                reply: self.clone(),
                head,
                exchange: Exchange::open(
                    worker,
                    resolved,
                    (source, wire.len()),
                    self.identity(),
                    metadata,
                    &mut refused,
                    &mut attributes,
                ),
                lease: None,
                wire: None,
                hedge: None,
            },
        );
        self.in_flight.set(self.in_flight.get() + 1);
        // Looked at first: what routing says of a listener that is gone is of no interest.
        if let Some(ends) = self.grace_ends.get() {
            let over = ends <= worker.now();
            let again = self.codec.comes_again(&head);
            // A listener that goes while we stay has one in its place.
            if over || again && !worker.is_stopping() {
                call::refuse(worker, call, Rejection::Draining);
                // More may be on its way, and is to be told the same.
                if !again {
                    self.finish();
                }
                return Ok(());
            }
        }
        send_on(worker, call, source, metadata, wire);
        Ok(())
    }

    /// Whether new calls have been refused for so long that those that wait are to be told, too.
    fn is_over_grace(&self, now: Now) -> bool {
        let ends = self.grace_ends.get();
        ends.is_some_and(|ends| now >= ends.after(QUIET))
    }

    /// When it is to end, whatever it does.
    fn ends(&self, now: Now) -> Option<Now> {
        self.transport.as_deref()?.ends(now)
    }

    /// Answers a request of which nothing but the fixed header can be used.
    fn refuse_unreadable(&self, worker: &Rc<Worker>, head: &Head, why: Rejection, detail: &str) {
        let nothing = Metadata::default();
        let resolved = worker.resolve(&self.origin, self.protocol, self.source(), &nothing);
        let mut exchange = Exchange::unreadable(worker, resolved, self.source(), head.len);
        exchange.rejected(why);
        let text = format!("{}: {detail}", exchange.explain(why));
        exchange.set_status(self.append_rejection(worker, head, why, &text));
    }

    fn append_rejection(
        &self,
        worker: &Rc<Worker>,
        head: &Head,
        why: Rejection,
        text: &str,
    ) -> Status {
        let status = self
            .link
            .append(worker, |out| self.codec.reject(head, why, text, out));
        self.check_queue(worker);
        status.unwrap_or(Status::NONE)
    }
}

/// Sends a call where its route leads.
#[inline]
fn send_on(
    worker: &Rc<Worker>,
    mut call: Box<Call>,
    source: IpAddr,
    metadata: &Metadata<'_>,
    wire: &[u8],
) {
    let allowed = metadata.refused.map_or(Ok(()), Err);
    match allowed.and_then(|()| call.exchange.routed()) {
        Ok(Routed::Onward) => {
            if call.exchange.is_copied() {
                shadow::copy(worker, &mut call, source, metadata, wire);
            }
            call::begin(worker, call, metadata, wire);
        }
        Ok(Routed::Waits) => {
            call.keep(wire);
            call::wait_for_filter(worker, call);
        }
        // A frame cannot be answered but by an endpoint.
        Ok(Routed::Here) => call::refuse(worker, call, Rejection::Denied),
        Err(rejection) => call::refuse(worker, call, rejection),
    }
}

// === Answers ===

impl Reply for Client {
    fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    fn protocol(&self) -> &'static str {
        self.protocol
    }

    fn owner(&self) -> Option<u64> {
        Some(self.session.as_ref()?.number)
    }

    fn ends(&self) -> Option<ConnectionEnds> {
        Some(ConnectionEnds {
            source: self.peer,
            destination: self.session.as_ref()?.local?,
        })
    }

    fn called_back(
        &self,
        worker: &Rc<Worker>,
        from: &Rc<Upstream>,
        head: &Head,
        wire: &[u8],
    ) -> bool {
        let Some(session) = &self.session else {
            return false;
        };
        if head.kind == Kind::Request {
            let mut calls = session.called_back.borrow_mut();
            calls.retain(|(id, by)| by.strong_count() > 0 && !(*id == head.id && is(by, from)));
            // Two endpoints may number their calls alike.
            if calls.iter().any(|(id, _)| *id == head.id) {
                return false;
            }
            if calls.len() >= CALLED_BACK {
                // Nobody waits for the oldest any more.
                calls.remove(0);
            }
            calls.push((head.id, Rc::downgrade(from)));
        }
        let other = self.codec.asked_back(head, wire);
        let wire = other.as_deref().unwrap_or(wire);
        self.link.append(worker, |out| out.extend_from_slice(wire));
        self.check_queue(worker);
        true
    }

    fn end_session(&self, worker: &Worker) {
        if self
            .owner()
            .is_some_and(|own| worker.upstreams_of(Some(own)).is_empty())
        {
            self.finish();
        }
    }

    fn waiting(&self) -> Waiting {
        if self.phase.get() == Phase::Gone {
            Waiting::Gone
        } else if self.given_up.get() {
            Waiting::GivenUp
        } else {
            Waiting::Yes
        }
    }

    fn identity(&self) -> Option<&Identity> {
        self.transport.as_deref().and_then(Transport::identity)
    }

    fn attribute<'a>(
        &'a self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        if Transport::names(name) {
            let found = self.transport.as_deref()?.attribute(name)?;
            return Some(Cow::Borrowed(found));
        }
        if !metadata.names.may_share(Names::of(name.as_bytes())) {
            return None;
        }
        self.codec.attribute(wire, metadata, name)
    }

    fn deliver(&self, worker: &Rc<Worker>, asked: &Head, head: &Head, wire: &[u8]) {
        let session = self.session.as_ref();
        let body = session.and_then(|own| self.codec.translate(asked, own.local, wire));
        self.link.append(worker, |out| {
            let edit = Edit {
                id: asked.id,
                body: body.as_deref(),
                ..Edit::default()
            };
            let used = self.codec.encode(head, wire, &edit, out);
            out.extend_from_slice(wire.get(used..).unwrap_or_default());
        });
        self.check_queue(worker);
    }

    fn reject(&self, worker: &Rc<Worker>, asked: &Head, why: Rejection, text: &str) -> Status {
        self.append_rejection(worker, asked, why, text)
    }

    fn begin_lookup(&self, cluster: usize) -> bool {
        let mut lookups = self.lookups.borrow_mut();
        if let Some((_, calls)) = lookups.iter_mut().find(|(own, _)| *own == cluster) {
            *calls += 1;
            return true;
        }
        let has_room = lookups.len() < LOOKUPS;
        if has_room {
            lookups.push((cluster, 1));
        }
        has_room
    }

    fn end_lookup(&self, cluster: usize) {
        let mut lookups = self.lookups.borrow_mut();
        let Some(at) = lookups.iter().position(|(own, _)| *own == cluster) else {
            return;
        };
        lookups[at].1 -= 1;
        if lookups[at].1 == 0 {
            lookups.swap_remove(at);
        }
    }

    fn finished(&self, worker: &Worker) {
        let left = self.in_flight.get().saturating_sub(1);
        self.in_flight.set(left);
        // Compared with the limit of now, which a reload may have changed since.
        let resumes = self.at_limit.get() && left <= worker.limits().in_flight_per_connection / 2;
        if resumes || (left == 0 && self.phase.get() != Phase::Serving) {
            self.link.wake_owner();
        }
    }

    fn pause(&self) -> bool {
        let serving = self.phase.get() == Phase::Serving && self.holds.get() == 0;
        if serving {
            self.holds.set(1);
        }
        serving
    }

    fn resume(&self) {
        self.holds.set(self.holds.get().saturating_sub(1));
        self.link.wake_owner();
    }
}

/// Whether a connection is this one.
fn is(one: &Weak<Upstream>, other: &Rc<Upstream>) -> bool {
    std::ptr::eq(one.as_ptr(), Rc::as_ptr(other))
}

// === Calls of endpoints ===

impl Client {
    /// Gives an endpoint the answer to its own call.
    fn answer_back(&self, worker: &Rc<Worker>, head: Head, wire: &[u8]) {
        let calls = self.session.as_ref().map(|own| &own.called_back);
        let by = calls.and_then(|calls| {
            let mut calls = calls.borrow_mut();
            let at = calls.iter().position(|(id, _)| *id == head.id)?;
            calls.remove(at).1.upgrade()
        });
        match by {
            Some(by) => by.pass_back(worker, wire),
            None => increment(&worker.mesh().stats.unknown_answers),
        }
    }
}

// === Bounds ===

impl Client {
    /// A client that does not read its answers is disconnected before they fill the memory. It is
    /// judged by what stays: what was just appended had no chance to be written yet.
    fn check_queue(&self, worker: &Worker) {
        let hard = worker.limits().queue_hard;
        if self.link.queued() <= hard {
            return self.over_since.set(None);
        }
        if self.phase.get() == Phase::Gone {
            return;
        }
        if !self.link.blocked() {
            self.link.flush(worker);
        }
        let queued = self.link.queued();
        if queued <= hard {
            return self.over_since.set(None);
        }
        let since = self.over_since.get().unwrap_or_else(|| worker.now());
        self.over_since.set(Some(since));
        if queued > 2 * hard || worker.now().since(since) >= SLOW {
            self.disconnect_slow_reader(worker);
        }
    }

    fn disconnect_slow_reader(&self, worker: &Worker) {
        if let Some(left_out) = LINES.admit(worker.now()) {
            tracing::warn!(
                source = %self.source(), listener = %self.origin.name, left_out,
                "client does not read its answers; its connection is closed"
            );
        }
        increment(&worker.mesh().stats.slow_readers);
        self.phase.set(Phase::Gone);
        self.link.wake_owner();
    }

    fn is_paused(&self, worker: &Worker) -> bool {
        let limits = worker.limits();
        if self.link.queued() > limits.queue_soft {
            self.link.wake_when_drained();
            return true;
        }
        let at_limit = self.in_flight.get() >= limits.in_flight_per_connection;
        self.at_limit.set(at_limit);
        let frame = self.unfinished.get().map_or(0, |(_, bytes)| bytes);
        let no_room = frame >= SMALL_FRAME && worker.is_out_of_frame_room();
        self.no_room.set(no_room);
        self.holds.get() > 0 || at_limit || no_room
    }

    /// Whether it is not read now, by our own doing.
    fn is_unread(&self, worker: &Worker) -> bool {
        let paused = self.at_limit.get() || self.holds.get() > 0 || self.no_room.get();
        let full = self.link.queued() > worker.limits().queue_soft;
        match self.phase.get() {
            Phase::Serving => paused || full,
            Phase::Moving | Phase::Finishing => true,
            Phase::Gone => false,
        }
    }

    /// A frame that has begun must come at a least rate, looked at in windows of time: what there is
    /// of it is kept in memory, and bytes that came quickly do not pay for others that do not come.
    fn check_rate(&self, worker: &Worker) {
        let Some((began, bytes)) = self.unfinished.get() else {
            return self.rated.set(None);
        };
        // While it is not read it cannot be blamed. Its task is not asked, only looked at: what it
        // waits for is its own to note.
        let limits = worker.limits();
        let queued = self.link.queued() > limits.queue_soft;
        if queued || self.at_limit.get() || self.holds.get() > 0 || self.no_room.get() {
            return self.rated.set(Some((worker.now(), bytes)));
        }
        let (since, before) = match self.rated.get() {
            Some(rated) if rated.0 >= began => rated,
            _ => (began, 0),
        };
        // Neither can it for time in which we did not run.
        if worker.now().since(since.max(worker.stalled_until())) < WINDOW {
            return;
        }
        let least = usize::try_from(WINDOW.as_secs())
            .unwrap_or(usize::MAX)
            .saturating_mul(limits.frame_rate);
        drop(limits);
        if bytes.saturating_sub(before) < least {
            self.give_up_frame();
        } else {
            self.rated.set(Some((worker.now(), bytes)));
        }
    }

    /// Has its unfinished frame refused and the connection end.
    pub(crate) fn give_up_frame(&self) {
        self.too_slow.set(true);
        self.link.wake_owner();
    }
}

// === Going away ===

impl Client {
    /// Reads no more requests; the connection ends when those in flight are answered.
    fn finish(&self) {
        if matches!(self.phase.get(), Phase::Serving | Phase::Moving) {
            self.phase.set(Phase::Finishing);
            self.link.wake_owner();
        }
    }

    /// The peer sends no more: it may only have closed its sending side, so that what it asked is
    /// answered; or it is gone, and then nothing but time tells.
    fn half_close(&self, now: Now) {
        if self.half_closed.get().is_none() {
            self.half_closed.set(Some(now));
        }
        self.finish();
    }
}

impl Resident for Client {
    fn listener(&self) -> u64 {
        self.origin.id
    }

    fn leave(&self, worker: &Worker, grace_ends: Now) {
        if self.grace_ends.get().is_some() {
            return;
        }
        self.grace_ends.set(Some(grace_ends));
        if let Some(last_head) = self.last_head.get() {
            let codec = &self.codec;
            let goodbye = Signal::GoAway {
                id: worker.random(),
            };
            self.link
                .append(worker, |out| codec.signal(goodbye, &last_head, out));
        }
        self.link.wake_owner();
    }

    fn tick(&self, worker: &Rc<Worker>) {
        let now = worker.now();
        let quiet = now.since(self.heard.get());
        if self.over_since.get().is_some() {
            self.check_queue(worker);
        }
        self.check_rate(worker);
        if self.in_flight.get() > 0 && self.is_unread(worker) && self.link.is_broken() {
            // Whoever reads would have found out: its calls hold places for nobody.
            self.phase.set(Phase::Gone);
            return self.link.wake_owner();
        }
        match self.phase.get() {
            // It is not idle: it is not read.
            Phase::Serving if self.no_room.get() && worker.is_out_of_frame_room() => {}
            Phase::Serving if self.no_room.get() => self.link.wake_owner(),
            Phase::Serving if self.in_flight.get() == 0 => {
                let leaving = self.grace_ends.get().is_some() && quiet >= QUIET;
                if leaving || quiet >= worker.idle() {
                    self.finish();
                }
            }
            // Long polls would go on until somebody cuts them off.
            Phase::Serving if self.session.is_some() && self.is_over_grace(now) => {
                worker.refuse_calls_of(self, Rejection::Draining);
            }
            // A reload may have raised the limit while it was held, with nothing in flight that
            // would wake it.
            Phase::Serving if self.at_limit.get() => self.link.wake_owner(),
            Phase::Finishing => {
                let since = self.half_closed.get();
                let over = since.is_some_and(|at| now.since(at) >= worker.limits().half_closed);
                if over && !self.given_up.replace(true) {
                    worker.refuse_calls_of(self, Rejection::DeadlineExceeded);
                }
            }
            _ => {}
        }
    }

    fn cut(&self, _: &Rc<Worker>) {
        self.finish();
    }

    fn hand_over(&self) -> bool {
        // Upstream connections of its own cannot come along.
        let can = self.phase.get() == Phase::Serving && self.session.is_none();
        if can {
            self.phase.set(Phase::Moving);
            self.link.wake_owner();
        }
        can
    }

    fn queued(&self) -> usize {
        self.link.queued()
    }

    fn unfinished(&self) -> Option<(Now, usize)> {
        self.unfinished.get()
    }

    fn give_up_frame(&self) {
        Self::give_up_frame(self);
    }
}
