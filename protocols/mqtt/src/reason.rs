//! Reason codes (MQTT 5, section 2.4), and the older return codes of CONNACK (MQTT 3.1.1, table 3.1).

use finback_core::frame::Status;
use finback_core::rejection::Rejection;

use crate::codec::Level;
use crate::websocket::Close;

/// A reason code of MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

/// The name of a reason code.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    u8::try_from(code).ok().map(|code| Reason(code).name())
}

impl Reason {
    /// It went well.
    pub const SUCCESS: Self = Self(0x00);
    /// Accepted, though nobody has subscribed.
    pub const NO_SUBSCRIBERS: Self = Self(0x10);
    /// Nothing to unsubscribe from.
    pub const NO_SUBSCRIPTION: Self = Self(0x11);
    /// Refused for a reason that is not told.
    pub const UNSPECIFIED: Self = Self(0x80);
    /// Bytes that are no packet.
    pub const MALFORMED: Self = Self(0x81);
    /// A packet that may not stand where it does.
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    /// Valid, but not taken here.
    pub const IMPLEMENTATION: Self = Self(0x83);
    /// A level of the protocol that nobody here speaks.
    pub const UNSUPPORTED_LEVEL: Self = Self(0x84);
    /// A client identifier that is not taken.
    pub const BAD_CLIENT_ID: Self = Self(0x85);
    /// A user, password or token that is not good.
    pub const BAD_USER: Self = Self(0x86);
    /// Policy forbids it.
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    /// Nobody to serve it now.
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    /// Too much to do.
    pub const SERVER_BUSY: Self = Self(0x89);
    /// We are going away.
    pub const SHUTTING_DOWN: Self = Self(0x8b);
    /// A way of authenticating that nobody here knows.
    pub const BAD_METHOD: Self = Self(0x8c);
    /// The client was silent for too long.
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8d);
    /// Another connection has the same client identifier.
    pub const TAKEN_OVER: Self = Self(0x8e);
    /// A topic filter that is not taken.
    pub const BAD_FILTER: Self = Self(0x8f);
    /// A topic name that is not taken.
    pub const BAD_TOPIC: Self = Self(0x90);
    /// A packet identifier that nothing is known of.
    pub const UNKNOWN_PACKET_ID: Self = Self(0x92);
    /// More unacknowledged messages than were agreed on.
    pub const RECEIVE_MAXIMUM: Self = Self(0x93);
    /// A topic alias that is unknown, or higher than was agreed on.
    pub const BAD_ALIAS: Self = Self(0x94);
    /// A packet over the limit.
    pub const TOO_LARGE: Self = Self(0x95);
    /// Messages come too fast.
    pub const RATE: Self = Self(0x96);
    /// A limit is reached.
    pub const QUOTA: Self = Self(0x97);
    /// Retained messages are not taken.
    pub const NO_RETAIN: Self = Self(0x9a);
    /// For now, another server is to be used.
    pub const USE_ANOTHER: Self = Self(0x9c);
    /// From now on, another server is to be used.
    pub const MOVED: Self = Self(0x9d);
    /// Connections come too fast.
    pub const CONNECTION_RATE: Self = Self(0x9f);

    /// The return code of CONNACK that says the same to a client of MQTT 3.
    #[must_use]
    pub fn as_return_code(self) -> u8 {
        match self {
            Self::SUCCESS => 0,
            Self::UNSUPPORTED_LEVEL => 1,
            Self::BAD_CLIENT_ID => 2,
            Self::BAD_USER => 4,
            Self::NOT_AUTHORIZED | Self(0x8a) => 5,
            _ => 3,
        }
    }

    /// What a WebSocket's Close says with it.
    pub(crate) fn as_close(self) -> Close {
        match self {
            Self::MALFORMED | Self::PROTOCOL_ERROR => Close::Protocol,
            Self::TOO_LARGE => Close::TooLarge,
            Self::SHUTTING_DOWN | Self::USE_ANOTHER | Self::MOVED => Close::Going,
            Self::NOT_AUTHORIZED | Self::QUOTA | Self::RATE => Close::Policy,
            _ => Close::Normal,
        }
    }

    /// What stands in records.
    #[must_use]
    pub fn status(self) -> Status {
        Status(self.0.into())
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0x00 => "success",
            0x04 => "disconnect with will",
            0x10 => "no matching subscribers",
            0x11 => "no subscription existed",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "implementation specific error",
            0x84 => "unsupported protocol version",
            0x85 => "client identifier not valid",
            0x86 => "bad user name or password",
            0x87 => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8a => "banned",
            0x8b => "server shutting down",
            0x8c => "bad authentication method",
            0x8d => "keep alive timeout",
            0x8e => "session taken over",
            0x8f => "topic filter invalid",
            0x90 => "topic name invalid",
            0x92 => "packet identifier not found",
            0x93 => "receive maximum exceeded",
            0x94 => "topic alias invalid",
            0x95 => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9a => "retain not supported",
            0x9b => "qos not supported",
            0x9c => "use another server",
            0x9d => "server moved",
            0x9e => "shared subscriptions not supported",
            0x9f => "connection rate exceeded",
            0xa0 => "maximum connect time",
            0xa1 => "subscription identifiers not supported",
            0xa2 => "wildcard subscriptions not supported",
            _ => "unspecified error",
        }
    }

    /// What a CONNACK's code says, in the terms of MQTT 5.
    #[must_use]
    pub fn of_connack(level: Level, code: u8) -> Self {
        match (level, code) {
            (_, 0) => Self::SUCCESS,
            (Level::V5, code @ 0x80..) => Self(code),
            (_, 1) => Self::UNSUPPORTED_LEVEL,
            (_, 2) => Self::BAD_CLIENT_ID,
            (_, 3) => Self::SERVER_UNAVAILABLE,
            (_, 4) => Self::BAD_USER,
            (_, 5) => Self::NOT_AUTHORIZED,
            _ => Self::UNSPECIFIED,
        }
    }

    /// What a client reads of a message that the mesh refuses.
    #[must_use]
    pub fn of_message(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Limited | Rejection::Overloaded => Self::QUOTA,
            _ => Self::NOT_AUTHORIZED,
        }
    }

    /// What a client reads in CONNACK when the mesh itself answers.
    #[must_use]
    pub fn of(rejection: Rejection) -> Self {
        match rejection {
            Rejection::NoRoute | Rejection::Denied => Self::NOT_AUTHORIZED,
            Rejection::Unauthenticated => Self::BAD_USER,
            Rejection::NoService
            | Rejection::NoEndpoint
            | Rejection::ConnectFailed
            | Rejection::ConnectionLost
            | Rejection::DeadlineExceeded => Self::SERVER_UNAVAILABLE,
            Rejection::Overloaded => Self::SERVER_BUSY,
            // As for a client that connects too often: what else has used it up, it is told per message.
            Rejection::Limited => Self::CONNECTION_RATE,
            Rejection::BadRequest => Self::MALFORMED,
            Rejection::TooLarge => Self::TOO_LARGE,
            Rejection::Draining => Self::SHUTTING_DOWN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_is_an_error_in_every_version() {
        for rejection in Rejection::ALL {
            let reason = Reason::of(rejection);
            assert!(reason.0 >= 0x80, "{rejection:?}");
            assert!((1..=5).contains(&reason.as_return_code()), "{rejection:?}");
            assert_ne!(reason.name(), "unspecified error", "{rejection:?}");
        }
    }
}
