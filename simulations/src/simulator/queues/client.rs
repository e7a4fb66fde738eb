//! Clients of the world: each has a connection to a name server and one to each broker, over which it sends and fetches.

use std::collections::BTreeMap;

use super::super::chance::Chance;
use super::super::network::{Network, Time};
use super::book::{Asked, Book};
use super::broker::{
    ACKNOWLEDGE, CHANGE_INVISIBLE_TIME, CHECK_TRANSACTION, END_TRANSACTION, HEART_BEAT, NO_MESSAGE,
    NOT_FOUND, POLLING_TIMEOUT, POP, PULL, PUSH, ROUTE, SEND, SUCCESS, SYSTEM_ERROR, UPDATE_OFFSET,
};
use super::frame::{Frame, ONE_WAY, take};
use super::popped::Given;
use super::transactions::{Half, name_of, properties};
use super::{BROKERS, GROUPS, LONGEST_POLL, PORT, QUEUES, TASKS, TASKS_TOPIC, TOPIC};

/// A client.
pub(super) struct Client {
    number: usize,
    chance: Chance,
    is_binary: bool,
    /// The groups of producers that it is of.
    groups: Vec<usize>,
    /// Transactions whose ends it has not told their brokers yet.
    ends: Vec<(usize, usize)>,
    /// Messages that it has by POP, and has done nothing about.
    given: Vec<Given>,
    /// Brokers that a name server told of.
    known: Vec<usize>,
    /// Its connections, by broker; `None` for name servers.
    lines: BTreeMap<Option<usize>, usize>,
    inboxes: BTreeMap<usize, Vec<u8>>,
    /// Its requests that wait, by connection and id.
    waiting: BTreeMap<(usize, i32), usize>,
    next_id: i32,
    left: u64,
    gap: Time,
    /// Messages that it has of each broker and queue, in their order.
    pub(super) read: BTreeMap<(usize, usize), Vec<usize>>,
    /// It fetches everything, and does nothing else.
    pub(super) reads_all: bool,
    is_closed: bool,
    may_break: bool,
}

impl Client {
    pub(super) fn new(number: usize, mut chance: Chance) -> Self {
        Self {
            number,
            is_binary: chance.one_in(2),
            groups: vec![number % GROUPS],
            ends: Vec::new(),
            given: Vec::new(),
            known: Vec::new(),
            lines: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            waiting: BTreeMap::new(),
            // From zero, as libraries do, or near the end of what 32 bits have.
            next_id: chance.pick(&[0, 0, 7, i32::MAX - 5, -3]),
            left: chance.pick(&[5, 50, 300]),
            gap: chance.pick(&[5, 50, 400]),
            read: BTreeMap::new(),
            reads_all: false,
            is_closed: false,
            may_break: true,
            chance,
        }
    }

    /// Asks nothing more, and breaks nothing.
    pub(super) fn rest(&mut self) {
        self.left = 0;
        self.may_break = false;
    }

    pub(super) fn more(&mut self, requests: u64) {
        self.left = requests;
        self.may_break = false;
        self.reads_all = false;
    }

    pub(super) fn read_all(&mut self) {
        self.reads_all = true;
        self.groups = (0..GROUPS).collect();
        self.may_break = false;
        self.gap = 50;
        self.left = 100_000;
    }

    /// When it acts again, if it does.
    pub(super) fn next_act(&mut self) -> Option<Time> {
        let goes_on = self.left > 0 && !self.is_closed;
        goes_on.then(|| self.chance.between(1, self.gap))
    }

    /// Which connection it needs next: one to a name server first, and then to each broker.
    pub(super) fn wants_line(&self) -> Option<Option<usize>> {
        if self.is_closed || self.left == 0 {
            return None;
        }
        if self.known.is_empty() {
            return (!self.lines.contains_key(&None)).then_some(None);
        }
        let missing = |own: &&usize| !self.lines.contains_key(&Some(**own));
        self.known.iter().find(missing).map(|own| Some(*own))
    }

