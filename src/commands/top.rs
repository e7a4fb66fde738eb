//! `finback top`: what is called, how often, how fast and with how many errors.

mod clusters;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use finback_core::text::Escaped;
use serde_json::Value;

use crate::admin::client::{AdminIdentity, Client, Part};
use crate::config::units;
use crate::log::say;

use clusters::Clusters;

/// Rows where nobody says how high the terminal is.
const ROWS: usize = 40;
/// Columns, likewise.
const COLUMNS: usize = 110;
/// What stands beside the name: protocol, rate, errors, p50, p99, all calls.
const BESIDE: usize = 58;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// The configuration file, which names the admin port.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// From one table to the next.
    #[arg(long, value_name = "TIME", default_value = "2s")]
    every: String,
    /// End after so many tables. Default: go on.
    #[arg(short = 'n', long, value_name = "NUMBER")]
    number: Option<u64>,
    /// End after one.
    #[arg(long, conflicts_with = "number")]
    once: bool,
    /// One row per service, its methods together.
    #[arg(long)]
    services: bool,
    /// Clusters in place of services: endpoints, calls in flight, and the limit that adaptive concurrency found out.
    #[arg(long, conflicts_with_all = ["services", "service", "sort"])]
    clusters: bool,
    /// Only services that begin so.
    #[arg(long, value_name = "NAME", default_value = "")]
    service: String,
    /// In this order: `rate`, `errors`, `p99` or `name`.
    #[arg(long, default_value = "rate")]
    sort: String,
    #[command(flatten)]
    identity: AdminIdentity,
}

/// What was counted of one row at a time.
#[derive(Clone, Debug, Default)]
struct Counts {
    calls: u64,
    errors: u64,
    buckets: Vec<u64>,
}

/// Protocol, service and method.
type Name = (String, String, String);

/// Everything at one time.
struct Sample {
    at: f64,
    started_at: f64,
    bounds: Vec<f64>,
    rows: BTreeMap<Name, Counts>,
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: Name,
    rate: f64,
    /// The share of calls that failed.
    errors: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    all: u64,
}

