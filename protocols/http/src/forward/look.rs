//! A request before it is routed: what is wrong with it, and what routes and filters may ask of it.

use std::borrow::Cow;

use finback_core::frame::{Malformed, Metadata};
use finback_core::rejection::Rejection;
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::Http;
use crate::client::Client;
use crate::dialect::Dialect;
use crate::headers;
use crate::rules::{self, Fields};

/// Why a request is not even routed; with a status of HTTP's, if it has one for that alone.
pub(super) struct Fault {
    pub(super) rejection: Rejection,
    pub(super) status: Option<StatusCode>,
    pub(super) why: &'static str,
}

impl Fault {
    pub(super) fn bad(why: &'static str) -> Self {
        Self {
            rejection: Rejection::BadRequest,
            status: None,
            why,
        }
    }

    pub(super) fn too_large(status: StatusCode, why: &'static str) -> Self {
        Self {
            rejection: Rejection::TooLarge,
            status: Some(status),
            why,
        }
    }
}

pub(super) fn fault(
    http: &Http,
    head: &mut Parts,
    fields: Fields,
    upgrades: bool,
) -> Option<Fault> {
    let too_large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if head.extensions.remove::<rules::HeadTooLarge>().is_some() {
        return Some(Fault::too_large(
            too_large,
            "a head that is longer than the limit",
        ));
    }
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |own| own.as_str().len());
    if target > http.config.target {
        return Some(Fault::bad("the target is longer than the limit"));
    }
    if head.headers.len() > http.config.headers {
        return Some(Fault::too_large(too_large, "more headers than the limit"));
    }
    if let Some(why) = headers::fault(head, fields) {
        return Some(Fault::bad(why));
    }
    (head.method == Method::CONNECT && !upgrades).then_some(Fault {
        rejection: Rejection::Denied,
        status: None,
        why: "CONNECT is not served here",
    })
}

/// What routing may see of a request, and what is wrong with its names besides.
pub(super) fn metadata<'a>(
    dialect: &'a dyn Dialect,
    head: &'a Parts,
    fault: &mut Option<Fault>,
) -> Metadata<'a> {
    let mut own = dialect.metadata(head);
    if let Err(unfit) = own.names_fit() {
        own = unnamed();
        fault.get_or_insert_with(|| Fault::bad(why(&unfit)));
    }
    own.treats = true;
    own.refused = fault.as_ref().map(|fault| fault.rejection);
    own
}

/// What routing may see of a request whose names are unfit to be seen.
pub(super) fn unnamed() -> Metadata<'static> {
    Metadata {
        service: Cow::Borrowed("(unfit)"),
        own: true,
        ..Metadata::default()
    }
}

pub(super) fn why(unfit: &Malformed) -> &'static str {
    match unfit {
        Malformed::Content(why) | Malformed::Garbage(why) => why,
        Malformed::TooLarge { .. } => "a name is too long",
    }
}

/// The version of HTTP as traces have it.
pub(super) fn spoken(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// What a head weighs, near enough for a record.
pub(super) fn weight(head: &Parts) -> usize {
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 4);
    head.uri.path().len() + headers.sum::<usize>() + 16
}

/// What routes and filters may ask about a request.
pub(super) fn attribute(client: &Client, head: &Parts, name: &str) -> Option<String> {
    match name {
        ":scheme" if client.hop.is_secure(&head.headers) => Some("https".to_owned()),
        ":scheme" => Some("http".to_owned()),
        ":version" => Some(spoken(head.version).to_owned()),
        _ => headers::attribute(head, name),
    }
}
