//! Log filter: the level from which lines are written, and other levels for single modules.

use std::fmt;
use std::str::FromStr;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;

use super::LIFECYCLE;

/// Which lines are written. As a text: a level, or `MODULE=LEVEL`, several of them with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    level: LevelFilter,
    /// The longest names first: the one that says most of a module holds.
    modules: Vec<(String, LevelFilter)>,
}

impl LogFilter {
    /// One level for all.
    #[must_use]
    pub fn of(level: LevelFilter) -> Self {
        Self {
            level,
            modules: Vec::new(),
        }
    }

    /// The same with another level for a module and what is in it.
    ///
    /// # Errors
    /// If that is no module's name.
    pub fn with(mut self, module: &str, level: LevelFilter) -> Result<Self, String> {
        let is_part = |part: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            !part.is_empty() && part.bytes().all(is_letter)
        };
        if !module.split("::").all(is_part) {
            return Err(format!(
                "`{module}` is not a module; write one such as finback_http or finback_core::driver"
            ));
        }
        self.modules.retain(|(own, _)| own != module);
        self.modules.push((module.to_owned(), level));
        self.modules
            .sort_by_key(|(own, _)| std::cmp::Reverse(own.len()));
        Ok(self)
    }

    /// Whether a line is written.
    pub(super) fn admits(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        metadata.is_event() && (target == LIFECYCLE || *metadata.level() <= self.level_of(target))
    }

    fn level_of(&self, target: &str) -> LevelFilter {
        let is_within = |module: &str| {
            let rest = target.strip_prefix(module);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let module = self.modules.iter().find(|(module, _)| is_within(module));
        module.map_or(self.level, |(_, level)| *level)
    }

    /// The level above which no line is written.
    pub(super) fn most(&self) -> LevelFilter {
        let levels = self.modules.iter().map(|(_, level)| *level);
        // What is told at every level is told at `info`.
        let least = self.level.max(LevelFilter::INFO);
        levels.fold(least, LevelFilter::max)
    }
}

/// A level by its name.
///
/// # Errors
/// If there is no such level: those that there are.
pub(crate) fn level_named(name: &str) -> Result<LevelFilter, String> {
    match name.to_ascii_lowercase().as_str() {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err(format!(
            "no level is called `{name}`; write error, warn, info, debug, trace or off"
        )),
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::of(LevelFilter::INFO);
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => filter.level = level_named(part)?,
                Some((module, name)) => {
                    filter = filter.with(module.trim(), level_named(name.trim())?)?
                }
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for (module, level) in &self.modules {
            write!(f, ",{module}={level}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_and_levels_of_modules() {
        let filter: LogFilter = "warn,finback_core=debug, finback_core::driver=error"
            .parse()
            .unwrap_or_else(|why| panic!("{why}"));
        for (target, level) in [
            ("finback_http::serve", LevelFilter::WARN),
            ("finback_core", LevelFilter::DEBUG),
            ("finback_core::mesh", LevelFilter::DEBUG),
            ("finback_core::driver::framed", LevelFilter::ERROR),
            ("finback_corex", LevelFilter::WARN),
        ] {
            assert_eq!(filter.level_of(target), level, "{target}");
        }
        assert_eq!(filter.most(), LevelFilter::DEBUG);
        let again = filter.to_string();
        assert_eq!(again.parse(), Ok(filter));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_words() {
        for (text, wanted) in [
            (
                "inof",
                "no level is called `inof`; write error, warn, info, debug, trace or off",
            ),
            ("finback_http=loud", "no level is called `loud`"),
            ("a-b=info", "`a-b` is not a module"),
            ("=info", "`` is not a module"),
            ("info,", "no level is called ``"),
            ("[span]=info", "`[span]` is not a module"),
        ] {
            let why = text.parse::<LogFilter>().err().unwrap_or_default();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }
}
