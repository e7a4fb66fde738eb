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
