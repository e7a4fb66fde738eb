//! The drivers: the only part of core with tasks, and the one that moves bytes.
//!
//! Thread per core: a [`Worker`] is one thread with its own listeners, its own upstream connections
//! and no lock on the data path. A framed call passes through these files in this order: `listener`
//! accepts, `framed` splits frames and opens exchanges, `call` asks for an attempt, `pool` chooses a
//! connection, `upstream` gives the call an id and matches the answer, `write_queue` writes.

mod call;
mod checks;
mod driven;
mod frame_reader;
mod framed;
mod hedge;
mod in_flight;
mod listener;
mod pool;
mod protocol;
mod proxies;
mod reply;
mod resident;
mod shadow;
mod shares;
mod simulated;
mod survey;
mod task;
mod threads;
mod upstream;
mod worker;
mod write_queue;

pub use checks::keep_checking;
pub use driven::{Caller, Carried, DrivenExchange, PartedFilters, SessionFilters, TunnelEnd};
pub use framed::serve as serve_framed;
pub use listener::{Connection, ListenerSpec, Listening};
pub use protocol::{Protocol, Resume, Served, Sniff};
pub use proxies::{Proxies, ProxyHeader, node};
pub use resident::IdleConnections;
pub use shadow::{MessageShadow, ShadowRoom, Shadowed};
pub use simulated::{Crew, Held};
pub use survey::{InFlight, SessionPlace, SessionStatus, Survey, WaitsFor};
pub use threads::{Bound, WorkerStatus, Workers};
pub use worker::Worker;
