//! Brokers of the world: they keep messages, have fetches wait for them, and ask their clients, too.

use std::collections::BTreeMap;

use super::super::chance::Chance;
use super::super::network::{Event, Network, Time};
use super::book::{Asked, Book, Push};
use super::frame::{Frame, ONE_WAY, take};
use super::popped::{Given, Popped};
use super::transactions::{Halves, group_of};
use super::{LONGEST_POLL, NAMES, QUEUES, TASKS, TASKS_TOPIC};

/// Codes of requests (RocketMQ: RequestCode).
pub(super) const PULL: i64 = 11;
pub(super) const UPDATE_OFFSET: i64 = 15;
pub(super) const HEART_BEAT: i64 = 34;
pub(super) const END_TRANSACTION: i64 = 37;
pub(super) const CHECK_TRANSACTION: i64 = 39;
pub(super) const ROUTE: i64 = 105;
pub(super) const SEND: i64 = 310;
const CONSUMERS_CHANGED: i64 = 40;
pub(super) const POP: i64 = 200_050;
pub(super) const ACKNOWLEDGE: i64 = 200_051;
pub(super) const CHANGE_INVISIBLE_TIME: i64 = 200_053;
pub(super) const PUSH: i64 = 326;

/// A broker asks so often what became of a transaction.
const CHECK_EVERY: Time = 800;

/// Codes of answers (RocketMQ: ResponseCode).
pub(super) const SUCCESS: i64 = 0;
pub(super) const SYSTEM_ERROR: i64 = 1;
pub(super) const NOT_FOUND: i64 = 19;
pub(super) const NO_MESSAGE: i64 = 208;
pub(super) const POLLING_TIMEOUT: i64 = 210;

/// What a broker knows of a connection.
#[derive(Default)]
pub(super) struct Session {
    inbox: Vec<u8>,
    /// The client's connection that all of it comes from.
    pub(super) line: Option<usize>,
    /// Groups of producers that it said it is of.
    groups: Vec<String>,
    pub(super) is_over: bool,
    over_at: Option<Time>,
}

/// A fetch that waits.
struct Waiting {
    conn: usize,
    asked: Frame,
    until: Time,
}

/// A broker.
pub(super) struct Broker {
    number: usize,
    chance: Chance,
    /// The messages of each queue, by the number of their request.
    pub(super) queues: [Vec<usize>; QUEUES + 1],
    pub(super) popped: Popped,
    pub(super) sessions: BTreeMap<usize, Session>,
    /// What it says, and when.
    due: BTreeMap<(Time, u64), (usize, Vec<u8>)>,
    said: u64,
    waiting: Vec<Waiting>,
    halves: Halves,
    next_push: i32,
    /// When something last happened to its connections, or to those that are made to it.
    pub(super) hurt_at: Option<Time>,
    /// Connections can be made to it.
    pub(super) is_open: bool,
}

impl Broker {
    pub(super) fn new(number: usize, mut chance: Chance) -> Self {
        Self {
            number,
            queues: Default::default(),
            popped: Popped::default(),
            sessions: BTreeMap::new(),
            due: BTreeMap::new(),
            said: 0,
            waiting: Vec::new(),
            halves: Halves::default(),
            // The same numbers as those of clients, now and then.
            next_push: chance.between(0, 5) as i32,
            hurt_at: None,
            is_open: true,
            chance,
        }
    }

    pub(super) fn accept(&mut self, conn: usize) {
        self.sessions.insert(conn, Session::default());
    }

    /// Something happened to it.
    pub(super) fn hurt(&mut self, network: &Network) {
        self.hurt_at = Some(network.lock().now());
    }

    fn say(&mut self, network: &Network, later: Time, conn: usize, bytes: Vec<u8>) {
        let mut net = network.lock();
        let at = net.now() + later;
        self.said += 1;
        self.due.insert((at, self.said), (conn, bytes));
        net.schedule(later, Event::Server(NAMES + self.number));
    }

