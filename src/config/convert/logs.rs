//! What is logged, and how: the log of the process itself.

use super::Result;
use crate::config::units::Placed;
use crate::config::{Wrong, file};
use crate::log::{Filter, Format, LogConfig, level};

pub(super) fn log(from: file::Log) -> Result<LogConfig> {
    let mut config = LogConfig::default();
    if let Some(Placed { value, place }) = from.format {
        config.format = match &*value {
            "text" => Format::Text,
            "json" => Format::Json,
            _ => {
                let message = format!("no format is called `{value}`; write text or json");
                return Err(Wrong::at(place, message));
            }
        };
    }
    let wrong = |place| move |why: String| Wrong::at(place, why);
    if let Some(Placed { value, place }) = from.level {
        config.filter = Filter::of(level(&value).map_err(wrong(place))?);
    }
    for (module, Placed { value, place }) in from.modules {
        let level = level(&value).map_err(wrong(place))?;
        let filter = config.filter.with(&module, level);
        config.filter = filter.map_err(wrong(place))?;
    }
    Ok(config)
}
