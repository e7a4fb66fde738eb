//! Who consumes the messages of each lane: the lane itself, or the base in its place.
//!
//! A lane has consumers or it has not; that is asked of its broker by whoever looks after the board, and written
//! here. Fetches of the base leave a lane's messages out where the lane's own consumers go on from an earlier place of the queue, and
//! have them else. What was left out and then not consumed by its lane lies between two places of the queue, and is known
//! here: it can be handed back to the base.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::code::request;
use crate::route;
use crate::stored::{self, Stored};

use super::expression::Own;
use super::{GroupLanes, RETRY};

/// Queues that are kept in mind, over all groups: of more, the base consumes what lanes do, too.
const QUEUES: usize = 16 * 1024;
/// Subscriptions of one broker.
const SUBSCRIPTIONS: usize = 16 * 1024;
/// Turns of the clock after which a queue that nobody fetches from is forgotten.
const AGE: u64 = 60;
/// A queue's number where the broker chooses it: POP.
const ANY: i32 = -1;

/// Whether a lane has consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    /// Nobody has found out yet.
    #[default]
    Unknown,
    Live,
    Gone,
}

/// From where to where a queue's messages of one lane are whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border {
    /// The lane's consumers go on from here, or from before: from here on the base leaves its messages out.
    pub starts: Option<i64>,
    /// From here on the base has left them out.
    pub from: Option<i64>,
    /// From here on the base has them again.
    pub until: Option<i64>,
    /// What lies between is handed back.
    pub is_done: bool,
    /// POP: the base has consumed all that is before where the lane's consumers go on.
    pub is_narrow: bool,
}

/// A queue that consumers of the base fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPlace {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number; `None` where the broker chooses one.
    pub queue: Option<i32>,
    /// Of each lane.
    pub borders: Vec<Border>,
}

/// A group of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// Of each lane whether it has consumers; `None` as long as that is not known.
    pub lives: Vec<Option<bool>>,
    /// Each of its consumers has all messages, and keeps for itself where it is.
    pub is_broadcast: bool,
    /// Where it fetches.
    pub places: Vec<FetchPlace>,
}

/// Who consumes what at one broker.
#[derive(Debug)]
pub struct Board {
    lanes: GroupLanes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turn: u64,
    queues: usize,
    groups: HashMap<Arc<str>, Known>,
    /// By their groups and topics.
    subscriptions: HashMap<(Arc<str>, Arc<str>), Subscription>,
}

#[derive(Debug)]
struct Subscription {
    /// `None` if it cannot be written in SQL.
    own: Option<Own>,
    is_broadcast: bool,
    seen: u64,
}

#[derive(Debug, Default)]
struct Known {
    lives: Vec<Life>,
    is_broadcast: bool,
    queues: HashMap<(Arc<str>, i32), Queue>,
}

#[derive(Debug)]
struct Queue {
    seen: u64,
    borders: Vec<Border>,
}

impl Life {
    fn told(self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Live => Some(true),
            Self::Gone => Some(false),
        }
    }
}

impl Board {
    /// Of these lanes; nobody consumes anything yet.
    #[must_use]
    pub fn new(lanes: GroupLanes) -> Arc<Self> {
        Arc::new(Self {
            lanes,
            state: Mutex::default(),
        })
    }

