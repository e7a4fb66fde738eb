//! One public type name means one thing across the workspace, and users read the field's words.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{is_word, tokens};
use crate::{root, sources};

/// Names that several types have, and why that misleads nobody. Types of the configuration file ([`FORMS`]) are called
/// as what they become, and types of `simulations` as what they stand in for: they are not counted.
const SHARED: [(&str, &str); 13] = [
    (
        "Action",
        "what a rule does: in MQTT's policy with packets, in a filter with calls; neither knows the other",
    ),
    (
        "Config",
        "what one crate is configured with, said with the crate: `bolt::Config`",
    ),
    (
        "Counts",
        "what one producer or exporter has counted, said with its module: `kafka::Counts`",
    ),
    (
        "Fault",
        "of MQTT's packets a reason code, of filters a trouble made on purpose: both are the field's words",
    ),
    (
        "Message",
        "what a bridge, RocketMQ and a filter call so; `bridges::Message` is what the others become",
    ),
    (
        "Options",
        "what one command takes, said with the command: `tap::Options`",
    ),
    (
        "Policy",
        "what one filter, balancer or session is told, said with its module: `balance::Policy`",
    ),
    (
        "Producer",
        "whoever sends to Kafka or to RocketMQ, whose own clients call it so",
    ),
    (
        "Reader",
        "one of each version of hessian, with the same methods",
    ),
    (
        "RocketMq",
        "the protocol, as its listener, its gRPC dialect and its codec plug it in",
    ),
    (
        "Rule",
        "one of what a policy, a filter or a registry says in order, said with its module",
    ),
    (
        "Settings",
        "what one part is started with, said with its module: `statsd::Settings`",
    ),
    (
        "Topics",
        "names of topics: those in use at a cluster, those that a filter is about",
    ),
];

/// The types of the configuration file: each is the written form of another, and said as `file::Cluster`.
const FORMS: &str = "src/config/file";

/// The public types of a file: their names, modules of tests left out.
fn public_types(source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    let mut depth = 0_usize;
    for at in 0..tokens.len() {
        match word(at) {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            "struct" | "enum" | "trait" | "type" | "union"
                if depth == 0 && word(at.wrapping_sub(1)) == "pub" && is_word(word(at + 1)) =>
            {
                found.push(word(at + 1).to_owned());
            }
            _ => {}
        }
    }
    found
}

#[test]
fn a_public_name_means_one_thing() {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in sources(root()) {
        let file = path.strip_prefix(root()).unwrap().to_string_lossy();
        let is_left_out = |part: &str| {
            matches!(
                part,
                "tests" | "tests.rs" | "fuzz" | "examples" | "simulations" | "benches"
            )
        };
        if file.starts_with(FORMS) || file.split('/').any(is_left_out) {
            continue;
        }
        for name in public_types(&std::fs::read_to_string(&path).unwrap()) {
            all.entry(name).or_default().push(file.clone().into_owned());
        }
    }
    all.retain(|_, files| files.len() > 1);
    let faults: Vec<String> = all
        .iter()
        .filter(|(name, _)| !SHARED.iter().any(|(own, _)| own == name))
        .map(|(name, files)| format!("`{name}`: {}", files.join(", ")))
        .collect();
    assert!(
        faults.is_empty(),
        "rename one, or say why:\n{}",
        faults.join("\n")
    );
    for (name, why) in SHARED {
        assert!(
            all.contains_key(name),
            "`{name}` means one thing: take it away"
        );
        assert!(why.len() > 20, "`{name}`: {why}");
    }
    assert!(SHARED.is_sorted_by(|a, b| a.0 < b.0));
}

#[test]
fn public_types_are_found() {
    let source = "pub struct A;\nstruct B;\npub(crate) enum C {}\npub trait D { type E; }\nmod f { pub struct G; }\npub type H = A;";
    assert_eq!(public_types(source), ["A", "D", "H"]);
}

/// Where an old word must not stand.
#[derive(Clone, Copy, PartialEq)]
enum Banned {
    /// In keys of the configuration, in names of metrics and in their labels.
    Names,
    /// There, and in the pages for users.
    Everywhere,
}

