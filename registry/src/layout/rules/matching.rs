//! Texts and addresses as Dubbo's rules match them (Dubbo: StringMatch,
//! Dubbo: AddressMatch, Dubbo: NetUtils, `matchIpExpression`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use finback_core::traffic_rules::is_glob;
use regex::Regex;
use serde_json::Value;

/// Any address, as rules write it.
pub(super) const ANY_HOST: &str = "0.0.0.0";
/// Any value, as rules write it.
pub(super) const ANY: &str = "*";
/// The longest regular expression that is compiled, in bytes of the compiled program.
const MAX_PROGRAM: usize = 256 * 1024;

/// A value of YAML as Java turns it into a text; `None` for null, lists and maps.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The texts of a list; of anything else, none.
pub(super) fn texts_of(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(text_of).collect()
}

/// A test of one text.
#[derive(Debug, Default)]
pub(super) struct TextMatch {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<Regex>,
    wildcard: Option<String>,
    empty: bool,
    noempty: bool,
}

impl TextMatch {
    /// # Errors
    /// If it has a part that is not known, or none at all.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let Value::Object(parts) = value else {
            return Err(format!("`{value}` is not a text match"));
        };
        let mut own = Self::default();
        for (name, value) in parts.iter().filter(|(_, value)| !value.is_null()) {
            let text = text_of(value).ok_or_else(|| format!("`{name}` is not text"))?;
            match &**name {
                "exact" => own.exact = Some(text),
                "prefix" => own.prefix = Some(text),
                "wildcard" => own.wildcard = Some(text),
                "empty" => own.empty = true,
                "noempty" => own.noempty = true,
                "regex" => own.regex = Some(regex(&text)?),
                other => return Err(format!("texts are not matched by `{other}`")),
            }
        }
        Ok(own)
    }

    pub(super) fn fits(&self, text: Option<&str>) -> bool {
        if let Some(text) = text {
            if let Some(exact) = &self.exact {
                return text == exact;
            }
            if let Some(prefix) = &self.prefix {
                return text.starts_with(&**prefix);
            }
            if let Some(regex) = &self.regex {
                return regex.is_match(text);
            }
            if let Some(wildcard) = &self.wildcard {
                return wildcard == ANY || text == wildcard;
            }
        }
        let is_empty = text.is_none_or(str::is_empty);
        (self.empty && is_empty) || (!self.empty && self.noempty && !is_empty)
    }
}

/// Java's `matches` is about the whole text.
fn regex(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?:{text})$"))
        .size_limit(MAX_PROGRAM)
        .build()
        .map_err(|_| format!("`{text}` is not a regular expression that is understood"))
}

/// One of several texts (`oneof`).
#[derive(Debug)]
pub(super) struct OneOf(Vec<TextMatch>);

impl OneOf {
    /// # Errors
    /// If it is no list of matches of texts.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let Some(list) = value["oneof"].as_array() else {
            return Err("`oneof` is missing".to_owned());
        };
        Ok(Self(
            list.iter().map(TextMatch::read).collect::<Result<_, _>>()?,
        ))
    }

    pub(super) fn fits(&self, text: Option<&str>) -> bool {
        self.0.iter().any(|each| each.fits(text))
    }
}

/// A test of one parameter of a provider.
#[derive(Debug)]
pub(super) struct ParameterMatch {
    key: String,
    value: TextMatch,
}

impl ParameterMatch {
    /// Reads a list of them.
    ///
    /// # Errors
    /// If one of them names no parameter, or is not understood.
    pub(super) fn read_all(value: &Value) -> Result<Vec<Self>, String> {
        let Some(list) = value.as_array() else {
            return Err("parameters are matched by a list".to_owned());
        };
        let one = |each: &Value| {
            let key = each["key"].as_str().ok_or("a match without `key`")?;
            Ok(Self {
                key: key.to_owned(),
                value: TextMatch::read(&each["value"])?,
            })
        };
        list.iter().map(one).collect()
    }

    pub(super) fn fits<'a>(&self, parameter: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.value.fits(parameter(&self.key))
    }
}

