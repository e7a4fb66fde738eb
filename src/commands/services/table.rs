//! A table of providers as wide as its content, or as the terminal if that is narrower.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use finback_core::text::Escaped;
use finback_registry::{Offer, Provider};
use serde_json::json;

use super::Place;
use crate::log::say;

const HEADS: [&str; 10] = [
    "REGISTRY", "LAYOUT", "SERVICE", "ENDPOINT", "SPEAKS", "VERSION", "GROUP", "WEIGHT", "AGE",
    "LABELS",
];
/// Columns that are cut first, and to how many letters.
const CUT: [(usize, usize); 4] = [(9, 12), (2, 16), (0, 8), (3, 21)];
/// Columns that are left out in a narrow terminal where they say nothing.
const LEFT_OUT: [usize; 4] = [5, 6, 8, 9];
const GAP: usize = 2;
/// What stands for nothing.
const NOTHING: &str = "-";

type Row = [String; HEADS.len()];

/// Rows for people, or objects for programs.
pub(super) struct Table {
    json: bool,
    rows: Vec<Row>,
    /// Widths so far, for rows that come later.
    widths: [usize; HEADS.len()],
    is_headed: bool,
    terminal: Option<usize>,
}

impl Table {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            rows: Vec::new(),
            widths: HEADS.map(str::len),
            is_headed: false,
            terminal: terminal_width(),
        }
    }

    /// Adds a service's providers.
    pub(super) fn add(&mut self, place: &Place, name: &str, offer: &Offer) {
        if self.json {
            let object = json!({
                "registry": place.registry,
                "layout": place.layout.name(),
                "service": name,
                "known": offer.known,
                "providers": offer.providers.iter().map(|own| &**own).collect::<Vec<_>>(),
            });
            say(format_args!("{object}"));
            return;
        }
        if offer.providers.is_empty() {
            let mut row = Row::default();
            row[0].clone_from(&place.registry);
            row[1] = place.layout.name().to_owned();
            row[2] = Escaped(name).to_string();
            row[3] = "(no providers)".to_owned();
            self.rows.push(row);
        }
        for provider in &offer.providers {
            self.rows.push(row(place, name, provider));
        }
    }

    /// Prints what was added since the last time.
    pub(super) fn print(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        if rows.is_empty() {
            return;
        }
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let widths = fit(self.widths, &rows, self.terminal);
        if !std::mem::replace(&mut self.is_headed, true) {
            say(format_args!(
                "{}",
                line(&HEADS.map(str::to_owned), &widths, self.terminal)
            ));
        }
        for row in &rows {
            say(format_args!("{}", line(row, &widths, self.terminal)));
        }
    }
}

fn row(place: &Place, name: &str, provider: &Provider) -> Row {
    let labels: Vec<String> = provider
        .labels
        .iter()
        .filter(|(label, _)| !matches!(*label, "version" | "group"))
        .map(|(label, value)| format!("{label}={value}"))
        .chain(
            provider
                .origin
                .iter()
                .map(|origin| format!("(bridged from {origin})")),
        )
        .collect();
    [
        place.registry.clone(),
        provider.layout.name().to_owned(),
        name.to_owned(),
        provider.address.to_string(),
        provider.protocol.clone(),
        provider.version.clone(),
        provider.group.clone(),
        provider.weight.to_string(),
        age(provider.since),
        labels.join(" "),
    ]
    .map(|cell| match &*cell {
        "" => NOTHING.to_owned(),
        // Whatever is in a registry shall not move a terminal's cursor.
        cell => Escaped(cell).to_string(),
    })
}

