//! Brokers of the world: they keep messages, have fetches wait for them, and ask their clients, too.

use std::collections::BTreeMap;

use super::super::chance::Chance;
use super::super::network::{Event, Network, Time};
use super::book::{Asked, Book, Push};
use super::frame::{Frame, ONE_WAY, take};
use super::transactions::{Halves, group_of};
use super::{LONGEST_POLL, NAMES, QUEUES};

/// Codes of requests (RocketMQ: RequestCode).
pub(super) const PULL: i64 = 11;
pub(super) const UPDATE_OFFSET: i64 = 15;
pub(super) const HEART_BEAT: i64 = 34;
pub(super) const END_TRANSACTION: i64 = 37;
pub(super) const CHECK_TRANSACTION: i64 = 39;
pub(super) const ROUTE: i64 = 105;
pub(super) const SEND: i64 = 310;
const CONSUMERS_CHANGED: i64 = 40;
pub(super) const PUSH: i64 = 326;

/// A broker asks so often what became of a transaction.
const CHECK_EVERY: Time = 800;

/// Codes of answers (RocketMQ: ResponseCode).
pub(super) const SUCCESS: i64 = 0;
pub(super) const NOT_FOUND: i64 = 19;

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
    pub(super) queues: [Vec<usize>; QUEUES],
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
            let queue = own.asked.number("queueId").unwrap_or_default() as usize % QUEUES;
            let from = own.asked.number("queueOffset").unwrap_or_default() as usize;
            if self.queues[queue].len() > from || own.until <= now {
                let answer = self.fetched(&own.asked, queue, from);
                let later = self.chance.between(0, 30);
                self.say(network, later, own.conn, answer);
            } else {
                self.waiting.push(own);
            }
        }
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
        let queue = own
            .number("queueId")
            .or(own.number("e"))
            .unwrap_or_default() as usize
            % QUEUES;
        if own.code == END_TRANSACTION {
            self.end_transaction(network, &own, book);
        }
        if own.flag & ONE_WAY != 0 {
            return;
        }
        let answer = match own.code {
            SEND => {
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
            PULL => {
                let from = own.number("queueOffset").unwrap_or_default() as usize;
                let wait = own.number("suspendTimeoutMillis").unwrap_or_default();
                if self.queues[queue].len() <= from && wait > 0 {
                    let wait = wait.min(LONGEST_POLL);
                    let later = Event::Server(NAMES + self.number);
                    network.lock().schedule(wait, later);
                    return self.waiting.push(Waiting {
                        conn,
                        asked: own,
                        until: now + wait,
                    });
                }
                self.fetched(&own, queue, from)
            }
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

/// The groups of producers that a heartbeat tells of.
fn producers(body: &[u8]) -> Vec<String> {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let all = body["producerDataSet"].as_array().into_iter().flatten();
    all.filter_map(|own| Some(own["groupName"].as_str()?.to_owned()))
        .collect()
}
