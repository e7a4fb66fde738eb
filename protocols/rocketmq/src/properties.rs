//! The properties of a message as one text: `name \x01 value \x02 ...` (RocketMQ: MessageDecoder). The last \x02 may
//! be missing.

use crate::message::member;

/// Between a name and its value.
const NAME: char = '\u{1}';
/// As many different values of one property are told of a batch.
const READINGS: usize = 64;
/// Behind a value.
const END: char = '\u{2}';

/// The value of one property. Of several of one name the last counts, as in the map that servers make of them.
#[must_use]
pub fn find<'a>(all: &'a str, name: &str) -> Option<&'a str> {
    let values = || {
        let entries = all.rsplit(END).filter_map(|entry| entry.split_once(NAME));
        entries
            .filter(|(own, _)| *own == name)
            .map(|(_, value)| value)
    };
    // Servers leave out what has no value.
    let known = values().find(|value| !value.is_empty());
    known.or_else(|| values().next())
}

/// The value of a property that all messages of a batch agree on.
pub(crate) fn of_batch<'a>(mut body: &'a [u8], name: &str) -> Option<&'a str> {
    let mut agreed = None;
    while !body.is_empty() {
        let (message, rest) = member(body)?;
        let own = find(message.properties, name)?;
        if *agreed.get_or_insert(own) != own {
            return None;
        }
        body = rest;
    }
    agreed
}

/// What the messages of a batch say of a property, each in a line of its own, where they do not agree.
pub(crate) fn readings(mut body: &[u8], name: &str) -> Option<String> {
    let mut said: Vec<&str> = Vec::new();
    while !body.is_empty() {
        let (message, rest) = member(body)?;
        let own = find(message.properties, name).unwrap_or_default();
        if !said.contains(&own) {
            said.push(own);
            if said.len() > READINGS {
                break;
            }
        }
        body = rest;
    }
    (said.len() > 1).then(|| said.join("\n"))
}

/// All of them, in order.
pub fn each(all: &str) -> impl Iterator<Item = (&str, &str)> {
    all.split(END).filter_map(|entry| entry.split_once(NAME))
}

/// Whether a text can be a property's name or value: it has none of what divides them.
#[must_use]
pub fn is_sound(text: &str) -> bool {
    !text.contains([NAME, END])
}

/// Whether a property means something to RocketMQ itself (RocketMQ: MessageConst): who writes it has a message
/// delayed, sent again, hidden, or taken for another one.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    // By their beginnings, too: later releases have more of each kind.
    const BEGINNINGS: [&str; 10] = [
        "__",
        "_SYS_",
        "TIMER_",
        "TRAN",
        "POP_",
        "INNER_",
        "PROPERTY_",
        "DLQ_",
        "DELAY",
        "CONSUME_",
    ];
    const OWN: [&str; 35] = [
        "KEYS",
        "TAGS",
        "WAIT",
        "RETRY_TOPIC",
        "ORIGIN_GROUP",
        "REAL_TOPIC",
        "REAL_QID",
        "PGROUP",
        "MIN_OFFSET",
        "MAX_OFFSET",
        "BUYER_ID",
        "ORIGIN_MESSAGE_ID",
        "CORRECTION_FLAG",
        "MQ2_FLAG",
        "RECONSUME_TIME",
        "MSG_REGION",
        "TRACE_ON",
        "UNIQ_KEY",
        "EXTEND_UNIQ_INFO",
        "MAX_RECONSUME_TIMES",
        "DUP_INFO",
        "CHECK_IMMUNITY_TIME_IN_SECONDS",
        "INSTANCE_ID",
        "CORRELATION_ID",
        "REPLY_TO_CLIENT",
        "TTL",
        "ARRIVE_TIME",
        "PUSH_REPLY_TIME",
        "CLUSTER",
        "MSG_TYPE",
        "1ST_POP_TIME",
        "REDIRECT",
        "TRACE_CONTEXT",
        "BORN_TIMESTAMP",
        "E_T",
    ];
    BEGINNINGS.iter().any(|own| name.starts_with(own)) || OWN.contains(&name)
}

