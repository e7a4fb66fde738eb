//! Servers of a world: sound ones, and some with every kind of misbehaviour.

use std::collections::BTreeMap;

use finback_core::frame::Kind;

use super::chance::Chance;
use super::ledger::Ledger;
use super::network::{Event, Net, Network, Time};
use super::plan::Plan;
use super::tongue::{self, Tongue};
use super::toy;
use super::web::Doings;
use super::web2::{Desk, Reply};

/// A sound server answers within this.
pub(super) const PROMPT: Time = 60;
/// What it says travels no longer than this.
pub(super) const TRAVEL: Time = 10;
/// What anybody says has arrived by then, unless its connection is stalled.
pub(super) const TRAVELLED: Time = 2000;

/// What a server does next on a connection.
#[derive(Debug)]
pub(super) enum Said {
    Bytes(Vec<u8>),
    /// More than the answer to the call that is served.
    Early(Vec<u8>),
    /// To the call of this key, in HTTP/2.
    Reply(u64, Reply),
    /// Its last word, which it does not finish.
    Part(Vec<u8>),
    Finish,
    /// It ends its connection, unless it serves a call on it.
    FinishIdle,
    Break,
}

impl Said {
    fn name(&self) -> &'static str {
        match self {
            Self::Bytes(_) => "an answer",
            Self::Early(_) => "something",
            Self::Reply(..) => "a reply",
            Self::Part(_) => "a part",
            Self::Finish | Self::FinishIdle => "no more",
            Self::Break => "nothing, and resets it",
        }
    }
}

/// One server.
pub(super) struct Server {
    pub(super) number: usize,
    tongue: Tongue,
    large_answers: bool,
    pub(super) chance: Chance,
    /// It always answers, correctly and in time.
    pub(super) sound: bool,
    /// Something else did harm to it: the network, say.
    pub(super) harmed: bool,
    /// Until then it may be that a connection to it ends, or cannot be made.
    pub(super) trouble_until: Time,
    /// It answers nothing that comes from now on.
    pub(super) silent: bool,
    /// How often it misbehaves: once in so many calls.
    pub(super) vice: u64,
    pub(super) doings: Doings,
    pub(super) desks: BTreeMap<usize, Desk>,
    inboxes: BTreeMap<usize, Vec<u8>>,
    /// It reads nothing until then.
    deaf_until: Time,
    due: BTreeMap<(Time, u64), (usize, Said)>,
    said: u64,
}

impl Server {
    pub(super) fn new(number: usize, plan: &Plan, mut chance: Chance) -> Self {
        Self {
            number,
            tongue: plan.served,
            large_answers: plan.large_answers,
            sound: chance.one_in(2),
            harmed: false,
            trouble_until: 0,
            silent: false,
            vice: chance.pick(&[2, 4, 10, 40]),
            chance,
            doings: Doings::default(),
            desks: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            deaf_until: 0,
            due: BTreeMap::new(),
            said: 0,
        }
    }

    pub(super) fn accept(&mut self, conn: usize) {
        self.inboxes.insert(conn, Vec::new());
        if self.tongue == Tongue::Http2 {
            self.desks.insert(conn, Desk::new());
        }
    }

    /// Notes that something happens which may end connections to it, until then.
    pub(super) fn note_trouble(&mut self, until: Time) {
        self.trouble_until = self.trouble_until.max(until.saturating_add(TRAVELLED));
    }

    /// Answers nothing that comes from now on.
    pub(super) fn fall_silent(&mut self) {
        self.silent = true;
        self.harmed = true;
    }

    pub(super) fn say(&mut self, net: &mut Net, conn: usize, later: Time, said: Said) {
        self.said += 1;
        let at = net.now() + later;
        self.due.insert((at, self.said), (conn, said));
        net.schedule(later, Event::Server(self.number));
    }

    /// Says what is due.
    pub(super) fn act(&mut self, network: &Network) {
        let mut net = network.lock();
        let now = net.now();
        while let Some(first) = self.due.first_entry() {
            if first.key().0 > now {
                return;
            }
            let (conn, said) = first.remove();
            net.note(&format!(
                "server {} says by {conn}: {}",
                self.number,
                said.name()
            ));
            let ends_one_call =
                matches!(&said, Said::Reply(_, own) if !matches!(own, Reply::Goodbye));
            if !ends_one_call && !matches!(said, Said::Bytes(_)) {
                self.note_trouble(now);
            }
            match said {
                Said::FinishIdle if self.doings.is_serving(conn) => {}
                Said::Break => {
                    self.inboxes.remove(&conn);
                    self.desks.remove(&conn);
                    net.cut(conn);
                }
                Said::Reply(key, reply) => self.reply(&mut net, conn, key, &reply),
                _ if !self.inboxes.contains_key(&conn) => {}
                Said::Bytes(bytes) => {
                    self.doings.answered(conn);
                    net.send(conn, &bytes);
                }
                Said::Early(bytes) => net.send(conn, &bytes),
                Said::Part(bytes) => {
                    self.inboxes.remove(&conn);
                    net.send(conn, &bytes);
                }
                Said::Finish | Said::FinishIdle => {
                    // A request that it cannot answer any more does not run.
                    if self.tongue.is_http() {
                        self.inboxes.remove(&conn);
                        self.desks.remove(&conn);
                    }
                    net.finish(conn);
                }
            }
        }
    }

