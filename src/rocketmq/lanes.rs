//! Looks after the lanes of consumers at one broker: which of them have consumers, and what happens to the messages of
//! those that have none any more.
//!
//! A lane's consumers go on from where their group is in a queue. While there are none, the base consumes their messages,
//! and the group is taken along; what the base had left out for a lane that is gone comes again to the base, as a
//! message that was not consumed the first time.

mod refusals;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use finback_core::clock::Now;
use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use finback_rocketmq::lanes::{self, Board, Border, FetchPlace, Group};
use finback_rocketmq::{
    Answered, Ask, Fetch, QueueOf, Request, Stored, clients, is_readable, properties, queues_of,
    stored,
};
use tokio::time::Instant;

use crate::bridges::rocketmq::{Credentials, Servers, Unanswered, Way};

pub use refusals::{COUNTS, LaneCounts};
use refusals::{Refusals, TRIES};

/// How often it is asked which lanes have consumers.
const TURN: Duration = Duration::from_secs(2);
/// A group is taken along every so many turns.
const ALONG: u64 = 5;
/// Messages that are fetched at a time.
const MOST: u32 = 32;
/// Where a message that is consumed again says which topic it is of (RocketMQ: MessageConst).
const RETRY_TOPIC: &str = "RETRY_TOPIC";
/// What a message is told from all others by (RocketMQ: MessageConst).
const ID: &str = "UNIQ_KEY";

/// Lines of the log about one broker, a second.
const LINES: u32 = 1;

/// Asks a broker as long as its board is there.
pub(super) async fn look_after(
    board: Weak<Board>,
    broker: SocketAddr,
    credentials: Option<Credentials>,
    way: Way,
) {
    let servers = Servers::new(credentials.as_ref(), way);
    let mut own = Keeper::new(broker.to_string(), servers);
    loop {
        tokio::time::sleep(TURN).await;
        let Some(board) = board.upgrade() else { return };
        own.turn(&board).await;
    }
}

struct Keeper {
    address: String,
    servers: Servers,
    turn: u64,
    /// Groups of lanes that the broker does not make.
    absent: HashSet<String>,
    /// POP: where the consumers of a lane's group go on in each queue of a topic.
    popped: HashMap<(String, Arc<str>), Places>,
    /// The lane's group at which the last turn was given up: the next one begins behind it.
    given_up: Option<String>,
    /// The log has been told that the broker cannot be asked.
    is_lost: bool,
    /// What the broker refused of each lane's group the last time: said once, until it is another thing.
    refused: HashMap<String, String>,
    /// The messages at which handing back is held up.
    refusals: Refusals,
    counts: Arc<LaneCounts>,
    lines: LogLimit,
    began: Instant,
}

/// One lane of a group.
struct OfLane<'a> {
    board: &'a Board,
    base: &'a Group,
    /// Its number.
    lane: usize,
    /// The expression that its messages fulfil.
    only: String,
    /// What its group is called.
    group: String,
}

/// A place in each queue of a topic.
type Places = Vec<(i32, i64)>;

/// Why something could not be done.
#[derive(Debug)]
enum Wrong {
    /// The broker cannot be asked: that holds for all lanes.
    Lost(String),
    /// It was asked, and refused, or said what nobody understands: that is about one group.
    Refused(String),
}

impl Keeper {
    fn new(address: String, servers: Servers) -> Self {
        Self {
            address,
            servers,
            turn: 0,
            absent: HashSet::new(),
            popped: HashMap::new(),
            given_up: None,
            is_lost: false,
            refused: HashMap::new(),
            refusals: Refusals::default(),
            counts: COUNTS.clone(),
            lines: LogLimit::per_second(LINES),
            began: Instant::now(),
        }
    }

    /// Looks at every lane of every group. What goes wrong with one of them holds up no other: when the broker cannot
    /// be asked any more, the next turn begins behind the one that was asked about last.
    async fn turn(&mut self, board: &Board) {
        self.turn += 1;
        let groups = board.turn();
        let mut all: Vec<OfLane<'_>> = groups
            .iter()
            .flat_map(|base| OfLane::each(board, base))
            .collect();
        all.sort_by(|one, other| one.group.cmp(&other.group));
        self.refused
            .retain(|group, _| all.iter().any(|own| own.group == *group));
        self.refusals
            .retain(|group| all.iter().any(|own| own.group == group));
        if let Some(last) = self.given_up.take() {
            let behind = all.partition_point(|own| own.group <= last);
            all.rotate_left(behind);
        }
        for of in &all {
            match self.look_at(of).await {
                Ok(()) => drop(self.refused.remove(&of.group)),
                Err(Wrong::Refused(why)) => self.warn(of, why),
                Err(Wrong::Lost(why)) => {
                    self.given_up = Some(of.group.clone());
                    if !std::mem::replace(&mut self.is_lost, true) {
                        tracing::warn!(
                            broker = self.address, group = %Escaped(&of.group), %why,
                            "cannot ask a broker about lanes of consumers; as long as that is so nothing changes about who consumes their messages"
                        );
                    }
                    return;
                }
            }
        }
        self.is_lost = false;
    }

