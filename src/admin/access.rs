//! Access to the admin port, who may ask for what: token, host and origin.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use hyper::{HeaderMap, Request, StatusCode};

use super::Serves;
use super::conversation::Answer;
use super::endpoints::{AdminEndpoint, What};

/// Characters that a token has at least.
const SHORTEST: usize = 16;
/// A file that is longer is none of a token.
const LONGEST: usize = 4096;
/// How often the token's file is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// The token that requests must bring, as the digest by which it is compared.
pub(super) struct Token(RwLock<[u8; 32]>);

impl Token {
    /// Reads it.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        Ok(Self(RwLock::new(read(file)?)))
    }

    /// Reads it again whenever its file changes.
    pub(super) async fn keep_fresh(self: Arc<Self>, file: PathBuf) {
        let changed = || async {
            let about = tokio::fs::metadata(&file).await.ok()?;
            about.modified().ok()
        };
        let mut known = changed().await;
        loop {
            tokio::time::sleep(WATCH).await;
            let now = changed().await;
            if now == known {
                continue;
            }
            known = now;
            match read(&file) {
                Ok(digest) => {
                    *self.0.write().unwrap_or_else(PoisonError::into_inner) = digest;
                    tracing::info!("the admin port's token was read again");
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::warn!(
                        why,
                        "the admin port's changed token is not valid; the one before stays in force"
                    );
                }
            }
        }
    }

    /// Whether this is it. How long that takes tells nothing of the token: digests are compared, and
    /// those whole.
    fn is(&self, given: &str) -> bool {
        let own = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        verify_slices_are_equal(&own, &sha256(given)).is_ok()
    }
}

fn read(file: &Path) -> anyhow::Result<[u8; 32]> {
    Ok(sha256(&read_token(file)?))
}

/// The text of the token in a file.
///
/// # Errors
/// If it cannot be read, or is none.
pub(super) fn read_token(file: &Path) -> anyhow::Result<String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token in {shown}"))?;
    let token = text.trim();
    ensure!(
        (SHORTEST..=LONGEST).contains(&token.len()),
        "the token in {shown} has {} characters; write {SHORTEST} or more that nobody guesses, such as of `openssl rand -hex 32`",
        token.len()
    );
    ensure!(
        token.bytes().all(|byte| byte.is_ascii_graphic()),
        "the token in {shown} has characters that no header may have; write letters and digits"
    );
    Ok(token.to_owned())
}

fn sha256(text: &str) -> [u8; 32] {
    let mut own = [0; 32];
    own.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    own
}

/// Who may ask an address for what.
pub(super) struct Access {
    pub(super) serves: Serves,
    pub(super) token: Option<Arc<Token>>,
    /// Whoever gets through has shown who it is: by the token, or a certificate.
    pub(super) knows_clients: bool,
    pub(super) hosts: Vec<String>,
}

impl Access {
    /// Whether this is served at all at this address.
    pub(super) fn serves(&self, endpoint: &AdminEndpoint) -> bool {
        match endpoint.what {
            What::Live | What::Ready | What::Health => self.serves.everything || self.serves.health,
            What::Metrics => self.serves.everything || self.serves.metrics,
            _ => self.serves.everything,
        }
    }

    /// The answer to a request that is not let in.
    pub(super) fn refuse<B>(
        &self,
        request: &Request<B>,
        endpoint: &AdminEndpoint,
    ) -> Option<Answer> {
        if !self.serves.everything {
            return None;
        }
        let headers = request.headers();
        if let Some(token) = &self.token
            && !bears(headers, token)
        {
            let mut answer = Answer::text(
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong; send `Authorization: Bearer TOKEN`\n",
            );
            // Browsers ask for it, and any user name will do (RFC 7617).
            answer.challenge = true;
            return Some(answer);
        }
        // A page of somebody else's whose name leads here (DNS rebinding) has that name as its host.
        let is_open = matches!(
            endpoint.what,
            What::Live | What::Ready | What::Health | What::Metrics
        );
        if !is_open && (endpoint.changes() || !self.knows_clients) && !self.is_called_right(headers)
        {
            let text =
                "called by a name that is not ours; write it in `admin.hosts`, or use an address\n";
            return Some(Answer::text(StatusCode::MISDIRECTED_REQUEST, text));
        }
        if endpoint.changes() && !is_of_same_origin(headers) {
            let text = "a page of another origin may change nothing here\n";
            return Some(Answer::text(StatusCode::FORBIDDEN, text));
        }
        None
    }