/// The width of each column, 0 for one that is left out.
fn fit(
    mut widths: [usize; HEADS.len()],
    rows: &[Row],
    terminal: Option<usize>,
) -> [usize; HEADS.len()] {
    let Some(terminal) = terminal else {
        return widths;
    };
    let total = |widths: &[usize]| -> usize {
        let shown = widths.iter().filter(|width| **width > 0);
        shown.map(|width| width + GAP).sum::<usize>() - GAP
    };
    if total(&widths) > terminal {
        for column in LEFT_OUT {
            if rows.iter().all(|row| matches!(&*row[column], NOTHING | "")) {
                widths[column] = 0;
            }
        }
    }
    for (column, least) in CUT {
        let over = total(&widths).saturating_sub(terminal);
        let width = &mut widths[column];
        if *width > least {
            *width = width.saturating_sub(over).max(least);
        }
    }
    // Narrower than the least of all: the last columns are left out.
    for column in (4..HEADS.len()).rev() {
        if total(&widths) > terminal {
            widths[column] = 0;
        }
    }
    widths
}

fn line(row: &Row, widths: &[usize; HEADS.len()], terminal: Option<usize>) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        if *width == 0 {
            continue;
        }
        let cell = cut(cell, *width, column == 2);
        // A String takes everything.
        let _ = match HEADS[column] {
            "WEIGHT" | "AGE" => write!(line, "{cell:>width$}"),
            _ => write!(line, "{cell:<width$}"),
        };
        line.push_str(&" ".repeat(GAP));
    }
    let line = line.trim_end();
    terminal.map_or_else(|| line.to_owned(), |width| cut(line, width, false))
}

/// As much of a text as there is room for: of a service's name its end, which tells more.
fn cut(text: &str, width: usize, from_end: bool) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    if from_end {
        let rest = text.chars().skip(length + 1 - width);
        return std::iter::once('…').chain(rest).collect();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The terminal's width, if this goes to one or a width is given.
pub(crate) fn terminal_width() -> Option<usize> {
    let given = std::env::var("COLUMNS")
        .ok()
        .and_then(|own| own.parse().ok());
    let stdout = std::io::stdout();
    let own = stdout
        .is_terminal()
        .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
        .flatten();
    let own = own.map(|size| usize::from(size.ws_col));
    own.or(given).filter(|width| *width > 0)
}

/// Time since a moment, in its largest unit.
fn age(since: Option<u64>) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let Some(since) = since.filter(|since| *since > 0) else {
        return String::new();
    };
    let seconds = now.saturating_sub(Duration::from_millis(since)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(terminal: Option<usize>) -> Vec<String> {
        let rows: [Row; 2] = [
            [
                "a-long-registry",
                "dubbo",
                "com.acme.shop.orders.OrderService",
                "192.168.100.100:20880",
                "dubbo",
                "1.0.0",
                "-",
                "100",
                "3m",
                "application=shop zone=a",
            ],
            [
                "zk",
                "sofa",
                "com.acme.Pay",
                "10.0.0.1:1",
                "bolt",
                "-",
                "-",
                "7",
                "12d",
                "-",
            ],
        ]
        .map(|row| row.map(str::to_owned));
        let mut widths = HEADS.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let widths = fit(widths, &rows, terminal);
        let heads = [HEADS.map(str::to_owned)];
        let all = heads.iter().chain(&rows);
        all.map(|row| line(row, &widths, terminal)).collect()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let lines = lines(None);
        for (head, cells) in [
            ("SERVICE", ["com.acme.shop", "com.acme.Pay"]),
            ("SPEAKS", ["dubbo  ", "bolt"]),
        ] {
            let at = lines[0].find(head).unwrap_or_default();
            for (line, cell) in lines[1..].iter().zip(cells) {
                assert!(line[at..].starts_with(cell), "{head}: {line}");
            }
        }
        assert!(lines[1].ends_with("application=shop zone=a"));
    }

    #[test]
    fn a_narrow_terminal_is_not_overrun() {
        for width in [200, 120, 100, 80, 60, 20, 1] {
            let lines = lines(Some(width));
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            if width < 60 {
                continue;
            }
            assert!(lines[1].contains("OrderService"), "{width}: {lines:?}");
            assert!(
                lines[1].contains("192.168.100.100:20880"),
                "{width}: {lines:?}"
            );
        }
    }
}
