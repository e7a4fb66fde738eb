//! `grpc-timeout`: at most eight digits and a unit (gRPC: PROTOCOL-HTTP2.md).

use std::time::Duration;

use http::HeaderValue;

/// The largest number that eight digits write.
const MOST: u128 = 99_999_999;

/// The timeout that a header states; `None` if it states none.
pub(crate) fn read(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A header that states this timeout, in the finest unit that has room for it.
pub(crate) fn write(timeout: Duration) -> HeaderValue {
    let units = [
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
    ];
    let fits = units.into_iter().find(|(number, _)| *number <= MOST);
    let (number, unit) = fits.unwrap_or((MOST, 'S'));
    HeaderValue::from_str(&format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0u"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for timeout in [0, 1, 999, 99_999_999, 100_000_000, 86_400_000_000_u64] {
            let timeout = Duration::from_micros(timeout);
            let read = read(&write(timeout));
            assert!(read.is_some_and(|read| timeout - read < Duration::from_millis(1)));
        }
    }

    #[test]
    fn nonsense_states_nothing() {
        for text in ["", "m", "1", "1x", "-1m", "123456789m", "1.5S"] {
            let value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
            assert_eq!(read(&value), None, "{text}");
        }
        assert_eq!(
            read(&HeaderValue::from_static("2H")),
            Some(Duration::from_secs(7200))
        );
    }
}
