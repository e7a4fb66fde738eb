//! Clients of a world: most are well behaved, some leave in the middle, some never were.

use std::collections::{BTreeMap, VecDeque};

use finback_core::frame::Kind;

use super::chance::Chance;
use super::ledger::{Entry, Ledger};
use super::network::{Event, Net, Network, Time};
use super::plan::Plan;
use super::tongue::{self, Call, Tongue};
use super::toy;
use super::web::{self, Due, Order};
use super::web2::Calls;

/// How it ends, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stays,
    /// It resets its connection.
    Breaks,
    /// It closes its sending side, and waits for its answers.
    Finishes,
    /// It closes both sides.
    Leaves,
}

/// What it does once that no sound client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vice {
    Garbage,
    Oversize,
    /// A frame, a byte a moment, that never ends.
    Dribble,
    /// It never reads.
    Deaf,
    /// Many heartbeats, whose answers it reads slowly.
    Pings,
}

/// One client, of one connection.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) conn: usize,
    pub(super) listener: u64,
    tongue: Tongue,
    pub(super) chance: Chance,
    pub(super) inbox: Vec<u8>,
    /// Its calls that wait, and were answered, by id.
    pub(super) waiting: BTreeMap<u64, usize>,
    calls_left: u64,
    /// After so many more calls it ends.
    ends_after: u64,
    end: End,
    vice: Option<Vice>,
    depth: u64,
    gap: Time,
    /// It reads so many bytes every so often.
    pub(super) appetite: Option<(usize, Time)>,
    own_timeouts: bool,
    next_id: u64,
    /// What is to be answered, where that comes in order.
    pub(super) order: Order,
    /// Its calls in HTTP/2.
    pub(super) calls: Option<Calls>,
    /// What it says makes no sense any more.
    pub(super) is_garbled: bool,
    dribbling: VecDeque<u8>,
    /// It did what gives the mesh a right to close its connection.
    pub(super) guilty: bool,
    /// The network did it harm.
    pub(super) harmed: bool,
    /// Its connection is slower than frames may be.
    pub(super) slow: bool,
    /// Its listener is gone, or the process stops.
    pub(super) dismissed: bool,
    /// It is gone, or is being: it hears nothing any more.
    pub(super) gone: bool,
    /// Since when.
    pub(super) gone_at: Time,
    /// It closed its sending side.
    pub(super) finished: bool,
    /// The mesh ended the connection.
    pub(super) ended: bool,
    pub(super) broken: bool,
}

impl Client {
    pub(super) fn new(
        (number, conn, listener): (usize, usize, u64),
        plan: &Plan,
        mut chance: Chance,
    ) -> Self {
        let tongue = plan.tongue;
        let calls_left = chance.pick(&[3, 20, 60, 200]);
        let toy = tongue == Tongue::Toy;
        let in_order = tongue.answers_in_order();
        let vice = match chance.between(0, 14) {
            0 => Some(Vice::Garbage),
            1 if toy || in_order => Some(Vice::Oversize),
            2 if toy || in_order => Some(Vice::Dribble),
            3 => Some(Vice::Deaf),
            4 if toy => Some(Vice::Pings),
            _ => None,
        };
        let end = chance.pick(&[
            End::Stays,
            End::Stays,
            End::Stays,
            End::Breaks,
            End::Finishes,
            End::Leaves,
        ]);
        Self {
            number,
            conn,
            listener,
            tongue,
            inbox: Vec::new(),
            waiting: BTreeMap::new(),
            ends_after: chance.between(0, calls_left),
            calls_left,
            end,
            // One that does not read must not get away with it because it asked for little.
            depth: if vice == Some(Vice::Deaf) && plan.large_answers {
                100
            } else {
                chance.pick(&[1, 4, 30, 100])
            },
            gap: chance.pick(&[0, 5, 100, 900]),
            appetite: chance
                .one_in(5)
                .then(|| (chance.pick(&[40, 900]), chance.pick(&[1, 30]))),
            own_timeouts: toy && chance.one_in(2),
            next_id: chance.between(0, u64::from(u32::MAX)),
            order: Order::default(),
            calls: (tongue == Tongue::Http2).then(Calls::new).flatten(),
            is_garbled: false,
            dribbling: VecDeque::new(),
            guilty: vice == Some(Vice::Deaf),
            vice,
            harmed: false,
            slow: false,
            dismissed: false,
            gone: false,
            gone_at: 0,
            finished: false,
            ended: false,
            broken: false,
            chance,
        }
    }

