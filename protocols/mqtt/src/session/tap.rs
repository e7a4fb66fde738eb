//! Mirrored messages: those that go somewhere else besides their broker.
//!
//! Where acknowledgements are held back, a message of quality of service 1 or 2 is written when its broker
//! has taken it: what a broker refuses was never published. Its client hears of it when both have it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use finback_core::log_limit::LogLimit;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;

use crate::codec::{Fault, FixedHeader, Properties, Publish};
use crate::policy::Tap;
use crate::reason::Reason;
use crate::sink::{NotTaken, OutgoingMessage, Receipt, Told};
use crate::tally::method;

use super::Session;

/// Messages of one session that may wait for their broker and their second receiver.
const MAX_TAPPED: usize = 1024;
/// Bytes of them that are kept meanwhile, unless it is one message alone.
const MAX_KEPT: usize = 4 * 1024 * 1024;
/// A second receiver without room is asked again after so long; each time after twice as long, up to the
/// most.
const AGAIN: Duration = Duration::from_millis(5);
const AGAIN_MOST: Duration = Duration::from_millis(250);

/// What a session's tap remembers.
#[derive(Default)]
pub(super) struct Tapped {
    waiting: VecDeque<Waiting>,
    /// Bytes that are kept.
    kept: usize,
    told: Arc<Told>,
    last: u64,
    /// How often in a row there was no room.
    refused: u32,
}

/// A message that its broker and its second receiver have to take, or an acknowledgement that
/// waits for its turn.
struct Waiting {
    id: u16,
    stage: Stage,
    /// The broker's acknowledgement.
    acknowledgement: Option<Vec<u8>>,
}

/// How far a message has come.
enum Stage {
    /// Its broker has not answered.
    Asked(Box<Copy>),
    /// Its broker has taken it.
    Taken(Box<Copy>),
    /// The second receiver has it under this number, and says what becomes of it.
    Sent(u64),
    /// It is not safe there.
    Failed,
    /// Nothing is waited for any more.
    Done,
}

/// A message as it is to be written.
struct Copy {
    topic: String,
    qos: u8,
    retain: bool,
    properties: Vec<u8>,
    payload: Vec<u8>,
}

impl Copy {
    fn length(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len()
    }
}

/// What became of handing a message over.
pub(super) enum Tapping {
    /// It may go on to its broker.
    Done,
    /// There is no room; it is to be tried again.
    Later,
}

