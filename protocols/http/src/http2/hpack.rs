//! Headers in HTTP/2's compressed form (RFC 7541).

use std::collections::VecDeque;
use std::sync::LazyLock;

use http::header::{HeaderName, HeaderValue};

use super::huffman;

/// What both sides' tables hold before anybody says otherwise, in bytes (RFC 9113, section 6.5.2).
/// Ours never hold more.
pub(crate) const TABLE: usize = 4096;
/// What a table's entry costs beyond its texts (RFC 7541, section 4.1).
const OVERHEAD: usize = 32;
/// Texts that were written lately: what comes again is worth a place in the table.
const RECENT: usize = 64;

/// A header's name, or what HTTP/2 says in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
    Field(HeaderName),
    /// No header may have this name, or this value. It takes its place in the table all the same.
    Bad,
}

impl Name {
    fn read(text: &[u8]) -> Self {
        match text {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => HeaderName::from_lowercase(text).map_or(Self::Bad, Self::Field),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    name: Name,
    value: HeaderValue,
    name_length: usize,
    /// As the standard counts it.
    size: usize,
}

impl Entry {
    fn new(name: Name, name_length: usize, value: &[u8]) -> Self {
        let size = name_length + value.len() + OVERHEAD;
        let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        // RFC 9113, section 8.2.1.
        let padded = space(value.first()) || space(value.last());
        match HeaderValue::from_bytes(value) {
            Ok(value) if !padded => Self {
                name,
                value,
                name_length,
                size,
            },
            _ => Self {
                name: Name::Bad,
                value: HeaderValue::from_static(""),
                name_length,
                size,
            },
        }
    }
}

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let entry = |(name, value): &(&str, &str)| {
        Entry::new(Name::read(name.as_bytes()), name.len(), value.as_bytes())
    };
    STATIC.iter().map(entry).collect()
});

/// The code is broken, and with it the connection: both sides' tables may differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Reads what the peer has written.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
    text: Vec<u8>,
}

