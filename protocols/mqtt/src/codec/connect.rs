//! CONNECT (MQTT 5, section 3.1).

use std::borrow::Cow;

use super::properties::{Properties, PropertyPlace};
use super::reader::{Fault, Reader, put_binary, put_text, put_variable};
use super::{Level, PacketType};
use crate::reason::Reason;
use crate::topic;

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version of the protocol.
    pub level: Level,
    /// Set by a broker that connects to another as its bridge: the high bit of the level.
    pub bridge: bool,
    /// Whether an earlier session is to be forgotten (3.1.1: whether none is kept either).
    pub clean: bool,
    /// Seconds of silence at most; 0 = any.
    pub keep_alive: u16,
    /// Properties, as they are on the wire, without their length. Empty before MQTT 5.
    pub properties: Cow<'a, [u8]>,
    /// The client's identifier; "" has the server choose one.
    pub client_id: Cow<'a, str>,
    /// What is to be published if it goes away without a word.
    pub will: Option<Will<'a>>,
    /// Its user.
    pub username: Option<Cow<'a, str>>,
    /// Its password.
    pub password: Option<Cow<'a, [u8]>>,
}

/// What is to be published if a client goes away without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
    /// Properties, as they are on the wire, without their length.
    pub properties: Cow<'a, [u8]>,
    /// Where it is published.
    pub topic: Cow<'a, str>,
    /// What is published.
    pub payload: Cow<'a, [u8]>,
}

/// A first packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening<'a> {
    /// A CONNECT that can be understood.
    Connect(Connect<'a>),
    /// A CONNECT of a version that is not spoken here.
    Unsupported {
        /// Its level.
        level: u8,
    },
}

impl<'a> Opening<'a> {
    /// Reads what follows the fixed header of a CONNECT.
    ///
    /// # Errors
    /// If it is none. What it says cannot be answered then, for its version is not known.
    pub fn read(body: &'a [u8]) -> Result<Self, (Option<Level>, Fault)> {
        let mut reader = Reader::new(body);
        let name = reader.text().map_err(|fault| (None, fault))?;
        let byte = reader.byte().map_err(|fault| (None, fault))?;
        // MQTT 5, sections 3.1.2.1 and 3.1.2.2; MQTT 3.1.1, sections 3.1.2.1 and 3.1.2.2. Mosquitto marks bridges by the highest bit.
        let level = match (name, byte & 0x7f) {
            ("MQIsdp", 3) => Level::V31,
            ("MQTT", 4) => Level::V311,
            ("MQTT", 5) if byte == 5 => Level::V5,
            ("MQTT" | "MQIsdp", _) => return Ok(Self::Unsupported { level: byte }),
            _ => return Err((None, Fault::protocol("CONNECT names another protocol"))),
        };
        Connect::read(reader, level, byte & 0x80 != 0)
            .map(Self::Connect)
            .map_err(|fault| (Some(level), fault))
    }
}

