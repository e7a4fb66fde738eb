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
use crate::policy::MessageMirror;
use crate::reason::Reason;
use crate::sink::{NotTaken, OutgoingMessage, Receipt, Told};
use crate::tally::method;

use super::Session;

/// Messages of one session that may wait for their broker and their second receiver.
const MAX_MIRRORED: usize = 1024;
/// Bytes of them that are kept meanwhile, unless it is one message alone.
const MAX_KEPT: usize = 4 * 1024 * 1024;
/// A second receiver without room is asked again after so long; each time after twice as long, up to the
/// most.
const AGAIN: Duration = Duration::from_millis(5);
const AGAIN_MOST: Duration = Duration::from_millis(250);

/// What a session's mirror remembers.
#[derive(Default)]
pub(super) struct Mirrored {
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
pub(super) enum Mirroring {
    /// It may go on to its broker.
    Done,
    /// There is no room; it is to be tried again.
    Later,
}

impl Session {
    /// Hands a whole message over, or keeps it for when its broker has taken it.
    pub(super) fn mirror(
        &mut self,
        packet: &[u8],
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
    ) -> Mirroring {
        let applied = self.applied.as_ref();
        let mirror = applied.and_then(|own| own.policy().mirror.clone());
        let Some(mirror) = mirror.filter(|mirror| mirror.is_about(topic)) else {
            return Mirroring::Done;
        };
        let payload = &packet[publish.head..];
        if mirror.hold && head.qos() > 0 {
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
        match mirror.sink.take(&message, Receipt::unheard()) {
            Err(NotTaken::Full) if mirror.hold => return Mirroring::Later,
            Err(_) => {
                let left_out = Ending::Rejected(Rejection::Overloaded);
                self.tally
                    .sent(method::MIRROR, topic, packet.len(), left_out);
            }
            Ok(()) => {}
        }
        Mirroring::Done
    }

    fn keep(
        &mut self,
        head: &FixedHeader,
        publish: &Publish<'_>,
        topic: &str,
        payload: &[u8],
    ) -> Mirroring {
        let id = publish.packet_id.unwrap_or(0);
        let mirrored = &mut self.state.mirrored;
        let mut waiting = mirrored.waiting.iter();
        if waiting.any(|own| own.id == id && !matches!(own.stage, Stage::Done)) {
            // Sent again while it is on its way.
            return Mirroring::Done;
        }
        let copy = Box::new(Copy {
            topic: topic.to_owned(),
            qos: head.qos(),
            retain: head.retain(),
            properties: publish.properties.bytes().to_vec(),
            payload: payload.to_vec(),
        });
        let kept = mirrored.kept + copy.length();
        if mirrored.waiting.len() >= MAX_MIRRORED || mirrored.kept > 0 && kept > MAX_KEPT {
            return Mirroring::Later;
        }
        mirrored.kept = kept;
        mirrored.waiting.push_back(Waiting {
            id,
            stage: Stage::Asked(copy),
            acknowledgement: None,
        });
        Mirroring::Done
    }

    /// Whether an acknowledgement of the broker, a PUBACK or PUBREC, has to wait; then it is kept here.
    pub(super) fn holds_back(&mut self, id: u16, packet: &[u8]) -> bool {
        let mirrored = &mut self.state.mirrored;
        if mirrored.waiting.is_empty() {
            return false;
        }
        // Of two bytes for the length and two for the identifier at least; then its reason, if it has one.
        let refused = packet.get(4).is_some_and(|reason| *reason >= 0x80);
        // Acknowledgements keep their order (MQTT 5, section 4.6).
        let own = mirrored
            .waiting
            .iter_mut()
            .find(|own| own.id == id && own.acknowledgement.is_none());
        let Some(own) = own else {
            mirrored.waiting.push_back(Waiting {
                id,
                stage: Stage::Done,
                acknowledgement: Some(packet.to_vec()),
            });
            return true;
        };
        own.acknowledgement = Some(packet.to_vec());
        own.stage = match std::mem::replace(&mut own.stage, Stage::Done) {
            Stage::Asked(copy) if refused => {
                mirrored.kept -= copy.length();
                Stage::Done
            }
            Stage::Asked(copy) => Stage::Taken(copy),
            stage => stage,
        };
        true
    }

    /// Keeps an answer of ours among acknowledgements that wait; gives it back if none does.
    pub(super) fn holds_back_too(&mut self, answer: Vec<u8>) -> Option<Vec<u8>> {
        let waiting = &mut self.state.mirrored.waiting;
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
        let mirrored = &mut self.state.mirrored;
        for (number, went) in mirrored.told.take(waker) {
            let is = |own: &&mut Waiting| matches!(own.stage, Stage::Sent(sent) if sent == number);
            if let Some(own) = mirrored.waiting.iter_mut().find(is) {
                own.stage = match went {
                    Err(why) if !why.is_final() => Stage::Failed,
                    _ => Stage::Done,
                };
            }
        }
        if self.resume.is_none() {
            self.write_taken();
        }
        let mirrored = &mut self.state.mirrored;
        while let Some(first) = mirrored.waiting.front() {
            match (&first.stage, &first.acknowledgement) {
                (Stage::Failed, _) => {
                    let why = "a message was not taken where it has to be besides its broker";
                    return Err(Fault::new(Reason::IMPLEMENTATION, why));
                }
                (Stage::Done, Some(packet)) => {
                    self.client.queue(packet);
                    mirrored.waiting.pop_front();
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
        let Some(mirror) = applied.and_then(|own| own.policy().mirror.clone()) else {
            return;
        };
        let mut at = 0;
        while at < self.state.mirrored.waiting.len() {
            if !self.write_one(&mirror, at) {
                let mirrored = &mut self.state.mirrored;
                let pause = AGAIN * 2_u32.pow(mirrored.refused.min(6));
                mirrored.refused += 1;
                let now = self.caller.worker().now();
                self.resume = Some(now.after(pause.min(AGAIN_MOST)));
                return;
            }
            at += 1;
        }
    }

    /// Whether there was room for the message at this place, if it is to be written.
    fn write_one(&mut self, mirror: &MessageMirror, at: usize) -> bool {
        let mirrored = &mut self.state.mirrored;
        let Stage::Taken(copy) = &mirrored.waiting[at].stage else {
            return true;
        };
        mirrored.last += 1;
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
        let receipt = Receipt::new(&mirrored.told, mirrored.last, None);
        let stage = match mirror.sink.take(&message, receipt) {
            Ok(()) => Stage::Sent(mirrored.last),
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
                self.tally
                    .sent(method::MIRROR, &*copy.topic, length, left_out);
                Stage::Done
            }
        };
        mirrored.kept -= copy.length();
        mirrored.refused = 0;
        mirrored.waiting[at].stage = stage;
        true
    }

    /// Whether there is somebody to be heard.
    pub(super) fn is_mirrored(&self) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|own| {
            own.policy()
                .mirror
                .as_ref()
                .is_some_and(|mirror| mirror.hold)
        })
    }
}
