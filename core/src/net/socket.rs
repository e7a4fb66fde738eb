//! Sockets: a connection's bytes, plain, under TLS or in memory; some may have been read already.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::stats::UpstreamConnection;

use super::memory::Wire;

/// A connection silent this long is asked by the kernel whether its peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What was read of a socket before TLS was found to be spoken there, then the socket.
pub(crate) struct Rewound {
    prefix: Bytes,
    /// `None` only while the connection moves to another thread.
    stream: Option<TcpStream>,
}

impl Rewound {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }
}

/// A connection's bytes.
pub struct Socket {
    prefix: Bytes,
    kind: Kind,
    /// The last write could not be done at once.
    blocked: bool,
    /// Counts it as an upstream connection, if it is one.
    counted: Option<UpstreamConnection>,
}

enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<Rewound>>),
    Memory(Box<dyn Wire>),
}

/// A connection taken off its thread's reactor, to go on in another thread.
pub struct Detached {
    prefix: Bytes,
    kind: DetachedKind,
    counted: Option<UpstreamConnection>,
}

enum DetachedKind {
    Plain(std::net::TcpStream),
    /// The session, and what it is spoken on.
    Tls(Box<TlsStream<Rewound>>, std::net::TcpStream),
    Memory(Box<dyn Wire>),
}

impl DetachedKind {
    /// What becomes of a connection for which the runtime has no place any more: neither has anybody else.
    fn lost() -> Self {
        Self::Memory(Box::new(tokio::io::empty()))
    }
}

