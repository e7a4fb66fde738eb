//! `finback tap`: exchanges of a process that runs, as they end.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use finback_core::text::Escaped;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::admin::client::{AdminIdentity, Client, Part};
use crate::admin::tap::TapFilter;
use crate::log::{complain, say};

/// A line that is longer is none of ours.
const LONGEST: usize = 64 * 1024;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// The configuration file, which names the admin port.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    filter: TapFilter,
    /// End after so many exchanges.
    #[arg(short = 'n', long, value_name = "NUMBER")]
    number: Option<u64>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    identity: AdminIdentity,
}

/// Shows exchanges until the process ends, or as many as are wanted.
///
/// # Errors
/// If the process cannot be asked, or stops.
pub async fn tap(options: Options) -> anyhow::Result<ExitCode> {
    let client = Client::of(&options.config, Part::Pages, &options.identity)?;
    let answer = client.get(&options.filter.target()).await?;
    let status = answer.status();
    let mut body = answer.into_body();
    if status != 200 {
        let why = body.collect().await?.to_bytes();
        bail!(
            "{} answers {status}: {}",
            client.address(),
            String::from_utf8_lossy(&why).trim()
        );
    }
    let mut left = options.number.unwrap_or(u64::MAX);
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Ok(value) = serde_json::from_slice::<Value>(&line) else {
                // Of silence.
                continue;
            };
            if let Some(lost) = value["lost"].as_u64() {
                complain(format_args!("{lost} exchanges are left out here"));
                continue;
            }
            if options.json {
                say(format_args!("{value}"));
            } else {
                say(format_args!("{}", text(&value)));
            }
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if pending.len() > LONGEST {
            bail!("the answer of {} cannot be read", client.address());
        }
    }
    bail!("{} ended the tap: the process stops", client.address())
}

/// An exchange in one line.
fn text(own: &Value) -> String {
    let word = |name: &str| Escaped(own[name].as_str().unwrap_or_default()).to_string();
    let seconds = own["time"].as_f64().unwrap_or_default().max(0.0);
    let of_day = seconds % 86_400.0;
    let (hours, minutes) = ((of_day / 3600.0) as u32, (of_day % 3600.0 / 60.0) as u32);
    let method = word("method");
    let dot = if method.is_empty() { "" } else { "." };
    let outcome = match own["status"].as_str() {
        Some(status) => format!("{} ({})", word("outcome"), Escaped(status)),
        None => word("outcome"),
    };
    let lane = match own["lane"].as_str() {
        None | Some("") => String::new(),
        Some(lane) => format!(", lane {}", Escaped(lane)),
    };
    let to = match own["endpoint"].as_str() {
        Some(endpoint) => format!(" -> {endpoint} of {}{lane}", word("cluster")),
        None => lane,
    };
    let again = match own["attempts"].as_u64() {
        Some(attempts) if attempts > 1 => format!(", {attempts} attempts"),
        _ => String::new(),
    };
    format!(
        "{hours:02}:{minutes:02}:{:06.3} {} {}{dot}{method} {outcome} {:.3} ms{again}, {} -> {}{to}",
        of_day % 60.0,
        word("protocol"),
        word("service"),
        own["took_ms"].as_f64().unwrap_or_default(),
        word("source"),
        word("listener"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_in_which_lane_an_exchange_was() {
        let line = |lane: &str| {
            text(&json!({
                "time": 3661.5, "protocol": "bolt", "service": "com.acme.Pay", "method": "pay",
                "outcome": "success", "took_ms": 1.25, "attempts": 1, "source": "10.0.0.1",
                "listener": "in", "endpoint": "10.0.0.7:12200", "cluster": "pay", "lane": lane,
            }))
        };
        let plain = "01:01:01.500 bolt com.acme.Pay.pay success 1.250 ms, 10.0.0.1 -> in -> 10.0.0.7:12200 of pay";
        assert_eq!(line(""), plain);
        assert_eq!(line("gray"), format!("{plain}, lane gray"));
    }
}
