//! The connection to a token server of Sentinel: frames with a length of two bytes, questions told apart by numbers, answers in any
//! order.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::dial::{Socket, dial};
use super::server::{DIAL, PAUSE, SILENCE, Settings, Trouble, failed};

/// Kinds of requests.
pub(super) const PING: u8 = 0;
pub(super) const FLOW: u8 = 1;
pub(super) const PARAM_FLOW: u8 = 2;
/// Questions between a worker and the connection.
const QUEUE: usize = 256;

/// A question: its kind and what it says.
struct Asking {
    said: Bytes,
    answer: oneshot::Sender<Bytes>,
}

/// A connection that is made, or being made; made to its end though nobody waits for it any more.
type Dialling = Shared<BoxFuture<'static, Result<Sender<Asking>, Trouble>>>;

/// The one connection to a token server.
pub(super) struct Link {
    settings: Settings,
    namespace: String,
    current: Mutex<Option<(Instant, Dialling)>>,
}

impl Link {
    pub(super) fn new(settings: Settings, namespace: String) -> Self {
        Self {
            settings,
            namespace,
            current: Mutex::default(),
        }
    }

    /// The connection that there is, or another one where it is no good.
    fn connection(&self) -> Dialling {
        let current = &mut *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((begun, dialling)) = current {
            let is_good = match dialling.peek() {
                None => true,
                Some(Ok(sender)) => !sender.is_closed(),
                Some(Err(_)) => begun.elapsed() < PAUSE,
            };
            if is_good {
                return dialling.clone();
            }
        }
        let (settings, namespace) = (self.settings.clone(), self.namespace.clone());
        let made = tokio::spawn(async move {
            let made = timeout(DIAL, connect(&settings, &namespace)).await;
            made.unwrap_or_else(|_| Err(failed("cannot connect in time")))
        });
        let made = made.map(|made| made.unwrap_or_else(|_| Err(failed("the process stops"))));
        let dialling = made.boxed().shared();
        *current = Some((Instant::now(), dialling.clone()));
        dialling
    }

    /// Asks, and gives what follows the number of the answer. A question that was not sent, because the connection had ended, is
    /// sent once more.
    pub(super) async fn call(&self, said: &Bytes) -> Result<Bytes, Trouble> {
        for _ in 0..2 {
            let sender = self.connection().await?;
            let (answer, told) = oneshot::channel();
            let asking = Asking {
                said: said.clone(),
                answer,
            };
            if sender.send(asking).await.is_ok() {
                return told.await.map_err(|_| failed("the connection ended"));
            }
        }
        Err(failed("the connection ended"))
    }
}

/// Connects, and says for whom it asks: a server knows how many there are of a namespace.
async fn connect(settings: &Settings, namespace: &str) -> Result<Sender<Asking>, Trouble> {
    let address = (settings.host.as_str(), settings.port);
    let socket = dial(address, None, b"").await.map_err(failed)?;
    let (sender, asked) = channel(QUEUE);
    tokio::spawn(carry(socket, asked));
    let mut said = BytesMut::new();
    said.put_u8(PING);
    said.put_u32(u32::try_from(namespace.len()).unwrap_or(u32::MAX));
    said.put_slice(namespace.as_bytes());
    let (answer, told) = oneshot::channel();
    let asking = Asking {
        said: said.freeze(),
        answer,
    };
    // The connection reads as long as it has a sender.
    let _ = sender.send(asking).await;
    match told.await {
        Ok(_) => Ok(sender),
        Err(_) => Err(failed("it closes the connection")),
    }
}

/// Carries questions and answers until the connection ends, or nobody asks any more. One that is silent while questions are open is
/// given up.
async fn carry(mut socket: Box<dyn Socket>, mut asked: Receiver<Asking>) {
    let mut open: HashMap<u32, oneshot::Sender<Bytes>> = HashMap::new();
    let (mut last, mut heard) = (0_u32, Instant::now());
    let mut read = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            got = socket.read_buf(&mut read) => {
                if !matches!(got, Ok(1..)) {
                    return;
                }
                heard = Instant::now();
                while let Some((number, answer)) = answer(&mut read) {
                    if let Some(tell) = open.remove(&number) {
                        // Nobody waits for it any more.
                        let _ = tell.send(answer);
                    }
                }
            }
            asking = asked.recv() => {
                let Some(Asking { said, answer }) = asking else { return };
                if open.is_empty() {
                    heard = Instant::now();
                }
                if open.len() >= QUEUE {
                    open.retain(|_, own| !own.is_closed());
                }
                last = last.wrapping_add(1);
                open.insert(last, answer);
                let Some(frame) = question(last, &said) else { return };
                if !matches!(timeout(SILENCE, socket.write_all(&frame)).await, Ok(Ok(()))) {
                    return;
                }
            }
            () = tokio::time::sleep_until(heard + SILENCE), if !open.is_empty() => {
                open.retain(|_, own| !own.is_closed());
                if heard.elapsed() >= SILENCE {
                    return;
                }
            }
        }
    }
}

