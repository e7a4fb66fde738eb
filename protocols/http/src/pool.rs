//! A worker's connections to endpoints.

mod idle;
mod seats;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use finback_core::clock::{Clock, Now};
use finback_core::driver::{Caller, Worker};
use finback_core::mesh::{AttemptEnd, Lease};
use finback_core::net::{ConnectionEnds, DialError, Expired, Socket};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use seats::{Seat, Seats};

use crate::http1;
use crate::http2::{self, Heartbeat, Limits};

/// HTTP/2 under TLS, as an application protocol (RFC 9113, section 3.1).
const H2: &[u8] = b"h2";

/// Streams on an HTTP/2 connection whose peer has not said how many it takes.
const STREAMS: usize = 100;
/// Windows of an HTTP/2 connection to an endpoint, in bytes: of a stream at first, and at most; and what
/// all streams of a connection may have more than at first.
const STREAM_WINDOW: u32 = 64 * 1024;
const STREAM_MOST: u32 = 256 * 1024;
const SPARE: u32 = 4 * 1024 * 1024;
/// What may be on its way to us on a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// So many times `connections` are made while each of them is held up by bodies that the endpoint does not
/// read.
const MORE: usize = 4;

#[derive(PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
struct Key {
    /// Its number.
    cluster: u64,
    address: SocketAddr,
    /// Whose connections they are, where endpoints are told of it: nobody else's requests go over them.
    client: Option<SocketAddr>,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // In few pieces, for each request is looked up by it.
        let port = u64::from(self.address.port());
        state.write_u64(self.cluster ^ port << 48);
        match self.address.ip() {
            IpAddr::V4(four) => state.write_u32(four.to_bits()),
            IpAddr::V6(six) => state.write_u128(six.to_bits()),
        }
        if let Some(client) = self.client {
            client.hash(state);
        }
    }
}

/// For whom a connection is.
pub(crate) struct Whose<'a> {
    caller: &'a Caller,
    ends: Option<ConnectionEnds>,
}

impl<'a> Whose<'a> {
    /// A request from `source`, of which the lease's endpoint may have to be told.
    pub(crate) fn of(caller: &'a Caller, source: IpAddr, lease: &Lease) -> Self {
        let told = lease.cluster().spec.policy.proxy_header.is_some();
        let ends = if told { caller.ends(source) } else { None };
        Self { caller, ends }
    }

    async fn connect(
        &self,
        worker: &Worker,
        lease: &Lease,
        application: &'static [u8],
    ) -> Result<Socket, DialError> {
        let known = self.caller.known();
        worker
            .connect_for(lease, Some(application), self.ends, known)
            .await
    }
}

/// All connections of one worker.
#[derive(Default)]
pub(crate) struct Pools {
    single: RefCell<HashMap<Key, Rc<Single>>>,
    shared: RefCell<HashMap<Key, Rc<Shared>>>,
    swept: Cell<bool>,
}

/// HTTP/1.1: one request at a time on each connection.
struct Single {
    clock: Clock,
    /// With the moment since when each is idle, the longest first.
    idle: RefCell<Vec<(Rc<Alone>, Now)>>,
    seats: Rc<Seats>,
}

/// A connection that carries one request at a time.
pub(crate) struct Alone {
    pub(crate) line: http1::Connection,
    _seat: Seat,
}

/// HTTP/2: many on each.
struct Shared {
    connections: RefCell<Vec<Rc<Multiplexed>>>,
}

struct Multiplexed {
    sender: OnceCell<http2::Sender>,
    clock: Clock,
    streams: Cell<usize>,
    closed: Cell<bool>,
    used: Cell<Now>,
}

impl Multiplexed {
    /// Whether it takes another request, or may when it is made.
    fn is_usable(&self) -> bool {
        let open = self.sender.get().is_none_or(|sender| !sender.is_closed());
        open && !self.closed.get()
    }

    /// Whether a request had better go over another one, and there may be another one: this one takes
    /// no more streams, or what is sent on it waits for other requests' bodies.
    fn is_busy(&self) -> bool {
        self.streams.get() >= self.limit() || self.is_clogged()
    }

    fn is_clogged(&self) -> bool {
        self.sender.get().is_some_and(http2::Sender::is_clogged)
    }

    fn is_starved(&self) -> bool {
        self.sender.get().is_some_and(http2::Sender::is_starved)
    }

    /// Since when it carries nothing, if it does not.
    fn idle_since(&self) -> Option<Now> {
        let is_idle = self.streams.get() == 0 && self.sender.initialized();
        (is_idle && self.is_usable()).then(|| self.used.get())
    }

    /// Requests that the peer takes at once.
    fn limit(&self) -> usize {
        self.sender
            .get()
            .map_or(STREAMS, http2::Sender::most_streams)
    }
}

