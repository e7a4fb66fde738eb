//! Both sides of HTTP/2, as frames that a test writes and reads by itself.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Mess, PATIENCE, Peer, Server};

/// One frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// HEADERS, each field a literal that enters no table.
pub(crate) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "{text}");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    frame(1, flags | 4, stream, &block)
}

/// The flag of the last frame of a message.
pub(crate) const END: u8 = 1;

/// A client of HTTP/2 that says these frames.
pub(crate) async fn http2(mess: &Mess, frames: &[u8]) -> Peer {
    let mut peer = Peer::connect(mess.address).await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let all = [&hello[..], &frame(4, 0, 0, b""), frames].concat();
    peer.0.write_all(&all).await.unwrap();
    peer
}

/// The next frame of a stream: its kind, its flags and its payload.
pub(crate) async fn next(peer: &mut Peer, stream: u32) -> (u8, u8, Vec<u8>) {
    let reading = async {
        loop {
            let mut head = [0; 9];
            peer.0.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            peer.0.read_exact(&mut payload).await.unwrap();
            let own = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if own == stream {
                return (head[3], head[4], payload);
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, reading).await;
    heard.expect("a frame in time")
}

/// An endpoint's connection of HTTP/2, on which so far nothing was asked.
pub(crate) async fn accept_http2(server: &Server) -> Peer {
    let mut upstream = server.accept().await;
    let mut hello = [0; 24];
    upstream.0.read_exact(&mut hello).await.unwrap();
    upstream.0.write_all(&frame(4, 0, 0, b"")).await.unwrap();
    upstream
}

/// HEADERS of stream 1 that say 200 and end it.
pub(crate) const OK: &[u8] = b"\0\0\x01\x01\x05\0\0\0\x01\x88";

/// An endpoint's end of a connection of HTTP/2.
pub(crate) struct Http2(Peer);

impl Http2 {
    pub(crate) async fn accept(server: &Server) -> Self {
        let mut peer = server.accept().await;
        let mut preface = [0; 24];
        peer.0.read_exact(&mut preface).await.unwrap();
        peer.0.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Self(peer)
    }

    pub(crate) async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        let reading = self.0.0.read_exact(&mut head);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.expect("a frame in time").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.0.read_exact(&mut payload).await.ok()?;
        let id = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some((head[3], head[4], id, payload))
    }

    /// The next request's stream, and its body.
    pub(crate) async fn request(&mut self) -> (u32, Vec<u8>) {
        let (mut stream, mut body) = (0, Vec::new());
        loop {
            let (kind, flags, id, payload) = self.frame().await.expect("a request");
            match kind {
                0 => body.extend(payload),
                1 => stream = id,
                _ => continue,
            }
            if flags & 1 == 1 {
                return (stream, body);
            }
        }
    }

    /// Reads a request's head, and maybe no more of it.
    pub(crate) async fn head(&mut self) -> u32 {
        loop {
            if let (1, _, id, _) = self.frame().await.expect("a request") {
                return id;
            }
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.0.write_all(bytes).await.unwrap();
    }

    /// RST_STREAM with REFUSED_STREAM.
    pub(crate) async fn refuse(&mut self, id: u32) {
        let mut bytes = b"\0\0\x04\x03\0".to_vec();
        bytes.extend(id.to_be_bytes());
        bytes.extend([0, 0, 0, 7]);
        self.write(&bytes).await;
    }

    /// GOAWAY that takes nothing.
    pub(crate) async fn go_away(&mut self) {
        self.write(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0").await;
    }
}
