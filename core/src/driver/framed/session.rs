//! The task of one downstream connection of a framed protocol.
//!
//! Its phases (`Phase`), and what ends each:
//!
//! ```text
//!             frames are read, calls opened
//!   accepted --> Serving ------------------------------------+
//!                 |    | hand-over, nothing in flight        | end of the socket, or bytes that make no sense
//!    goodbye,     |    v                                     |
//!    half-close   |  Moving --> another worker: Serving      |
//!                 v                                          v
//!             Finishing --- last answer written, lingered --> Gone: calls in flight are abandoned
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::codec::Codec;
use crate::frame::{Head, Malformed};
use crate::net::{Linger, READS_PER_TURN, Socket, Turn};
use crate::rejection::Rejection;
use crate::stats::increment;

use super::super::frame_reader::{FrameReader, Read, Take};
use super::super::listener::{Carried, Connection, Parcel, Presence};
use super::super::protocol::Served;
use super::super::resident::Residence;
use super::super::worker::Worker;
use super::super::write_queue::WriteQueue;
use super::{Client, LINES, OwnSession, Phase};

/// Serves one accepted connection of a framed protocol to its end.
#[must_use]
pub fn serve(
    codec: Arc<dyn Codec>,
    protocol: &'static str,
    connection: Connection,
    worker: Rc<Worker>,
) -> Served {
    Box::pin(Session::new(codec, protocol, connection, worker).run())
}

/// The task of one client connection.
struct Session {
    socket: Rc<RefCell<Socket>>,
    inbox: FrameReader,
    client: Rc<Client>,
    worker: Rc<Worker>,
    turn: Turn,
    /// The last bytes are written; waiting for the client to hang up.
    linger: Option<Linger>,
    presence: Option<Presence>,
}

/// Sees to it that a client is off the books whatever ends its task.
struct Gone {
    client: Rc<Client>,
    worker: Rc<Worker>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.client.phase.set(Phase::Gone);
        if self.client.in_flight.get() > 0 {
            self.worker.abandon_calls_of(&*self.client);
        }
        if let Some(session) = &self.client.session {
            self.worker.end_session(session.number);
        }
    }
}

/// What takes the frames of a client.
struct Requests<'a> {
    client: &'a Rc<Client>,
    worker: &'a Rc<Worker>,
}

impl Take for Requests<'_> {
    fn frame(&mut self, head: Head, wire: &[u8]) -> Result<(), Malformed> {
        self.client.receive(self.worker, head, wire)
    }

    fn too_large(&mut self, _: Head, _: usize) -> bool {
        // Answered, but not read to its end: whoever sends it decides how long that is.
        false
    }
}

impl Session {
    fn new(
        codec: Arc<dyn Codec>,
        protocol: &'static str,
        connection: Connection,
        worker: Rc<Worker>,
    ) -> Self {
        let Connection {
            socket,
            transport,
            peer,
            listening,
            presence,
            carried,
        } = connection;
        let session = codec.sharing().is_session().then(|| OwnSession {
            number: worker.next_session(),
            local: carried.local.or_else(|| socket.local_addr().ok()),
            called_back: RefCell::default(),
        });
        let socket = Rc::new(RefCell::new(socket));
        let client = Rc::new(Client {
            link: WriteQueue::new(socket.clone()),
            codec,
            protocol,
            peer,
            transport,
            origin: listening.origin.clone(),
            route_cache: RefCell::default(),
            in_flight: Cell::new(0),
            at_limit: Cell::new(false),
            holds: Cell::new(0),
            phase: Cell::new(Phase::Serving),
            heard: Cell::new(worker.now()),
            last_head: Cell::new(carried.last_head),
            grace_ends: Cell::new(None),
            half_closed: Cell::new(None),
            given_up: Cell::new(false),
            over_since: Cell::new(None),
            unfinished: Cell::new(None),
            rated: Cell::new(None),
            no_room: Cell::new(false),
            lookups: RefCell::default(),
            session,
            too_slow: Cell::new(false),
        });
        Self {
            inbox: FrameReader::new(socket.clone(), &worker),
            socket,
            client,
            worker,
            turn: Turn::new(),
            linger: None,
            presence: Some(presence),
        }
    }

    async fn run(mut self) {
        let ends = self.client.ends(self.worker.now());
        let residence = Residence::take(&self.worker, self.client.clone()).until(ends);
        let gone = Gone {
            client: self.client.clone(),
            worker: self.worker.clone(),
        };
        self.take_prefix();
        std::future::poll_fn(|cx| self.poll(cx)).await;
        drop(residence);
        if self.client.phase.get() == Phase::Moving {
            self.move_on();
        }
        drop(gone);
    }