/// A connection with the right to send one request on it.
pub(crate) enum Channel {
    /// HTTP/1.1, and whether it was used before.
    Single(Rc<Alone>, PoolGuard, bool),
    /// HTTP/2.
    Shared(http2::Sender, PoolGuard),
}

/// What is to be done with a connection after its request: unless it is given back, nothing more is sent on it.
pub(crate) struct PoolGuard {
    place: Place,
    is_given: bool,
}

enum Place {
    Single(Rc<Single>, Rc<Alone>),
    Shared(Rc<Multiplexed>),
}

impl PoolGuard {
    fn of(place: Place) -> Self {
        Self {
            place,
            is_given: false,
        }
    }

    /// The connection may carry another request.
    pub(crate) fn give_back(mut self) {
        if let Place::Single(single, connection) = &self.place
            && connection.line.is_clean()
        {
            self.is_given = true;
            let mut idle = single.idle.borrow_mut();
            idle.push((connection.clone(), single.clock.now()));
            drop(idle);
            single.seats.call();
        }
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        match &self.place {
            Place::Shared(connection) => {
                connection.streams.set(connection.streams.get() - 1);
                connection.used.set(connection.clock.now());
            }
            // What is left of a request that was answered before its end would hold the connection.
            Place::Single(_, connection) if !self.is_given => connection.line.give_up(),
            Place::Single(..) => {}
        }
    }
}

fn key(lease: &Lease, whose: &Whose<'_>) -> Key {
    Key {
        client: whose.ends.map(|ends| ends.source),
        cluster: lease.cluster().number(),
        address: lease.address(),
    }
}

/// A connection to the endpoint of a lease, if one is there and can take a request now.
pub(crate) fn ready(
    worker: &Rc<Worker>,
    lease: &Lease,
    http2: bool,
    whose: &Whose<'_>,
) -> Option<Channel> {
    let pools: Rc<Pools> = worker.state();
    if http2 {
        let shared = pools.shared.borrow().get(&key(lease, whose))?.clone();
        let connection = shared.choose(worker, lease, false);
        let sender = connection.sender.get()?.clone();
        connection.streams.set(connection.streams.get() + 1);
        let returned = PoolGuard::of(Place::Shared(connection));
        return Some(Channel::Shared(sender, returned));
    }
    let single = pools.single.borrow().get(&key(lease, whose))?.clone();
    if single.seats.are_awaited() {
        return None;
    }
    let connection = single.used()?;
    let returned = PoolGuard::of(Place::Single(single, connection.clone()));
    Some(Channel::Single(connection, returned, true))
}

/// A connection to the endpoint of a lease, made if need be.
///
/// `fresh` wants one that nothing was sent on yet.
///
/// # Errors
/// How the attempt ended by that.
pub(crate) async fn channel(
    worker: &Rc<Worker>,
    lease: &Lease,
    http2: bool,
    fresh: bool,
    whose: &Whose<'_>,
) -> Result<Channel, AttemptEnd> {
    let pools: Rc<Pools> = worker.state();
    pools.keep(worker);
    let key = key(lease, whose);
    let place = (lease, whose);
    let found = if http2 {
        shared(&pools, key, worker, place, fresh).await
    } else {
        single(&pools, key, worker, place, fresh).await
    };
    found.map_err(|error| {
        let endpoint = lease.address();
        tracing::debug!(%endpoint, %error, "cannot connect");
        AttemptEnd::from(&error)
    })
}