/// A question as it is framed.
fn question(number: u32, said: &Bytes) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(6 + said.len());
    frame.put_u16(u16::try_from(4 + said.len()).ok()?);
    frame.put_u32(number);
    frame.put_slice(said);
    Some(frame.freeze())
}

/// The number of the next answer, and what follows it; `None` if bytes are missing.
fn answer(read: &mut BytesMut) -> Option<(u32, Bytes)> {
    let length = usize::from(u16::from_be_bytes(read.get(..2)?.try_into().ok()?));
    if read.len() < 2 + length {
        return None;
    }
    read.advance(2);
    let mut frame = read.split_to(length).freeze();
    if frame.len() < 4 {
        // Of nobody's question.
        return Some((0, Bytes::new()));
    }
    let number = frame.get_u32();
    Some((number, frame))
}

/// What asks for a token by the rule of this number; with values, for one of each of them.
pub(super) fn flow(rule: i64, count: u32, values: Option<&[String]>, prioritized: bool) -> Bytes {
    let mut said = BytesMut::new();
    said.put_u8(if values.is_some() { PARAM_FLOW } else { FLOW });
    said.put_i64(rule);
    said.put_u32(count);
    let Some(values) = values else {
        said.put_u8(prioritized.into());
        return said.freeze();
    };
    said.put_u32(u32::try_from(values.len()).unwrap_or(u32::MAX));
    for value in values {
        // A text.
        said.put_u8(7);
        said.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        said.put_slice(value.as_bytes());
    }
    said.freeze()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use tokio::net::TcpListener;

    use super::super::server::Speech;
    use super::*;

    #[test]
    fn questions_are_framed_as_sentinels_client_frames_them() {
        let said = flow(101, 1, None, false);
        let frame = question(7, &said).unwrap();
        assert_eq!(
            frame[..],
            [
                0, 18, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0, 1, 0
            ]
        );
        let said = flow(2, 3, Some(&["ab".to_owned()]), true);
        assert_eq!(
            said[..],
            [
                2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 7, 0, 0, 0, 2, b'a', b'b'
            ]
        );
    }

    #[tokio::test]
    async fn a_server_is_told_first_for_whom_tokens_are_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            filter: "tokens".into(),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            speaks: Speech::Tokens {
                namespace: "mesh".to_owned(),
            },
            tls: None,
            timeout: DIAL,
            in_flight: 1,
        };
        let link = Link::new(settings, "mesh".to_owned());
        let said = flow(101, 1, None, false);
        let server = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut hello = [0; 15];
            socket.read_exact(&mut hello).await.unwrap();
            assert_eq!(hello[..6], [0, 13, 0, 0, 0, 1], "its length and number");
            assert_eq!(hello[6..], *b"\0\0\0\0\x04mesh", "a PING");
            socket.write_all(&[0, 6, 0, 0, 0, 1, 0, 0]).await.unwrap();
            let mut asked = [0; 20];
            socket.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked[6..], said[..], "the question comes after it");
            socket.write_all(&[0, 6, 0, 0, 0, 2, 1, 0]).await.unwrap();
            socket
        };
        let (told, _socket) = tokio::join!(link.call(&said), server);
        assert_eq!(told.unwrap()[..], [1, 0]);
    }

    #[test]
    fn answers_are_told_apart_however_they_are_cut() {
        let wire = [0, 6, 0, 0, 0, 9, 1, 0, 0, 2, 0, 1, 0, 4, 0, 0, 0, 8];
        let mut read = BytesMut::new();
        let mut all = Vec::new();
        for byte in wire {
            read.put_u8(byte);
            all.extend(answer(&mut read));
        }
        let expected = [(9, &[1, 0][..]), (0, &[]), (8, &[])];
        let expected = expected.map(|(number, own)| (number, Bytes::copy_from_slice(own)));
        assert_eq!(all, expected);
    }
}
