//! The mesh's ends of connections, as core's sockets are made of them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use finback_core::net::{Connecting, Network as Dialler, Socket, Wire};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Dial, MeshEnd, Network};

impl Wire for MeshEnd {
    fn has_ended(&self) -> bool {
        self.network.lock().ended_at(self.conn).is_some()
    }

    fn is_broken(&self) -> bool {
        self.network.lock().is_broken(self.conn)
    }
}

impl AsyncRead for MeshEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut net = self.network.lock();
        let read = net.poll_read(self.conn, cx, buf);
        self.network.after(net);
        read
    }
}

impl AsyncWrite for MeshEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut net = self.network.lock();
        let written = net.poll_write(self.conn, cx, bytes);
        self.network.after(net);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut net = self.network.lock();
        net.shut(self.conn);
        self.network.after(net);
        Poll::Ready(Ok(()))
    }
}

impl Drop for MeshEnd {
    fn drop(&mut self) {
        let mut net = self.network.lock();
        net.drop_mesh_end(self.conn);
        self.network.after(net);
    }
}

/// A connection that the mesh makes. What is there of it is closed when nobody waits for it any more.
struct Dialling {
    end: Option<MeshEnd>,
}

impl Future for Dialling {
    type Output = io::Result<Socket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(end) = &self.end else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut net = end.network.lock();
        let dial = &mut net.conns[end.conn].dial;
        if let Dial::Wanted(waker) = dial {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Dial::Done(decided) = std::mem::replace(dial, Dial::Taken) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        drop(net);
        let end = self.end.take();
        Poll::Ready(decided.and_then(|()| {
            end.map(Socket::memory)
                .ok_or_else(|| io::ErrorKind::NotConnected.into())
        }))
    }
}

impl Dialler for Network {
    fn connect(&self, address: SocketAddr) -> Connecting {
        let mut net = self.lock();
        let conn = net.dial(address);
        self.after(net);
        Box::pin(Dialling {
            end: Some(MeshEnd::new(self, conn)),
        })
    }
}
