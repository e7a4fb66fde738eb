//! The worker threads, and how the rest of the process speaks to them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::mesh::{Mesh, Pinned};

use super::listener::{ListenerSpec, Listening, Parcel};
use super::shares::Shares;
use super::survey::{Survey, survey};
use super::worker::Worker;

/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;

/// Connections that are accepted while a listener stops need a moment to be known.
pub(super) const SETTLE: Duration = Duration::from_millis(5);

enum Command {
    Listen {
        id: u64,
        spec: Box<ListenerSpec>,
        socket: TcpListener,
    },
    Unlisten {
        id: u64,
    },
    /// A connection that another worker accepted, or had until now.
    Adopt(Box<Parcel>),
    /// Gives every connection that can go on elsewhere to other workers.
    HandOver {
        done: oneshot::Sender<usize>,
    },
    /// Tells what is in hand, of each kind so much.
    Survey {
        most: usize,
        done: oneshot::Sender<Survey>,
    },
    Drain {
        done: oneshot::Sender<()>,
    },
}

/// The worker threads.
pub struct Workers {
    mesh: Arc<Mesh>,
    commands: Vec<UnboundedSender<Command>>,
    /// Each worker's own.
    runtimes: Vec<Handle>,
    shares: Arc<Shares>,
    next_listener: AtomicU64,
    /// The ports that are ours.
    ports: Mutex<Vec<(u64, u16)>>,
    /// Addresses may be shared with another process.
    shares_addresses: AtomicBool,
}

/// One worker as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its client connections.
    pub connections: usize,
    /// How long ago it last looked after its connections; it does so several times a second.
    pub turned: Duration,
    /// Bytes that waited to be written to peers of framed protocols when it last looked.
    pub queued: usize,
    /// For how long it worked since the start, and did not wait for something to do.
    pub busy: Duration,
}

