//! Health checks of brokers: CONNECT, answered by CONNACK.

use std::hash::{BuildHasher, Hasher, RandomState};

use bytes::BytesMut;
use finback_core::health::{Asking, Probe};
use finback_core::net::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::codec::{Connect, FixedHeader, Level, PacketType, write};
use crate::reason::Reason;

/// The longest answer to CONNECT that is read.
const MAX_CONNACK: usize = 64 * 1024;
/// Seconds after which the broker may forget a check that was broken off.
const KEEP_ALIVE: u16 = 10;

/// A broker is healthy if it answers CONNECT, be it that it does not know us: then it has looked. One that
/// accepts connections and hangs does not, and one that is "unavailable" says so.
pub struct MqttProbe {
    /// The client identifier; `None` for one of its own in each check.
    pub client_id: Option<String>,
    /// As whom to ask.
    pub username: Option<String>,
    /// With `username`.
    pub password: Option<Vec<u8>>,
}

impl MqttProbe {
    /// A clean session of MQTT 3.1.1, which every broker understands.
    fn connect(&self) -> Result<Vec<u8>, String> {
        // As many letters and digits as every broker takes (MQTT 3.1.1, section 3.1.3.1).
        let drawn = || format!("finback{:016x}", RandomState::new().build_hasher().finish());
        let connect = Connect {
            level: Level::V311,
            bridge: false,
            clean: true,
            keep_alive: KEEP_ALIVE,
            properties: Vec::new().into(),
            client_id: self.client_id.clone().unwrap_or_else(drawn).into(),
            will: None,
            username: self.username.clone().map(Into::into),
            password: self.password.clone().map(Into::into),
        };
        connect.write().map_err(|fault| fault.why.to_owned())
    }
}

impl Probe for MqttProbe {
    fn application(&self) -> Option<&'static [u8]> {
        Some(b"mqtt")
    }

    fn ask(&self, mut socket: Socket) -> Asking {
        let connect = self.connect();
        Box::pin(async move {
            let failed = |error: std::io::Error| error.to_string();
            socket.write_all(&connect?).await.map_err(failed)?;
            let mut heard = BytesMut::new();
            loop {
                if let Some(answer) = judge(&heard) {
                    answer?;
                    // Said, so that the broker need not wait for us; that it is read does not matter.
                    let goodbye = write::packet(PacketType::Disconnect.first_byte(), &[]);
                    let _ = socket.write_all(&goodbye).await;
                    let _ = socket.shutdown().await;
                    return Ok(());
                }
                if socket.read_buf(&mut heard).await.map_err(failed)? == 0 {
                    return Err("it closed the connection".to_owned());
                }
            }
        })
    }
}

/// What an answer tells; `None` if bytes are missing.
fn judge(bytes: &[u8]) -> Option<Result<(), String>> {
    let head = match FixedHeader::read(bytes, Level::V5, MAX_CONNACK) {
        Ok(Some(head)) => head,
        Ok(None) => return None,
        Err(fault) => return Some(Err(fault.why.to_owned())),
    };
    if head.kind != PacketType::Connack {
        return Some(Err("it answered CONNECT by another packet".to_owned()));
    }
    let code = *bytes.get(head.header + 1)?;
    // One that speaks MQTT 5 only says so in its own codes.
    let level = if code < 0x80 { Level::V311 } else { Level::V5 };
    let reason = Reason::of_connack(level, code);
    Some(match reason {
        Reason::SERVER_UNAVAILABLE | Reason::SERVER_BUSY | Reason::SHUTTING_DOWN => {
            Err(format!("it says \"{}\"", reason.name()))
        }
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_answer_shows_a_broker_well_but_that_it_cannot_serve() {
        for (answer, well) in [
            (&b"\x20\x02\0\0"[..], true),
            (b"\x20\x02\0\x01", true),
            (b"\x20\x02\0\x03", false),
            (b"\x20\x02\0\x04", true),
            (b"\x20\x02\0\x05", true),
            (b"\x20\x03\0\x84\0", true),
            (b"\x20\x03\0\x88\0", false),
            (b"\xd0\0", false),
            (b"HTTP/1.1 400", false),
        ] {
            let found = judge(answer).map(|own| own.is_ok());
            assert_eq!(found, Some(well), "{answer:x?}");
        }
        assert!(judge(b"\x20\x02\0").is_none());
    }
}
