//! A connection's bytes, plain or under TLS; some of them may have been read already.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::cluster::Cluster;

/// A connection's two sides, each of which one task may drive.
pub(crate) type Halves = (Pin<Box<dyn AsyncRead>>, Pin<Box<dyn AsyncWrite>>);

/// What was read of a socket before TLS was found to be spoken there, then the socket.
pub(crate) struct Rewound {
    prefix: Bytes,
    stream: TcpStream,
}

/// A connection's bytes.
pub struct Socket {
    prefix: Bytes,
    kind: Kind,
    /// The last write could not be done at once.
    blocked: bool,
}

enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<Rewound>>),
}

impl Socket {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: Kind::Plain(stream),
            blocked: false,
        }
    }

    pub(crate) fn tls(stream: TlsStream<Rewound>) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: Kind::Tls(Box::new(stream)),
            blocked: false,
        }
    }

    /// Whether it is under TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// Our own address on it.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.kind {
            Kind::Plain(stream) => stream.local_addr(),
            Kind::Tls(stream) => stream.get_ref().0.stream.local_addr(),
        }
    }

    /// Whether everything that was written has left us.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        !self.blocked
    }

    /// Puts bytes back that were read but not used.
    pub fn unread(&mut self, bytes: Bytes) {
        if self.prefix.is_empty() {
            self.prefix = bytes;
        } else if !bytes.is_empty() {
            self.prefix = [&bytes[..], &self.prefix[..]].concat().into();
        }
    }

    pub(crate) fn take_prefix(&mut self) -> Bytes {
        std::mem::take(&mut self.prefix)
    }

    /// Waits until there is something to read, or the peer has gone.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn readable(&mut self) -> io::Result<()> {
        if !self.prefix.is_empty() {
            return Ok(());
        }
        match &mut self.kind {
            Kind::Plain(stream) => stream.readable().await,
            Kind::Tls(stream) => {
                // Whether a record has content is only known when it is read.
                let mut piece = [0; 256];
                let length = stream.read(&mut piece).await?;
                self.prefix = Bytes::copy_from_slice(&piece[..length]);
                Ok(())
            }
        }
    }

    /// The socket itself and what was read of it, where there is no TLS.
    ///
    /// # Errors
    /// Itself, under TLS.
    pub fn into_plain(self) -> Result<(Bytes, TcpStream), Self> {
        match self.kind {
            Kind::Plain(stream) => Ok((self.prefix, stream)),
            Kind::Tls(_) => Err(self),
        }
    }

    /// Its two sides.
    pub(crate) fn into_halves(self) -> Halves {
        match self.kind {
            Kind::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (Box::pin(reader), Box::pin(writer))
            }
            Kind::Tls(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                (Box::pin(reader), Box::pin(writer))
            }
        }
    }

    /// The bytes as TLS is to be found in them.
    pub(crate) fn into_rewound(self) -> io::Result<Rewound> {
        match self.kind {
            Kind::Plain(stream) => Ok(Rewound {
                prefix: self.prefix,
                stream,
            }),
            Kind::Tls(_) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Connects to an endpoint of a cluster as its policy wants it, with this application protocol
/// where TLS is spoken.
///
/// # Errors
/// If it cannot be done within the cluster's `connect_timeout`.
pub async fn dial(
    cluster: &Cluster,
    address: SocketAddr,
    application: Option<&'static [u8]>,
) -> io::Result<Socket> {
    let policy = &cluster.spec.policy;
    let limit = policy.connect_timeout;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = socket2::SockRef::from(&stream);
        // A peer that vanished without a word is noticed also while data waits to be acknowledged.
        socket.set_tcp_user_timeout(Some(Duration::from_secs(20)))?;
        let plain = Socket::plain(stream);
        match &policy.tls {
            None => Ok(plain),
            Some(tls) => tls.connect(plain, address, application).await,
        }
    };
    match tokio::time::timeout(limit, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let why = format!("no answer within {limit:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
    }
}

fn take(prefix: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let length = prefix.len().min(buf.remaining());
    buf.put_slice(&prefix[..length]);
    prefix.advance(length);
}

/// Up to so many bytes are copied together: the system call for one piece is the cheaper one.
const GATHERED: usize = 16 * 1024;

thread_local! {
    static GATHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn write_gathered(
    stream: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    pieces: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    match pieces {
        [one] => stream.poll_write(cx, one),
        _ if length > GATHERED => stream.poll_write_vectored(cx, pieces),
        _ => GATHER.with_borrow_mut(|whole| {
            whole.clear();
            for piece in pieces {
                whole.extend_from_slice(piece);
            }
            stream.poll_write(cx, whole)
        }),
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            take(&mut self.prefix, buf);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            take(&mut self.prefix, buf);
            return Poll::Ready(Ok(()));
        }
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.blocked = written.is_pending();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.kind {
            Kind::Plain(stream) => write_gathered(Pin::new(stream), cx, bufs),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        self.blocked = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.blocked = flushed.is_pending();
        ready!(flushed)?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
