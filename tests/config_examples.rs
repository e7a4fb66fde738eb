//! Every configuration that the documentation shows is a good one, and every key is shown.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use finback::config;

/// What completes an excerpt to a whole configuration, by top-level key.
const REST: [(&str, &str); 4] = [
    (
        "registries",
        "registries: { zk: { zookeeper: \"127.0.0.1:2181\" }, names: { dns: {} } }\n",
    ),
    (
        "listeners",
        "listeners: [ { address: \"127.0.0.1:0\", routes: rpc } ]\n",
    ),
    ("routes", "routes: { rpc: [ { to: { cluster: pay } } ] }\n"),
    (
        "clusters",
        "clusters: { pay: { endpoints: [ \"127.0.0.1:1\" ] } }\n",
    ),
];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|own| own == extension))
        .collect();
    assert!(!found.is_empty(), "no {extension} in {}", folder.display());
    found
}

/// The YAML in a page, each with the number of its first line.
fn excerpts(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match line {
            "```yaml" => {
                inside = true;
                found.push((number + 2, String::new()));
            }
            "```" => inside = false,
            _ if inside => {
                let (_, text) = found.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    found
}

/// Every key that the schema knows, at any depth.
fn keys(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::Object(properties)) = object.get("properties") {
                found.extend(properties.keys().cloned());
            }
            for value in object.values() {
                keys(value, found);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

fn schema_keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(config::schema()).unwrap(), &mut found);
    for known in ["listeners", "consistent-hash", "panic_percent"] {
        assert!(found.contains(known), "{found:?}");
    }
    found
}

#[test]
fn every_example_is_good() {
    for path in files(&docs().join("examples"), "yaml") {
        // Not a configuration, but what a registry of one reads.
        if path.ends_with("services.yaml") {
            continue;
        }
        // What keys and certificates it names need not be there.
        let text = std::fs::read_to_string(&path).unwrap();
        if let Err(error) = config::parse(&text, &path) {
            panic!("{error}");
        }
    }
}

#[test]
fn the_example_of_a_file_of_services_is_good() {
    // The same list may stand in a configuration, where it is checked.
    let text = std::fs::read_to_string(docs().join("examples/services.yaml")).unwrap();
    let list: String = text.lines().map(|line| format!("      {line}\n")).collect();
    let mut whole = format!("registries:\n  fixed:\n    memory:\n{list}");
    REST[1..].iter().for_each(|(_, rest)| whole.push_str(rest));
    if let Err(error) = config::parse(&whole, Path::new("services.yaml")) {
        panic!("{error}\n{whole}");
    }
}

#[test]
fn every_excerpt_in_the_documentation_is_good() {
    let mut count = 0;
    let mut pages = files(&docs(), "md");
    pages.push(docs().with_file_name("README.md"));
    for path in pages {
        let page = std::fs::read_to_string(&path).unwrap();
        for (line, excerpt) in excerpts(&page) {
            let mut whole = excerpt.clone();
            for (key, rest) in REST {
                if !excerpt
                    .lines()
                    .any(|line| line.starts_with(&format!("{key}:")))
                {
                    whole.push_str(rest);
                }
            }
            if let Err(error) = config::parse(&whole, Path::new("excerpt")) {
                panic!("{} line {line}: {error}\n{whole}", path.display());
            }
            count += 1;
        }
    }
    assert!(count >= 5, "only {count} excerpts found");
}

#[test]
fn one_example_shows_every_key() {
    let text = std::fs::read_to_string(docs().join("examples/every-key.yaml")).unwrap();
    let words: BTreeSet<&str> = text.split([' ', '\n', ':', '{', ',']).collect();
    for key in schema_keys() {
        assert!(words.contains(key.as_str()), "{key} is not shown");
    }
}

#[test]
fn every_key_is_explained() {
    let pages = [
        "configuration.md",
        "filters.md",
        "messaging.md",
        "metrics.md",
        "observing.md",
        "rocketmq.md",
        "tracing.md",
    ];
    let text = pages.map(|page| std::fs::read_to_string(docs().join(page)).unwrap());
    let text = text.concat();
    for key in schema_keys() {
        let quoted = [
            format!("`{key}`"),
            format!("`{key}:"),
            format!("{{ {key}: "),
            format!(", {key}: "),
        ];
        assert!(
            quoted.iter().any(|form| text.contains(form)),
            "{key} is not explained"
        );
    }
}
