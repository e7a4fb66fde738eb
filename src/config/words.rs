//! Messages of the YAML parser, in the words of someone who writes a configuration: what is wrong, and what to write.

use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Budget, Error};

/// Where it is wrong, if that is known, and what.
pub(super) fn explain(error: &Error, text: &str) -> (Option<(u64, u64)>, String) {
    let place = error
        .location()
        .map(|location| (location.line(), location.column()));
    (place, words(error.without_snippet(), text))
}

fn words(error: &Error, text: &str) -> String {
    if says_nothing(text) {
        return "the file says nothing; write `listeners`, `routes` and `clusters`, as docs/examples/minimal.yaml does"
            .to_owned();
    }
    match error {
        Error::AliasError { error, .. } => words(error.without_snippet(), text),
        Error::Eof { .. } => {
            "the file ends too early: a bracket, brace or quote is still open".to_owned()
        }
        Error::MultipleDocuments { .. } => {
            "a second document begins here (`---`); write one document".to_owned()
        }
        Error::Unexpected { expected, .. } => needed(expected),
        Error::InvalidScalar { ty, .. } => number(ty),
        Error::SerdeMissingField {
            field: "listeners", ..
        } => "`listeners` is missing, so nothing would ever come in; write \
             listeners: [ { address: \"0.0.0.0:12220\", routes: NAME } ]"
            .to_owned(),
        Error::SerdeMissingField { field, .. } => format!("`{field}` is missing; write it"),
        Error::SerdeUnknownField {
            field, expected, ..
        } => unknown(field, expected),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` is written twice; keep one of them")
        }
        Error::DuplicateMappingKey { key: None, .. } => {
            "a key is written twice; keep one of them".to_owned()
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => unfit(unexpected, expected),
        Error::SerdeInvalidLength { expected, .. } => format!("write {expected}"),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => {
            format!(
                "`{variant}` is not allowed here; write one of: {}",
                expected.join(", ")
            )
        }
        Error::NullIntoString { .. } => "nothing is written here; write a value".to_owned(),
        Error::InvalidBooleanStrict { .. } => "write true or false".to_owned(),
        Error::UnknownAnchor { .. } => {
            "no anchor (`&name`) of this name stands before this alias (`*name`)".to_owned()
        }
        Error::MergeValueNotMapOrSeqOfMaps { .. } => {
            "only keys can be merged; write `<<: *name` of an anchor that has keys".to_owned()
        }
        Error::Budget { breach, .. } => over_limit(breach),
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => parsers(msg),
        other => parsers(&other.to_string()),
    }
}

/// Which of the parser's limits the file is over, and what to do about it.
fn over_limit(breach: &BudgetBreach) -> String {
    let limits = Budget::default();
    match breach {
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => format!(
            "the file has more than {} values, which is the limit; keep services in a registry, or in a `file` of one",
            limits.max_nodes
        ),
        BudgetBreach::Depth { .. } => format!(
            "lists and keys stand within each other more than {} levels deep, which is the limit",
            limits.max_depth
        ),
        BudgetBreach::AliasAnchorRatio { aliases, anchors } => format!(
            "there are {aliases} aliases (`*name`) of {anchors} anchors (`&name`); where there are {} aliases or more, \
             an anchor has at most {} of them on average: write some of the values out",
            limits.alias_anchor_min_aliases, limits.alias_anchor_ratio_multiplier
        ),
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::MergeKeys { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => {
            "there are too many anchors (`&name`) and aliases (`*name`); write some of the values out".to_owned()
        }
        _ => "the file is too large; keep services in a registry, or in a `file` of one".to_owned(),
    }
}

/// Whether there is nothing but blanks, comments and marks of a document.
fn says_nothing(text: &str) -> bool {
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// The parser's own message in one line.
fn parsers(message: &str) -> String {
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    // The place stands at the beginning already.
    let message = message.split(" at line ").next().unwrap_or_default();
    if message.contains("tab") && message.contains("disallowed") || message.contains("found a tab")
    {
        return "a tab cannot indent; write blanks".to_owned();
    }
    let ours = [
        ("flow mapping", "braces"),
        ("flow sequence", "brackets"),
        ("block mapping", "keys"),
        ("block sequence", "list"),
        ("mapping", "keys"),
        ("sequence", "list"),
        ("scalar", "value"),
    ];
    let message = ours.iter().fold(message.to_owned(), |own, (theirs, ours)| {
        own.replace(theirs, ours)
    });
    match message.split_once("expected ") {
        // Of a value that may be written in several forms.
        Some(("", rest)) => needed(rest),
        _ => message,
    }
}

fn needed(expected: &str) -> String {
    match expected {
        "sequence start" | "sequence" => {
            "a list is needed here; write [ ... ], or lines that begin with `-`".to_owned()
        }
        "mapping start" | "mapping" => {
            "keys are needed here; write { key: value, ... }, or a line for each".to_owned()
        }
        "string scalar" | "scalar" | "string" => {
            "one value is needed here, no list and no keys".to_owned()
        }
        other => format!("write {other}"),
    }
}

fn number(ty: &str) -> String {
    let range = match ty {
        "u8" => "from 0 to 255",
        "u16" => "from 0 to 65535",
        "u32" => "from 0 to 4294967295",
        "u64" | "usize" => "of 0 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "",
        "f32" | "f64" | "floating point" => return "write a number, such as 0.5".to_owned(),
        "boolean" => return "write true or false".to_owned(),
        other => return format!("write a value of type {other}"),
    };
    format!("write a whole number {range}")
        .trim_end()
        .to_owned()
}

fn unfit(unexpected: &str, expected: &str) -> String {
    if expected.starts_with("a nonzero") {
        return "0 is not allowed here; write 1 or more".to_owned();
    }
    let found = match unexpected {
        "map" => "keys stand here".to_owned(),
        "sequence" | "seq" => "a list stands here".to_owned(),
        "unit value" | "null" | "Option value" | "unit" => "nothing is written here".to_owned(),
        other => format!("{} is not what can stand here", other.trim()),
    };
    let wanted = match expected {
        "a string" | "string" => "a text, in quotes if it looks like a number",
        "a sequence" => "a list: [ ... ], or lines that begin with `-`",
        "a boolean" => "true or false",
        other => other,
    };
    format!("{found}; write {wanted}")
}

/// Kinds of registries that others know.
const FOREIGN: [&str; 6] = [
    "nacos",
    "consul",
    "eureka",
    "polaris",
    "kubernetes",
    "redis",
];

fn unknown(key: &str, known: &[&str]) -> String {
    if FOREIGN.contains(&key) && known.contains(&"zookeeper") {
        return format!(
            "`{key}` is not a kind of registry that Finback knows; write zookeeper, etcd, file, memory, dns or http"
        );
    }
    let nearest = known.iter().map(|own| (distance(key, own), *own)).min();
    let meant = match nearest {
        Some((steps, own)) if steps <= 2.max(key.len() / 3) => format!("did you mean `{own}`? "),
        _ => String::new(),
    };
    format!(
        "no key is called `{key}` here; {meant}keys are: {}",
        known.join(", ")
    )
}

/// How many letters must be changed, added or left out to turn one word into the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, c) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, d) in other.iter().enumerate() {
            let change = diagonal + usize::from(c != *d);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