/// Shows tables until interrupted, or as many as are wanted.
///
/// # Errors
/// If the process cannot be asked.
pub async fn top(options: Options) -> anyhow::Result<ExitCode> {
    let every = units::time(&options.every).map_err(anyhow::Error::msg)?;
    ensure!(
        ["rate", "errors", "p99", "name"].contains(&options.sort.as_str()),
        "`{}` is not an order; write rate, errors, p99 or name",
        options.sort
    );
    let client = Client::of(&options.config, Part::Pages, &options.identity)?;
    let mut before = sample(&client, &options).await?;
    let mut left = match (options.once, options.number) {
        (true, _) => 1,
        (false, number) => number.unwrap_or(u64::MAX),
    };
    let live = std::io::stdout().is_terminal();
    if options.clusters {
        return top_clusters(&client, every, left, live).await;
    }
    while left > 0 {
        tokio::time::sleep(every).await;
        let now = sample(&client, &options).await?;
        // A process that began anew counts from nothing.
        if now.started_at != before.started_at {
            before = now;
            continue;
        }
        print(&options, &before, &now, live);
        before = now;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// The same of clusters.
async fn top_clusters(
    client: &Client,
    every: Duration,
    mut left: u64,
    live: bool,
) -> anyhow::Result<ExitCode> {
    let mut before = clusters_now(client).await?;
    while left > 0 {
        tokio::time::sleep(every).await;
        let now = clusters_now(client).await?;
        let (height, width) = size(live);
        show(
            &now.table(&before, every.as_secs_f64(), height, width),
            live,
        );
        before = now;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

async fn clusters_now(client: &Client) -> anyhow::Result<Clusters> {
    let value = client.value("/clusters").await?;
    Clusters::read(&value).context(UNREADABLE)
}

/// What is said of an answer of another version.
const UNREADABLE: &str = "the answer cannot be read; is it another version of Finback?";

async fn sample(client: &Client, options: &Options) -> anyhow::Result<Sample> {
    let value = client.value("/services").await?;
    read(&value, options).context(UNREADABLE)
}

fn read(value: &Value, options: &Options) -> Option<Sample> {
    let bounds = value["bounds_ms"].as_array()?;
    let mut rows = BTreeMap::<Name, Counts>::new();
    for own in value["series"].as_array()? {
        let word = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
        if !word("service").starts_with(&options.service) {
            continue;
        }
        let method = if options.services {
            String::new()
        } else {
            word("method")
        };
        let counts = rows
            .entry((word("protocol"), word("service"), method))
            .or_default();
        for (outcome, count) in own["outcomes"].as_object()? {
            let count = count.as_u64()?;
            counts.calls += count;
            if !["success", "sent"].contains(&outcome.as_str()) {
                counts.errors += count;
            }
        }
        let buckets = own["buckets"].as_array()?;
        counts.buckets.resize(buckets.len(), 0);
        for (sum, count) in counts.buckets.iter_mut().zip(buckets) {
            *sum += count.as_u64()?;
        }
    }
    Some(Sample {
        at: value["at"].as_f64()?,
        started_at: value["started_at"].as_f64()?,
        bounds: bounds.iter().filter_map(Value::as_f64).collect(),
        rows,
    })
}

/// What was between two times, of what was called at all.
fn rows(before: &Sample, now: &Sample, sort: &str) -> Vec<Row> {
    let seconds = (now.at - before.at).max(0.001);
    let nothing = Counts::default();
    let mut rows: Vec<Row> = now
        .rows
        .iter()
        .map(|(name, own)| {
            let old = before.rows.get(name).unwrap_or(&nothing);
            let calls = own.calls.saturating_sub(old.calls);
            let errors = own.errors.saturating_sub(old.errors);
            let former = old.buckets.iter().chain(std::iter::repeat(&0));
            let own_buckets = own.buckets.iter().zip(former);
            let buckets: Vec<u64> = own_buckets
                .map(|(own, old)| own.saturating_sub(*old))
                .collect();
            Row {
                name: name.clone(),
                rate: calls as f64 / seconds,
                errors: if calls == 0 {
                    0.0
                } else {
                    errors as f64 / calls as f64
                },
                p50: quantile(0.5, &buckets, &now.bounds),
                p99: quantile(0.99, &buckets, &now.bounds),
                all: own.calls,
            }
        })
        .collect();
    let by = |row: &Row| match sort {
        "errors" => row.errors * row.rate,
        "p99" => row.p99.unwrap_or(0.0),
        "name" => 0.0,
        _ => row.rate,
    };
    rows.sort_by(|a, b| by(b).total_cmp(&by(a)).then_with(|| a.name.cmp(&b.name)));
    rows
}

/// The time in milliseconds below which a share of the calls was, from counts by bucket.
fn quantile(share: f64, buckets: &[u64], bounds: &[f64]) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    let mut left = share * all as f64;
    for (at, count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        if left <= *count as f64 {
            let low = at
                .checked_sub(1)
                .and_then(|at| bounds.get(at))
                .copied()
                .unwrap_or(0.0);
            let high = bounds.get(at).copied().unwrap_or(low);
            return Some(low + (high - low) * left / *count as f64);
        }
        left -= *count as f64;
    }
    None
}

/// Rows and columns of the terminal.
fn size(live: bool) -> (usize, usize) {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|own| own.parse().ok());
    let of_terminal = live
        .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())
        .flatten()
        .filter(|own| own.ws_col > 0 && own.ws_row > 0);
    match of_terminal {
        Some(own) => (usize::from(own.ws_row), usize::from(own.ws_col)),
        None => (
            if live { ROWS } else { usize::MAX },
            columns.unwrap_or(COLUMNS),
        ),
    }
}

fn print(options: &Options, before: &Sample, now: &Sample, live: bool) {
    let (height, width) = size(live);
    show(
        &table(&rows(before, now, &options.sort), height, width),
        live,
    );
}

fn show(text: &str, live: bool) {
    if live {
        // Home, and what stood there is gone line by line: nothing flickers.
        let text = text.replace('\n', "\x1b[K\n");
        let _ = write!(std::io::stdout().lock(), "\x1b[H{text}\x1b[J");
        let _ = std::io::stdout().flush();
    } else {
        say(format_args!("{text}"));
    }
}

/// As many rows as fit, none wider than the terminal.
fn table(rows: &[Row], height: usize, width: usize) -> String {
    let names = width.saturating_sub(BESIDE).max(12);
    let mut text = format!(
        "{} {:>8} {:>9} {:>8} {:>9} {:>9} {:>9}\n",
        fitted("SERVICE.METHOD", names),
        "PROTOCOL",
        "CALLS/S",
        "ERRORS",
        "P50",
        "P99",
        "ALL CALLS"
    );
    // The head, and a line for what is left out.
    let room = height.saturating_sub(3).max(1);
    for row in rows.iter().take(room) {
        let (protocol, service, method) = &row.name;
        let dot = if method.is_empty() { "" } else { "." };
        let name = Escaped(&format!("{service}{dot}{method}")).to_string();
        text.push_str(&format!(
            "{} {:>8} {:>9} {:>8} {:>9} {:>9} {:>9}\n",
            fitted(&name, names),
            protocol,
            number(row.rate),
            format!("{:.1} %", row.errors * 100.0),
            millis(row.p50),
            millis(row.p99),
            row.all
        ));
    }
    match rows.len().saturating_sub(room) {
        _ if rows.is_empty() => text.push_str("nothing was called yet\n"),
        0 => {}
        left => text.push_str(&format!("and {left} more\n")),
    }
    text
}

/// A name in exactly so many columns, cut at its beginning: what tells it from others is at its end.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return format!("{name:<width$}");
    }
    let end: String = name.chars().skip(length + 2 - width).collect();
    format!("..{end}")
}

