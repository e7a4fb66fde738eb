//! One queue of a consumer group, message after message into Kafka.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use finback_bridges::Failure;
use finback_core::text::Escaped;
use finback_rocketmq::{
    Answered, Ask, Fetch, Message, Queue, QueueOf, Request, Stored, is_readable, stored,
};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

use crate::bridges::rocketmq::Servers;

use super::{ConsumerGroup, GroupCounts, LOOK};

/// Messages that are fetched at a time, which is what is under way of a queue.
const MOST: u32 = 32;
/// How long a broker may wait for a message, in milliseconds, and how much longer its answer may take.
const WAIT: u32 = 15_000;
const LATE: Duration = Duration::from_secs(10);
/// Between two attempts of what failed, doubled each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A queue to be followed.
pub(super) struct Follow {
    pub(super) of: Arc<ConsumerGroup>,
    pub(super) counts: Arc<GroupCounts>,
    pub(super) servers: Arc<Servers>,
    pub(super) queue: Queue,
    pub(super) topic: String,
}

/// Follows it until it is another member's, or we stop.
pub(super) async fn follow(own: Follow, mut stopped: watch::Receiver<bool>) {
    let mut pause = PAUSE.0;
    let mut at = None;
    while !*stopped.borrow() {
        let round = async {
            let from = match at {
                Some(at) => at,
                None => own.begin().await?,
            };
            Ok::<_, String>((from, own.round(from).await?))
        };
        // What is under way is finished, and a fetch that only waits is not.
        let went = tokio::select! {
            went = round => went,
            () = own.stopped_while_waiting(&mut stopped) => return,
        };
        match went {
            Ok((from, fetched)) => {
                pause = PAUSE.0;
                let end = fetched.end;
                own.set_lag(from, end);
                let taken = tokio::select! {
                    taken = own.take(fetched, &stopped) => taken,
                    never = own.keep_lag(from) => match never {},
                };
                let Some(next) = taken else { return };
                own.set_lag(next, end);
                if let Err(why) = own.commit(next).await {
                    own.warn(&why);
                    sleep(pause).await;
                }
                at = Some(next);
            }
            Err(why) => {
                own.warn(&why);
                // It may have been consumed on by others, and its broker be another one.
                at = None;
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = stopped.changed() => return,
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.counts.forget(&self.queue);
    }
}

impl Follow {
    fn set_lag(&self, at: i64, end: Option<i64>) {
        if let Some(end) = end {
            self.counts.set_lag(&self.queue, at, end);
        }
    }

    fn of(&self) -> QueueOf<'_> {
        QueueOf {
            group: &self.of.group,
            topic: &self.topic,
            queue: self.queue.id,
        }
    }

    fn warn(&self, why: &str) {
        tracing::warn!(
            group = self.of.group, topic = self.topic, broker = &*self.queue.broker, queue = self.queue.id, %why,
            "a queue cannot be consumed for now"
        );
    }

    async fn stopped_while_waiting(&self, stopped: &mut watch::Receiver<bool>) {
        // An error is its sender's end.
        let _ = stopped.wait_for(|stop| *stop).await;
    }

    async fn ask(&self, request: &Request<'_>, patience: Duration) -> Result<Answered, String> {
        let ask = Ask::Consume(request);
        let asked = self.servers.ask_within(&self.queue.address, &ask, patience);
        asked.await.map_err(|why| why.to_string())
    }

    /// Where the group goes on; a new group with the first message that is still there.
    async fn begin(&self) -> Result<i64, String> {
        let answer = self.ask(&Request::offset(self.of()), LATE).await?;
        if answer.is_success() && answer.offset >= 0 {
            return Ok(answer.offset);
        }
        if !answer.is_nothing() && !answer.is_success() {
            return Err(said(&answer));
        }
        let answer = self.ask(&Request::first(self.of()), LATE).await?;
        match answer.is_success() {
            true => Ok(answer.offset),
            false => Err(said(&answer)),
        }
    }

    /// What comes next.
    async fn round(&self, from: i64) -> Result<Answered, String> {
        let fetch = Fetch {
            offset: from,
            most: MOST,
            expression: None,
            wait: WAIT,
        };
        let patience = Duration::from_millis(WAIT.into()) + LATE;
        let answer = self
            .ask(&Request::fetch(self.of(), fetch), patience)
            .await?;
        if !answer.is_fetched() {
            return Err(said(&answer));
        }
        // The group would go past what cannot be read.
        match is_readable(&answer.body) {
            true => Ok(answer),
            false => Err("messages of the queue cannot be read".to_owned()),
        }
    }

    /// Has Kafka take all of them, however long that lasts; where the group goes on then. `None` if we stop before.
    async fn take(&self, fetched: Answered, stopped: &watch::Receiver<bool>) -> Option<i64> {
        let mut pause = PAUSE.0;
        let messages = stored(&fetched.body);
        GroupCounts::add(&self.counts.taken, messages.len());
        let mut left: Vec<&Stored<'_>> = messages.iter().collect();
        while !left.is_empty() {
            let waiting: Vec<_> = left.into_iter().map(|own| (own, self.send(own))).collect();
            left = Vec::new();
            for (own, went) in waiting {
                let went = match went {
                    Ok(told) => told.await.unwrap_or(Err(Failure::Failed)),
                    Err(failure) => Err(failure),
                };
                match went {
                    Ok(()) => GroupCounts::add(&self.counts.delivered, 1),
                    Err(Failure::Full | Failure::TimedOut | Failure::Failed) => {
                        GroupCounts::add(&self.counts.failed, 1);
                        left.push(own);
                    }
                    Err(failure) => {
                        GroupCounts::add(&self.counts.left_out, 1);
                        tracing::error!(
                            group = self.of.group, topic = self.topic, queue = self.queue.id, offset = own.offset, %failure,
                            "a message is left out: Kafka will never take it"
                        );
                    }
                }
            }
            if !left.is_empty() {
                // What the group has not gone past comes again.
                if *stopped.borrow() {
                    return None;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
        Some(fetched.next)
    }

    fn send(&self, own: &Stored<'_>) -> Result<oneshot::Receiver<Result<(), Failure>>, Failure> {
        let message = Message {
            group: self.of.group.as_str().into(),
            topic: self.topic.as_str().into(),
            broker: (&*self.queue.broker).into(),
            queue: own.queue,
            sys_flag: own.sys_flag,
            flag: 0,
            born: own.born,
            properties: own.properties.into(),
            is_batch: false,
            body: own.body,
        };
        let (tell, told) = oneshot::channel();
        let confirm = Box::new(move |went: Result<_, Failure>| {
            let _ = tell.send(went.map(drop));
        });
        self.of.mirror.write(&message, confirm)?;
        Ok(told)
    }

    /// While Kafka takes nothing, more comes in.
    async fn keep_lag(&self, at: i64) -> Infallible {
        loop {
            sleep(LOOK).await;
            if let Ok(answer) = self.ask(&Request::end(self.of()), LATE).await
                && answer.is_success()
            {
                self.set_lag(at, Some(answer.offset));
            }
        }
    }

    async fn commit(&self, next: i64) -> Result<(), String> {
        let set = Request::set_offset(self.of(), next);
        let answer = self.ask(&set, LATE).await?;
        match answer.is_success() {
            true => Ok(()),
            false => Err(said(&answer)),
        }
    }
}

/// What a broker said, for the log.
fn said(answer: &Answered) -> String {
    format!("{} {}", answer.code, Escaped(&answer.remark))
}