    /// Something may have arrived.
    pub(super) fn hear(&mut self, network: &Network, conn: usize, ledger: &mut Ledger) {
        let mut net = network.lock();
        let deaf = self.deaf_until.saturating_sub(net.now());
        if deaf > 0 {
            return net.schedule(deaf, Event::ToPeer(conn));
        }
        let heard = net.hear(conn, usize::MAX);
        let Some(mut inbox) = self.inboxes.remove(&conn) else {
            return;
        };
        if heard.broken {
            self.desks.remove(&conn);
            return;
        }
        if self.tongue == Tongue::Http2 {
            self.inboxes.insert(conn, Vec::new());
            self.turn_desk(&mut net, conn, &heard.bytes, heard.ended, ledger);
        }
        if self.tongue != Tongue::Http2 {
            inbox.extend_from_slice(&heard.bytes);
        }
        if self.tongue.answers_in_order() {
            self.take_requests(&mut net, conn, &mut inbox, ledger);
        }
        for (head, frame) in self.tongue.take(&mut inbox) {
            self.inboxes.entry(conn).or_default();
            match head.kind {
                Kind::Request => self.call(&mut net, conn, head.id, &frame, ledger),
                Kind::OneWay => match tongue::number_in(&frame) {
                    Some(number) => ledger.arrive(number, self.number, false),
                    None => ledger.fault(format!("server {} got a one-way of nobody", self.number)),
                },
                Kind::Ping if self.silent => {}
                Kind::Ping if self.sound || !self.chance.one_in(self.vice) => {
                    let pong = self.tongue.pong(&frame, &head);
                    let later = self.chance.between(0, 5);
                    self.say(&mut net, conn, later, Said::Bytes(pong));
                }
                _ => {}
            }
        }
        if heard.ended {
            self.inboxes.remove(&conn);
            net.leave(conn);
        } else {
            self.inboxes.insert(conn, inbox);
        }
    }

    fn call(&mut self, net: &mut Net, conn: usize, id: u64, frame: &[u8], ledger: &mut Ledger) {
        let Some(number) = tongue::number_in(frame) else {
            return ledger.fault(format!("server {} got a call of nobody", self.number));
        };
        let refuses = self.tongue == Tongue::Toy && !self.sound && self.chance.one_in(6);
        ledger.arrive(number, self.number, refuses);
        if self.silent {
            return;
        }
        let token = tongue::token(number);
        let flag = match self.chance.between(0, 9) {
            _ if refuses => 2,
            0 => 1,
            1 => 3,
            2 if !self.sound => 4,
            3 if !self.sound => 5,
            _ => 0,
        };
        let padding = match self.chance.between(0, 15) {
            _ if self.large_answers => self.chance.between(8000, 20_000) as usize,
            0 => self.chance.between(0, 20_000) as usize,
            _ => self.chance.between(0, 40) as usize,
        };
        let answer = self.tongue.answer(id, flag, &token, padding);
        let later = self.chance.between(0, PROMPT);
        if self.sound {
            ledger.promise(number, net.now() + later + TRAVEL);
        }
        if self.sound || !self.chance.one_in(self.vice) {
            return self.say(net, conn, later, Said::Bytes(answer));
        }
        self.misbehave(net, conn, (id, later), answer);
    }

    fn misbehave(&mut self, net: &mut Net, conn: usize, (id, later): (u64, Time), answer: Vec<u8>) {
        let toy = self.tongue == Tongue::Toy;
        match self.chance.between(0, 12) {
            // It hangs.
            0 | 1 => {}
            2 => {
                let late = self.chance.between(200, 30_000);
                self.say(net, conn, late, Said::Bytes(answer));
            }
            3 => self.say(net, conn, later, Said::Break),
            4 => {
                let part = self.chance.index(answer.len());
                self.say(net, conn, later, Said::Part(answer[..part].to_vec()));
                let end = if self.chance.one_in(2) {
                    Said::Finish
                } else {
                    Said::Break
                };
                self.say(net, conn, later + 20, end);
            }
            5 => {
                self.say(net, conn, later, Said::Bytes(answer.clone()));
                self.say(net, conn, later + 3, Said::Bytes(answer));
            }
            6 if toy => {
                // Of no slot that is ever used.
                let unknown = toy::frame(toy::RESPONSE, 0, id | 0xfff0, b"nobody asked");
                self.say(net, conn, later, Said::Bytes(unknown));
                self.say(net, conn, later, Said::Bytes(answer));
            }
            7 if toy => {
                self.say(
                    net,
                    conn,
                    later,
                    Said::Bytes(toy::frame(toy::GOODBYE, 0, 0, &[])),
                );
                self.say(net, conn, later + 10, Said::Bytes(answer));
                self.say(net, conn, later + 2000, Said::Finish);
            }
            8 if toy => {
                let padding = vec![b'.'; toy::MAX_FRAME + self.chance.index(5000)];
                let large = toy::frame(toy::RESPONSE, 0, id, &padding);
                self.say(net, conn, later, Said::Bytes(large));
            }
            9 => {
                self.say(net, conn, later, Said::Bytes(vec![0xff; 40]));
            }
            10 if toy => {
                for _ in 0..self.chance.between(1, 300) {
                    self.say(
                        net,
                        conn,
                        later,
                        Said::Bytes(toy::frame(toy::PING, 0, 7, &[])),
                    );
                }
                self.say(net, conn, later, Said::Bytes(answer));
            }
            11 if toy => {
                let call = toy::frame(toy::REQUEST, 0, 9, b"a call of the server's own");
                self.say(net, conn, later, Said::Bytes(call));
                self.say(net, conn, later, Said::Bytes(answer));
            }
            12 if toy => {
                // It asks without end and does not listen, and after a while goes on as before.
                self.deaf_until = net.now() + self.chance.between(100, 20_000);
                let pings = self.chance.pick(&[1, 100, 30_000]);
                let flood = toy::frame(toy::PING, 0, 7, &[]).repeat(pings);
                self.say(net, conn, later, Said::Bytes(flood));
                self.say(net, conn, later, Said::Bytes(answer));
            }
            _ => self.say(net, conn, later, Said::Finish),
        }
    }
}