    /// Says what is due, has fetches go that have waited long enough, and asks what became of transactions.
    pub(super) fn act(&mut self, network: &Network, book: &mut Book) {
        let now = network.lock().now();
        while let Some(first) = self.due.first_entry() {
            if first.key().0 > now {
                break;
            }
            let (conn, bytes) = first.remove();
            network.lock().send(conn, &bytes);
        }
        self.serve_waiting(network, now);
        let next = now + CHECK_EVERY;
        let due = self.halves.take_due(now, next);
        if !due.is_empty() {
            let own = Event::Server(NAMES + self.number);
            network.lock().schedule(CHECK_EVERY, own);
        }
        for (half, group) in due {
            self.check_back(network, half, &group, book);
        }
    }

    /// Asks a producer of that group what became of a transaction.
    fn check_back(&mut self, network: &Network, half: usize, group: &str, book: &mut Book) {
        let is_its = |own: &Session| own.groups.iter().any(|own| own == group);
        let open = self.sessions.iter().filter(|(_, own)| !own.is_over);
        let all: Vec<_> = open
            .filter(|(_, own)| is_its(own))
            .filter_map(|(conn, own)| Some((*conn, own.line?)))
            .collect();
        if all.is_empty() {
            return;
        }
        let asked = all[self.chance.index(all.len())];
        let fields = vec![("transactionId".to_owned(), half.to_string())];
        self.ask(network, asked, (CHECK_TRANSACTION, ONE_WAY), fields, book);
    }

    fn serve_waiting(&mut self, network: &Network, now: Time) {
        for own in std::mem::take(&mut self.waiting) {
            match self.fetch(network, &own.asked, now, own.until <= now) {
                Some(answer) => {
                    let later = self.chance.between(0, 30);
                    self.say(network, later, own.conn, answer);
                }
                None => self.waiting.push(own),
            }
        }
    }

    /// What is there for a fetch; `None` if it is to wait, which it is not when its time is over.
    fn fetch(
        &mut self,
        network: &Network,
        asked: &Frame,
        now: Time,
        is_over: bool,
    ) -> Option<Vec<u8>> {
        if asked.code == POP {
            return self.pop(network, asked, now, is_over);
        }
        let queue = queue_of(asked);
        let from = asked.number("queueOffset").unwrap_or_default() as usize;
        let is_there = self.queues[queue].len() > from;
        (is_there || is_over).then(|| self.fetched(asked, queue, from))
    }

    fn pop(
        &mut self,
        network: &Network,
        asked: &Frame,
        now: Time,
        is_over: bool,
    ) -> Option<Vec<u8>> {
        let invisible = asked.number("invisibleTime").unwrap_or_default();
        let count = self.queues[TASKS].len();
        let given = self.popped.take(count, (self.number, invisible), now);
        if given.is_empty() {
            return is_over.then(|| asked.answer(POLLING_TIMEOUT, false, b""));
        }
        // Whoever waits then gets those that come back.
        let again = Event::Server(NAMES + self.number);
        network.lock().schedule(invisible, again);
        let offsets: Vec<String> = given.iter().map(|own| own.offset.to_string()).collect();
        let fields = [
            ("popTime", now),
            ("invisibleTime", invisible),
            ("reviveQid", 0),
            ("restNum", 0),
        ];
        Some(asked.answer_with(SUCCESS, false, &fields, offsets.join(",").as_bytes()))
    }

    /// Takes an acknowledgement, or gives a message another time.
    fn settle(&mut self, network: &Network, asked: &Frame, now: Time, book: &mut Book) -> Vec<u8> {
        let given = Given::of_receipt(asked.text("extraInfo"));
        let is_ours = |own: &Given| {
            own.broker == self.number && own.offset < self.queues[TASKS].len() && own.at <= now
        };
        let Some(given) = given.filter(is_ours) else {
            let broker = self.number;
            book.fault(format!(
                "broker {broker} was shown what it gave nobody: {asked:?}"
            ));
            return asked.answer(NO_MESSAGE, false, b"");
        };
        let anew = match asked.code {
            CHANGE_INVISIBLE_TIME => Some(Given {
                at: now,
                invisible: asked.number("invisibleTime").unwrap_or_default(),
                ..given
            }),
            _ => None,
        };
        if !self.popped.settle(&given, anew) {
            return asked.answer(NO_MESSAGE, false, b"");
        }
        let Some(Given { at, invisible, .. }) = anew else {
            return asked.answer(SUCCESS, false, b"");
        };
        let again = Event::Server(NAMES + self.number);
        network.lock().schedule(invisible, again);
        let fields = [
            ("popTime", at),
            ("invisibleTime", invisible),
            ("reviveQid", 0),
        ];
        asked.answer_with(SUCCESS, false, &fields, b"")
    }

