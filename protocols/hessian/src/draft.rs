//! Reads the draft of Hessian 2 that SOFA-RPC's hessian 3.x writes, without ever building a value.
//!
//! Tags of hessian 3.x, for which nothing but its source stands (Hessian 3: Hessian2Constants):
//!
//! ```text
//! 00-1f string of 0-31    20-2f binary of 0-15   38-3f long, 3 bytes    4a 4b R  reference
//! 42 B  last binary chunk 62 b  binary chunk     53 S  last text chunk  73 s  text chunk
//! 46 F  false             54 T  true             4e N  null             49 I  int, 4 bytes
//! 80-bf int, 1 byte       c0-cf int, 2 bytes     d0-d7 int, 3 bytes     44 D  67-6b double
//! 4c L 77 d8-ff long      64 d  date             58 X 78 x xml          72 r  remote
//! 56 V  list until z      76 v  list of n        4d M  map until z      4f O  class, then a value
//! 6f o  object            7a z  end
//! ```

use std::borrow::Cow;
use std::mem;

use crate::nest::{Nest, Open};
use crate::{Error, text};

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
        match self.byte()? {
            b'N' => Ok(None),
            tag => self.text(tag, limit).map(Some),
        }
    }

    /// Reads an int.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Tag`] if the value is not an int.
    pub fn int(&mut self) -> Result<i32, Error> {
        self.bare_int()
    }

    /// Reads an object (or null): calls `visit` with each field's name, which answers whether it
    /// read the field's value. What it did not read is skipped, as are fields of names that
    /// nobody can be looking for, so long are they.
    ///
    /// # Errors
    /// Any [`Error`], also one of `visit`'s own; [`Error::Tag`] if the value is not an object.
    pub fn object(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        loop {
            match self.byte()? {
                b'N' => return Ok(()),
                b'O' => self.define()?,
                b'o' => break,
                tag => return Err(Error::Tag(tag)),
            }
        }
        let class = self.class()?;
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

    /// Reads a map (or null): calls `visit` with each key that is a text, which answers whether
    /// it read the key's value. What it did not read is skipped, as are entries of other keys and
    /// of keys that nobody can be looking for, so long are they.
    ///
    /// # Errors
    /// Any [`Error`], also one of `visit`'s own; [`Error::Tag`] if the value is not a map.
    pub fn map(
        &mut self,
        visit: &mut dyn FnMut(&str, &mut Self) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        match self.byte()? {
            b'N' => return Ok(()),
            b'M' => self.pass_type()?,
            tag => return Err(Error::Tag(tag)),
        }
        loop {
            let tag = self.ahead()?;
            if tag == b'z' {
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

    /// Skips what is left of the containers of `nest`, the stack that recursion would have used.
    fn skip_within(&mut self, nest: &mut Nest) -> Result<(), Error> {
        while let Some(open) = nest.innermost() {
            let ended = match open {
                Open::Count(left) => left == 0,
                Open::UntilEnd => {
                    let ended = self.ahead()? == b'z';
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
                nest.enter(inner, self.bytes.len() - self.at)?;
            }
        }
        Ok(())
    }

    /// Passes over one scalar, or over the beginning of a container, which it returns.
    fn enter(&mut self) -> Result<Option<Open>, Error> {
        loop {
            match self.byte()? {
                tag if is_text(tag) => self.pass_text(tag)?,
                b'F' | b'T' | b'N' | 0x67 | 0x68 | 0x80..=0xbf | 0xd8..=0xef => {}
                0x4a | 0x69 | 0xc0..=0xcf | 0xf0..=0xff => self.advance(1)?,
                0x38..=0x3f | 0x4b | 0x6a | 0xd0..=0xd7 => self.advance(2)?,
                b'R' | b'I' | 0x6b | 0x77 => self.advance(4)?,
                b'D' | b'L' | b'd' => self.advance(8)?,
                tag @ (0x20..=0x2f | b'B' | b'b') => self.pass_binary(tag)?,
                b'V' => {
                    self.pass_type()?;
                    self.pass_length()?;
                    return Ok(Some(Open::UntilEnd));
                }
                b'v' => {
                    self.bare_int()?;
                    return Ok(Some(Open::Count(self.count()?)));
                }
                b'M' => {
                    self.pass_type()?;
                    return Ok(Some(Open::UntilEnd));
                }
                b'O' => {
                    // A definition is no value: one follows.
                    self.define()?;
                    continue;
                }
                b'o' => return Ok(Some(Open::Count(self.class()?.fields as usize))),
                b'r' => {
                    self.pass_type()?;
                    match self.byte()? {
                        tag if is_text(tag) => self.pass_text(tag)?,
                        tag => return Err(Error::Tag(tag)),
                    }
                }
                tag => return Err(Error::Tag(tag)),
            }
            return Ok(None);
        }
    }

    /// Reads a class definition, after its `O`.
    fn define(&mut self) -> Result<(), Error> {
        let name_units = self.count()?;
        self.at = text::end(self.bytes, self.at, name_units)?;
        let fields = self.count()?;
        let names_at = self.at;
        for _ in 0..fields {
            let tag = self.byte()?;
            if !is_text(tag) {
                return Err(Error::Tag(tag));
            }
            self.pass_text(tag)?;
        }
        // No frame is so long that these do not fit.
        let narrow = |number: usize| u32::try_from(number).map_err(|_| Error::Truncated);
        let (names_at, fields) = (narrow(names_at)?, narrow(fields)?);
        self.classes.push(Class { names_at, fields });
        Ok(())
    }

    /// Reads the class index of an object, after its `o`.
    fn class(&mut self) -> Result<Class, Error> {
        let index = usize::try_from(self.bare_int()?).map_err(|_| Error::Reference)?;
        self.classes.get(index).copied().ok_or(Error::Reference)
    }

    /// Passes over the type of a list or map, if there is one.
    fn pass_type(&mut self) -> Result<(), Error> {
        match self.ahead()? {
            b't' => {
                self.at += 1;
                let units = self.u16()?;
                self.at = text::end(self.bytes, self.at, units)?;
            }
            b'T' | 0x75 => {
                self.at += 1;
                self.bare_int()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Passes over the length of a list, if there is one.
    fn pass_length(&mut self) -> Result<(), Error> {
        match self.ahead()? {
            0x6e => {
                self.at += 1;
                self.advance(1)
            }
            b'l' => {
                self.at += 1;
                let length = i32::from_be_bytes(self.array()?);
                self.plausible(length).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Reads an int that counts something of at least one byte each.
    fn count(&mut self) -> Result<usize, Error> {
        let count = self.bare_int()?;
        self.plausible(count)
    }

    fn plausible(&self, count: i32) -> Result<usize, Error> {
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() => Ok(count),
            _ => Err(Error::Truncated),
        }
    }

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

    fn pass_binary(&mut self, mut tag: u8) -> Result<(), Error> {
        loop {
            let len = match tag {
                0x20..=0x2f => usize::from(tag - 0x20),
                b'B' | b'b' => self.u16()?,
                other => return Err(Error::Tag(other)),
            };
            self.advance(len)?;
            if tag != b'b' {
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

    /// Reads one chunk of a text, after its tag.
    fn chunk(&mut self, tag: u8) -> Result<Chunk<'a>, Error> {
        let units = match tag {
            0x00..=0x1f => usize::from(tag),
            b'S' | b's' | b'X' | b'x' => self.u16()?,
            other => return Err(Error::Tag(other)),
        };
        let end = text::end(self.bytes, self.at, units)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Error::Truncated)?;
        self.at = end;
        Ok(Chunk {
            bytes,
            more: matches!(tag, b's' | b'x'),
        })
    }

    fn ahead(&self) -> Result<u8, Error> {
        self.bytes.get(self.at).copied().ok_or(Error::Truncated)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let byte = self.ahead()?;
        self.at += 1;
        Ok(byte)
    }

    fn u16(&mut self) -> Result<usize, Error> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let array = self.bytes[self.at..]
            .first_chunk()
            .copied()
            .ok_or(Error::Truncated)?;
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

/// One chunk of a text, and whether another follows.
struct Chunk<'a> {
    bytes: &'a [u8],
    more: bool,
}

fn is_text(tag: u8) -> bool {
    matches!(tag, 0x00..=0x1f | b'S' | b's' | b'X' | b'x')
}
