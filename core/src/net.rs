//! The transport kit: connection craft that every driver shares, each piece of it once.
//!
//! Sockets (plain, TLS, memory), dialling that is counted, fair turns, buffers for reading and
//! writing, timers, the relay of tunnels and the lingering close. Nothing here knows a cluster, a route or a worker.

mod buffers;
mod dial;
mod linger;
mod memory;
mod proxy_header;
mod relay;
mod socket;
mod timer;
mod tls;
mod turn;
mod write;

pub use buffers::{Buffer, Buffers, scratch};
pub use dial::{Connecting, DialError, DialTarget, Network, TlsFailure, dial};
pub use linger::{LINGER, Linger, close};
pub use memory::Wire;
pub use proxy_header::{ConnectionEnds, Known, ProxyVersion, exercise_proxy_header, proxy_header};
pub use relay::{Closed, Relay};
pub use socket::{Detached, Socket};
pub use timer::{Expired, LATE, Timer, Timers};
pub use tls::{ClientTls, Handshake, Identify, LastSecond, ServerTls};
pub use turn::{READS_PER_TURN, Turn, give_way};
pub use write::{write_pieces, write_some};

pub(crate) use proxy_header::read_proxy_header;
pub(crate) use tls::{FIRST, Transport};
