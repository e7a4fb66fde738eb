//! Names of Kafka's topics made from where messages come from.

use std::str::FromStr;

/// The longest name of a topic.
const MAX_NAME: usize = 249;

/// A name in which `{topic}` stands for the whole topic that a message came with, its `/` as `.`, and
/// `{1}` to `{9}` for its levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Whole,
    Level(usize),
}

/// A text that is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has an unknown name in it.
    #[error("`{0}` stands for nothing; write {{topic}}, or {{1}} to {{9}} for a level of it")]
    Unknown(String),
    /// It could never be a name.
    #[error("`{0}` is no name for a topic of Kafka; write letters, digits, `.`, `_` and `-`")]
    Invalid(String),
}

fn is_sound(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let invalid = || TemplateError::Invalid(text.to_owned());
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
            if !is_sound(before) {
                return Err(invalid());
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            if before.len() == rest.len() {
                break;
            }
            let (name, after) = after.split_once('}').ok_or_else(invalid)?;
            parts.push(match name.as_bytes() {
                b"topic" => Part::Whole,
                [digit @ b'1'..=b'9'] => Part::Level(usize::from(digit - b'0')),
                _ => return Err(TemplateError::Unknown(format!("{{{name}}}"))),
            });
            rest = after;
        }
        if parts.is_empty() || text == "." || text == ".." {
            return Err(invalid());
        }
        Ok(Self { parts })
    }
}

impl Template {
    /// The name for a message that came with this topic; `None` if that gives no name.
    #[must_use]
    pub fn fill(&self, topic: &str) -> Option<String> {
        let mut name = String::with_capacity(32);
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Whole => name.extend(topic.chars().map(|c| if c == '/' { '.' } else { c })),
                Part::Level(number) => name.push_str(topic.split('/').nth(number - 1)?),
            }
        }
        let usable = !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != "..";
        (usable && is_sound(&name)).then_some(name)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn topics_become_names() {
        for (template, topic, name) in [
            ("events", "a/b", Some("events")),
            ("iot.{1}", "plant/7/power", Some("iot.plant")),
            ("{topic}", "plant/7/power", Some("plant.7.power")),
            ("{2}-{1}", "a/b", Some("b-a")),
            ("{3}", "a/b", None),
            ("{topic}", "straße", None),
            ("{topic}", ".", None),
            ("{topic}", "..", None),
            ("{1}", "/a", None),
        ] {
            let template: Template = template.parse().unwrap();
            assert_eq!(template.fill(topic).as_deref(), name, "{topic}");
        }
        let long = "x".repeat(250);
        assert_eq!("{topic}".parse::<Template>().unwrap().fill(&long), None);
        for bad in ["", ".", "a b", "{0}", "{client}", "a{1", "ü"] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
