//! A stand-in service: answers every call with its token, cheaply.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::speech::{Kind, Protocol, Speech, TOKEN, Template};
use crate::web;

/// What goes wrong on purpose.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Each batch of answers waits this long.
    pub delay: Duration,
    /// Accepts and reads, but says nothing.
    pub silent: bool,
    /// Resets a connection after so many calls; 0 never does.
    pub reset_after: u64,
}

/// Serves until dropped.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    protocol: impl Into<Protocol>,
    faults: Faults,
) -> io::Result<()> {
    let Some(speech) = protocol.into().framed() else {
        return web::serve(listener, faults).await;
    };
    let response = Arc::new(speech.response());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (response, faults) = (response.clone(), faults.clone());
        tokio::spawn(async move {
            // A client that goes away is the ordinary end of a connection.
            let _ = answer(stream, speech, &response, &faults).await;
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    speech: Speech,
    response: &Template,
    faults: &Faults,
) -> io::Result<()> {
    let mut received = Vec::with_capacity(64 * 1024);
    let mut out = Vec::new();
    let mut calls = 0;
    while stream.read_buf(&mut received).await? > 0 {
        let mut at = 0;
        while let Some((len, id, kind)) = speech.split(&received[at..]) {
            let frame = &received[at..at + len];
            match kind {
                Kind::Request => {
                    calls += 1;
                    if speech == Speech::Bytes {
                        out.extend_from_slice(frame);
                        at += len;
                        continue;
                    }
                    let token = speech.token(frame).copied().unwrap_or([b'?'; TOKEN]);
                    response.put(id, &token, &mut out);
                }
                Kind::Ping => speech.put_pong(frame, &mut out),
                Kind::Success | Kind::Failure | Kind::Other => {}
            }
            at += len;
        }
        received.drain(..at);
        if faults.reset_after > 0 && calls >= faults.reset_after {
            return stream.set_zero_linger();
        }
        if faults.silent {
            out.clear();
        }
        if !out.is_empty() {
            if !faults.delay.is_zero() {
                tokio::time::sleep(faults.delay).await;
            }
            stream.write_all(&out).await?;
            out.clear();
        }
    }
    Ok(())
}