/// A listener whose sockets are bound, but not yet served.
pub struct Bound {
    id: u64,
    spec: ListenerSpec,
    address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Bound {
    /// What it was bound for.
    #[must_use]
    pub fn spec(&self) -> &ListenerSpec {
        &self.spec
    }

    /// Where it listens: the spec's address with the port that was taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, to stand for one endpoint alone: who connected meanwhile is served by that.
    #[must_use]
    pub fn pinned_to(mut self, pinned: Pinned) -> Self {
        self.spec.pinned = Some(pinned);
        self
    }

    /// The number by which to [`Workers::unlisten`] it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Workers {
    /// The mesh whose calls they carry.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// Starts so many workers (at least one) for `mesh`.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start(mesh: &Arc<Mesh>, count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let shares = Arc::new(Shares::new(count));
        let (commands, received): (Vec<_>, Vec<_>) =
            (0..count).map(|_| unbounded_channel()).unzip();
        let mut runtimes = Vec::new();
        for (index, received) in received.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            runtimes.push(runtime.handle().clone());
            shares.note_turn(index, mesh.clock.now());
            let (mesh, shares, others) = (mesh.clone(), shares.clone(), commands.clone());
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let seed = std::hash::RandomState::new();
                    let seed = std::hash::BuildHasher::hash_one(&seed, index);
                    LocalSet::new().block_on(&runtime, async move {
                        let worker = Worker::new(index, mesh, seed, None, shares);
                        worker.start();
                        work(worker, others, received).await;
                    });
                })?;
        }
        Ok(Self {
            mesh: mesh.clone(),
            commands,
            runtimes,
            shares,
            next_listener: AtomicU64::new(0),
            ports: Mutex::default(),
            shares_addresses: AtomicBool::new(false),
        })
    }

    /// Lets listeners share their addresses with another process, which this one is to replace: both
    /// are served until that one stops.
    pub fn share_addresses(&self) {
        self.shares_addresses.store(true, Ordering::Relaxed);
    }

    /// How every worker is.
    #[must_use]
    pub fn status(&self) -> Vec<WorkerStatus> {
        let now = self.mesh.clock.now();
        let each = self.shares.status().into_iter().zip(&self.runtimes);
        each.map(|(own, runtime)| WorkerStatus {
            connections: own.connections,
            turned: now.since(own.turned),
            queued: own.queued,
            // Of the only worker that a runtime of one thread has.
            busy: runtime.metrics().worker_total_busy_duration(0),
        })
        .collect()
    }

    /// Has worker `from` give its connections to the other workers, each at its next boundary of
    /// messages; how many of them can move. Those that cannot, since a session holds them, stay.
    pub async fn hand_over(&self, from: usize) -> usize {
        let (done, moving) = oneshot::channel();
        let sent = self
            .commands
            .get(from)
            .map(|commands| commands.send(Command::HandOver { done }));
        match sent {
            Some(Ok(())) => moving.await.unwrap_or(0),
            _ => 0,
        }
    }

    /// What all workers have in hand, of each kind the `most` oldest. Workers that do not answer in time
    /// are told by their numbers.
    pub async fn survey(&self, most: usize, patience: Duration) -> (Survey, Vec<usize>) {
        let mut all = Survey::default();
        let mut silent = Vec::new();
        let mut asked = Vec::new();
        for commands in &self.commands {
            let (done, told) = oneshot::channel();
            let sent = commands.send(Command::Survey { most, done }).is_ok();
            asked.push(sent.then_some(told));
        }
        let end = tokio::time::Instant::now() + patience;
        for (number, told) in asked.into_iter().enumerate() {
            let told = match told {
                Some(told) => tokio::time::timeout_at(end, told).await.ok(),
                None => None,
            };
            match told {
                Some(Ok(own)) => all.add(own, most),
                _ => silent.push(number),
            }
        }
        (all, silent)
    }

    /// Binds a listener: one socket per worker, among which the kernel spreads connections.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn bind(&self, spec: ListenerSpec) -> io::Result<Bound> {
        let mut address = spec.address;
        self.refuse_taken(address)?;
        let mut sockets = Vec::new();
        for _ in &self.commands {
            let socket = bind(address)?;
            // With port 0 the first socket takes a free port, and the others join it.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        self.lock_ports().push((id, address.port()));
        Ok(Bound {
            id,
            spec,
            address,
            sockets,
        })
    }

    /// Fails if another process listens on this address: the kernel would let both, and spread the
    /// clients over two configurations.
    fn refuse_taken(&self, address: SocketAddr) -> io::Result<()> {
        let is_own = self
            .lock_ports()
            .iter()
            .any(|(_, port)| *port == address.port());
        let may_share = self.shares_addresses.load(Ordering::Relaxed);
        if address.port() == 0 || is_own || may_share {
            return Ok(());
        }
        // Without SO_REUSEPORT this fails where anybody listens; the port is free again at once.
        let alone = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        alone.set_reuse_address(true)?;
        alone
            .bind(&address.into())
            .map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("{address} is taken by another process; if that is a Finback to be replaced, start with --take-over"),
                ),
                _ => error,
            })
    }

    fn lock_ports(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u16)>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to serve a bound listener.
    pub fn listen(&self, bound: Bound) {
        let Bound {
            id, spec, sockets, ..
        } = bound;
        for (commands, socket) in self.commands.iter().zip(sockets) {
            // A worker that ended serves nothing more; nothing to tell it.
            let _ = commands.send(Command::Listen {
                id,
                spec: Box::new(spec.clone()),
                socket,
            });
        }
    }

    /// Accepts no more on a listener and dismisses its clients.
    pub fn unlisten(&self, id: u64) {
        self.lock_ports().retain(|(own, _)| *own != id);
        for commands in &self.commands {
            let _ = commands.send(Command::Unlisten { id });
        }
    }

    /// Accepts no more anywhere, tells every client to go away, finishes what is in flight
    /// (bounded by [`Limits::drain`](crate::mesh::Limits::drain)), and ends the workers.
    pub async fn drain(&self) {
        let mut waits = Vec::new();
        for commands in &self.commands {
            let (done, wait) = oneshot::channel();
            if commands.send(Command::Drain { done }).is_ok() {
                waits.push(wait);
            }
        }
        for wait in waits {
            if wait.await.is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn work(
    worker: Rc<Worker>,
    others: Vec<UnboundedSender<Command>>,
    mut commands: UnboundedReceiver<Command>,
) {
    worker.set_send_to(Box::new(move |to, parcel| {
        let Some(commands) = others.get(to) else {
            return Err(parcel);
        };
        commands
            .send(Command::Adopt(parcel))
            .map_err(|error| match error.0 {
                Command::Adopt(parcel) => parcel,
                _ => unreachable!("what was sent comes back"),
            })
    }));
    let mut listeners = Listeners::default();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen { id, spec, socket } => match tokio::net::TcpListener::from_std(socket)
            {
                Ok(socket) => {
                    let listening = Listening::new(id, &spec, &worker);
                    let accepting = listening.clone().accept(socket, worker.clone());
                    worker.spawn("a listener", accepting);
                    listeners.add(id, listening, &worker);
                }
                Err(error) => tracing::error!(listener = %spec.name, %error, "cannot listen"),
            },
            Command::Unlisten { id } => {
                if listeners.retire(id) {
                    // Connections accepted meanwhile are dismissed too.
                    tokio::time::sleep(SETTLE).await;
                    worker.dismiss(Some(id));
                }
            }
            Command::Adopt(parcel) => listeners.adopt(*parcel, &worker),
            Command::HandOver { done } => {
                let _ = done.send(worker.hand_over_all());
            }
            Command::Survey { most, done } => {
                let _ = done.send(survey(&worker, most));
            }
            Command::Drain { done } => {
                listeners.stop();
                tokio::time::sleep(SETTLE).await;
                worker.dismiss(None);
                let mut draining = std::pin::pin!(worker.drain());
                loop {
                    tokio::select! {
                        () = &mut draining => break,
                        Some(command) = commands.recv() => match command {
                            // What others accepted for us before they stopped is served, too.
                            Command::Adopt(parcel) => listeners.adopt(*parcel, &worker),
                            Command::Survey { most, done } => {
                                let _ = done.send(survey(&worker, most));
                            }
                            // Too late for all else.
                            Command::Listen { .. }
                            | Command::Unlisten { .. }
                            | Command::HandOver { .. }
                            | Command::Drain { .. } => {}
                        },
                    }
                }
                let _ = done.send(());
                return;
            }
        }
    }
}

