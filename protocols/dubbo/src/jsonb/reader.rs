//! Passes over JSONB values of every type, nested however deeply, without recursion.

use std::mem;

use finback_hessian::{Nest, Open};

use super::{NULL, OBJECT, OBJECT_END};

/// A reader of values one after another. Each method gives `None` where the bytes cannot be what
/// it reads; its position is then of no use.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nest: Nest,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            nest: Nest::default(),
        }
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// How many bytes have not been read yet.
    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next byte, which tells what the next value is.
    pub(crate) fn tag(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Begins an object, of whatever type; false for null.
    pub(crate) fn begin_object(&mut self) -> Option<bool> {
        loop {
            match self.byte()? {
                0x92 => self.pass_symbol()?,
                OBJECT => return Some(true),
                NULL => return Some(false),
                _ => return None,
            }
        }
    }

    /// Ends the object here, if that is where it ends.
    pub(crate) fn end_object(&mut self) -> bool {
        let ends = self.tag() == Some(OBJECT_END);
        self.at += usize::from(ends);
        ends
    }

    /// A text's tag and its bytes.
    pub(crate) fn text(&mut self) -> Option<(u8, &'a [u8])> {
        let tag = self.byte()?;
        let len = self.length_of_text(tag)?;
        let from = self.at;
        self.advance(len)?;
        Some((tag, self.bytes.get(from..self.at)?))
    }

    /// An int or a long.
    pub(crate) fn long(&mut self) -> Option<i64> {
        match self.tag()? {
            0xbe => {
                self.at += 1;
                Some(i64::from_be_bytes(self.array()?))
            }
            0xbf => {
                self.at += 1;
                Some(i64::from(i32::from_be_bytes(self.array()?)))
            }
            tag @ 0xc0..=0xc7 => {
                self.at += 1;
                let low = i64::from(u16::from_be_bytes(self.array()?));
                Some(((i64::from(tag) - 0xc4) << 16) + low)
            }
            tag @ 0xc8..=0xd7 => {
                self.at += 1;
                Some(((i64::from(tag) - 0xd0) << 8) + i64::from(self.byte()?))
            }
            tag @ 0xd8..=0xef => {
                self.at += 1;
                Some(i64::from(tag) - 0xe0)
            }
            _ => self.int().map(i64::from),
        }
    }

    /// Passes over one whole value.
    pub(crate) fn pass(&mut self) -> Option<()> {
        // Most values are no containers.
        let Some(outermost) = self.enter()? else {
            return Some(());
        };
        let mut nest = mem::take(&mut self.nest);
        nest.begin(outermost);
        let passed = self.pass_within(&mut nest);
        self.nest = nest;
        passed
    }

    /// Passes over what is left of the containers of `nest`.
    fn pass_within(&mut self, nest: &mut Nest) -> Option<()> {
        while let Some(open) = nest.innermost() {
            match open {
                Open::Count(0) => nest.leave(),
                Open::UntilEnd if self.end_object() => nest.leave(),
                // A key and its value: between them no object ends.
                Open::UntilEnd => nest.enter(Open::Count(2), self.remaining()).ok()?,
                Open::Count(_) => {
                    nest.take_one();
                    if let Some(inner) = self.enter()? {
                        nest.enter(inner, self.remaining()).ok()?;
                    }
                }
            }
        }
        Some(())
    }

    /// Passes over one scalar, or over the beginning of a container, which it returns.
    fn enter(&mut self) -> Option<Option<Open>> {
        loop {
            let tag = self.byte()?;
            match tag {
                0x00..=0x2f | 0xaf..=0xb3 | 0xd8..=0xff => {}
                0x30..=0x3f | 0xbd | 0xc8..=0xd7 => self.advance(1)?,
                0x40..=0x47 | 0xbc | 0xc0..=0xc7 => self.advance(2)?,
                0x48 | 0xa9 | 0xac | 0xad | 0xb7 | 0xbf => self.advance(4)?,
                0xab | 0xb5 | 0xbe => self.advance(8)?,
                0x49..=0x7e => {
                    let len = self.length_of_text(tag)?;
                    self.advance(len)?;
                }
                0x7f => self.pass_symbol()?,
                0x90 | 0xb6 => self.pass_int()?,
                0xb4 | 0xb8 | 0xba => self.pass_long()?,
                0x91 | 0xbb => {
                    let len = self.length()?;
                    self.advance(len)?;
                }
                // A type is no value: one follows.
                0x92 => {
                    self.pass_symbol()?;
                    continue;
                }
                0x93 => self.pass_name()?,
                0x94..=0xa3 => return Some(Some(Open::Count(usize::from(tag - 0x94)))),
                0xa4 => return Some(Some(Open::Count(self.length()?))),
                OBJECT => return Some(Some(Open::UntilEnd)),
                0xa7 => {
                    self.advance(3)?;
                    self.pass_int()?;
                }
                0xa8 => {
                    self.advance(7)?;
                    self.pass_int()?;
                }
                0xaa => {
                    self.advance(7)?;
                    self.pass_int()?;
                    self.text()?;
                }
                0xae => {
                    self.pass_long()?;
                    self.pass_int()?;
                }
                // Its scale, and then its digits as a number of any kind.
                0xb9 => {
                    self.pass_int()?;
                    if !matches!(self.tag()?, 0x00..=0x48 | 0x91 | 0xaf..=0xff) {
                        return None;
                    }
                    continue;
                }
                0x80..=0x8f | OBJECT_END => return None,
            }
            return Some(None);
        }
    }

    /// Passes over a text that may be a symbol, of which it stands for an earlier one or makes one.
    fn pass_name(&mut self) -> Option<()> {
        if self.tag()? == 0x7f {
            self.at += 1;
            return self.pass_symbol();
        }
        self.text().map(|_| ())
    }

    /// Passes over an int that stands for a text, or a text with the int that is to stand for it.
    fn pass_symbol(&mut self) -> Option<()> {
        if self.tag()? == 0x7f {
            self.at += 1;
        }
        if matches!(self.tag()?, 0x49..=0x7e) {
            self.text()?;
        }
        self.pass_int()
    }

    fn length_of_text(&mut self, tag: u8) -> Option<usize> {
        match tag {
            0x49..=0x78 => Some(usize::from(tag - 0x49)),
            0x79..=0x7e => self.length(),
            _ => None,
        }
    }

    fn length(&mut self) -> Option<usize> {
        let length = usize::try_from(self.int()?).ok()?;
        (length <= self.remaining()).then_some(length)
    }

    fn int(&mut self) -> Option<i32> {
        match self.byte()? {
            tag @ 0xf0..=0xff => Some(i32::from(tag) - 0x100),
            tag @ 0x00..=0x2f => Some(i32::from(tag)),
            tag @ 0x30..=0x3f => Some(((i32::from(tag) - 0x38) << 8) + i32::from(self.byte()?)),
            tag @ 0x40..=0x47 => {
                let low = i32::from(u16::from_be_bytes(self.array()?));
                Some(((i32::from(tag) - 0x44) << 16) + low)
            }
            0x48 => Some(i32::from_be_bytes(self.array()?)),
            _ => None,
        }
    }

    fn pass_int(&mut self) -> Option<()> {
        self.int().map(|_| ())
    }

    fn pass_long(&mut self) -> Option<()> {
        self.long().map(|_| ())
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.tag()?;
        self.at += 1;
        Some(byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.bytes.get(self.at..)?.first_chunk().copied()?;
        self.at += N;
        Some(array)
    }

    fn advance(&mut self, len: usize) -> Option<()> {
        if len > self.remaining() {
            return None;
        }
        self.at += len;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed(bytes: &[u8]) -> Option<usize> {
        let mut reader = Reader::new(bytes);
        reader.pass().map(|()| reader.position())
    }

    #[test]
    fn every_kind_of_value_is_passed_whole() {
        let values: &[&[u8]] = &[
            b"\xf0",
            b"\x2f",
            b"\x30\x01",
            b"\x40\x01\x02",
            b"\x48\0\0\0\x01",
            b"\x49",
            b"\x4bab",
            b"\x79\x02ab",
            b"\x7a\x02ab",
            b"\x7b\x02ab",
            b"\x7c\x02ab",
            b"\x7d\x02ab",
            b"\x7e\x02ab",
            b"\x7f\xff",
            b"\x7f\x4aa\0",
            b"\x90\x38\x41",
            b"\x91\x02\xff\xff",
            b"\x92\x4aT\0\xa6\xa5",
            b"\x92\0\x01",
            b"\x92\x7f\0\xaf",
            b"\x93\x4a$",
            b"\x93\x7f\x4a$\0",
            b"\x94",
            b"\x96\x01\x4aa",
            b"\xa4\x02\x01\x4aa",
            b"\xa6\xa5",
            b"\xa6\x4aa\x01\x4ab\xa6\x4ac\xaf\xa5\xa5",
            b"\xa6\x7f\x4aa\0\x01\x7f\0\x02\xa5",
            b"\xa6\x01\x96\xaf\xaf\xa5",
            b"\xa7\x01\x02\x03\0",
            b"\xa8\x07\xd0\x01\x02\x03\x04\x05\x30\x01",
            b"\xa9\x07\xd0\x01\x02",
            b"\xaa\x07\xd0\x01\x02\x03\x04\x05\0\x4cUTC",
            b"\xab\0\0\0\0\0\0\0\x01",
            b"\xac\0\0\0\x01",
            b"\xad\0\0\0\x01",
            b"\xae\xbe\0\0\0\0\0\0\0\x01\x48\0\0\0\x01",
            b"\xae\xe1\0",
            b"\xaf",
            b"\xb0",
            b"\xb1",
            b"\xb2",
            b"\xb3",
            b"\xb4\xe1",
            b"\xb5\0\0\0\0\0\0\0\x01",
            b"\xb6\x01",
            b"\xb7\0\0\0\x01",
            b"\xb8\xbf\0\0\0\x01",
            b"\xb9\x02\x48\0\0\0\x01",
            b"\xb9\x02\xbe\0\0\0\0\0\0\0\x01",
            b"\xb9\x02\xbb\x02\x01\x02",
            b"\xba\xc0\x01\x02",
            b"\xbb\x02\x01\x02",
            b"\xbc\0\x01",
            b"\xbd\x01",
            b"\xbe\0\0\0\0\0\0\0\x01",
            b"\xbf\0\0\0\x01",
            b"\xc0\x01\x02",
            b"\xc8\x01",
            b"\xd8",
            b"\xef",
        ];
        for value in values {
            let followed = [value, &[NULL][..]].concat();
            assert_eq!(passed(&followed), Some(value.len()), "{value:02x?}");
            for cut in 0..value.len() {
                assert_eq!(passed(&value[..cut]), None, "{value:02x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_value_is_none() {
        for bytes in [
            &b"\x80"[..],
            b"\xa5",
            b"\xa6\x4aa\xa5",
            b"\x95\xa5",
            b"\xb9\x02\x94",
            b"\x90\x4aa",
            b"\x79\xff",
            b"\xa4\xff",
            b"\xbb\xff",
            b"\x93\x01",
            b"\x7f\x4aa\x4ab",
        ] {
            assert_eq!(passed(bytes), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn depth_and_number_are_bounded_by_the_bytes_alone() {
        let arrays = [vec![0x95; 1 << 20], vec![NULL]].concat();
        let objects = [
            b"\xa6\0".repeat(200_000),
            vec![NULL],
            vec![OBJECT_END; 200_000],
        ]
        .concat();
        let pairs = [vec![0x96; 100_000], vec![NULL; 100_001]].concat();
        let types = [b"\x92\0".repeat(100_000), vec![NULL]].concat();
        let ints = [b"\xa4\x48\0\x1e\x84\x80".to_vec(), vec![1; 2_000_000]].concat();
        for value in [arrays, objects, pairs, types, ints] {
            assert_eq!(passed(&value), Some(value.len()), "{:02x?}", &value[..6]);
        }
        for nested in [0x95, 0x96, 0xa3, OBJECT, 0x92] {
            assert_eq!(passed(&vec![nested; 8 << 20]), None);
        }
        assert_eq!(passed(b"\xa4\x48\x7f\xff\xff\xff"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(&bytes);
            while reader.pass().is_some() && reader.remaining() > 0 {}
            prop_assert!(reader.position() <= bytes.len());
            let _ = super::super::scalar(&bytes, 99);
        }
    }
}