/// A number of which `bits` bits stand in the first byte (RFC 7541, section 5.1).
fn number(bytes: &mut &[u8], bits: u32) -> Result<usize, Broken> {
    let (&first, mut rest) = bytes.split_first().ok_or(Broken)?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(Broken)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            // No length, index or size that means anything needs more.
            // RFC 7541, section 5.1: what exceeds a limit of ours is an error.
            if shift > 21 {
                return Err(Broken);
            }
        }
    }
    *bytes = rest;
    Ok(value)
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: TABLE,
            text: Vec::new(),
        }
    }

    /// Reads a block; gives each header with its size.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        each: &mut dyn FnMut(&Name, &HeaderValue, usize),
    ) -> Result<(), Broken> {
        let mut begun = false;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = number(&mut block, 7)?;
                let entry = self.entry(index)?;
                each(&entry.name, &entry.value, entry.size);
            } else if first & 0xe0 == 0x20 {
                // A new size stands at a block's beginning (RFC 7541, section 4.2).
                let limit = number(&mut block, 5)?;
                // RFC 7541, section 6.3.
                if begun || limit > TABLE {
                    return Err(Broken);
                }
                self.limit = limit;
                self.shrink(limit);
                continue;
            } else {
                let kept = first & 0x40 != 0;
                let index = number(&mut block, if kept { 6 } else { 4 })?;
                let mut entry = self.literal(index, &mut block)?;
                // Whoever passes it on keeps it out of tables, too (RFC 7541, section 6.2.3).
                entry.value.set_sensitive(first & 0xf0 == 0x10);
                each(&entry.name, &entry.value, entry.size);
                if kept {
                    self.insert(entry);
                }
            }
            begun = true;
        }
        // What was long once need not be held for good.
        if self.text.capacity() > TABLE {
            self.text = Vec::new();
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<&Entry, Broken> {
        // RFC 7541, section 6.1: there is no entry 0. RFC 7541, section 2.3.3: nor any beyond both tables.
        let index = index.checked_sub(1).ok_or(Broken)?;
        match index.checked_sub(STATIC.len()) {
            None => Ok(&ENTRIES[index]),
            Some(own) => self.entries.get(own).ok_or(Broken),
        }
    }

    fn literal(&mut self, index: usize, block: &mut &[u8]) -> Result<Entry, Broken> {
        let (name, length) = if index == 0 {
            let text = string(block, &mut self.text)?;
            (Name::read(text), text.len())
        } else {
            let entry = self.entry(index)?;
            (entry.name.clone(), entry.name_length)
        };
        let value = string(block, &mut self.text)?;
        Ok(Entry::new(name, length, value))
    }

    fn insert(&mut self, entry: Entry) {
        // RFC 7541, section 4.4.
        self.shrink(self.limit.saturating_sub(entry.size));
        // One that is too large empties the table, and is no error.
        if entry.size <= self.limit {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    fn shrink(&mut self, limit: usize) {
        while self.size > limit
            && let Some(last) = self.entries.pop_back()
        {
            self.size -= last.size;
        }
    }
}

/// A text, which may be coded; then it is put into `text`.
fn string<'a, 'b: 'a>(block: &mut &'b [u8], text: &'a mut Vec<u8>) -> Result<&'a [u8], Broken> {
    let coded = block.first().ok_or(Broken)? & 0x80 != 0;
    let length = number(block, 7)?;
    let (own, rest) = block.split_at_checked(length).ok_or(Broken)?;
    *block = rest;
    if !coded {
        return Ok(own);
    }
    text.clear();
    // RFC 7541, section 5.2: padding is less than a byte of ones.
    if !huffman::decode(own, text) {
        return Err(Broken);
    }
    Ok(text)
}

/// Writes what the peer reads.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Name and value together, and where the value begins; the newest first.
    entries: VecDeque<(Box<[u8]>, usize)>,
    /// Their hashes.
    hashes: VecDeque<u32>,
    size: usize,
    limit: usize,
    /// The least that the limit has been since the last block, if it changed.
    least: Option<usize>,
    recent: Box<[u32; RECENT]>,
    next: usize,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            hashes: VecDeque::new(),
            size: 0,
            limit: TABLE,
            least: None,
            recent: Box::new([0; RECENT]),
            next: 0,
        }
    }

    /// The peer holds no larger table than this.
    pub(crate) fn bound(&mut self, limit: usize) {
        let limit = limit.min(TABLE);
        if limit == self.limit && self.least.is_none() {
            return;
        }
        self.least = Some(self.least.map_or(limit, |least| least.min(limit)));
        self.limit = limit;
        self.shrink(limit);
    }

    /// To be called before a block's first header.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(least) = self.least.take() {
            if least < self.limit {
                put_number(out, 0x20, 5, least);
            }
            put_number(out, 0x20, 5, self.limit);
        }
    }

    /// Writes one header. A sensitive one enters no table, here or at whoever passes it on.
    pub(crate) fn field(&mut self, name: &str, value: &[u8], sensitive: bool, out: &mut Vec<u8>) {
        if sensitive {
            put_number(out, 0x10, 4, name_index(name));
            return put_literal(name, value, out);
        }
        if let Some(index) = whole_index(name, value) {
            return put_number(out, 0x80, 7, index);
        }
        let hash = hash(name.as_bytes(), value);
        if let Some(own) = self.find(hash, name.as_bytes(), value) {
            return put_number(out, 0x80, 7, STATIC.len() + 1 + own);
        }
        let size = name.len() + value.len() + OVERHEAD;
        // One entry that drives all others out serves nobody.
        if size <= self.limit / 4 && self.recent.contains(&hash) {
            put_number(out, 0x40, 6, name_index(name));
            self.shrink(self.limit - size);
            self.size += size;
            let text = [name.as_bytes(), value].concat();
            self.entries.push_front((text.into(), name.len()));
            self.hashes.push_front(hash);
        } else {
            self.recent[self.next] = hash;
            self.next = (self.next + 1) % RECENT;
            put_number(out, 0, 4, name_index(name));
        }
        put_literal(name, value, out);
    }

    fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        let at = self.hashes.iter().position(|&own| own == hash)?;
        let (text, begin) = &self.entries[at];
        (*begin == name.len() && text[..*begin] == *name && text[*begin..] == *value).then_some(at)
    }

    fn shrink(&mut self, limit: usize) {
        while self.size > limit
            && let Some((text, _)) = self.entries.pop_back()
        {
            self.hashes.pop_back();
            self.size -= text.len() + OVERHEAD;
        }
    }
}

