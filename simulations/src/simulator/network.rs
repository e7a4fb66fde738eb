//! A network in memory whose every byte moves when the simulation says so, in virtual time.
//!
//! A connection has two pipes. Bytes written into one *fly* until a delivery moves some of them to
//! where they can be read. One end is the mesh's: real code of core, in tasks. The other is a peer's:
//! a state machine that the world calls when something arrived.

mod ends;
mod mesh;
mod peer;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::chance::Chance;
use super::report::Trace;

/// Milliseconds since the world began.
pub(super) type Time = u64;

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes move to the mesh's end of a connection.
    ToMesh(usize),
    /// Bytes move to the peer's end.
    ToPeer(usize),
    /// A connection that the mesh makes is decided.
    Dialled(usize),
    /// The client of this number acts.
    Client(usize),
    /// A client reads what it left unread.
    ClientReads(usize),
    /// The server of this number has something to send: the first of what is due.
    Server(usize),
    /// A service that is watched in the registry has news.
    Registry(usize),
    /// Something goes wrong, or is changed.
    Fault,
    /// The process stands still for so long.
    Pause(Time),
    /// The world looks whether all is well.
    Look,
}

/// Whose the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Client(usize),
    Server(usize),
}

/// How an address answers who wants to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    /// Refused.
    Shut,
    /// Nothing comes back.
    Hole,
    /// There is no descriptor left: our own want.
    OwnWant,
}

/// How bytes travel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest that a delivery takes.
    pub(super) delay: Time,
    /// Bytes on their way or unread, at most, of those that the mesh writes or is to read.
    pub(super) room: usize,
    /// Deliveries bring parts, down to single bytes.
    pub(super) parts: bool,
}

#[derive(Default)]
struct Pipe {
    flying: VecDeque<u8>,
    there: VecDeque<u8>,
    /// Its writer ended it.
    ended: bool,
    /// Its reader sees the end.
    end_there: bool,
    /// Since when.
    end_at: Time,
    scheduled: bool,
    read: u64,
}

impl Pipe {
    fn clear(&mut self) {
        self.flying.clear();
        self.there.clear();
    }
}

struct Conn {
    peer: Peer,
    pace: Pace,
    to_mesh: Pipe,
    to_peer: Pipe,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Broken for both.
    broken: bool,
    /// The peer was told so.
    peer_told: bool,
    mesh_gone: bool,
    peer_gone: bool,
    stalled_until: Time,
    dial: Dial,
}

enum Dial {
    Wanted(Option<Waker>),
    Done(io::Result<()>),
    Taken,
}

/// What a peer hears.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) bytes: Vec<u8>,
    /// The mesh sends no more.
    pub(super) ended: bool,
    /// The connection broke.
    pub(super) broken: bool,
}

/// The network's state.
pub(super) struct Net {
    chance: Chance,
    start: Instant,
    now: Time,
    queue: BTreeMap<(Time, u64, u64), Event>,
    scheduled: u64,
    conns: Vec<Conn>,
    doors: BTreeMap<SocketAddr, (usize, Door, Pace)>,
    wakers: Vec<Waker>,
    /// The mesh's process is gone.
    exited: bool,
    pub(super) trace: Trace,
}

/// The network, as all who use it share it.
#[derive(Clone)]
pub(super) struct Network {
    net: Arc<Mutex<Net>>,
    /// Something was put before what the world waits for.
    pub(super) sooner: Arc<Notify>,
}

