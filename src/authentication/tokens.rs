//! JSON Web Tokens (RFC 7519) as passwords. The key decides about the algorithm, never the token.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use finback_mqtt::authentication::{Login, User};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::TokenRules;
use super::file::Parsed;

/// The shortest secret of HS256 (RFC 7518, section 3.2).
const MIN_SECRET: usize = 32;
/// Clocks may be apart by so many seconds.
const LEEWAY: u32 = 30;
/// The longest token; any other is none.
const MAX_TOKEN: usize = 16 * 1024;

/// Keys that prove tokens.
pub struct Keys(Vec<Key>);

struct Key {
    /// By which a token names it.
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Parsed for Keys {
    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let text = text.trim();
        if text.starts_with('{') {
            let set: JwkSet = serde_json::from_str(text).context("is not a JSON Web Key Set")?;
            // RFC 7517, section 5: keys that are not understood are left out.
            let keys: Vec<Key> = set.keys.iter().filter_map(from_set).collect();
            if keys.is_empty() {
                bail!("has no key for RS256, ES256 or HS256");
            }
            return Ok(Self(keys));
        }
        let one = |algorithm, key| {
            Self(vec![Key {
                id: None,
                algorithm,
                key,
            }])
        };
        if text.starts_with("-----BEGIN") {
            if text.contains("PRIVATE KEY") {
                bail!("is a private key; tokens are proved by the public one");
            }
            let pem = text.as_bytes();
            if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
                return Ok(one(Algorithm::RS256, key));
            }
            let key = DecodingKey::from_ec_pem(pem);
            let key = key.context("is not a public key of RSA, nor of P-256")?;
            return Ok(one(Algorithm::ES256, key));
        }
        let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if secret.len() < MIN_SECRET {
            bail!(
                "is neither PEM nor a key set, and too short for a secret: write 32 bytes or more"
            );
        }
        Ok(one(Algorithm::HS256, DecodingKey::from_secret(secret)))
    }
}

fn from_set(jwk: &Jwk) -> Option<Key> {
    let common = &jwk.common;
    if matches!(
        common.public_key_use,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
    ) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(own) if own.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKey(own) if own.value.len() >= MIN_SECRET * 4 / 3 => {
            Algorithm::HS256
        }
        _ => return None,
    };
    let said = common.key_algorithm.map(|own| own.to_string());
    if said.is_some_and(|own| own != format!("{algorithm:?}")) {
        return None;
    }
    Some(Key {
        id: common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(jwk).ok()?,
    })
}

impl Keys {
    /// Each by the name that tokens call it, what it signs by, and itself.
    pub(super) fn all(&self) -> impl Iterator<Item = (Option<&str>, Algorithm, &DecodingKey)> {
        let all = self.0.iter();
        all.map(|own| (own.id.as_deref(), own.algorithm, &own.key))
    }

