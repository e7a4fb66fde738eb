//! The worker threads, and how the rest of the process speaks to them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::mesh::Mesh;

use super::listener::{ListenerSpec, Listening};
use super::worker::Worker;

/// Connections that the kernel keeps for us to accept.
const BACKLOG: i32 = 4096;

enum Command {
    Listen {
        id: u64,
        spec: ListenerSpec,
        socket: TcpListener,
    },
    Unlisten {
        id: u64,
    },
    Drain {
        done: oneshot::Sender<()>,
    },
}

/// The worker threads.
pub struct Workers {
    commands: Vec<UnboundedSender<Command>>,
    next_listener: AtomicU64,
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

    /// The number by which to [`Workers::unlisten`] it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Workers {
    /// Starts so many workers (at least one) for `mesh`.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start(mesh: &Arc<Mesh>, count: usize) -> io::Result<Self> {
        let mut workers = Self {
            commands: Vec::new(),
            next_listener: AtomicU64::new(0),
        };
        for index in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            let (commands, received) = unbounded_channel();
            let mesh = mesh.clone();
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || LocalSet::new().block_on(&runtime, work(index, mesh, received)))?;
            workers.commands.push(commands);
        }
        Ok(workers)
    }

    /// Binds a listener: one socket per worker, among which the kernel spreads connections.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn bind(&self, spec: ListenerSpec) -> io::Result<Bound> {
        let mut address = spec.address;
        let mut sockets = Vec::new();
        for _ in &self.commands {
            let socket = bind(address)?;
            // With port 0 the first socket takes a free port, and the others join it.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        let id = self.next_listener.fetch_add(1, Ordering::Relaxed);
        Ok(Bound {
            id,
            spec,
            address,
            sockets,
        })
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
                spec: spec.clone(),
                socket,
            });
        }
    }

    /// Accepts no more on a listener and dismisses its clients.
    pub fn unlisten(&self, id: u64) {
        for commands in &self.commands {
            let _ = commands.send(Command::Unlisten { id });
        }
    }

    /// Accepts no more anywhere, says goodbye to every client, finishes what is in flight
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

async fn work(index: usize, mesh: Arc<Mesh>, mut commands: UnboundedReceiver<Command>) {
    let worker = Worker::new(index, mesh);
    tokio::task::spawn_local(worker.clone().flush());
    tokio::task::spawn_local(worker.clone().keep_time());
    let mut listeners: HashMap<u64, Rc<Listening>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen { id, spec, socket } => match tokio::net::TcpListener::from_std(socket)
            {
                Ok(socket) => {
                    let listening = Listening::new(id, &spec);
                    tokio::task::spawn_local(listening.clone().accept(socket, worker.clone()));
                    listeners.insert(id, listening);
                }
                Err(error) => tracing::error!(listener = %spec.name, %error, "cannot listen"),
            },
            Command::Unlisten { id } => {
                if let Some(listening) = listeners.remove(&id) {
                    listening.stop();
                    // Connections accepted meanwhile are dismissed too.
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    worker.dismiss(Some(id));
                }
            }
            Command::Drain { done } => {
                for listening in listeners.values() {
                    listening.stop();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                worker.dismiss(None);
                worker.drain().await;
                let _ = done.send(());
                return;
            }
        }
    }
}
