//! Query strings: the part of a URL after its question mark.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Names and values, as they were meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn read(text: &str) -> Self {
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    /// The value of a name, the last one where there are several.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter().rev();
        let found = all.find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Every value of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let own = self.0.iter().filter(move |(own, _)| own == name);
        own.map(|(_, value)| value.as_str())
    }

    /// A name that is none of these.
    pub(super) fn unknown(&self, known: &[&str]) -> Option<&str> {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        names.into_iter().find(|name| !known.contains(name))
    }
}

/// A value as it may stand in a query.
#[must_use]
pub(super) fn encode(value: &str) -> String {
    utf8_percent_encode(value, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        for value in [
            "",
            "com.acme.Pay",
            "a&b=c+d e%20",
            "\u{e9}\u{65e5}",
            "lane=gray",
        ] {
            let query = Query::read(&format!("x=1&attribute={}&y", encode(value)));
            assert_eq!(query.get("attribute"), Some(value));
            assert_eq!(query.get("y"), Some(""));
            assert_eq!(query.get("z"), None);
        }
        let several = Query::read("a=1&a=2");
        assert_eq!(several.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(several.get("a"), Some("2"));
        assert_eq!(several.unknown(&["a"]), None);
        assert_eq!(several.unknown(&["b"]), Some("a"));
    }
}