    fn is_called_right(&self, headers: &HeaderMap) -> bool {
        // Browsers always say it; what does not is none.
        let Some(host) = headers.get(HOST) else {
            return true;
        };
        let Some(name) = host.to_str().ok().map(host_of) else {
            return false;
        };
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        is_address
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// A host without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether a request brings the token: as itself (RFC 6750), or as the password (RFC 7617).
fn bears(headers: &HeaderMap, token: &Token) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|own| own.to_str().ok());
    let Some((scheme, given)) = given.and_then(|own| own.split_once(' ')) else {
        return false;
    };
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return token.is(given);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let decoded = BASE64_STANDARD.decode(given).unwrap_or_default();
    let decoded = String::from_utf8(decoded).unwrap_or_default();
    decoded
        .split_once(':')
        .is_some_and(|(_, password)| token.is(password))
}

/// Whether a request is no page's, or that of a page of our own.
fn is_of_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|own| own.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return matches!(site, "same-origin" | "none");
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let host = origin.to_str().ok().and_then(|own| own.split_once("://"));
    host.is_some_and(|(_, host)| Some(host) == text("host"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = all.iter().map(|(name, value)| {
            let name = hyper::header::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn a_token_is_taken_as_itself_or_as_a_password() {
        let token = Token(RwLock::new(sha256(TOKEN)));
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for (given, good) in [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer  {TOKEN}"), true),
            (basic(&format!("anybody:{TOKEN}")), true),
            (basic(&format!(":{TOKEN}")), true),
            (basic(TOKEN), false),
            (format!("Bearer {TOKEN}x"), false),
            (format!("Bearer {}", &TOKEN[1..]), false),
            (TOKEN.to_owned(), false),
            (format!("Digest {TOKEN}"), false),
            ("Basic ???".to_owned(), false),
            ("Bearer ".to_owned(), false),
        ] {
            let headers = headers(&[("authorization", &given)]);
            assert_eq!(bears(&headers, &token), good, "{given}");
        }
        assert!(!bears(&HeaderMap::new(), &token));
    }

    #[test]
    fn names_that_are_not_ours_are_told_from_addresses() {
        let access = Access {
            serves: Serves::default(),
            token: None,
            knows_clients: false,
            hosts: vec!["mesh.acme.test".to_owned()],
        };
        for (host, good) in [
            ("127.0.0.1:9901", true),
            ("[::1]:9901", true),
            ("10.0.0.1", true),
            ("localhost:9901", true),
            ("LOCALHOST", true),
            ("mesh.acme.test:9901", true),
            ("evil.test:9901", false),
            ("127.0.0.1.evil.test", false),
            ("localhost.evil.test:9901", false),
            ("", false),
        ] {
            assert_eq!(
                access.is_called_right(&headers(&[("host", host)])),
                good,
                "{host}"
            );
        }
        assert!(access.is_called_right(&HeaderMap::new()));
    }

    #[test]
    fn pages_of_other_origins_are_told_from_our_own() {
        let host = ("host", "127.0.0.1:9901");
        for (more, good) in [
            (vec![], true),
            (vec![("origin", "http://127.0.0.1:9901")], true),
            (vec![("origin", "http://evil.test")], false),
            (vec![("origin", "http://127.0.0.1:9902")], false),
            (vec![("origin", "null")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "same-origin")], true),
        ] {
            let all: Vec<_> = std::iter::once(host).chain(more.clone()).collect();
            assert_eq!(is_of_same_origin(&headers(&all)), good, "{more:?}");
        }
    }
}
