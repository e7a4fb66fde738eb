//! Servers of HTTP/1.1: sound ones, which close their connections when they like, and others.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ledger::Ledger;
use super::super::network::{Net, Time};
use super::super::server::{PROMPT, Said, Server, TRAVEL};
use super::{DATE, Framing, Message, Start, message, take};

/// A head that is longer than any mesh takes.
const HEAD: usize = 70_000;

/// What is under way on a server's connections.
#[derive(Debug, Default)]
pub(crate) struct Doings {
    /// The call that is served on each: there is never more than one.
    serving: BTreeMap<usize, usize>,
    /// Those on which something was said twice: whoever asks there next may take it for his answer.
    doubled: BTreeSet<usize>,
}

impl Doings {
    /// Whether a call is served on this connection.
    pub(crate) fn is_serving(&self, conn: usize) -> bool {
        self.serving.contains_key(&conn)
    }

    /// The call on this connection is answered.
    pub(crate) fn answered(&mut self, conn: usize) {
        self.serving.remove(&conn);
    }
}

impl Server {
    /// Takes the requests that have come on a connection.
    pub(crate) fn take_requests(
        &mut self,
        net: &mut Net,
        conn: usize,
        inbox: &mut Vec<u8>,
        ledger: &mut Ledger,
    ) {
        for message in take(inbox) {
            let Message { start, number, .. } = message;
            let (Start::Request, Some(number)) = (start, number) else {
                let own = self.number;
                ledger.fault(format!("server {own} got what nobody wrote: {message:?}"));
                continue;
            };
            if !message.is_whole {
                ledger.fault(format!("call {number} arrived, and not all of it"));
            }
            let doubled = self.doings.doubled.contains(&conn);
            let before = self.doings.serving.insert(conn, number);
            if let Some(other) = before.filter(|_| !doubled) {
                ledger.fault(format!(
                    "call {number} was sent while {other} was not answered yet"
                ));
            }
            self.serve(net, conn, number, ledger);
        }
    }

    fn serve(&mut self, net: &mut Net, conn: usize, number: usize, ledger: &mut Ledger) {
        let refuses = !self.sound && self.chance.one_in(6);
        ledger.arrive(number, self.number, refuses);
        let what = format!("call {number} arrives at server {} by {conn}", self.number);
        net.note(&what);
        if self.doings.doubled.contains(&conn) {
            ledger.confuse(number);
        }
        if self.silent {
            return;
        }
        let status = match self.chance.between(0, 9) {
            _ if refuses => "503 Service Unavailable",
            0 => "404 Not Found",
            1 => "400 Bad Request",
            2 if !self.sound => "504 Gateway Timeout",
            3 if !self.sound => "500 Internal Server Error",
            _ => "200 OK",
        };
        let later = self.chance.between(0, PROMPT);
        if self.chance.one_in(8) {
            let interim = self.chance.pick(&["100 Continue", "103 Early Hints"]);
            let interim = format!("HTTP/1.1 {interim}\r\n\r\n").into_bytes();
            self.say(net, conn, later / 2, Said::Early(interim));
        }
        let own = self.sound || !self.chance.one_in(self.vice);
        if !own {
            self.do_wrong(net, conn, (number, later), status);
            if self.doings.doubled.contains(&conn) {
                ledger.confuse(number);
            }
            return;
        }
        if self.sound {
            ledger.promise(number, net.now() + later + TRAVEL);
        }
        let framing = self.chance.pick(&[
            Framing::Length,
            Framing::Length,
            Framing::Chunked,
            Framing::Close,
        ]);
        let answer = self.response(number, status, framing);
        self.say(net, conn, later, Said::Bytes(answer));
        match framing {
            Framing::Close => self.say(net, conn, later, Said::Finish),
            // It closes connections that are idle when it likes, also under the next request.
            _ if self.chance.one_in(8) => {
                let idle = self.chance.pick(&[0, 1, 20, 1000]);
                self.say(net, conn, later + idle, Said::FinishIdle);
            }
            _ => {}
        }
    }

    fn response(&mut self, number: usize, status: &str, framing: Framing) -> Vec<u8> {
        let length = match self.chance.between(0, 30) {
            0 => self.chance.between(0, 300_000) as usize,
            1 | 2 => self.chance.between(0, 20_000) as usize,
            _ => self.chance.between(0, 40) as usize,
        };
        let begin = format!("HTTP/1.1 {status}\r\ndate: {DATE}\r\n");
        message(&mut self.chance, &begin, (number, length), framing)
    }

    fn do_wrong(
        &mut self,
        net: &mut Net,
        conn: usize,
        (number, later): (usize, Time),
        status: &str,
    ) {
        let framing = self.chance.pick(&[Framing::Length, Framing::Chunked]);
        let answer = self.response(number, status, framing);
        match self.chance.between(0, 9) {
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
                let end = match self.chance.between(0, 2) {
                    0 => return,
                    1 => Said::Finish,
                    _ => Said::Break,
                };
                self.say(net, conn, later + 20, end);
            }
            5 => {
                self.doings.doubled.insert(conn);
                self.say(net, conn, later, Said::Bytes(answer.clone()));
                let again = self.chance.pick(&[0, 3]);
                self.say(net, conn, later + again, Said::Early(answer));
            }
            6 => {
                let head = format!("HTTP/1.1 {status}\r\nx-much: {}\r\n", ".".repeat(HEAD));
                self.say(net, conn, later, Said::Bytes(head.into_bytes()));
            }
            7 => {
                let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(self.chance.pick(&[3, 60]));
                self.say(net, conn, later, Said::Early(hints.into_bytes()));
                self.say(net, conn, later, Said::Bytes(answer));
            }
            8 => {
                let switch = &b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"[..];
                self.say(net, conn, later, Said::Bytes(switch.to_vec()));
            }
            _ => self.say(net, conn, later, Said::Bytes(vec![0xff; 40])),
        }
    }
}
