//! One line of the log, as text or JSON. Whatever peers sent, it stays on its line: control characters are
//! written as their numbers (CWE-117).

use std::fmt::{self, Write};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// Time, level, message, and `name=value` of each field.
    #[default]
    Text,
    /// An object: `time`, `level`, `target`, `message`, and each field by its name.
    Json,
}

/// The line of an event, with its end.
pub(super) fn line(format: LineFormat, colours: bool, event: &Event<'_>) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let time = time();
    let metadata = event.metadata();
    match format {
        LineFormat::Json => json(&time, *metadata.level(), metadata.target(), fields),
        LineFormat::Text => text(&time, *metadata.level(), colours, &fields),
    }
}

fn json(time: &str, level: Level, target: &str, fields: Fields) -> String {
    let mut object = Map::new();
    for (name, value) in [
        ("time", time),
        ("level", level.as_str()),
        ("target", target),
    ] {
        object.insert(name.to_owned(), value.into());
    }
    object.insert("message".to_owned(), fields.message.into());
    for (name, value) in fields.others {
        object.insert(name.to_owned(), value);
    }
    let object = Value::from(object).to_string();
    let mut line = String::with_capacity(object.len() + 1);
    for char in object.chars() {
        if is_fit(char) {
            line.push(char);
        } else {
            // RFC 8259, section 7: only within texts, and none is beyond the basic plane.
            let _ = write!(line, "\\u{:04x}", u32::from(char));
        }
    }
    line.push('\n');
    line
}

fn text(time: &str, level: Level, colours: bool, fields: &Fields) -> String {
    let mut line = format!("{time} {level:>5} ");
    if colours {
        let colour = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            _ => 34,
        };
        line = format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{level:>5}\x1b[0m ");
    }
    escape(&fields.message, &mut line);
    for (name, value) in &fields.others {
        let _ = write!(line, " {name}=");
        match value {
            Value::String(text) if fields.quoted.contains(name) => {
                let quoted = format!("{text:?}");
                escape(&quoted, &mut line);
            }
            Value::String(text) => escape(text, &mut line),
            other => {
                let _ = write!(line, "{other}");
            }
        }
    }
    line.push('\n');
    line
}

fn escape(text: &str, line: &mut String) {
    for char in text.chars() {
        if is_fit(char) {
            line.push(char);
        } else {
            let _ = write!(line, "{}", char.escape_default());
        }
    }
}

/// Whether a character may stand in a line: it ends no line, and steers no terminal. Line separators and marks
/// that turn the direction of writing around feign lines, too.
pub(crate) fn is_fit(char: char) -> bool {
    let feigns =
        matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !feigns
}

/// Now, in UTC with microseconds, as RFC 3339 writes it.
fn time() -> String {
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    rfc3339(now.as_secs(), now.subsec_micros())
}

/// The civil date of a day counted from 1970, by the cycle of 400 years (146,097 days).
pub(crate) fn rfc3339(seconds: u64, micros: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March, so that the day that comes and goes is their last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let in_month = in_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{in_month:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
    /// Those that were given as texts: they are in quotes, so that it is seen where they end.
    quoted: Vec<&'static str>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.quoted.push(field.name());
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_does() {
        for (seconds, micros, wanted) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (1_709_251_199, 999_999, "2024-02-29T23:59:59.999999Z"),
            (1_764_142_200, 123_456, "2025-11-26T07:30:00.123456Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(seconds, micros), wanted);
        }
    }

    #[test]
    fn nothing_leaves_its_line() {
        let fields = Fields {
            message: "a\nb".to_owned(),
            others: vec![(
                "who",
                "x\r\n2026 ERROR forged \x1b[31m\u{2028}\u{202e}".into(),
            )],
            quoted: Vec::new(),
        };
        let line = text("T", Level::INFO, false, &fields);
        assert_eq!(
            line,
            "T  INFO a\\nb who=x\\r\\n2026 ERROR forged \\u{1b}[31m\\u{2028}\\u{202e}\n"
        );
        let line = json("T", Level::INFO, "m", fields);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.trim_end().chars().all(is_fit), "{line}");
        let read: Value = serde_json::from_str(&line).unwrap_or_default();
        assert_eq!(read["level"], "INFO");
        assert_eq!(read["message"], "a\nb");
    }
}