    /// The lanes.
    #[must_use]
    pub fn lanes(&self) -> &GroupLanes {
        &self.lanes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another turn of the clock: what nobody has asked for in a while is forgotten, and all the rest told.
    #[must_use]
    pub fn turn(&self) -> Vec<Group> {
        let mut state = self.lock();
        state.turn += 1;
        let turn = state.turn;
        let is_young = |seen: u64| turn.saturating_sub(seen) < AGE;
        state.subscriptions.retain(|_, own| is_young(own.seen));
        state.groups.retain(|_, known| {
            known.queues.retain(|_, queue| is_young(queue.seen));
            !known.queues.is_empty()
        });
        state.queues = state.groups.values().map(|own| own.queues.len()).sum();
        state
            .groups
            .iter()
            .map(|(name, own)| own.told(name))
            .collect()
    }

    /// Which lanes of which groups have consumers, as far as that is known.
    #[must_use]
    pub fn lives(&self) -> Vec<(Arc<str>, Arc<str>, Option<bool>)> {
        let state = self.lock();
        let mut all: Vec<_> = state
            .groups
            .iter()
            .flat_map(|(name, known)| {
                let lanes = self.lanes.others().iter().zip(&known.lives);
                lanes.map(|(lane, life)| (name.clone(), lane.clone(), life.told()))
            })
            .collect();
        all.sort();
        all
    }

    /// Writes down whether a lane of a group has consumers.
    pub fn set_life(&self, group: &str, lane: usize, is_live: bool) {
        let mut state = self.lock();
        let Some(known) = state.groups.get_mut(group) else {
            return;
        };
        let life = if is_live { Life::Live } else { Life::Gone };
        let Some(own) = known.lives.get_mut(lane).filter(|own| **own != life) else {
            return;
        };
        *own = life;
        for queue in known.queues.values_mut() {
            let border = &mut queue.borders[lane];
            (border.until, border.is_done) = (None, false);
            (border.starts, border.is_narrow) = (None, false);
            if is_live {
                border.from = None;
            }
        }
    }

    /// Writes down where a lane's consumers go on, or that what they left has been handed back.
    pub fn set(&self, group: &str, place: &FetchPlace, lane: usize, border: Border) {
        let mut state = self.lock();
        let Some(known) = state.groups.get_mut(group) else {
            return;
        };
        let key = (place.topic.clone(), place.queue.unwrap_or(ANY));
        let queue = known.queues.get_mut(&key);
        if let Some(own) = queue.and_then(|own| own.borders.get_mut(lane)) {
            own.starts = border.starts;
            own.is_done = border.is_done;
            own.is_narrow = border.is_narrow;
        }
    }

    /// A heartbeat tells what groups choose by.
    pub(super) fn subscribe(&self, body: &[u8]) {
        let Some(data) = route::read(body) else {
            return;
        };
        let consumers = data.get("consumerDataSet").and_then(Value::as_array);
        let mut state = self.lock();
        let turn = state.turn;
        for consumer in consumers.into_iter().flatten() {
            let Some(group) = consumer.get("groupName").and_then(Value::as_str) else {
                continue;
            };
            let model = consumer.get("messageModel").and_then(Value::as_str);
            let is_broadcast = model == Some("BROADCASTING");
            let all = consumer
                .get("subscriptionDataSet")
                .and_then(Value::as_array);
            for own in all.into_iter().flatten() {
                let text = |name: &str| own.get(name).and_then(Value::as_str).unwrap_or_default();
                let topic = text("topic");
                if topic.starts_with(RETRY) || state.subscriptions.len() >= SUBSCRIPTIONS {
                    continue;
                }
                let is_class = own.get("classFilterMode") == Some(&Value::Bool(true));
                let found = Own::of(text("expressionType"), text("subString"));
                let subscription = Subscription {
                    own: found.filter(|_| !is_class),
                    is_broadcast,
                    seen: turn,
                };
                let key = (group.into(), topic.into());
                state.subscriptions.insert(key, subscription);
            }
        }
    }

    /// What the group of a fetch chooses by in its topic; `None` if that is not known, or cannot be written in SQL.
    pub(super) fn own<'a>(&self, field: &dyn Fn(&str) -> Option<Cow<'a, str>>) -> Option<Own> {
        let key = (
            Arc::from(&*field("consumerGroup")?),
            Arc::from(&*field("topic")?),
        );
        let state = self.lock();
        state.subscriptions.get(&key)?.own.clone()
    }

    /// The lanes whose messages a fetch of the base leaves out.
    pub(super) fn fetch<'a>(
        &self,
        code: i32,
        field: &dyn Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Vec<usize> {
        let number = |name| field(name).and_then(|own| own.parse::<i64>().ok());
        let (Some(group), Some(topic)) = (field("consumerGroup"), field("topic")) else {
            return Vec::new();
        };
        let is_any = matches!(code, request::POP_MESSAGE | request::NOTIFICATION);
        let queue = number("queueId").and_then(|own| i32::try_from(own).ok());
        let queue = if is_any { Some(ANY) } else { queue };
        let offset = if is_any {
            Some(0)
        } else {
            number("queueOffset")
        };
        let (Some(queue), Some(offset)) = (queue, offset) else {
            return Vec::new();
        };
        self.lock()
            .fetch(self.lanes.others().len(), (&group, &topic, queue), offset)
    }

