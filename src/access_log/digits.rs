//! Fast formatting of numbers, addresses and times, which are most of a log line, without the machinery of `fmt`.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::log::rfc3339;

/// Appends digits, which are text.
fn put(line: &mut String, digits: &[u8]) {
    line.push_str(str::from_utf8(digits).unwrap_or_default());
}

/// A number, of so many digits at least.
pub(super) fn number(line: &mut String, mut number: u64, least: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < least {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    put(line, &digits[at..]);
}

/// Bytes in hexadecimal, 16 of them at most.
pub(super) fn hex(line: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 32];
    for (two, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        two[0] = DIGITS[usize::from(byte >> 4)];
        two[1] = DIGITS[usize::from(byte & 15)];
    }
    put(line, digits.get(..2 * bytes.len()).unwrap_or_default());
}

/// An address.
pub(super) fn ip(line: &mut String, ip: IpAddr) {
    let IpAddr::V4(own) = ip else {
        let _ = write!(line, "{ip}");
        return;
    };
    let mut text = [0; 15];
    let mut end = 0;
    for (place, part) in own.octets().into_iter().enumerate() {
        if place > 0 {
            text[end] = b'.';
            end += 1;
        }
        for (least, digit) in [(100, part / 100), (10, part / 10 % 10), (0, part % 10)] {
            if part >= least {
                text[end] = b'0' + digit;
                end += 1;
            }
        }
    }
    put(line, &text[..end]);
}

/// An address and a port.
pub(super) fn address(line: &mut String, address: SocketAddr) {
    match address {
        SocketAddr::V4(own) => {
            ip(line, (*own.ip()).into());
            line.push(':');
            number(line, own.port().into(), 1);
        }
        SocketAddr::V6(own) => {
            let _ = write!(line, "{own}");
        }
    }
}

/// The time, in UTC with microseconds (RFC 3339).
pub(super) fn time(line: &mut String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    at(line, now.as_secs(), now.subsec_micros());
}

/// How much of a time is the same all through a second: `2026-11-26T05:30:00.`.
const SAME: usize = 20;

fn at(line: &mut String, second: u64, micros: u32) {
    thread_local! {
        /// The last second that was written, and how.
        static LAST: RefCell<(u64, String)> = RefCell::new((0, rfc3339(0, 0)));
    }
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second {
            (*last, *text) = (second, rfc3339(second, 0));
        }
        line.push_str(text.get(..SAME).unwrap_or_default());
    });
    number(line, micros.into(), 6);
    line.push('Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String)) -> String {
        let mut line = String::new();
        write(&mut line);
        line
    }

    #[test]
    fn digits_are_those_that_formatting_gives() {
        for own in [0, 1, 9, 10, 65_535, 1_000_000, u64::MAX] {
            assert_eq!(written(|line| number(line, own, 1)), own.to_string());
        }
        assert_eq!(written(|line| number(line, 7, 3)), "007");
        assert_eq!(written(|line| hex(line, &[0x0f, 0xa0])), "0fa0");
        for own in [
            "10.0.255.7:80",
            "[::1]:65535",
            "[fe80::1%2]:1",
            "0.9.10.100:1",
        ] {
            let parsed: Result<SocketAddr, _> = own.parse();
            let Ok(parsed) = parsed else { panic!("{own}") };
            assert_eq!(written(|line| address(line, parsed)), own);
            assert_eq!(
                written(|line| ip(line, parsed.ip())),
                parsed.ip().to_string()
            );
        }
        for (second, micros) in [(0, 0), (1_700_000_000, 7), (1_700_000_000, 999_999), (0, 1)] {
            let own = written(|line| at(line, second, micros));
            assert_eq!(own, rfc3339(second, micros));
        }
    }
}
