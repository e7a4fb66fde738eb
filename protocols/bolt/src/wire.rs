//! The fixed header: every offset, code and length rule of a Bolt frame.

use bytes::{BufMut, BytesMut};
use finback_core::driver::Sniff;
use finback_core::frame::{Head, Kind, Malformed};

use crate::call::{CodecData, Form};

/// Serializations (`codec` byte) whose bodies we know our way in.
pub(crate) mod codec {
    /// Hessian, of either version.
    pub(crate) const HESSIAN: u8 = 1;
    /// Protobuf, with service and method in the header map.
    pub(crate) const PROTOBUF: u8 = 11;
}

/// Statuses of responses (Bolt: ResponseStatus). A Java client closes the connection on any other value.
pub(crate) mod status {
    pub(crate) const SUCCESS: u16 = 0x00;
    pub(crate) const ERROR: u16 = 0x01;
    pub(crate) const SERVER_EXCEPTION: u16 = 0x02;
    pub(crate) const SERVER_THREADPOOL_BUSY: u16 = 0x04;
    pub(crate) const ERROR_COMM: u16 = 0x05;
    pub(crate) const NO_PROCESSOR: u16 = 0x06;
    pub(crate) const TIMEOUT: u16 = 0x07;
    pub(crate) const CODEC_EXCEPTION: u16 = 0x09;
    pub(crate) const CONNECTION_CLOSED: u16 = 0x10;
    pub(crate) const SERVER_SERIAL_EXCEPTION: u16 = 0x11;
    pub(crate) const SERVER_DESERIAL_EXCEPTION: u16 = 0x12;
}

/// The name of a response's status (Bolt: ResponseStatus); `None` if there is no such status.
#[must_use]
pub fn status_name(code: u16) -> Option<&'static str> {
    Some(match code {
        status::SUCCESS => "SUCCESS",
        status::ERROR => "ERROR",
        status::SERVER_EXCEPTION => "SERVER_EXCEPTION",
        0x03 => "UNKNOWN",
        status::SERVER_THREADPOOL_BUSY => "SERVER_THREADPOOL_BUSY",
        status::ERROR_COMM => "ERROR_COMM",
        status::NO_PROCESSOR => "NO_PROCESSOR",
        status::TIMEOUT => "TIMEOUT",
        0x08 => "CLIENT_SEND_ERROR",
        status::CODEC_EXCEPTION => "CODEC_EXCEPTION",
        status::CONNECTION_CLOSED => "CONNECTION_CLOSED",
        status::SERVER_SERIAL_EXCEPTION => "SERVER_SERIAL_EXCEPTION",
        status::SERVER_DESERIAL_EXCEPTION => "SERVER_DESERIAL_EXCEPTION",
        _ => return None,
    })
}

/// What a frame is (Bolt: RpcCommandType).
mod kind {
    pub(super) const RESPONSE: u8 = 0;
    pub(super) const REQUEST: u8 = 1;
    pub(super) const ONE_WAY: u8 = 2;
}

/// What it is about (Bolt: RpcCommandCode, Bolt: CommonCommandCode), and the code that some meshes add.
mod command {
    pub(super) const HEARTBEAT: u16 = 0;
    pub(super) const REQUEST: u16 = 1;
    pub(super) const RESPONSE: u16 = 2;
    /// "Send nothing new on this connection". Java peers do not know it.
    pub(super) const GOODBYE: u16 = 100;
}

/// Class and header lengths are signed 16-bit numbers to Java (Bolt: RpcCommandDecoder): one beyond this would put its
/// decoder out of step, and with it everyone who shares the connection.
pub(crate) const MAX_SHORT: usize = i16::MAX as usize;

/// The value of `ver2`, the version of the command format.
const VER2: u8 = 1;
/// Bytes of the checksum at the end of a checked frame.
const CHECKSUM: usize = 4;
/// The bit of `switch` that asks for the checksum.
const SWITCH_CHECKSUM: u8 = 0x01;

