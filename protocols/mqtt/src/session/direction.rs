//! One direction of a session: packets found in bytes as they come.

use std::task::Context;
use std::time::Duration;

use bytes::BytesMut;

use crate::channel::Channel;
use crate::codec::{Fault, FixedHeader, PacketType};

use super::{End, Session};

/// One direction's state between two reads. The payload of a message is never waited for: it
/// passes as it comes.
#[derive(Default)]
pub(super) struct Direction {
    /// The beginning of a packet that is not whole yet.
    pub(super) partial: BytesMut,
    /// Bytes of the packet under way that are still to be passed on, and to be dropped.
    passing: usize,
    dropping: usize,
}

impl Direction {
    /// Whether no packet is under way: of one that has begun nothing was passed on, and nothing dropped.
    pub(super) fn is_at_rest(&self) -> bool {
        self.passing == 0 && self.dropping == 0
    }

    /// Whether what was passed on ends with a whole packet.
    pub(super) fn is_between_packets(&self) -> bool {
        self.passing == 0
    }
}

/// What becomes of a packet.
pub(super) enum Fate {
    /// It is passed on as it is.
    Pass,
    /// It goes nowhere.
    Drop,
    /// These bytes are passed on in the place of so many of its first ones.
    Replace(Vec<u8>, usize),
    /// It has to wait a little, and what follows it.
    Wait,
}

/// After so long a packet that has to wait is looked at again.
const AGAIN: Duration = Duration::from_millis(5);

impl Session {
    fn direction(&mut self, up: bool) -> &mut Direction {
        if up { &mut self.up } else { &mut self.down }
    }

    fn receiver(&mut self, up: bool) -> &mut Channel {
        if up {
            &mut self.endpoint
        } else {
            &mut self.client
        }
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8], up: bool) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.receiver(up).write(cx, bytes);
        // What the peer said before it went is still to be read from it.
        if sent.is_err() && !up {
            return Err(End::Client);
        }
        Ok(())
    }

    /// What becomes of the packet that `bytes` begin with; `None` if more of it is needed to tell.
    #[inline]
    fn decide(&mut self, bytes: &[u8], up: bool) -> Result<Option<(FixedHeader, Fate)>, Fault> {
        let limit = if up { self.bounds.packet } else { usize::MAX };
        let Some(head) = FixedHeader::read(bytes, self.level, limit)? else {
            return Ok(None);
        };
        // Of a message the head is enough.
        if head.kind != PacketType::Publish && bytes.len() < head.packet() {
            if !up && head.packet() > self.bounds.packet {
                return Err(Fault::malformed("a packet of the broker is too long"));
            }
            return Ok(None);
        }
        let fate = if up {
            self.decide_up(bytes, &head)?
        } else {
            self.decide_down(bytes, &head)?
        };
        Ok(fate.map(|fate| (head, fate)))
    }

    /// Finds packets in `bytes` and does with each what is to be done; says how many bytes were
    /// used. Neighbours that pass are written together.
    pub(super) fn split(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        up: bool,
    ) -> Result<usize, End> {
        let fault = |fault: Fault| {
            if up {
                End::Fault(fault)
            } else {
                End::EndpointFault(fault)
            }
        };
        // Where the bytes begin that are to be written, and where they end.
        let (mut from, mut at) = (0, 0);
        while at < bytes.len() {
            let left = bytes.len() - at;
            let direction = self.direction(up);
            if direction.passing > 0 {
                let length = direction.passing.min(left);
                direction.passing -= length;
                at += length;
                continue;
            }
            if direction.dropping > 0 {
                let length = direction.dropping.min(left);
                direction.dropping -= length;
                self.send(cx, &bytes[from..at], up)?;
                at += length;
                from = at;
                continue;
            }
            if up && self.resume.is_some() {
                self.held = true;
                break;
            }
            let (head, fate) = match self.decide(&bytes[at..], up) {
                Ok(Some(decided)) => decided,
                Ok(None) => break,
                Err(why) => {
                    self.send(cx, &bytes[from..at], up)?;
                    return Err(fault(why));
                }
            };
            match fate {
                Fate::Pass => self.direction(up).passing = head.packet(),
                Fate::Drop => self.direction(up).dropping = head.packet(),
                Fate::Wait => {
                    self.held = true;
                    self.resume = Some(self.caller.worker().now().after(AGAIN));
                    break;
                }
                Fate::Replace(written, instead) => {
                    self.send(cx, &bytes[from..at], up)?;
                    self.send(cx, &written, up)?;
                    at += instead;
                    from = at;
                    self.direction(up).passing = head.packet() - instead;
                }
            }
        }
        self.send(cx, &bytes[from..at], up)?;
        if up && self.state.goodbye && self.direction(up).passing == 0 {
            return Err(End::Client);
        }
        Ok(at)
    }
}
