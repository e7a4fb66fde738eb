//! The state of a stream (RFC 9113, section 5.1).

/// Who has sent END_STREAM. Nothing is pushed, so no stream is ever reserved; one that is idle has no entry, and one that was
/// reset, or whose connection is gone, says so beside its state.
///
/// ```text
///                 idle: no entry, its id above `highest` or `next`
///                   |  HEADERS, either way: `insert`
///                   v
///   receive_end +--------+ send_end
///         +-----|  open  |-----+
///         v     +--------+     v
///    half-closed    |     half-closed
///     (remote)      |       (local)
///         |         |          |
///         | send_end| RST_STREAM,
///         |         | either way: `lost`
///         |         |          | receive_end
///         v         v          v
///   +---------------- closed ------------------+
///   | no entry; if it was we who reset it, its |
///   | id is `forgotten`, and late frames of it |
///   | are passed over                          |
///   +------------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http2) enum StreamState {
    /// Both sides send.
    Open,
    /// We have sent END_STREAM.
    HalfClosedLocal,
    /// The peer has.
    HalfClosedRemote,
    /// Both have.
    Closed,
}

impl StreamState {
    /// The state of a stream that the peer opens; `ends` says that its HEADERS carry END_STREAM.
    pub(super) fn opened(ends: bool) -> Self {
        if ends {
            Self::HalfClosedRemote
        } else {
            Self::Open
        }
    }

    /// Whether the peer has sent END_STREAM.
    pub(in crate::http2) fn has_received_end(self) -> bool {
        matches!(self, Self::HalfClosedRemote | Self::Closed)
    }

    /// Whether we have sent END_STREAM.
    pub(in crate::http2) fn has_sent_end(self) -> bool {
        matches!(self, Self::HalfClosedLocal | Self::Closed)
    }

    /// The peer sends END_STREAM.
    pub(super) fn receive_end(&mut self) {
        *self = match self {
            Self::Open | Self::HalfClosedRemote => Self::HalfClosedRemote,
            Self::HalfClosedLocal | Self::Closed => Self::Closed,
        };
    }

    /// We send END_STREAM.
    pub(super) fn send_end(&mut self) {
        *self = match self {
            Self::Open | Self::HalfClosedLocal => Self::HalfClosedLocal,
            Self::HalfClosedRemote | Self::Closed => Self::Closed,
        };
    }
}
