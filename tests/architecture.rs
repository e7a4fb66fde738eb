//! The house's plan as a test: which crate may know which, core's floors, and what nobody may say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "architecture/bans.rs"]
mod bans;
#[path = "architecture/clauses.rs"]
mod clauses;
#[path = "architecture/floors.rs"]
mod floors;
#[path = "architecture/habits.rs"]
mod habits;
#[path = "architecture/lengths.rs"]
mod lengths;
#[path = "architecture/names.rs"]
mod names;
#[path = "architecture/page.rs"]
mod page;
#[path = "architecture/paths.rs"]
mod paths;
#[path = "architecture/questions.rs"]
mod questions;
#[path = "architecture/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The crates of ours that a manifest depends on, development only or not.
fn ours(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(manifest)).unwrap();
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies") && section != "workspace.dependencies" {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if let Some(name) = name.strip_prefix("finback-") {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

/// Every Rust source below a folder, build output left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The source of a crate: its folder `src`, from the root.
fn crate_source(folder: &str) -> paths::Crate {
    let folder = root().join(folder);
    let files = sources(&folder).into_iter().map(|path| {
        let name = path
            .strip_prefix(&folder)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    });
    paths::Crate::read(&files.collect::<Vec<_>>())
}

fn protocols() -> BTreeSet<String> {
    let entries = std::fs::read_dir(root().join("protocols")).unwrap();
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn only(manifest: &str, allowed: &[&str]) {
    let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let found = ours(manifest);
    let strangers: Vec<_> = found.difference(&allowed).collect();
    assert!(
        strangers.is_empty(),
        "{manifest} may not depend on {strangers:?}"
    );
}

#[test]
fn every_arrow_points_at_core() {
    only("core/Cargo.toml", &[]);
    only("bridges/Cargo.toml", &[]);
    only("registry/Cargo.toml", &["core"]);
    only("observability/Cargo.toml", &["core"]);
    for protocol in protocols() {
        let manifest = format!("protocols/{protocol}/Cargo.toml");
        if protocol == "hessian" {
            // A serialization, not a protocol: it knows nothing of ours.
            only(&manifest, &[]);
        } else if protocol == "kafka" {
            // No codec, but a producer: it takes what every bridge brings.
            only(&manifest, &["bridges"]);
        } else if protocol == "grpc" {
            // The one exception: what is spoken in HTTP knows HTTP.
            only(&manifest, &["core", "http"]);
        } else {
            only(&manifest, &["core", "hessian"]);
        }
    }
}

#[test]
fn the_arrows_are_really_read() {
    // The root knows everyone; if this finds nothing, the tests above prove nothing.
    let root = ours("Cargo.toml");
    for name in ["core", "registry", "observability"] {
        assert!(root.contains(name), "{root:?}");
    }
    assert!(ours("protocols/bolt/Cargo.toml").contains("core"));
}

#[test]
fn core_names_no_protocol_and_no_registry() {
    let mut names = protocols();
    // What passes TCP through is called as what everything here is carried by.
    names.remove("tcp");
    for name in [
        "zookeeper",
        "etcd",
        "sofa",
        "prometheus",
        "statsd",
        "jaeger",
        "grpc",
        "mqtt",
    ] {
        names.insert(name.to_owned());
    }
    for path in sources(&root().join("core")) {
        let text = std::fs::read_to_string(&path).unwrap().to_lowercase();
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let named: Vec<_> = names
            .iter()
            .filter(|name| words.contains(name.as_str()))
            .collect();
        assert!(named.is_empty(), "{} names {named:?}", path.display());
    }
}

#[test]
fn every_source_opens_with_its_promise() {
    for path in sources(root()) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not open with //!",
            path.display()
        );
    }
}

#[test]
fn packages_are_named_after_their_folders() {
    let folders = [
        "core",
        "bridges",
        "registry",
        "observability",
        "simulations",
    ];
    let folders = folders.map(str::to_owned);
    let protocols = protocols()
        .into_iter()
        .map(|name| format!("protocols/{name}"));
    for folder in protocols.chain(folders) {
        let text = std::fs::read_to_string(root().join(&folder).join("Cargo.toml")).unwrap();
        let short = folder.rsplit('/').next().unwrap();
        let line = format!("name = \"finback-{short}\"");
        assert!(text.contains(&line), "{folder} does not say {line}");
    }
}