fn number(value: f64) -> String {
    match value {
        own if own >= 100_000.0 => format!("{:.0}k", own / 1000.0),
        own if own >= 100.0 => format!("{own:.0}"),
        own => format!("{own:.1}"),
    }
}

fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(own) if own >= 1000.0 => format!("{:.2} s", own / 1000.0),
        Some(own) if own >= 1.0 => format!("{own:.1} ms"),
        Some(own) => format!("{:.0} us", own * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, rate: f64) -> Row {
        Row {
            name: ("bolt".to_owned(), name.to_owned(), "pay".to_owned()),
            rate,
            errors: 0.25,
            p50: Some(0.4),
            p99: Some(1234.0),
            all: 12,
        }
    }

    #[test]
    fn a_table_fits_into_its_terminal() {
        let long = "com.acme.a.very.long.name.of.a.service.that.nobody.would.type.Payments";
        let rows: Vec<_> = (0..50).map(|n| row(long, f64::from(n))).collect();
        for (height, width) in [(24, 80), (10, 120), (40, 71)] {
            let text = table(&rows, height, width);
            assert!(text.lines().count() <= height, "{text}");
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width), "{width}: {text}");
            assert!(text.contains("ments.pay"), "{text}");
            assert!(text.contains("more"), "{text}");
        }
        assert!(table(&[], 24, 80).contains("nothing"));
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let text = table(&[row("a\x1b[2Jb\nc", 1.0)], 24, 80);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn quantiles_are_found_within_their_buckets() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(0.5, &[0, 10, 0, 0], &bounds), Some(1.5));
        assert_eq!(quantile(0.99, &[99, 0, 0, 1], &bounds), Some(1.0));
        assert_eq!(quantile(1.0, &[0, 0, 0, 5], &bounds), Some(4.0));
        assert_eq!(quantile(0.5, &[0, 0, 0, 0], &bounds), None);
    }
}
