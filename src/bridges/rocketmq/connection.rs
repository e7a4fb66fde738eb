//! A connection to one server of RocketMQ, over which many ask at the same time.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use finback_rocketmq::{Answered, Ask, Signer, take_answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::way::Way;
use crate::filters::dial::Socket;

/// Requests that wait to be written.
const QUEUE: usize = 256;
/// Bytes that are written with one call, about.
const TOGETHER: usize = 256 * 1024;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It is too long for a frame.
    TooLong,
    /// There is no connection, or none any more.
    Lost(String),
}

type Waiting = HashMap<i32, oneshot::Sender<Answered>>;

/// A connection to one server.
pub(super) struct Connection {
    queue: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    ids: AtomicI32,
}

#[derive(Default)]
struct Shared {
    /// Who waits for which answer; `None` once it is over.
    waiting: Mutex<Option<Waiting>>,
    is_over: AtomicBool,
}

impl Connection {
    /// Connects to a server.
    pub(super) async fn open(address: &str, way: &Way) -> io::Result<Arc<Self>> {
        let stream = way.connect(address).await?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Some(HashMap::new())),
            is_over: AtomicBool::new(false),
        });
        let (queue, queued) = mpsc::channel(QUEUE);
        let own = shared.clone();
        let name = address.to_owned();
        tokio::spawn(async move {
            let ended = drive(stream, queued, &own).await;
            tracing::debug!(server = name, ?ended, "a connection to RocketMQ has ended");
            own.end();
        });
        Ok(Arc::new(Self {
            queue,
            shared,
            ids: AtomicI32::new(0),
        }))
    }

    /// Whether it can still be asked over.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.is_over.load(Relaxed)
    }

    /// Asks, and waits for the answer as long as the caller does.
    pub(super) async fn ask(
        &self,
        ask: &Ask<'_>,
        signer: Option<&dyn Signer>,
    ) -> Result<Answered, Unanswered> {
        let lost = || Unanswered::Lost("the connection was lost".to_owned());
        let id = self.ids.fetch_add(1, Relaxed);
        let mut frame = Vec::new();
        if !ask.put(id, signer, &mut frame) {
            return Err(Unanswered::TooLong);
        }
        let (tell, told) = oneshot::channel();
        match &mut *self.shared.lock() {
            Some(waiting) => waiting.insert(id, tell),
            None => return Err(lost()),
        };
        let _place = Place {
            shared: &self.shared,
            id,
        };
        self.queue.send(frame).await.map_err(|_| lost())?;
        told.await.map_err(|_| lost())
    }
}

/// A place among those who wait; given back when nobody does any more.
struct Place<'a> {
    shared: &'a Shared,
    id: i32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.shared.lock() {
            waiting.remove(&self.id);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits that no answer comes.
    fn end(&self) {
        self.is_over.store(true, Relaxed);
        self.lock().take();
    }

    fn answer(&self, answered: Answered) {
        let waiting = self
            .lock()
            .as_mut()
            .and_then(|all| all.remove(&answered.id));
        // Late answers have nobody to go to.
        if let Some(tell) = waiting {
            let _ = tell.send(answered);
        }
    }
}

/// Moves bytes both ways until one of them ends.
async fn drive(
    stream: Box<dyn Socket>,
    mut queued: mpsc::Receiver<Vec<u8>>,
    shared: &Shared,
) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let writing = async move {
        let (mut frames, mut together) = (Vec::new(), Vec::new());
        while queued.recv_many(&mut frames, QUEUE).await > 0 {
            for frame in frames.drain(..) {
                if together.len() + frame.len() > TOGETHER {
                    to.write_all(&together).await?;
                    together.clear();
                }
                together.extend_from_slice(&frame);
            }
            to.write_all(&together).await?;
            // What TLS has written is not sent before that.
            to.flush().await?;
            together.clear();
            together.shrink_to(TOGETHER);
        }
        Ok(())
    };
    let reading = async move {
        let mut bytes = BytesMut::new();
        loop {
            bytes.reserve(4096);
            if from.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            while let Some(own) = take_answer(&mut bytes).map_err(io::Error::other)? {
                // What a server asks of its clients is about transactions and consumers, of which we have none.
                own.into_iter().for_each(|own| shared.answer(own));
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}
