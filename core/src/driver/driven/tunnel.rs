//! Tunnels: bytes carried as they are, for as long as they move and we may go on.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::clock::Now;
use crate::mesh::Limits;
use crate::net::{Closed, Relay};

use super::Caller;
use super::words::Over;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides have ended, or the client broke it off.
    Closed,
    /// The endpoint broke it off.
    Broken,
    /// Nothing moved in either direction for `limits.idle`.
    Idle,
    /// We are going away.
    Draining,
}

/// What was carried, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
    /// How it ended.
    pub end: TunnelEnd,
}

/// A tunnel as the worker looks after it.
pub(super) struct Tunnelled {
    /// When something last moved.
    moved: Cell<Now>,
    over: Cell<Option<Over>>,
    waker: Cell<Option<Waker>>,
}

impl Tunnelled {
    /// Looks whether it has been silent for too long, or is to make way. A tunnel has no boundary at
    /// which it could be told to go: when its caller is dismissed, it goes on while something moves,
    /// but is given no longer silence than `drain_grace`, and no longer time than `drain`.
    pub(super) fn look_at_time(&self, now: Now, dismissed: Option<Now>, limits: &Limits) {
        if now >= self.moved.get().after(limits.idle) {
            return self.end(Over::Idle);
        }
        let Some(dismissed) = dismissed else { return };
        let silent_since = self.moved.get().max(dismissed);
        if now >= silent_since.after(limits.drain_grace) || now >= dismissed.after(limits.drain) {
            self.end(Over::Draining);
        }
    }

    pub(super) fn end(&self, why: Over) {
        if self.over.get().is_none() {
            self.over.set(Some(why));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let known = self.waker.take();
        let waker = known.filter(|waker| waker.will_wake(cx.waker()));
        self.waker
            .set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    }
}

/// Sees to it that a tunnel is looked after only while it lasts.
struct Entered<'a> {
    caller: &'a Caller,
    tunnel: Rc<Tunnelled>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.caller.words.leave_tunnel(&self.tunnel);
    }
}

impl Caller {
    /// Carries bytes both ways until both sides have ended, one breaks, nothing has moved for
    /// `limits.idle`, or we stop. `answered` is called with the endpoint's first bytes.
    pub async fn tunnel<C, E>(
        &self,
        client: &mut C,
        endpoint: &mut E,
        answered: impl FnOnce(),
    ) -> Carried
    where
        C: AsyncRead + AsyncWrite + Unpin,
        E: AsyncRead + AsyncWrite + Unpin,
    {
        let mut relay = Relay::default();
        let ended = self.carry(&mut relay, client, endpoint, answered, |_, _| false);
        let end = ended.await.unwrap_or(TunnelEnd::Closed);
        Carried {
            up: relay.up(),
            down: relay.down(),
            end,
        }
    }

    /// The same from where a relay is. `None` if it is to [leave](Self::is_moving) for another worker and can, as
    /// `can_leave` says: every moment is a boundary of its messages.
    pub async fn carry<C, E>(
        &self,
        relay: &mut Relay,
        client: &mut C,
        endpoint: &mut E,
        answered: impl FnOnce(),
        can_leave: impl Fn(&C, &E) -> bool,
    ) -> Option<TunnelEnd>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        E: AsyncRead + AsyncWrite + Unpin,
    {
        let worker = &self.worker;
        worker.read_clock();
        let entered = Entered {
            caller: self,
            tunnel: Rc::new(Tunnelled {
                moved: Cell::new(worker.now()),
                over: Cell::new(self.words.is_cut().then_some(Over::Draining)),
                waker: Cell::default(),
            }),
        };
        let tunnel = &entered.tunnel;
        self.words.enter_tunnel(tunnel);
        let mut answered = (relay.down() == 0).then_some(answered);
        poll_fn(|cx| {
            let before = relay.moves();
            let closed = relay.poll(cx, client, endpoint);
            if relay.moves() != before {
                worker.read_clock();
                worker.note_read();
                tunnel.moved.set(worker.now());
                if relay.down() > 0
                    && let Some(answered) = answered.take()
                {
                    answered();
                }
            }
            if let Poll::Ready(closed) = closed {
                return Poll::Ready(Some(match closed {
                    Closed::Well => TunnelEnd::Closed,
                    Closed::Broken => TunnelEnd::Broken,
                }));
            }
            if self.words.is_movable() {
                self.attend(cx);
                if self.is_moving() && can_leave(client, endpoint) {
                    return Poll::Ready(None);
                }
            }
            tunnel.wait(cx);
            match tunnel.over.get() {
                None => Poll::Pending,
                // Something came after it was found silent.
                Some(Over::Idle) if relay.moves() != before => {
                    tunnel.over.set(None);
                    Poll::Pending
                }
                Some(Over::Idle) => Poll::Ready(Some(TunnelEnd::Idle)),
                Some(Over::Draining) => Poll::Ready(Some(TunnelEnd::Draining)),
            }
        })
        .await
    }
}
