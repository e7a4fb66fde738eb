//! Properties of MQTT 5 (MQTT 5, section 2.2.2).

use super::Side;
use super::reader::{Fault, Reader};

/// Where properties may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyPlace {
    /// CONNECT.
    Connect,
    /// The will in CONNECT.
    Will,
    /// CONNACK.
    Connack,
    /// PUBLISH.
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    Ack,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// DISCONNECT.
    Disconnect,
    /// AUTH.
    Auth,
}

impl PropertyPlace {
    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Identifiers of properties.
pub mod id {
    #![allow(missing_docs, reason = "they are called as in the standard")]
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET: u8 = 0x27;
    pub const WILDCARDS_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

#[derive(Clone, Copy)]
enum Form {
    /// 0 or 1.
    Switch,
    /// 0 or 1; brokers are about that say 2 for no bound.
    Quality,
    U16,
    /// Not 0.
    Positive16,
    U32,
    /// Not 0.
    Positive32,
    /// A variable byte integer, not 0.
    Variable,
    Text,
    Binary,
    Pair,
}

/// The form of a property, and where it may stand; `None` if there is none of that identifier.
const fn known(id: u8) -> Option<(Form, u16)> {
    use PropertyPlace::{
        Ack, Auth, Connack, Connect, Disconnect, Publish, Subscribe, Unsubscribe, Will,
    };
    let message = Publish.bit() | Will.bit();
    let authentication = Connect.bit() | Connack.bit() | Auth.bit();
    let both = Connect.bit() | Connack.bit();
    Some(match id {
        id::PAYLOAD_FORMAT => (Form::Switch, message),
        id::MESSAGE_EXPIRY => (Form::U32, message),
        id::CONTENT_TYPE | id::RESPONSE_TOPIC => (Form::Text, message),
        id::CORRELATION_DATA => (Form::Binary, message),
        id::SUBSCRIPTION_ID => (Form::Variable, Publish.bit() | Subscribe.bit()),
        id::SESSION_EXPIRY => (Form::U32, both | Disconnect.bit()),
        id::ASSIGNED_CLIENT_ID | id::RESPONSE_INFORMATION => (Form::Text, Connack.bit()),
        id::SERVER_KEEP_ALIVE => (Form::U16, Connack.bit()),
        id::AUTHENTICATION_METHOD => (Form::Text, authentication),
        id::AUTHENTICATION_DATA => (Form::Binary, authentication),
        id::REQUEST_PROBLEM | id::REQUEST_RESPONSE => (Form::Switch, Connect.bit()),
        id::WILL_DELAY => (Form::U32, Will.bit()),
        id::SERVER_REFERENCE => (Form::Text, Connack.bit() | Disconnect.bit()),
        id::REASON_STRING => (
            Form::Text,
            Connack.bit() | Ack.bit() | Disconnect.bit() | Auth.bit(),
        ),
        id::RECEIVE_MAXIMUM => (Form::Positive16, both),
        id::TOPIC_ALIAS_MAXIMUM => (Form::U16, both),
        id::TOPIC_ALIAS => (Form::Positive16, Publish.bit()),
        id::MAXIMUM_QOS => (Form::Quality, Connack.bit()),
        id::RETAIN_AVAILABLE
        | id::WILDCARDS_AVAILABLE
        | id::SUBSCRIPTION_IDS_AVAILABLE
        | id::SHARED_AVAILABLE => (Form::Switch, Connack.bit()),
        id::USER_PROPERTY => (
            Form::Pair,
            message
                | authentication
                | Ack.bit()
                | Subscribe.bit()
                | Unsubscribe.bit()
                | Disconnect.bit(),
        ),
        id::MAXIMUM_PACKET => (Form::Positive32, both),
        _ => return None,
    })
}

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Of a number.
    Number(u32),
    /// Of a text.
    Text(&'a str),
    /// Of bytes.
    Binary(&'a [u8]),
    /// Of a user property: name and value.
    Pair(&'a str, &'a str),
}

/// User properties of one packet, at most.
pub const MAX_USER_PROPERTIES: usize = 32;
/// Bytes of names and values of one packet's user properties, at most.
pub const MAX_USER_PROPERTY_BYTES: usize = 8 * 1024;

/// Properties that have been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// Reads a client's length and properties, and checks all of them; there are bounds on how many.
    pub(crate) fn read(reader: &mut Reader<'a>, place: PropertyPlace) -> Result<Self, Fault> {
        Self::read_from(reader, place, Side::Client)
    }

    /// The same of either side. Servers are not bounded: their clients have asked for what they say.
    pub(crate) fn read_from(
        reader: &mut Reader<'a>,
        place: PropertyPlace,
        from: Side,
    ) -> Result<Self, Fault> {
        let length = reader.variable()? as usize;
        let bytes = reader.take(length)?;
        if !bytes.is_empty() {
            check(bytes, place, from)?;
        }
        Ok(Self(bytes))
    }

    /// Of bytes that were checked before.
    pub(crate) fn trusted(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What was written.
    #[must_use]
    pub fn of(writer: &'a Writer) -> Self {
        Self(writer.bytes())
    }

    /// Their bytes, without the length before them.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Identifiers and values, in order.
    pub fn iter(self) -> impl Iterator<Item = (u8, Value<'a>)> {
        self.pieces().map(|(id, value, _)| (id, value))
    }

    /// The same, each with its own bytes.
    pub fn pieces(self) -> impl Iterator<Item = (u8, Value<'a>, &'a [u8])> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let rest = reader.rest();
            if rest.is_empty() {
                return None;
            }
            let (id, value) = property(&mut reader).ok()?;
            let piece = &rest[..rest.len() - reader.rest().len()];
            Some((id, value, piece))
        })
    }