/// Listeners that were removed are remembered for connections that others accepted meanwhile.
const RETIRED: usize = 16;

/// The listeners of one worker.
#[derive(Default)]
struct Listeners {
    live: HashMap<u64, Rc<Listening>>,
    retired: VecDeque<(u64, Rc<Listening>)>,
    /// The number of the last that began; they grow.
    last: Option<u64>,
    /// Connections of a listener that another worker was told of earlier.
    early: Vec<Parcel>,
    stopped: bool,
}

impl Listeners {
    fn add(&mut self, id: u64, listening: Rc<Listening>, worker: &Rc<Worker>) {
        self.live.insert(id, listening);
        self.last = self.last.max(Some(id));
        for parcel in std::mem::take(&mut self.early) {
            self.adopt(parcel, worker);
        }
    }

    /// Stops one; false if there is none of this number.
    fn retire(&mut self, id: u64) -> bool {
        let Some(listening) = self.live.remove(&id) else {
            return false;
        };
        listening.stop();
        if self.retired.len() == RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back((id, listening));
        true
    }

    fn stop(&mut self) {
        self.stopped = true;
        for listening in self.live.values() {
            listening.stop();
        }
    }

    /// Goes on with a connection that another worker had.
    fn adopt(&mut self, parcel: Parcel, worker: &Rc<Worker>) {
        let id = parcel.listener;
        let retired = || self.retired.iter().find(|(own, _)| *own == id);
        if let Some(listening) = self.live.get(&id) {
            listening.adopt_counted(parcel, worker);
            if self.stopped {
                worker.dismiss(Some(id));
            }
        } else if let Some((_, listening)) = retired() {
            listening.adopt_counted(parcel, worker);
            worker.dismiss(Some(id));
        } else if self.last < Some(id) {
            self.early.push(parcel);
        } else {
            // Removed long ago: nobody here knows its routes any more.
            worker.shares().leave(worker.index());
        }
    }
}