/// Never zero, which stands for nothing in the list of recent ones.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (name.len() as u64) << 32 | value.len() as u64;
    for text in [name, value] {
        let mut pieces = text.chunks_exact(8);
        for piece in &mut pieces {
            let word = piece
                .iter()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
            state = (state.rotate_left(5) ^ word).wrapping_mul(FACTOR);
        }
        for &byte in pieces.remainder() {
            state = (state.rotate_left(5) ^ u64::from(byte)).wrapping_mul(FACTOR);
        }
    }
    (state >> 32) as u32 | 1
}

fn put_number(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    put_number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// What follows the index of a name: the name where there is no index, and the value.
fn put_literal(name: &str, value: &[u8], out: &mut Vec<u8>) {
    if name_index(name) == 0 {
        put_string(name.as_bytes(), out);
    }
    put_string(value, out);
}

/// The static entry that is just this.
fn whole_index(name: &str, value: &[u8]) -> Option<usize> {
    Some(match (name, value) {
        (":method", b"GET") => 2,
        (":method", b"POST") => 3,
        (":path", b"/") => 4,
        (":scheme", b"http") => 6,
        (":scheme", b"https") => 7,
        (":status", b"200") => 8,
        (":status", b"204") => 9,
        (":status", b"206") => 10,
        (":status", b"304") => 11,
        (":status", b"400") => 12,
        (":status", b"404") => 13,
        (":status", b"500") => 14,
        _ => return None,
    })
}

/// The first static entry with this name, or 0.
fn name_index(name: &str) -> usize {
    static NAMES: LazyLock<std::collections::HashMap<&str, usize>> = LazyLock::new(|| {
        let numbered = STATIC
            .iter()
            .zip(1..)
            .map(|((name, _), index)| (*name, index));
        // The first of a name is entered last.
        let mut all: Vec<_> = numbered.collect();
        all.reverse();
        all.into_iter().collect()
    });
    NAMES.get(name).copied().unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: String = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
        (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap())
            .collect()
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
        let mut all = Vec::new();
        decoder.decode(block, &mut |name, value, _| {
            let name = match name {
                Name::Field(name) => name.to_string(),
                other => format!("{other:?}"),
            };
            all.push(format!("{name}={}", value.to_str().unwrap()));
        })?;
        Ok(all)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 7541, appendix C.4: three requests on one connection.
        let mut decoder = Decoder::new();
        let first = bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
        let base = ["Method=GET", "Scheme=http", "Path=/"];
        let authority = "Authority=www.example.com";
        assert_eq!(
            read(&mut decoder, &first).unwrap(),
            [&base[..], &[authority]].concat()
        );
        let second = bytes("8286 84be 5886 a8eb 1064 9cbf");
        let expected = [&base[..], &[authority, "cache-control=no-cache"]].concat();
        assert_eq!(read(&mut decoder, &second).unwrap(), expected);
        let third = bytes("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let expected = [
            "Method=GET",
            "Scheme=https",
            "Path=/index.html",
            authority,
            "custom-key=custom-value",
        ];
        assert_eq!(read(&mut decoder, &third).unwrap(), expected);
        assert_eq!((decoder.size, decoder.entries.len()), (164, 3));
    }

    #[test]
    fn what_is_broken_is_told_from_what_is_merely_bad() {
        for broken in [
            "80",               // index 0
            "be",               // nothing there
            "ff80808080808001", // a number without end
            "40",               // no name
            "0001",             // cut short
            "8220",             // a size after a header
            "3fe21f",           // a size above ours: 4097
            "000161ff",         // a long text cut short
            "00811e0161",       // padding that is none
        ] {
            let done = read(&mut Decoder::new(), &bytes(broken));
            assert_eq!(done, Err(Broken), "{broken}");
        }
        // Upper case, a value with a line's end, a value with a space before it.
        for bad in ["00 0141 0161", "00 0161 020a61", "00 0161 022061"] {
            let done = read(&mut Decoder::new(), &bytes(bad)).unwrap();
            assert!(done[0].starts_with("Bad="), "{bad}: {done:?}");
        }
        // A bad one takes its place: what stood before it keeps its number.
        let mut decoder = Decoder::new();
        read(&mut decoder, &bytes("40 0161 0162")).unwrap();
        read(&mut decoder, &bytes("40 0141 0162")).unwrap();
        assert_eq!(
            read(&mut decoder, &bytes("bf be")).unwrap(),
            ["a=b", "Bad=b"]
        );
    }

    #[test]
    fn what_comes_again_is_written_short_and_read_back() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut lengths = Vec::new();
        for round in 0..4 {
            let counter = round.to_string();
            let headers = [
                (":method", "POST"),
                (":path", "/com.acme.OrderService/queryOrder"),
                ("content-type", "application/grpc"),
                ("x-counter", &counter),
                ("authorization", "secret"),
            ];
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value) in headers {
                encoder.field(name, value.as_bytes(), name == "authorization", &mut out);
            }
            let all = read(&mut decoder, &out).unwrap();
            assert_eq!(all.len(), headers.len());
            assert_eq!(all[1], "Path=/com.acme.OrderService/queryOrder");
            assert_eq!(all[3], format!("x-counter={counter}"));
            lengths.push(out.len());
        }
        assert!(lengths[2] < lengths[0] / 2, "{lengths:?}");
        assert_eq!(
            encoder.entries.len(),
            2,
            "only what came again, and is no secret"
        );
    }

    #[test]
    fn tables_of_both_sides_stay_the_same() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut random: u32 = 7;
        for round in 0..3000_usize {
            let mut out = Vec::new();
            if round % 97 == 0 {
                encoder.bound(round % 5 * 100);
                encoder.bound([4096, 8000, 512][round % 3]);
            }
            encoder.begin(&mut out);
            let mut expected = Vec::new();
            for _ in 0..8 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let name = format!("name-{}", random >> 28);
                let value = "v".repeat((random >> 16 & 0xff) as usize % 60);
                encoder.field(&name, value.as_bytes(), false, &mut out);
                expected.push(format!("{name}={value}"));
            }
            assert_eq!(read(&mut decoder, &out).unwrap(), expected, "{round}");
            assert_eq!(encoder.size, decoder.size, "{round}");
            assert!(encoder.size <= TABLE);
        }
        assert!(encoder.entries.len() > 5);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let mut random: u64 = 1;
        let mut decoder = Decoder::new();
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..40)
                .map(|_| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (random >> 56) as u8
                })
                .collect();
            let _ = decoder.decode(&block, &mut |_, _, _| {});
            assert!(decoder.size <= TABLE);
        }
    }

    #[test]
    fn what_is_never_to_be_indexed_stays_so() {
        let mut decoder = Decoder::new();
        let mut heard = Vec::new();
        let block = b"\x10\x01a\x01b\x00\x01a\x01b\x40\x01a\x01b\xbe\x1f\x11\x01c";
        let decoded = decoder.decode(block, &mut |_, value, _| heard.push(value.clone()));
        assert_eq!(decoded, Ok(()));
        let secret: Vec<_> = heard.iter().map(HeaderValue::is_sensitive).collect();
        assert_eq!(secret, [true, false, false, false, true]);
        let mut encoder = Encoder::new();
        for _ in 0..3 {
            let mut out = Vec::new();
            let value = heard[0].clone();
            encoder.field("a", value.as_bytes(), value.is_sensitive(), &mut out);
            assert_eq!(out[0] & 0xf0, 0x10, "{out:?}");
        }
    }
}
