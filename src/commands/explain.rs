//! `finback explain`: which way a call would take, and why.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use finback_core::discovery::{Discovery, Lookup, SnapshotSink, WatchGuard};
use finback_core::mesh::Mesh;
use finback_core::text::Escaped;
use finback_observability::Metrics;
use serde_json::Value;

use crate::admin::client::{AdminIdentity, Client, Part};
use crate::admin::explain::{Entrance, ExplainQuestion, explain as explained};
use crate::log::{complain, say};
use crate::{config, protocols};

/// What to explain.
#[derive(Args)]
pub struct Options {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    question: ExplainQuestion,
    /// Look at the file only, and ask no process.
    #[arg(long)]
    offline: bool,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    identity: AdminIdentity,
}

/// Explains a call; exits 1 if it would not be served.
///
/// # Errors
/// If the question makes no sense, or the configuration none.
pub async fn explain(options: Options) -> anyhow::Result<ExitCode> {
    let told = match running(&options).await? {
        Some(told) => told,
        None => alone(&options.config, &options.question).await?,
    };
    if options.json {
        say(format_args!("{told:#}"));
    } else {
        say(format_args!("{}", text(&told).trim_end()));
    }
    Ok(if told["served"] == true {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the process that runs says; `None` if none does.
async fn running(options: &Options) -> anyhow::Result<Option<Value>> {
    if options.offline {
        return Ok(None);
    }
    let Ok(settings) = config::admin(&options.config) else {
        return Ok(None);
    };
    if settings.address.is_none() {
        return Ok(None);
    }
    let client = Client::of(&options.config, Part::Pages, &options.identity)?;
    match client.get("/version").await {
        Ok(_) => Ok(Some(client.value(&options.question.target()).await?)),
        Err(error) => {
            complain(format_args!(
                "{error:#}; what follows is what the file says, of endpoints nothing is known"
            ));
            Ok(None)
        }
    }
}

/// Nobody to ask who serves what.
struct Nobody;

impl Discovery for Nobody {
    fn watch(&self, _: &Lookup, _: Arc<dyn SnapshotSink>) -> WatchGuard {
        Box::new(())
    }
}

/// What the file says.
async fn alone(file: &Path, question: &ExplainQuestion) -> anyhow::Result<Value> {
    let config = config::load(file)?;
    let entrances: Vec<_> = config
        .listeners
        .iter()
        .map(|own| Entrance {
            name: own.name.to_string(),
            table: own.routes.to_string(),
            protocols: own.protocols.iter().map(|own| own.name()).collect(),
        })
        .collect();
    let observer = Arc::new(Metrics::new(protocols::status_label));
    let layouts: HashMap<_, _> = protocols::layouts();
    let mesh = Mesh::new(config.routing, layouts, Arc::new(Nobody), observer);
    explained(question, &entrances, &mesh, None)
        .await
        .map_err(anyhow::Error::msg)
}

/// It in words.
fn text(told: &Value) -> String {
    let mut out = String::new();
    let word = |value: &Value| Escaped(value.as_str().unwrap_or_default()).to_string();
    let call = &told["call"];
    let name = [&call["service"], &call["method"]].map(word).join(".");
    // Writing to a text cannot fail.
    let _ = writeln!(
        out,
        "{} by {}, on listener {}, table {}: {}\n",
        if name == "." {
            "a call".to_owned()
        } else {
            name.trim_end_matches('.').to_owned()
        },
        word(&call["protocol"]),
        word(&told["listener"]),
        word(&told["table"]),
        word(&told["verdict"])
    );
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for passed in list(&told["passed"]) {
        let _ = writeln!(
            out,
            "not route {}: {}",
            word(&passed["route"]),
            word(&passed["why"])
        );
    }
    if let Some(name) = told["route"]["name"].as_str() {
        let to = word(&told["route"]["to"]);
        let _ = writeln!(out, "route {}: to {to}", Escaped(name));
    }
    for own in list(&told["route"]["copies"]) {
        let _ = writeln!(out, "  {}", word(&own));
    }
    for own in list(&told["filters"]) {
        let (name, kind) = (word(&own["name"]), word(&own["kind"]));
        let what = match own["refuses"]["rule"].as_str() {
            None if kind == "authorization" => "lets it pass",
            None if kind == "lane" => "may put it into a lane",
            None if kind == "strip" => "may take something away",
            None => "may hold it up",
            Some("") => "refuses it: no rule allows it",
            Some(_) => "refuses it",
        };
        let _ = write!(out, "filter {name} ({kind}): {what}");
        if let Some(rule) = own["refuses"]["rule"]
            .as_str()
            .filter(|own| !own.is_empty())
        {
            let _ = write!(out, ", by rule {}", Escaped(rule));
        }
        out.push('\n');
    }
    if let Some(lane) = told["lane"].as_str() {
        let _ = writeln!(out, "lane {}", Escaped(lane));
    }
    for own in list(&told["destinations"]) {
        destination(&own, &mut out);
    }
    out
}

fn destination(own: &Value, out: &mut String) {
    let word = |value: &Value| Escaped(value.as_str().unwrap_or_default()).to_string();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let share = own["share_percent"].as_f64().unwrap_or_default();
    let _ = write!(
        out,
        "\ncluster {}, {share:.0} % of the calls",
        word(&own["cluster"])
    );
    if let Some(labels) = own["subset"].as_object() {
        let labels = labels
            .iter()
            .map(|(name, value)| format!("{name}={}", word(value)));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let _ = write!(out, ", of these {labels} (else {})", word(&own["fallback"]));
    }
    out.push('\n');
    for endpoint in list(&own["endpoints"]) {
        let _ = write!(
            out,
            "  {:24} {:10} weight {}, {} in flight",
            word(&endpoint["address"]),
            word(&endpoint["state"]),
            endpoint["weight_now"],
            endpoint["in_flight"]
        );
        let why = word(&endpoint["why"]);
        if !why.is_empty() {
            let _ = write!(out, ": {why}");
        }
        if let Some(left) = endpoint["ends_in_seconds"].as_f64() {
            let _ = write!(out, " (for {left:.0} s more)");
        }
        out.push('\n');
    }
    for endpoint in list(&own["others"]) {
        let _ = writeln!(
            out,
            "  {:24} not chosen: {}",
            word(&endpoint["address"]),
            word(&endpoint["why_not"])
        );
    }
    let says = &own["registry_says"];
    if says["answers"] == false {
        out.push_str("  the registry does not answer\n");
    }
    for provider in list(&says["providers"]) {
        let _ = writeln!(
            out,
            "  {:24} provides it, as the registry says: {} version '{}' group '{}' weight {}",
            word(&provider["address"]),
            word(&provider["protocol"]),
            word(&provider["version"]),
            word(&provider["group"]),
            provider["weight"]
        );
    }
}
