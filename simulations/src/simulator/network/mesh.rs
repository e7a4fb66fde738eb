//! What the mesh does with its ends of connections, and with those that it makes.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::{Dial, Door, Event, Net, PACE, Peer, Time};

impl Net {
    /// Since when the peer's end, or a reset, has been here, as a kernel knows it before anybody has read so far.
    pub(in super::super) fn ended_at(&self, number: usize) -> Option<Time> {
        let conn = &self.conns[number];
        (conn.broken || conn.to_mesh.end_there).then_some(conn.to_mesh.end_at)
    }

    /// Whether it was reset, as a kernel knows it at once.
    pub(super) fn is_broken(&self, number: usize) -> bool {
        self.conns[number].broken
    }

    /// Whether the mesh has not read all that the peer said.
    pub(in super::super) fn is_on_its_way(&self, number: usize) -> bool {
        let pipe = &self.conns[number].to_mesh;
        !pipe.flying.is_empty() || !pipe.there.is_empty()
    }

    pub(super) fn poll_read(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let conn = &mut self.conns[number];
        if conn.broken || self.exited {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let count = conn.to_mesh.there.len().min(buf.remaining());
        if count == 0 && !conn.to_mesh.end_there {
            conn.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes: Vec<u8> = conn.to_mesh.there.drain(..count).collect();
        buf.put_slice(&bytes);
        conn.to_mesh.read += count as u64;
        let read = conn.to_mesh.read;
        let now = self.now();
        self.trace.note(now, &format!("read {number} {read}"));
        self.nudge(number, true);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        number: usize,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let conn = &mut self.conns[number];
        if conn.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if conn.to_peer.ended || self.exited {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = conn.to_peer.flying.len() + conn.to_peer.there.len();
        let fits = conn.pace.room.saturating_sub(taken).min(bytes.len());
        if fits == 0 {
            conn.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let parts = conn.pace.parts;
        let count = if parts {
            self.chance.between(1, fits as u64) as usize
        } else {
            fits
        };
        self.conns[number].to_peer.flying.extend(&bytes[..count]);
        let now = self.now();
        self.trace.note(now, &format!("wrote {number} {count}"));
        self.nudge(number, false);
        Poll::Ready(Ok(count))
    }

    pub(super) fn shut(&mut self, number: usize) {
        self.conns[number].to_peer.ended = true;
        self.nudge(number, false);
    }

    /// The mesh closes its socket; what it left unread turns that into a reset.
    pub(super) fn drop_mesh_end(&mut self, number: usize) {
        if self.exited {
            return;
        }
        let conn = &mut self.conns[number];
        conn.mesh_gone = true;
        let now = self.now();
        self.trace.note(
            now,
            &format!("closed {number} {}", self.conns[number].to_mesh.there.len()),
        );
        if self.conns[number].to_mesh.there.is_empty() {
            self.shut(number);
        } else {
            self.cut(number);
        }
    }

    // === Dialling ===

    pub(super) fn dial(&mut self, address: SocketAddr) -> usize {
        let known = self.doors.get(&address).copied();
        let (server, door, pace) = known.unwrap_or((usize::MAX, Door::Shut, PACE));
        let number = self.add(Peer::Server(server), pace, Dial::Wanted(None));
        let delay = match door {
            Door::Hole => return number,
            Door::OwnWant => 0,
            Door::Open | Door::Shut => pace.delay,
        };
        let later = self.chance.between(0, delay);
        self.schedule(later, Event::Dialled(number));
        number
    }

    /// Decides a connection that the mesh makes; the server that accepts it.
    pub(in super::super) fn decide(
        &mut self,
        number: usize,
        address: Option<SocketAddr>,
    ) -> Option<usize> {
        let door = address.and_then(|address| self.doors.get(&address));
        let door = door.map_or(Door::Shut, |(_, door, _)| *door);
        let door = if self.exited { Door::Shut } else { door };
        let conn = &mut self.conns[number];
        let decided = match door {
            Door::Open => Ok(()),
            Door::Shut => Err(io::ErrorKind::ConnectionRefused.into()),
            Door::Hole => return None,
            Door::OwnWant => Err(io::Error::from_raw_os_error(24)),
        };
        let accepted = decided.is_ok() && !conn.mesh_gone;
        if let Dial::Wanted(waker) = &mut conn.dial {
            let waker = waker.take();
            conn.dial = Dial::Done(decided);
            self.wakers.extend(waker);
        }
        match self.conns[number].peer {
            Peer::Server(server) if accepted => Some(server),
            _ => None,
        }
    }
}
