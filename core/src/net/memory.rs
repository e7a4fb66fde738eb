//! Connections in memory: what a simulated network gives instead of a kernel's socket.

use tokio::io::{AsyncRead, AsyncWrite};

/// One end of a connection that is no kernel's socket.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}
