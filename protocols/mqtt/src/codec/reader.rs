//! The basic forms (MQTT 5, section 1.5), read within bounds.

use crate::reason::Reason;

/// Why bytes are not taken: what is told, and what is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For a client of MQTT 5.
    pub reason: Reason,
    /// For the log.
    pub why: &'static str,
}

impl Fault {
    pub(crate) const fn malformed(why: &'static str) -> Self {
        let reason = Reason::MALFORMED;
        Self { reason, why }
    }

    pub(crate) const fn protocol(why: &'static str) -> Self {
        let reason = Reason::PROTOCOL_ERROR;
        Self { reason, why }
    }

    pub(crate) const fn quota(why: &'static str) -> Self {
        let reason = Reason::QUOTA;
        Self { reason, why }
    }

    pub(crate) const fn new(reason: Reason, why: &'static str) -> Self {
        Self { reason, why }
    }
}

/// The longest variable byte integer.
const MAX_VARIABLE: usize = 4;
/// The largest number that one can tell.
pub(crate) const MAX_REMAINING: usize = 268_435_455;

/// Reads forward through the bytes of one packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

const SHORT: Fault = Fault::malformed("the packet is shorter than what it says");

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*first))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*first))
    }

    /// An identifier of a packet: never 0.
    pub(crate) fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            // MQTT 5, section 2.2.1.
            0 => Err(Fault::protocol("a packet identifier is 0")),
            id => Ok(id),
        }
    }

    /// A variable byte integer in as few bytes as it needs.
    pub(crate) fn variable(&mut self) -> Result<u32, Fault> {
        match variable(self.0)? {
            None => Err(SHORT),
            // MQTT 5, section 1.5.5.
            Some((_, length)) if length > 1 && self.0[length - 1] == 0 => {
                Err(Fault::malformed("a number has more bytes than it needs"))
            }
            Some((value, length)) => {
                self.0 = &self.0[length..];
                Ok(value)
            }
        }
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let text =
            // MQTT 5, section 1.5.4.
            std::str::from_utf8(bytes).map_err(|_| Fault::malformed("a text is not UTF-8"))?;
        // MQTT 5, section 1.5.4.
        if bytes.contains(&0) {
            return Err(Fault::malformed("a text has the character U+0000 in it"));
        }
        Ok(text)
    }

    /// Everything must have been read.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(Fault::malformed("the packet is longer than what it says"))
    }
}

/// A variable byte integer and its length; `None` if bytes are missing.
pub(crate) fn variable(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(MAX_VARIABLE).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= MAX_VARIABLE {
        // MQTT 5, section 1.5.5.
        return Err(Fault::malformed("a length has more than four bytes"));
    }
    Ok(None)
}

/// Writes a variable byte integer.
pub(crate) fn put_variable(out: &mut Vec<u8>, value: usize) {
    let mut left = value.min(MAX_REMAINING);
    loop {
        let low = u8::try_from(left & 0x7f).unwrap_or_default();
        left >>= 7;
        if left == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Writes a text, cut off where it would be longer than its length can tell.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = text.floor_char_boundary(usize::from(u16::MAX));
    put_binary(out, &text.as_bytes()[..length]);
}

/// Writes bytes with their length; what its length cannot tell is cut off.
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(length)]);
}