impl Socket {
    /// A connection without TLS.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self::of(Kind::Plain(stream))
    }

    /// A connection in memory.
    #[must_use]
    pub fn memory(wire: impl Wire) -> Self {
        Self::of(Kind::Memory(Box::new(wire)))
    }

    pub(crate) fn tls(stream: TlsStream<Rewound>) -> Self {
        Self::of(Kind::Tls(Box::new(stream)))
    }

    fn of(kind: Kind) -> Self {
        Self {
            prefix: Bytes::new(),
            kind,
            blocked: false,
            counted: None,
        }
    }

    /// Counts it as an upstream connection for as long as it lives.
    pub(crate) fn count(&mut self, counted: UpstreamConnection) {
        self.counted = Some(counted);
    }

    /// Takes it off this thread's reactor, with what was read of it and not used. Under TLS its session goes with it.
    ///
    /// # Errors
    /// Itself where it cannot move: it [has something to say](Self::can_detach) of its own.
    pub fn detach(self) -> Result<Detached, Self> {
        let Self {
            prefix,
            kind,
            counted,
            ..
        } = self;
        let kind = match kind {
            Kind::Plain(stream) => stream
                .into_std()
                .map_or_else(|_| DetachedKind::lost(), DetachedKind::Plain),
            Kind::Memory(wire) => DetachedKind::Memory(wire),
            Kind::Tls(mut stream) => {
                let (rewound, session) = stream.get_mut();
                // What the session wants to write waits for this thread's reactor.
                if session.wants_write() {
                    let kind = Kind::Tls(stream);
                    return Err(Self {
                        prefix,
                        blocked: true,
                        counted,
                        ..Self::of(kind)
                    });
                }
                match rewound.stream.take().map(TcpStream::into_std) {
                    Some(Ok(own)) => DetachedKind::Tls(stream, own),
                    _ => DetachedKind::lost(),
                }
            }
        };
        Ok(Detached {
            prefix,
            kind,
            counted,
        })
    }

    /// Whether it can be [detached](Self::detach) now: its TLS, if any, has nothing that waits to be written.
    #[must_use]
    pub fn can_detach(&self) -> bool {
        match &self.kind {
            Kind::Tls(stream) => !stream.get_ref().1.wants_write(),
            Kind::Plain(_) | Kind::Memory(_) => true,
        }
    }

    /// Puts a connection that was [detached](Self::detach) on this thread's reactor.
    ///
    /// # Errors
    /// If the runtime cannot take it.
    pub fn attach(detached: Detached) -> io::Result<Self> {
        let kind = match detached.kind {
            DetachedKind::Plain(stream) => Kind::Plain(TcpStream::from_std(stream)?),
            DetachedKind::Tls(mut stream, own) => {
                stream.get_mut().0.stream = Some(TcpStream::from_std(own)?);
                Kind::Tls(stream)
            }
            DetachedKind::Memory(wire) => Kind::Memory(wire),
        };
        Ok(Self {
            prefix: detached.prefix,
            counted: detached.counted,
            ..Self::of(kind)
        })
    }

    /// Whether it is under TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// The application protocol that was agreed on in its TLS (ALPN, RFC 7301).
    #[must_use]
    pub fn application(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Tls(stream) => stream.get_ref().1.alpn_protocol(),
            Kind::Plain(_) | Kind::Memory(_) => None,
        }
    }

    /// Our own address on it.
    ///
    /// # Errors
    /// If the connection broke.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.kind {
            Kind::Plain(stream) => stream.local_addr(),
            Kind::Tls(stream) => match &stream.get_ref().0.stream {
                Some(stream) => stream.local_addr(),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
            Kind::Memory(_) => Ok(SocketAddr::from(([127, 0, 0, 1], 0))),
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
            // A socket may be called readable though there is nothing to read.
            Kind::Plain(stream) => return stream.peek(&mut [0]).await.map(drop),
            Kind::Tls(_) | Kind::Memory(_) => {}
        }
        // Whether a record has content is only known when it is read.
        let mut piece = [0; 256];
        let length = self.read(&mut piece).await?;
        self.prefix = Bytes::copy_from_slice(&piece[..length]);
        Ok(())
    }

    /// Whether the peer has ended its side or reset it, whatever it sent before and nobody has read. For looks now and
    /// then; whoever reads finds out by that.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let stream = match &self.kind {
            Kind::Plain(stream) => Some(stream),
            Kind::Tls(stream) => stream.get_ref().0.stream.as_ref(),
            Kind::Memory(wire) => return wire.has_ended(),
        };
        let mut cx = Context::from_waker(Waker::noop());
        stream.is_some_and(|own| {
            let ready = pin!(own.ready(Interest::READABLE)).poll(&mut cx);
            matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
        })
    }

    /// Whether it is over both ways, as after a reset: nothing can be written any more. For looks now and then, too.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let stream = match &self.kind {
            Kind::Plain(stream) => Some(stream),
            Kind::Tls(stream) => stream.get_ref().0.stream.as_ref(),
            Kind::Memory(wire) => return wire.is_broken(),
        };
        let mut cx = Context::from_waker(Waker::noop());
        stream.is_some_and(|own| {
            let ready = pin!(own.ready(Interest::WRITABLE)).poll(&mut cx);
            matches!(ready, Poll::Ready(Ok(ready)) if ready.is_write_closed())
        })
    }

    /// Has the kernel end it when its peer has vanished without a word: when it acknowledges nothing
    /// that was sent for `unacknowledged`, or answers no keep-alive (RFC 1122, section 4.2.3.6).
    ///
    /// # Errors
    /// If the connection broke.
    pub(crate) fn notice_vanished(&self, unacknowledged: Duration) -> io::Result<()> {
        let Some(options) = self.options() else {
            return Ok(());
        };
        options.set_tcp_user_timeout(Some(unacknowledged))?;
        let keep_alive = TcpKeepalive::new()
            .with_time(KEEP_ALIVE)
            .with_interval(KEEP_ALIVE / 4);
        options.set_tcp_keepalive(&keep_alive)
    }

    /// The kernel's socket, where there is one: for its options.
    #[must_use]
    pub fn options(&self) -> Option<socket2::SockRef<'_>> {
        match &self.kind {
            Kind::Plain(stream) => Some(socket2::SockRef::from(stream)),
            Kind::Tls(stream) => {
                let stream = stream.get_ref().0.stream.as_ref();
                stream.map(socket2::SockRef::from)
            }
            Kind::Memory(_) => None,
        }
    }

    /// The socket itself and what was read of it, where there is no TLS.
    ///
    /// # Errors
    /// Itself, under TLS.
    pub fn into_plain(self) -> Result<(Bytes, TcpStream), Self> {
        match self.kind {
            Kind::Plain(stream) => Ok((self.prefix, stream)),
            kind => Err(Self { kind, ..self }),
        }
    }

    /// The bytes as TLS is to be found in them.
    pub(crate) fn into_rewound(self) -> io::Result<Rewound> {
        match self.kind {
            Kind::Plain(stream) => Ok(Rewound {
                prefix: self.prefix,
                stream: Some(stream),
            }),
            Kind::Tls(_) | Kind::Memory(_) => Err(io::ErrorKind::InvalidInput.into()),
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
        self.stream()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
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
            Kind::Memory(wire) => Pin::new(wire).poll_read(cx, buf),
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
            Kind::Memory(wire) => Pin::new(wire).poll_write(cx, buf),
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
            Kind::Memory(wire) => Pin::new(wire).poll_write_vectored(cx, bufs),
        };
        self.blocked = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
            Kind::Memory(wire) => wire.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Memory(wire) => Pin::new(wire).poll_flush(cx),
        };
        self.blocked = flushed.is_pending();
        ready!(flushed)?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Memory(wire) => Pin::new(wire).poll_shutdown(cx),
        }
    }
}
