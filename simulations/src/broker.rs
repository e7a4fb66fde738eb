//! A small broker of MQTT 3.1, 3.1.1 and 5 that forgets everything when it ends. For demos and
//! tests only: it knows no users, and looks at every session for every message.

mod link;
mod message;
mod session;
mod state;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use finback_mqtt::Reason;
use finback_mqtt::codec::{Connect, Fault, FixedHeader, Level, Opening, PacketType, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};

use state::{State, Who};

/// A client has this long to say CONNECT.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the last word, what a client still says is read for so long.
const LINGER: Duration = Duration::from_secs(1);
/// Between two looks at what has expired.
const TICK: Duration = Duration::from_millis(100);

/// What a broker grants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Messages of quality of service 1 and 2 that a client of MQTT 5 may have on their way.
    pub receive_maximum: u16,
    /// Topic aliases that a client may use.
    pub topic_aliases: u16,
    /// Seconds of silence that a client of MQTT 5 may ask for; none = any.
    pub keep_alive: Option<u16>,
    /// The longest packet in bytes.
    pub packet: usize,
    /// Topic filters that nobody may subscribe to.
    pub refused: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            receive_maximum: 100,
            topic_aliases: 10,
            keep_alive: None,
            packet: 1024 * 1024,
            refused: Vec::new(),
        }
    }
}

/// A broker; it may serve several listeners.
pub struct Broker {
    state: Mutex<State>,
    options: Options,
}

/// How a session's connection came to its end.
enum End {
    /// With a DISCONNECT.
    Said,
    /// The client went away, or was silent for too long.
    Lost,
    /// The client said what it may not say.
    Fault(Fault),
}

impl Broker {
    /// One that nobody is connected to.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(options.clone())),
            options,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// If the listener breaks.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    let own = self.clone();
                    tokio::spawn(async move {
                        // A client that goes away is the ordinary end of a connection.
                        let _ = own.attend(stream).await;
                    });
                }
                _ = tick.tick() => self.state().tick(Instant::now()),
            }
        }
    }

    async fn attend(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut received = BytesMut::new();
        let first = tokio::time::timeout(PATIENCE, async {
            read(&mut stream, &mut received, Level::V5, self.options.packet).await
        });
        let Ok((head, packet)) = first.await? else {
            return Ok(());
        };
        if head.kind != PacketType::Connect {
            return Ok(());
        }
        let connect = match Opening::read(&packet[head.header..]) {
            Ok(Opening::Connect(connect)) => connect,
            Ok(Opening::Unsupported { level }) => {
                let level = if level >= 5 { Level::V5 } else { Level::V311 };
                let refusal = write::connack(level, Reason::UNSUPPORTED_LEVEL, "", None);
                return stream.write_all(&refusal).await;
            }
            Err((Some(level), fault)) if level.is_5() => {
                let refusal = write::connack(level, fault.reason, fault.why, None);
                return stream.write_all(&refusal).await;
            }
            Err(_) => return Ok(()),
        };
        let (mut reader, writer) = stream.into_split();
        let (link, outbox) = link::open(&connect);
        let writing = tokio::spawn(outbox.write(writer));
        // A refusal is written by the link, as everything else.
        let welcome = self.state().connect(&connect, link);
        if let Some((who, ended)) = welcome {
            tokio::select! {
                end = self.listen(&who, &connect, &mut reader, received) => {
                    self.state().end(&who, end);
                }
                // Another connection took the session over.
                _ = ended => {}
            }
        }
        let _ = writing.await;
        // A client that still writes would lose what it was told last.
        let mut rest = [0; 4096];
        let _ = tokio::time::timeout(LINGER, async {
            while reader.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        })
        .await;
        Ok(())
    }

    /// Hears a client until its connection ends.
    async fn listen(
        &self,
        who: &Who,
        connect: &Connect<'_>,
        reader: &mut OwnedReadHalf,
        mut received: BytesMut,
    ) -> End {
        let asked = connect.keep_alive;
        let silence = match self.options.keep_alive {
            Some(most) if who.level.is_5() && (asked == 0 || asked > most) => most,
            _ => asked,
        };
        // One and a half times as long (MQTT 5, section 3.1.2.10).
        let silence = match silence {
            0 => Duration::MAX,
            seconds => Duration::from_millis(u64::from(seconds) * 1500),
        };
        loop {
            let packet = read(reader, &mut received, who.level, self.options.packet);
            let (head, packet) = match tokio::time::timeout(silence, packet).await {
                Ok(Ok(packet)) => packet,
                Ok(Err(Broken::Fault(fault))) => return End::Fault(fault),
                Ok(Err(Broken::Io)) => return End::Lost,
                Err(_) => {
                    return End::Fault(Fault {
                        reason: Reason::KEEP_ALIVE_TIMEOUT,
                        why: "silent for too long",
                    });
                }
            };
            match self.state().hear(who, &head, &packet) {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(fault) => return End::Fault(fault),
            }
        }
    }
}

/// Why there is no packet.
enum Broken {
    Io,
    Fault(Fault),
}

/// Reads a whole packet.
async fn read(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    received: &mut BytesMut,
    level: Level,
    limit: usize,
) -> Result<(FixedHeader, BytesMut), Broken> {
    loop {
        let head = FixedHeader::read(received, level, limit).map_err(Broken::Fault)?;
        if let Some(head) = head.filter(|head| received.len() >= head.packet()) {
            return Ok((head, received.split_to(head.packet())));
        }
        match from.read_buf(received).await {
            Ok(0) | Err(_) => return Err(Broken::Io),
            Ok(_) => {}
        }
    }
}
