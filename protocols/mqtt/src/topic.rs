//! Topic names and topic filters (MQTT 5, section 4.7).

use crate::codec::{Fault, Level, Side};
use crate::reason::Reason;

/// How filters of shared subscriptions begin.
pub(crate) const SHARE: &str = "$share/";
/// Levels of a topic, at most.
pub(crate) const MAX_LEVELS: usize = 64;

/// Checks the name of a topic that is published to. Clients' have a bound of levels.
///
/// # Errors
/// If it is none.
pub(crate) fn check_name(name: &str, from: Side) -> Result<(), Fault> {
    let mut levels = 1;
    for byte in name.bytes() {
        match byte {
            b'/' => levels += 1,
            // MQTT 5, section 4.7.1.
            b'+' | b'#' => {
                let why = "a topic name with a wildcard in it";
                return Err(Fault::new(Reason::BAD_TOPIC, why));
            }
            _ => {}
        }
    }
    // MQTT 5, section 4.7.3.
    if name.is_empty() {
        return Err(Fault::malformed("a topic name without a character"));
    }
    match from {
        Side::Client => check_levels(levels, Reason::BAD_TOPIC),
        Side::Server => Ok(()),
    }
}

/// Checks the levels of a client's topic once it has its name at the broker.
///
/// # Errors
/// If they are too many.
pub(crate) fn check_renamed(name: &str, reason: Reason) -> Result<(), Fault> {
    check_levels(name.split('/').count(), reason)
}

fn check_levels(levels: usize, reason: Reason) -> Result<(), Fault> {
    if levels > MAX_LEVELS {
        return Err(Fault::new(reason, "a topic with too many levels"));
    }
    Ok(())
}

/// Checks a topic filter.
///
/// # Errors
/// If it is none.
pub(crate) fn check_filter(filter: &str, level: Level) -> Result<(), Fault> {
    let bad = |why| Err(Fault::new(Reason::BAD_FILTER, why));
    let own = match shared(filter) {
        Some((group, own)) if level.is_5() => {
            // MQTT 5, section 4.8.2.
            if group.is_empty() || group.contains(['+', '#']) || own.is_empty() {
                return bad("a shared subscription without a name or filter");
            }
            own
        }
        _ if level.is_5() && filter.starts_with(SHARE) => {
            return bad("a shared subscription without a filter");
        }
        _ => filter,
    };
    // MQTT 5, section 4.7.3.
    if own.is_empty() {
        return Err(Fault::malformed("a topic filter without a character"));
    }
    let mut levels = own.split('/');
    let mut number = 0;
    while let Some(part) = levels.next() {
        number += 1;
        let last = part != "#" || levels.clone().next().is_none();
        // MQTT 5, section 4.7.1.2, and MQTT 5, section 4.7.1.3.
        let whole = part.len() == 1 || !part.contains(['+', '#']);
        if !last || !whole {
            return bad("a wildcard where none may stand");
        }
        check_levels(number, Reason::BAD_FILTER)?;
    }
    Ok(())
}

/// Whether this is a topic filter.
#[must_use]
pub fn is_filter(text: &str, level: Level) -> bool {
    check_filter(text, level).is_ok()
}

/// The name and the filter of a shared subscription.
pub(crate) fn shared(filter: &str) -> Option<(&str, &str)> {
    filter.strip_prefix(SHARE)?.split_once('/')
}

/// What a filter selects, without the name of a shared subscription.
pub(crate) fn unshared(filter: &str) -> &str {
    shared(filter).map_or(filter, |(_, own)| own)
}

/// The topic to which a broker delivers what is published to this one: EMQX, some time after the message came to
/// `$delayed/SECONDS/TOPIC`.
pub(crate) fn delivered(mut topic: &str) -> &str {
    let inner = |topic: &'_ str| {
        let (time, own) = topic.strip_prefix("$delayed/")?.split_once('/')?;
        let is_time = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
        is_time.then_some(topic.len() - own.len())
    };
    while let Some(start) = inner(topic) {
        topic = &topic[start..];
    }
    topic
}

/// The filter by which a broker chooses what it delivers to a subscription: without the name of a shared one (MQTT 5, section
/// 4.8.2; BifroMQ's are `$oshare` too, EMQX's `$queue`), and of an exclusive one (EMQX).
pub(crate) fn selected(mut filter: &str) -> &str {
    let inner = |filter: &str| {
        let (name, rest) = filter.split_once('/')?;
        let own = match name {
            "$share" | "$oshare" => rest.split_once('/')?.1,
            "$queue" | "$exclusive" => rest,
            _ => return None,
        };
        (!own.is_empty()).then_some(filter.len() - own.len())
    };
    while let Some(start) = inner(filter) {
        filter = &filter[start..];
    }
    filter
}

/// Whether there are names that both filters select; of a name that begins with `$`, also by what follows its first
/// levels: brokers have such names for others, and nobody knows those of all brokers.
pub(crate) fn reaches(rule: &str, filter: &str) -> bool {
    if intersect(rule, filter) {
        return true;
    }
    let mut rest = filter.strip_prefix('$');
    while let Some((_, own)) = rest.and_then(|rest| rest.split_once('/')) {
        if intersect(rule, own) {
            return true;
        }
        rest = Some(own);
    }
    false
}

