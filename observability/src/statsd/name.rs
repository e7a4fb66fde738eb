//! Names and tags of StatsD: what its servers would misread is replaced.

use finback_core::metric::{Family, MetricKind};

use super::{Settings, StatsdFormat};

/// What the names of our metrics begin with in Prometheus; here that is the prefix's business.
const OWN: &str = "finback_";

/// The name of a series without the prefix, and its tags. `part` tells several numbers of one series
/// apart; it may be empty.
pub(super) fn of(
    settings: &Settings,
    family: &Family,
    labels: &[&str],
    part: &str,
) -> (String, Vec<(String, String)>) {
    let mut name = family.name;
    name = name.strip_prefix(OWN).unwrap_or(name);
    if family.kind == MetricKind::Histogram {
        // Its parts have units of their own.
        name = name.strip_suffix("_seconds").unwrap_or(name);
    }
    let mut name = name.to_owned();
    let mut tags = Vec::new();
    match settings.format {
        StatsdFormat::Plain => {
            for label in labels {
                name.push('.');
                word(&mut name, label);
            }
        }
        StatsdFormat::Dogstatsd => {
            let own = family.labels.iter().zip(labels);
            let told = own.filter(|(_, value)| !value.is_empty());
            tags.extend(told.map(|(label, value)| ((*label).to_owned(), tag(value))));
            tags.extend(settings.tags.iter().cloned());
        }
    }
    if !part.is_empty() {
        name.push('.');
        name.push_str(part);
    }
    (name, tags)
}

/// One part of a name with dots, as Etsy's server keeps it.
fn word(out: &mut String, label: &str) {
    if label.is_empty() {
        out.push('_');
    }
    let kept = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-');
    out.extend(
        label
            .chars()
            .map(|char| if kept(char) { char } else { '_' }),
    );
}

/// A tag's value: commas, bars and ends of lines would end it.
fn tag(value: &str) -> String {
    let ends = |char: char| matches!(char, ',' | '|' | '#' | '@') || char.is_whitespace();
    let kept = |char: char| !ends(char) && !char.is_control();
    value
        .chars()
        .map(|char| if kept(char) { char } else { '_' })
        .collect()
}