    /// Whether nothing gives the mesh a right to close its connection.
    pub(super) fn is_innocent(&self) -> bool {
        let excused = self.guilty || self.harmed || self.slow || self.dismissed;
        !excused && !self.gone && !self.finished
    }

    /// Whether it is there to hear its answers.
    pub(super) fn hears(&self) -> bool {
        !self.gone && !self.broken && !self.harmed && !self.guilty
    }

    /// Whether it ended by a reset.
    pub(super) fn breaks(&self) -> bool {
        self.end == End::Breaks
    }

    fn is_over(&self) -> bool {
        self.gone || self.finished || self.ended || self.broken
    }

    // === Acting ===

    /// Does the next thing.
    pub(super) fn act(&mut self, network: &Network, plan: &Plan, ledger: &mut Ledger) {
        if self.is_over() {
            return;
        }
        let mut net = network.lock();
        if let Some(byte) = self.dribbling.pop_front() {
            net.send(self.conn, &[byte]);
            return net.schedule(300, Event::Client(self.number));
        }
        let open = self.waiting.values().filter(|call| ledger.is_open(**call));
        let room = self.depth.saturating_sub(open.count() as u64);
        let most = room.min(self.calls_left);
        let burst = if most == 0 {
            0
        } else {
            self.chance.between(1, most)
        };
        for _ in 0..burst {
            if self.ends_after == 0 && self.ends(&mut net) {
                return;
            }
            self.ends_after = self.ends_after.saturating_sub(1);
            self.calls_left -= 1;
            self.call(&mut net, plan, ledger);
        }
        if let Some(vice) = self
            .vice
            .filter(|vice| *vice != Vice::Deaf && self.chance.one_in(6))
        {
            self.vice = None;
            self.misbehave(&mut net, vice);
        }
        if self.calls_left > 0 || !self.dribbling.is_empty() || self.end != End::Stays {
            if self.calls_left == 0 && self.dribbling.is_empty() && self.ends(&mut net) {
                return;
            }
            let later = self.chance.between(1, self.gap.max(10));
            net.schedule(later, Event::Client(self.number));
        }
    }

    /// Writes a few of its calls before their time.
    pub(super) fn write_some(&mut self, network: &Network, plan: &Plan, ledger: &mut Ledger) {
        if self.is_over() || !self.dribbling.is_empty() {
            return;
        }
        let mut net = network.lock();
        let open = self.waiting.values().filter(|call| ledger.is_open(**call));
        let room = self.depth.saturating_sub(open.count() as u64);
        for _ in 0..room.min(self.calls_left).min(4) {
            self.calls_left -= 1;
            self.call(&mut net, plan, ledger);
        }
    }

    fn call(&mut self, net: &mut Net, plan: &Plan, ledger: &mut Ledger) {
        let service = self.chance.index(plan.services.len());
        let toy = self.tongue == Tongue::Toy;
        let one_way = toy && self.chance.one_in(8);
        let unreadable = toy && !one_way && self.chance.one_in(60);
        let id = self.next_id & u64::from(u32::MAX);
        self.next_id += 1;
        let timeout = self
            .own_timeouts
            .then(|| self.chance.pick(&[1, 30, 300, 2500, 9000, 7_200_000]));
        let number = ledger.write(Entry {
            client: self.number,
            service,
            one_way,
            unreadable,
            answers: Vec::new(),
            arrivals: Vec::new(),
            sent_back: Vec::new(),
            length: 0,
            written: net.now(),
            timeout,
            is_safe: false,
            in_hand: None,
            refused: None,
            crossed: None,
            confused: false,
            given_up: false,
            broken_off: false,
        });
        let padding = match self.chance.between(0, 20) {
            0 => self.chance.between(0, 30_000),
            1..3 => self.chance.between(0, 2000),
            _ => self.chance.between(0, 50),
        };
        self.waiting.insert(id, number);
        net.note(&format!("client {} writes call {number}", self.number));
        let call = Call {
            number,
            id,
            service: &plan.services[service].name,
            timeout,
            padding: padding as usize,
            one_way,
        };
        let mut bytes = match self.tongue {
            Tongue::Http2 => return self.ask(net, &call, ledger),
            Tongue::Http => self.write_in_order(&call, ledger),
            _ => self.tongue.call(&call),
        };
        if unreadable && let Some(last) = bytes.last_mut() {
            *last = 0xff;
        }
        net.send(self.conn, &bytes);
    }

