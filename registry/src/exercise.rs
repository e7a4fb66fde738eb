//! Fuzzing of registries: any text is read as an entry of one, and nothing panics.

use crate::layout;

/// Reads a name as the URL of a provider, and writes it again.
///
/// # Panics
/// If what was written is read as something else.
pub fn exercise_url(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes) {
        layout::exercise_url(name);
    }
}

/// Reads a rule: a key, a NUL, and its document, or, without NUL, the URL of an older rule. Then
/// applies it to providers, and to calls.
pub fn exercise_rules(bytes: &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => {
            if let Ok(key) = std::str::from_utf8(&bytes[..at]) {
                layout::exercise_rules(Some((key, &bytes[at + 1..])), &[]);
            }
        }
        None => {
            if let Ok(url) = std::str::from_utf8(bytes) {
                layout::exercise_rules(None, &[url]);
            }
        }
    }
}

/// Reads an instance of an application of Dubbo, the metadata of a revision, and what other
/// frameworks write as JSON.
///
/// # Panics
/// If one entry becomes several providers.
pub fn exercise_instance(bytes: &[u8]) {
    layout::exercise_instance(bytes);
}
