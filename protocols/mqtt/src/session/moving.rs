//! A session on its way to another worker: all that it is besides its client's connection.

use std::rc::Rc;
use std::time::Duration;

use finback_core::clock::Now;
use finback_core::driver::{Caller, MessageShadow, Resume, Served, SessionPlace};
use finback_core::mesh::PartedLease;
use finback_core::net::{Detached, Socket};

use crate::NAME;
use crate::channel::{self, Channel};
use crate::codec::Level;
use crate::filtered::{self, Filters};
use crate::open::Bounds;
use crate::policy::Applied;
use crate::takeover::Seat;
use crate::tally::{self, Tally};

use super::direction::Direction;
use super::silence::Silence;
use super::{Session, State, go_on};

/// A session between packets: what both sides were promised, what they still owe each other, and the connection to
/// its broker.
pub(crate) struct Moved {
    /// What operators know it by.
    name: String,
    level: Level,
    client_id: String,
    username: String,
    client: channel::Parted,
    broker: Detached,
    endpoint: channel::Parted,
    /// What was read and is no whole packet yet.
    up: Direction,
    down: Direction,
    applied: Option<Box<Applied>>,
    filters: filtered::Parted,
    shadow: Option<MessageShadow>,
    /// Aliases, packets whose exchange is not finished, subscriptions, rates.
    state: State,
    tally: tally::Parted,
    lease: PartedLease,
    seat: Option<Seat>,
    patience: Option<Duration>,
    resume: Option<Now>,
    held: bool,
    silence: Silence,
    bounds: Bounds,
    is_kept: bool,
    method: Option<Box<str>>,
    client_takes: usize,
    endpoint_takes: usize,
}

impl Resume for Moved {
    fn resume(self: Box<Self>, caller: Rc<Caller>, socket: Socket) -> Served {
        Box::pin(async move { go_on(&caller, socket, self).await })
    }
}

impl Session {
    /// Whether it is to leave for another worker, and can: no packet is under way. One about which filters decide never is.
    pub(super) fn can_leave(&self) -> bool {
        let sockets = [self.client.socket(), self.endpoint.socket()];
        self.caller.is_moving()
            && self.up.is_at_rest()
            && self.down.is_at_rest()
            && sockets.into_iter().all(Socket::can_detach)
    }

    /// Leaves for another worker.
    pub(super) fn leave_worker(self, listed: &SessionPlace) {
        let Some(filters) = self.filters.part() else {
            return;
        };
        let (broker, endpoint) = self.endpoint.part();
        let Ok(broker) = broker.detach() else {
            return;
        };
        let (socket, client) = self.client.part();
        let moved = Moved {
            name: listed.name(),
            level: self.level,
            client_id: self.client_id,
            username: self.username,
            client,
            broker,
            endpoint,
            up: self.up,
            down: self.down,
            applied: self.applied,
            filters,
            shadow: self.shadow,
            state: self.state,
            tally: self.tally.part(),
            lease: self.lease.part(),
            seat: self.seat,
            patience: self.patience,
            resume: self.resume,
            held: self.held,
            silence: self.silence,
            bounds: self.bounds,
            is_kept: self.is_kept,
            method: self.method,
            client_takes: self.client_takes,
            endpoint_takes: self.endpoint_takes,
        };
        self.caller.hand_over(socket, NAME, Some(Box::new(moved)));
    }

    /// Goes on with one that another worker had, and lists it here.
    pub(super) fn resume(
        caller: &Rc<Caller>,
        socket: Socket,
        moved: Moved,
    ) -> Option<(Box<Self>, SessionPlace)> {
        let lease = moved.lease.resume(caller.worker())?;
        let broker = Socket::attach(moved.broker).ok()?;
        let listed = caller.list_session(NAME, &moved.name, Some(lease.address()));
        let session = Self {
            caller: caller.clone(),
            level: moved.level,
            client_id: moved.client_id,
            username: moved.username,
            client: Channel::resume(socket, moved.client),
            endpoint: Channel::resume(broker, moved.endpoint),
            up: moved.up,
            down: moved.down,
            applied: moved.applied,
            filters: Filters::resume(caller, moved.level, moved.filters),
            shadow: moved.shadow,
            state: moved.state,
            tally: Tally::resume(caller.clone(), moved.tally),
            lease,
            seat: moved.seat,
            patience: moved.patience,
            unread: false,
            resume: moved.resume,
            held: moved.held,
            leave: None,
            timer: None,
            silence: moved.silence,
            bounds: moved.bounds,
            is_kept: moved.is_kept,
            method: moved.method,
            client_takes: moved.client_takes,
            endpoint_takes: moved.endpoint_takes,
        };
        session.wait_for_broker();
        Some((Box::new(session), listed))
    }
}
