//! Provider settings: what a provider's registration asks of its callers, read as its framework's own consumers read it.

use std::time::Duration;

use finback_core::discovery::{Lookup, Terms};

use super::PATH;
use crate::offer::Provider;

/// The part of a method's parameter that says how long it may take.
const TIMEOUT: &str = "timeout";

/// SOFA-RPC's consumers take the provider's time where they have none (SOFA-RPC: AbstractCluster).
pub(super) fn sofa(provider: &Provider) -> Option<Terms> {
    let timeout = provider.parameters.get(TIMEOUT).and_then(duration)?;
    Some(Terms {
        timeout: Some(timeout),
        ..Terms::default()
    })
}

/// What Dubbo's consumers take from a provider's URL (Dubbo: DubboInvoker, Dubbo: RpcUtils).
/// Retries are theirs to decide, and the serialization is the caller's.
pub(super) fn dubbo(lookup: &Lookup, provider: &Provider) -> Terms {
    let parameters = &provider.parameters;
    let mut terms = Terms::default();
    if let Some(token) = parameters.get("token").filter(|token| is_set(token)) {
        terms.defaults.push(("token".into(), token.into()));
    }
    // A provider that says "any" of itself does not tell which one it is.
    let own = |text: &str| (text != "*").then(|| text.into());
    terms.version = own(&provider.version);
    terms.group = own(&provider.group);
    if matches!(&*lookup.protocol, "triple" | "grpc" | "http") {
        // Its streams take as long as they take; its paths are HTTP's.
        return terms;
    }
    if let Some(path) = parameters.get(PATH)
        && !path.is_empty()
        && *path != *lookup.service
    {
        terms.attributes.push(("path".into(), path.into()));
    }
    terms.timeout = [TIMEOUT, "default.timeout"]
        .iter()
        .find_map(|name| parameters.get(name).and_then(duration));
    for (name, value) in parameters.iter() {
        if let Some((method, TIMEOUT)) = name.split_once('.')
            && method != "default"
            && let Some(timeout) = duration(value)
        {
            terms.timeouts.push((method.into(), timeout));
        }
    }
    terms
}

/// Whether a parameter says anything (Dubbo's `ConfigUtils.isNotEmpty`).
fn is_set(text: &str) -> bool {
    let nothing = ["", "false", "0", "null", "n/a"];
    !nothing.contains(&&*text.to_ascii_lowercase())
}

/// A time in milliseconds, or as dubbo-go writes it (`3s`); 0 and less stand for none.
fn duration(text: &str) -> Option<Duration> {
    let split = text
        .find(|char: char| !char.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(split)?;
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    match unit {
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::LayoutKind;
    use super::*;

    fn lookup(protocol: &str) -> Lookup {
        Lookup {
            registry: "r".into(),
            layout: "dubbo".into(),
            service: "com.acme.Pay".into(),
            version: "*".into(),
            group: "".into(),
            protocol: protocol.into(),
        }
    }

    fn provider(layout: LayoutKind, parameters: &[(&str, &str)]) -> Provider {
        let parameters = parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        super::super::provider(layout, "dubbo", parameters)
    }

    fn of(protocol: &str, parameters: &[(&str, &str)]) -> Terms {
        let provider = provider(LayoutKind::Dubbo, parameters);
        let layout = LayoutKind::Dubbo.layout();
        layout.terms(&lookup(protocol), &provider).unwrap()
    }

    #[test]
    fn a_token_is_what_dubbo_takes_for_one() {
        for (token, set) in [
            ("5b4c", true),
            ("", false),
            ("false", false),
            ("N/A", false),
            ("NULL", false),
            ("0", false),
        ] {
            for protocol in ["dubbo", "triple"] {
                let terms = of(protocol, &[("token", token)]);
                let expected = set.then(|| ("token".into(), token.into()));
                assert_eq!(terms.defaults.first(), expected.as_ref(), "{token}");
            }
        }
    }

    #[test]
    fn times_are_the_methods_then_the_services() {
        let terms = of(
            "dubbo",
            &[
                ("timeout", "5000"),
                ("sleep.timeout", "7000"),
                ("go.timeout", "3s"),
                ("never.timeout", "0"),
                ("a.b.timeout", "1"),
                ("retries", "9"),
            ],
        );
        let of_method = |method: &str| terms.timeout_of(method).map(|time| time.as_millis());
        assert_eq!(of_method("pay"), Some(5000));
        assert_eq!(of_method("sleep"), Some(7000));
        assert_eq!(of_method("go"), Some(3000));
        assert_eq!(of_method("never"), Some(5000));
        assert_eq!(terms.timeouts.len(), 2);
        let default = of("dubbo", &[("default.timeout", "800")]);
        assert_eq!(
            default.timeout_of("default"),
            Some(Duration::from_millis(800))
        );
        assert_eq!(of("triple", &[("timeout", "5000")]).timeout, None);
        assert_eq!(of("dubbo", &[("timeout", "-1")]).timeout, None);
    }

    #[test]
    fn a_provider_tells_its_version_group_and_path() {
        let terms = of("dubbo", &[("version", "1.0"), (PATH, "ctx/com.acme.Pay")]);
        assert_eq!(terms.version.as_deref(), Some("1.0"));
        assert_eq!(terms.group.as_deref(), Some(""));
        assert_eq!(
            terms.attributes,
            [("path".into(), "ctx/com.acme.Pay".into())]
        );
        let plain = of("dubbo", &[("group", "*"), (PATH, "com.acme.Pay")]);
        assert_eq!((plain.group, plain.attributes.len()), (None, 0));
    }

    #[test]
    fn other_layouts_ask_for_no_more_than_time() {
        let parameters = [("timeout", "3000"), ("token", "t")];
        let provider_of = provider;
        let provider = provider_of(LayoutKind::Sofa, &parameters);
        let sofa = LayoutKind::Sofa.layout().terms(&lookup("bolt"), &provider);
        let expected = Terms {
            timeout: Some(Duration::from_secs(3)),
            ..Terms::default()
        };
        assert_eq!(sofa, Some(expected));
        for layout in [LayoutKind::Spring, LayoutKind::Grpc, LayoutKind::Native] {
            let own = provider_of(layout, &parameters);
            assert_eq!(layout.layout().terms(&lookup("http"), &own), None);
        }
    }
}
