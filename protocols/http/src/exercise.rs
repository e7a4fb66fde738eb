//! Any bytes through all that reads them, for fuzzing.

use crate::{http1, http2};

/// Reads bytes as either version's side that is asked, and that asks, would.
///
/// # Panics
/// If more is held than the bounds allow.
pub fn exercise(bytes: &[u8]) {
    http1::exercise(bytes);
    http2::exercise(bytes);
}

#[cfg(test)]
mod tests {
    use super::exercise;

    #[test]
    fn any_bytes_are_read_without_harm() {
        let whole = [
            &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"[..],
            // HEADERS: POST http / with a content type, then DATA that ends it; PING; WINDOW_UPDATE.
            &[0, 0, 3, 1, 4, 0, 0, 0, 1, 0x83, 0x86, 0x84],
            &[0, 0, 3, 0, 1, 0, 0, 0, 1, b'a', b'b', b'c'],
            &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        ]
        .concat();
        exercise(&whole);
        let frames = &whole[whole.len() - 54..];
        exercise(frames);
        let mut random: u32 = 3;
        for round in 0..20_000_usize {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mut bytes = match round % 2 {
                0 => whole.clone(),
                _ => frames.to_vec(),
            };
            let at = random as usize % bytes.len();
            bytes[at] ^= 1 << (random >> 29);
            let other = (random >> 8) as usize % bytes.len();
            bytes[other] = (random >> 20) as u8;
            exercise(&bytes);
        }
    }
}
