//! The port by which messages go somewhere else than to a broker.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::task::AtomicWaker;

use crate::codec::Properties;

/// A client's message.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Its topic, as the route names it.
    pub topic: &'a str,
    /// Whose it is.
    pub client_id: &'a str,
    /// The client's user, or "".
    pub username: &'a str,
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
    /// It is too long.
    TooLarge,
    /// Something else, which the sink logs.
    Failed,
}

/// Where messages go.
pub trait Sink: fmt::Debug + Send + Sync {
    /// Takes a message; the receipt is told when it is safe, or is not to be.
    ///
    /// # Errors
    /// If it is not taken. What the receipt is told then is not heard.
    fn take(&self, message: &Outgoing<'_>, receipt: Receipt) -> Result<(), NotTaken>;
}

/// What messages of quality of service 2 have come to, for as long as their session lasts.
#[derive(Debug, Default)]
pub(crate) struct Exactly(Mutex<HashMap<u16, Stage>>);

/// How far a message of quality of service 2 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is on its way.
    Sent,
    /// It is safe; its client has not released it.
    Safe,
}

impl Exactly {
    fn lock(&self) -> MutexGuard<'_, HashMap<u16, Stage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stage(&self, id: u16) -> Option<Stage> {
        self.lock().get(&id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn set(&self, id: u16, stage: Option<Stage>) {
        match stage {
            Some(stage) => self.lock().insert(id, stage),
            None => self.lock().remove(&id),
        };
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

/// To be told once what became of a message; dropping it says that it failed.
pub struct Receipt {
    told: Option<Arc<Told>>,
    number: u64,
    /// Of quality of service 2: what is remembered though its connection may be gone.
    exactly: Option<(Arc<Exactly>, u16)>,
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

    pub(crate) fn new(told: &Arc<Told>, number: u64, exactly: Option<(Arc<Exactly>, u16)>) -> Self {
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
    pub fn tell(mut self, went: Result<(), NotTaken>) {
        self.say(went);
    }

    fn say(&mut self, went: Result<(), NotTaken>) {
        if let Some((exactly, id)) = self.exactly.take() {
            exactly.set(id, went.is_ok().then_some(Stage::Safe));
        }
        if let Some(told) = self.told.take() {
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
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.say(Err(NotTaken::Failed));
    }
}