/// `proto` and `ver1`: what the first frame of a connection fixes for all frames of that side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// `proto` 1.
    V1,
    /// `proto` 2, `ver1` 1: has a switch byte that means nothing.
    V2,
    /// `proto` 2, `ver1` 2: the switch may turn the checksum on.
    V2Checked,
}

impl Version {
    /// The number that tells upstream connections apart.
    pub(crate) fn variant(self) -> u8 {
        match self {
            Self::V1 => 0,
            Self::V2 => 1,
            Self::V2Checked => 2,
        }
    }

    /// The version with this [`variant`](Self::variant).
    pub(crate) fn of_variant(variant: u8) -> Self {
        match variant {
            1 => Self::V2,
            2 => Self::V2Checked,
            _ => Self::V1,
        }
    }

    /// How many bytes later than in v1 a field stands: `ver1` pushes everything after `proto` by
    /// one, `switch` everything after `codec` by another.
    fn shift(self) -> usize {
        match self {
            Self::V1 => 0,
            Self::V2 | Self::V2Checked => 1,
        }
    }

    /// Where the request id stands.
    pub(crate) fn id_at(self) -> usize {
        5 + self.shift()
    }
}

/// A frame's fixed header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fixed {
    pub(crate) version: Version,
    pub(crate) kind: Kind,
    pub(crate) id: u32,
    pub(crate) codec: u8,
    /// Whether a checksum follows the content.
    pub(crate) checked: bool,
    /// Milliseconds, of a request; the status in the upper half, of a response.
    tail: u32,
    /// Where the header ends and the class name begins.
    pub(crate) class_at: usize,
    pub(crate) header_at: usize,
    pub(crate) content_at: usize,
    pub(crate) content_end: usize,
}

/// The longest fixed header, that of a request of v2.
const LONGEST: usize = 24;

/// Reads the header that `bytes` begin with, of a frame of no more than `limit` bytes; `None` if it is
/// not complete.
#[inline]
pub(crate) fn peek(bytes: &[u8], limit: usize) -> Result<Option<Head>, Malformed> {
    match bytes.first_chunk() {
        Some(header) => peek_header(header, LONGEST, limit),
        None => peek_part(bytes, limit),
    }
}

/// The same, of fewer bytes than the longest header has.
#[cold]
fn peek_part(bytes: &[u8], limit: usize) -> Result<Option<Head>, Malformed> {
    let mut header = [0; LONGEST];
    header[..bytes.len()].copy_from_slice(bytes);
    peek_header(&header, bytes.len(), limit)
}

/// Reads a header of which `there` bytes are there.
#[inline]
fn peek_header(
    header: &[u8; LONGEST],
    there: usize,
    limit: usize,
) -> Result<Option<Head>, Malformed> {
    match (header[0], header[1]) {
        _ if there == 0 => Ok(None),
        (1, _) => peek_version::<0>(Version::V1, header, there, limit),
        (2, _) if there == 1 => Ok(None),
        (2, 1) => peek_version::<1>(Version::V2, header, there, limit),
        (2, 2) => peek_version::<1>(Version::V2Checked, header, there, limit),
        _ => Err(Malformed::Garbage("unknown bolt protocol version")),
    }
}

