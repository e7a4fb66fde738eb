//! Users and their passwords, as `mosquitto_passwd` writes them: a salt and a hash, never the password.
//!
//! ```text
//! NAME:$7$ITERATIONS$SALT$HASH     PBKDF2 (RFC 8018) with HMAC-SHA512
//! NAME:$6$SALT$HASH                SHA-512 of password and salt
//! ```

use std::collections::HashMap;
use std::num::NonZeroU32;

use anyhow::{Context, bail};
use aws_lc_rs::{constant_time, digest, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use finback_mqtt::authentication::{Login, User};

use super::file::Parsed;

/// What is told where there is something else.
const USAGE: &str = "write users with `mosquitto_passwd FILE NAME`";
/// More iterations than any check should take.
const MAX_ITERATIONS: u32 = 10_000_000;

/// Users by name.
pub struct Users(HashMap<Box<str>, Secret>);

/// What a password is compared with.
struct Secret {
    /// `None`: hashed once.
    iterations: Option<NonZeroU32>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Parsed for Users {
    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).context("is not text")?;
        let mut users = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, secret) = user(line).with_context(|| format!("line {number}"))?;
            if users.insert(name.into(), secret).is_some() {
                bail!("line {number}: `{name}` stands there twice");
            }
        }
        if users.is_empty() {
            bail!("has no user; {USAGE}");
        }
        Ok(Self(users))
    }
}

fn user(line: &str) -> anyhow::Result<(&str, Secret)> {
    let (name, secret) = line.split_once(':').context(USAGE)?;
    if name.is_empty() {
        bail!("a user without a name; {USAGE}");
    }
    let parts: Vec<&str> = secret.split('$').collect();
    let (iterations, salt, hash) = match *parts {
        ["", "7", iterations, salt, hash] => (Some(iterations), salt, hash),
        ["", "6", salt, hash] => (None, salt, hash),
        _ => bail!("the password of `{name}` is not a hash that is known here; {USAGE}"),
    };
    let iterations = iterations.map(|own| {
        let parsed = own.parse::<NonZeroU32>().ok();
        let parsed = parsed.filter(|own| own.get() <= MAX_ITERATIONS);
        parsed.with_context(|| format!("the iterations of `{name}` are not a number"))
    });
    let decode = |text: &str| {
        STANDARD
            .decode(text)
            .with_context(|| format!("the hash of `{name}` is not base64"))
    };
    let secret = Secret {
        iterations: iterations.transpose()?,
        salt: decode(salt)?,
        hash: decode(hash)?,
    };
    if secret.hash.len() != digest::SHA512_OUTPUT_LEN || secret.salt.is_empty() {
        bail!("the hash of `{name}` has not the length that it should have");
    }
    Ok((name, secret))
}

impl Secret {
    fn is(&self, password: &[u8]) -> bool {
        match self.iterations {
            Some(iterations) => {
                let kind = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(kind, iterations, &self.salt, password, &self.hash).is_ok()
            }
            None => {
                let mut hashing = digest::Context::new(&digest::SHA512);
                hashing.update(password);
                hashing.update(&self.salt);
                let hash = hashing.finish();
                constant_time::verify_slices_are_equal(hash.as_ref(), &self.hash).is_ok()
            }
        }
    }
}

impl Users {
    /// Whose name and password these are.
    pub(super) fn check(&self, login: &Login) -> Option<User> {
        let (name, password) = (login.username.as_deref()?, login.password.as_deref()?);
        let Some(secret) = self.0.get(name) else {
            // As long as for a user that there is, so that nobody learns who there is.
            let _ = self.0.values().next().map(|other| other.is(password));
            return None;
        };
        secret.is(password).then(|| User {
            name: name.to_owned(),
            ..User::default()
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// As `mosquitto_passwd` of Mosquitto 2.0.11 wrote them: alice, `secret`; bob, of an older one.
    fn file() -> String {
        let hash = {
            let mut hashing = digest::Context::new(&digest::SHA512);
            hashing.update(b"old");
            hashing.update(b"salt of bob");
            STANDARD.encode(hashing.finish())
        };
        format!(
            "# devices\n\n{ALICE}\nbob:$6${}${hash}\n",
            STANDARD.encode("salt of bob")
        )
    }

    const ALICE: &str = "alice:$7$101$PpWwP2is3zCJzcdR$NpI8DrWQ2Vnm7Ovo+Rmg7y1ZhF0WAIfWITv4lxS5y0bSJuHSnMsSR1sulhqhvcezMQJecfAe4WTf/wQQkzfBMw==";

    fn login(username: &str, password: &str) -> Login {
        Login {
            client_id: "x".to_owned(),
            username: Some(username.to_owned()),
            password: Some(password.as_bytes().to_vec()),
        }
    }

    #[test]
    fn users_are_let_in_with_their_own_password_only() {
        let users = Users::parse(file().as_bytes()).unwrap();
        let found = |username, password| users.check(&login(username, password));
        assert_eq!(found("alice", "secret").unwrap().name, "alice");
        assert_eq!(found("bob", "old").unwrap().name, "bob");
        for (username, password) in [
            ("alice", "old"),
            ("alice", ""),
            ("bob", "secret"),
            ("carol", "secret"),
            ("", ""),
            ("# devices", ""),
        ] {
            assert_eq!(found(username, password), None, "{username} {password}");
        }
        let nobody = Login {
            username: None,
            ..login("", "secret")
        };
        assert_eq!(users.check(&nobody), None);
    }

    #[test]
    fn what_is_no_salted_hash_is_refused_with_its_line_and_not_shown() {
        for (text, why) in [
            ("", "no user"),
            ("alice", "line 1"),
            ("alice:hunter2", "is not a hash that is known"),
            ("\nalice:$7$0$c2FsdA==$aGFzaA==", "line 2"),
            ("alice:$7$101$c2FsdA==$aGFzaA==", "length"),
            ("alice:$7$101$!$aGFzaA==", "base64"),
            (":$6$c2FsdA==$aGFzaA==", "without a name"),
            (&format!("{ALICE}\n{ALICE}"), "twice"),
        ] {
            let error = format!("{:#}", Users::parse(text.as_bytes()).err().unwrap());
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