    /// The answer to a fetch: the numbers of its messages.
    fn fetched(&self, asked: &Frame, queue: usize, from: usize) -> Vec<u8> {
        let found = self.queues[queue].get(from..).unwrap_or_default();
        let numbers: Vec<String> = found.iter().take(8).map(ToString::to_string).collect();
        let code = match numbers.is_empty() {
            true => NOT_FOUND,
            false => SUCCESS,
        };
        asked.answer(code, false, numbers.join(",").as_bytes())
    }

    pub(super) fn hear(&mut self, network: &Network, conn: usize, book: &mut Book) {
        let heard = network.lock().hear(conn, usize::MAX);
        let session = self.sessions.entry(conn).or_default();
        session.inbox.extend_from_slice(&heard.bytes);
        for own in take(&mut session.inbox) {
            match own.is_answer() {
                true => self.answered(conn, &own, book),
                false => self.asked(network, conn, own, book),
            }
        }
        if (heard.ended || heard.broken) && !self.sessions[&conn].is_over {
            network.lock().leave(conn);
            self.waiting.retain(|own| own.conn != conn);
            let now = network.lock().now();
            if let Some(session) = self.sessions.get_mut(&conn) {
                session.is_over = true;
                session.over_at = Some(now);
            }
        }
    }

    /// Sessions that it thinks are there, with the connection of the client.
    pub(super) fn open(&self) -> impl Iterator<Item = (usize, usize)> {
        let open = self.sessions.iter().filter(|(_, own)| !own.is_over);
        open.filter_map(|(conn, own)| Some((*conn, own.line?)))
    }

    /// When the session of a client's connection ended, if there was one.
    pub(super) fn over_at(&self, line: usize) -> Option<Time> {
        let own = self.sessions.values().find(|own| own.line == Some(line));
        own?.over_at
    }

    fn asked(&mut self, network: &Network, conn: usize, own: Frame, book: &mut Book) {
        let number = own.token.unwrap_or(u64::MAX) as usize;
        let Some(asked) = book.asked.get_mut(number) else {
            let broker = self.number;
            return book.fault(format!(
                "broker {broker} was asked what nobody asked: {own:?}"
            ));
        };
        asked.arrivals += 1;
        let &mut Asked { line, arrivals, .. } = asked;
        let known = self.sessions.entry(conn).or_default().line;
        let known = *self
            .sessions
            .entry(conn)
            .or_default()
            .line
            .get_or_insert(known.unwrap_or(line));
        if known != line {
            book.fault(format!(
                "requests of two clients came over one connection: {known} and {line}"
            ));
        }
        if arrivals > 1 {
            book.fault(format!("request {number} arrived {arrivals} times"));
        }
        let wanted = book.lines.get(&line).and_then(|own| own.broker);
        if wanted != Some(self.number) {
            book.fault(format!(
                "request {number} to broker {wanted:?} came to {}",
                self.number
            ));
        }
        self.serve(network, conn, own, number, book);
        if self.chance.one_in(12) {
            self.push(network, conn, line, book);
        }
    }

    fn serve(
        &mut self,
        network: &Network,
        conn: usize,
        own: Frame,
        number: usize,
        book: &mut Book,
    ) {
        let now = network.lock().now();
        if own.code == END_TRANSACTION {
            self.end_transaction(network, &own, book);
        }
        if own.flag & ONE_WAY != 0 {
            return;
        }
        let answer = match own.code {
            SEND => {
                let queue = queue_of(&own);
                match group_of(own.text("i")) {
                    Some(group) => {
                        let first = self.chance.between(100, 1000);
                        self.halves.keep(number, queue, group, now + first);
                        let later = Event::Server(NAMES + self.number);
                        network.lock().schedule(first, later);
                    }
                    None => self.queues[queue].push(number),
                }
                self.serve_waiting(network, now);
                own.answer(SUCCESS, false, b"")
            }
            PULL | POP => {
                let wait = own
                    .number("suspendTimeoutMillis")
                    .or(own.number("pollTime"));
                let wait = wait.unwrap_or_default().min(LONGEST_POLL);
                let Some(answer) = self.fetch(network, &own, now, wait == 0) else {
                    let later = Event::Server(NAMES + self.number);
                    network.lock().schedule(wait, later);
                    return self.waiting.push(Waiting {
                        conn,
                        asked: own,
                        until: now + wait,
                    });
                };
                answer
            }
            ACKNOWLEDGE | CHANGE_INVISIBLE_TIME => self.settle(network, &own, now, book),
            HEART_BEAT => {
                let session = self.sessions.entry(conn).or_default();
                session.groups = producers(&own.body);
                own.answer(SUCCESS, false, b"")
            }
            _ => own.answer(SUCCESS, false, b""),
        };
        self.say_some_time(network, conn, answer);
    }