impl Network {
    pub(super) fn new(chance: Chance) -> Self {
        Self {
            net: Arc::new(Mutex::new(Net {
                chance,
                start: Instant::now(),
                now: 0,
                queue: BTreeMap::new(),
                scheduled: 0,
                conns: Vec::new(),
                doors: BTreeMap::new(),
                wakers: Vec::new(),
                exited: false,
                trace: Trace::default(),
            })),
            sooner: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an event on the calendar, and has the world look at it.
    fn after(&self, net: MutexGuard<'_, Net>) {
        drop(net);
        self.sooner.notify_one();
    }
}

impl Net {
    // === Time ===

    pub(super) fn now(&mut self) -> Time {
        let elapsed = self.start.elapsed().as_millis() as u64;
        self.now = self.now.max(elapsed);
        self.now
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Has an event happen so much later; among those of one moment, lots decide.
    pub(super) fn schedule(&mut self, later: Time, event: Event) {
        let at = self.now().saturating_add(later);
        let lot = self.chance.draw();
        self.scheduled += 1;
        self.queue.insert((at, lot, self.scheduled), event);
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.queue.keys().next().map(|(at, ..)| *at)
    }

    /// The next event that is due until then.
    pub(super) fn next_event(&mut self, until: Time) -> Option<(Time, Event)> {
        let first = self.queue.first_entry()?;
        let (at, ..) = *first.key();
        if at > until {
            return None;
        }
        let event = first.remove();
        self.now = self.now.max(at);
        self.trace.note(at, &format!("{event:?}"));
        Some((at, event))
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    /// Notes what a peer does.
    pub(super) fn note(&mut self, what: &str) {
        let now = self.now();
        self.trace.note(now, what);
    }

    // === Connections ===

    fn add(&mut self, peer: Peer, pace: Pace, dial: Dial) -> usize {
        self.conns.push(Conn {
            peer,
            pace,
            to_mesh: Pipe::default(),
            to_peer: Pipe::default(),
            reader: None,
            writer: None,
            broken: false,
            peer_told: false,
            mesh_gone: false,
            peer_gone: false,
            stalled_until: 0,
            dial,
        });
        self.conns.len() - 1
    }

    pub(super) fn peer(&self, conn: usize) -> Peer {
        self.conns[conn].peer
    }

    /// Connections that still carry something, of clients or of servers.
    pub(super) fn alive(&self, clients: bool) -> Vec<usize> {
        let live = |(number, conn): (usize, &Conn)| {
            let is_client = matches!(conn.peer, Peer::Client(_));
            let lives = !conn.broken && !conn.mesh_gone && matches!(conn.dial, Dial::Taken);
            (lives && is_client == clients).then_some(number)
        };
        self.conns.iter().enumerate().filter_map(live).collect()
    }

    pub(super) fn set_door(&mut self, address: SocketAddr, server: usize, door: Door, pace: Pace) {
        self.doors.insert(address, (server, door, pace));
    }

    /// Nothing moves on it for a while.
    pub(super) fn stall(&mut self, conn: usize, period: Time) {
        let until = self.now() + period;
        self.conns[conn].stalled_until = until;
    }

    /// Nothing is stalled any more, and all is quick.
    pub(super) fn heal(&mut self) {
        for number in 0..self.conns.len() {
            let conn = &mut self.conns[number];
            conn.stalled_until = 0;
            conn.pace.parts = false;
            conn.pace.delay = conn.pace.delay.min(5);
            conn.pace.room = conn.pace.room.max(64 * 1024);
            self.nudge(number, true);
            self.nudge(number, false);
        }
        for (_, door, pace) in self.doors.values_mut() {
            *door = Door::Open;
            pace.parts = false;
        }
    }

    /// Breaks it for both; what is on its way is lost.
    pub(super) fn cut(&mut self, number: usize) {
        let now = self.now();
        let conn = &mut self.conns[number];
        if std::mem::replace(&mut conn.broken, true) {
            return;
        }
        conn.to_mesh.end_at = now;
        conn.to_mesh.clear();
        conn.to_peer.clear();
        let wakers = [conn.reader.take(), conn.writer.take()];
        self.wakers.extend(wakers.into_iter().flatten());
        self.schedule(0, Event::ToPeer(number));
    }

    /// The mesh's process ends, and with it its ends of all connections: what it has written arrives, and nothing
    /// more.
    pub(super) fn exit(&mut self) {
        for number in 0..self.conns.len() {
            let conn = &mut self.conns[number];
            let wakers = [conn.reader.take(), conn.writer.take()];
            self.wakers.extend(wakers.into_iter().flatten());
            if !self.conns[number].mesh_gone {
                self.drop_mesh_end(number);
            }
        }
        self.exited = true;
    }

    /// Has a pipe deliver what flies in it.
    fn nudge(&mut self, number: usize, to_mesh: bool) {
        let conn = &mut self.conns[number];
        let pipe = if to_mesh {
            &mut conn.to_mesh
        } else {
            &mut conn.to_peer
        };
        let idle = pipe.flying.is_empty() && (!pipe.ended || pipe.end_there);
        if pipe.scheduled || idle {
            return;
        }
        pipe.scheduled = true;
        let delay = conn.pace.delay;
        let event = if to_mesh {
            Event::ToMesh(number)
        } else {
            Event::ToPeer(number)
        };
        let later = self.chance.between(0, delay);
        self.schedule(later, event);
    }

    /// Moves bytes to one end, as much as there is room for.
    pub(super) fn deliver(&mut self, number: usize, to_mesh: bool) {
        let now = self.now();
        let conn = &mut self.conns[number];
        let (room, parts) = (conn.pace.room, conn.pace.parts);
        let until = conn.stalled_until;
        let pipe = if to_mesh {
            &mut conn.to_mesh
        } else {
            &mut conn.to_peer
        };
        if conn.broken {
            return;
        }
        if until > now {
            let event = if to_mesh {
                Event::ToMesh(number)
            } else {
                Event::ToPeer(number)
            };
            pipe.scheduled = true;
            return self.schedule(until - now, event);
        }
        pipe.scheduled = false;
        let fits = room.saturating_sub(pipe.there.len()).min(pipe.flying.len());
        let moved = match fits {
            0 => 0,
            _ if parts && self.chance.one_in(4) => {
                self.chance.between(1, fits.min(3) as u64) as usize
            }
            _ if parts => self.chance.between(1, fits as u64) as usize,
            _ => fits,
        };
        pipe.there.extend(pipe.flying.drain(..moved));
        if pipe.ended && pipe.flying.is_empty() && !std::mem::replace(&mut pipe.end_there, true) {
            pipe.end_at = now;
        }
        let closed_to = if to_mesh {
            conn.mesh_gone
        } else {
            conn.peer_gone
        };
        if closed_to && moved > 0 {
            // Whoever closed its socket answers what still comes with a reset.
            return self.cut(number);
        }
        if to_mesh {
            self.wakers.extend(conn.reader.take());
        }
        if moved > 0 {
            self.nudge(number, to_mesh);
        }
    }
}

const PACE: Pace = Pace {
    delay: 2,
    room: 64 * 1024,
    parts: false,
};

/// The mesh's end of a connection.
pub(super) struct MeshEnd {
    network: Network,
    conn: usize,
}

impl MeshEnd {
    pub(super) fn new(network: &Network, conn: usize) -> Self {
        Self {
            network: network.clone(),
            conn,
        }
    }
}
