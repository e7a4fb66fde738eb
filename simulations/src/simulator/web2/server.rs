//! Servers of HTTP/2: sound ones, which renew their connections when they like, and others.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::server::{Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Response};

use super::super::ledger::Ledger;
use super::super::network::{Net, Time};
use super::super::server::{PROMPT, Said, Server, TRAVEL};
use super::super::tongue::token;
use super::super::web::{DATE, LENGTH, TOKEN};
use super::{Progress, Wire, content, context, is_whole, owner, read};

/// Of so many calls a server refuses one unseen, also a sound one.
const REFUSALS: u64 = 12;

/// What a server says of a call.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A status, with the token of a call, and so many bytes.
    Whole(u16, usize, usize),
    /// The same, broken off before its end.
    Part(u16, usize, usize),
    Reset(Reason),
    /// It takes no more calls on the connection, and ends with those that it has.
    Goodbye,
}

/// One connection.
pub(crate) struct Desk {
    wire: Wire,
    state: State,
    /// Requests that come, and then calls that wait for their answers.
    coming: Vec<(HeaderMap, RecvStream, SendResponse<Bytes>, Vec<u8>)>,
    waiting: BTreeMap<u64, SendResponse<Bytes>>,
    next: u64,
}

enum State {
    Begins(Pin<Box<Handshake<Wire>>>),
    Serves(Box<Connection<Wire, Bytes>>),
    Over,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let wire = Wire::default();
        Self {
            state: State::Begins(Box::pin(h2::server::handshake(wire.clone()))),
            wire,
            coming: Vec::new(),
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// Moves what can be moved; the calls that have come whole, with their keys.
    fn turn(&mut self) -> Vec<(u64, HeaderMap, Vec<u8>)> {
        if let State::Begins(handshake) = &mut self.state {
            self.state = match handshake.as_mut().poll(&mut context()) {
                Poll::Pending => return Vec::new(),
                Poll::Ready(Ok(connection)) => State::Serves(Box::new(connection)),
                Poll::Ready(Err(_)) => State::Over,
            };
        }
        while let State::Serves(connection) = &mut self.state {
            match connection.poll_accept(&mut context()) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok((request, answer)))) => {
                    let (head, body) = request.into_parts();
                    self.coming.push((head.headers, body, answer, Vec::new()));
                }
                Poll::Ready(_) => self.state = State::Over,
            }
        }
        let mut whole = Vec::new();
        for (headers, mut body, answer, mut data) in std::mem::take(&mut self.coming) {
            match read(&mut body, &mut data) {
                Progress::More => self.coming.push((headers, body, answer, data)),
                // It was taken back.
                Progress::Broken => {}
                Progress::Whole => {
                    self.next += 1;
                    self.waiting.insert(self.next, answer);
                    whole.push((self.next, headers, data));
                }
            }
        }
        whole
    }

    /// Says something of a call.
    fn say(&mut self, key: u64, reply: &Reply) {
        if let (Reply::Goodbye, State::Serves(connection)) = (reply, &mut self.state) {
            return connection.graceful_shutdown();
        }
        let Some(mut answer) = self.waiting.remove(&key) else {
            return;
        };
        let (status, number, length, breaks) = match *reply {
            Reply::Whole(status, number, length) => (status, number, length, false),
            Reply::Part(status, number, length) => (status, number, length, true),
            Reply::Reset(reason) => return answer.send_reset(reason),
            Reply::Goodbye => return,
        };
        let token = token(number);
        let head = Response::builder()
            .status(status)
            .header(TOKEN, &token[..])
            .header(LENGTH, length)
            .header("date", DATE)
            .body(());
        // One whose call was taken back is told to nobody.
        let Ok(Ok(mut stream)) = head.map(|head| answer.send_response(head, false)) else {
            return;
        };
        let mut data = content(number, length);
        if breaks {
            data.truncate(length / 2);
        }
        let _ = stream.send_data(data, !breaks);
        if breaks {
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

impl Server {
    /// Hears what came on a connection, and says what there is to say.
    pub(crate) fn turn_desk(
        &mut self,
        net: &mut Net,
        conn: usize,
        bytes: &[u8],
        ended: bool,
        ledger: &mut Ledger,
    ) {
        let Some(desk) = self.desks.get_mut(&conn) else {
            return;
        };
        desk.wire.put(bytes, ended);
        let came = desk.turn();
        for (key, headers, data) in came {
            let Some(number) = owner(&headers) else {
                ledger.fault(format!("server {} got a call of nobody", self.number));
                continue;
            };
            if !is_whole(&headers, &data) {
                ledger.fault(format!("call {number} arrived, and not all of it"));
            }
            self.serve_call(net, conn, (key, number), ledger);
        }
        self.flush_desk(net, conn);
    }

    /// Says something of a call.
    pub(crate) fn reply(&mut self, net: &mut Net, conn: usize, key: u64, reply: &Reply) {
        if let Some(desk) = self.desks.get_mut(&conn) {
            desk.say(key, reply);
            self.flush_desk(net, conn);
        }
    }

    fn flush_desk(&mut self, net: &mut Net, conn: usize) {
        let Some(desk) = self.desks.get_mut(&conn) else {
            return;
        };
        // Nothing can have come since.
        let came = desk.turn();
        debug_assert!(came.is_empty(), "what comes was taken before");
        let said = desk.wire.take();
        if !said.is_empty() {
            net.send(conn, &said);
        }
        if matches!(desk.state, State::Over) {
            self.desks.remove(&conn);
            net.leave(conn);
        }
    }

    fn serve_call(
        &mut self,
        net: &mut Net,
        conn: usize,
        (key, number): (u64, usize),
        ledger: &mut Ledger,
    ) {
        if !self.silent && self.chance.one_in(REFUSALS) {
            // It says that it has not looked at it (RFC 9113, section 8.7).
            ledger.send_back(number, self.number, net.now());
            let later = self.chance.between(0, 5);
            let refusal = Reply::Reset(Reason::REFUSED_STREAM);
            return self.say(net, conn, later, Said::Reply(key, refusal));
        }
        let refuses = !self.sound && self.chance.one_in(6);
        ledger.arrive(number, self.number, refuses);
        net.note(&format!(
            "call {number} arrives at server {} by {conn}",
            self.number
        ));
        if self.silent {
            return;
        }
        let status = match self.chance.between(0, 9) {
            _ if refuses => 503,
            0 => 404,
            1 => 400,
            2 if !self.sound => 504,
            3 if !self.sound => 500,
            _ => 200,
        };
        let length = match self.chance.between(0, 30) {
            0 => self.chance.between(0, 300_000) as usize,
            1 | 2 => self.chance.between(0, 20_000) as usize,
            _ => self.chance.between(0, 40) as usize,
        };
        let later = self.chance.between(0, PROMPT);
        let whole = Reply::Whole(status, number, length);
        if self.sound || !self.chance.one_in(self.vice) {
            if self.sound {
                ledger.promise(number, net.now() + later + TRAVEL);
            }
            self.say(net, conn, later, Said::Reply(key, whole));
            if self.chance.one_in(30) {
                let later = self.chance.between(0, 100);
                self.say(net, conn, later, Said::Reply(key, Reply::Goodbye));
            }
            return;
        }
        self.do_call_wrong(net, conn, (key, later), (status, number, length));
    }

    fn do_call_wrong(
        &mut self,
        net: &mut Net,
        conn: usize,
        (key, later): (u64, Time),
        (status, number, length): (u16, usize, usize),
    ) {
        let whole = Reply::Whole(status, number, length);
        match self.chance.between(0, 8) {
            // It hangs.
            0 | 1 => {}
            2 => {
                let late = self.chance.between(200, 30_000);
                self.say(net, conn, late, Said::Reply(key, whole));
            }
            3 => self.say(net, conn, later, Said::Break),
            4 => self.say(
                net,
                conn,
                later,
                Said::Reply(key, Reply::Part(status, number, length)),
            ),
            5 => {
                let reason = self.chance.pick(&[Reason::CANCEL, Reason::INTERNAL_ERROR]);
                self.say(net, conn, later, Said::Reply(key, Reply::Reset(reason)));
            }
            6 => {
                self.say(net, conn, later, Said::Reply(key, whole));
                self.say(net, conn, later, Said::Reply(key, Reply::Goodbye));
            }
            7 => self.say(net, conn, later, Said::Early(vec![0xff; 40])),
            _ => self.say(net, conn, later, Said::Finish),
        }
    }
}
