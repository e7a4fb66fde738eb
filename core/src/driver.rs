//! The drivers: the only part of core that touches sockets and the clock.
//!
//! Thread per core: a [`Worker`] is one thread with its own listeners, its own upstream
//! connections and no lock on the data path. A framed call passes through these files in this
//! order: `listener` accepts, `framed` splits frames and opens exchanges, `pool` chooses a
//! connection, `upstream` gives the call an id and matches the answer, `link` writes.

mod checks;
mod framed;
mod inbox;
mod link;
mod listener;
mod pool;
mod socket;
mod streams;
mod table;
mod threads;
mod tls;
mod upstream;
mod worker;

pub use checks::{Accepts, Asking, HealthCheck, Heartbeats, Probe, keep_checking};
pub use framed::serve as serve_framed;
pub use listener::{Connection, ListenerSpec};
pub use socket::{Socket, dial};
pub use streams::{Caller, Stream};
pub use threads::{Bound, Workers};
pub use tls::{ClientTls, Identify, ServerTls};
pub use worker::Worker;

pub(crate) use listener::Listening;
pub(crate) use pool::Pool;