    /// Whose token this is, if it is a good one.
    pub(super) fn check(&self, login: &Login, rules: &TokenRules) -> Option<User> {
        let token = std::str::from_utf8(login.password.as_deref()?).ok()?;
        if token.len() > MAX_TOKEN {
            return None;
        }
        let named = decode_header(token).ok()?.kid;
        let fits = |key: &&Key| match (&named, &key.id) {
            (Some(named), Some(own)) => named == own,
            _ => true,
        };
        let claims = self
            .0
            .iter()
            .filter(fits)
            .find_map(|key| key.proves(token, rules))?;
        let username = login.username.as_deref().unwrap_or_default();
        for (name, wanted) in &rules.claims {
            let wanted = wanted.fill_in(&login.client_id, username)?;
            if claims.get(name) != Some(&wanted) {
                return None;
            }
        }
        let name = claims.get("sub")?.clone();
        let ends = claims.get("exp").and_then(|own| own.parse::<f64>().ok());
        let ends = ends.and_then(|own| Duration::try_from_secs_f64(own + f64::from(LEEWAY)).ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        (!name.is_empty()).then_some(User {
            name,
            claims,
            left: ends.map(|ends| ends.saturating_sub(now)),
        })
    }
}

impl Key {
    fn proves(&self, token: &str, rules: &TokenRules) -> Option<BTreeMap<String, String>> {
        let mut validation = Validation::new(self.algorithm);
        validation.leeway = LEEWAY.into();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &rules.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &rules.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let proved = decode::<BTreeMap<String, Value>>(token, &self.key, &validation).ok()?;
        let said = proved.claims.into_iter();
        Some(
            said.filter_map(|(name, value)| Some((name, plain(value)?)))
                .collect(),
        )
    }
}

/// A claim as a text; lists and objects are none.
fn plain(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(own) => Some(own.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::json;

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn signed(header: &Header, key: &[u8], claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(key)).unwrap()
    }

    fn login(token: &str) -> Login {
        Login {
            client_id: "meter-7".to_owned(),
            username: Some("north".to_owned()),
            password: Some(token.as_bytes().to_vec()),
        }
    }

    fn good() -> Value {
        json!({ "sub": "meter", "exp": get_current_timestamp() + 600, "tenant": "t1", "n": 7,
            "aud": "mesh", "iss": "acme", "device": "meter-7" })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    fn rules() -> TokenRules {
        TokenRules {
            issuer: Some("acme".to_owned()),
            audience: Some("mesh".to_owned()),
            claims: BTreeMap::from([("device".to_owned(), "{client_id}".parse().unwrap())]),
        }
    }

    #[test]
    fn a_token_is_good_in_its_time_for_its_audience_and_client_only() {
        let keys = Keys::parse(SECRET).unwrap();
        let hs256 = Header::new(Algorithm::HS256);
        let found = |claims: &Value| {
            let token = signed(&hs256, SECRET, claims);
            keys.check(&login(&token), &rules())
        };
        let user = found(&good()).unwrap();
        assert_eq!(user.name, "meter");
        assert!((610..=630).contains(&user.left.unwrap().as_secs()));
        assert_eq!((&*user.claims["tenant"], &*user.claims["n"]), ("t1", "7"));
        let now = get_current_timestamp();
        for (name, value) in [
            ("exp", json!(now - 120)),
            ("exp", json!("soon")),
            ("nbf", json!(now + 120)),
            ("aud", json!("other")),
            ("iss", json!("other")),
            ("device", json!("meter-8")),
            ("device", json!(null)),
            ("sub", json!("")),
            ("sub", json!(null)),
        ] {
            assert_eq!(found(&with(name, value.clone())), None, "{name} {value}");
        }
        for missing in ["exp", "sub", "aud", "iss", "device"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(missing);
            assert_eq!(found(&claims), None, "without {missing}");
        }
        // One that is for somebody is not for us, where nobody said who we are.
        let token = signed(&hs256, SECRET, &good());
        assert_eq!(keys.check(&login(&token), &TokenRules::default()), None);
    }

    #[test]
    fn the_key_decides_about_the_algorithm() {
        let keys = Keys::parse(SECRET).unwrap();
        let (hs256, hs512) = (Header::new(Algorithm::HS256), Header::new(Algorithm::HS512));
        for token in [
            signed(&hs512, SECRET, &good()),
            signed(&hs256, &[7; 32], &good()),
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZXRlciJ9.".to_owned(),
            "a.b.c".to_owned(),
            String::new(),
            "x".repeat(MAX_TOKEN + 1),
        ] {
            assert_eq!(keys.check(&login(&token), &rules()), None, "{token}");
        }
        for bad in [
            "short",
            "-----BEGIN PRIVATE KEY-----\n",
            "{}",
            "{\"keys\":[]}",
        ] {
            assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_of_keys_is_searched_by_the_name_that_the_token_says() {
        let secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
        let set = json!({ "keys": [
            { "kty": "oct", "kid": "other", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg" },
            { "kty": "oct", "kid": "ours", "alg": "HS256", "k": secret },
            { "kty": "oct", "kid": "encrypts", "use": "enc", "k": secret },
        ] });
        let keys = Keys::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 2);
        let named = |kid: Option<&str>| {
            let mut header = Header::new(Algorithm::HS256);
            header.kid = kid.map(str::to_owned);
            let token = signed(&header, SECRET, &good());
            keys.check(&login(&token), &rules()).is_some()
        };
        assert!(named(Some("ours")) && named(None));
        assert!(!named(Some("other")) && !named(Some("encrypts")));
    }
}
