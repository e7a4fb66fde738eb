//! The port of whoever is told of calls: what it takes of them goes elsewhere, and changes nothing for their callers.

use std::fmt;

use crate::frame::{Answer, Head, Metadata};

/// A framed call that goes on to an endpoint, as its client wrote it but for what filters change.
#[derive(Clone, Copy)]
pub struct Tapping<'a> {
    /// Its fixed header.
    pub head: &'a Head,
    /// What routing knows of it.
    pub metadata: &'a Metadata<'a>,
    /// All of its bytes.
    pub wire: &'a [u8],
    /// A uniform draw, for whoever takes a share of the calls only.
    pub random: u64,
}

/// Who is told of the calls of a route.
pub trait Tap: fmt::Debug + Send + Sync {
    /// A call goes on. Returns who waits for what is answered to it, if somebody does.
    ///
    /// Called by workers, which it must not keep waiting.
    fn begins(&self, call: &Tapping<'_>) -> Option<Box<dyn Tapped>>;

    /// What becomes of the calls besides, a sentence each, for whoever asks which way they take.
    fn explain(&self) -> Vec<String>;
}

/// Waits for what is answered to one call; dropped if nothing is.
pub trait Tapped {
    /// Its endpoint has answered.
    fn answered(self: Box<Self>, answer: &Answer);
}