/// The same, in a version whose fields stand so many bytes later than those of v1.
#[inline]
fn peek_version<const SHIFT: usize>(
    version: Version,
    header: &[u8; LONGEST],
    there: usize,
    limit: usize,
) -> Result<Option<Head>, Malformed> {
    if there < 2 + SHIFT {
        return Ok(None);
    }
    let tail_at = 10 + 2 * SHIFT;
    let kind = header[1 + SHIFT];
    // A response has a status of two bytes where a request has a timeout of four.
    // Bolt: RpcCommandDecoder, and Bolt: RpcCommandDecoderV2.
    let lengths_at = match kind {
        kind::RESPONSE => tail_at + 2,
        kind::REQUEST | kind::ONE_WAY => tail_at + 4,
        _ => return Err(Malformed::Garbage("unknown bolt command type")),
    };
    let class_at = lengths_at + 8;
    if there < class_at {
        return Ok(None);
    }
    let class_len = usize::from(u16_at(header, lengths_at));
    let header_len = usize::from(u16_at(header, lengths_at + 2));
    if class_len > MAX_SHORT || header_len > MAX_SHORT {
        return Err(Malformed::Garbage("negative bolt class or header length"));
    }
    let switch = if SHIFT == 1 { header[11] } else { 0 };
    if switch > 0x7f {
        return Err(Malformed::Garbage("bolt switch byte with its sign bit set"));
    }
    let kind = kind_of(kind, u16_at(header, 2 + SHIFT))?;
    // Bolt: RpcCommandDecoderV2: a checksum follows only in its second version.
    let checked = version == Version::V2Checked && switch & SWITCH_CHECKSUM != 0;
    let header_at = class_at + class_len;
    let content_at = header_at + header_len;
    let content_len = u32_at(header, lengths_at + 4);
    let codec_data = CodecData {
        codec: header[9 + SHIFT],
        form: Form::Unknown,
    };
    let head = Head {
        kind,
        id: u64::from(u32_at(header, 5 + SHIFT)),
        len: content_at
            .saturating_add(content_len as usize)
            .saturating_add(if checked { CHECKSUM } else { 0 }),
        variant: version.variant(),
        codec_data: codec_data.pack(),
        // What `Fixed` is made of. None of the places is above 65,558.
        marks: [
            class_at as u32,
            header_at as u32,
            content_at as u32,
            content_len,
            u32_at(header, tail_at),
            u32::from(checked),
            0,
        ],
    };
    match head.len > limit {
        true => Err(Malformed::TooLarge { head, limit }),
        false => Ok(Some(head)),
    }
}

impl Fixed {
    /// The header of `wire`, the whole frame of which [`peek`] said `head`: what that has read is not
    /// read again.
    #[inline]
    pub(crate) fn of_head(head: &Head, wire: &[u8]) -> Option<Self> {
        let [
            class_at,
            header_at,
            content_at,
            content_len,
            tail,
            checked,
            _,
        ] = head.marks;
        let fixed = Self {
            version: Version::of_variant(head.variant),
            kind: head.kind,
            id: head.id as u32,
            codec: CodecData::unpack(head.codec_data).codec,
            tail,
            class_at: class_at as usize,
            header_at: header_at as usize,
            content_at: content_at as usize,
            content_end: (content_at as usize).saturating_add(content_len as usize),
            checked: checked == 1,
        };
        (fixed.len() == wire.len()).then_some(fixed)
    }

    /// The header of `wire`, if that is one whole frame.
    pub(crate) fn of_whole(wire: &[u8]) -> Option<Self> {
        Self::of_head(&peek(wire, usize::MAX).ok()??, wire)
    }

    /// Length of the whole frame.
    pub(crate) fn len(&self) -> usize {
        self.content_end
            .saturating_add(if self.checked { CHECKSUM } else { 0 })
    }

    /// Milliseconds that the caller will wait; `None` if it does not say.
    pub(crate) fn timeout(&self) -> Option<u32> {
        // 0 and -1 stand for none; so does any other negative number.
        (1..=i32::MAX as u32)
            .contains(&self.tail)
            .then_some(self.tail)
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        (self.tail >> 16) as u16
    }

    /// Where the length of the header map stands.
    pub(crate) fn header_len_at(&self) -> usize {
        self.class_at - 6
    }

    /// Whether the checksum of `wire`, the whole frame, is right or not there at all.
    pub(crate) fn intact(&self, wire: &[u8]) -> bool {
        if !self.checked {
            return true;
        }
        match wire.split_at_checked(self.content_end) {
            // Bolt: CrcUtil: of everything before it.
            Some((frame, sum)) => *sum == crc32fast::hash(frame).to_be_bytes(),
            None => false,
        }
    }
}