/// A test of an address.
#[derive(Debug, Default)]
pub(super) struct AddressMatch {
    wildcard: Option<String>,
    /// Dubbo's own spelling.
    cird: Option<String>,
    exact: Option<String>,
}

impl AddressMatch {
    /// # Errors
    /// If it has a part that is not known.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let Value::Object(parts) = value else {
            return Err(format!("`{value}` is not an address match"));
        };
        let mut own = Self::default();
        for (name, value) in parts.iter().filter(|(_, value)| !value.is_null()) {
            let text = text_of(value);
            match &**name {
                "wildcard" => own.wildcard = text,
                "cird" => own.cird = text,
                "exact" => own.exact = text,
                other => return Err(format!("addresses are not matched by `{other}`")),
            }
        }
        Ok(own)
    }

    /// Whether it is about every address.
    pub(super) fn is_any(&self) -> bool {
        let any = |text: &String| text == ANY_HOST || text == ANY;
        self.cird.is_none() && self.wildcard.as_ref().is_some_and(any)
    }

    /// `address` is a host, or a host with its port, which no network has.
    pub(super) fn fits(&self, address: &str) -> bool {
        if let Some(network) = &self.cird {
            let own = address == network;
            match own.then_some(true).or_else(|| ip(network, address, 0)) {
                Some(fits) => return fits,
                // As in Java, what is no address goes on to the other tests.
                None if self.wildcard.is_none() && self.exact.is_none() => return false,
                None => {}
            }
        }
        if let Some(wildcard) = &self.wildcard {
            return self.is_any_text(wildcard) || is_glob(wildcard, address);
        }
        self.exact.as_deref() == Some(address)
    }

    fn is_any_text(&self, text: &str) -> bool {
        text == ANY_HOST || text == ANY
    }
}

/// Whether an address in a list of a tag is a provider's.
pub(super) fn is_tagged(pattern: &str, host: &str, port: u16) -> bool {
    pattern == host
        || ip(pattern, host, port) == Some(true)
        || pattern.strip_prefix(ANY_HOST) == Some(&*format!(":{port}"))
}

/// Whether an address fits `10.0.*.1-9:20880`, `10.0.0.0/8` and the like; `None` if either
/// cannot be read.
fn ip(pattern: &str, host: &str, port: u16) -> Option<bool> {
    let address: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    if let Some((network, length)) = pattern.split_once('/') {
        return network_has(network, length, address);
    }
    let pattern = pattern.trim();
    if pattern == "*.*.*.*" || pattern == ANY {
        return Some(true);
    }
    let (pattern, own_port) = match pattern.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None if address.is_ipv4() => match pattern.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (pattern, None),
        },
        None => (pattern, None),
    };
    if own_port.is_some_and(|own| own != port.to_string()) {
        return Some(false);
    }
    if !pattern.contains(['*', '-']) {
        return Some(pattern.parse::<IpAddr>().ok()? == address);
    }
    match address {
        IpAddr::V4(address) => segments::<4>(pattern, '.', 10, address.octets().map(u16::from)),
        IpAddr::V6(address) => segments::<8>(pattern, ':', 16, address.segments()),
    }
}

/// Segment by segment: a number, `*`, or a range.
fn segments<const N: usize>(
    pattern: &str,
    separator: char,
    radix: u32,
    own: [u16; N],
) -> Option<bool> {
    let masks: Vec<&str> = pattern.split(separator).collect();
    if masks.len() != N {
        return None;
    }
    let number = |text: &str| u16::from_str_radix(text, radix).ok();
    for (mask, own) in masks.iter().zip(own) {
        let fits = match mask.split_once('-') {
            _ if *mask == ANY => true,
            Some((low, high)) => (number(low)?..=number(high)?).contains(&own),
            None => number(mask)? == own,
        };
        if !fits {
            return Some(false);
        }
    }
    Some(true)
}

