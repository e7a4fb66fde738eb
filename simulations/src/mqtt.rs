//! A load generator for MQTT, and a sink: clients that each publish to a topic of their own and hear it
//! again, and a server that gives every message back to whom it came from.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use finback_mqtt::codec::{FixedHeader, Level, PacketType, write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Progress, Summary, Tally, share};
use crate::web;

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// A client that hears nothing for so long gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to send where.
#[derive(Clone, Copy, Debug)]
pub struct MqttLoad {
    /// The server.
    pub target: SocketAddr,
    /// Clients.
    pub connections: usize,
    /// Messages of each on their way at a time.
    pub in_flight: usize,
    /// Quality of service: 0 or 1.
    pub qos: u8,
    /// Messages in all.
    pub count: u64,
    /// Bytes of a payload.
    pub size: usize,
    /// Whether messages are heard again; else they are counted as they are acknowledged.
    pub heard: bool,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A client that is connected; CONNECT names `id`.
async fn connect(target: SocketAddr, id: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    greet(&mut stream, id).await?;
    Ok(stream)
}

async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), id: &str) -> io::Result<()> {
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    body.extend_from_slice(&u16::try_from(id.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(id.as_bytes());
    stream.write_all(&write::packet(0x10, &body)).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer != CONNACK {
        return Err(invalid("the server does not accept the session"));
    }
    Ok(())
}

/// Runs a load to its end.
///
/// # Errors
/// If a connection cannot be made or breaks, or a message does not come back.
pub async fn run(load: &MqttLoad, progress: &Arc<Progress>) -> io::Result<Summary> {
    let all = Arc::new(Mutex::new(Tally::default()));
    let mut clients = Vec::new();
    for number in 0..load.connections {
        clients.push(Client::connect(*load, number).await?);
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let share = share(load.count, load.connections as u64, number as u64);
        let (all, progress) = (all.clone(), progress.clone());
        tasks.spawn(async move {
            client.run(share, &progress).await?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.join(&client.tally);
            Ok::<_, io::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(all.summary(began.elapsed()))
}

/// A client that is held open.
pub struct Held {
    _stream: Box<dyn Send>,
}

/// Opens clients and keeps them; each has been answered once. `certificate` is the one that the
/// server shows, if it speaks TLS.
///
/// # Errors
/// If one is not accepted.
pub async fn hold(
    target: SocketAddr,
    connections: usize,
    certificate: Option<&Path>,
) -> anyhow::Result<Vec<Held>> {
    let tls = certificate.map(web::trusting).transpose()?;
    let mut held = Vec::with_capacity(connections);
    for number in 0..connections {
        let id = format!("idle-{number}");
        let _stream: Box<dyn Send> = match &tls {
            None => Box::new(connect(target, &id).await?),
            Some(tls) => {
                let stream = TcpStream::connect(target).await?;
                let mut stream = tls.connect(target.ip().into(), stream).await?;
                greet(&mut stream, &id).await?;
                Box::new(stream)
            }
        };
        held.push(Held { _stream });
    }
    Ok(held)
}

struct Client {
    load: MqttLoad,
    stream: TcpStream,
    message: Vec<u8>,
    /// Where in it the packet identifier is.
    id_at: usize,
    next_id: u16,
    begun: VecDeque<Instant>,
    tally: Tally,
}

impl Client {
    async fn connect(load: MqttLoad, number: usize) -> io::Result<Self> {
        let name = format!("load-{}-{number}", std::process::id());
        let mut stream = connect(load.target, &name).await?;
        let topic = format!("load/{name}");
        if load.heard {
            let filter = [(topic.as_str().into(), Some(load.qos))];
            let subscribe = write::subscription(0x82, Level::V311, 1, &[], filter.into_iter());
            stream.write_all(&subscribe).await?;
            stream.read_exact(&mut [0; 5]).await?;
        }
        let id = (load.qos > 0).then_some(1);
        let first = 0x30 | load.qos << 1;
        let mut message = write::publish_head(first, Level::V311, &topic, id, &[], load.size);
        let id_at = message.len().saturating_sub(2);
        message.resize(message.len() + load.size, b'.');
        Ok(Self {
            load,
            stream,
            message,
            id_at,
            next_id: 1,
            begun: VecDeque::new(),
            tally: Tally::default(),
        })
    }

    fn publish(&mut self, out: &mut Vec<u8>) {
        if self.load.qos > 0 {
            let id = self.next_id.to_be_bytes();
            self.message[self.id_at..self.id_at + 2].copy_from_slice(&id);
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        out.extend_from_slice(&self.message);
        self.begun.push_back(Instant::now());
    }

    async fn run(&mut self, count: u64, progress: &Progress) -> io::Result<()> {
        let (mut sent, mut heard, mut acknowledged) = (0, 0, 0);
        let mut received = BytesMut::with_capacity(64 * 1024);
        let mut out = Vec::new();
        while sent < count && sent < self.load.in_flight as u64 {
            self.publish(&mut out);
            sent += 1;
        }
        loop {
            self.stream.write_all(&out).await?;
            out.clear();
            let all_acknowledged = self.load.qos == 0 || acknowledged == count;
            if all_acknowledged && (heard == count || !self.load.heard) {
                return Ok(());
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut received));
            if read.await?? == 0 {
                return Err(invalid("the server has gone away"));
            }
            let fault = |_| invalid("the server sends what is not a packet");
            while let Some(head) =
                FixedHeader::read(&received, Level::V311, usize::MAX).map_err(fault)?
            {
                if received.len() < head.packet() {
                    break;
                }
                let packet = received.split_to(head.packet());
                let complete = match head.kind {
                    PacketType::Publish => {
                        heard += 1;
                        if head.qos() == 1 {
                            let mut body = &packet[head.header..];
                            let topic = body.get_u16();
                            body.advance(topic.into());
                            out.extend_from_slice(&[0x40, 2, body[0], body[1]]);
                        }
                        true
                    }
                    PacketType::Puback => {
                        acknowledged += 1;
                        !self.load.heard
                    }
                    _ => false,
                };
                if complete {
                    let began = self.begun.pop_front();
                    let began = began.ok_or(invalid("a message comes twice"))?;
                    self.tally.add(began.elapsed(), true, progress);
                    if sent < count {
                        self.publish(&mut out);
                        sent += 1;
                    }
                }
            }
        }
    }
}

/// Serves as a sink until dropped.
///
/// # Errors
/// If the listener breaks.
pub async fn sink(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that goes away is the ordinary end of a connection.
            let _ = swallow(stream).await;
        });
    }
}

async fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut received = BytesMut::with_capacity(64 * 1024);
    let mut out = Vec::new();
    while stream.read_buf(&mut received).await? > 0 {
        let fault = |_| invalid("the client sends what is not a packet");
        while let Some(head) =
            FixedHeader::read(&received, Level::V311, usize::MAX).map_err(fault)?
        {
            if received.len() < head.packet() {
                break;
            }
            let packet = received.split_to(head.packet());
            let body = &packet[head.header..];
            match head.kind {
                PacketType::Connect => out.extend_from_slice(&CONNACK),
                PacketType::Subscribe => out.extend_from_slice(&[0x90, 3, body[0], body[1], 1]),
                PacketType::Pingreq => out.extend_from_slice(&[0xd0, 0]),
                PacketType::Publish => {
                    if head.qos() > 0 {
                        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                        out.extend_from_slice(&[0x40, 2, body[2 + topic], body[3 + topic]]);
                    }
                    out.extend_from_slice(&packet);
                }
                PacketType::Disconnect => return Ok(()),
                _ => {}
            }
        }
        stream.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}
