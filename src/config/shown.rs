//! A configuration as it may be shown: what stands in the file, without its secrets.

use finback_core::text::sounds_secret;
use serde_json::{Map, Value};

/// What stands in a secret's place.
pub(super) const REDACTED: &str = "(redacted)";

/// Keys whose values are secrets, or tell who logs in as whom.
pub(super) const SECRET: [&str; 5] = ["access_key", "password", "user", "username", "users"];
/// Keys that have a secret's name and hold none: files by their paths, choices of a method, and lists whose items have names of their own.
#[cfg(test)]
pub(super) const HARMLESS: [&str; 19] = [
    "auth_timeout",
    "authenticate",
    "authentication",
    "authorization",
    "certificate",
    "certificates",
    "client_ca",
    "external_authorization",
    "identity",
    "in_flight_per_connection",
    "key",
    "keys",
    "messages_per_second",
    "password_file",
    "sasl",
    "secret_key_file",
    "token_file",
    "tokens",
    "unhealthy",
];
/// Maps whose keys are the operator's own: there a name that sounds like a secret is taken for one.
const FREE: [&str; 8] = [
    "options",
    "attributes",
    "query",
    "set",
    "add",
    "parameters",
    "claims",
    "context",
];
/// Maps whose texts may all be secrets: collectors call their keys as they like.
const HIDDEN: [&str; 1] = ["headers"];

/// The text of a good configuration as a value, without secrets.
pub(super) fn shown(text: &str) -> Value {
    // It was read once before, so that it is no other than this.
    let mut value = serde_saphyr::from_str(text).unwrap_or(Value::Null);
    redact(&mut value, "");
    value
}

/// Takes the secrets out of what stands under a key.
fn redact(value: &mut Value, under: &str) {
    match value {
        Value::Object(map) => redact_map(map, under),
        Value::Array(list) => list.iter_mut().for_each(|each| redact(each, under)),
        Value::String(text) => hide_user(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn redact_map(map: &mut Map<String, Value>, under: &str) {
    let is_free = FREE.contains(&under);
    for (key, value) in map {
        let is_secret = if is_free {
            sounds_secret(key)
        } else {
            SECRET.contains(&key.as_str())
        };
        let is_hidden = HIDDEN.contains(&under) && value.is_string();
        if is_secret || is_hidden {
            *value = REDACTED.into();
        } else {
            redact(value, key);
        }
    }
}

/// Takes user and password out of a URL.
fn hide_user(text: &mut String) {
    let Some(begin) = text.find("://").map(|at| at + 3) else {
        return;
    };
    let host = &text[begin..];
    let authority = host.find('/').map_or(host, |end| &host[..end]);
    if let Some(end) = authority.rfind('@') {
        text.replace_range(begin..begin + end, REDACTED);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EVERY_KEY: &str = include_str!("../../docs/examples/every-key.yaml");

    /// Every scalar of a value, by its path.
    fn scalars(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    scalars(value, &format!("{path}.{key}"), found);
                }
            }
            Value::Array(list) => {
                for (number, value) in list.iter().enumerate() {
                    scalars(value, &format!("{path}[{number}]"), found);
                }
            }
            Value::String(text) => found.push((path.to_owned(), text.clone())),
            other => found.push((path.to_owned(), other.to_string())),
        }
    }

    fn named<'a>(all: &'a [(String, String)], end: &str) -> Vec<&'a str> {
        let own = all.iter().filter(|(path, _)| path.ends_with(end));
        own.map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn no_secret_of_every_key_is_shown() {
        let plain: Value = serde_saphyr::from_str(EVERY_KEY).unwrap();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        scalars(&plain, "", &mut before);
        scalars(&shown(EVERY_KEY), "", &mut after);
        for key in SECRET {
            let end = format!(".{key}");
            let (secrets, shown) = (named(&before, &end), named(&after, &end));
            assert_eq!(secrets.len(), shown.len(), "{key}");
            assert!(!secrets.is_empty(), "{key} is in no example");
            assert!(shown.iter().all(|own| *own == REDACTED), "{key}: {shown:?}");
        }
        // Everything else is as it was written.
        let kept = before
            .iter()
            .zip(&after)
            .filter(|(own, shown)| own == shown);
        assert!(kept.count() > 200);
    }

    #[test]
    fn secrets_of_the_operators_own_names_are_not_shown() {
        let text = r#"
kafka: { k: { options: { sasl.password: s3cret, ssl.key.password: s3cret, linger.ms: "5" } } }
registries: { e: { etcd: [ "https://me:s3cret@10.0.0.1:2379", "10.0.0.2:2379" ] } }
tracing: { headers: { x-team: s3cret } }
routes:
  r:
    - match: { attributes: { Authorization: { regex: s3cret }, lane: gray }, query: { api_token: s3cret } }
      request_headers: { set: { X-Api-Key: s3cret, x-mesh: finback }, add: { cookie: s3cret } }
"#;
        let shown = shown(text).to_string();
        assert!(!shown.contains("s3cret"), "{shown}");
        for kept in [
            "linger.ms",
            "10.0.0.1:2379",
            "10.0.0.2:2379",
            "gray",
            "x-mesh",
            "finback",
        ] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    fn keys(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| keys(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }

    /// A new key that sounds like a secret's does not pass unnoticed.
    #[test]
    fn every_key_that_sounds_secret_is_decided_about() {
        let mut found = BTreeSet::new();
        keys(
            &serde_json::to_value(crate::config::schema()).unwrap(),
            &mut found,
        );
        assert!(found.contains("password"));
        let words = [
            "user", "pass", "secret", "token", "auth", "cred", "sasl", "key",
        ];
        let undecided: Vec<_> = found
            .iter()
            .filter(|key| words.iter().any(|word| key.contains(word)))
            .filter(|key| !SECRET.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()))
            .collect();
        assert!(undecided.is_empty(), "secret or harmless? {undecided:?}");
    }
}
