//! Why a call does not take a route, in words: for an operator who asks, never on the way of a call.

use std::borrow::Cow;

use crate::identity::Identity;
use crate::text::sounds_secret;

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

/// An attribute, or a part of the call that is none by its name.
fn called(name: &str) -> String {
    match name.strip_prefix(':') {
        Some("authority") => "host".to_owned(),
        Some(part) => part.to_owned(),
        None => format!("attribute {name}"),
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
    /// What it asks for, in words; empty if it takes every call. Of attributes whose names sound like a
    /// secret's the value is not told.
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
        for (name, condition) in &self.attributes {
            let own = called(name);
            all.push(if sounds_secret(name) {
                own
            } else {
                format!("{own} {}", wanted(condition))
            });
        }
        all.extend(self.sources.iter().map(|own| format!("source {own}")));
        all
    }

    /// The first condition that does not hold for a call; `None` if all do. Of an attribute whose name
    /// sounds like a secret's the value is not told.
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
                None => return Some(format!("{} is missing", called(name))),
                Some(value) if !condition.matches(&value) => {
                    let own = called(name);
                    if sounds_secret(name) {
                        return Some(format!("{own} has another value"));
                    }
                    let (wanted, said) = (wanted(condition), said(&value));
                    return Some(format!("{own} must be {wanted}, and is {said}"));
                }
                Some(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const CALL: Call<'_> = Call {
        protocol: "p",
        service: "com.acme.Pay",
        method: "pay",
        version: "",
        group: "blue",
        source: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    };

    fn why(when: &Match, attributes: &[(&str, &'static str)]) -> String {
        let mut read = |name: &str| {
            let found = attributes.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| Cow::Borrowed(*value))
        };
        when.why_not(&CALL, None, &mut read).unwrap_or_default()
    }

    #[test]
    fn the_first_condition_that_fails_is_told() {
        let exact = |text: &str| Text::Exact(text.into());
        let of = |change: fn(&mut Match)| {
            let mut when = Match::default();
            change(&mut when);
            when
        };
        assert_eq!(why(&Match::default(), &[]), "");
        let when = of(|own| own.service = Text::Prefix("com.other".into()));
        assert_eq!(
            why(&when, &[]),
            "service must be 'com.other...', and is 'com.acme.Pay'"
        );
        let when = of(|own| own.version = Text::regex("1|2").unwrap());
        assert_eq!(why(&when, &[]), "version must be /1|2/, and is none");
        assert_eq!(when.conditions(), ["version /1|2/"]);
        let when = of(|own| own.sources = vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(
            why(&when, &[]),
            "source 127.0.0.1 is in none of its networks"
        );
        let when = Match {
            attributes: vec![
                ("lane".to_owned(), exact("gray")),
                (":authority".to_owned(), exact("a.test")),
            ],
            ..Match::default()
        };
        assert_eq!(why(&when, &[]), "attribute lane is missing");
        assert_eq!(
            why(&when, &[("lane", "blue")]),
            "attribute lane must be 'gray', and is 'blue'"
        );
        let both = [("lane", "gray"), (":authority", "b.test")];
        assert_eq!(why(&when, &both), "host must be 'a.test', and is 'b.test'");
        assert_eq!(
            when.conditions(),
            ["attribute lane 'gray'", "host 'a.test'"]
        );
    }

    #[test]
    fn secrets_are_not_told() {
        let when = Match {
            attributes: vec![("x-api-key".to_owned(), Text::Exact("s3cret".into()))],
            ..Match::default()
        };
        let told = why(&when, &[("x-api-key", "guess")]);
        assert_eq!(told, "attribute x-api-key has another value");
        assert_eq!(when.conditions(), ["attribute x-api-key"]);
    }
}