    fn end_transaction(&mut self, network: &Network, own: &Frame, book: &mut Book) {
        let half = own.number("transactionId").unwrap_or(u64::MAX) as usize;
        let verdict = own.number("commitOrRollback").unwrap_or(u64::MAX);
        match self.halves.end(half, own.text("producerGroup"), verdict) {
            Ok(Some(queue)) => {
                self.queues[queue].push(half);
                let now = network.lock().now();
                self.serve_waiting(network, now);
            }
            Ok(None) => {}
            Err(what) => book.fault(what),
        }
    }

    fn say_some_time(&mut self, network: &Network, conn: usize, answer: Vec<u8>) {
        // Late ones come when nobody waits any more; some come twice.
        let late = match self.chance.between(0, 40) {
            0 => 2500,
            1..6 => 300,
            _ => 30,
        };
        let later = self.chance.between(0, late);
        if self.chance.one_in(40) {
            self.say(network, later + 5, conn, answer.clone());
        }
        self.say(network, later, conn, answer);
    }

    /// Asks the client something, or tells it.
    fn push(&mut self, network: &Network, conn: usize, line: usize, book: &mut Book) {
        let asked = match self.chance.one_in(3) {
            true => (CONSUMERS_CHANGED, ONE_WAY),
            false => (PUSH, 0),
        };
        self.ask(network, (conn, line), asked, Vec::new(), book);
    }

    fn ask(
        &mut self,
        network: &Network,
        (conn, line): (usize, usize),
        (code, flag): (i64, i64),
        mut fields: Vec<(String, String)>,
        book: &mut Book,
    ) {
        self.next_push += 1;
        fields.push(("line".to_owned(), line.to_string()));
        let own = Frame {
            code,
            id: self.next_push,
            flag,
            token: Some(book.pushes.len() as u64),
            fields,
            body: b"push".to_vec(),
            is_binary: self.chance.one_in(4),
        };
        let later = self.chance.between(0, 50);
        book.pushes.push(Push {
            broker: self.number,
            conn,
            line,
            at: network.lock().now() + later,
            arrivals: 0,
            written: 0,
            answers: 0,
        });
        self.say(network, later, conn, own.bytes());
    }

    fn answered(&mut self, conn: usize, own: &Frame, book: &mut Book) {
        let number = own.token.unwrap_or(u64::MAX) as usize;
        // Told by the mesh itself that its client does not answer.
        if own.token.is_none() {
            return;
        }
        let broker = self.number;
        let Some(push) = book.pushes.get_mut(number) else {
            return book.fault(format!("broker {broker} got an answer to nothing: {own:?}"));
        };
        push.answers += 1;
        let is_own = push.conn == conn && push.broker == broker;
        if !is_own || push.answers > 1 {
            let text = format!(
                "question {number} has {} answers, on {conn} of {broker}: {push:?}",
                push.answers
            );
            book.fault(text);
        }
    }
}

/// Which of a broker's queues a request is about.
fn queue_of(asked: &Frame) -> usize {
    if asked.text("b") == TASKS_TOPIC {
        return TASKS;
    }
    let number = asked.number("queueId").or(asked.number("e"));
    number.unwrap_or_default() as usize % QUEUES
}

/// The groups of producers that a heartbeat tells of.
fn producers(body: &[u8]) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let all = body["producerDataSet"].as_array().into_iter().flatten();
    all.filter_map(|own| Some(own["groupName"].as_str()?.to_owned()))
        .collect()
}
