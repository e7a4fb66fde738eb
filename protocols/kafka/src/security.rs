//! Security of connections to a cluster: TLS, and SASL (RFC 4422).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use rdkafka::config::ClientConfig;

/// A token that does not say how long it is good is read again after so long.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);

/// The files of TLS to a cluster; brokers' certificates are asked for their host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that brokers' certificates must descend from; `None` takes the public ones.
    pub authorities: Option<PathBuf>,
    /// Our own certificate chain and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// A mechanism of SASL by a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616: the password goes along.
    Plain,
    /// RFC 5802, with SHA-256 (RFC 7677).
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How we log in.
#[derive(Clone, PartialEq, Eq)]
pub enum Sasl {
    /// With a user and password.
    Password {
        /// By this mechanism.
        mechanism: Mechanism,
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// OAUTHBEARER (RFC 7628) with the token of a file, which is read again before the token ends.
    Token(PathBuf),
}

impl fmt::Debug for Sasl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password {
                mechanism,
                username,
                ..
            } => f
                .debug_struct("Password")
                .field("mechanism", mechanism)
                .field("username", username)
                .finish_non_exhaustive(),
            Self::Token(file) => f.debug_tuple("Token").field(file).finish(),
        }
    }
}

/// Settings of librdkafka's that `tls` and `sasl` are for.
pub(crate) const TYPED: [&str; 8] = [
    "security.protocol",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
];

/// Sets what both ask for.
pub(crate) fn apply(config: &mut ClientConfig, tls: Option<&Tls>, sasl: Option<&Sasl>) {
    let protocol = match (tls, sasl) {
        (None, None) => return,
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    let mut file = |name: &str, path: Option<&Path>| {
        if let Some(path) = path {
            config.set(name, path.to_string_lossy());
        }
    };
    if let Some(tls) = tls {
        file("ssl.ca.location", tls.authorities.as_deref());
        let pair = tls.pair.as_ref();
        file(
            "ssl.certificate.location",
            pair.map(|(chain, _)| chain.as_path()),
        );
        file("ssl.key.location", pair.map(|(_, key)| key.as_path()));
    }
    match sasl {
        Some(Sasl::Password {
            mechanism,
            username,
            password,
        }) => {
            config.set("sasl.mechanisms", mechanism.name());
            config.set("sasl.username", username);
            config.set("sasl.password", password);
        }
        Some(Sasl::Token(_)) => {
            config.set("sasl.mechanisms", "OAUTHBEARER");
        }
        None => {}
    }
}

/// The token of a file, as librdkafka wants it.
///
/// # Errors
/// If there is none.
pub(crate) fn token(file: &Path) -> Result<OAuthToken, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let token = text.trim().to_owned();
    if token.is_empty() || token.contains('\0') {
        return Err(format!("{} has no token", file.display()).into());
    }
    let claims = claims(&token);
    let claim = |name: &str| claims.as_ref().and_then(|claims| claims.get(name));
    let ends = claim("exp").and_then(serde_json::Value::as_f64);
    let ends = match ends {
        Some(seconds) if seconds >= 0.0 => Duration::from_secs_f64(seconds.min(1e11)),
        _ => SystemTime::now().duration_since(UNIX_EPOCH)? + TOKEN_LIFETIME,
    };
    let principal = claim("sub").and_then(serde_json::Value::as_str);
    Ok(OAuthToken {
        principal_name: principal.unwrap_or("finback").replace('\0', ""),
        lifetime_ms: i64::try_from(ends.as_millis())?,
        token,
    })
}

/// What a token says, which is for its issuer to prove: here, it only tells when to read it again.
fn claims(token: &str) -> Option<serde_json::Value> {
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_whose_it_is_and_how_long_it_is_good() {
        let payload = URL_SAFE_NO_PAD.encode(br#"{"sub":"mesh","exp":1700000000.5}"#);
        let name = format!("finback-token-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, format!("e30.{payload}.\n")).unwrap();
        let read = token(&file).unwrap();
        std::fs::write(&file, "opaque").unwrap();
        let opaque = token(&file).unwrap();
        std::fs::write(&file, " \n").unwrap();
        assert!(token(&file).is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(token(&file).is_err());
        assert_eq!(
            (&*read.principal_name, read.lifetime_ms),
            ("mesh", 1_700_000_000_500)
        );
        assert!(read.token.ends_with('.'), "{}", read.token);
        assert_eq!(opaque.principal_name, "finback");
        assert!(opaque.lifetime_ms > 1_700_000_000_500);
    }

    #[test]
    fn a_password_is_not_shown() {
        let sasl = Sasl::Password {
            mechanism: Mechanism::Plain,
            username: "mesh".to_owned(),
            password: "hunter2".to_owned(),
        };
        let shown = format!("{sasl:?}");
        assert!(
            shown.contains("mesh") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