    /// The messages of an answer without those that lanes' own consumers have, too: they were fetched before these
    /// came. `None` if there is none of them, or they cannot be read.
    pub(crate) fn without_anothers(&self, group: u32, body: &[u8]) -> Option<Vec<u8>> {
        let state = self.lock();
        let mut of_group = state.groups.iter().filter(|(name, _)| hash(name) == group);
        // Two of one number are not told apart, and each has all of its messages then.
        let (Some((_, known)), None) = (of_group.next(), of_group.next()) else {
            return None;
        };
        if !known.lives.contains(&Life::Live) {
            return None;
        }
        let (mut kept, mut rest) = (Vec::new(), body);
        while !rest.is_empty() {
            let (wire, after) = stored::split(rest)?;
            let message = Stored::read(wire)?;
            if !message.is_some_and(|own| self.is_anothers(known, &own)) {
                kept.extend_from_slice(wire);
            }
            rest = after;
        }
        (kept.len() < body.len()).then_some(kept)
    }

    fn is_anothers(&self, known: &Known, message: &Stored<'_>) -> bool {
        let lane = self.lanes.lane_of(message.properties);
        let others = self.lanes.others();
        let lane = lane.and_then(|lane| others.iter().position(|own| **own == *lane));
        let Some(lane) = lane.filter(|lane| known.lives[*lane] == Life::Live) else {
            return false;
        };
        let queue = known.queues.get(&(message.topic.into(), message.queue));
        let starts = queue.and_then(|own| own.borders[lane].starts);
        starts.is_some_and(|from| message.offset >= from)
    }
}

impl State {
    fn fetch(
        &mut self,
        lanes: usize,
        (group, topic, queue): (&str, &str, i32),
        offset: i64,
    ) -> Vec<usize> {
        let turn = self.turn;
        if !self.groups.contains_key(group) {
            if self.queues >= QUEUES {
                return Vec::new();
            }
            let known = Known {
                lives: vec![Life::Unknown; lanes],
                ..Known::default()
            };
            self.groups.insert(group.into(), known);
        }
        let Some(known) = self.groups.get_mut(group) else {
            return Vec::new();
        };
        let key = (Arc::from(topic), queue);
        let subscription = (Arc::from(group), Arc::clone(&key.0));
        if let Some(own) = self.subscriptions.get_mut(&subscription) {
            own.seen = turn;
            known.is_broadcast = own.is_broadcast;
        }
        if !known.queues.contains_key(&key) {
            if self.queues >= QUEUES {
                return Vec::new();
            }
            self.queues += 1;
        }
        let own = known.queues.entry(key).or_insert_with(|| Queue {
            seen: turn,
            borders: vec![Border::default(); lanes],
        });
        own.seen = turn;
        let lives = known.lives.iter().zip(&mut own.borders).enumerate();
        let left_out = lives.filter_map(|(at, (life, border))| {
            border.leaves_out(*life, queue == ANY, offset).then_some(at)
        });
        left_out.collect()
    }
}

impl Border {
    /// Whether a fetch from this place leaves the lane's messages out, which is kept in mind.
    fn leaves_out(&mut self, life: Life, is_any: bool, offset: i64) -> bool {
        match life {
            Life::Unknown => false,
            Life::Live if is_any => self.is_narrow,
            Life::Live => {
                let leaves = self.starts.is_some_and(|from| offset >= from);
                if leaves {
                    self.from.get_or_insert(offset);
                }
                leaves
            }
            Life::Gone => {
                self.until.get_or_insert(offset);
                false
            }
        }
    }
}

impl Known {
    fn told(&self, name: &Arc<str>) -> Group {
        let places = self.queues.iter().map(|((topic, queue), own)| FetchPlace {
            topic: topic.clone(),
            queue: Some(*queue).filter(|own| *own != ANY),
            borders: own.borders.clone(),
        });
        Group {
            name: name.clone(),
            lives: self.lives.iter().map(|own| own.told()).collect(),
            is_broadcast: self.is_broadcast,
            places: places.collect(),
        }
    }
}

/// A group in one number, which travels with its fetch.
pub(crate) fn hash(group: &str) -> u32 {
    // FNV-1a.
    group.bytes().fold(0x811c_9dc5, |all, byte| {
        (all ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
