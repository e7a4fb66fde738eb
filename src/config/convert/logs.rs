//! Logging: the log of the process itself, and access logs.

use super::Result;
use crate::access_log::{AccessLogConfig, AccessLogFormat, LogTarget, Rotation};
use crate::config::folder::Folder;
use crate::config::units::Placed;
use crate::config::{Wrong, file};
use crate::log::{LineFormat, LogConfig, LogFilter, level_named};

pub(super) fn log(from: file::Log) -> Result<LogConfig> {
    let mut config = LogConfig::default();
    if let Some(Placed { value, place }) = from.format {
        config.format = match &*value {
            "text" => LineFormat::Text,
            "json" => LineFormat::Json,
            _ => {
                let message = format!("no format is called `{value}`; write text or json");
                return Err(Wrong::at(place, message));
            }
        };
    }
    let wrong = |place| move |why: String| Wrong::at(place, why);
    if let Some(Placed { value, place }) = from.level {
        config.filter = LogFilter::of(level_named(&value).map_err(wrong(place))?);
    }
    for (module, Placed { value, place }) in from.modules {
        let level = level_named(&value).map_err(wrong(place))?;
        let filter = config.filter.with(&module, level);
        config.filter = filter.map_err(wrong(place))?;
    }
    Ok(config)
}

/// The shortest file that is worth moving away.
const SHORTEST: usize = 64 * 1024;
/// More former files than anybody looks through.
const MOST_KEPT: u32 = 1000;

pub(super) fn access_log(
    Placed { value, place }: Placed<file::AccessLog>,
    folder: &Folder<'_>,
) -> Result<AccessLogConfig> {
    let target = match (value.path, value.stdout) {
        (Some(path), false) => LogTarget::File {
            path: folder.join(path),
            rotation: value.rotate.map(rotation).transpose()?,
        },
        (None, true) => match value.rotate {
            None => LogTarget::Stdout,
            Some(rotate) => {
                let message = "standard output cannot be moved away; take `rotate` away";
                return Err(Wrong::at(rotate.place, message));
            }
        },
        _ => {
            let message = "write exactly one of `path` and `stdout: true`";
            return Err(Wrong::at(place, message));
        }
    };
    let format = match value.format {
        None => AccessLogFormat::Json,
        Some(Placed { value, place }) => {
            value.parse().map_err(|why: String| Wrong::at(place, why))?
        }
    };
    let only_failures = match value.only {
        None => false,
        Some(only) if only.value == "failures" => true,
        Some(Placed { value, place }) => {
            let message =
                format!("`{value}` is nothing to choose; write failures, or leave `only` out");
            return Err(Wrong::at(place, message));
        }
    };
    let sample = match value.sample {
        None => 1.0,
        Some(Placed { place, .. }) if only_failures => {
            let message = "failures are all written; take `sample` or `only` away";
            return Err(Wrong::at(place, message));
        }
        Some(Placed { value, .. }) if value > 0.0 && value <= 1.0 => value,
        Some(Placed { value, place }) => {
            let message =
                format!("{value} is not a share; write one above 0 and up to 1, such as 0.01");
            return Err(Wrong::at(place, message));
        }
    };
    Ok(AccessLogConfig {
        target,
        format,
        only_failures,
        sample,
    })
}

fn rotation(Placed { value, place }: Placed<file::Rotate>) -> Result<Rotation> {
    let keep = value.keep.unwrap_or(5);
    if value.size.0 < SHORTEST || keep > MOST_KEPT {
        let message = format!("write a `size` of 64KiB or more, and `keep` up to {MOST_KEPT}");
        return Err(Wrong::at(place, message));
    }
    Ok(Rotation {
        size: value.size.0 as u64,
        keep,
    })
}
