//! Reads Hessian 2.0, as Dubbo and hessian 4.x write it, without ever building a value.
//!
//! Tags, as the specification (hessian.caucho.com/doc/hessian-serialization.html) gives them
//! (Hessian 2, section 6), where `n` is a count and `..` goes on until `Z`:
//!
//! ```text
//! 00-1f string of 0-31    30-33 string, 10-bit length   52 R  text chunk     53 S  last text chunk
//! 20-2f binary of 0-15    34-37 binary, 10-bit length   41 A  binary chunk   42 B  last binary chunk
//! 80-bf int, 1 byte       c0-cf int, 2 bytes            d0-d7 int, 3 bytes   49 I  int, 4 bytes
//! d8-ef long, 1 byte      f0-ff long, 2 bytes           38-3f long, 3 bytes  59    long, 4 bytes
//! 4c L  long, 8 bytes     44 D  double, 8 bytes         5b 5c 5d 5e 5f double 0.0 1.0 i8 i16 i32
//! 46 F  false             54 T  true                    4e N  null           51 Q  reference
//! 4a    date, ms          4b    date, minutes           43 C  class, then a value
//! 48 H  map ..            4d M  typed map ..            4f O  object         60-6f object
//! 55    typed list ..     57    list ..                 56 V  typed list n   58    list n
//! 70-77 typed list of 0-7 78-7f list of 0-7             5a Z  end
//! ```

use std::borrow::Cow;
use std::mem;
use std::ops::Range;

use crate::nest::{Nest, Open};
use crate::{Error, text};

/// Where the key and the value of a map's entry stand.
pub type Entry = (Range<usize>, Range<usize>);

/// A reader of one body: values one after another, sharing their class definitions.
///
/// Iterative whatever the nesting, and bounded by the body's length alone: nothing is allocated that
/// a length merely claims. Texts are views into the body wherever they are one chunk of valid UTF-8.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    classes: Vec<Class>,
    /// The containers around a value that is being skipped; kept for its memory.
    nest: Nest,
}