impl<'a> Connect<'a> {
    fn read(mut reader: Reader<'a>, level: Level, bridge: bool) -> Result<Self, Fault> {
        let flags = reader.byte()?;
        // MQTT 5, section 3.1.2.3; MQTT 3.1.1, section 3.1.2.3.
        if flags & 1 != 0 && level != Level::V31 {
            return Err(Fault::malformed("a reserved flag of CONNECT is set"));
        }
        let (has_will, will_qos, will_retain) = (flags & 4 != 0, flags >> 3 & 3, flags & 32 != 0);
        // MQTT 5, sections 3.1.2.6 and 3.1.2.7.
        if will_qos == 3 || !has_will && (will_qos != 0 || will_retain) {
            return Err(Fault::malformed(
                "the flags of CONNECT contradict each other",
            ));
        }
        let (has_username, has_password) = (flags & 128 != 0, flags & 64 != 0);
        // MQTT 3.1.1, section 3.1.2.9. MQTT 5, section 3.1.2.9, has it.
        if has_password && !has_username && !level.is_5() {
            return Err(Fault::malformed("a password without a user name"));
        }
        let keep_alive = reader.u16()?;
        // MQTT 5, section 3.1.2.11.10: data without its method.
        let properties = read_properties(&mut reader, level, PropertyPlace::Connect)?;
        if properties
            .binary(super::properties::id::AUTHENTICATION_DATA)
            .is_some()
            && properties
                .text(super::properties::id::AUTHENTICATION_METHOD)
                .is_none()
        {
            return Err(Fault::protocol("authentication data without its method"));
        }
        // MQTT 5, section 3.1.3: the order of what follows.
        let client_id = reader.text()?;
        let will = if has_will {
            let properties = read_properties(&mut reader, level, PropertyPlace::Will)?;
            let topic = reader.text()?;
            topic::check_name(topic, super::Side::Client)?;
            Some(Will {
                qos: will_qos,
                retain: will_retain,
                properties: properties.bytes().into(),
                topic: topic.into(),
                payload: reader.binary()?.into(),
            })
        } else {
            None
        };
        let username = has_username.then(|| reader.text()).transpose()?;
        let password = has_password.then(|| reader.binary()).transpose()?;
        reader.end()?;
        Ok(Self {
            level,
            bridge,
            clean: flags & 2 != 0,
            keep_alive,
            properties: properties.bytes().into(),
            client_id: client_id.into(),
            will,
            username: username.map(Cow::Borrowed),
            password: password.map(Cow::Borrowed),
        })
    }

    /// Its properties, which were checked when it was read.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::trusted(&self.properties)
    }

    /// How its client authenticates itself in AUTH packets, if it does (MQTT 5, section 4.12).
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.properties()
            .text(super::properties::id::AUTHENTICATION_METHOD)
    }

    /// The whole packet.
    ///
    /// # Errors
    /// If a text of it is longer than its length can tell.
    pub fn write(&self) -> Result<Vec<u8>, Fault> {
        let will_topic = self.will.as_ref().map_or(0, |will| will.topic.len());
        let username = self.username.as_ref().map_or(0, |name| name.len());
        if [self.client_id.len(), will_topic, username]
            .iter()
            .any(|length| *length > usize::from(u16::MAX))
        {
            let why = "a text of CONNECT became too long";
            return Err(Fault::new(Reason::TOO_LARGE, why));
        }
        let mut body = Vec::with_capacity(64 + self.client_id.len());
        let (name, level) = match self.level {
            Level::V31 => ("MQIsdp", 3),
            Level::V311 => ("MQTT", 4),
            Level::V5 => ("MQTT", 5),
        };
        put_text(&mut body, name);
        body.push(level | u8::from(self.bridge) << 7);
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| 4 | will.qos << 3 | u8::from(will.retain) << 5);
        body.push(
            u8::from(self.clean) << 1
                | will
                | u8::from(self.password.is_some()) << 6
                | u8::from(self.username.is_some()) << 7,
        );
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        let properties = |body: &mut Vec<u8>, bytes: &[u8]| {
            if self.level.is_5() {
                put_variable(body, bytes.len());
                body.extend_from_slice(bytes);
            }
        };
        properties(&mut body, &self.properties);
        put_text(&mut body, &self.client_id);
        if let Some(will) = &self.will {
            properties(&mut body, &will.properties);
            put_text(&mut body, &will.topic);
            put_binary(&mut body, &will.payload);
        }
        if let Some(username) = &self.username {
            put_text(&mut body, username);
        }
        if let Some(password) = &self.password {
            put_binary(&mut body, password);
        }
        Ok(super::write::packet(
            PacketType::Connect.first_byte(),
            &body,
        ))
    }
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    level: Level,
    place: PropertyPlace,
) -> Result<Properties<'a>, Fault> {
    if level.is_5() {
        Properties::read(reader, place)
    } else {
        Ok(Properties::default())
    }
}
