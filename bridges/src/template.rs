//! Names of topics made from where messages come from.

use std::fmt;

/// What names of topics may be in one kind of system.
#[derive(Debug)]
pub struct TemplateNames {
    /// What the system is called.
    pub system: &'static str,
    /// What may stand in a name besides letters and digits.
    pub others: &'static str,
    /// The same in words.
    pub words: &'static str,
    /// What stands for the `/` between levels.
    pub divider: char,
    /// The longest name.
    pub longest: usize,
    /// Whether a name is the system's own, which no client may choose.
    pub is_own: fn(&str) -> bool,
}

/// A name in which `{topic}` stands for the whole topic that a message came with, its `/` as what divides levels there, and
/// `{1}` to `{9}` for its levels.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
    names: &'static TemplateNames,
}

#[derive(Clone, Debug)]
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
    #[error("`{0}` is not a name for a topic of {1}; write letters, digits, {2}")]
    Invalid(String, &'static str, &'static str),
}

impl TemplateNames {
    fn is_sound(&self, text: &str) -> bool {
        text.chars()
            .all(|char| char.is_ascii_alphanumeric() || self.others.contains(char))
    }
}

impl fmt::Display for Template {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Template {
    /// Reads a template of names as they are in one system.
    ///
    /// # Errors
    /// If it is none, or would give two topics one name.
    pub fn parse(text: &str, names: &'static TemplateNames) -> Result<Self, TemplateError> {
        let invalid = || TemplateError::Invalid(text.to_owned(), names.system, names.words);
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = rest.split_once('{').unwrap_or((rest, ""));
            if !names.is_sound(before) {
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
        Ok(Self {
            text: text.to_owned(),
            parts,
            names,
        })
    }

    /// The name for a message that came with this topic; `None` if that gives no name, or one that
    /// another topic has too, or a name that the system keeps for itself.
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
                // What divides levels would look like the end of one within it.
                Part::Whole if topic.contains(self.names.divider) => return None,
                Part::Whole => {
                    let divided = |c| if c == '/' { self.names.divider } else { c };
                    name.extend(topic.chars().map(divided));
                }
                Part::Level(number) => {
                    let level = topic.split('/').nth(number - 1)?;
                    if level.is_empty() {
                        return None;
                    }
                    name.push_str(level);
                }
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
        let by_client = !matches!(self.parts.first(), Some(Part::Text(_)));
        let usable = !name.is_empty() && name.len() <= self.names.longest;
        let usable = usable && name != "." && name != ".." && self.names.is_sound(&name);
        (usable && !(by_client && (self.names.is_own)(&name))).then_some(name)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    static KAFKA: TemplateNames = TemplateNames {
        system: "Kafka",
        others: "._-",
        words: "`.`, `_` and `-`",
        divider: '.',
        longest: 249,
        is_own: |name| name.starts_with('_'),
    };

    fn template(text: &str) -> Result<Template, TemplateError> {
        Template::parse(text, &KAFKA)
    }

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
            let own = self::template(template).unwrap();
            assert_eq!(own.fill(topic).as_deref(), name, "{topic}");
        }
        let long = "x".repeat(250);
        assert_eq!(template("{topic}").unwrap().fill(&long), None);
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
            assert!(template(bad).is_err(), "{bad}");
        }
    }
}
