//! Messages on their way from one system into another: what each says, who takes it, and what becomes of it.
//!
//! A message is taken when an [`Outlet`] has room for it, and confirmed when the system behind it has it safely; whoever
//! brought it decides what to do meanwhile. Nothing here knows one of these systems.

mod template;
mod topics;
mod way;

use std::fmt;
use std::sync::Arc;

pub use template::{Template, TemplateError, TemplateNames};
pub use topics::{Admitted, Topics};
pub use way::{BRIDGE, way};

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    /// The topic there.
    pub topic: &'a str,
    /// Whose it is, by which topics in use are shared out; "" where nobody is told from others.
    pub owner: &'a str,
    /// What decides about the partition or queue; without one, they take turns.
    pub key: Option<&'a [u8]>,
    /// What it is found by among others of its topic, where the system has that.
    pub tag: Option<&'a str>,
    /// Its payload.
    pub payload: &'a [u8],
    /// Headers in order; names may repeat.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Where a message stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The broker, where partitions are numbered by broker.
    pub broker: Option<Arc<str>>,
    /// Its partition or queue.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
}

/// Why a message was not taken, or not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The producer has no room; try again later.
    #[error("the producer's queue is full")]
    Full,
    /// It is longer than the producer or its brokers take.
    #[error("the message is too large")]
    TooLarge,
    /// The topic does not exist, or is not to be written to.
    #[error("the topic is not there, or not to be written to")]
    NoTopic,
    /// Its topic would be one more than may be in use.
    #[error("too many topics are in use")]
    TooManyTopics,
    /// It has been there before, or through too many bridges.
    #[error("the message goes round in a loop")]
    Loop,
    /// The brokers did not confirm it in time.
    #[error("the brokers did not confirm it in time")]
    TimedOut,
    /// Something else, which the log tells.
    #[error("it could not be written")]
    Failed,
}

/// Told once whether a message was written.
pub type Confirm = Box<dyn FnOnce(Result<Place, Failure>) + Send + Sync>;

/// Where messages leave for one cluster of another system.
pub trait Outlet: fmt::Debug + Send + Sync {
    /// What kind of system it is, as traces have it.
    fn system(&self) -> &'static str;

    /// The cluster's name.
    fn name(&self) -> &str;

    /// Bytes of the longest message that it takes.
    fn limit(&self) -> usize;

    /// Takes a message; `confirm` is told when the brokers have it, or do not get it.
    ///
    /// # Errors
    /// If it is not taken; nobody is told then, and `confirm` is gone.
    fn send(&self, message: &Message<'_>, confirm: Option<Confirm>) -> Result<(), Failure>;
}
