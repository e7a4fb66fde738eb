//! The port by which messages go somewhere else than to a broker.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::task::AtomicWaker;

use crate::codec::Properties;

/// A client's message.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingMessage<'a> {
    /// Its topic, as the route names it.
    pub topic: &'a str,
    /// Whose it is.
    pub client_id: &'a str,
    /// The client's user, or "".
    pub username: &'a str,
    /// Who the client was found to be, by its certificate, password or token; "" if that was not asked.
    pub identity: &'a str,
    /// Its quality of service.
    pub qos: u8,
    /// Whether it was to be kept for later subscribers.
    pub retain: bool,
    /// Its properties.
    pub properties: Properties<'a>,
    /// What it says.
    pub payload: &'a [u8],
}

/// Why a message was not taken, or not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// There is no room; try again.
    Full,
    /// Its topic leads nowhere.
    BadTopic,
    /// Its topic would be one more than there may be.
    TooManyTopics,
    /// It is too long.
    TooLarge,
    /// It goes round in a loop.
    Loop,
    /// Something that may pass, which the sink logs.
    Failed,
}

impl NotTaken {
    /// Whether it would be the same the next time.
    pub(crate) fn is_final(self) -> bool {
        match self {
            Self::Full | Self::Failed => false,
            Self::BadTopic | Self::TooManyTopics | Self::TooLarge | Self::Loop => true,
        }
    }
}

/// Where messages go.
pub trait MessageSink: fmt::Debug + Send + Sync {
    /// Takes a message; the receipt is told once when it is safe, or is not to be.
    ///
    /// # Errors
    /// If it is not taken; the receipt is not told then.
    fn take(&self, message: &OutgoingMessage<'_>, receipt: Receipt) -> Result<(), NotTaken>;

    /// Bytes of the longest message that it takes, with all that goes along.
    fn limit(&self) -> usize;

    /// What it is, and where in it messages of a topic go, as traces have it.
    fn destination(&self, topic: &str) -> Option<(&'static str, String)>;

    /// Where messages go, in words.
    fn explain(&self) -> String;
}

/// What messages of quality of service 2 have come to, for as long as their session lasts.
#[derive(Debug, Default)]
pub(crate) struct Exactly(Mutex<Identifiers>);

#[derive(Debug, Default)]
struct Identifiers {
    stages: HashMap<u16, Stage>,
    /// Tells the messages of one identifier apart.
    last: u64,
}

/// How far a message of quality of service 2 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is on its way.
    Sent(u64),
    /// It is safe; its client has not released it.
    Safe,
}

impl Exactly {
    fn lock(&self) -> MutexGuard<'_, Identifiers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stage(&self, id: u16) -> Option<Stage> {
        self.lock().stages.get(&id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().stages.len()
    }

    /// A message goes on its way.
    pub(crate) fn begin(&self, id: u16) -> u64 {
        let mut own = self.lock();
        own.last += 1;
        let number = own.last;
        own.stages.insert(id, Stage::Sent(number));
        number
    }

    /// It has arrived, or never will; unless its identifier stands for another by now.
    pub(crate) fn settle(&self, id: u16, number: u64, safe: bool) {
        let mut own = self.lock();
        if own.stages.get(&id) != Some(&Stage::Sent(number)) {
            return;
        }
        if safe {
            own.stages.insert(id, Stage::Safe);
        } else {
            own.stages.remove(&id);
        }
    }

    /// Its client releases it; whether there was one.
    pub(crate) fn release(&self, id: u16) -> bool {
        self.lock().stages.remove(&id).is_some()
    }
}

/// What a connection is told about its messages, by number.
#[derive(Default)]
pub(crate) struct Told {
    news: Mutex<Vec<(u64, Result<(), NotTaken>)>>,
    waker: AtomicWaker,
}

impl Told {
    /// What is new; the waker is woken by what comes later.
    pub(crate) fn take(&self, waker: &std::task::Waker) -> Vec<(u64, Result<(), NotTaken>)> {
        self.waker.register(waker);
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// To be told once what became of a message that was taken. Of one that was not, it says nothing:
/// whoever offered it knows, and is not to be woken by its own refusal.
pub struct Receipt {
    told: Option<Arc<Told>>,
    number: u64,
    /// Of quality of service 2: what is remembered though its connection may be gone.
    exactly: Option<Release>,
}

/// What a message of quality of service 2 is remembered by.
pub(crate) struct Release {
    pub(crate) of: Arc<Exactly>,
    pub(crate) id: u16,
    pub(crate) number: u64,
}

impl Receipt {
    /// For a message that nobody waits for.
    pub(crate) fn unheard() -> Self {
        Self {
            told: None,
            number: 0,
            exactly: None,
        }
    }

    pub(crate) fn new(told: &Arc<Told>, number: u64, exactly: Option<Release>) -> Self {
        Self {
            told: Some(told.clone()),
            number,
            exactly,
        }
    }

    /// Whether somebody waits for it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.told.is_some()
    }

    /// Says what became of the message.
    pub fn tell(self, went: Result<(), NotTaken>) {
        if let Some(Release { of, id, number }) = self.exactly {
            of.settle(id, number, went.is_ok());
        }
        let Some(told) = self.told else { return };
        let mut news = told.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.push((self.number, went));
        // Who has news waiting has been woken.
        let first = news.len() == 1;
        drop(news);
        if first {
            told.waker.wake();
        }
    }
}