/// Words that were ours alone, and what the field says. Words of [`Banned::Names`] have another, ordinary meaning in a sentence.
const OLD: [(&str, &str, Banned); 38] = [
    ("alarm", "timer", Banned::Names),
    ("bodiless", "without a body", Banned::Everywhere),
    ("choices", "least-request", Banned::Names),
    ("crowded", "at its limit", Banned::Everywhere),
    ("cue", "last head", Banned::Everywhere),
    ("dialect", "version", Banned::Names),
    ("doubted", "suspect", Banned::Everywhere),
    ("draft", "provider", Banned::Names),
    ("enlist", "register", Banned::Everywhere),
    ("entry", "accept", Banned::Names),
    ("farewell", "close", Banned::Everywhere),
    ("fate", "action", Banned::Names),
    ("feed", "watch", Banned::Names),
    ("gate", "eligibility", Banned::Names),
    ("goodbye", "go-away", Banned::Everywhere),
    ("guest", "connection", Banned::Everywhere),
    ("inbox", "frame reader", Banned::Everywhere),
    ("link", "write queue", Banned::Names),
    ("lots", "weight", Banned::Names),
    ("nonsense", "malformed", Banned::Everywhere),
    ("note", "codec data", Banned::Names),
    ("offer", "providers", Banned::Names),
    ("outlet", "Kafka or RocketMQ cluster", Banned::Everywhere),
    ("parked", "pending", Banned::Everywhere),
    ("proxied", "PROXY protocol", Banned::Everywhere),
    ("seat", "endpoint", Banned::Everywhere),
    ("site", "route", Banned::Names),
    ("steer", "rule", Banned::Everywhere),
    ("sticky", "session affinity", Banned::Everywhere),
    ("taker", "handler", Banned::Everywhere),
    ("tally", "session metrics", Banned::Everywhere),
    ("tap", "mirror", Banned::Names),
    ("terminal", "without a broker", Banned::Names),
    ("treatment", "policy", Banned::Everywhere),
    ("unwell", "unhealthy", Banned::Everywhere),
    ("urn", "weighted sampler", Banned::Everywhere),
    ("way", "path", Banned::Names),
    ("welcome", "resume", Banned::Everywhere),
];

/// The old words among those of a text, each with the field's word.
fn old_words(text: &str, is_banned: impl Fn(Banned) -> bool) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|char: char| !char.is_ascii_alphanumeric());
    words
        .filter_map(|word| {
            let is_it = |old: &str| word == old || word.strip_suffix('s') == Some(old);
            let found = OLD.iter().find(|(old, _, at)| is_it(old) && is_banned(*at));
            found.map(|(_, standard, _)| format!("`{word}`: say {standard}"))
        })
        .collect()
}

/// The keys that a JSON Schema has for objects.
fn keys(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(entries) => {
            for (name, value) in entries {
                if let ("properties", Some(properties)) = (name.as_str(), value.as_object()) {
                    found.extend(properties.keys().cloned());
                }
                keys(value, found);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

/// The names of metrics and of their labels, from the rows of the guide, which `tests/metric_names.rs` compares with the code.
fn metric_names(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| {
        ["| `finback_", "| `process_"]
            .iter()
            .any(|start| line.starts_with(start))
    });
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        [cells[1], cells.get(4).copied().unwrap_or_default()]
    })
    .collect()
}

/// The pages for users, with their names.
fn pages() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md"));
    let pages = pages.map(|name| format!("docs/{name}"));
    let pages = pages.chain(["README.md".to_owned()]);
    pages
        .map(|name| {
            let text = std::fs::read_to_string(root().join(&name)).unwrap();
            (name, text)
        })
        .collect()
}

#[test]
fn keys_of_the_configuration_are_words_of_the_field() {
    let mut found = BTreeSet::new();
    let schema = serde_json::to_value(finback::config::schema()).unwrap();
    keys(&schema, &mut found);
    assert!(
        found.len() > 200 && found.contains("listeners"),
        "{found:?}"
    );
    for key in found {
        let old = old_words(&key, |_| true);
        assert!(old.is_empty(), "the key {key}: {old:?}");
    }
}

#[test]
fn metrics_are_named_in_words_of_the_field() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let names = metric_names(&page);
    assert!(names.len() > 150, "{names:?}");
    for name in names {
        let old = old_words(name, |_| true);
        assert!(old.is_empty(), "{name}: {old:?}");
    }
}

#[test]
fn pages_for_users_are_written_in_words_of_the_field() {
    let pages = pages();
    assert!(pages.len() > 10);
    for (name, text) in pages {
        for (number, line) in text.lines().enumerate() {
            let old = old_words(line, |at| at == Banned::Everywhere);
            assert!(old.is_empty(), "{name}:{}: {old:?}", number + 1);
        }
    }
}

#[test]
fn old_words_are_found() {
    assert_eq!(old_words("Seats, `tap_kind`", |_| true).len(), 2);
    assert_eq!(old_words("a tap", |at| at == Banned::Everywhere).len(), 0);
    assert_eq!(old_words("seated in a taproom", |_| true), [""; 0]);
    assert!(OLD.is_sorted_by(|a, b| a.0 < b.0));
}
