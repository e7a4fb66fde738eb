//! Java, whose start is most of what many tests cost.

use std::process::Command;
use std::sync::{Condvar, Mutex};
use std::thread;

/// A virtual machine that is fast to start rather than fast to run.
pub(crate) fn java() -> Command {
    let mut command = Command::new("java");
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command
}

/// The right to start something that needs a whole core for that. More tests run at once than there are cores, since most
/// of what they do is wait; starting all their servers at once would take the time from those that measure it.
pub(crate) struct Turn(());

static STARTING: Mutex<usize> = Mutex::new(0);
static STARTED: Condvar = Condvar::new();

impl Turn {
    /// Waits for one. It must be given back when what was started is ready, and nobody may want another one meanwhile.
    pub(crate) fn take() -> Self {
        let most = thread::available_parallelism().map_or(1, usize::from);
        let starting = STARTING.lock().unwrap();
        let mut starting = STARTED.wait_while(starting, |own| *own >= most).unwrap();
        *starting += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A test that failed meanwhile leaves the number as it was.
        *STARTING.lock().unwrap_or_else(|own| own.into_inner()) -= 1;
        STARTED.notify_one();
    }
}
