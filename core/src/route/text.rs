//! A condition on one text of a call.

use regex::{Regex, RegexBuilder};

/// A compiled expression that would take more memory than this is refused.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What a text must look like. Case matters.
#[derive(Clone, Debug, Default)]
pub enum Text {
    /// Anything, nothing included.
    #[default]
    Any,
    /// Exactly this.
    Exact(Box<str>),
    /// Anything that begins with this.
    Prefix(Box<str>),
    /// Anything in which this expression finds a match; made by [`Text::regex`], only a text
    /// that matches as a whole.
    Regex(Regex),
}

impl Text {
    /// Texts that match the expression from their first character to their last. Matching takes
    /// time linear in the text, whatever the expression.
    ///
    /// # Errors
    /// The expression is not valid, or takes more than 1 MiB compiled.
    pub fn regex(expression: &str) -> Result<Self, regex::Error> {
        // On its own first: an unbalanced parenthesis must not pair with the ones put around it.
        Regex::new(expression)?;
        let whole = format!(r"\A(?:{expression})\z");
        RegexBuilder::new(&whole)
            // Whatever stands in a text, an end of a line hides nothing of it.
            .dot_matches_new_line(true)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map(Self::Regex)
    }

    /// Whether `text` is as it must be.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Exact(own), Self::Exact(other)) | (Self::Prefix(own), Self::Prefix(other)) => {
                own == other
            }
            (Self::Regex(own), Self::Regex(other)) => own.as_str() == other.as_str(),
            _ => false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn any_is_anything() {
        assert!(Text::default().matches(""));
        assert!(Text::Any.matches("com.acme.Pay"));
    }

    #[test]
    fn exact_is_all_of_it_and_case_matters() {
        let text = Text::Exact("com.acme.Pay".into());
        assert!(text.matches("com.acme.Pay"));
        for other in ["com.acme.pay", "com.acme.Pay2", "com.acme.Pa", ""] {
            assert!(!text.matches(other), "{other}");
        }
        assert!(Text::Exact("".into()).matches(""));
        assert!(!Text::Exact("".into()).matches("1.0"));
    }

    #[test]
    fn prefix_is_the_beginning() {
        let text = Text::Prefix("com.acme.".into());
        assert!(text.matches("com.acme."));
        assert!(text.matches("com.acme.Pay"));
        assert!(!text.matches("com.acme"));
        assert!(!text.matches("x.com.acme.Pay"));
        assert!(Text::Prefix("".into()).matches(""));
    }

    #[test]
    fn regex_is_the_whole_text() {
        let text = Text::regex("a|ab").unwrap();
        assert!(text.matches("a"));
        assert!(text.matches("ab"));
        assert!(!text.matches("abc"));
        assert!(!text.matches("ba"));
        assert!(!text.matches("ab\n"));
        assert!(Text::regex("").unwrap().matches(""));
        assert!(!Text::regex("").unwrap().matches("a"));
        assert!(Text::regex(r"pay|refund\d+").unwrap().matches("refund12"));
    }

    #[test]
    fn regex_that_is_none_is_refused() {
        for bad in ["(", "a)(?:b", "[", "*", r"\1", "(?=x)"] {
            assert!(Text::regex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn regex_that_explodes_is_refused() {
        assert!(Text::regex("((a{100}){100}){100}").is_err());
    }
}
