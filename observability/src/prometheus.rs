//! Prometheus's text format (version 0.0.4).

use std::fmt::Write;

use finback_core::metric::Family;

use crate::sink::{BOUNDS, Latencies, MetricSink, MetricValue};

/// A page of metrics.
#[derive(Default)]
pub struct Page {
    text: String,
    family: Option<&'static Family>,
}

impl Page {
    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// One line: a sample of `name` with a suffix, and with one more label if there is one.
    fn sample(&mut self, family: &Family, suffix: &str, labels: &[&str], le: &str, value: f64) {
        self.text.push_str(family.name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (label, value) in family.labels.iter().zip(labels) {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{open}{label}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
            open = ',';
        }
        if !le.is_empty() {
            let _ = write!(self.text, "{open}le=\"{le}\"");
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], latencies: &Latencies) {
        let mut below = 0;
        let bounds = BOUNDS
            .iter()
            .map(|micros| (*micros as f64 / 1e6).to_string());
        for (le, count) in bounds.chain(["+Inf".to_owned()]).zip(latencies.buckets) {
            below += count;
            self.sample(family, "_bucket", labels, &le, below as f64);
        }
        let sum = latencies.micros as f64 / 1e6;
        self.sample(family, "_sum", labels, "", sum);
        self.sample(family, "_count", labels, "", below as f64);
    }
}

impl MetricSink for Page {
    fn family(&mut self, family: &'static Family) {
        let (name, kind) = (family.name, family.kind.name());
        let _ = writeln!(
            self.text,
            "# HELP {name} {}\n# TYPE {name} {kind}",
            family.help
        );
        self.family = Some(family);
    }

    fn series(&mut self, labels: &[&str], value: MetricValue<'_>) {
        let Some(family) = self.family else { return };
        match value {
            MetricValue::Count(count) => self.sample(family, "", labels, "", count as f64),
            MetricValue::Number(number) => self.sample(family, "", labels, "", number),
            MetricValue::Latencies(latencies) => self.histogram(family, labels, latencies),
        }
    }
}

/// A label's value (exposition formats, "Text format details"): backslash, quote and line feed are
/// escaped. Other control characters, which may mean a line's end to whoever reads on, are told by
/// their numbers, so that different names stay different.
fn escape(out: &mut String, text: &str) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_break_a_line() {
        static ANY: Family = Family::gauge("m", "1", &["l"], "Any.");
        let mut page = Page::default();
        page.family(&ANY);
        page.series(&["a\"b\\c\nd"], MetricValue::Number(1.5));
        page.series(&["a\r\0\u{1b}\u{85}\u{2028}z"], MetricValue::Number(1.5));
        assert_eq!(
            page.into_text(),
            "# HELP m Any.\n# TYPE m gauge\n\
             m{l=\"a\\\"b\\\\c\\nd\"} 1.5\n\
             m{l=\"a\\\\u{d}\\\\u{0}\\\\u{1b}\\\\u{85}\\\\u{2028}z\"} 1.5\n"
        );
    }

    #[test]
    fn buckets_cumulate() {
        static TIMES: Family = Family::histogram("t_seconds", "seconds", &["l"], "Times.");
        let mut latencies = Latencies::default();
        for micros in [50, 51, 70_000_000] {
            latencies.buckets[Latencies::bucket(micros)] += 1;
            latencies.micros += micros;
        }
        let mut page = Page::default();
        page.family(&TIMES);
        page.series(&["x"], MetricValue::Latencies(&latencies));
        let text = page.into_text();
        for line in [
            "t_seconds_bucket{l=\"x\",le=\"0.00005\"} 1",
            "t_seconds_bucket{l=\"x\",le=\"0.0001\"} 2",
            "t_seconds_bucket{l=\"x\",le=\"60\"} 2",
            "t_seconds_bucket{l=\"x\",le=\"+Inf\"} 3",
            "t_seconds_sum{l=\"x\"} 70.000101",
            "t_seconds_count{l=\"x\"} 3",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in\n{text}");
        }
    }
}
