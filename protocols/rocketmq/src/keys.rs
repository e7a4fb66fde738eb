//! Keys of ACLs that are known here: what a client has signed can be changed on its way, and is signed again.
//!
//! A signature is checked before that, for whoever signs for others says who they are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use crate::ask::Signer;
use crate::fields::Fields;
use crate::header::Header;
use crate::marks::{self, Marks};

/// RocketMQ: SessionCredentials.
pub(crate) const ACCESS_KEY: &str = "AccessKey";
pub(crate) const SIGNATURE: &str = "Signature";
/// RocketMQ: MixAll, `UNIQUE_MSG_QUERY_FLAG`: it is added behind a signature.
const BEHIND: &str = "_UNIQUE_KEY_QUERY";

/// Keys by whose they are.
#[derive(Clone, Default)]
pub struct AclKeys {
    all: Vec<Arc<dyn Signer>>,
}

impl fmt::Debug for AclKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.all.iter().map(|own| own.access_key());
        f.debug_list().entries(names).finish()
    }
}

impl PartialEq for AclKeys {
    /// Secrets are compared by what they sign.
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Arc<dyn Signer>, &Arc<dyn Signer>)| {
            one.access_key() == other.access_key() && one.sign(b"same") == other.sign(b"same")
        };
        self.all.len() == other.all.len() && self.all.iter().zip(&other.all).all(is_same)
    }
}

impl Eq for AclKeys {}

impl AclKeys {
    /// These, each of which has another name.
    #[must_use]
    pub fn new(all: Vec<Arc<dyn Signer>>) -> Self {
        Self { all }
    }

    /// Who can sign for the client of these fields.
    pub(crate) fn of(&self, fields: Fields<'_>) -> Option<&dyn Signer> {
        if self.all.is_empty() {
            return None;
        }
        let access_key = fields.get(ACCESS_KEY)?;
        let found = self.all.iter().find(|own| own.access_key() == access_key);
        found.map(|own| &**own)
    }

    /// Whether a signature is the one that its client's key makes; `None` if that key is not known.
    pub(crate) fn verify(&self, fields: Fields<'_>) -> Option<bool> {
        let signer = self.of(fields)?;
        let (content, said) = content(fields)?;
        let made = signer.sign(&content);
        let differs = made
            .bytes()
            .zip(said.bytes())
            .fold(0, |all, (a, b)| all | (a ^ b));
        Some(differs == 0 && made.len() == said.len())
    }

    /// A frame whose fields or body were changed, signed anew; `None` if it is not signed, or with a key that is not
    /// known.
    pub(crate) fn sign(&self, wire: &[u8]) -> Option<String> {
        let (header, found) = Header::read(wire).ok()??;
        let marks = Marks::unpack(header.head(&found, wire).marks);
        let fields = marks::fields(wire, marks.fields_at);
        let signer = self.of(fields)?;
        let (content, _) = content(fields)?;
        Some(signer.sign(&content))
    }
}

/// What is signed: all values by the order of their names, then the body (RocketMQ: AclUtils). With the signature that
/// stands beside them.
fn content<'a>(fields: Fields<'a>) -> Option<(BytesMut, Cow<'a, str>)> {
    let mut all: BTreeMap<Cow<'_, str>, Cow<'_, str>> = BTreeMap::new();
    let mut said = Cow::Borrowed("");
    let read = fields.each(|field| {
        match &*field.name {
            SIGNATURE => said = field.text()?,
            BEHIND => {}
            _ => {
                let text = field.text()?;
                all.insert(field.name, text);
            }
        }
        Ok(())
    });
    read.ok()?;
    let body = fields.wire.get(fields.body_at..)?;
    let mut content = BytesMut::with_capacity(512 + body.len());
    for value in all.values() {
        content.extend_from_slice(value.as_bytes());
    }
    content.extend_from_slice(body);
    Some((content, said))
}