fn kind_of(kind: u8, command: u16) -> Result<Kind, Malformed> {
    Ok(match (kind, command) {
        (kind::REQUEST, command::REQUEST) => Kind::Request,
        (kind::RESPONSE, command::RESPONSE) => Kind::Response,
        (kind::ONE_WAY, command::REQUEST) => Kind::OneWay,
        // Bolt: CommonCommandCode.
        (kind::REQUEST, command::HEARTBEAT) => Kind::Ping,
        (kind::RESPONSE, command::HEARTBEAT) => Kind::Pong,
        // A heartbeat that wants no answer.
        (kind::ONE_WAY, command::HEARTBEAT) => Kind::Ignored,
        (kind::REQUEST | kind::ONE_WAY, command::GOODBYE) => Kind::GoAway,
        _ => return Err(Malformed::Garbage("unknown bolt command code")),
    })
}

/// Whether these are the first bytes of a Bolt connection: decides within six.
pub(crate) fn sniff(head: &[u8]) -> Sniff {
    let rest = match *head {
        [] | [2] => return Sniff::Undecided,
        [1, ref rest @ ..] | [2, 1 | 2, ref rest @ ..] => rest,
        _ => return Sniff::Mismatch,
    };
    // What each byte after the version may be: type, command code (two bytes), ver2.
    let plausible = [0..=kind::ONE_WAY, 0..=0, 0..=2, VER2..=VER2];
    let mut pairs = rest.iter().zip(&plausible);
    if !pairs.all(|(byte, range)| range.contains(byte)) {
        Sniff::Mismatch
    } else if rest.len() < plausible.len() {
        Sniff::Undecided
    } else {
        Sniff::Match
    }
}

/// What the frames of our own making have in common with the frame they answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    pub(crate) version: Version,
    pub(crate) codec: u8,
}

impl Encoding {
    /// Appends a heartbeat.
    pub(crate) fn put_ping(self, id: u32, out: &mut BytesMut) {
        self.begin(kind::REQUEST, command::HEARTBEAT, id, out);
        out.put_i32(-1);
        out.put_bytes(0, 8);
    }

    /// Appends the answer to a heartbeat.
    pub(crate) fn put_pong(self, id: u32, out: &mut BytesMut) {
        self.begin(kind::RESPONSE, command::HEARTBEAT, id, out);
        out.put_u16(status::SUCCESS);
        out.put_bytes(0, 8);
    }

    /// Appends a response. The parts' lengths must fit their fields.
    pub(crate) fn put_response(
        self,
        id: u32,
        status: u16,
        (class, header, content): (&str, &[u8], &[u8]),
        out: &mut BytesMut,
    ) {
        self.begin(kind::RESPONSE, command::RESPONSE, id, out);
        out.put_u16(status);
        out.put_u16(class.len() as u16);
        out.put_u16(header.len() as u16);
        out.put_u32(content.len() as u32);
        out.put_slice(class.as_bytes());
        out.put_slice(header);
        out.put_slice(content);
    }

    /// Appends the beginning of a frame up to its status or timeout. Never with a checksum: to
    /// have one or not is each frame's own affair.
    fn begin(self, kind: u8, command: u16, id: u32, out: &mut BytesMut) {
        match self.version {
            Version::V1 => out.put_slice(&[1]),
            Version::V2 => out.put_slice(&[2, 1]),
            Version::V2Checked => out.put_slice(&[2, 2]),
        }
        out.put_u8(kind);
        out.put_u16(command);
        out.put_u8(VER2);
        out.put_u32(id);
        out.put_u8(self.codec);
        if self.version != Version::V1 {
            out.put_u8(0);
        }
    }
}

fn u16_at(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

fn u32_at(header: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
