//! A frame's header, packed into what core carries along with the frame.

use finback_core::frame::{MARKS, Malformed};

use crate::fields::{Fields, Mark, Said};
use crate::header::{Encoding, IdAt, NO_HEADER, PREFIX};

/// Why a request's fields cannot be used, though its header can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    Broken,
    Twice,
    Long,
    NoNumber,
}

impl Problem {
    const ALL: [Self; 4] = [Self::Broken, Self::Twice, Self::Long, Self::NoNumber];

    pub(crate) fn why(self) -> Malformed {
        match self {
            Self::Broken => NO_HEADER,
            Self::Twice => Malformed::Content("a field of the request stands twice"),
            Self::Long => Malformed::LONG_NAME,
            Self::NoNumber => Malformed::Content("a field of the request is not a number"),
        }
    }
}

/// Where things stand in a frame: [`Head::marks`], unpacked. No header is so long that 18 bits could not say where.
#[derive(Debug)]
pub(crate) struct Marks {
    pub(crate) id_at: IdAt,
    /// See [`Header::fields_at`].
    pub(crate) fields_at: usize,
    pub(crate) said: Said,
}

impl Marks {
    const PLACE: u32 = (1 << 18) - 1;
    /// Of a fetch, in the last one: its group in one number. It outlives the frame's bytes.
    pub(crate) const GROUP: usize = MARKS - 1;

    #[inline]
    pub(crate) fn pack(&self) -> [u32; MARKS] {
        let place = |at: usize| u32::try_from(at).unwrap_or_default() & Self::PLACE;
        let id = match self.id_at {
            IdAt::There(at, length) => place(at) | place(length) << 18,
            IdAt::Missing { at, more } => place(at) | u32::from(more) << 31,
        };
        let problem = self.said.problem.map_or(0, |problem| problem as u32 + 1);
        let fields = place(self.fields_at) | problem << 18 | u32::from(self.said.is_signed) << 31;
        let Said {
            topic,
            group,
            wait,
            queue,
            ..
        } = self.said;
        [id, fields, topic.0, group.0, wait, queue.cast_unsigned(), 0]
    }

    /// The same of an answer, which has no topic: what it says of its consumer's lag stands there instead.
    pub(crate) fn pack_answer(&self, lag: Option<u64>) -> [u32; MARKS] {
        let mut marks = self.pack();
        if let Some(lag) = lag {
            [marks[2], marks[3], marks[4]] = [lag as u32, (lag >> 32) as u32, 1];
        }
        marks
    }

    /// What an answer says of its consumer's lag.
    pub(crate) fn lag(marks: [u32; MARKS]) -> Option<u64> {
        let [_, _, low, high, is_there, ..] = marks;
        (is_there == 1).then(|| u64::from(high) << 32 | u64::from(low))
    }

    #[inline]
    pub(crate) fn unpack([id, fields, topic, group, wait, queue, _]: [u32; MARKS]) -> Self {
        let place = |mark| (mark & Self::PLACE) as usize;
        let id_at = match (id >> 18) as usize & 0xff {
            0 => IdAt::Missing {
                at: place(id),
                more: id >> 31 != 0,
            },
            length => IdAt::There(place(id), length),
        };
        let problem = (fields >> 18 & 7).checked_sub(1);
        Self {
            id_at,
            fields_at: place(fields),
            said: Said {
                topic: Mark(topic),
                group: Mark(group),
                wait,
                queue: queue.cast_signed(),
                is_signed: fields >> 31 != 0,
                problem: problem.and_then(|own| Problem::ALL.get(own as usize).copied()),
            },
        }
    }
}

/// Where a frame's body begins, as its prefix says.
pub(crate) fn body_at(wire: &[u8]) -> usize {
    match wire.first_chunk::<PREFIX>() {
        Some([.., a, b, c]) => PREFIX + u32::from_be_bytes([0, *a, *b, *c]) as usize,
        None => wire.len(),
    }
}

/// The fields of a frame, which begin where its marks say.
pub(crate) fn fields(wire: &[u8], at: usize) -> Fields<'_> {
    Fields {
        wire,
        encoding: Encoding::of(wire),
        at,
        body_at: body_at(wire),
    }
}

/// What outlives a frame's bytes: [`Head::codec_data`], unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodecData {
    /// What is asked for, or how it ended.
    pub(crate) code: i32,
    /// The sender's library understands GO_AWAY.
    pub(crate) knows_go_away: bool,
}

impl CodecData {
    const CODE: u32 = (1 << 24) - 1;

    /// A code beyond those that anybody uses stands for all of them.
    pub(crate) fn pack(self) -> u32 {
        let code = u32::try_from(self.code).unwrap_or(Self::CODE);
        code.min(Self::CODE) | u32::from(self.knows_go_away) << 24
    }

    pub(crate) fn unpack(codec_data: u32) -> Self {
        Self {
            code: i32::try_from(codec_data & Self::CODE).unwrap_or_default(),
            knows_go_away: codec_data >> 24 & 1 != 0,
        }
    }
}
