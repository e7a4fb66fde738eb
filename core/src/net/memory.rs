//! Connections in memory: what a simulated network gives instead of a kernel's socket.

use tokio::io::{AsyncRead, AsyncWrite};

/// One end of a connection that is no kernel's socket.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether its peer has ended its side, whatever it said before and nobody has read.
    fn has_ended(&self) -> bool;

    /// Whether it was reset.
    fn is_broken(&self) -> bool;
}

/// A connection that is over.
impl Wire for tokio::io::Empty {
    fn has_ended(&self) -> bool {
        true
    }

    fn is_broken(&self) -> bool {
        true
    }
}
