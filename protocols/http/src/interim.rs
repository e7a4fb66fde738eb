//! Interim responses (RFC 9110, section 15.2): a proxy passes them on.

use std::cell::Cell;

use http::{HeaderMap, StatusCode};

use crate::rules::Fields;
use crate::{headers, http1, http2};

/// Interim responses to one request, at most: an endpoint that says more says nothing.
const MOST: u32 = 32;

/// The way to the client for what is said before the response to its request.
pub(crate) struct Interim {
    to: To,
    said: Cell<u32>,
}

enum To {
    /// Nobody.
    Nobody,
    Http1(http1::Interim),
    Http2(http2::Interim),
}

impl Interim {
    pub(crate) fn http1(to: http1::Interim) -> Self {
        Self {
            to: To::Http1(to),
            said: Cell::new(0),
        }
    }

    pub(crate) fn http2(to: http2::Interim) -> Self {
        Self {
            to: To::Http2(to),
            said: Cell::new(0),
        }
    }

    /// Of a request that nobody waits for.
    pub(crate) fn nobody() -> Self {
        Self {
            to: To::Nobody,
            said: Cell::new(0),
        }
    }

    /// Tells it to, if it waits for that.
    pub(crate) fn go_on(&self) {
        match &self.to {
            To::Nobody => {}
            To::Http1(to) => to.go_on(),
            To::Http2(to) => to.go_on(),
        }
    }

    /// Passes on what an endpoint says; false if that is more than anybody has to say.
    pub(crate) fn pass(&self, status: StatusCode, mut headers: HeaderMap) -> bool {
        let said = self.said.get() + 1;
        self.said.set(said);
        if status == StatusCode::CONTINUE {
            // Whoever does not wait for it has not asked for it.
            self.go_on();
            return said <= MOST;
        }
        let fields = Fields::of(&headers);
        headers::strip(&mut headers, fields);
        match &self.to {
            To::Nobody => {}
            To::Http1(to) => to.pass(status, &headers),
            To::Http2(to) => to.pass(status, &headers),
        }
        said <= MOST
    }
}
