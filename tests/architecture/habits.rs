//! What a contributor is told is so: files that pages name, targets of make, fuzz targets, addresses.

use std::collections::BTreeSet;

use crate::root;

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Files and folders that a page names from the root, in backquotes or as links of its own.
fn paths(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let links = page.split("](").skip(1).filter_map(|rest| {
        let (target, _) = rest.split_once(')')?;
        (!target.contains("://")).then(|| target.split('#').next().unwrap_or_default())
    });
    let is_path = |name: &&str| {
        let plain = name
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || "/._-".contains(char));
        let known = [".rs", ".md", ".toml", ".sh", ".yaml", "/"];
        plain && (name.contains('/') || known.iter().any(|end| name.ends_with(end)))
    };
    quoted.chain(links).filter(is_path).collect()
}

#[test]
fn pages_for_contributors_name_what_is_there() {
    for page in ["CONTRIBUTING.md", "SECURITY.md"] {
        let text = text(page);
        let named = paths(&text);
        assert!(named.len() > 3, "{page} names {named:?}");
        // What only a failure makes, and what stands within the folder of a protocol to come.
        let later = ["simulations/fuzz/artifacts/TARGET/", "src/lib.rs"];
        let missing: Vec<_> = named
            .into_iter()
            .filter(|name| !later.contains(name) && !root().join(name).exists())
            .collect();
        assert!(missing.is_empty(), "{page} names {missing:?}");
    }
}

#[test]
fn names_that_nobody_has_are_found() {
    let page = "`src/a.rs` and [b](docs/b.md#c), `cargo test`, `make x`, <http://a/b>, [d](http://e/f.md), `RpcProtocolV2`";
    assert_eq!(paths(page), ["src/a.rs", "docs/b.md"]);
}

#[test]
fn pages_name_targets_of_make() {
    let makefile = text("Makefile");
    for page in ["CONTRIBUTING.md", "SECURITY.md", "README.md", ".ci/run"] {
        let page = text(page);
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(|char: char| !char.is_ascii_alphanumeric());
            while let Some(word) = words.next() {
                if word != "make" || !line.contains("`make") && !line.starts_with("make") {
                    continue;
                }
                let target = words.next().unwrap_or_default();
                let is_there = makefile.contains(&format!("\n{target}:"));
                assert!(is_there, "no `make {target}`: {line}");
            }
        }
    }
}

#[test]
fn every_fuzz_target_is_run() {
    let folder = root().join("simulations/fuzz/fuzz_targets");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let manifest = text("simulations/fuzz/Cargo.toml");
    let bins = manifest.split("[[bin]]\nname = \"").skip(1);
    let bins: BTreeSet<String> = bins
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert_eq!(files, bins);
    // Whoever names none gets all, and CI names none.
    assert!(text("scripts/fuzz.sh").contains("for source in \"$fuzz\"/fuzz_targets/*.rs"));
    let ci = text(".ci/run");
    let smoke = ci.lines().find(|line| line.starts_with("make fuzz"));
    assert!(smoke.is_some_and(|line| !line.contains("TARGET")), "{ci}");
}

#[test]
fn no_address_is_invented() {
    let folders = ["protocols", "simulations"].iter().flat_map(|folder| {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path())
    });
    let others = ["", "core", "registry", "observability", "simulations"];
    let manifests = folders.chain(others.iter().map(|folder| root().join(folder)));
    for manifest in manifests.map(|folder| folder.join("Cargo.toml")) {
        let Ok(text) = std::fs::read_to_string(&manifest) else {
            continue;
        };
        for key in ["repository", "homepage", "authors", "documentation", "://"] {
            let found = text.lines().find(|line| line.contains(key));
            assert!(found.is_none(), "{}: {found:?}", manifest.display());
        }
    }
    for file in ["Dockerfile", "CONTRIBUTING.md", "SECURITY.md"] {
        assert!(!text(file).contains("://"), "{file}");
    }
}

#[test]
fn nothing_is_downloaded_to_build() {
    // Whoever has rustup has `stable`; more than its name would be fetched.
    let toolchain = text("rust-toolchain.toml");
    let settings: Vec<_> = toolchain
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(settings, ["[toolchain]", "channel = \"stable\""]);
    // An image has one toolchain only, by its number.
    let image = text("Dockerfile");
    let version = image.split("FROM rust:").nth(1).unwrap();
    let version = version.split('-').next().unwrap();
    assert!(image.contains(&format!("ENV RUSTUP_TOOLCHAIN={version}\n")));
    let oldest = text("Cargo.toml");
    let oldest = oldest.split("rust-version = \"").nth(1).unwrap();
    let oldest = oldest.split('"').next().unwrap();
    assert!(version.starts_with(oldest), "{version} and {oldest}");
    assert!(text("CONTRIBUTING.md").contains(&format!("Rust {oldest} or newer")));
}

#[test]
fn every_exception_for_a_dependency_has_a_reason() {
    let deny = text("deny.toml");
    for section in ["advisories", "licenses", "bans", "sources"] {
        assert!(deny.contains(&format!("\n[{section}]\n")), "no {section}");
    }
    let excepted: Vec<_> = deny
        .lines()
        .filter(|line| line.trim_start().starts_with('{'))
        .collect();
    assert!(!excepted.is_empty());
    for line in excepted {
        assert!(line.contains("reason = \""), "{line}");
    }
}

#[test]
fn help_and_readme_name_every_protocol() {
    let (readme, help) = (text("README.md"), text("src/main.rs"));
    for protocol in crate::protocols() {
        // What is written in bodies, and where messages go to, is no protocol of a listener.
        if !matches!(&*protocol, "hessian" | "kafka") {
            for (page, name) in [(&readme, "README.md"), (&help, "src/main.rs")] {
                assert!(
                    page.to_lowercase().contains(&protocol),
                    "{name}: {protocol}"
                );
            }
        }
    }
}
