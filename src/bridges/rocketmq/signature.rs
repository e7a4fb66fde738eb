//! Signatures of requests, for brokers with ACLs.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use finback_rocketmq::Signer;

/// Who sends, and what proves it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// What signs by these.
#[must_use]
pub fn signer(own: &Credentials) -> Arc<dyn Signer> {
    Arc::new(Key::of(own))
}

/// What signs.
pub(super) struct Key {
    access_key: String,
    key: hmac::Key,
}

impl Key {
    pub(super) fn of(own: &Credentials) -> Self {
        // The only algorithm that brokers know.
        let algorithm = hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY;
        Self {
            access_key: own.access_key.clone(),
            key: hmac::Key::new(algorithm, own.secret_key.as_bytes()),
        }
    }
}

impl Signer for Key {
    fn access_key(&self) -> &str {
        &self.access_key
    }

    fn sign(&self, content: &[u8]) -> String {
        STANDARD.encode(hmac::sign(&self.key, content))
    }
}
