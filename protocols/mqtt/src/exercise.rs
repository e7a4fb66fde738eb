//! Any bytes through all that reads them, for fuzzing.

use crate::codec::{Head, Kind, Level, Opening, Publish, Side, check};

/// Reads bytes as packets of every version and side.
///
/// # Panics
/// If a CONNECT that was read and written again says something else.
pub fn exercise(bytes: &[u8]) {
    for level in [Level::V31, Level::V311, Level::V5] {
        for from in [Side::Client, Side::Server] {
            let mut rest = bytes;
            while let Ok(Some(head)) = Head::read(rest, level, 1 << 20) {
                if head.kind == Kind::Publish {
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
        let head = Head::read(&written, connect.level, usize::MAX);
        let header = head.ok().flatten().map_or(0, |head| head.header);
        let again = Opening::read(&written[header..]);
        assert_eq!(again, Ok(Opening::Connect(connect)));
    }
    let _ = crate::websocket::WebSocket::default().unwrap(&mut bytes.to_vec());
}
