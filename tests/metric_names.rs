//! Every metric has one row in the guide, and what dashboards and alert rules name exists.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use finback::config;
use finback::metrics;
use finback::running::Running;
use finback_core::metric::{Family, MetricKind};
use finback_observability::{MetricSink, MetricValue};

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// All families that exporters are shown.
#[derive(Default)]
struct Catalogue(Vec<&'static Family>);

impl MetricSink for Catalogue {
    fn family(&mut self, family: &'static Family) {
        self.0.push(family);
    }

    fn series(&mut self, labels: &[&str], _: MetricValue<'_>) {
        let family = self.0.last().unwrap();
        assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
    }
}

fn families() -> Vec<&'static Family> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/minimal.yaml");
    let mut config = config::load(&file).unwrap();
    for listener in &mut config.listeners {
        listener.address.set_port(0);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut all = Catalogue::default();
    let _inside = runtime.enter();
    let running = Running::start(config).unwrap();
    metrics::collect(&running, &mut all);
    all.0
}

/// How the guide says what a metric is.
fn row(family: &Family) -> String {
    let labels: Vec<_> = family.labels.iter().map(|own| format!("`{own}`")).collect();
    let (name, kind, unit) = (family.name, family.kind.name(), family.unit);
    format!(
        "| `{name}` | {kind} | {unit} | {} | {} |",
        labels.join(", "),
        family.help
    )
}

#[test]
fn the_guide_has_one_row_for_every_metric() {
    let page = text("docs/metrics.md");
    let (_, after) = page.split_once("<!-- metrics: begin -->").unwrap();
    let (shown, _) = after.split_once("<!-- metrics: end -->").unwrap();
    let shown: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let rows: Vec<String> = families().into_iter().map(row).collect();
    let known: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    assert_eq!(known.len(), rows.len(), "a metric is shown twice");
    let missing: Vec<_> = known
        .iter()
        .filter(|row| !shown.contains(row))
        .copied()
        .collect();
    assert!(
        missing.is_empty(),
        "not in docs/metrics.md:\n{}",
        missing.join("\n")
    );
    let gone: Vec<_> = shown
        .iter()
        .filter(|row| !known.contains(**row))
        .copied()
        .collect();
    assert!(
        gone.is_empty(),
        "in docs/metrics.md, and not there:\n{}",
        gone.join("\n")
    );
    assert_eq!(shown.len(), rows.len(), "a row stands twice");
}

#[test]
fn names_are_those_that_prometheus_expects() {
    for family in families() {
        let (name, unit) = (family.name, family.unit);
        let is_counter = family.kind == MetricKind::Counter;
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
        let bare = name.trim_end_matches("_total");
        for named in ["seconds", "bytes"] {
            let is_its_unit = bare.ends_with(&format!("_{named}"));
            assert_eq!(unit == named, is_its_unit, "{name} counts {unit}");
        }
        assert!(family.help.ends_with('.'), "{name}");
    }
}

/// The names of metrics in a text, without what Prometheus adds to those of histograms.
fn named(text: &str, families: &BTreeMap<&str, &Family>) -> BTreeSet<String> {
    let is_part = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    let words = text.split(|char: char| !is_part(char));
    let metrics = words.filter(|word| word.starts_with("finback_") || word.starts_with("process_"));
    let bare = |word: &str| {
        for suffix in ["_bucket", "_sum", "_count"] {
            let base = word.strip_suffix(suffix);
            let family = base.and_then(|base| families.get(base));
            if family.is_some_and(|own| own.kind == MetricKind::Histogram) {
                return base.unwrap().to_owned();
            }
        }
        word.to_owned()
    };
    metrics.map(bare).collect()
}

#[test]
fn dashboards_and_rules_name_what_exists() {
    let families = families();
    let by_name: BTreeMap<&str, &Family> = families.iter().map(|own| (own.name, *own)).collect();
    let mut used = BTreeSet::new();
    for file in [
        "deploy/grafana/finback-prometheus.json",
        "deploy/prometheus/alerts.yaml",
        "deploy/prometheus/alerts.test.yaml",
        "docs/metrics.md",
        "docs/operation.md",
        "docs/configuration.md",
        "docs/messaging.md",
        "docs/registries.md",
        "README.md",
    ] {
        for name in named(&text(file), &by_name) {
            let page = name == "finback_mqtt_" || name == "finback_tcp_";
            // Levels of the log are set for these.
            let module = ["finback_core", "finback_registry", "finback_http"].contains(&&*name);
            assert!(
                page || module || by_name.contains_key(&*name),
                "{file} names {name}"
            );
            used.insert(name);
        }
    }
    assert!(used.len() > 50, "{used:?}");
}

/// Parts of a name with dots that a query of Graphite asks for.
fn asked(query: &str, root: &str) -> Vec<Vec<String>> {
    let each = query.match_indices(root).map(|(at, _)| {
        let rest = &query[at + root.len()..];
        let mut depth = 0;
        let end = rest.find(|char| {
            depth += i32::from(char == '{') - i32::from(char == '}');
            matches!(char, ')' | ' ' | '\'') || char == ',' && depth == 0
        });
        let path = &rest[..end.unwrap_or(rest.len())];
        path.split('.').map(str::to_owned).collect()
    });
    each.collect()
}

#[test]
fn the_dashboard_of_graphite_asks_for_names_as_they_are_sent() {
    let families = families();
    let find = |name: &str| {
        families.iter().copied().find(|own| {
            let bare = own.name.strip_prefix("finback_").unwrap_or(own.name);
            match own.kind {
                MetricKind::Histogram => bare.strip_suffix("_seconds") == Some(name),
                _ => bare == name,
            }
        })
    };
    let board: serde_json::Value =
        serde_json::from_str(&text("deploy/grafana/finback-graphite.json")).unwrap();
    let mut count = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["target"].as_str().unwrap();
            for root in ["stats_counts.$prefix.", "stats.gauges.$prefix."] {
                for path in asked(query, root) {
                    let family = find(&path[0]).unwrap_or_else(|| panic!("{query}: {path:?}"));
                    let parts = usize::from(family.kind == MetricKind::Histogram);
                    assert_eq!(path.len(), 1 + family.labels.len() + parts, "{query}");
                    let is_counter =
                        family.kind == MetricKind::Counter && !family.name.contains("_seconds");
                    let as_counter = root.starts_with("stats_counts");
                    let is_quantile = path.last().unwrap().ends_with("_ms");
                    assert_eq!(is_counter, as_counter && !is_quantile, "{query}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 20, "{count}");
}