    /// It is connected: it asks for routes, or says who it is.
    pub(super) fn connect(
        &mut self,
        network: &Network,
        conn: usize,
        to: Option<usize>,
        book: &mut Book,
    ) {
        self.lines.insert(to, conn);
        match to {
            None => self.ask(
                network,
                conn,
                (ROUTE, 0),
                &[("topic", TOPIC.to_owned())],
                book,
            ),
            Some(_) => self.beat(network, conn, book),
        }
    }

    /// Says who it is.
    fn beat(&mut self, network: &Network, conn: usize, book: &mut Book) {
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|own| serde_json::json!({ "groupName": name_of(*own) }))
            .collect();
        let name = format!("c{}", self.number);
        let body = serde_json::json!({ "clientID": name, "producerDataSet": groups });
        let body = body.to_string().into_bytes();
        self.write(network, conn, (HEART_BEAT, 0), (&[], body), book);
    }

    fn ask(
        &mut self,
        network: &Network,
        conn: usize,
        what: (i64, usize),
        fields: &[(&str, String)],
        book: &mut Book,
    ) {
        let body = vec![b'.'; self.chance.pick(&[0, 10, 200, 3000])];
        self.write(network, conn, what, (fields, body), book);
    }

    /// Writes a request; gives its number.
    fn write(
        &mut self,
        network: &Network,
        conn: usize,
        (code, queue): (i64, usize),
        (fields, body): (&[(&str, String)], Vec<u8>),
        book: &mut Book,
    ) -> usize {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let number = book.asked.len();
        let is_one_way = [UPDATE_OFFSET, END_TRANSACTION].contains(&code);
        let own = Frame {
            code,
            id,
            flag: if is_one_way { ONE_WAY } else { 0 },
            token: Some(number as u64),
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            body,
            // A binary header has no room for the codes of POP.
            is_binary: self.is_binary && code <= i64::from(i16::MAX),
        };
        let waits = ["suspendTimeoutMillis", "pollTime"];
        let is_poll = waits
            .iter()
            .any(|name| own.number(name).is_some_and(|own| own > 0));
        book.asked.push(Asked {
            line: conn,
            code,
            queue,
            is_one_way,
            answers: 0,
            arrivals: 0,
            is_acknowledged: false,
            is_poll,
            is_given_up: false,
        });
        if !is_one_way {
            self.waiting.insert((conn, id), number);
        }
        let mut net = network.lock();
        net.note(&format!("client {} asks {code} as {number}", self.number));
        net.send(conn, &own.bytes());
        number
    }

    /// Does the next thing.
    pub(super) fn act(&mut self, network: &Network, book: &mut Book) {
        if self.is_closed || self.left == 0 || self.known.is_empty() {
            return;
        }
        if self.reads_all {
            return self.fetch_everything(network, book);
        }
        let broker = self.known[self.chance.index(self.known.len())];
        let Some(conn) = self.lines.get(&Some(broker)).copied() else {
            return;
        };
        if self.may_break && self.chance.one_in(60) {
            return self.hang_up(network, conn, book);
        }
        for (broker, half) in std::mem::take(&mut self.ends) {
            if let Some(conn) = self.lines.get(&Some(broker)).copied() {
                self.end_transaction(network, conn, half, false, book);
            }
        }
        self.settle(network, book);
        for _ in 0..self.chance.between(1, 3) {
            self.left = self.left.saturating_sub(1);
            let queue = self.chance.index(QUEUES);
            match self.chance.between(0, 12) {
                0..=4 => {
                    let queue = self.chance.index(QUEUES + 1);
                    self.send(network, conn, queue, book);
                }
                5..=7 => {
                    let from = self.chance.between(0, 40);
                    let wait = self.chance.pick(&[0, 300, LONGEST_POLL]);
                    self.fetch(network, conn, (queue, from), wait, book);
                }
                8 => {
                    let fields = [
                        ("topic", TOPIC.to_owned()),
                        ("commitOffset", "1".to_owned()),
                    ];
                    self.ask(network, conn, (UPDATE_OFFSET, queue), &fields, book);
                }
                9 => self.beat(network, conn, book),
                _ => {
                    let wait = self.chance.pick(&[0, 300, LONGEST_POLL]);
                    self.pop(network, conn, wait, book);
                }
            }
        }
    }

    /// Asks for messages that nobody else has.
    fn pop(&mut self, network: &Network, conn: usize, wait: Time, book: &mut Book) {
        let invisible: Time = self.chance.pick(&[300, 1000, 4000]);
        let fields = [
            ("consumerGroup", "workers".to_owned()),
            ("topic", TASKS_TOPIC.to_owned()),
            ("queueId", "-1".to_owned()),
            ("maxMsgNums", "8".to_owned()),
            ("invisibleTime", invisible.to_string()),
            ("pollTime", wait.to_string()),
        ];
        self.ask(network, conn, (POP, TASKS), &fields, book);
    }

    /// Acknowledges what it got by POP, or asks for another time, or forgets it.
    fn settle(&mut self, network: &Network, book: &mut Book) {
        for given in std::mem::take(&mut self.given) {
            let Some(conn) = self.lines.get(&Some(given.broker)).copied() else {
                continue;
            };
            let mut fields = vec![
                ("consumerGroup", "workers".to_owned()),
                ("topic", TASKS_TOPIC.to_owned()),
                ("queueId", "0".to_owned()),
                ("offset", given.offset.to_string()),
                ("extraInfo", given.receipt()),
            ];
            let code = match self.chance.between(0, 9) {
                _ if self.reads_all => ACKNOWLEDGE,
                0..=5 => ACKNOWLEDGE,
                6 | 7 => {
                    let invisible: Time = self.chance.pick(&[300, 2000, 4000]);
                    fields.push(("invisibleTime", invisible.to_string()));
                    let until = network.lock().now() + invisible;
                    book.tasks.bound(&given, until);
                    CHANGE_INVISIBLE_TIME
                }
                _ => continue,
            };
            let number = self.write(network, conn, (code, TASKS), (&fields, Vec::new()), book);
            book.tasks.asked.insert(number, given);
        }
    }

    /// An answer about messages that are given by POP.
    fn popped(
        &mut self,
        number: usize,
        own: &Frame,
        (broker, now): (usize, Time),
        book: &mut Book,
    ) {
        let about = book.tasks.asked.get(&number).copied();
        match (about, own.code) {
            (None, SUCCESS) => {
                for given in Given::of_answer(broker, own) {
                    if let Err(what) = book.tasks.given(&given) {
                        book.fault(what);
                    }
                    self.given.push(given);
                }
            }
            (Some(given), SUCCESS) if own.number("popTime").is_some() => {
                let anew = Given {
                    at: own.number("popTime").unwrap_or_default(),
                    invisible: own.number("invisibleTime").unwrap_or_default(),
                    ..given
                };
                book.tasks.changed(&anew);
                self.given.push(anew);
            }
            (Some(given), SUCCESS) => book.tasks.acknowledged(&given, now),
            (Some(given), NO_MESSAGE) if now < given.until() => {
                book.fault(format!(
                    "request {number} is about {given:?}, and was refused"
                ));
            }
            _ => {}
        }
    }

    /// Sends a message, some of them in a transaction.
    fn send(&mut self, network: &Network, conn: usize, queue: usize, book: &mut Book) {
        let group = self.groups[0];
        let mut fields = vec![
            ("a", name_of(group)),
            ("b", topic_of(queue).to_owned()),
            ("e", (queue % TASKS).to_string()),
        ];
        let is_half = self.chance.one_in(4);
        if is_half {
            fields.push(("i", properties(group)));
        }
        let body = vec![b'.'; self.chance.pick(&[0, 10, 200, 3000])];
        let number = self.write(network, conn, (SEND, queue), (&fields, body), book);
        if is_half {
            let half = Half::new(group, &mut self.chance);
            book.halves.insert(number, half);
        }
    }

    /// Tells a broker what became of a transaction.
    fn end_transaction(
        &mut self,
        network: &Network,
        conn: usize,
        number: usize,
        was_asked: bool,
        book: &mut Book,
    ) {
        let Some(half) = book.halves.get_mut(&number) else {
            return;
        };
        let fields = [
            ("producerGroup", name_of(half.group)),
            ("topic", topic_of(book.asked[number].queue).to_owned()),
            ("commitOrRollback", half.verdict().to_string()),
            ("fromTransactionCheck", was_asked.to_string()),
            ("transactionId", number.to_string()),
        ];
        let what = (END_TRANSACTION, 0);
        self.write(network, conn, what, (&fields, Vec::new()), book);
    }

    fn fetch(
        &mut self,
        network: &Network,
        conn: usize,
        (queue, from): (usize, u64),
        wait: Time,
        book: &mut Book,
    ) {
        let fields = [
            ("consumerGroup", "group".to_owned()),
            ("topic", TOPIC.to_owned()),
            ("queueId", queue.to_string()),
            ("queueOffset", from.to_string()),
            ("sysFlag", if wait > 0 { "2" } else { "0" }.to_owned()),
            ("suspendTimeoutMillis", wait.to_string()),
        ];
        self.ask(network, conn, (PULL, queue), &fields, book);
    }

    /// One fetch of each queue at a time, from where it is.
    fn fetch_everything(&mut self, network: &Network, book: &mut Book) {
        self.settle(network, book);
        for broker in self.known.clone() {
            let Some(conn) = self.lines.get(&Some(broker)).copied() else {
                continue;
            };
            let pops = self
                .waiting
                .iter()
                .any(|((line, _), number)| *line == conn && book.asked[*number].code == POP);
            if !pops {
                self.pop(network, conn, 300, book);
            }
            for queue in 0..QUEUES {
                let waits = self.waiting.iter().any(|((line, _), number)| {
                    let asked = &book.asked[*number];
                    *line == conn && asked.code == PULL && asked.queue == queue
                });
                if !waits {
                    let from = self.read.entry((broker, queue)).or_default().len() as u64;
                    self.fetch(network, conn, (queue, from), 0, book);
                }
            }
        }
    }

    /// Ends one of its connections, at once or for one way first.
    fn hang_up(&mut self, network: &Network, conn: usize, book: &mut Book) {
        let mut net = network.lock();
        let may_lose = match self.chance.between(0, 3) {
            0 | 1 => {
                net.cut(conn);
                true
            }
            // What still comes is answered by a reset, which takes with it what it said last.
            2 => {
                net.leave(conn);
                true
            }
            _ => {
                net.finish(conn);
                false
            }
        };
        let now = net.now();
        drop(net);
        if let Some(line) = book.lines.get_mut(&conn) {
            line.is_left = true;
            line.is_harmed |= may_lose;
        }
        self.lose(conn, now, book);
    }

    /// A connection is gone: it is made anew.
    fn lose(&mut self, conn: usize, now: Time, book: &mut Book) {
        self.lines.retain(|_, own| *own != conn);
        self.waiting.retain(|(own, _), number| {
            if *own == conn
                && let Some(half) = book.halves.get_mut(number)
            {
                half.learn(false);
            }
            *own != conn
        });
        if let Some(line) = book.lines.get_mut(&conn) {
            line.over.get_or_insert(now);
        }
    }

    /// Ends all of them.
    pub(super) fn close(&mut self, network: &Network, resets: bool, book: &mut Book) {
        self.is_closed = true;
        for conn in std::mem::take(&mut self.lines).into_values() {
            let mut net = network.lock();
            match resets {
                true => net.cut(conn),
                false => net.leave(conn),
            }
            let now = net.now();
            drop(net);
            if let Some(line) = book.lines.get_mut(&conn) {
                line.is_left = true;
                line.is_harmed = true;
            }
            self.lose(conn, now, book);
        }
    }

    // === Hearing ===

    pub(super) fn hear(&mut self, network: &Network, conn: usize, book: &mut Book) {
        let mut net = network.lock();
        let (heard, now) = (net.hear(conn, usize::MAX), net.now());
        drop(net);
        if !book.is_open(conn) {
            return;
        }
        let inbox = self.inboxes.entry(conn).or_default();
        inbox.extend_from_slice(&heard.bytes);
        for own in take(inbox) {
            match own.is_answer() {
                true => self.answered(conn, &own, now, book),
                false => self.asked(network, conn, &own, book),
            }
        }
        if heard.ended || heard.broken {
            let mut net = network.lock();
            net.leave(conn);
            let now = net.now();
            drop(net);
            self.lose(conn, now, book);
        }
    }

    fn answered(&mut self, conn: usize, own: &Frame, now: Time, book: &mut Book) {
        let Some(number) = self.waiting.remove(&(conn, own.id)) else {
            let client = self.number;
            return book.fault(format!(
                "client {client} got an answer that it does not wait for: {own:?}"
            ));
        };
        let asked = &mut book.asked[number];
        asked.answers += 1;
        if let Some(other) = own.token.filter(|other| *other != number as u64) {
            return book.fault(format!("request {number} got the answer of {other}"));
        }
        // What has no token is the mesh's own, and never says that all is well.
        let is_fine = [SUCCESS, NOT_FOUND, NO_MESSAGE, POLLING_TIMEOUT].contains(&own.code);
        if own.token.is_none() && is_fine {
            return book.fault(format!(
                "request {number} got an answer of nobody's: {own:?}"
            ));
        }
        let (code, queue) = (asked.code, asked.queue);
        asked.is_acknowledged = code == SEND && own.code == SUCCESS;
        asked.is_given_up = own.token.is_none() && own.code == SYSTEM_ERROR;
        let broker = book.lines.get(&conn).and_then(|own| own.broker);
        if let Some(half) = book.halves.get_mut(&number) {
            half.learn(own.code == SUCCESS);
            // Some never say, and are asked.
            let ends = broker.filter(|_| own.code == SUCCESS && !self.chance.one_in(4));
            self.ends.extend(ends.map(|broker| (broker, number)));
        }
        if let Some(broker) = broker.filter(|_| queue == TASKS && code != SEND) {
            self.popped(number, own, (broker, now), book);
        }
        match (code, own.code) {
            (ROUTE, SUCCESS) => self.learn(own, book),
            (PULL, SUCCESS) if self.reads_all => self.keep(conn, queue, own, book),
            _ => {}
        }
    }

    /// Where brokers are.
    fn learn(&mut self, own: &Frame, book: &mut Book) {
        let text = String::from_utf8_lossy(&own.body);
        let ours =
            (0..BROKERS).filter(|own| text.contains(&format!("\"mesh:{}\"", PORT as usize + own)));
        self.known = ours.collect();
        if text.contains("10.0.0.") || self.known.len() != BROKERS {
            book.fault(format!("clients are told {text}"));
        }
    }

    fn keep(&mut self, conn: usize, queue: usize, own: &Frame, book: &Book) {
        let Some(broker) = book.lines.get(&conn).and_then(|own| own.broker) else {
            return;
        };
        let text = String::from_utf8_lossy(&own.body);
        let numbers = text.split(',').filter_map(|own| own.parse::<usize>().ok());
        self.read
            .entry((broker, queue))
            .or_default()
            .extend(numbers);
    }

    /// A broker asks: what it wants an answer to gets one.
    fn asked(&mut self, network: &Network, conn: usize, own: &Frame, book: &mut Book) {
        if own.number("line") != Some(conn as u64) {
            return book.fault(format!(
                "what line {:?} is asked came to {conn}",
                own.number("line")
            ));
        }
        let number = own.token.unwrap_or(u64::MAX) as usize;
        let Some(push) = book.pushes.get_mut(number) else {
            return book.fault(format!("line {conn} is asked what nobody asked: {own:?}"));
        };
        push.arrivals += 1;
        // Once nothing goes wrong any more, all of them answer.
        if !book.is_healed && self.chance.one_in(20) {
            return;
        }
        match own.code {
            PUSH => {
                push.written += 1;
                let answer = own.answer(SUCCESS, self.is_binary, b"done");
                network.lock().send(conn, &answer);
            }
            CHECK_TRANSACTION => {
                let half = own.number("transactionId").unwrap_or(u64::MAX) as usize;
                let group = book.halves.get(&half).map(|own| own.group);
                if !group.is_some_and(|own| self.groups.contains(&own)) {
                    let client = self.number;
                    return book.fault(format!(
                        "client {client} is asked about transaction {half} of group {group:?}"
                    ));
                }
                self.end_transaction(network, conn, half, true, book);
            }
            _ => {}
        }
    }
}

fn topic_of(queue: usize) -> &'static str {
    match queue {
        TASKS => TASKS_TOPIC,
        _ => TOPIC,
    }
}
