//! Signals of a worker to a connection that drives itself: drain, cut, idle, hand over.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Now;

use super::super::resident::Resident;
use super::super::worker::Worker;
use super::tunnel::Tunnelled;

/// Why a connection is to end that nobody closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing has moved for too long.
    Idle,
    /// Draining took too long.
    Draining,
}

/// What a worker tells a [`Caller`](super::Caller).
#[derive(Default)]
pub(super) struct Words {
    listener: u64,
    /// When it was told to go away.
    dismissed: Cell<Option<Now>>,
    grace_over: Cell<bool>,
    cut: Cell<bool>,
    /// The routing that it knows of.
    epoch: Cell<u64>,
    /// Since when it rests, and for how long it may where that is not `limits.idle`.
    rests: Cell<Option<(Now, Option<Duration>)>>,
    idle: Cell<bool>,
    /// When its task is to be woken.
    alarm: Cell<Option<Now>>,
    /// It can leave at a boundary of its messages, and is to.
    movable: Cell<bool>,
    moving: Cell<bool>,
    tunnels: RefCell<Vec<Rc<Tunnelled>>>,
    changed: Notify,
    /// The task that serves the connection.
    task: Cell<Option<Waker>>,
}

impl Words {
    pub(super) fn of(listener: u64, worker: &Worker) -> Self {
        let now = worker.now();
        Self {
            listener,
            epoch: Cell::new(worker.epoch()),
            rests: Cell::new(Some((now, None))),
            ..Self::default()
        }
    }

    /// Waits until `flag` is set.
    pub(super) async fn until(&self, flag: impl Fn(&Self) -> bool) {
        while !flag(self) {
            self.changed.notified().await;
        }
    }

    /// Has this task woken when something changes.
    pub(super) fn attend(&self, cx: &Context<'_>) {
        let known = self.task.take();
        let waker = known.filter(|waker| waker.will_wake(cx.waker()));
        self.task
            .set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
    }

    fn tell(&self) {
        self.changed.notify_waiters();
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.get().is_some()
    }

    pub(super) fn is_grace_over(&self) -> bool {
        self.grace_over.get() || self.cut.get()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.idle.get()
    }

    pub(super) fn is_moving(&self) -> bool {
        self.moving.get() && !self.is_dismissed()
    }

    /// It rests from `since` on.
    pub(super) fn rest(&self, since: Now, most: Option<Duration>) {
        self.rests.set(Some((since, most)));
        self.idle.set(false);
    }

    /// Something is in flight.
    pub(super) fn work(&self) {
        self.rests.set(None);
        self.idle.set(false);
    }

    /// Its task is woken once this has passed.
    pub(super) fn wake_after(&self, at: Option<Now>) {
        self.alarm.set(at);
    }

    pub(super) fn is_movable(&self) -> bool {
        self.movable.get()
    }

    pub(super) fn set_movable(&self, movable: bool) {
        self.movable.set(movable);
        if !movable {
            self.moving.set(false);
        }
    }

    pub(super) fn enter_tunnel(&self, tunnel: &Rc<Tunnelled>) {
        self.tunnels.borrow_mut().push(tunnel.clone());
    }

    pub(super) fn leave_tunnel(&self, tunnel: &Rc<Tunnelled>) {
        let mut tunnels = self.tunnels.borrow_mut();
        tunnels.retain(|own| !Rc::ptr_eq(own, tunnel));
    }

    /// Looks whether time is over for it. Only here silence is judged: the worker's timekeeper has
    /// sockets read first where we did not run.
    fn look_at_time(&self, worker: &Worker) {
        let (now, limits) = (worker.now(), worker.limits());
        if let Some((since, most)) = self.rests.get()
            && now >= since.after(most.unwrap_or(limits.idle))
        {
            self.idle.set(true);
        }
        for tunnel in &*self.tunnels.borrow() {
            tunnel.look_at_time(now, self.dismissed.get(), &limits);
        }
    }
}

impl Resident for Words {
    fn listener(&self) -> u64 {
        self.listener
    }

    fn leave(&self, worker: &Worker, _: Now) {
        if self.dismissed.get().is_none() {
            self.dismissed.set(Some(worker.now()));
        }
        self.tell();
    }

    fn tick(&self, worker: &Rc<Worker>) {
        let before = (self.idle.get(), self.grace_over.get());
        if let Some(since) = self.dismissed.get() {
            let grace_ends = since.after(worker.drain_grace());
            self.grace_over.set(worker.now() >= grace_ends);
        }
        self.look_at_time(worker);
        // What was allowed may not be any more.
        let is_new = self.epoch.replace(worker.epoch()) != worker.epoch();
        let rings = is_new || self.alarm.get().is_some_and(|at| at <= worker.now());
        if rings && !is_new {
            self.alarm.set(None);
        }
        if rings || before != (self.idle.get(), self.grace_over.get()) {
            self.tell();
        }
    }

    fn cut(&self, worker: &Rc<Worker>) {
        self.leave(worker, worker.now());
        self.cut.set(true);
        for tunnel in &*self.tunnels.borrow() {
            tunnel.end(Over::Draining);
        }
        self.tell();
    }

    fn hand_over(&self) -> bool {
        let moves = self.movable.get() && !self.is_dismissed();
        if moves {
            self.moving.set(true);
            self.tell();
        }
        moves
    }
}
