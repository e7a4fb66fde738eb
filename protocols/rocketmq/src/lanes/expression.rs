//! What a subscription chooses by, as an expression in SQL92 with a lane in it.

use std::borrow::Cow;

use crate::code::request;

use super::{BRINGS_SUBSCRIPTION, BY_CLASS, SQL, is_pull, sys_flag};

/// RocketMQ: SelectorParser.
const WORDS: [&str; 16] = [
    "not",
    "and",
    "or",
    "between",
    "in",
    "true",
    "false",
    "null",
    "is",
    "contains",
    "startswith",
    "endswith",
    "like",
    "escape",
    "xpath",
    "xquery",
];
/// RocketMQ: ExpressionType.
const TAG: &str = "TAG";

/// Whether brokers could choose by a property of this name.
pub(super) fn is_property(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = name.bytes().next();
    begins.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.len() <= 64
        && name.bytes().all(is_fit)
        && !WORDS.iter().any(|own| own.eq_ignore_ascii_case(name))
        && !crate::properties::is_reserved(name)
}

/// What a subscription says itself; nothing if it is for all messages of its topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own(Option<String>);

impl Own {
    /// By its kind and text; `None` if it is of no kind that could be written in SQL.
    pub(super) fn of(kind: &str, text: &str) -> Option<Self> {
        match kind {
            "" | TAG => Some(Self(by_tags(text))),
            SQL if !text.trim().is_empty() => Some(Self(Some(text.to_owned()))),
            _ => None,
        }
    }

    /// What a fetch brings along; `None` if it brings nothing that could be written in SQL.
    pub(super) fn brought<'a>(
        code: i32,
        field: &dyn Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Option<Self> {
        let text = |name| field(name).unwrap_or_default();
        if !is_pull(code) {
            // It has none where it only asks whether there is a message.
            let has_own = code == request::POP_MESSAGE || !text("exp").is_empty();
            return has_own.then(|| Self::of(&text("expType"), &text("exp")))?;
        }
        let flags = sys_flag(field);
        if flags & BRINGS_SUBSCRIPTION == 0 || flags & BY_CLASS != 0 {
            return None;
        }
        Self::of(&text("expressionType"), &text("subscription"))
    }

    /// For messages of this lane only.
    pub(super) fn only(&self, property: &str, lane: &str) -> String {
        self.and(&format!("{property} = '{lane}'"))
    }

    /// For messages of all other lanes, and of none.
    pub(super) fn without(&self, property: &str, lanes: &[&str]) -> String {
        let all: Vec<String> = lanes.iter().map(|lane| format!("'{lane}'")).collect();
        let all = all.join(", ");
        self.and(&format!("{property} IS NULL OR {property} NOT IN ({all})"))
    }

    fn and(&self, more: &str) -> String {
        match &self.0 {
            None => format!("({more})"),
            Some(own) => format!("({own}) AND ({more})"),
        }
    }
}

/// Tags as an expression; `None` if every message is meant (RocketMQ: FilterAPI).
fn by_tags(text: &str) -> Option<String> {
    if text.trim().is_empty() || text.trim() == "*" {
        return None;
    }
    let tags = text
        .split("||")
        .map(str::trim)
        .filter(|tag| !tag.is_empty());
    let tags: Vec<String> = tags
        .map(|tag| format!("'{}'", tag.replace('\'', "''")))
        .collect();
    Some(format!("TAGS IN ({})", tags.join(", ")))
}