/// A class definition: where its field names stand, and how many there are. Half as wide as they
/// might be: definitions of three bytes must not take many times their own room.
#[derive(Clone, Copy, Debug)]
struct Class {
    names_at: u32,
    fields: u32,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            classes: Vec::new(),
            nest: Nest::default(),
        }
    }

    /// How many bytes have been read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// How many bytes have not been read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next byte, which tells what the next value is.
    #[must_use]
    pub fn tag(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Passes over one whole value.
    ///
    /// # Errors
    /// Any [`Error`]; the reader's position is then of no use.
    pub fn skip(&mut self) -> Result<(), Error> {
        // Most values are no containers.
        let Some(outermost) = self.enter()? else {
            return Ok(());
        };
        let mut nest = mem::take(&mut self.nest);
        nest.begin(outermost);
        let skipped = self.skip_within(&mut nest);
        self.nest = nest;
        skipped
    }

    /// Reads a text; `None` for null.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not a text.
    pub fn string(&mut self) -> Result<Option<Cow<'a, str>>, Error> {
        self.string_within(usize::MAX)
    }

    /// Reads a text of at most `limit` bytes of UTF-8; `None` for null.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not a text, [`Error::LONG_TEXT`] if it is
    /// too long: then it was passed over, and no more than `limit` bytes of it were copied.
    pub fn string_within(&mut self, limit: usize) -> Result<Option<Cow<'a, str>>, Error> {
        if let Some(Ok(text)) = self.short_ascii().map(str::from_utf8) {
            return text::bounded(Cow::Borrowed(text), limit).map(Some);
        }
        match self.byte()? {
            b'N' => Ok(None),
            tag => self.text(tag, limit).map(Some),
        }
    }

    /// Reads a text as [`string_within`](Self::string_within) does, for those who only look at its
    /// bytes: a short one is then not checked twice.
    ///
    /// # Errors
    /// As of [`string_within`](Self::string_within).
    #[inline]
    pub fn string_bytes_within(&mut self, limit: usize) -> Result<Option<Cow<'a, [u8]>>, Error> {
        if let Some(text) = self.short_ascii() {
            return text::bounded_bytes(text, limit).map(Some);
        }
        let text = self.string_within(limit)?;
        Ok(text.map(|text| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }))
    }

    /// Reads a short ASCII text, which nearly all are, without counting its units.
    #[inline]
    fn short_ascii(&mut self) -> Option<&'a [u8]> {
        let (tag, rest) = self.bytes.get(self.at..)?.split_first()?;
        let text = rest.get(..usize::from(*tag)).filter(|_| *tag <= 0x1f)?;
        let text = text.is_ascii().then_some(text)?;
        self.at += 1 + text.len();
        Some(text)
    }

    /// Reads an int.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not an int.
    pub fn int(&mut self) -> Result<i32, Error> {
        self.bare_int()
    }

    /// Reads an int or long (Hessian 2, section 4.7).
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is neither.
    pub fn long(&mut self) -> Result<i64, Error> {
        match self.ahead()? {
            tag @ 0xd8..=0xef => {
                self.at += 1;
                Ok(i64::from(tag) - 0xe0)
            }
            tag @ 0xf0..=0xff => {
                self.at += 1;
                Ok(((i64::from(tag) - 0xf8) << 8) + i64::from(self.byte()?))
            }
            tag @ 0x38..=0x3f => {
                self.at += 1;
                let low = u16::from_be_bytes(self.array()?);
                Ok(((i64::from(tag) - 0x3c) << 16) + i64::from(low))
            }
            0x59 => {
                self.at += 1;
                Ok(i64::from(i32::from_be_bytes(self.array()?)))
            }
            b'L' => {
                self.at += 1;
                Ok(i64::from_be_bytes(self.array()?))
            }
            _ => self.bare_int().map(i64::from),
        }
    }

    /// Reads a double (Hessian 2, section 4.4).
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not a double.
    pub fn double(&mut self) -> Result<f64, Error> {
        match self.byte()? {
            0x5b => Ok(0.0),
            0x5c => Ok(1.0),
            0x5d => Ok(f64::from(self.byte()?.cast_signed())),
            0x5e => Ok(f64::from(i16::from_be_bytes(self.array()?))),
            // Hessian 2, section 4.4.5, says a float; Java's writers give thousandths, hessian's own, too.
            0x5f => Ok(f64::from(i32::from_be_bytes(self.array()?)) * 0.001),
            b'D' => Ok(f64::from_be_bytes(self.array()?)),
            tag => Err(Error::Tag(tag)),
        }
    }

    /// Reads an object (Hessian 2, section 4.10) or null: calls `visit` with each field's name, which answers whether it
    /// read the field's value. What it did not read is skipped, as are fields of names that
    /// nobody can be looking for, so long are they.
    ///
    /// # Errors
    /// Any [`Error`], also one of `visit`'s own; [`Error::Tag`] if the value is not an object.
    pub fn object(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let class = loop {
            match self.byte()? {
                b'N' => return Ok(()),
                b'C' => self.define()?,
                b'O' => {
                    let index = self.bare_int()?;
                    break self.class(index)?;
                }
                tag @ 0x60..=0x6f => break self.class(i32::from(tag - 0x60))?,
                tag => return Err(Error::Tag(tag)),
            }
        };
        // The names stand where the class was defined: a second reader goes along them.
        let mut names = Reader::new(self.bytes);
        names.at = class.names_at as usize;
        for _ in 0..class.fields {
            let consumed = match names.string_within(text::LONGEST_NAME) {
                Ok(name) => visit(&name.ok_or(Error::Tag(b'N'))?, self)?,
                Err(Error::LONG_TEXT) => false,
                Err(error) => return Err(error),
            };
            if !consumed {
                self.skip()?;
            }
        }
        Ok(())
    }

    /// Reads a map (Hessian 2, section 4.8) or null: calls `visit` with each key that is a text, which answers whether
    /// it read the key's value. What it did not read is skipped, as are entries of other keys and
    /// of keys that nobody can be looking for, so long are they.
    ///
    /// # Errors
    /// Any [`Error`], also one of `visit`'s own; [`Error::Tag`] if the value is not a map.
    pub fn map(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        if !self.begin_map()? {
            return Ok(());
        }
        loop {
            let tag = self.ahead()?;
            if tag == b'Z' {
                self.at += 1;
                return Ok(());
            }
            let consumed = if is_text(tag) {
                match self.string_within(text::LONGEST_NAME) {
                    Ok(Some(key)) => visit(&key, self)?,
                    Ok(None) | Err(Error::LONG_TEXT) => false,
                    Err(error) => return Err(error),
                }
            } else {
                self.skip()?;
                false
            };
            if !consumed {
                self.skip()?;
            }
        }
    }

    /// Begins a map, whose entries [`pass_entry`](Self::pass_entry) goes along; false for null.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not a map.
    pub fn begin_map(&mut self) -> Result<bool, Error> {
        match self.byte()? {
            b'N' => return Ok(false),
            b'H' => {}
            b'M' => self.pass_type()?,
            tag => return Err(Error::Tag(tag)),
        }
        Ok(true)
    }

    /// Passes over the next entry of a map, and tells where its key and its value stand; `None`
    /// at the map's end, which is passed over.
    ///
    /// # Errors
    /// Any [`Error`]; the reader's position is then of no use.
    pub fn pass_entry(&mut self) -> Result<Option<Entry>, Error> {
        if self.ahead()? == b'Z' {
            self.at += 1;
            return Ok(None);
        }
        let key_at = self.at;
        self.skip()?;
        let value_at = self.at;
        self.skip()?;
        Ok(Some((key_at..value_at, value_at..self.at)))
    }

    /// Skips what is left of the containers of `nest`, the stack that recursion would have used.
    fn skip_within(&mut self, nest: &mut Nest) -> Result<(), Error> {
        while let Some(open) = nest.innermost() {
            let ended = match open {
                Open::Count(left) => left == 0,
                Open::UntilEnd => {
                    let ended = self.ahead()? == b'Z';
                    self.at += usize::from(ended);
                    ended
                }
            };
            if ended {
                nest.leave();
                continue;
            }
            nest.take_one();
            if let Some(inner) = self.enter()? {
                nest.enter(inner, self.remaining())?;
            }
        }
        Ok(())
    }

    /// Passes over one scalar, or over the beginning of a container, which it returns.
    fn enter(&mut self) -> Result<Option<Open>, Error> {
        loop {
            match self.byte()? {
                tag if is_text(tag) => self.pass_text(tag)?,
                b'F' | b'T' | b'N' | 0x5b | 0x5c | 0x80..=0xbf | 0xd8..=0xef => {}
                0x5d | 0xc0..=0xcf | 0xf0..=0xff => self.advance(1)?,
                0x38..=0x3f | 0x5e | 0xd0..=0xd7 => self.advance(2)?,
                b'I' | 0x4b | 0x59 | 0x5f => self.advance(4)?,
                b'L' | b'D' | 0x4a => self.advance(8)?,
                tag @ (0x20..=0x2f | 0x34..=0x37 | b'A' | b'B') => self.pass_binary(tag)?,
                // Hessian 2, section 4.11: to a value that is not needed here.
                b'Q' => {
                    self.bare_int()?;
                }
                b'C' => {
                    // Hessian 2, section 4.10.1: a definition is no value, one follows.
                    self.define()?;
                    continue;
                }
                b'O' => {
                    let index = self.bare_int()?;
                    return Ok(Some(Open::Count(self.class(index)?.fields as usize)));
                }
                tag @ 0x60..=0x6f => {
                    let class = self.class(i32::from(tag - 0x60))?;
                    return Ok(Some(Open::Count(class.fields as usize)));
                }
                b'H' | 0x57 => return Ok(Some(Open::UntilEnd)),
                b'M' | 0x55 => {
                    self.pass_type()?;
                    return Ok(Some(Open::UntilEnd));
                }
                b'V' => {
                    self.pass_type()?;
                    return Ok(Some(Open::Count(self.count()?)));
                }
                0x58 => return Ok(Some(Open::Count(self.count()?))),
                tag @ 0x70..=0x77 => {
                    self.pass_type()?;
                    return Ok(Some(Open::Count(usize::from(tag - 0x70))));
                }
                tag @ 0x78..=0x7f => return Ok(Some(Open::Count(usize::from(tag - 0x78)))),
                tag => return Err(Error::Tag(tag)),
            }
            return Ok(None);
        }
    }

    /// Reads a class definition, after its `C`.
    fn define(&mut self) -> Result<(), Error> {
        self.pass_name()?;
        let fields = self.count()?;
        let names_at = self.at;
        for _ in 0..fields {
            self.pass_name()?;
        }
        // No frame is so long that these do not fit.
        let narrow = |number: usize| u32::try_from(number).map_err(|_| Error::Truncated);
        let (names_at, fields) = (narrow(names_at)?, narrow(fields)?);
        self.classes.push(Class { names_at, fields });
        Ok(())
    }

    fn pass_name(&mut self) -> Result<(), Error> {
        match self.byte()? {
            tag if is_text(tag) => self.pass_text(tag),
            tag => Err(Error::Tag(tag)),
        }
    }

    /// An earlier definition (Hessian 2, section 5.2).
    fn class(&self, index: i32) -> Result<Class, Error> {
        let index = usize::try_from(index).map_err(|_| Error::Reference)?;
        self.classes.get(index).copied().ok_or(Error::Reference)
    }

    /// Passes over the type of a list or map: its name, or the number of an earlier one
    /// (Hessian 2, sections 4.13 and 4.14).
    fn pass_type(&mut self) -> Result<(), Error> {
        if is_text(self.ahead()?) {
            return self.pass_name();
        }
        self.bare_int().map(|_| ())
    }

    /// Reads an int that counts something of at least one byte each.
    fn count(&mut self) -> Result<usize, Error> {
        match usize::try_from(self.bare_int()?) {
            Ok(count) if count <= self.remaining() => Ok(count),
            _ => Err(Error::Truncated),
        }
    }

    /// Hessian 2, section 4.5.
    fn bare_int(&mut self) -> Result<i32, Error> {
        match self.byte()? {
            tag @ 0x80..=0xbf => Ok(i32::from(tag) - 0x90),
            tag @ 0xc0..=0xcf => Ok(((i32::from(tag) - 0xc8) << 8) + i32::from(self.byte()?)),
            tag @ 0xd0..=0xd7 => {
                let low = u16::from_be_bytes(self.array()?);
                Ok(((i32::from(tag) - 0xd4) << 16) + i32::from(low))
            }
            b'I' => Ok(i32::from_be_bytes(self.array()?)),
            tag => Err(Error::Tag(tag)),
        }
    }

    /// Hessian 2, section 4.1: chunks up to the one that is marked as the last.
    fn pass_binary(&mut self, mut tag: u8) -> Result<(), Error> {
        loop {
            let len = match tag {
                0x20..=0x2f => usize::from(tag - 0x20),
                0x34..=0x37 => (usize::from(tag - 0x34) << 8) + usize::from(self.byte()?),
                b'A' | b'B' => usize::from(u16::from_be_bytes(self.array()?)),
                other => return Err(Error::Tag(other)),
            };
            self.advance(len)?;
            if tag != b'A' {
                return Ok(());
            }
            tag = self.byte()?;
        }
    }

    fn pass_text(&mut self, tag: u8) -> Result<(), Error> {
        let chunk = self.chunk(tag)?;
        self.pass_rest(chunk)
    }

    /// Passes over what follows this chunk of a text.
    fn pass_rest(&mut self, mut chunk: Chunk<'a>) -> Result<(), Error> {
        while chunk.more {
            let tag = self.byte()?;
            chunk = self.chunk(tag)?;
        }
        Ok(())
    }

    fn text(&mut self, tag: u8, limit: usize) -> Result<Cow<'a, str>, Error> {
        let most = text::on_wire(limit);
        let mut chunk = self.chunk(tag)?;
        if !chunk.more && chunk.bytes.len() <= most {
            return text::bounded(text::decode(chunk.bytes)?, limit);
        }
        let mut whole = Vec::new();
        loop {
            if whole.len() + chunk.bytes.len() > most {
                self.pass_rest(chunk)?;
                return Err(Error::LONG_TEXT);
            }
            whole.extend_from_slice(chunk.bytes);
            if !chunk.more {
                break;
            }
            let tag = self.byte()?;
            chunk = self.chunk(tag)?;
        }
        text::bounded(text::decode(&whole)?, limit).map(|text| Cow::Owned(text.into_owned()))
    }

    /// Reads one chunk of a text, after its tag: its length counts UTF-16 units (Hessian 2, section 4.12).
    fn chunk(&mut self, tag: u8) -> Result<Chunk<'a>, Error> {
        let units = match tag {
            0x00..=0x1f => usize::from(tag),
            0x30..=0x33 => (usize::from(tag - 0x30) << 8) + usize::from(self.byte()?),
            b'R' | b'S' => usize::from(u16::from_be_bytes(self.array()?)),
            other => return Err(Error::Tag(other)),
        };
        let end = text::end(self.bytes, self.at, units)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Error::Truncated)?;
        self.at = end;
        Ok(Chunk {
            bytes,
            more: tag == b'R',
        })
    }

    fn ahead(&self) -> Result<u8, Error> {
        self.tag().ok_or(Error::Truncated)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let byte = self.ahead()?;
        self.at += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let rest = self.bytes.get(self.at..).ok_or(Error::Truncated)?;
        let array = rest.first_chunk().copied().ok_or(Error::Truncated)?;
        self.at += N;
        Ok(array)
    }

    fn advance(&mut self, len: usize) -> Result<(), Error> {
        if len > self.remaining() {
            return Err(Error::Truncated);
        }
        self.at += len;
        Ok(())
    }
}

