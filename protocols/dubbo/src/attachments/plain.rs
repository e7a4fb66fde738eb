//! The attachments of ordinary calls, read with less work than any others.

use std::borrow::Cow;

use finback_core::frame::{Malformed, Names};

use super::{CALLBACK, CALLBACKS, Told, UNREADABLE, milliseconds, whole};

/// What was found of it in a hessian2 map that holds nothing but ASCII texts of one chunk, as those of
/// ordinary calls do: this runs once per call, and such a map can be walked without looking into most
/// of it.
pub(super) struct Plain<'a> {
    names: Names,
    interface: &'a [u8],
    group: &'a [u8],
    timeout: &'a [u8],
    has_callback: bool,
}

impl<'a> Plain<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut found = Self {
            names: Names::NONE,
            interface: b"",
            group: b"",
            timeout: b"",
            has_callback: false,
        };
        let mut rest = bytes.strip_prefix(b"H")?;
        // One look at all of them costs less than one at each.
        let is_ascii = bytes.is_ascii();
        loop {
            if let [b'Z', ..] = rest {
                return Some(found);
            }
            let (key, after) = take_plain(rest, is_ascii)?;
            let (value, after) = take_plain(after, is_ascii)?;
            found.names.add(key);
            // Slices of different lengths differ at once.
            match key {
                b"interface" => found.interface = value,
                b"group" => found.group = value,
                b"timeout" => found.timeout = value,
                _ => found.has_callback |= key.starts_with(CALLBACK.as_bytes()),
            }
            rest = after;
        }
    }

    /// The last values of these keys in such a map, where there are any; `None` for a map of another kind.
    pub(super) fn last<const N: usize>(
        bytes: &'a [u8],
        names: [&str; N],
    ) -> Option<[Option<&'a str>; N]> {
        let mut rest = bytes.strip_prefix(b"H")?;
        let is_ascii = bytes.is_ascii();
        let mut found = [None; N];
        loop {
            if let [b'Z', ..] = rest {
                return Some(found);
            }
            let (key, after) = take_plain(rest, is_ascii)?;
            let (value, after) = take_plain(after, is_ascii)?;
            for (name, found) in names.iter().zip(&mut found) {
                if key == name.as_bytes() {
                    *found = Some(str::from_utf8(value).ok()?);
                }
            }
            rest = after;
        }
    }

    #[inline]
    pub(super) fn tell(self, path: &str) -> Result<Told<'a>, Malformed> {
        if self.has_callback {
            return Err(CALLBACKS);
        }
        let timeout = match digits(self.timeout) {
            Some(number) => whole(number),
            None if self.timeout.is_empty() => None,
            None => milliseconds(ascii(self.timeout)?)?,
        };
        // Nearly all say the same as the path, which is known to be text.
        let is_other = !self.interface.is_empty() && self.interface != path.as_bytes();
        let interface = is_other.then(|| ascii(self.interface)).transpose()?;
        Ok(Told {
            names: self.names,
            interface: interface.map(Cow::Borrowed),
            group: Cow::Borrowed(match self.group {
                b"" => "",
                group => ascii(group)?,
            }),
            timeout,
        })
    }
}

fn ascii(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| UNREADABLE)
}

/// The number of a few digits and nothing else, which is how clients write times.
#[inline]
fn digits(text: &[u8]) -> Option<u64> {
    let short = (1..=9).contains(&text.len()).then_some(text)?;
    short.iter().try_fold(0, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

/// An ASCII text of one chunk, and what follows; `is_ascii` says that all of it is known to be so.
#[inline]
pub(super) fn take_plain(bytes: &[u8], is_ascii: bool) -> Option<(&[u8], &[u8])> {
    let (text, rest) = match bytes {
        [len @ 0x00..=0x1f, rest @ ..] => rest.split_at_checked(usize::from(*len))?,
        [high @ 0x30..=0x33, low, rest @ ..] => {
            rest.split_at_checked(usize::from(high - 0x30) << 8 | usize::from(*low))?
        }
        _ => return None,
    };
    // Lengths count UTF-16 units, which are bytes in ASCII alone.
    (is_ascii || text.is_ascii()).then_some((text, rest))
}
