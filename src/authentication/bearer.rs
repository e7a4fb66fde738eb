//! Bearer tokens: checks the signature, issuer, audience and time of a token against a set of keys.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::Value;

use super::tokens::Keys;

/// Claims that are read of one token, at most.
const CLAIMS: usize = 256;
/// How deep claims within claims are looked into.
const DEPTH: usize = 4;

/// A good token.
#[derive(Debug, PartialEq)]
pub(crate) struct Proved {
    /// What it says: texts by their names. Values of a list are joined by commas; those of an object stand under its
    /// name, a dot and their own.
    pub(crate) claims: BTreeMap<String, String>,
    /// The second in which it ends.
    pub(crate) ends: u64,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotProved {
    /// The key that it names is not there.
    UnknownKey,
    /// It is not good.
    Bad,
}

/// Who says to have made a token; nothing proves it yet.
pub(crate) fn issuer_of(token: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

impl Keys {
    /// What a token says that this issuer made for one of these audiences, and that is good now, by clocks that are
    /// at most so many seconds apart.
    ///
    /// # Errors
    /// If it is not.
    pub(crate) fn prove(
        &self,
        token: &str,
        issuer: &str,
        audiences: &[String],
        skew: u64,
    ) -> Result<Proved, NotProved> {
        let header = decode_header(token).map_err(|_| NotProved::Bad)?;
        let named = header.kid.as_deref();
        let mut is_known = false;
        for (id, algorithm, key) in self.all() {
            if let (Some(named), Some(id)) = (named, id)
                && named != id
            {
                continue;
            }
            is_known = true;
            let mut validation = Validation::new(algorithm);
            validation.leeway = skew;
            validation.validate_nbf = true;
            validation.set_issuer(&[issuer]);
            validation.set_audience(audiences);
            validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            match decode::<BTreeMap<String, Value>>(token, key, &validation) {
                Ok(proved) => return read(proved.claims),
                // Another key may prove it.
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) if *error.kind() == ErrorKind::InvalidAlgorithm => {}
                Err(_) => return Err(NotProved::Bad),
            }
        }
        // A token that names no key may be of one that is new.
        Err(match is_known && named.is_some() {
            true => NotProved::Bad,
            false => NotProved::UnknownKey,
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "what is no time saturates"
)]
fn read(said: BTreeMap<String, Value>) -> Result<Proved, NotProved> {
    let ends = said.get("exp").and_then(Value::as_f64);
    let ends = ends.ok_or(NotProved::Bad)? as u64;
    let mut claims = BTreeMap::new();
    for (name, value) in said {
        put(&name, value, DEPTH, &mut claims);
    }
    Ok(Proved { claims, ends })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(own) => Some(own.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn put(name: &str, value: Value, depth: usize, claims: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::Object(own) if depth > 0 => {
            for (inner, value) in own {
                put(&format!("{name}.{inner}"), value, depth - 1, claims);
            }
            return;
        }
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().filter_map(text).collect();
            Some(texts.join(","))
        }
        other => text(&other),
    };
    if let Some(text) = text
        && claims.len() < CLAIMS
    {
        claims.entry(name.to_owned()).or_insert(text);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp as seconds};
    use serde_json::json;

    use super::super::file::Parsed;
    use super::*;

    const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";

    fn keys() -> Keys {
        let set = json!({ "keys": [ { "kty": "oct", "kid": "k1", "alg": "HS256", "k": SECRET } ] });
        Keys::parse(set.to_string().as_bytes()).unwrap()
    }

    fn signed(kid: Option<&str>, secret: &[u8], claims: &Value) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    const OURS: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn good() -> Value {
        json!({ "iss": "acme", "aud": [ "mesh", "other" ], "exp": seconds() + 600, "sub": "alice",
            "roles": [ "reader", "writer", 7 ], "realm": { "access": { "level": 3 } }, "admin": true })
    }

    fn proved(token: &str) -> Result<Proved, NotProved> {
        keys().prove(token, "acme", &["mesh".to_owned()], 60)
    }

    #[test]
    fn what_a_good_token_says_is_read() {
        let token = signed(Some("k1"), OURS, &good());
        assert_eq!(issuer_of(&token).as_deref(), Some("acme"));
        let claims = proved(&token).unwrap().claims;
        for (name, value) in [
            ("sub", "alice"),
            ("roles", "reader,writer,7"),
            ("realm.access.level", "3"),
            ("admin", "true"),
        ] {
            assert_eq!(claims.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_audience_in_its_time_and_from_its_issuer_only() {
        let now = seconds();
        for (name, value, is_good) in [
            ("exp", json!(now - 30), true),
            ("exp", json!(now - 90), false),
            ("nbf", json!(now + 30), true),
            ("nbf", json!(now + 90), false),
            ("aud", json!("mesh"), true),
            ("aud", json!("other"), false),
            ("aud", json!(null), false),
            ("iss", json!("evil"), false),
            ("exp", json!(null), false),
            ("exp", json!("soon"), false),
        ] {
            let mut claims = good();
            claims[name] = value.clone();
            let found = proved(&signed(Some("k1"), OURS, &claims));
            assert_eq!(found.is_ok(), is_good, "{name} {value}: {found:?}");
        }
        for missing in ["exp", "aud", "iss"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(missing);
            let found = proved(&signed(Some("k1"), OURS, &claims));
            assert_eq!(found, Err(NotProved::Bad), "without {missing}");
        }
    }

    #[test]
    fn a_key_that_is_not_there_may_be_new_and_one_that_is_there_proves_its_own_only() {
        assert_eq!(
            proved(&signed(Some("k2"), OURS, &good())),
            Err(NotProved::UnknownKey)
        );
        assert_eq!(
            proved(&signed(Some("k1"), &[7; 32], &good())),
            Err(NotProved::Bad)
        );
        assert_eq!(
            proved(&signed(None, &[7; 32], &good())),
            Err(NotProved::UnknownKey)
        );
        assert!(proved(&signed(None, OURS, &good())).is_ok());
        for bad in [
            "",
            "a.b.c",
            "eyJhbGciOiJub25lIn0.eyJpc3MiOiJhY21lIiwiYXVkIjoibWVzaCIsImV4cCI6OTk5OTk5OTk5OX0.",
        ] {
            assert_eq!(proved(bad), Err(NotProved::Bad), "{bad}");
        }
    }
}
