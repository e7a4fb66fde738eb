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
    /// Two topics would have one name.
    #[error(
        "`{0}`: nothing stands between two parts of a topic, so two topics would have one name"
    )]
    Glued(String),
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
        let glued = |pair: &[Part]| !matches!(pair, [Part::Text(_), _] | [_, Part::Text(_)]);
        if parts.windows(2).any(glued) {
            return Err(TemplateError::Glued(text.to_owned()));
        }
        Ok(Self { parts })
    }
}

impl Template {
    /// The name for a message that came with this topic; `None` if that gives no name, or one that
    /// another topic has too, or a name that Kafka keeps for itself.
    #[must_use]
    pub fn fill(&self, topic: &str) -> Option<String> {
        let mut name = String::with_capacity(32);
        for (at, part) in self.parts.iter().enumerate() {
            let piece = name.len();
            match part {
                Part::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                // A `.` within a level would look like the end of one.
                Part::Whole if topic.contains('.') => return None,
                Part::Whole => name.extend(topic.chars().map(|c| if c == '/' { '.' } else { c })),
                Part::Level(number) => {
                    let level = topic.split('/').nth(number - 1)?;
                    if level.is_empty() {
                        return None;
                    }
                    name.push_str(level);
                }
            }
            // Names of Kafka's own begin so, and those of what is built on it.
            if piece == 0 && name.starts_with('_') {
                return None;
            }
            // What divides it from the next piece of the topic is not to stand within it.
            if let (Part::Level(_), [Part::Text(divider), _, ..]) = (part, &self.parts[at + 1..])
                && divider
                    .chars()
                    .next()
                    .is_some_and(|c| name[piece..].contains(c))
            {
                return None;
            }
        }
        // As Kafka's own check has it (org.apache.kafka.common.internals.Topic).
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
            ("{2}-{1}", "a-c/b", Some("b-a-c")),
            ("{2}-{1}", "a/b-c", None),
            ("{1}.{2}", "a.b/c", None),
            ("{topic}", "a.b", None),
            ("{topic}", "plant/a.b", None),
            ("iot.{1}", "a.b", Some("iot.a.b")),
            ("{1}", "_schemas", None),
            ("{topic}", "__consumer_offsets", None),
            ("{topic}", "_schemas/x", None),
            ("x{1}", "_schemas", Some("x_schemas")),
            ("_own.{1}", "a", Some("_own.a")),
            ("{1}_x", "/a", None),
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
        for bad in [
            "",
            "{1}{2}",
            "{topic}{1}",
            ".",
            "a b",
            "{0}",
            "{client}",
            "a{1",
            "ü",
        ] {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }
}