async fn single(
    pools: &Pools,
    key: Key,
    worker: &Rc<Worker>,
    (lease, whose): (&Lease, &Whose<'_>),
    wants_fresh: bool,
) -> Result<Channel, DialError> {
    let fresh = || {
        Rc::new(Single {
            clock: worker.mesh().clock,
            idle: RefCell::default(),
            seats: Rc::default(),
        })
    };
    let single = pools
        .single
        .borrow_mut()
        .entry(key)
        .or_insert_with(fresh)
        .clone();
    let most = lease.cluster().spec.policy.exclusive_connections;
    let mut in_turn = !single.seats.are_awaited();
    let seat = loop {
        if in_turn {
            if !wants_fresh && let Some(connection) = single.used() {
                let returned = PoolGuard::of(Place::Single(single, connection.clone()));
                return Ok(Channel::Single(connection, returned, true));
            }
            if let Some(seat) = single.seats.take(most) {
                break seat;
            }
            // An idle one makes room for one that nothing was sent on yet.
            let idle = single.idle.borrow_mut().pop();
            if idle.is_some() {
                continue;
            }
        }
        single.seats.wait().await;
        in_turn = true;
    };
    let stream = whose.connect(worker, lease, b"http/1.1").await?;
    let connection = Rc::new(Alone {
        line: http1::Connection::new(stream),
        _seat: seat,
    });
    let returned = PoolGuard::of(Place::Single(single, connection.clone()));
    Ok(Channel::Single(connection, returned, false))
}

impl Single {
    /// A connection that was used before and still is good.
    fn used(&self) -> Option<Rc<Alone>> {
        let mut idle = self.idle.borrow_mut();
        // The one used last is the least likely to be closed by its peer.
        while let Some((last, _)) = idle.pop() {
            if last.line.look_whether_ready() {
                return Some(last);
            }
        }
        None
    }
}

async fn shared(
    pools: &Pools,
    key: Key,
    worker: &Rc<Worker>,
    (lease, whose): (&Lease, &Whose<'_>),
    wants_fresh: bool,
) -> Result<Channel, DialError> {
    let fresh = || {
        Rc::new(Shared {
            connections: RefCell::default(),
        })
    };
    let shared = pools
        .shared
        .borrow_mut()
        .entry(key)
        .or_insert_with(fresh)
        .clone();
    let connection = shared.choose(worker, lease, wants_fresh);
    connection.streams.set(connection.streams.get() + 1);
    let returned = PoolGuard::of(Place::Shared(connection.clone()));
    let made = connection
        .sender
        .get_or_try_init(|| handshake(worker, (lease, whose), &connection))
        .await;
    match made {
        Ok(sender) => Ok(Channel::Shared(sender.clone(), returned)),
        Err(error) => {
            connection.closed.set(true);
            Err(error)
        }
    }
}

impl Shared {
    /// The least loaded connection, or a new one: where all are busy, or `fresh` wants it so, and one
    /// more is allowed.
    fn choose(&self, worker: &Worker, lease: &Lease, fresh: bool) -> Rc<Multiplexed> {
        let mut connections = self.connections.borrow_mut();
        if !connections.iter().all(|own| own.is_usable()) {
            connections.retain(|own| own.is_usable());
        }
        let load = |own: &&Rc<Multiplexed>| (own.is_clogged(), own.streams.get());
        let best = match &connections[..] {
            [one] => Some(one),
            all => all.iter().min_by_key(load),
        };
        if let Some(best) = best {
            if !fresh && !best.is_busy() {
                return best.clone();
            }
            let mut most = lease.cluster().spec.policy.connections.max(1) as usize;
            if connections.iter().all(|own| own.is_starved()) {
                most *= MORE;
            }
            if connections.len() >= most {
                return best.clone();
            }
        }
        let clock = worker.mesh().clock;
        let fresh = Rc::new(Multiplexed {
            sender: OnceCell::new(),
            clock,
            streams: Cell::new(0),
            closed: Cell::new(false),
            used: Cell::new(clock.now()),
        });
        connections.push(fresh.clone());
        fresh
    }
}

async fn handshake(
    worker: &Rc<Worker>,
    (lease, whose): (&Lease, &Whose<'_>),
    own: &Rc<Multiplexed>,
) -> Result<http2::Sender, DialError> {
    if own.closed.get() {
        // Who waited for it with us has tried.
        return Err(DialError::Refused(io::ErrorKind::ConnectionRefused.into()));
    }
    let stream = whose.connect(worker, lease, H2).await?;
    // RFC 9113, section 3.2: under TLS, HTTP/2 is spoken only with those who agreed to it (RFC 7301);
    // others would wait for a request that they understand.
    if stream.is_secure() && stream.application() != Some(H2) {
        let why = io::Error::other("it did not agree on h2 (ALPN); is it to be spoken to in 1.1?");
        return Err(worker.cannot_secure(lease, why));
    }
    let policy = &lease.cluster().spec.policy;
    let limits = Limits {
        streams: 0,
        head: crate::MOST_HEAD,
        stream_window: STREAM_WINDOW,
        stream_most: STREAM_MOST,
        spare: SPARE,
        connection_window: CONNECTION_WINDOW,
        answers_continue: false,
    };
    let heartbeat = Heartbeat {
        timers: worker.timers().clone(),
        interval: policy.heartbeat_interval,
        misses: policy.heartbeat_misses,
    };
    let (sender, running) = http2::handshake(stream, limits, heartbeat);
    // It must not keep its own sender: it ends when there is none any more.
    let ending = Rc::downgrade(own);
    worker.spawn("an upstream connection", async move {
        // Who waits for answers is told how it ended.
        running.await;
        if let Some(own) = ending.upgrade() {
            own.closed.set(true);
        }
    });
    let due = Instant::now() + policy.connect_timeout;
    let error = match worker.timers().within(due, sender.ready()).await {
        Ok(Ok(())) => return Ok(sender),
        Ok(Err(error)) => error,
        Err(Expired { stalled: true }) => {
            return Err(DialError::Own(io::ErrorKind::TimedOut.into()));
        }
        Err(Expired { stalled: false }) => io::ErrorKind::TimedOut.into(),
    };
    worker.cannot_speak(lease, &error);
    Err(DialError::Refused(error))
}