    /// The number of the first property of this identifier.
    #[must_use]
    pub fn number(self, id: u8) -> Option<u32> {
        self.iter().find_map(|(own, value)| match value {
            Value::Number(number) if own == id => Some(number),
            _ => None,
        })
    }

    /// The text of the first property of this identifier.
    #[must_use]
    pub fn text(self, id: u8) -> Option<&'a str> {
        self.iter().find_map(|(own, value)| match value {
            Value::Text(text) if own == id => Some(text),
            _ => None,
        })
    }

    /// The bytes of the first property of this identifier.
    #[must_use]
    pub fn binary(self, id: u8) -> Option<&'a [u8]> {
        self.iter().find_map(|(own, value)| match value {
            Value::Binary(bytes) if own == id => Some(bytes),
            _ => None,
        })
    }

    /// All user properties, in order.
    pub fn users(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(|(_, value)| match value {
            Value::Pair(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The first user property of this name.
    #[must_use]
    pub fn user(self, name: &str) -> Option<&'a str> {
        self.iter().find_map(|(_, value)| match value {
            Value::Pair(own, value) if own == name => Some(value),
            _ => None,
        })
    }
}

fn property<'a>(reader: &mut Reader<'a>) -> Result<(u8, Value<'a>), Fault> {
    // Identifiers are variable byte integers, but none is above 127.
    let id = reader.byte()?;
    // MQTT 5, section 2.2.2.2.
    let (form, _) = known(id).ok_or(Fault::malformed("there is no such property"))?;
    let value = match form {
        Form::Switch | Form::Quality => Value::Number(reader.byte()?.into()),
        Form::U16 | Form::Positive16 => Value::Number(reader.u16()?.into()),
        Form::U32 | Form::Positive32 => Value::Number(reader.u32()?),
        Form::Variable => Value::Number(reader.variable()?),
        Form::Text => Value::Text(reader.text()?),
        Form::Binary => Value::Binary(reader.binary()?),
        Form::Pair => Value::Pair(reader.text()?, reader.text()?),
    };
    let sound = match (form, value) {
        (Form::Switch, Value::Number(number)) => number < 2,
        (Form::Quality, Value::Number(number)) => number < 3,
        (Form::Positive16 | Form::Positive32 | Form::Variable, Value::Number(number)) => number > 0,
        _ => true,
    };
    if sound {
        return Ok((id, value));
    }
    // MQTT 5, section 3.3.2.3.4: an alias of 0 has a reason of its own.
    if id == id::TOPIC_ALIAS {
        return Err(super::BAD_ALIAS);
    }
    let why = "a property has a value that it may not have";
    Err(Fault::protocol(why))
}

fn check(bytes: &[u8], place: PropertyPlace, from: Side) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    let mut seen = 0_u64;
    let (mut users, mut user_bytes) = (0, 0);
    while !reader.rest().is_empty() {
        let (id, value) = property(&mut reader)?;
        // MQTT 5, section 2.2.2.2 has which property may stand where.
        let allowed = known(id).is_some_and(|(_, places)| places & place.bit() != 0);
        if !allowed {
            return Err(Fault::protocol("a property stands where it may not"));
        }
        if let Value::Pair(name, value) = value {
            users += 1;
            user_bytes += name.len() + value.len();
            let too_many = users > MAX_USER_PROPERTIES || user_bytes > MAX_USER_PROPERTY_BYTES;
            if too_many && from == Side::Client {
                return Err(Fault::quota("too many user properties"));
            }
            continue;
        }
        // MQTT 5, section 3.3.2.3.8: a message may be for several subscriptions.
        let repeatable = id == id::SUBSCRIPTION_ID && place == PropertyPlace::Publish;
        if seen & 1 << id != 0 && !repeatable {
            return Err(Fault::protocol("a property stands twice"));
        }
        seen |= 1 << id;
    }
    Ok(())
}

/// Writes properties.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Adds a property as it was read.
    pub fn raw(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// Adds a property of a number.
    pub fn number(&mut self, id: u8, value: u32) {
        let bytes = value.to_be_bytes();
        self.0.push(id);
        match known(id) {
            Some((Form::Switch | Form::Quality, _)) => self.0.push(bytes[3]),
            Some((Form::U16 | Form::Positive16, _)) => self.0.extend_from_slice(&bytes[2..]),
            Some((Form::Variable, _)) => super::reader::put_variable(&mut self.0, value as usize),
            _ => self.0.extend_from_slice(&bytes),
        }
    }

    /// Adds a property of a text, cut off where it would be too long.
    pub fn text(&mut self, id: u8, value: &str) {
        self.0.push(id);
        super::reader::put_text(&mut self.0, value);
    }

    /// Adds a property of bytes, cut off where they would be too long.
    pub fn binary(&mut self, id: u8, value: &[u8]) {
        self.0.push(id);
        super::reader::put_binary(&mut self.0, value);
    }

    /// Adds a user property.
    pub fn user(&mut self, name: &str, value: &str) {
        self.text(id::USER_PROPERTY, name);
        super::reader::put_text(&mut self.0, value);
    }

    /// What was written, without a length before it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}
