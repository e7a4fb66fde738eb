//! Texts with a session's own names in them.

use std::collections::BTreeMap;
use std::str::FromStr;

/// How claims of a token are called.
const CLAIMS: &str = "claims.";

/// What a session is known by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts<'a> {
    /// The client's identifier.
    pub(crate) client_id: &'a str,
    /// Its user, or "".
    pub(crate) username: &'a str,
    /// Who its certificate says it is, or "".
    pub(crate) identity: &'a str,
    /// The common name of its certificate where that is its identity, or "".
    pub(crate) common_name: &'a str,
    /// What its token says of it.
    pub(crate) claims: Option<&'a BTreeMap<String, String>>,
}

/// A text in which `{client_id}`, `{username}`, `{identity}` and `{common_name}` stand for a session's
/// own, and `{claims.NAME}` for what its token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    ClientId,
    Username,
    Identity,
    CommonName,
    Claim(String),
}

/// A text that is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplateError(String);

impl std::fmt::Display for NameTemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` is not a session name; write {{client_id}}, {{username}}, {{identity}}, \
             {{common_name}} or {{claims.NAME}}",
            self.0
        )
    }
}

impl std::error::Error for NameTemplateError {}

impl FromStr for NameTemplate {
    type Err = NameTemplateError;

    fn from_str(text: &str) -> Result<Self, NameTemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| NameTemplateError(format!("{{{after}")))?;
            parts.push(match name {
                "client_id" => Part::ClientId,
                "username" => Part::Username,
                "identity" => Part::Identity,
                "common_name" => Part::CommonName,
                _ if name.len() > CLAIMS.len() && name.starts_with(CLAIMS) => {
                    Part::Claim(name[CLAIMS.len()..].to_owned())
                }
                _ => return Err(NameTemplateError(format!("{{{name}}}"))),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl NameTemplate {
    /// It as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has claims of a token in it.
    #[must_use]
    pub fn has_claims(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Claim(_)))
    }

    /// It with what a client says of itself; `None` if one is missing.
    #[must_use]
    pub fn fill_in(&self, client_id: &str, username: &str) -> Option<String> {
        self.fill(&Facts {
            client_id,
            username,
            ..Facts::default()
        })
    }

    /// Whether it has names of sessions in it.
    pub(crate) fn has_names(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Text(_)))
    }

    fn fill_with(&self, facts: &Facts<'_>, usable: impl Fn(&str) -> bool) -> Option<String> {
        let mut filled = String::with_capacity(self.text.len() + 16);
        for part in &self.parts {
            let name = match part {
                Part::Text(text) => {
                    filled.push_str(text);
                    continue;
                }
                Part::ClientId => facts.client_id,
                Part::Username => facts.username,
                Part::Identity => facts.identity,
                Part::CommonName => facts.common_name,
                Part::Claim(name) => facts.claims?.get(name)?,
            };
            if name.is_empty() || !usable(name) {
                return None;
            }
            filled.push_str(name);
        }
        Some(filled)
    }

    /// It with a session's names; `None` if one is missing.
    pub(crate) fn fill(&self, facts: &Facts<'_>) -> Option<String> {
        self.fill_with(facts, |_| true)
    }

    /// The same as part of a topic; `None` also if a name would be more than one level of it.
    pub(crate) fn fill_topic(&self, facts: &Facts<'_>) -> Option<String> {
        self.fill_with(facts, |name| {
            !name.contains(['/', '+', '#']) && !name.starts_with('$')
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        let template: NameTemplate = "t/{username}/{client_id}".parse().unwrap();
        let claims = BTreeMap::from([("tenant".to_owned(), "t1".to_owned())]);
        let facts = Facts {
            client_id: "c",
            username: "u",
            identity: "cn:dev",
            common_name: "dev",
            claims: Some(&claims),
        };
        let certified: NameTemplate = "{identity} {common_name}".parse().unwrap();
        assert_eq!(certified.fill(&facts).unwrap(), "cn:dev dev");
        let facts = Facts {
            identity: "",
            common_name: "",
            ..facts
        };
        let tenant: NameTemplate = "{claims.tenant}/x".parse().unwrap();
        assert_eq!(tenant.fill_topic(&facts).unwrap(), "t1/x");
        assert_eq!(tenant.fill(&Facts::default()), None);
        assert!("{claims.}".parse::<NameTemplate>().is_err());
        assert_eq!(template.fill(&facts).unwrap(), "t/u/c");
        assert_eq!(
            "{identity}".parse::<NameTemplate>().unwrap().fill(&facts),
            None
        );
        assert!("{password}".parse::<NameTemplate>().is_err());
        assert!("a{client_id".parse::<NameTemplate>().is_err());
    }
}
