//! Admin commands to the process: to stop, and to read its configuration again.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

/// What came of a reload: the keys that only a restart puts in force, or why it was refused.
pub type Reloaded = Result<Vec<&'static str>, String>;
/// Whoever asked for a reload, and wants to hear what came of it.
pub type Asker = oneshot::Sender<Reloaded>;

/// Reloads asked for that wait, at most.
const WAITING: usize = 4;

/// Orders that are not carried out yet.
pub struct Orders {
    drain: Notify,
    reloads: mpsc::Sender<Asker>,
    taken: Mutex<Option<mpsc::Receiver<Asker>>>,
}

impl Default for Orders {
    fn default() -> Self {
        let (reloads, taken) = mpsc::channel(WAITING);
        Self {
            drain: Notify::new(),
            reloads,
            taken: Mutex::new(Some(taken)),
        }
    }
}

impl Orders {
    /// Has the process stop as at SIGTERM.
    pub fn drain(&self) {
        self.drain.notify_one();
    }

    /// Waits until it is to stop.
    pub async fn drained(&self) {
        self.drain.notified().await;
    }

    /// Has the configuration read again, as at SIGHUP, and waits for what comes of it.
    ///
    /// # Errors
    /// Why it was refused, or that nobody here reads one.
    pub async fn reload(&self) -> Reloaded {
        let (asker, answer) = oneshot::channel();
        let nobody = || "this process reads no configuration again".to_owned();
        self.reloads.try_send(asker).map_err(|_| nobody())?;
        answer.await.map_err(|_| nobody())?
    }

    /// The reloads that are asked for; to be taken by whoever carries them out.
    pub fn reloads(&self) -> Option<mpsc::Receiver<Asker>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.take()
    }
}
