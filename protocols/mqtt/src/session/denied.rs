//! Answers to messages that are forbidden: they keep their place among the broker's own, for
//! acknowledgements come in the order of messages (MQTT 5, section 4.6).

use crate::codec::{Fault, PacketType};

use super::{MAX_AWAITED, Session};

/// What such answers wait for.
#[derive(Default)]
pub(super) struct Order {
    /// The last message of quality of service 1, and 2, that the broker has not acknowledged; 0 if
    /// there is none.
    open: [u16; 2],
    late: Vec<Late>,
}

/// An answer that waits for the broker's.
struct Late {
    kind: PacketType,
    after: u16,
    answer: Vec<u8>,
}

/// Where messages are kept that are acknowledged so.
fn place(kind: PacketType) -> usize {
    usize::from(kind == PacketType::Pubrec)
}

impl Order {
    /// A message goes to the broker.
    pub(super) fn passed(&mut self, qos: u8, packet_id: Option<u16>) {
        if let (1 | 2, Some(id)) = (qos, packet_id) {
            self.open[usize::from(qos) - 1] = id;
        }
    }

    /// What may follow the broker's acknowledgement of a message.
    pub(super) fn followers(&mut self, kind: PacketType, id: u16) -> Vec<u8> {
        let open = &mut self.open[place(kind)];
        if *open == id {
            *open = 0;
        }
        let mut followers = Vec::new();
        self.late.retain(|own| {
            let follows = own.kind == kind && own.after == id;
            if follows {
                followers.extend_from_slice(&own.answer);
            }
            !follows
        });
        followers
    }
}

impl Session {
    /// Sends an answer of ours, a PUBACK or PUBREC, when its turn comes.
    ///
    /// # Errors
    /// If too many wait already.
    pub(super) fn answer_in_order(
        &mut self,
        kind: PacketType,
        answer: Vec<u8>,
    ) -> Result<(), Fault> {
        let order = &mut self.state.order;
        let after = order.open[place(kind)];
        if after == 0 {
            if let Some(answer) = self.holds_back_too(answer) {
                self.client.queue(&answer);
            }
            return Ok(());
        }
        if order.late.len() >= MAX_AWAITED {
            return Err(Fault::quota("too many messages wait for their answer"));
        }
        order.late.push(Late {
            kind,
            after,
            answer,
        });
        Ok(())
    }
}
