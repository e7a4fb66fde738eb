//! Messages in flight: each is answered once, in the order in which they came (MQTT 5, section 4.6).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::sink::{NotTaken, Told};

/// What a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is safe.
    Taken,
    /// Policy forbids it.
    Denied,
    /// The sink does not have it.
    NotTaken(NotTaken),
}

/// A message that is to be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// By which the sink's news finds it. Numbers rise, but not by one: what the sink refused had
    /// one too.
    number: u64,
    pub(super) id: u16,
    pub(super) qos: u8,
    answer: Option<Answer>,
}

/// Messages in flight, the oldest first.
#[derive(Default)]
pub(super) struct Pending {
    messages: VecDeque<Message>,
    told: Arc<Told>,
    last: u64,
}

impl Pending {
    /// A number that no message had before, for one that is offered to the sink.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Who is told what becomes of messages.
    pub(super) fn told(&self) -> &Arc<Told> {
        &self.told
    }

    /// Adds a message that the sink has taken.
    pub(super) fn taken(&mut self, number: u64, id: u16, qos: u8) {
        self.push(number, id, qos, None);
    }

    /// Adds one whose answer is known, and waits for its turn.
    pub(super) fn answered(&mut self, id: u16, qos: u8, answer: Answer) {
        let number = self.number();
        self.push(number, id, qos, Some(answer));
    }

    fn push(&mut self, number: u64, id: u16, qos: u8, answer: Option<Answer>) {
        self.messages.push_back(Message {
            number,
            id,
            qos,
            answer,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether a message of this packet identifier is not answered yet.
    pub(super) fn contains(&self, id: u16) -> bool {
        self.messages.iter().any(|message| message.id == id)
    }

    /// Takes what the sink says; whether it said something. The waker is woken by what comes later.
    pub(super) fn hear(&mut self, waker: &Waker) -> bool {
        let news = self.told.take(waker);
        let heard = !news.is_empty();
        for (number, went) in news {
            let at = self
                .messages
                .binary_search_by_key(&number, |message| message.number);
            if let Ok(at) = at {
                let answer = went.map_or_else(Answer::NotTaken, |()| Answer::Taken);
                self.messages[at].answer.get_or_insert(answer);
            }
        }
        heard
    }

    /// The message whose turn it is to be answered, if its answer is known.
    pub(super) fn next(&mut self) -> Option<(Message, Answer)> {
        let answer = self.messages.front()?.answer?;
        Some((self.messages.pop_front()?, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Receipt;

    #[test]
    fn each_message_is_answered_once_and_in_order_though_others_were_refused_between() {
        let mut pending = Pending::default();
        let mut receipts = Vec::new();
        for id in 1..=6 {
            // Every second offer finds no room, and is tried again.
            let refused = pending.number();
            drop(Receipt::new(pending.told(), refused, None));
            let number = pending.number();
            receipts.push(Receipt::new(pending.told(), number, None));
            pending.taken(number, id, 1);
        }
        pending.answered(7, 1, Answer::Denied);
        assert!(
            !pending.hear(Waker::noop()),
            "what was refused says nothing"
        );
        for (at, receipt) in receipts.into_iter().rev().enumerate() {
            assert_eq!(pending.next(), None);
            let went = if at == 2 {
                Err(NotTaken::Failed)
            } else {
                Ok(())
            };
            receipt.tell(went);
            assert!(pending.hear(Waker::noop()));
        }
        let mut answers = Vec::new();
        while let Some((message, answer)) = pending.next() {
            answers.push((message.id, answer));
        }
        let (taken, failed) = (Answer::Taken, Answer::NotTaken(NotTaken::Failed));
        let expected = [taken, taken, taken, failed, taken, taken, Answer::Denied];
        let expected: Vec<_> = (1..).zip(expected).collect();
        assert_eq!(answers, expected);
        assert!(pending.is_empty());
        assert_eq!(pending.last, 13);
    }
}
