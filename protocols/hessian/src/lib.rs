//! Bounded readers, and a [writer](mod@write), of the two versions of hessian that RPC bodies are written in.
//!
//! A serialization, not a protocol: it knows values, no frames. [`v2`] is Hessian 2.0 (Dubbo, and
//! SOFA clients that ask for hessian 4.x); [`draft`] is the older draft that SOFA-RPC's
//! hessian 3.x writes.

pub mod draft;
mod nest;
mod text;
pub mod v2;
pub mod write;

pub use nest::{Nest, Open};

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
    /// A tag that the version does not have, or not here.
    #[error("unexpected tag {0:#04x}")]
    Tag(u8),
    /// Over a limit of whoever reads.
    #[error("over the limit of {0}")]
    Limit(&'static str),
    /// A reference to a class or type that was not defined.
    #[error("reference to something undefined")]
    Reference,
    /// Text that is not text.
    #[error("text is not valid UTF-8")]
    Text,
}
