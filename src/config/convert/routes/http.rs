//! HTTP settings of routes: what they do with requests and responses beyond routing.

use ::http::{HeaderName, HeaderValue, StatusCode};
use finback_http::{Change, DirectResponse, HeaderChange, HttpPolicy};
use regex::Regex;

use super::Result;
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;

/// What a route says about HTTP, if anything.
pub(super) fn treatment(from: &mut file::Route) -> Result<Option<HttpPolicy>> {
    let mut treatment = HttpPolicy::default();
    let mut any = false;
    treatment.answer = match (from.respond.take(), from.redirect.take()) {
        (None, None) => None,
        (Some(respond), None) => Some(fixed(respond)?),
        (None, Some(redirect)) => Some(self::redirect(redirect)?),
        (Some(respond), Some(_)) => {
            let message = "write either `respond` or `redirect`";
            return Err(Wrong::at(respond.place, message));
        }
    };
    any |= treatment.answer.is_some();
    if let Some(Placed { value, place }) = from.rewrite.take() {
        any = true;
        treatment.path = value.path.map(|path| change(path, place)).transpose()?;
        treatment.host = match value.host {
            None => None,
            Some(host) => Some(host.parse().map_err(|_| {
                Wrong::at(
                    place,
                    format!("`{host}` is not a host; write HOST or HOST:PORT"),
                )
            })?),
        };
    }
    for (headers, changes) in [
        (from.request_headers.take(), &mut treatment.request),
        (from.response_headers.take(), &mut treatment.response),
    ] {
        if let Some(headers) = headers {
            any = true;
            *changes = self::headers(headers)?;
        }
    }
    Ok(any.then_some(treatment))
}

fn fixed(Placed { value, place }: Placed<file::Respond>) -> Result<DirectResponse> {
    let status = match value.status {
        200..600 => StatusCode::from_u16(value.status).ok(),
        _ => None,
    };
    // RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5.
    if matches!(value.status, 204 | 205 | 304) && !value.body.is_empty() {
        let message = format!(
            "a response with status {} has no body; take `body` away",
            value.status
        );
        return Err(Wrong::at(place, message));
    }
    let kind = value
        .content_type
        .unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
    Ok(DirectResponse::Fixed {
        status: status.ok_or_else(|| Wrong::at(place, "`status` is a number from 200 to 599"))?,
        body: value.body.into(),
        content_type: HeaderValue::from_str(&kind)
            .map_err(|_| Wrong::at(place, format!("`{kind}` is not a content type")))?,
    })
}

fn redirect(Placed { value, place }: Placed<file::Redirect>) -> Result<DirectResponse> {
    let status = value.status.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let message = "`status` of a redirect is 301, 302, 303, 307 or 308";
        return Err(Wrong::at(place, message));
    }
    if value
        .scheme
        .as_deref()
        .is_some_and(|own| !matches!(own, "http" | "https"))
    {
        return Err(Wrong::at(place, "`scheme` is http or https"));
    }
    if value.scheme.is_none() && value.host.is_none() && value.path.is_none() {
        let message = "a redirect to the same place goes round for ever; write what differs";
        return Err(Wrong::at(place, message));
    }
    Ok(DirectResponse::Redirect {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::FOUND),
        scheme: value.scheme,
        host: value.host,
        path: value.path.map(|path| change(path, place)).transpose()?,
    })
}

fn change(from: file::PathChange, place: (u64, u64)) -> Result<Change> {
    let change = match from {
        file::PathChange::Whole(path) => Change::Whole(path),
        file::PathChange::Change(file::PathRule {
            prefix: Some(from),
            regex: None,
            with,
        }) => Change::Prefix { from, to: with },
        file::PathChange::Change(file::PathRule {
            prefix: None,
            regex: Some(from),
            with,
        }) => Change::Regex {
            from: Regex::new(&from)
                .map_err(|_| Wrong::at(place, format!("`{from}` is not a regular expression")))?,
            to: with,
        },
        file::PathChange::Change(_) => {
            return Err(Wrong::at(
                place,
                "write exactly one of `prefix` and `regex`",
            ));
        }
    };
    let absolute = match &change {
        Change::Whole(to) | Change::Prefix { to, .. } => to.starts_with('/'),
        Change::Regex { .. } => true,
    };
    if absolute {
        Ok(change)
    } else {
        Err(Wrong::at(place, "a path begins with /"))
    }
}

fn headers(from: file::Headers) -> Result<Vec<HeaderChange>> {
    let mut changes = Vec::new();
    for name in from.remove {
        changes.push(HeaderChange::Remove(header(&name.value, name.place)?));
    }
    for (name, value) in from.set {
        let (name, value) = pair(&name, &value)?;
        changes.push(HeaderChange::Set(name, value));
    }
    for (name, value) in from.add {
        let (name, value) = pair(&name, &value)?;
        changes.push(HeaderChange::Add(name, value));
    }
    Ok(changes)
}

fn pair(name: &str, value: &Placed<String>) -> Result<(HeaderName, HeaderValue)> {
    let text = HeaderValue::from_str(&value.value);
    let text = text.map_err(|_| Wrong::at(value.place, "this cannot stand in a header"))?;
    Ok((header(name, value.place)?, text))
}

fn header(name: &str, place: (u64, u64)) -> Result<HeaderName> {
    // What frames a message is the connection's business, never a route's.
    const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "host"];
    let known: HeaderName = name
        .parse()
        .map_err(|_| Wrong::at(place, format!("`{name}` is not a header name")))?;
    if FRAMING.contains(&known.as_str()) {
        let message =
            format!("`{known}` cannot be changed by a route; for the host, use `rewrite`");
        return Err(Wrong::at(place, message));
    }
    Ok(known)
}
