//! A line of an access log: its fields, as JSON or by a template.

use std::fmt::Write;

use finback_core::record::{Record, SeriesKey};
use finback_core::text;

use super::digits;
use super::format::{AccessLogFormat, FIELDS, LogField, Piece};
use crate::log::is_fit;
use crate::protocols;

/// The longest name in a line, in bytes.
const LONGEST: usize = 1024;
/// What a field that says nothing is in a template.
const NOTHING: &str = "-";

/// Appends the line of an exchange that ends now, with its end.
pub(super) fn put(
    line: &mut String,
    format: &AccessLogFormat,
    key: &SeriesKey,
    record: &Record<'_>,
) {
    match format {
        AccessLogFormat::Json => {
            let begin = line.len();
            for (name, field, _) in &FIELDS {
                let before = line.len();
                line.push_str(if before == begin { "{\"" } else { ",\"" });
                line.push_str(name);
                line.push_str("\":");
                if !json(line, *field, key, record) {
                    line.truncate(before);
                }
            }
            line.push('}');
        }
        AccessLogFormat::Text(pieces) => {
            for piece in pieces.iter() {
                match piece {
                    Piece::Words(words) => line.push_str(words),
                    Piece::LogField(field) => plain(line, *field, key, record),
                }
            }
        }
    }
    line.push('\n');
}

/// The value of a field that is a text.
fn name<'a>(field: LogField, key: &'a SeriesKey, record: &'a Record<'_>) -> Option<&'a str> {
    let name = match field {
        LogField::Listener => &key.listener,
        LogField::Protocol => key.protocol,
        LogField::Service => &key.service,
        LogField::Method => &key.method,
        LogField::Version => record.about.version(),
        LogField::Group => record.about.group(),
        LogField::Route => record.about.route(),
        LogField::Filter => record.about.filter(),
        LogField::Lane => record.about.lane(),
        LogField::Cluster => record.about.cluster(),
        LogField::Outcome => record.ending.name(),
        _ => return None,
    };
    Some(text::cut(name, LONGEST))
}

/// Writes the value of a field that is a number, or made of numbers; false if there is none.
fn number(line: &mut String, field: LogField, key: &SeriesKey, record: &Record<'_>) -> bool {
    match field {
        LogField::Time => digits::time(line),
        LogField::Source => digits::ip(line, record.about.source()),
        LogField::Endpoint => match record.about.endpoint() {
            Some(address) => digits::address(line, address),
            None => return false,
        },
        LogField::Status => match protocols::status_name(key.protocol, record.status) {
            Some(name) => line.push_str(&name),
            None => return false,
        },
        LogField::Duration => {
            digits::number(line, record.micros / 1000, 1);
            line.push('.');
            digits::number(line, record.micros % 1000, 3);
        }
        LogField::Attempts => digits::number(line, record.attempts.into(), 1),
        LogField::RequestBytes => digits::number(line, record.request_bytes, 1),
        LogField::ResponseBytes => digits::number(line, record.response_bytes, 1),
        LogField::TraceId if record.trace.is_some() => digits::hex(line, &record.trace.0),
        _ => return false,
    }
    true
}

/// Whether a name stands in a line as it is, which nearly all do.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b'\\');
    name.as_bytes().iter().all(is_plain)
}

fn json(line: &mut String, field: LogField, key: &SeriesKey, record: &Record<'_>) -> bool {
    if let Some(name) = name(field, key, record) {
        if name.is_empty() {
            return false;
        }
        line.push('"');
        if is_plain(name) {
            line.push_str(name);
        } else {
            escaped(line, name);
        }
        line.push('"');
        return true;
    }
    let is_text = matches!(
        field,
        LogField::Time
            | LogField::Source
            | LogField::Endpoint
            | LogField::Status
            | LogField::TraceId
    );
    if !is_text {
        return number(line, field, key, record);
    }
    line.push('"');
    let written = number(line, field, key, record);
    line.push('"');
    written
}

