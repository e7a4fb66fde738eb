//! A client of MQTT made of bytes: every packet is seen, in the order in which it came.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::finback::Finback;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection, and the version that it speaks: 4 or 5.
pub(crate) struct Device {
    reader: TcpStream,
    writer: Arc<Mutex<TcpStream>>,
    level: u8,
}

/// What CONNECT says.
#[derive(Clone, Copy, Default)]
pub(crate) struct Login<'a> {
    pub(crate) level: u8,
    pub(crate) id: &'a str,
    pub(crate) clean: bool,
    /// Properties of MQTT 5, without their length.
    pub(crate) properties: &'a [u8],
    pub(crate) username: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&length, text.as_bytes()].concat()
}

/// A packet of this first byte and body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).unwrap();
        length /= 128;
        packet.push(byte | if length > 0 { 128 } else { 0 });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

impl Device {
    /// Connects to the listener `all`; the device, and CONNACK's body.
    pub(crate) fn connect(finback: &Finback, login: Login<'_>) -> (Self, Vec<u8>) {
        let stream = TcpStream::connect(finback.local("all")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut device = Self {
            writer: Arc::new(Mutex::new(stream.try_clone().unwrap())),
            reader: stream,
            level: login.level,
        };
        let flags = u8::from(login.clean) << 1
            | u8::from(login.username.is_some()) << 7
            | u8::from(login.password.is_some()) << 6;
        let mut body = text("MQTT");
        body.extend_from_slice(&[login.level, flags, 0, 0]);
        if login.level == 5 {
            body.push(u8::try_from(login.properties.len()).unwrap());
            body.extend_from_slice(login.properties);
        }
        body.extend(text(login.id));
        for own in [login.username, login.password].into_iter().flatten() {
            body.extend(text(own));
        }
        device.say(&packet(0x10, &body));
        let (first, connack) = device.hear().unwrap();
        assert_eq!(first, 0x20, "{connack:?}");
        (device, connack)
    }

    /// Writes whole packets.
    pub(crate) fn say(&self, bytes: &[u8]) {
        // One that has been thrown out is found out by reading.
        let _ = self.writer.lock().unwrap().write_all(bytes);
    }

    /// A PUBLISH.
    pub(crate) fn message(&self, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
        self.message_with(&[], qos, id, topic, payload)
    }

    /// The same with properties of MQTT 5.
    pub(crate) fn message_with(
        &self,
        properties: &[u8],
        qos: u8,
        id: u16,
        topic: &str,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut body = text(topic);
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if self.level == 5 {
            body.push(u8::try_from(properties.len()).unwrap());
            body.extend_from_slice(properties);
        }
        body.extend_from_slice(payload);
        packet(0x30 | qos << 1, &body)
    }

    /// The next packet's first byte and body; `None` at the end of the connection.
    pub(crate) fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        match self.reader.read(&mut first) {
            Ok(1) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing within {PATIENCE:?}")
            }
            _ => return None,
        }
        let (mut length, mut shift) = (0, 0);
        loop {
            let mut byte = [0];
            self.reader.read_exact(&mut byte).ok()?;
            length |= usize::from(byte[0] & 127) << shift;
            shift += 7;
            if byte[0] < 128 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).ok()?;
        Some((first[0], body))
    }

    /// Hears an acknowledgement: its kind, packet identifier and reason.
    pub(crate) fn answer(&mut self) -> Option<(u8, u16, u8)> {
        let (first, body) = self.hear()?;
        let id = u16::from_be_bytes([*body.first()?, *body.get(1)?]);
        Some((first >> 4, id, body.get(2).copied().unwrap_or(0)))
    }

    /// Publishes one message and waits for what it comes to: the reason in PUBACK or PUBREC, which
    /// is then released.
    pub(crate) fn publish(&mut self, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Option<u8> {
        self.say(&self.message(qos, id, topic, payload));
        let (kind, answered, reason) = self.answer()?;
        assert_eq!((kind, answered), (3 + qos, id));
        if qos == 2 && reason < 0x80 {
            self.release(id);
            assert_eq!(self.answer()?, (7, id, 0));
        }
        Some(reason)
    }

    /// Says PUBREL.
    pub(crate) fn release(&self, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.say(&[0x62, 2, high, low]);
    }

    /// Publishes all of these at once, numbered from 1, and hears the acknowledgements: the
    /// identifiers in order. Ends when all have come, or with the connection.
    pub(crate) fn publish_all(&mut self, qos: u8, messages: Vec<(String, Vec<u8>)>) -> Vec<u16> {
        let count = messages.len();
        let packets: Vec<Vec<u8>> = (1..)
            .zip(messages)
            .map(|(id, (topic, payload))| self.message(qos, id, &topic, &payload))
            .collect();
        let writer = self.writer.clone();
        let writing = std::thread::spawn(move || {
            for packet in packets {
                if writer.lock().unwrap().write_all(&packet).is_err() {
                    return;
                }
            }
        });
        let (mut acknowledged, mut completed) = (Vec::new(), 0);
        while qos > 0 && (acknowledged.len() < count || qos == 2 && completed < count) {
            let Some((kind, id, reason)) = self.answer() else {
                break;
            };
            assert_eq!(reason, 0, "of {id}");
            match kind {
                7 => completed += 1,
                _ => acknowledged.push(id),
            }
            if kind == 5 {
                self.release(id);
            }
        }
        writing.join().unwrap();
        acknowledged
    }
}
