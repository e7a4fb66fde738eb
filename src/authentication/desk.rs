//! Credential checks: a few threads for the whole process, behind a bounded queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Checks that may wait; clients beyond are told to come again.
const WAITING: usize = 256;

pub(super) type Check = Box<dyn FnOnce() + Send>;

/// Has something checked; whether there was room.
pub(super) fn ask(check: Check) -> bool {
    static DESK: OnceLock<SyncSender<Check>> = OnceLock::new();
    DESK.get_or_init(open).try_send(check).is_ok()
}

fn open() -> SyncSender<Check> {
    let (ask, asked) = sync_channel(WAITING);
    let asked = Arc::new(Mutex::new(asked));
    // Half of the cores: workers have the others.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for number in 0..cores.div_ceil(2) {
        let asked = asked.clone();
        let thread = std::thread::Builder::new().name(format!("authentication-{number}"));
        if let Err(error) = thread.spawn(move || serve(&asked)) {
            tracing::error!(%error, "no thread to check passwords");
        }
    }
    ask
}

fn serve(asked: &Mutex<Receiver<Check>>) {
    loop {
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(check) = next else { return };
        // One that panics has its client refused, and the others served.
        if catch_unwind(AssertUnwindSafe(check)).is_err() {
            tracing::error!("a check of credentials ended by a panic; this is a bug of Finback");
        }
    }
}