/// A text as JSON has it, without its quotes.
fn escaped(line: &mut String, name: &str) {
    for char in name.chars() {
        match char {
            '"' | '\\' => line.extend(['\\', char]),
            _ if is_fit(char) => line.push(char),
            // RFC 8259, section 7; none of these is beyond the basic plane.
            _ => {
                let _ = write!(line, "\\u{:04x}", u32::from(char));
            }
        }
    }
}

fn plain(line: &mut String, field: LogField, key: &SeriesKey, record: &Record<'_>) {
    let before = line.len();
    match name(field, key, record) {
        Some(name) if is_plain(name) => line.push_str(name),
        Some(name) => {
            for char in name.chars() {
                // A blank would feign another field.
                if is_fit(char) && !char.is_whitespace() && char != '\\' {
                    line.push(char);
                } else {
                    let _ = write!(line, "{}", char.escape_unicode());
                }
            }
        }
        None => {
            number(line, field, key, record);
        }
    }
    if line.len() == before {
        line.push_str(NOTHING);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::access_log::format::TEXT;
    use finback_core::frame::{Outcome, Status};
    use finback_core::record::{About, Ending, TraceId};
    use std::net::{IpAddr, SocketAddr};

    fn key(service: &str) -> SeriesKey {
        SeriesKey {
            protocol: "http",
            known: true,
            listener: "web".into(),
            service: service.into(),
            method: "GET".into(),
        }
    }

    struct Shop;

    impl About for Shop {
        fn source(&self) -> IpAddr {
            [127, 0, 0, 1].into()
        }

        fn endpoint(&self) -> Option<SocketAddr> {
            Some(([10, 0, 0, 7], 80).into())
        }

        fn route(&self) -> &str {
            "main"
        }

        fn cluster(&self) -> &str {
            "shop"
        }
    }

    fn record() -> Record<'static> {
        Record {
            status: Status(503),
            micros: 12_007,
            attempts: 2,
            request_bytes: 5,
            response_bytes: 7,
            trace: TraceId([0x1f; 16]),
            ..Record::new(Ending::Answered(Outcome::Failed), &Shop)
        }
    }

    fn line(format: &AccessLogFormat, key: &SeriesKey, record: &Record<'_>) -> String {
        // Behind another one, as in a buffer.
        let mut lines = "before\n".to_owned();
        put(&mut lines, format, key, record);
        lines.split_off(7)
    }

    #[test]
    fn json_has_every_field_that_says_something() {
        let line = line(
            &AccessLogFormat::Json,
            &key("a\"\\\n\u{9b}\u{202e}\u{e9}"),
            &record(),
        );
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            !line.contains('\u{9b}') && !line.contains('\u{202e}'),
            "{line}"
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["service"], "a\"\\\n\u{9b}\u{202e}\u{e9}");
        assert_eq!(read["status"], "503");
        assert_eq!(read["duration_ms"], 12.007);
        assert_eq!(read["endpoint"], "10.0.0.7:80");
        assert_eq!(read["attempts"], 2);
        assert_eq!(read["trace_id"], "1f".repeat(16));
        assert!(read.get("version").is_none());
        assert_eq!(read.as_object().unwrap().len(), FIELDS.len() - 4);
    }

    #[test]
    fn a_template_has_one_word_for_each_field() {
        let format: AccessLogFormat = "text".parse().unwrap();
        let line = line(&format, &key("a b\nERROR \\x"), &record());
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        assert_eq!(words.len(), TEXT.matches('{').count(), "{line}");
        assert_eq!(words[4], "a\\u{20}b\\u{a}ERROR\\u{20}\\u{5c}x");
        assert_eq!(words[7], "503");
        let format: AccessLogFormat = "<{version}> {outcome}!".parse().unwrap();
        assert_eq!(self::line(&format, &key("s"), &record()), "<-> failed!\n");
    }
}
