//! Interim responses (RFC 9110, section 15.2): a proxy passes them on.

use std::cell::Cell;

use http::{HeaderMap, StatusCode};

use crate::rules::Fields;
use crate::{headers, http1, http2};

/// Interim responses to one attempt, at most: an endpoint that says more says nothing.
const MOST: u32 = 32;

/// The way to the client for what is said before the response to its request.
pub(crate) struct Interim {
    to: To,
    /// Attempts that had a voice so far.
    voices: Cell<u32>,
    /// The attempt whose interim responses are passed on; 0 for none yet.
    speaks: Cell<u32>,
}

enum To {
    /// Nobody.
    Nobody,
    Http1(http1::Interim),
    Http2(http2::Interim),
}

/// What one attempt's endpoint says before its response. Of several attempts at a time one is heard: the first that says
/// something, as long as it is under way.
pub(crate) struct Voice<'a> {
    interim: &'a Interim,
    number: u32,
    said: Cell<u32>,
}

impl Interim {
    fn new(to: To) -> Self {
        Self {
            to,
            voices: Cell::new(0),
            speaks: Cell::new(0),
        }
    }

    pub(crate) fn http1(to: http1::Interim) -> Self {
        Self::new(To::Http1(to))
    }

    pub(crate) fn http2(to: http2::Interim) -> Self {
        Self::new(To::Http2(to))
    }

    /// Of a request that nobody waits for.
    pub(crate) fn nobody() -> Self {
        Self::new(To::Nobody)
    }

    /// Of an attempt that begins.
    pub(crate) fn voice(&self) -> Voice<'_> {
        let number = self.voices.get() + 1;
        self.voices.set(number);
        Voice {
            interim: self,
            number,
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
}

impl Voice<'_> {
    /// Passes on what an endpoint says; false if that is more than anybody has to say.
    pub(crate) fn pass(&self, status: StatusCode, mut headers: HeaderMap) -> bool {
        let said = self.said.get() + 1;
        self.said.set(said);
        let interim = self.interim;
        if status == StatusCode::CONTINUE {
            // Whoever does not wait for it has not asked for it.
            interim.go_on();
            return said <= MOST;
        }
        if ![0, self.number].contains(&interim.speaks.get()) {
            return said <= MOST;
        }
        interim.speaks.set(self.number);
        let fields = Fields::of(&headers);
        headers::strip(&mut headers, fields);
        match &interim.to {
            To::Nobody => {}
            To::Http1(to) => to.pass(status, &headers),
            To::Http2(to) => to.pass(status, &headers),
        }
        said <= MOST
    }
}

impl Drop for Voice<'_> {
    fn drop(&mut self) {
        if self.interim.speaks.get() == self.number {
            self.interim.speaks.set(0);
        }
    }
}