/// The properties with others added, or in place of those of their names. Names and values that the text has no
/// place for are left out.
#[must_use]
pub fn with(all: &str, added: &[(&str, &str)]) -> String {
    let mut added: Vec<_> = added
        .iter()
        .filter(|(name, value)| !name.is_empty() && is_sound(name) && is_sound(value))
        .collect();
    let mut replaced: Vec<&str> = Vec::new();
    let mut text = String::with_capacity(all.len() + 64);
    let mut put = |name: &str, value: &str| {
        for part in [name, "\u{1}", value, "\u{2}"] {
            text.push_str(part);
        }
    };
    for (name, value) in all.split(END).filter_map(|entry| entry.split_once(NAME)) {
        match added.iter().position(|(own, _)| *own == name) {
            Some(at) => {
                put(name, added.remove(at).1);
                replaced.push(name);
            }
            // It stands twice, and the last would count.
            None if replaced.contains(&name) => {}
            None => put(name, value),
        }
    }
    for (name, value) in added {
        put(name, value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_found_with_or_without_an_end() {
        for all in ["a\u{1}1\u{2}b\u{1}2", "a\u{1}1\u{2}b\u{1}2\u{2}"] {
            assert_eq!(find(all, "a"), Some("1"));
            assert_eq!(find(all, "b"), Some("2"));
            assert_eq!(find(all, "c"), None);
        }
        assert_eq!(find("a\u{1}1\u{2}a\u{1}2\u{2}", "a"), Some("2"));
    }

    #[test]
    fn a_batch_has_the_properties_that_its_messages_agree_on() {
        let message = |body: &str, all: &str| {
            let mut own = vec![0; 16];
            own.extend_from_slice(&(body.len() as u32).to_be_bytes());
            own.extend_from_slice(body.as_bytes());
            own.extend_from_slice(&(all.len() as u16).to_be_bytes());
            own.extend_from_slice(all.as_bytes());
            let size = (own.len() as u32).to_be_bytes();
            own[..4].copy_from_slice(&size);
            own
        };
        let one = message("one", "TAGS\u{1}a\u{2}lane\u{1}gray\u{2}");
        let two = message("", "lane\u{1}gray\u{2}TAGS\u{1}b\u{2}KEYS\u{1}k\u{2}");
        let batch = [&one[..], &two].concat();
        assert_eq!(of_batch(&batch, "lane"), Some("gray"));
        assert_eq!(of_batch(&batch, "TAGS"), None);
        assert_eq!(of_batch(&batch, "KEYS"), None);
        assert_eq!(of_batch(&one, "TAGS"), Some("a"));
        assert_eq!(readings(&batch, "TAGS").as_deref(), Some("a\nb"));
        assert_eq!(readings(&batch, "KEYS").as_deref(), Some("\nk"));
        assert_eq!(readings(&batch, "lane"), None);
        assert_eq!(readings(&batch, "none"), None);
        assert_eq!(of_batch(b"", "TAGS"), None);
        for end in 1..batch.len() {
            if end != one.len() {
                assert_eq!(of_batch(&batch[..end], "lane"), None, "{end}");
            }
        }
        // A size of nothing would be read for ever.
        assert_eq!(of_batch(&[0; 64], "lane"), None);
    }

    #[test]
    fn properties_are_added_and_replaced_once() {
        let all = with(
            "a\u{1}1\u{2}b\u{1}2",
            &[("b", "3"), ("c", ""), ("d\u{2}", "x"), ("e", "\u{1}")],
        );
        assert_eq!(all, "a\u{1}1\u{2}b\u{1}3\u{2}c\u{1}\u{2}");
        assert_eq!(with("", &[("a", "1")]), "a\u{1}1\u{2}");
        assert_eq!(
            with("a\u{1}1\u{2}a\u{1}2\u{2}", &[("a", "3")]),
            "a\u{1}3\u{2}"
        );
        assert_eq!(find("a\u{1}1\u{2}a\u{1}\u{2}", "a"), Some("1"));
    }
}
