//! Topics under other names at the broker: every place that carries one.

use std::borrow::Cow;

use crate::codec::properties::{Value, Writer, id};
use crate::codec::{Connect, Properties, Publish};
use crate::topic::{SHARE, shared};

/// A beginning of topics that is another at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// As clients write it.
    pub from: String,
    /// As the broker has it.
    pub to: String,
}

/// How topics of one session are called at the broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    mount: Option<String>,
    rewrites: Vec<Rewrite>,
}

impl Names {
    pub(crate) fn new(mount: Option<String>, rewrites: Vec<Rewrite>) -> Self {
        Self { mount, rewrites }
    }

    /// Whether they are the same on both sides.
    pub(crate) fn are_plain(&self) -> bool {
        self.mount.is_none() && self.rewrites.is_empty()
    }

    /// Whether there is a mount point.
    pub(crate) fn is_mounted(&self) -> bool {
        self.mount.is_some()
    }

    /// Bytes by which a message may become longer on its way to the broker: its topic, its response
    /// topic, and the lengths before them.
    pub(crate) fn growth(&self) -> usize {
        let rewritten = |own: &Rewrite| own.to.len().saturating_sub(own.from.len());
        let rewritten = self.rewrites.iter().map(rewritten).max().unwrap_or(0);
        let each = self.mount.as_ref().map_or(0, String::len) + rewritten;
        if each == 0 { 0 } else { 2 * each + 6 }
    }

    /// A name, or a filter that is not shared, as the broker has it. Names that begin with `$` are
    /// called the same everywhere: what the server itself tells (`$SYS`).
    pub(crate) fn up<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if name.starts_with('$') {
            return Cow::Borrowed(name);
        }
        let rewritten = self.rewrites.iter().find_map(|rewrite| {
            let rest = name.strip_prefix(&*rewrite.from)?;
            Some(format!("{}{rest}", rewrite.to))
        });
        match (&self.mount, rewritten) {
            (None, None) => Cow::Borrowed(name),
            (None, Some(name)) => Cow::Owned(name),
            (Some(mount), None) => Cow::Owned(format!("{mount}{name}")),
            (Some(mount), Some(name)) => Cow::Owned(format!("{mount}{name}")),
        }
    }

    /// A filter as the broker has it; of a shared one, what stands after its name.
    pub(crate) fn up_filter<'a>(&self, filter: &'a str) -> Cow<'a, str> {
        match shared(filter) {
            Some((group, own)) => match self.up(own) {
                Cow::Borrowed(_) => Cow::Borrowed(filter),
                Cow::Owned(own) => Cow::Owned(format!("{SHARE}{group}/{own}")),
            },
            None => self.up(filter),
        }
    }

    /// Where an answer is to be published. Whoever answers may do more than the client: no name leads it
    /// out of the client's mount point.
    fn up_response<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        match &self.mount {
            Some(mount) if topic.starts_with('$') => Cow::Owned(format!("{mount}{topic}")),
            _ => self.up(topic),
        }
    }

    /// A name as the client has it; `None` if it is none of its own.
    pub(crate) fn down<'a>(&self, name: &'a str) -> Option<Cow<'a, str>> {
        if name.starts_with('$') {
            return Some(Cow::Borrowed(name));
        }
        let own = match &self.mount {
            None => name,
            Some(mount) => name.strip_prefix(&**mount)?,
        };
        let rewritten = self.rewrites.iter().find_map(|rewrite| {
            let rest = own.strip_prefix(&*rewrite.to)?;
            Some(format!("{}{rest}", rewrite.from))
        });
        Some(rewritten.map_or(Cow::Borrowed(own), Cow::Owned))
    }

    /// The properties of a message with its response topic called otherwise, and without an
    /// alias: what was to stand for the topic stands there itself.
    pub(crate) fn properties<'a>(&self, properties: Properties<'a>, up: bool) -> Cow<'a, [u8]> {
        let touched = |id| matches!(id, id::RESPONSE_TOPIC | id::TOPIC_ALIAS);
        if !properties.iter().any(|(id, _)| touched(id)) {
            return Cow::Borrowed(properties.bytes());
        }
        let mut writer = Writer::default();
        for (id, value, piece) in properties.pieces() {
            match value {
                Value::Text(topic) if id == id::RESPONSE_TOPIC => {
                    let renamed = if up {
                        Some(self.up_response(topic))
                    } else {
                        self.down(topic)
                    };
                    writer.text(id, renamed.as_deref().unwrap_or(topic));
                }
                _ if id == id::TOPIC_ALIAS => {}
                _ => writer.raw(piece),
            }
        }
        Cow::Owned(writer.into_bytes())
    }

    /// Whether a message may pass as it is.
    pub(crate) fn leave(&self, publish: &Publish<'_>) -> bool {
        self.are_plain() && publish.alias().is_none()
    }

    /// The topics in a CONNECT as the broker has them.
    pub(crate) fn amend(&self, connect: &mut Connect<'_>) {
        let Some(will) = connect.will.as_mut().filter(|_| !self.are_plain()) else {
            return;
        };
        if let Cow::Owned(topic) = self.up(&will.topic) {
            will.topic = topic.into();
        }
        let properties = self.properties(Properties::trusted(&will.properties), true);
        if let Cow::Owned(properties) = properties {
            will.properties = properties.into();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn names() -> Names {
        let rewrite = Rewrite {
            from: "old/".to_owned(),
            to: "new/".to_owned(),
        };
        Names::new(Some("t1/".to_owned()), vec![rewrite])
    }

    #[test]
    fn names_come_back_as_they_went() {
        let names = names();
        for (own, there) in [
            ("a/b", "t1/a/b"),
            ("/a", "t1//a"),
            ("old/x", "t1/new/x"),
            ("old", "t1/old"),
            ("$SYS/x", "$SYS/x"),
        ] {
            assert_eq!(names.up(own), there);
            assert_eq!(names.down(there).unwrap(), own);
        }
        assert_eq!(names.down("t2/a"), None);
    }

    #[test]
    fn filters_are_mounted_behind_the_name_of_a_group() {
        let names = names();
        for (own, there) in [
            ("#", "t1/#"),
            ("+/x", "t1/+/x"),
            ("$share/g/#", "$share/g/t1/#"),
            ("$share/g/old/+", "$share/g/t1/new/+"),
            ("$SYS/#", "$SYS/#"),
        ] {
            assert_eq!(names.up_filter(own), there);
        }
    }

    #[test]
    fn a_response_topic_is_renamed_and_an_alias_is_dropped() {
        let mut writer = Writer::default();
        writer.text(id::RESPONSE_TOPIC, "answers/1");
        writer.number(id::TOPIC_ALIAS, 3);
        writer.user("a", "b");
        let properties = names()
            .properties(Properties::trusted(writer.bytes()), true)
            .into_owned();
        let properties = Properties::trusted(&properties);
        assert_eq!(properties.text(id::RESPONSE_TOPIC), Some("t1/answers/1"));
        assert_eq!(properties.number(id::TOPIC_ALIAS), None);
        assert_eq!(properties.user("a"), Some("b"));
    }
}
