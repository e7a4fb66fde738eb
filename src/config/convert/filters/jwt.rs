//! JWT filter: who issues the bearer tokens, and which keys prove them.

use std::sync::Arc;
use std::time::Duration;

use super::{Converted, Need, Needed};
use crate::config::Wrong;
use crate::config::convert::Result;
use crate::config::convert::url::Url;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Pause, Placed, Time};
use crate::filters::jwt::{Issuer, Jwt, Policy};
use crate::filters::keys::{KeyRing, KeySource};

/// How often a set of keys is asked for, where nothing else is said.
const REFRESH: Duration = Duration::from_secs(300);
const CLOCK_SKEW: Duration = Duration::from_secs(60);

pub(super) fn jwt(
    Placed { value, place }: Placed<file::Jwt>,
    folder: &Folder<'_>,
) -> Result<Converted> {
    if value.issuers.is_empty() {
        let message = "without an issuer no token is good; write one";
        return Err(Wrong::at(place, message));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    let mut needed = Vec::new();
    for Placed { value: own, place } in value.issuers {
        if issuers.iter().any(|other| other.name == own.issuer) {
            let message = format!("the issuer `{}` stands here twice", own.issuer);
            return Err(Wrong::at(place, message));
        }
        if own.audiences.is_empty() || own.issuer.is_empty() {
            let message = "write whom its tokens are for, as `audiences`: others are not for us";
            return Err(Wrong::at(place, message));
        }
        let keys = KeyRing::new(source(&own, place, folder)?);
        needed.push(Needed::Keys(Placed {
            value: keys.clone(),
            place,
        }));
        issuers.push(Issuer {
            name: own.issuer,
            audiences: own.audiences,
            keys,
        });
    }
    let mut attributes: Vec<Arc<str>> = value.attributes.into_iter().map(Into::into).collect();
    if attributes.is_empty() {
        attributes.push("authorization".into());
    }
    let jwt = Jwt::new(Policy {
        issuers,
        attributes,
        clock_skew: value.clock_skew.map_or(CLOCK_SKEW, |Pause(own)| own),
        optional: value.optional,
        forward: value.forward.unwrap_or(true),
    });
    Ok(Converted {
        filter: Arc::new(jwt),
        needs: Some(Need::Bearer),
        needed,
    })
}

fn source(own: &file::JwtIssuer, place: (u64, u64), folder: &Folder<'_>) -> Result<KeySource> {
    match (&own.key, &own.jwks_url) {
        (Some(file), None) => match (&own.tls, own.refresh) {
            (None, None) => Ok(KeySource::File(folder.join(&file.value))),
            _ => {
                let message =
                    "`tls` and `refresh` are those of `jwks_url`; a file is read when it changes";
                Err(Wrong::at(place, message))
            }
        },
        (None, Some(url)) => {
            let form = "URL of keys; write https://HOST/PATH or https://HOST:PORT/PATH";
            let at = url.place;
            let url = Url::read(url, form)?;
            let tls = url.tls(own.tls.clone(), ("URL", at), folder)?;
            Ok(KeySource::Url {
                port: url.port.unwrap_or(if url.is_secure { 443 } else { 80 }),
                host: url.host,
                path: url.target,
                tls: tls.map(|own| own.value),
                refresh: own.refresh.map_or(REFRESH, |Time(own)| own),
            })
        }
        _ => Err(Wrong::at(
            place,
            "write exactly one of `key` and `jwks_url`",
        )),
    }
}
