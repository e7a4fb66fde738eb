//! One public type name means one thing across the workspace.

use std::collections::BTreeMap;

use crate::source::{is_word, tokens};
use crate::{root, sources};

/// Names that several types have, and why that misleads nobody. Types of the configuration file ([`FORMS`]) are called
/// as what they become, and types of `simulations` as what they stand in for: they are not counted.
const SHARED: [(&str, &str); 14] = [
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
        "one of each dialect of hessian, with the same methods",
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
        "Tap",
        "copies for somebody else: of MQTT's messages in its policy, of framed calls in core",
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
