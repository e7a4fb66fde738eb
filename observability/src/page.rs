//! Writes Prometheus' text format (version 0.0.4).

use std::fmt::{Display, Write};

/// What a metric's numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
}

/// A page of metrics being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// The content type to serve it with.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a metric. The samples that follow belong to it; each metric is begun once a page.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One number of the metric, told apart from others by its labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    /// A metric that is one number.
    pub fn number(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// One number of a histogram (`_bucket`, `_sum`, `_count`).
    pub(crate) fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        if !labels.is_empty() {
            let mut before = '{';
            for (name, value) in labels {
                self.text.push(before);
                self.text.push_str(name);
                self.text.push_str("=\"");
                self.escaped(value);
                self.text.push('"');
                before = ',';
            }
            self.text.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    /// A label's value: backslash, quote and line feed are escaped.
    fn escaped(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(arguments);
    }

    /// The page.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_the_format_wants_it() {
        let mut page = Page::default();
        page.family("finback_x_total", Kind::Counter, "Things.");
        page.sample(&[("a", "1"), ("b", "q\"b\\n\nü")], 7);
        page.number("finback_y", Kind::Gauge, "Others.", 0.5);
        assert_eq!(
            page.into_text(),
            "# HELP finback_x_total Things.\n# TYPE finback_x_total counter\n\
             finback_x_total{a=\"1\",b=\"q\\\"b\\\\n\\nü\"} 7\n\
             # HELP finback_y Others.\n# TYPE finback_y gauge\nfinback_y 0.5\n"
        );
    }
}
