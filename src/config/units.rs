//! Values with units, and values that know where they stand in the file.

use std::borrow::Cow;
use std::time::Duration;

use finback_core::rng;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

/// A value and its place in the file.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Its line and column, from 1.
    pub place: (u64, u64),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        let place = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self {
            value: spanned.value,
            place,
        })
    }
}

impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A length of time above zero, written with its unit: `800ms`, `5s`, `2m`, `1h`, `1m30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match parse_time(&text) {
            Some(Duration::ZERO) => Err(D::Error::custom(format!(
                "`{text}` leaves no time at all; write 1ms or more"
            ))),
            time => time.map(Self).ok_or_else(|| no_time(&text)),
        }
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$",
            "description": "A length of time with its unit: 800ms, 5s, 2m, 1h, 1m30s."
        })
    }
}

/// A length of time above zero, as it is written with its unit.
///
/// # Errors
/// If it is none.
pub fn time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| format!("`{text}` is not a duration; write 800ms, 5s, 2m or 1h"))
}

fn no_time<E: serde::de::Error>(text: &str) -> E {
    E::custom(format!(
        "`{text}` is not a duration; write 800ms, 5s, 2m or 1h, at most 8760h"
    ))
}

/// No more than a year: sums and multiples of times never overflow. Several numbers are added, the
/// greater units first.
fn parse_time(text: &str) -> Option<Duration> {
    let mut rest = text;
    let (mut sum, mut former) = (0_u64, u64::MAX);
    loop {
        let (number, after) = split_unit(rest)?;
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        if millis >= former {
            return None;
        }
        former = millis;
        sum = sum.checked_add(number.checked_mul(millis)?)?;
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    let time = Duration::from_millis(sum);
    (time <= Duration::from_secs(365 * 24 * 3600)).then_some(time)
}

/// A length of time that may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause(pub Duration);

impl<'de> Deserialize<'de> for Pause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_time(&text).map(Self).ok_or_else(|| no_time(&text))
    }
}

impl JsonSchema for Pause {
    fn schema_name() -> Cow<'static, str> {
        Time::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Time::json_schema(generator)
    }
}

/// A share from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u32);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            share @ 0..=100 => Ok(Self(share)),
            other => Err(D::Error::custom(format!(
                "{other} is not a share in percent; write 0 to 100"
            ))),
        }
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 100 })
    }
}

/// A share from 0 to 100 percent, with a fraction if need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FractionalPercent(pub rng::Share);

impl<'de> Deserialize<'de> for FractionalPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        let parts = rng::Share::percent(share).map(Self);
        parts.ok_or_else(|| {
            D::Error::custom(format!("{share} is not a share in percent; write 0 to 100"))
        })
    }
}

impl JsonSchema for FractionalPercent {
    fn schema_name() -> Cow<'static, str> {
        "FractionalPercent".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

/// So many in a time: `100/s`, `6000/m`, `5/100ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; above 0.
    pub amount: u64,
    /// In which time; above zero.
    pub period: Duration,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rate(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a rate; write 100/s, 6000/m or 5/100ms"
            ))
        })
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": "^[0-9]+/([0-9]*(ms|s|m|h))+$",
            "description": "So many in a time: 100/s, 6000/m, 5/100ms."
        })
    }
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (amount, period) = text.split_once('/')?;
    let amount = amount.trim().parse().ok().filter(|amount| *amount > 0)?;
    let period = period.trim();
    let is_one = period.starts_with(|c: char| c.is_ascii_alphabetic());
    let period = if is_one {
        parse_time(&format!("1{period}"))
    } else {
        parse_time(period)
    };
    let period = period.filter(|period| !period.is_zero())?;
    Some(Rate { amount, period })
}

/// A number of bytes, written with its unit: `64KiB`, `16MiB`, or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_size(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a number of bytes; write 65536, 64KiB or 16MiB"
            ))
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"], "pattern": "^[0-9]+(KiB|MiB|GiB)?$",
            "description": "A number of bytes: 65536, 64KiB, 16MiB, 1GiB."
        })
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text)?;
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(1 << shift)?).ok()
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse_time("800ms"), Some(Duration::from_millis(800)));
        assert_eq!(parse_time("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_time("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(
            parse_time("1h2m3s4ms"),
            Some(Duration::from_millis(3_723_004))
        );
        for wrong in [
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "99999999999999999999s",
            "18446744073709551615h",
            "8761h",
            "1s1m",
            "1s2s",
            "1m30",
            "8760h1ms",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        assert_eq!(parse_size("64KiB"), Some(65_536));
        assert_eq!(parse_size("7"), Some(7));
        for wrong in ["", "KiB", "64KB", "1e3", "18446744073709551615GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