fn network_has(network: &str, length: &str, address: IpAddr) -> Option<bool> {
    let length: u32 = length.parse().ok()?;
    let prefix = |bits: u128, width: u32| bits.checked_shr(width - length).unwrap_or(0);
    match (network.parse().ok()?, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if length <= Ipv4Addr::BITS => {
            let of = |ip: Ipv4Addr| prefix(ip.to_bits().into(), Ipv4Addr::BITS);
            Some(of(network) == of(address))
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if length <= Ipv6Addr::BITS => {
            let of = |ip: Ipv6Addr| prefix(ip.to_bits(), Ipv6Addr::BITS);
            Some(of(network) == of(address))
        }
        _ => Some(false),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_tags_as_dubbo_reads_them() {
        for (pattern, fits) in [
            ("10.0.0.1:20880", true),
            ("10.0.0.1", true),
            ("10.0.0.2:20880", false),
            ("10.0.0.1:1", false),
            ("10.0.0.1:0", false),
            ("0.0.0.0:20880", true),
            ("0.0.0.0", false),
            ("0.0.0.0:1", false),
            ("*", true),
            ("10.0.*.*", true),
            ("10.0.*.*:20880", true),
            ("10.0.*.*:1", false),
            ("10.0.0.0-5:20880", true),
            ("10.0.0.2-5", false),
            ("10.0.0.0/8", true),
            ("10.1.0.0/16", false),
            ("10.0.0.0/33", false),
            ("10.0.0", false),
            ("host", false),
            ("", false),
        ] {
            assert_eq!(is_tagged(pattern, "10.0.0.1", 20880), fits, "{pattern}");
        }
        assert!(is_tagged("[fe80::1]:1", "fe80::1", 1) && is_tagged("fe80:0::1", "fe80::1", 1));
        assert!(is_tagged("fe80:0:0:0:0:0:0:*", "fe80::1", 1));
        assert!(is_tagged("fe80::/10", "fe80::1", 1) && !is_tagged("fc00::/7", "fe80::1", 1));
        assert!(is_tagged("provider-a", "provider-a", 1));
    }

    #[test]
    fn texts_match_as_the_first_test_that_is_there_says() {
        let fits = |value: Value, text| TextMatch::read(&value).unwrap().fits(text);
        assert!(fits(json!({"exact": "a"}), Some("a")));
        assert!(!fits(json!({"exact": "a", "prefix": ""}), Some("b")));
        assert!(fits(json!({"prefix": "a"}), Some("ab")));
        assert!(fits(json!({"regex": "a.c"}), Some("abc")));
        assert!(!fits(json!({"regex": "b"}), Some("abc")), "the whole text");
        assert!(fits(json!({"wildcard": "*"}), Some("x")));
        assert!(!fits(json!({"wildcard": "x*"}), Some("xy")));
        assert!(!fits(json!({"wildcard": "*"}), None));
        assert!(fits(json!({"empty": ""}), None) && !fits(json!({"empty": ""}), Some("x")));
        assert!(fits(json!({"noempty": ""}), Some("x")) && !fits(json!({"noempty": ""}), None));
        assert!(!fits(json!({}), Some("x")));
        for refused in [json!({"suffix": "x"}), json!({"regex": "("}), json!("x")] {
            assert!(TextMatch::read(&refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn addresses_match_by_network_glob_or_text() {
        let fits = |value: Value, text: &str| AddressMatch::read(&value).unwrap().fits(text);
        assert!(fits(json!({"cird": "10.0.0.0/8"}), "10.1.1.1"));
        assert!(!fits(json!({"cird": "10.0.0.0/8"}), "10.1.1.1:20880"));
        assert!(fits(json!({"wildcard": "10.*"}), "10.1.1.1:20880"));
        assert!(fits(json!({"wildcard": "0.0.0.0"}), "10.1.1.1"));
        assert!(fits(json!({"exact": "10.1.1.1:1"}), "10.1.1.1:1"));
        assert!(!fits(json!({}), "10.1.1.1"));
        assert!(AddressMatch::read(&json!({"cidr": "10.0.0.0/8"})).is_err());
    }
}
