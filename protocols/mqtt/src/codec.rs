//! Packets: views into bytes, nothing copied. Sections are those of MQTT 5 (OASIS Standard, 2019); what
//! 3.1.1 and 3.1 have otherwise is said where it matters.

mod check;
mod connect;
pub mod properties;
mod publish;
pub(crate) mod reader;
mod subscribe;
pub mod write;

pub(crate) use check::authentication_method;
pub use check::{Side, check, read_disconnect};
pub use connect::{Connect, Opening, Will};
pub use properties::Properties;
pub(crate) use publish::BAD_ALIAS;
pub use publish::Publish;
pub(crate) use publish::{Delivery, Unreadable};
pub use reader::Fault;
pub(crate) use reader::Reader;
pub use subscribe::{TopicFilter, TopicSubscription};

/// A version of the protocol, as CONNECT tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (level 4).
    V311,
    /// MQTT 5 (level 5).
    V5,
}

impl Level {
    /// What routes know it by: `3.1`, `3.1.1` or `5`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }

    /// Whether packets have properties and reason codes.
    #[must_use]
    pub fn is_5(self) -> bool {
        self == Self::V5
    }
}

/// What a packet is (MQTT 5, section 2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are called as in the standard")]
pub enum PacketType {
    Connect = 1,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Pingreq,
    Pingresp,
    Disconnect,
    Auth,
}

impl PacketType {
    fn of(nibble: u8) -> Option<Self> {
        Some(match nibble {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// Its first byte, without flags of its own.
    pub(crate) fn first_byte(self) -> u8 {
        let flags = match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 2,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// What the packet is.
    pub kind: PacketType,
    /// The low half of its first byte.
    pub flags: u8,
    /// Bytes of the fixed header: 2 to 5.
    pub header: usize,
    /// Bytes that follow it.
    pub body: usize,
}

impl FixedHeader {
    /// Reads a fixed header; `None` if bytes are missing.
    ///
    /// # Errors
    /// If no packet begins so in this version, or it is longer than `limit` bytes.
    pub fn read(bytes: &[u8], level: Level, limit: usize) -> Result<Option<Self>, Fault> {
        let Some((first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        // MQTT 5, section 2.1.2.
        let kind = PacketType::of(first >> 4).ok_or(Fault::malformed("there is no such packet"))?;
        let flags = first & 0x0f;
        check_flags(kind, flags, level)?;
        // MQTT 5, section 2.1.4: the remaining length.
        let Some((body, length)) = reader::variable(rest)? else {
            return Ok(None);
        };
        let head = Self {
            kind,
            flags,
            header: 1 + length,
            body: body as usize,
        };
        if head.packet() > limit {
            // MQTT 5, section 3.2.2.3.6, and MQTT 5, section 3.1.2.11.4 the other way.
            let why = "the packet is longer than the limit";
            return Err(Fault::new(crate::reason::Reason::TOO_LARGE, why));
        }
        Ok(Some(head))
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub fn packet(&self) -> usize {
        self.header + self.body
    }

    /// PUBLISH: its quality of service, 0 to 2.
    #[must_use]
    pub fn qos(&self) -> u8 {
        self.flags >> 1 & 3
    }

    /// PUBLISH: whether it is to be kept for later subscribers.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.flags & 1 != 0
    }

    /// PUBLISH: whether it may have been sent before.
    #[must_use]
    pub fn dup(&self) -> bool {
        self.flags & 8 != 0
    }
}

fn check_flags(kind: PacketType, flags: u8, level: Level) -> Result<(), Fault> {
    // MQTT 5, section 2.1.3: other flags make the packet malformed.
    let sound = match kind {
        PacketType::Publish => match flags >> 1 & 3 {
            // MQTT 5, section 3.3.1.2.
            3 => return Err(Fault::malformed("there is no quality of service 3")),
            // MQTT 5, section 3.3.1.1: what is sent once is never sent again.
            0 => flags & 8 == 0 || level == Level::V31,
            _ => true,
        },
        // MQTT 3.1 marked repetitions of these too.
        PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe
            if level == Level::V31 =>
        {
            flags & !8 == 2
        }
        PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => flags == 2,
        // MQTT 5, section 3.15.1.
        PacketType::Auth => level.is_5() && flags == 0,
        _ => flags == 0,
    };
    if sound {
        return Ok(());
    }
    Err(Fault::malformed(
        "the first byte has flags that it may not have",
    ))
}
