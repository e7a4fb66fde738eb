//! `metrics.statsd`: where metrics are sent, and how.

use std::path::PathBuf;
use std::time::Duration;

use finback_observability::statsd::{Settings, StatsdFormat, StatsdServer};

use super::Result;
use crate::config::Wrong;
use crate::config::file::Statsd;
use crate::config::units::Placed;

/// What every name begins with unless the file says otherwise.
const PREFIX: &str = "finback";
/// How often the server is told unless the file says otherwise: as often as Etsy's server flushes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Nobody plots anything shorter.
const SHORTEST: Duration = Duration::from_millis(100);
/// What Ethernet carries without fragments, IPv6's and UDP's headers and a tunnel's taken off.
const PACKET: usize = 1432;
/// What Datadog's agent reads at once from a socket in the file system.
const UNIX_PACKET: usize = 8192;
/// The least and the most: a line must fit, and UDP carries no more.
const PACKETS: std::ops::RangeInclusive<usize> = 512..=65_507;

/// Where metrics are sent, and how.
pub(super) fn settings(from: Statsd) -> Result<Settings> {
    let destination = destination(&from.address)?;
    let format = format(from.format.as_ref())?;
    let usual = match destination {
        StatsdServer::Udp(_) => PACKET,
        StatsdServer::Unix(_) => UNIX_PACKET,
    };
    Ok(Settings {
        destination,
        format,
        prefix: prefix(from.prefix)?,
        interval: interval(from.interval)?,
        packet_size: match from.packet_size {
            None => usual,
            Some(size) => {
                let bytes = size.value.0;
                if !PACKETS.contains(&bytes) {
                    let (least, most) = (PACKETS.start(), PACKETS.end());
                    let message = format!("a packet has {least} to {most} bytes, such as {PACKET}");
                    return Err(Wrong::at(size.place, message));
                }
                bytes
            }
        },
        tags: tags(from.tags, format)?,
    })
}

fn destination(address: &Placed<String>) -> Result<StatsdServer> {
    let text = &address.value;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.starts_with('/') {
            return Ok(StatsdServer::Unix(PathBuf::from(path)));
        }
    } else if let Some((host, port)) = text.rsplit_once(':')
        && !host.is_empty()
        && port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Ok(StatsdServer::Udp(text.clone()));
    }
    let message = format!(
        "`{text}` is not a StatsD server; write HOST:PORT, such as 127.0.0.1:8125, or unix:/PATH"
    );
    Err(Wrong::at(address.place, message))
}

fn format(given: Option<&Placed<String>>) -> Result<StatsdFormat> {
    match given {
        None => Ok(StatsdFormat::Plain),
        Some(given) => match &*given.value {
            "plain" => Ok(StatsdFormat::Plain),
            "dogstatsd" => Ok(StatsdFormat::Dogstatsd),
            other => {
                let message = format!("`{other}` is not a format; write plain or dogstatsd");
                Err(Wrong::at(given.place, message))
            }
        },
    }
}

/// Characters of names that every server keeps.
fn is_plain(text: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
    text.chars().all(plain)
}

fn prefix(given: Option<Placed<String>>) -> Result<String> {
    let Some(Placed { value, place }) = given else {
        return Ok(PREFIX.to_owned());
    };
    let dots = value.starts_with('.') || value.ends_with('.') || value.contains("..");
    if dots || !is_plain(&value) {
        let message = "a prefix has letters, digits, `_`, `-` and, between them, dots; \
                       the dot behind it is added";
        return Err(Wrong::at(place, message));
    }
    Ok(value)
}

fn interval(given: Option<Placed<crate::config::units::Time>>) -> Result<Duration> {
    match given {
        None => Ok(INTERVAL),
        Some(given) if given.value.0 < SHORTEST => {
            let message = format!("the shortest interval is {SHORTEST:?}; write 1s or more");
            Err(Wrong::at(given.place, message))
        }
        Some(given) => Ok(given.value.0),
    }
}

fn tags(
    given: std::collections::BTreeMap<String, Placed<String>>,
    format: StatsdFormat,
) -> Result<Vec<(String, String)>> {
    let each = given.into_iter().map(|(name, Placed { value, place })| {
        if format == StatsdFormat::Plain {
            let message = "plain StatsD has no tags; write `format: dogstatsd`, or a `prefix`";
            return Err(Wrong::at(place, message));
        }
        let good = |text: &str| !text.is_empty() && is_plain(text);
        if !good(&name) || !good(&value) {
            let message = format!(
                "`{name}: {value}` is not a tag; name and value have letters, digits, `_`, `-` and dots"
            );
            return Err(Wrong::at(place, message));
        }
        Ok((name, value))
    });
    each.collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(statsd: &str) -> std::result::Result<Option<Settings>, String> {
        let rest = "listeners: [ { address: \"127.0.0.1:0\", routes: r } ]\n\
                    routes: { r: [ { respond: { status: 204 } } ] }\n";
        let text = format!("metrics:\n  statsd: {{ {statsd} }}\n{rest}");
        let parsed = crate::config::parse(&text, Path::new("f.yaml"));
        parsed
            .map(|own| own.statsd)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let told = parse("address: \"127.0.0.1:8125\"").unwrap().unwrap();
        assert_eq!(
            told,
            Settings {
                destination: StatsdServer::Udp("127.0.0.1:8125".to_owned()),
                format: StatsdFormat::Plain,
                prefix: "finback".to_owned(),
                interval: INTERVAL,
                packet_size: PACKET,
                tags: Vec::new(),
            }
        );
        let told =
            parse("address: \"unix:/run/dsd.socket\", format: dogstatsd, tags: { env: a.b }");
        let told = told.unwrap().unwrap();
        assert_eq!(
            told.destination,
            StatsdServer::Unix("/run/dsd.socket".into())
        );
        assert_eq!(told.packet_size, UNIX_PACKET);
        assert_eq!(told.tags, [("env".to_owned(), "a.b".to_owned())]);
        assert!(parse("address: \"statsd.mesh:8125\", prefix: \"\"").is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (statsd, why) in [
            ("interval: 1s", "`address` is missing"),
            (
                "address: \"127.0.0.1\"",
                ":2:22: `127.0.0.1` is not a StatsD server",
            ),
            ("address: \":8125\"", "`:8125` is not a StatsD server"),
            ("address: \"h:0\"", "`h:0` is not a StatsD server"),
            ("address: \"unix:run\"", "`unix:run` is not a StatsD server"),
            (
                "address: \"h:1\", format: datadog",
                "write plain or dogstatsd",
            ),
            ("address: \"h:1\", prefix: \"a.\"", "a prefix has letters"),
            ("address: \"h:1\", prefix: \"a:b\"", "a prefix has letters"),
            (
                "address: \"h:1\", interval: 10ms",
                "the shortest interval is 100ms",
            ),
            (
                "address: \"h:1\", packet_size: 100",
                "a packet has 512 to 65507 bytes",
            ),
            (
                "address: \"h:1\", tags: { a: b }",
                "plain StatsD has no tags",
            ),
            (
                "address: \"h:1\", format: dogstatsd, tags: { a: \"b,c\" }",
                "`a: b,c` is not a tag",
            ),
            ("address: \"h:1\", port: 1", "no key is called `port`"),
        ] {
            let said = parse(statsd).unwrap_err();
            assert!(said.contains(why), "{statsd}: {said}");
        }
    }
}
