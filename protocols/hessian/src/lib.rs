//! Bounded readers of the two hessian dialects that RPC bodies are written in.
//!
//! A serialization, not a protocol: it knows values, no frames. [`v2`] is Hessian 2.0 (Dubbo, and
//! SOFA clients that ask for hessian 4.x); [`draft`] is the older draft that SOFA-RPC's
//! hessian 3.x writes.

pub mod draft;
mod text;
pub mod v2;

/// What a reader will put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Containers within containers.
    pub depth: usize,
    /// Values read or skipped in all.
    pub values: usize,
    /// Class definitions in one body.
    pub classes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 64,
            values: 1_000_000,
            classes: 1024,
        }
    }
}

impl Error {
    /// A text is longer than its reader takes.
    pub const LONG_TEXT: Self = Self::Limit("text length");
}

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It ends within a value.
    #[error("body ends within a value")]
    Truncated,
    /// A tag that the dialect does not have, or not here.
    #[error("unexpected tag {0:#04x}")]
    Tag(u8),
    /// Over one of the [`Limits`].
    #[error("over the limit of {0}")]
    Limit(&'static str),
    /// A reference to a class or type that was not defined.
    #[error("reference to something undefined")]
    Reference,
    /// Text that is not text.
    #[error("text is not valid UTF-8")]
    Text,
}
