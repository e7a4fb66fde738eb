//! The peers' ends of connections: what clients and servers do with them.

use super::{Dial, Heard, Net, Pace, Peer};

impl Net {
    /// A client connects.
    pub(in super::super) fn open(&mut self, client: usize, pace: Pace) -> usize {
        self.add(Peer::Client(client), pace, Dial::Taken)
    }

    /// Sends; a peer's own memory has no end.
    pub(in super::super) fn send(&mut self, conn: usize, bytes: &[u8]) {
        if self.conns[conn].broken || self.conns[conn].to_mesh.ended {
            return;
        }
        self.conns[conn].to_mesh.flying.extend(bytes);
        self.nudge(conn, true);
    }

    /// Sends no more.
    pub(in super::super) fn finish(&mut self, conn: usize) {
        self.conns[conn].to_mesh.ended = true;
        self.nudge(conn, true);
    }

    /// Closes both ways: what still comes is answered by a reset.
    pub(in super::super) fn leave(&mut self, conn: usize) {
        self.finish(conn);
        self.conns[conn].peer_gone = true;
    }

    /// Reads up to so many bytes.
    pub(in super::super) fn hear(&mut self, number: usize, most: usize) -> Heard {
        let conn = &mut self.conns[number];
        let count = conn.to_peer.there.len().min(most);
        let heard = Heard {
            bytes: conn.to_peer.there.drain(..count).collect(),
            ended: conn.to_peer.end_there && conn.to_peer.there.is_empty(),
            broken: conn.broken && !std::mem::replace(&mut conn.peer_told, conn.broken),
        };
        conn.to_peer.read += count as u64;
        if count > 0 {
            let writer = conn.writer.take();
            self.wakers.extend(writer);
            self.nudge(number, false);
        }
        heard
    }
}
