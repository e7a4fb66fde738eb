//! A client of HTTP/2: many calls at a time, some of which it takes back.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};

use super::super::chance::Chance;
use super::super::client::Client;
use super::super::ledger::Ledger;
use super::super::network::Net;
use super::super::tongue::{Call, token};
use super::super::web::{LENGTH, METHODS, TOKEN, refusal};
use super::{Progress, Wire, content, context, is_whole, owner, read};

/// The calls of one connection.
pub(crate) struct Calls {
    wire: Wire,
    sender: SendRequest<Bytes>,
    connection: Connection<Wire, Bytes>,
    open: BTreeMap<u64, Open>,
    over: bool,
}

/// A call that waits.
struct Open {
    request: SendStream<Bytes>,
    state: State,
}

enum State {
    Asked(ResponseFuture),
    Answered(u16, HeaderMap, RecvStream, Vec<u8>),
}

/// What became of a call.
struct Ended {
    id: u64,
    status: u16,
    headers: HeaderMap,
    data: Vec<u8>,
    broken: bool,
}

impl Calls {
    /// A connection on which nothing was asked yet.
    pub(crate) fn new() -> Option<Self> {
        let wire = Wire::default();
        let mut handshake = Box::pin(h2::client::handshake(wire.clone()));
        match handshake.as_mut().poll(&mut context()) {
            Poll::Ready(Ok((sender, connection))) => Some(Self {
                wire,
                sender,
                connection,
                open: BTreeMap::new(),
                over: false,
            }),
            _ => None,
        }
    }

    /// Writes a call; whether it may be sent again whatever its route says, or `None` if nothing can be asked any more.
    fn call(&mut self, chance: &mut Chance, call: &Call<'_>, padding: usize) -> Option<bool> {
        let Call {
            id,
            number,
            service,
            ..
        } = *call;
        let (method, is_safe) = chance.pick(&METHODS);
        let (method, is_safe, length) = match chance.between(0, 4) {
            0 => ("GET", true, 0),
            _ => (method, is_safe, padding),
        };
        let token = token(number);
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).ok()?)
            .uri(format!("http://{service}/call"))
            .header(TOKEN, &token[..])
            .header(LENGTH, length)
            .body(())
            .ok()?;
        let mut sender = self.sender.clone();
        let (response, mut stream) = sender.send_request(request, length == 0).ok()?;
        if length > 0 {
            stream.send_data(content(number, length), true).ok()?;
        }
        let state = State::Asked(response);
        self.open.insert(
            id,
            Open {
                request: stream,
                state,
            },
        );
        Some(is_safe)
    }

    /// Takes one of the calls back; its id.
    fn take_back(&mut self, chance: &mut Chance) -> Option<u64> {
        let id = *self.open.keys().nth(chance.index(self.open.len()))?;
        self.open.remove(&id)?.request.send_reset(Reason::CANCEL);
        Some(id)
    }

    /// Moves what can be moved; what it has to say.
    fn turn(&mut self) -> Vec<u8> {
        if !self.over
            && Pin::new(&mut self.connection)
                .poll(&mut context())
                .is_ready()
        {
            self.over = true;
        }
        self.wire.take()
    }

    fn ended(&mut self) -> Vec<Ended> {
        let mut all = Vec::new();
        self.open.retain(|id, open| match open.look() {
            None => true,
            Some((status, headers, data, broken)) => {
                let id = *id;
                all.push(Ended {
                    id,
                    status,
                    headers,
                    data,
                    broken,
                });
                false
            }
        });
        all
    }
}

impl Open {
    fn look(&mut self) -> Option<(u16, HeaderMap, Vec<u8>, bool)> {
        if let State::Asked(response) = &mut self.state {
            match pin!(response).poll(&mut context()) {
                Poll::Pending => return None,
                // Nothing came.
                Poll::Ready(Err(_)) => return Some((0, HeaderMap::new(), Vec::new(), true)),
                Poll::Ready(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    let status = head.status.as_u16();
                    self.state = State::Answered(status, head.headers, body, Vec::new());
                }
            }
        }
        let State::Answered(status, headers, stream, data) = &mut self.state else {
            return None;
        };
        let broken = match read(stream, data) {
            Progress::More => return None,
            Progress::Whole => false,
            Progress::Broken => true,
        };
        Some((
            *status,
            std::mem::take(headers),
            std::mem::take(data),
            broken,
        ))
    }
}

impl Client {
    /// Asks, and sometimes takes something back.
    pub(crate) fn ask(&mut self, net: &mut Net, call: &Call<'_>, ledger: &mut Ledger) {
        let length = call.padding * self.chance.pick(&[1, 1, 1, 8]);
        let calls = self.calls.as_mut();
        let asked = calls.and_then(|own| own.call(&mut self.chance, call, length));
        let entry = &mut ledger.entries[call.number];
        (entry.is_safe, entry.length) = (asked == Some(true), length);
        // A connection that is over takes none.
        entry.given_up = asked.is_none();
        self.turn_calls(net, &[], false, ledger);
        if self.chance.one_in(30) {
            self.take_back(net, ledger);
        }
    }

    /// Says what its HTTP/2 has to say, and hears what came for its calls.
    pub(crate) fn turn_calls(
        &mut self,
        net: &mut Net,
        bytes: &[u8],
        ended: bool,
        ledger: &mut Ledger,
    ) {
        let Some(calls) = &mut self.calls else {
            return;
        };
        calls.wire.put(bytes, ended);
        let mut said = calls.turn();
        // Answers make room for more.
        let came = calls.ended();
        said.extend(calls.turn());
        for own in came {
            self.hear_answer(&own, ledger);
        }
        // Those that make no sense keep to that.
        if !said.is_empty() && !self.is_garbled {
            net.send(self.conn, &said);
        }
    }

    fn hear_answer(&mut self, ended: &Ended, ledger: &mut Ledger) {
        let Some(call) = self.waiting.get(&ended.id).copied() else {
            return;
        };
        if ended.status == 0 {
            // It was not answered; who is owed one is found out at the end.
            return;
        }
        let owner = owner(&ended.headers);
        let whose = (owner, refusal(owner, ended.status));
        ledger.answer(self.number, &mut self.waiting, ended.id, whose);
        if !ended.broken && !is_whole(&ended.headers, &ended.data) {
            ledger.fault(format!("the answer of call {call} is not whole"));
        }
        if ended.broken && !self.slow && self.appetite.is_none() {
            ledger.break_off(call);
        }
    }

    /// Takes a call back.
    fn take_back(&mut self, net: &mut Net, ledger: &mut Ledger) {
        let taken = self
            .calls
            .as_mut()
            .and_then(|own| own.take_back(&mut self.chance));
        if let Some(call) = taken.and_then(|id| self.waiting.remove(&id)) {
            ledger.give_up(call);
        }
        self.turn_calls(net, &[], false, ledger);
    }
}
