//! Messages that go somewhere else besides their broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use finback_core::record::Ending;
use finback_core::rejection::Rejection;

use crate::codec::{Fault, Head, Publish};
use crate::reason::Reason;
use crate::sink::{NotTaken, Outgoing, Receipt, Told};
use crate::tally::method;

use super::Session;

/// Messages of one session that may wait for their second receiver.
const MAX_TAPPED: usize = 1024;

/// What a session's tap remembers.
#[derive(Default)]
pub(super) struct Tapped {
    waiting: VecDeque<Waiting>,
    told: Arc<Told>,
    next: u64,
}

/// A message that its broker and its second receiver have to take, or an acknowledgement that
/// waits for its turn.
struct Waiting {
    /// `None` for an acknowledgement of a message that was not tapped.
    number: Option<u64>,
    id: u16,
    came: Option<Result<(), NotTaken>>,
    /// The broker's acknowledgement.
    acknowledgement: Option<Vec<u8>>,
}

/// What became of handing a message over.
pub(super) enum Tapping {
    /// It may go on to its broker.
    Done,
    /// There is no room; it is to be tried again.
    Later,
}

impl Session {
    /// Hands a whole message over.
    pub(super) fn tap(
        &mut self,
        packet: &[u8],
        head: &Head,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Tapping {
        let applied = self.applied.as_ref();
        let tap = applied.and_then(|own| own.policy().tap.clone());
        let Some(tap) = tap.filter(|tap| tap.is_about(topic)) else {
            return Tapping::Done;
        };
        let id = publish.packet_id.unwrap_or(0);
        let awaited = tap.hold && head.qos() > 0;
        let tapped = &mut self.state.tapped;
        if awaited
            && tapped
                .waiting
                .iter()
                .any(|own| own.number.is_some() && own.id == id)
        {
            // Sent again while it is on its way.
            return Tapping::Done;
        }
        if awaited && tapped.waiting.len() >= MAX_TAPPED {
            return Tapping::Later;
        }
        let number = tapped.next;
        let receipt = if awaited {
            Receipt::new(&tapped.told, number, None)
        } else {
            Receipt::unheard()
        };
        let message = Outgoing {
            topic,
            client_id: &self.client_id,
            username: &self.username,
            identity: self.caller.identity().unwrap_or_default(),
            qos: head.qos(),
            retain: head.retain(),
            properties: publish.properties,
            payload: &packet[publish.head..],
        };
        let taken = tap.sink.take(&message, receipt);
        match taken {
            Err(NotTaken::Full) if tap.hold => return Tapping::Later,
            Err(_) if !awaited => {
                let left_out = Ending::Rejected(Rejection::Overloaded);
                self.tally.sent(method::TAP, topic, packet.len(), left_out);
            }
            _ if awaited => {
                tapped.next += 1;
                tapped.waiting.push_back(Waiting {
                    number: Some(number),
                    id,
                    came: taken.err().map(Err),
                    acknowledgement: None,
                });
            }
            _ => {}
        }
        Tapping::Done
    }

    /// Whether an acknowledgement of the broker has to wait; then it is kept here.
    pub(super) fn holds_back(&mut self, id: u16, packet: &[u8]) -> bool {
        let waiting = &mut self.state.tapped.waiting;
        if waiting.is_empty() {
            return false;
        }
        // Acknowledgements keep their order (section 4.6).
        let own = waiting
            .iter_mut()
            .find(|own| own.id == id && own.acknowledgement.is_none());
        match own {
            Some(own) => own.acknowledgement = Some(packet.to_vec()),
            None => waiting.push_back(Waiting {
                number: None,
                id,
                came: Some(Ok(())),
                acknowledgement: Some(packet.to_vec()),
            }),
        }
        true
    }

    /// Keeps an answer of ours among acknowledgements that wait; gives it back if none does.
    pub(super) fn holds_back_too(&mut self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let waiting = &mut self.state.tapped.waiting;
        if waiting.is_empty() {
            return Some(answer);
        }
        waiting.push_back(Waiting {
            number: None,
            id: 0,
            came: Some(Ok(())),
            acknowledgement: Some(answer),
        });
        None
    }

    /// Hears what became of messages, and lets acknowledgements go whose turn it is.
    ///
    /// # Errors
    /// If a message is not safe: its client is to send it again.
    pub(super) fn let_go(&mut self, waker: &Waker) -> Result<(), Fault> {
        let tapped = &mut self.state.tapped;
        for (number, came) in tapped.told.take(waker) {
            let own = tapped
                .waiting
                .iter_mut()
                .find(|own| own.number == Some(number));
            if let Some(own) = own {
                own.came.get_or_insert(came);
            }
        }
        while let Some(first) = tapped.waiting.front() {
            match (first.came, &first.acknowledgement) {
                (Some(Err(_)), _) => {
                    let why = "a message was not taken where it has to be besides its broker";
                    return Err(Fault::new(Reason::IMPLEMENTATION, why));
                }
                (Some(Ok(())), Some(packet)) => {
                    self.client.queue(packet);
                    tapped.waiting.pop_front();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Whether there is somebody to be heard.
    pub(super) fn is_tapped(&self) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|own| own.policy().tap.as_ref().is_some_and(|tap| tap.hold))
    }
}
