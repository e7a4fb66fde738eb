//! Why a call does not take a route, in words: for an operator who asks, never on the way of a call.

use std::borrow::Cow;

use crate::identity::Identity;

use super::{Call, Match, Text};

/// What a text must look like, in words.
fn wanted(text: &Text) -> String {
    match text {
        Text::Any => "any".to_owned(),
        Text::Exact(exact) => format!("'{exact}'"),
        Text::Prefix(prefix) => format!("'{prefix}...'"),
        Text::Regex(regex) => {
            let whole = regex.as_str();
            let own = whole
                .strip_prefix(r"\A(?:")
                .and_then(|own| own.strip_suffix(r")\z"));
            format!("/{}/", own.unwrap_or(whole))
        }
    }
}

/// What a call says, in words.
fn said(text: &str) -> String {
    match text {
        "" => "none".to_owned(),
        _ => format!("'{text}'"),
    }
}

impl Match {
    /// What it asks for, in words; empty if it takes every call. Values of attributes are not told: they
    /// may be secrets.
    #[must_use]
    pub fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (name, condition) in [
            ("protocol", &self.protocol),
            ("service", &self.service),
            ("method", &self.method),
            ("version", &self.version),
            ("group", &self.group),
        ] {
            if !matches!(condition, Text::Any) {
                all.push(format!("{name} {}", wanted(condition)));
            }
        }
        if let Some((_, condition)) = &self.identity {
            all.push(format!("identity {}", wanted(condition)));
        }
        all.extend(
            self.attributes
                .iter()
                .map(|(name, _)| format!("attribute {name}")),
        );
        all.extend(self.sources.iter().map(|own| format!("source {own}")));
        all
    }

    /// The first condition that does not hold for a call; `None` if all do. An attribute's value is not
    /// told: it may be a secret.
    #[must_use]
    pub fn why_not<'a>(
        &self,
        call: &Call<'_>,
        client: Option<&Identity>,
        attribute: &mut dyn FnMut(&str) -> Option<Cow<'a, str>>,
    ) -> Option<String> {
        for (name, condition, value) in [
            ("protocol", &self.protocol, call.protocol),
            ("service", &self.service, call.service),
            ("method", &self.method, call.method),
            ("version", &self.version, call.version),
            ("group", &self.group, call.group),
        ] {
            if !condition.matches(value) {
                let (wanted, said) = (wanted(condition), said(value));
                return Some(format!("{name} must be {wanted}, and is {said}"));
            }
        }
        if !self.sources.is_empty() && !self.sources.iter().any(|own| own.contains(call.source)) {
            let source = call.source;
            return Some(format!("source {source} is in none of its networks"));
        }
        if !self.identifies(client) {
            let (_, condition) = self.identity.as_ref()?;
            let wanted = wanted(condition);
            let said = client.map_or("none", Identity::text);
            return Some(format!("identity must be {wanted}, and is {said}"));
        }
        for (name, condition) in &self.attributes {
            match attribute(name) {
                None => return Some(format!("attribute {name} is missing")),
                Some(value) if !condition.matches(&value) => {
                    return Some(format!("attribute {name} has another value"));
                }
                Some(_) => {}
            }
        }
        None
    }
}