    /// Tells the log what the broker refused of one lane's group, if that is new.
    fn warn(&mut self, of: &OfLane<'_>, why: String) {
        let now = Now(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
        if self.refused.get(&of.group) == Some(&why) {
            return;
        }
        // What is left out now is said the next time.
        let Some(left_out) = self.lines.admit(now) else {
            return;
        };
        tracing::warn!(
            broker = self.address, group = %Escaped(&of.group), why, left_out,
            "cannot look after a lane of consumers; as long as that is so nothing changes about who consumes its messages"
        );
        self.refused.insert(of.group.clone(), why);
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Answered, Wrong> {
        let asked = self
            .servers
            .ask(&self.address, &Ask::Consume(request))
            .await;
        asked.map_err(|why| match why {
            Unanswered::Lost(why) => Wrong::Lost(why),
            Unanswered::TooLong => Wrong::Refused(why.to_string()),
        })
    }

    async fn succeed(&self, request: &Request<'_>) -> Result<Answered, Wrong> {
        let answer = self.ask(request).await?;
        match answer.is_success() {
            true => Ok(answer),
            false => Err(said(&answer)),
        }
    }

    async fn look_at(&mut self, of: &OfLane<'_>) -> Result<(), Wrong> {
        let is_live = self.find_life(&of.group).await?;
        of.board.set_life(&of.base.name, of.lane, is_live);
        if is_live {
            self.absent.remove(&of.group);
            self.refusals.retain(|group| *group != of.group);
        } else {
            self.popped.retain(|(group, _), _| *group != of.group);
        }
        if of.base.lives[of.lane] != Some(is_live) {
            // Where its queues are is looked at when they have been fetched from since.
            return Ok(());
        }
        // One queue that goes wrong holds up no other, and is told of afterwards.
        let mut went = Ok(());
        for place in &of.base.places {
            let own = match is_live {
                true => self.begin(of, place).await,
                false if of.base.is_broadcast => Ok(()),
                false => self.end(of, place).await,
            };
            went = first_wrong(went, own)?;
        }
        let is_time = self.turn.is_multiple_of(ALONG);
        if !is_live && is_time && !of.base.is_broadcast && !self.absent.contains(&of.group) {
            went = first_wrong(went, self.retries(of).await)?;
        }
        went
    }

    /// Whether a group has consumers. Of one that has none a broker says so; whatever else it says is no answer to
    /// that, for a lane that is taken for dead loses its messages to the base.
    async fn find_life(&self, group: &str) -> Result<bool, Wrong> {
        let answer = self.ask(&Request::consumers(group)).await?;
        if answer.is_no_consumer() {
            return Ok(false);
        }
        if !answer.is_success() {
            return Err(said(&answer));
        }
        let all = clients(&answer.body);
        let all = all.ok_or_else(|| unreadable("its list of a group's clients"))?;
        Ok(!all.is_empty())
    }

    /// A lane has consumers: where do they go on?
    async fn begin(&mut self, of: &OfLane<'_>, place: &FetchPlace) -> Result<(), Wrong> {
        let border = place.borders[of.lane];
        let Some(queue) = place.queue else {
            return match border.is_narrow {
                true => Ok(()),
                false => self.begin_to_pop(of, place).await,
            };
        };
        if border.starts.is_some() {
            return Ok(());
        }
        let starts = self.starts(of.queue(&place.topic, queue)).await?;
        let starts = Some(starts);
        of.set(place, Border { starts, ..border });
        Ok(())
    }

    async fn starts(&self, of: QueueOf<'_>) -> Result<i64, Wrong> {
        match self.offset(of).await? {
            Some(offset) => Ok(offset),
            // They have just begun, at the end or before.
            None => Ok(self.succeed(&Request::end(of)).await?.offset),
        }
    }

    /// POP does not say from where it fetches: the base leaves out what the lane has once it has consumed all from before.
    async fn begin_to_pop(&mut self, of: &OfLane<'_>, place: &FetchPlace) -> Result<(), Wrong> {
        let key = (of.group.clone(), place.topic.clone());
        if !self.popped.contains_key(&key) {
            let mut all = Vec::new();
            for (queue, _) in self.queues(&place.topic).await? {
                all.push((queue, self.starts(of.queue(&place.topic, queue)).await?));
            }
            self.popped.insert(key.clone(), all);
        }
        for (queue, starts) in self.popped.get(&key).into_iter().flatten() {
            let base = of.queue_of_base(&place.topic, *queue);
            if self.offset(base).await?.unwrap_or_default() < *starts {
                return Ok(());
            }
        }
        let is_narrow = true;
        let border = place.borders[of.lane];
        of.set(
            place,
            Border {
                is_narrow,
                ..border
            },
        );
        Ok(())
    }

    /// A lane has no consumers any more, and the base has its messages again: what lies between is handed back.
    async fn end(&mut self, of: &OfLane<'_>, place: &FetchPlace) -> Result<(), Wrong> {
        let border = place.borders[of.lane];
        let Some(until) = border.until else {
            return Ok(());
        };
        let is_along =
            border.is_done && (!self.turn.is_multiple_of(ALONG) || self.absent.contains(&of.group));
        if is_along {
            return Ok(());
        }
        let queues = match place.queue {
            Some(queue) => vec![(queue, until)],
            // What it has fetched meanwhile is consumed twice.
            None => self.queues(&place.topic).await?,
        };
        for (queue, until) in queues {
            let own = of.queue(&place.topic, queue);
            let known = self.offset(own).await?;
            // One that has never been anywhere has left nothing.
            if !border.is_done && (known.is_some() || border.from.is_some()) {
                let known = known.unwrap_or_default();
                let from = known.max(border.from.unwrap_or_default());
                self.hand_back(of, own, from..until, Some(&of.only)).await?;
                self.set_offset(of, own, until.max(known)).await?;
                continue;
            }
            let base = self.offset(of.queue_of_base(&place.topic, queue)).await?;
            if let Some(base) = base.filter(|base| known.is_none_or(|known| *base > known)) {
                self.set_offset(of, own, base).await?;
            }
        }
        if !border.is_done {
            let is_done = true;
            of.set(place, Border { is_done, ..border });
        }
        Ok(())
    }

    /// What consumers of a lane wanted to have again is for the base, too.
    async fn retries(&mut self, of: &OfLane<'_>) -> Result<(), Wrong> {
        let topic = format!("%RETRY%{}", of.group);
        let answer = self.ask(&Request::queues(&topic)).await?;
        if answer.is_no_topic() {
            // There is none as long as nobody wanted any.
            return Ok(());
        }
        let queues = places(&answer)?;
        for (queue, until) in queues {
            let own = of.queue(&topic, queue);
            let from = self.offset(own).await?.unwrap_or_default();
            if from < until {
                self.hand_back(of, own, from..until, None).await?;
                self.set_offset(of, own, until).await?;
            }
        }
        Ok(())
    }

    async fn hand_back(
        &mut self,
        of: &OfLane<'_>,
        own: QueueOf<'_>,
        range: std::ops::Range<i64>,
        expression: Option<&str>,
    ) -> Result<(), Wrong> {
        let (mut at, mut count) = (range.start, 0);
        while at < range.end {
            let fetch = Fetch {
                offset: at,
                most: MOST,
                expression,
                wait: 0,
            };
            let answer = self.ask(&Request::fetch(own, fetch)).await?;
            if !answer.is_fetched() {
                return Err(said(&answer));
            }
            // What cannot be read is not gone past.
            if !is_readable(&answer.body) {
                return Err(unreadable("messages of a queue"));
            }
            for message in stored(&answer.body) {
                if message.offset >= range.end {
                    break;
                }
                count += u64::from(self.send_back(of, own, &message).await?);
                // What is back does not come back once more.
                self.set_offset(of, own, message.offset + 1).await?;
            }
            if answer.next <= at {
                break;
            }
            at = answer.next;
        }
        if count > 0 {
            tracing::info!(
                group = %Escaped(&of.group), topic = %Escaped(own.topic), queue = own.queue,
                "a lane has no consumers any more; {count} of its messages come to {} again", Escaped(&of.base.name)
            );
        }
        Ok(())
    }

    /// Has a message come to the base again. False if it is left out, since its broker has refused that often enough.
    async fn send_back(
        &mut self,
        of: &OfLane<'_>,
        own: QueueOf<'_>,
        message: &Stored<'_>,
    ) -> Result<bool, Wrong> {
        if let Some(why) = self.refusals.waits(own, message.offset, self.turn) {
            return Err(Wrong::Refused(why));
        }
        let topic = properties::find(message.properties, RETRY_TOPIC);
        let topic = topic.unwrap_or(message.topic);
        let back = Request::send_back(&of.base.name, topic, message.place);
        let answer = self.ask(&back).await?;
        if answer.is_success() {
            self.refusals.forget(own);
            self.counts.handed_back.fetch_add(1, Relaxed);
            return Ok(true);
        }
        self.counts.refused.fetch_add(1, Relaxed);
        let why = format!("{} {}", answer.code, Escaped(&answer.remark));
        let at = (message.offset, self.turn);
        let tries = self.refusals.add(own, at, answer.is_about_message(), &why);
        if tries < TRIES {
            return Err(Wrong::Refused(why));
        }
        self.refusals.forget(own);
        self.counts.left_out.fetch_add(1, Relaxed);
        let id = properties::find(message.properties, ID).unwrap_or_default();
        tracing::error!(
            broker = self.address, group = %Escaped(&of.base.name), topic = %Escaped(own.topic), queue = own.queue,
            offset = message.offset, place = message.place, id = %Escaped(id), tries, why,
            "a message of a lane that has no consumers any more is left out: its broker does not have it come again"
        );
        Ok(false)
    }

    /// Has a lane's group go on from here, and makes it first where brokers let clients make groups: else its first
    /// consumers would begin with what the base has consumed long ago.
    async fn set_offset(
        &mut self,
        of: &OfLane<'_>,
        own: QueueOf<'_>,
        offset: i64,
    ) -> Result<(), Wrong> {
        let set = Request::set_offset(own, offset);
        let mut answer = self.ask(&set).await?;
        if answer.is_no_group() {
            // Brokers make a group for whoever fetches.
            let fetch = Fetch {
                offset,
                most: 1,
                expression: Some(&of.only),
                wait: 0,
            };
            self.ask(&Request::fetch(own, fetch)).await?;
            answer = self.ask(&set).await?;
        }
        if answer.is_no_group() {
            self.absent.insert(of.group.clone());
            return Ok(());
        }
        match answer.is_success() {
            true => Ok(()),
            false => Err(said(&answer)),
        }
    }

    async fn offset(&self, of: QueueOf<'_>) -> Result<Option<i64>, Wrong> {
        let answer = self.ask(&Request::offset(of)).await?;
        if answer.is_nothing() || answer.is_no_group() {
            return Ok(None);
        }
        match answer.is_success() {
            true => Ok(Some(answer.offset).filter(|own| *own >= 0)),
            false => Err(said(&answer)),
        }
    }

    async fn queues(&self, topic: &str) -> Result<Places, Wrong> {
        places(&self.ask(&Request::queues(topic)).await?)
    }
}

/// The queues of an answer. A topic always has some.
fn places(answer: &Answered) -> Result<Places, Wrong> {
    if !answer.is_success() {
        return Err(said(answer));
    }
    let all = queues_of(&answer.body);
    match all.is_empty() {
        true => Err(unreadable("its list of a topic's queues")),
        false => Ok(all),
    }
}

/// What a broker said, for the log.
fn said(answer: &Answered) -> Wrong {
    Wrong::Refused(format!("{} {}", answer.code, Escaped(&answer.remark)))
}

fn unreadable(what: &str) -> Wrong {
    Wrong::Refused(format!("{what} cannot be read"))
}

/// The first thing that went wrong about one lane; at once if the broker cannot be asked any more.
fn first_wrong(
    before: Result<(), Wrong>,
    own: Result<(), Wrong>,
) -> Result<Result<(), Wrong>, Wrong> {
    match own {
        Err(Wrong::Lost(why)) => Err(Wrong::Lost(why)),
        own => Ok(before.and(own)),
    }
}

impl<'a> OfLane<'a> {
    /// All lanes of a group.
    fn each(board: &'a Board, base: &'a Group) -> impl Iterator<Item = Self> {
        let all = board.lanes().others().iter().enumerate();
        all.map(move |(lane, name)| Self {
            board,
            base,
            lane,
            only: board.lanes().only(name),
            group: lanes::group(&base.name, name),
        })
    }

    fn queue<'b>(&'b self, topic: &'b str, queue: i32) -> QueueOf<'b> {
        let group = &self.group;
        QueueOf {
            group,
            topic,
            queue,
        }
    }

    fn queue_of_base<'b>(&'b self, topic: &'b str, queue: i32) -> QueueOf<'b> {
        let group = &self.base.name;
        QueueOf {
            group,
            topic,
            queue,
        }
    }

    fn set(&self, place: &FetchPlace, border: Border) {
        self.board.set(&self.base.name, place, self.lane, border);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
