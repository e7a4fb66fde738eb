//! The properties of a message as one text: `name \x01 value \x02 ...` (Java's `MessageDecoder`). The last \x02 may
//! be missing.

/// Between a name and its value.
const NAME: char = '\u{1}';
/// Behind a value.
const END: char = '\u{2}';

/// The value of one property. Of several of one name the last counts, as in the map that servers make of them.
pub(crate) fn find<'a>(all: &'a str, name: &str) -> Option<&'a str> {
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

/// The properties with others added, or in place of those of their names. Names and values that the text has no
/// place for are left out.
pub(crate) fn with(all: &str, added: &[(&str, &str)]) -> String {
    let fits = |text: &str| !text.contains([NAME, END]);
    let mut added: Vec<_> = added
        .iter()
        .filter(|(name, value)| !name.is_empty() && fits(name) && fits(value))
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