    fn misbehave(&mut self, net: &mut Net, vice: Vice) {
        let in_order = self.tongue.answers_in_order();
        if in_order {
            self.order.push(Due::Nonsense);
        }
        self.guilty |= vice != Vice::Pings;
        self.is_garbled = true;
        match vice {
            Vice::Oversize if in_order => net.send(self.conn, &web::endless(40_000)),
            Vice::Dribble if in_order => self.dribbling.extend(web::endless(3000)),
            Vice::Garbage => net.send(self.conn, &[0xff; 30]),
            Vice::Oversize => {
                let padding = vec![b'.'; toy::MAX_FRAME];
                net.send(self.conn, &toy::frame(toy::REQUEST, 0, 1, &padding));
            }
            Vice::Dribble => {
                let padding = vec![b'.'; 3000];
                self.dribbling
                    .extend(toy::frame(toy::REQUEST, 0, 1, &padding));
            }
            Vice::Deaf => {}
            Vice::Pings => {
                for _ in 0..self.chance.between(1, 500) {
                    net.send(self.conn, &toy::frame(toy::PING, 0, 5, &[]));
                }
            }
        }
    }

    /// Goes as it goes; false if it stays.
    fn ends(&mut self, net: &mut Net) -> bool {
        self.gone_at = net.now();
        match self.end {
            End::Stays => return false,
            End::Breaks => {
                self.gone = true;
                net.cut(self.conn);
            }
            End::Finishes => {
                self.finished = true;
                // Whoever sends no more of HTTP is taken for gone.
                self.gone = self.tongue.is_http();
                net.finish(self.conn);
            }
            End::Leaves => {
                self.gone = true;
                net.leave(self.conn);
            }
        }
        true
    }

    /// Does nothing wrong from the beginning.
    pub(super) fn behave(&mut self) {
        self.guilty = false;
        self.rest();
    }

    /// Writes no more calls.
    pub(super) fn rest(&mut self) {
        self.calls_left = 0;
        self.dribbling.clear();
        if !self.gone {
            self.end = End::Stays;
        }
        self.vice = None;
        self.appetite = None;
    }

    /// Writes a few calls more.
    pub(super) fn more(&mut self, calls: u64) {
        // One that left a frame unfinished would be misunderstood.
        if !self.guilty {
            self.calls_left = calls;
        }
    }

    /// Ends its connection, whatever waits on it.
    pub(super) fn close(&mut self, network: &Network, resets: bool) {
        if !self.gone {
            self.gone = true;
            let mut net = network.lock();
            self.gone_at = net.now();
            if resets {
                net.cut(self.conn);
            } else {
                net.leave(self.conn);
            }
        }
    }

    // === Hearing ===

    /// Something may have arrived.
    pub(super) fn hear(&mut self, network: &Network, ledger: &mut Ledger) {
        let mut net = network.lock();
        let most = match self.appetite {
            _ if self.guilty && self.vice == Some(Vice::Deaf) => 0,
            Some((bytes, _)) => bytes,
            None => usize::MAX,
        };
        let heard = net.hear(self.conn, most);
        if let Some((_, every)) = self.appetite
            && !heard.bytes.is_empty()
        {
            net.schedule(every, Event::ClientReads(self.number));
        }
        if self.gone {
            return;
        }
        self.inbox.extend_from_slice(&heard.bytes);
        if self.tongue == Tongue::Http2 {
            let bytes = std::mem::take(&mut self.inbox);
            self.turn_calls(&mut net, &bytes, heard.ended || heard.broken, ledger);
        } else if self.tongue.answers_in_order() {
            self.take_messages(heard.ended, ledger);
        } else {
            self.take_frames(ledger);
        }
        if heard.broken {
            self.broken = true;
            if self.is_innocent() {
                let number = self.number;
                let at = net.now();
                ledger.fault(format!(
                    "the connection of client {number} was reset at {at}"
                ));
            }
        }
        if heard.ended && !self.ended {
            self.ended = true;
            net.leave(self.conn);
        }
    }

    fn take_frames(&mut self, ledger: &mut Ledger) {
        for (head, frame) in self.tongue.take(&mut self.inbox) {
            if head.kind == Kind::Response && !(self.guilty && head.id == 1) {
                let token = tongue::number_in(&frame);
                let toy = self.tongue == Tongue::Toy;
                let refused = toy.then(|| toy::refusal(&frame)).flatten();
                ledger.answer(self.number, &mut self.waiting, head.id, (token, refused));
            }
        }
    }
}
