//! Fuzzing: any bytes are read as packets of MQTT, and as frames of WebSocket.

use crate::codec::{FixedHeader, Level, Opening, PacketType, Publish, Side, check};

/// Reads bytes as packets of every version and side.
///
/// # Panics
/// If a CONNECT that was read and written again says something else.
pub fn exercise(bytes: &[u8]) {
    for level in [Level::V31, Level::V311, Level::V5] {
        for from in [Side::Client, Side::Server] {
            let mut rest = bytes;
            while let Ok(Some(head)) = FixedHeader::read(rest, level, 1 << 20) {
                if head.kind == PacketType::Publish {
                    let _ = Publish::read(rest, &head, level);
                }
                if rest.len() < head.packet() {
                    break;
                }
                let (packet, after) = rest.split_at(head.packet());
                let _ = check(packet, &head, level, from);
                rest = after;
            }
        }
    }
    if let Ok(Opening::Connect(connect)) = Opening::read(bytes)
        && let Ok(written) = connect.write()
    {
        let head = FixedHeader::read(&written, connect.level, usize::MAX);
        let header = head.ok().flatten().map_or(0, |head| head.header);
        let again = Opening::read(&written[header..]);
        assert_eq!(again, Ok(Opening::Connect(connect)));
    }
    crate::websocket::WebSocket::default().unwrap(&mut bytes.to_vec());
}

/// Takes frames of WebSocket off bytes, whole and in pieces as long as the first byte says.
///
/// # Panics
/// If the pieces carry something else than the whole.
pub fn exercise_websocket(bytes: &[u8]) {
    let Some((&step, frames)) = bytes.split_first() else {
        return;
    };
    let whole = carried(frames, frames.len().max(1));
    let cut = carried(frames, usize::from(step % 32) + 1);
    assert_eq!(whole, cut, "frames carry the same however they are cut");
}

/// What frames carry, how they are answered, and whether they ended or broke.
fn carried(frames: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, bool, bool) {
    let mut own = crate::websocket::WebSocket::default();
    let mut all = Vec::new();
    for piece in frames.chunks(step) {
        let mut piece = piece.to_vec();
        let length = own.unwrap(&mut piece);
        all.extend_from_slice(&piece[..length]);
    }
    assert!(all.len() <= frames.len(), "no byte comes from nowhere");
    (all, own.answers, own.closed, own.broken.is_some())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sound packets, to be cut, joined and damaged.
    const PACKETS: [&[u8]; 9] = [
        b"\x10\x1b\0\x04MQTT\x05\xc6\0\x3c\0\0\x01a\0\0\x01w\0\x01p\0\x01u\0\x01s",
        b"\x10\x11\0\x06MQIsdp\x03\x02\0\x3c\0\x03old",
        b"\x20\x06\0\0\x03\x21\0\x0a",
        b"\x34\x0d\0\x01t\0\x01\x03\x23\0\x01text",
        b"\x62\x03\0\x01\x92",
        b"\x82\x12\0\x01\x02\x0b\x07\0\x0a$share/a/#\x29",
        b"\xa2\x06\0\x02\0\0\x01t",
        b"\xe0\x07\0\x05\x11\0\0\0\x05",
        b"\xf0\x06\x18\x04\x15\0\x01m",
    ];

    #[test]
    fn frames_carry_the_same_however_they_are_cut() {
        let sound = b"\x03\x82\x85abcd\x09\x07\x0f\x08\x0e\x89\x81abcd\x00\x02\x80abcd\x80\x81wxyz\x01\x88\x82abcd\x62\x8a";
        let mut random: u32 = 5;
        for _ in 0..50_000 {
            let mut bytes = sound.to_vec();
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes[0] = (random >> 24) as u8;
            let at = (random >> 8) as usize % bytes.len();
            if random & 0x80 != 0 {
                bytes[at] ^= 1 << (random >> 29);
            }
            super::exercise_websocket(&bytes);
        }
    }

    #[test]
    fn what_is_damaged_was_sound() {
        for packet in PACKETS {
            let level = if packet.len() == 19 {
                Level::V31
            } else {
                Level::V5
            };
            let head = FixedHeader::read(packet, level, 100).unwrap().unwrap();
            assert_eq!(head.packet(), packet.len(), "{packet:x?}");
            let side = if head.kind == PacketType::Connack {
                Side::Server
            } else {
                Side::Client
            };
            check(packet, &head, level, side).unwrap();
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(
            chosen in prop::collection::vec(0..PACKETS.len(), 1..6),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes: Vec<u8> = chosen.iter().flat_map(|own| PACKETS[*own]).copied().collect();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len()) + 1);
            exercise(&bytes);
            exercise(bytes.get(2..).unwrap_or_default());
        }
    }
}