/// A part of a text.
struct Chunk<'a> {
    bytes: &'a [u8],
    more: bool,
}

fn is_text(tag: u8) -> bool {
    matches!(tag, 0x00..=0x1f | 0x30..=0x33 | b'R' | b'S')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn skip(bytes: &[u8]) -> Result<usize, Error> {
        let mut reader = Reader::new(bytes);
        reader.skip().map(|()| reader.position())
    }

    #[test]
    fn every_kind_of_value_is_skipped_whole() {
        let values: &[&[u8]] = &[
            b"\x05hello",
            b"\x30\x03abc",
            b"S\x00\x02ab",
            b"R\x00\x01aS\x00\x01b",
            b"\x23abc",
            b"\x34\x01x",
            b"B\x00\x01x",
            b"A\x00\x01x\x21y",
            b"\x90",
            b"\xc8\x01",
            b"\xd4\x01\x02",
            b"I\x00\x00\x00\x01",
            b"\xe0",
            b"\xf8\x01",
            b"\x3c\x01\x02",
            b"\x59\x00\x00\x00\x01",
            b"L\x00\x00\x00\x00\x00\x00\x00\x01",
            b"D\x00\x00\x00\x00\x00\x00\x00\x00",
            b"\x5b",
            b"\x5c",
            b"\x5d\x01",
            b"\x5e\x01\x02",
            b"\x5f\x00\x00\x00\x01",
            b"T",
            b"F",
            b"N",
            b"Q\x90",
            b"\x4a\x00\x00\x00\x00\x00\x00\x00\x01",
            b"\x4b\x00\x00\x00\x01",
            b"H\x01a\x91Z",
            b"M\x01t\x01a\x91Z",
            b"M\x90\x01a\x91Z",
            b"\x55\x01t\x91\x92Z",
            b"\x57\x91\x92Z",
            b"V\x01t\x92\x91\x92",
            b"\x58\x91\x91",
            b"\x71\x01t\x91",
            b"\x79\x91",
            b"C\x01c\x92\x01a\x01b\x60\x91\x92",
            b"C\x01c\x91\x01aO\x90\x91",
        ];
        for value in values {
            let mut bytes = value.to_vec();
            bytes.push(b'N');
            assert_eq!(skip(&bytes), Ok(value.len()), "{value:02x?}");
            for cut in 0..value.len() {
                assert!(skip(&value[..cut]).is_err(), "{value:02x?} cut at {cut}");
            }
        }
    }

    #[test]
    fn texts_count_utf16_units_and_join_chunks() {
        let mut cesu = vec![0x02];
        cesu.extend([0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]);
        let read = |bytes: &[u8]| Reader::new(bytes).string().unwrap().unwrap().into_owned();
        assert_eq!(read(&cesu), "\u{1f600}");
        assert_eq!(read("\u{2}\u{1f600}".as_bytes()), "\u{1f600}");
        assert_eq!(read(b"R\x00\x02ab\x01c"), "abc");
        assert_eq!(Reader::new(b"N").string(), Ok(None));
        assert_eq!(Reader::new(b"\x91").string(), Err(Error::Tag(0x91)));
    }

    #[test]
    fn a_text_too_long_is_passed_over_uncopied() {
        let read = |bytes: &[u8], limit| {
            let mut reader = Reader::new(bytes);
            let text = reader.string_within(limit);
            (text.map(|text| text.map(Cow::into_owned)), reader.int())
        };
        let text = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read(b"\x03abc\x91", 3), (text("abc"), Ok(1)));
        assert_eq!(read(b"\x03abc\x91", 2), (Err(Error::LONG_TEXT), Ok(1)));
        assert_eq!(read(b"R\x00\x02ab\x01c\x91", 3), (text("abc"), Ok(1)));
        assert_eq!(
            read(b"R\x00\x02abR\x00\x02cd\x01e\x91", 2),
            (Err(Error::LONG_TEXT), Ok(1))
        );
        // Six bytes of Java's are four of UTF-8.
        let cesu = b"\x02\xed\xa0\xbd\xed\xb8\x80\x91";
        assert_eq!(read(cesu, 4), (text("\u{1f600}"), Ok(1)));
        assert_eq!(read(cesu, 3), (Err(Error::LONG_TEXT), Ok(1)));
        assert_eq!(read(b"N\x91", 0), (Ok(None), Ok(1)));
    }

    #[test]
    fn entries_of_keys_too_long_are_passed_over() {
        let chunk = [b"R\xff\xff".to_vec(), vec![b'k'; 0xffff]].concat();
        let map = [b"H", &chunk[..], b"\x01k\x05value\x01a\x91Z"].concat();
        let mut seen = Vec::new();
        let mut reader = Reader::new(&map);
        reader
            .map(&mut |key, _| {
                seen.push(key.to_owned());
                Ok(false)
            })
            .unwrap();
        assert_eq!(seen, ["a"]);
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn numbers() {
        let int = |bytes: &[u8]| Reader::new(bytes).int().unwrap();
        assert_eq!(
            [
                int(b"\x80"),
                int(b"\xbf"),
                int(b"\xc0\x00"),
                int(b"\xcf\xff")
            ],
            [-16, 47, -2048, 2047]
        );
        assert_eq!(
            [int(b"\xd0\x00\x00"), int(b"I\xff\xff\xff\xff")],
            [-262_144, -1]
        );
        let long = |bytes: &[u8]| Reader::new(bytes).long().unwrap();
        assert_eq!(
            [long(b"\xd8"), long(b"\xf0\x00"), long(b"\x38\x00\x00")],
            [-8, -2048, -262_144]
        );
        assert_eq!([long(b"\x59\xff\xff\xff\xfe"), long(b"\x91")], [-2, 1]);
        let double = |bytes: &[u8]| Reader::new(bytes).double().unwrap();
        assert_eq!(
            [double(b"\x5b"), double(b"\x5c"), double(b"\x5d\xff")],
            [0.0, 1.0, -1.0]
        );
        assert_eq!(
            [double(b"\x5e\x0b\xb8"), double(b"D\x40\xa7\x70\0\0\0\0\0")],
            [3000.0, 3000.0]
        );
        assert!((double(b"\x5f\0\0\x05\xdc") - 1.5).abs() < 1e-9);
    }

    #[test]
    fn fields_and_entries_are_visited_by_name() {
        let mut seen = Vec::new();
        let bytes = b"C\x01c\x92\x01a\x01b\x60\x03one\x92H\x01k\x01v\x91\x90\x01n\x92Z";
        let mut reader = Reader::new(bytes);
        reader
            .object(&mut |name, reader| {
                if name == "a" {
                    seen.push(reader.string()?.unwrap().into_owned());
                    return Ok(true);
                }
                Ok(false)
            })
            .unwrap();
        reader
            .map(&mut |key, reader| {
                if key == "n" {
                    seen.push(reader.int()?.to_string());
                    return Ok(true);
                }
                Ok(false)
            })
            .unwrap();
        assert_eq!(seen, ["one", "2"]);
        assert_eq!(reader.remaining(), 0);
    }

    #[test]
    fn bombs_are_refused_without_memory_or_stack() {
        let huge_list = b"\x58I\x7f\xff\xff\xff";
        assert_eq!(skip(huge_list), Err(Error::Truncated));
        for nested in [0x57, b'H', 0x79, 0x7f] {
            assert_eq!(skip(&vec![nested; 8 << 20]), Err(Error::Truncated));
        }
        assert_eq!(skip(&b"C\x01c\x90".repeat(100_000)), Err(Error::Truncated));
        assert_eq!(skip(b"\x6f"), Err(Error::Reference));
        // A class that has itself as its only field, again and again.
        let own = [b"C\x01c\x91\x01a".to_vec(), vec![0x60; 100_000]].concat();
        assert_eq!(skip(&own), Err(Error::Truncated));
    }

    #[test]
    fn what_is_there_is_read_however_much_and_however_deep() {
        let ints = [b"\x58I\0\x1e\x84\x80".to_vec(), vec![0x90; 2_000_000]].concat();
        let wide = [b"\x57".to_vec(), vec![b'N'; 2_000_000], b"Z".to_vec()].concat();
        let deep = [vec![0x57; 1 << 20], vec![b'Z'; 1 << 20]].concat();
        let maps = [
            b"H\x90".repeat(100_000),
            b"N".to_vec(),
            b"Z".repeat(100_000),
        ]
        .concat();
        let pairs = [vec![0x7a; 100_000], vec![b'N'; 100_001]].concat();
        let classes: Vec<u8> = (0..3000)
            .flat_map(|_| b"C\x01c\x91\x01a\x60".to_vec())
            .chain([b'N'])
            .collect();
        for body in [ints, wide, deep, maps, pairs, classes] {
            assert_eq!(skip(&body), Ok(body.len()), "{:02x?}", &body[..8]);
        }
    }

    #[test]
    fn entries_are_passed_one_by_one() {
        let body = b"M\x01t\x01a\x91\x57\x92Z\x01bZ\x90";
        let mut reader = Reader::new(body);
        assert_eq!(reader.begin_map(), Ok(true));
        let mut seen = Vec::new();
        while let Some((key, value)) = reader.pass_entry().unwrap() {
            seen.push((&body[key], &body[value]));
        }
        let expected: [(&[u8], &[u8]); 2] = [(b"\x01a", b"\x91"), (b"\x57\x92Z", b"\x01b")];
        assert_eq!(seen, expected);
        assert_eq!(reader.int(), Ok(0));
        assert_eq!(Reader::new(b"N").begin_map(), Ok(false));
        assert_eq!(Reader::new(b"\x91").begin_map(), Err(Error::Tag(0x91)));
        let mut odd = Reader::new(b"H\x01aZ");
        assert_eq!(odd.begin_map(), Ok(true));
        assert!(odd.pass_entry().is_err(), "a key without a value");
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = Reader::new(&bytes);
            while reader.remaining() > 0 && reader.skip().is_ok() {}
            let _ = Reader::new(&bytes).string();
            let _ = Reader::new(&bytes).long();
            let _ = Reader::new(&bytes).map(&mut |_, _| Ok(false));
            let _ = Reader::new(&bytes).object(&mut |_, _| Ok(false));
        }
    }
}
