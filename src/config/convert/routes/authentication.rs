//! Authentication of clients of MQTT where there is no broker to ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use finback_mqtt::authentication::Authentication;

use super::mqtt::{template, unknown};
use super::{Names, Result};
use crate::authentication::{ClientCredentials, TokenRules};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::Placed;

pub(super) fn authentication(
    Placed { value, place }: Placed<file::MqttAuthenticate>,
    folder: &Folder<'_>,
    names: &Names,
) -> Result<Authentication> {
    let credentials = match value {
        file::MqttAuthenticate::Word(word) => {
            return match &*word {
                "none" => Ok(Authentication::None),
                "certificate" => Ok(Authentication::Certificate),
                _ => {
                    let instead = "none, certificate, { users: FILE } or { tokens: { key: FILE } }";
                    Err(unknown(&Placed { value: word, place }, instead))
                }
            };
        }
        file::MqttAuthenticate::By(file::MqttCredentials {
            users: Some(users),
            tokens: None,
        }) => Placed {
            value: ClientCredentials::users(folder.join(users.value)),
            place: users.place,
        },
        file::MqttAuthenticate::By(file::MqttCredentials {
            users: None,
            tokens: Some(tokens),
        }) => {
            let (key, rules) = tokens_of(tokens.value)?;
            Placed {
                value: ClientCredentials::tokens(folder.join(key.value), rules),
                place: key.place,
            }
        }
        file::MqttAuthenticate::By(_) => {
            return Err(Wrong::at(
                place,
                "write exactly one of `users` and `tokens`",
            ));
        }
    };
    let authenticator = Arc::new(credentials.value);
    names.credentials.borrow_mut().push(Placed {
        value: authenticator.clone(),
        place: credentials.place,
    });
    Ok(Authentication::Credentials(authenticator))
}

fn tokens_of(tokens: file::MqttTokens) -> Result<(Placed<String>, TokenRules)> {
    let file::MqttTokens {
        key,
        issuer,
        audience,
        claims,
    } = tokens;
    let mut wanted = BTreeMap::new();
    for (name, text) in claims {
        let template = template(&text)?;
        if template.has_claims() || text.value.contains("{identity}") {
            let message =
                "a claim is compared with what CONNECT says: {client_id}, {username}, or a text";
            return Err(Wrong::at(text.place, message));
        }
        wanted.insert(name, template);
    }
    let rules = TokenRules {
        issuer,
        audience,
        claims: wanted,
    };
    Ok((key, rules))
}