/// Whether a filter's wildcards stop before names that begin with `$` (MQTT 5, section 4.7.2).
fn hides(filter: &str, other: &str) -> bool {
    other.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#'))
}

/// Whether everything that `filter` selects is selected by `rule` too. A name is a filter that
/// selects itself.
#[must_use]
pub fn covers(rule: &str, filter: &str) -> bool {
    if hides(rule, filter) {
        return false;
    }
    let mut own = rule.split('/');
    let mut other = filter.split('/');
    loop {
        match (own.next(), other.next()) {
            // `a/#` selects `a` too.
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(part)) if part != "#" => {}
            (Some(part), Some(same)) if part == same => {}
            _ => return false,
        }
    }
}

/// Whether there are names that both filters select.
#[must_use]
pub fn intersect(one: &str, two: &str) -> bool {
    if hides(one, two) || hides(two, one) {
        return false;
    }
    let mut first = one.split('/');
    let mut second = two.split('/');
    loop {
        match (first.next(), second.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(part), Some(same)) if part == same => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_as_the_standard_says() {
        for (filter, name, selected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/load", false),
            ("+/load", "$SYS/load", false),
            ("$SYS/#", "$SYS/load", true),
            ("a", "A", false),
        ] {
            assert_eq!(covers(filter, name), selected, "{filter} {name}");
            assert_eq!(intersect(filter, name), selected, "{filter} {name}");
        }
    }

    #[test]
    fn a_rule_covers_only_filters_that_select_no_more() {
        for (rule, filter, covered, met) in [
            ("a/#", "a/+", true, true),
            ("a/#", "#", false, true),
            ("a/+", "a/#", false, true),
            ("a/+", "a/+", true, true),
            ("a/+/c", "a/b/+", false, true),
            ("a/+/c", "b/+/c", false, false),
            ("+/b", "a/+", false, true),
            ("a/b", "+/c", false, false),
            ("#", "#", true, true),
            ("#", "$SYS/#", false, false),
            ("a/#", "a", true, true),
            ("+", "#", false, true),
        ] {
            assert_eq!(covers(rule, filter), covered, "{rule} {filter}");
            assert_eq!(intersect(rule, filter), met, "{rule} {filter}");
            assert_eq!(intersect(filter, rule), met, "{filter} {rule}");
        }
    }

    #[test]
    fn other_names_of_a_topic_are_that_topic() {
        for (topic, own) in [
            ("a/b", "a/b"),
            ("$delayed/5/a/b", "a/b"),
            ("$delayed/0/$delayed/007/a", "a"),
            ("$delayed/x/a", "$delayed/x/a"),
            ("$delayed//a", "$delayed//a"),
            ("$delayed/5", "$delayed/5"),
            ("$SYS/a", "$SYS/a"),
            ("x/$delayed/5/a", "x/$delayed/5/a"),
        ] {
            assert_eq!(delivered(topic), own, "{topic}");
        }
        for (filter, own) in [
            ("a/#", "a/#"),
            ("$share/g/a/+", "a/+"),
            ("$oshare/g//a", "/a"),
            ("$queue/a", "a"),
            ("$exclusive/a", "a"),
            ("$share/g/$exclusive/a", "a"),
            ("$queue/", "$queue/"),
            ("$share/g", "$share/g"),
            ("$SYS/#", "$SYS/#"),
        ] {
            assert_eq!(selected(filter), own, "{filter}");
        }
    }

    #[test]
    fn a_name_of_some_broker_reaches_what_follows_in_it() {
        for (rule, name, reached) in [
            ("a/b", "$expired/a/b", true),
            ("a/b", "$stream/q/x/a/b", true),
            ("a/b", "$stream/a/#", true),
            ("+/b", "$x/1/b", true),
            ("#", "$SYS/load", true),
            ("a/b", "$x/a", false),
            ("a/b", "x/a/b", false),
            ("a/b", "$a/b", false),
            ("$SYS/#", "$SYS/a", true),
        ] {
            assert_eq!(reaches(rule, name), reached, "{rule} {name}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for filter in [
            "",
            "a/#/b",
            "a#",
            "+a",
            "a/b+",
            "#/",
            "$share/",
            "$share/a",
            "$share//b",
            "$share/+/b",
        ] {
            assert!(check_filter(filter, Level::V5).is_err(), "{filter}");
        }
        for filter in ["#", "+", "a/+/b/#", "/", "//", "$share/group/a/#", "$SYS/#"] {
            assert!(check_filter(filter, Level::V5).is_ok(), "{filter}");
        }
        // Before MQTT 5 it is a topic like any other.
        assert!(check_filter("$share/a", Level::V311).is_ok());
        assert!(check_filter(&"/".repeat(MAX_LEVELS), Level::V5).is_err());
        assert!(check_name(&"/".repeat(MAX_LEVELS - 1), Side::Client).is_ok());
        assert!(check_name(&"/".repeat(MAX_LEVELS), Side::Client).is_err());
        assert!(check_name(&"/".repeat(MAX_LEVELS), Side::Server).is_ok());
        assert!(check_name("a/+", Side::Server).is_err());
    }
}