    fn take_prefix(&mut self) {
        let (client, worker) = (&self.client, &self.worker);
        worker.read_clock();
        let mut take = Requests { client, worker };
        let taken = self.inbox.split_prefix(worker, &*client.codec, &mut take);
        client.unfinished.set(self.inbox.unfinished());
        if let Err(malformed) = taken {
            self.reject_malformed(&malformed);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let client = self.client.clone();
        client.link.owned_by(cx);
        if client.link.blocked() {
            client.link.flush(&self.worker);
        }
        if client.too_slow.replace(false) {
            self.refuse_slow_frame();
        }
        loop {
            if client.link.failed() {
                return Poll::Ready(());
            }
            match client.phase.get() {
                Phase::Gone => return Poll::Ready(()),
                Phase::Serving if client.is_paused(&self.worker) => return Poll::Pending,
                Phase::Moving if self.is_at_boundary() => return Poll::Ready(()),
                Phase::Moving if client.in_flight.get() > 0 => return Poll::Pending,
                Phase::Moving if client.link.is_busy() => {
                    client.link.wake_when_drained();
                    return Poll::Pending;
                }
                Phase::Serving | Phase::Moving => {
                    ready!(self.turn.take(cx, READS_PER_TURN));
                    ready!(self.poll_requests(cx));
                }
                Phase::Finishing => return self.poll_finish(cx),
            }
        }
    }

    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            inbox,
            client,
            worker,
            ..
        } = self;
        let mut take = Requests { client, worker };
        let read = inbox.poll_frames(cx, worker, &*client.codec, &mut take);
        if read.is_pending() {
            self.turn.end(READS_PER_TURN);
        }
        let read = ready!(read);
        client.unfinished.set(inbox.unfinished());
        match read {
            Read::Bytes => client.heard.set(worker.now()),
            // Servers look after their clients by their connections: one that is half closed is gone.
            Read::End if client.session.is_some() => client.phase.set(Phase::Gone),
            Read::End => client.half_close(worker.now()),
            Read::Failed(_) => client.phase.set(Phase::Gone),
            Read::Malformed(malformed) => self.reject_malformed(&malformed),
        }
        Poll::Ready(())
    }

    // === Ending ===

    /// Answers what can be answered, reads nothing more, and finishes what is in flight.
    fn reject_malformed(&self, malformed: &Malformed) {
        let Self { client, worker, .. } = self;
        if let Some(left_out) = LINES.admit(worker.now()) {
            tracing::info!(
                source = %client.peer.ip(), listener = %client.origin.name, left_out,
                protocol = client.protocol, %malformed, "client sent malformed bytes; its connection is closed"
            );
        }
        increment(&worker.mesh().stats.malformed);
        if let Malformed::TooLarge { head, .. } = &malformed {
            let detail = malformed.to_string();
            client.refuse_unreadable(worker, head, Rejection::TooLarge, &detail);
        }
        client.finish();
    }

    /// A frame that comes too slowly keeps memory: it is refused, and its connection ends.
    fn refuse_slow_frame(&mut self) {
        let Self {
            client,
            worker,
            inbox,
            ..
        } = self;
        let head = inbox.unfinished_head(&*client.codec);
        // Given back now, and not when the client hangs up: others wait for the room.
        drop(inbox.take_unread());
        client.unfinished.set(None);
        let Some(head) = head else {
            return client.finish();
        };
        if let Some(left_out) = LINES.admit(worker.now()) {
            tracing::info!(
                source = %client.peer.ip(), listener = %client.origin.name, left_out,
                protocol = client.protocol, "a frame comes too slowly; its connection is closed"
            );
        }
        increment(&worker.mesh().stats.slow_senders);
        let detail = "the frame did not come in time";
        client.refuse_unreadable(worker, &head, Rejection::DeadlineExceeded, detail);
        client.finish();
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (client, worker) = (self.client.clone(), self.worker.clone());
        if client.in_flight.get() > 0 {
            ready!(self.poll_hang_up(cx));
            if client.phase.get() == Phase::Gone {
                return Poll::Ready(());
            }
            return Poll::Pending;
        }
        if client.link.queued() > 0 {
            client.link.wake_when_drained();
            return Poll::Pending;
        }
        let linger = self
            .linger
            .get_or_insert_with(|| Linger::begin(worker.timers()));
        linger.poll(cx, &mut self.socket.borrow_mut())
    }

    /// Watches for the client's end while its calls are finished: nobody waits for the answers of
    /// one that is gone. What it still sends is not looked at.
    fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.client.half_closed.get().is_some() {
            return Poll::Pending;
        }
        loop {
            ready!(self.turn.take(cx, READS_PER_TURN));
            match ready!(self.inbox.poll_discard(cx)) {
                Read::Bytes => {}
                Read::End if self.client.session.is_some() => {
                    self.client.phase.set(Phase::Gone);
                    return Poll::Ready(());
                }
                Read::End => {
                    self.client.half_close(self.worker.now());
                    return Poll::Pending;
                }
                Read::Failed(_) | Read::Malformed(_) => {
                    self.client.phase.set(Phase::Gone);
                    return Poll::Ready(());
                }
            }
        }
    }

    // === Moving to another worker ===

    /// Whether nothing of it is in flight, half read or half written.
    fn is_at_boundary(&self) -> bool {
        self.client.in_flight.get() == 0 && !self.client.link.is_busy() && !self.inbox.is_skipping()
    }

    /// Gives the connection, with what was read of it and not used, to whoever goes on with it.
    fn move_on(&mut self) {
        let unread = self.inbox.take_unread();
        let Some(presence) = self.presence.take() else {
            return;
        };
        let nothing = Socket::memory(tokio::io::empty());
        let mut socket = self.socket.replace(nothing);
        socket.unread(unread);
        let carried = Carried {
            last_head: self.client.last_head.get(),
            ..Carried::default()
        };
        let client = &self.client;
        let parcel = Parcel::new(
            socket,
            client.peer,
            client.origin.id,
            client.protocol,
            carried,
        );
        // It is counted where it arrives.
        drop(presence);
        if let Some(parcel) = parcel {
            let parcel = parcel.with(client.transport.as_deref());
            self.worker.hand_over(parcel);
        }
    }
}