impl Session {
    /// Hands a whole message over, or keeps it for when its broker has taken it.
    pub(super) fn tap(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Tapping {
        let applied = self.applied.as_ref();
        let tap = applied.and_then(|own| own.policy().tap.clone());
        let Some(tap) = tap.filter(|tap| tap.is_about(topic)) else {
            return Tapping::Done;
        };
        let payload = &packet[publish.head..];
        if tap.hold && head.qos() > 0 {
            return self.keep(head, publish, topic, payload);
        }
        let message = OutgoingMessage {
            topic,
            client_id: &self.client_id,
            username: &self.username,
            identity: self.caller.identity().unwrap_or_default(),
            qos: head.qos(),
            retain: head.retain(),
            properties: publish.properties,
            payload,
        };
        match tap.sink.take(&message, Receipt::unheard()) {
            Err(NotTaken::Full) if tap.hold => return Tapping::Later,
            Err(_) => {
                let left_out = Ending::Rejected(Rejection::Overloaded);
                self.tally.sent(method::TAP, topic, packet.len(), left_out);
            }
            Ok(()) => {}
        }
        Tapping::Done
    }

    fn keep(
        &mut self,
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
        payload: &[u8],
    ) -> Tapping {
        let id = publish.packet_id.unwrap_or(0);
        let tapped = &mut self.state.tapped;
        let mut waiting = tapped.waiting.iter();
        if waiting.any(|own| own.id == id && !matches!(own.stage, Stage::Done)) {
            // Sent again while it is on its way.
            return Tapping::Done;
        }
        let copy = Box::new(Copy {
            topic: topic.to_owned(),
            qos: head.qos(),
            retain: head.retain(),
            properties: publish.properties.bytes().to_vec(),
            payload: payload.to_vec(),
        });
        let kept = tapped.kept + copy.length();
        if tapped.waiting.len() >= MAX_TAPPED || tapped.kept > 0 && kept > MAX_KEPT {
            return Tapping::Later;
        }
        tapped.kept = kept;
        tapped.waiting.push_back(Waiting {
            id,
            stage: Stage::Asked(copy),
            acknowledgement: None,
        });
        Tapping::Done
    }

    /// Whether an acknowledgement of the broker, a PUBACK or PUBREC, has to wait; then it is kept here.
    pub(super) fn holds_back(&mut self, id: u16, packet: &[u8]) -> bool {
        let tapped = &mut self.state.tapped;
        if tapped.waiting.is_empty() {
            return false;
        }
        // Of two bytes for the length and two for the identifier at least; then its reason, if it has one.
        let refused = packet.get(4).is_some_and(|reason| *reason >= 0x80);
        // Acknowledgements keep their order (MQTT 5, section 4.6).
        let own = tapped
            .waiting
            .iter_mut()
            .find(|own| own.id == id && own.acknowledgement.is_none());
        let Some(own) = own else {
            tapped.waiting.push_back(Waiting {
                id,
                stage: Stage::Done,
                acknowledgement: Some(packet.to_vec()),
            });
            return true;
        };
        own.acknowledgement = Some(packet.to_vec());
        own.stage = match std::mem::replace(&mut own.stage, Stage::Done) {
            Stage::Asked(copy) if refused => {
                tapped.kept -= copy.length();
                Stage::Done
            }
            Stage::Asked(copy) => Stage::Taken(copy),
            stage => stage,
        };
        true
    }

    /// Keeps an answer of ours among acknowledgements that wait; gives it back if none does.
    pub(super) fn holds_back_too(&mut self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let waiting = &mut self.state.tapped.waiting;
        if waiting.is_empty() {
            return Some(answer);
        }
        waiting.push_back(Waiting {
            id: 0,
            stage: Stage::Done,
            acknowledgement: Some(answer),
        });
        None
    }

    /// Hears what became of messages, hands over those that brokers have taken, and lets
    /// acknowledgements go whose turn it is.
    ///
    /// # Errors
    /// If a message is not safe: its client is to send it again.
    pub(super) fn let_go(&mut self, waker: &Waker) -> Result<(), Fault> {
        let tapped = &mut self.state.tapped;
        for (number, went) in tapped.told.take(waker) {
            let is = |own: &&mut Waiting| matches!(own.stage, Stage::Sent(sent) if sent == number);
            if let Some(own) = tapped.waiting.iter_mut().find(is) {
                own.stage = match went {
                    Err(why) if !why.is_final() => Stage::Failed,
                    _ => Stage::Done,
                };
            }
        }
        if self.resume.is_none() {
            self.write_taken();
        }
        let tapped = &mut self.state.tapped;
        while let Some(first) = tapped.waiting.front() {
            match (&first.stage, &first.acknowledgement) {
                (Stage::Failed, _) => {
                    let why = "a message was not taken where it has to be besides its broker";
                    return Err(Fault::new(Reason::IMPLEMENTATION, why));
                }
                (Stage::Done, Some(packet)) => {
                    self.client.queue(packet);
                    tapped.waiting.pop_front();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Hands over what brokers have taken, in order; where there is no room, the client is read no more for
    /// a while.
    fn write_taken(&mut self) {
        let applied = self.applied.as_ref();
        let Some(tap) = applied.and_then(|own| own.policy().tap.clone()) else {
            return;
        };
        let mut at = 0;
        while at < self.state.tapped.waiting.len() {
            if !self.write_one(&tap, at) {
                let tapped = &mut self.state.tapped;
                let pause = AGAIN * 2_u32.pow(tapped.refused.min(6));
                tapped.refused += 1;
                let now = self.caller.worker().now();
                self.resume = Some(now.after(pause.min(AGAIN_MOST)));
                return;
            }
            at += 1;
        }
    }

    /// Whether there was room for the message at this place, if it is to be written.
    fn write_one(&mut self, tap: &Tap, at: usize) -> bool {
        let tapped = &mut self.state.tapped;
        let Stage::Taken(copy) = &tapped.waiting[at].stage else {
            return true;
        };
        tapped.last += 1;
        let message = OutgoingMessage {
            topic: &copy.topic,
            client_id: &self.client_id,
            username: &self.username,
            identity: self.caller.identity().unwrap_or_default(),
            qos: copy.qos,
            retain: copy.retain,
            properties: Properties::trusted(&copy.properties),
            payload: &copy.payload,
        };
        let receipt = Receipt::new(&tapped.told, tapped.last, None);
        let stage = match tap.sink.take(&message, receipt) {
            Ok(()) => Stage::Sent(tapped.last),
            Err(NotTaken::Full) => return false,
            Err(why) if !why.is_final() => Stage::Failed,
            // It would be the same the next time: the broker has it, and that is all there can be.
            Err(why) => {
                static LEFT_OUT: LogLimit = LogLimit::usual();
                if let Some(left_out) = LEFT_OUT.admit(self.caller.worker().now()) {
                    let (client, topic) = (Escaped(&self.client_id), Escaped(&copy.topic));
                    tracing::warn!(%client, %topic, ?why, left_out, "a message is not mirrored");
                }
                let left_out = Ending::Rejected(Rejection::Overloaded);
                let length = copy.length();
                self.tally.sent(method::TAP, &*copy.topic, length, left_out);
                Stage::Done
            }
        };
        tapped.kept -= copy.length();
        tapped.refused = 0;
        tapped.waiting[at].stage = stage;
        true
    }

    /// Whether there is somebody to be heard.
    pub(super) fn is_tapped(&self) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|own| own.policy().tap.as_ref().is_some_and(|tap| tap.hold))
    }
}
