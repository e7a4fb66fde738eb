//! Prometheus's text format (version 0.0.4).

use std::fmt::Write;

/// A page of metrics.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric: all its samples follow. `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample of the metric that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&'static str, String)], value: f64) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let mut open = '{';
            for (label, text) in labels {
                let _ = write!(self.0, "{open}{label}=\"{}\"", escape(text));
                open = ',';
            }
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A label's value (exposition formats, "Text format details"): backslash, quote and line feed are
/// escaped. Other control characters, which may mean a line's end to whoever reads on, are told by
/// their numbers, so that different names stay different.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            _ if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\\\u{{{:x}}}", u32::from(char));
            }
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_break_a_line() {
        let mut page = Page::default();
        page.sample("m", &[("l", "a\"b\\c\nd".to_owned())], 1.5);
        page.sample("m", &[("l", "a\r\0\u{1b}\u{85}\u{2028}z".to_owned())], 1.5);
        assert_eq!(
            page.into_text(),
            "m{l=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             m{l=\"a\\\\u{d}\\\\u{0}\\\\u{1b}\\\\u{85}\\\\u{2028}z\"} 1.5\n"
        );
    }
}
