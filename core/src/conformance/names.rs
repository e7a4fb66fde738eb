//! The law of bounded names, which needs frames that no real peer sent.

use super::driven::{reject, sole};
use crate::codec::Codec;
use crate::frame::{Malformed, NAME_LIMIT, Reading};
use crate::rejection::Rejection;

/// Service, method, version and group of a call, in this order.
pub type NameSamples<'a> = [&'a str; 4];

/// So many bytes are many.
const MANY: usize = 64 * 1024;
const WHAT: NameSamples<'static> = ["service", "method", "version", "group"];

/// Checks that names of [`NAME_LIMIT`] bytes are read, and that each that is longer is refused,
/// by itself and natively. `frame` writes a request with these names, as some encoding does that
/// has as many of them as `carried` says; `lengths` are those to be refused.
///
/// # Panics
/// If the law is broken; the message names the encoding, the name and its length.
pub fn check_names(
    codec: &dyn Codec,
    encoding: &str,
    carried: usize,
    lengths: &[usize],
    frame: &dyn Fn(NameSamples<'_>) -> Vec<u8>,
) {
    const SHORT: NameSamples<'static> = ["a.b.Service", "call", "1.0", "blue"];
    let read = |names: NameSamples<'_>| {
        let wire = frame(names);
        let head = sole(codec, &wire, encoding);
        let read = codec.read(&head, &wire).map(|reading| match reading {
            Reading::Call(call) => {
                [call.service, call.method, call.version, call.group].map(String::from)
            }
            Reading::Answer(_) => panic!("bounded names: {encoding}: a request read as an answer"),
        });
        if read.is_err() {
            reject(codec, &head, Rejection::BadRequest, "too long", encoding);
        }
        read
    };
    for (at, what) in WHAT.iter().enumerate().take(carried) {
        let with = |name: &str| {
            let mut names = SHORT.map(str::to_owned);
            names[at] = name.to_owned();
            read(names.each_ref().map(String::as_str))
        };
        // One byte each, and as much as UTF-8 has for one of Java's chars, and for two.
        for char in ["x", "\u{65e5}", "\u{1f600}"] {
            let longest = of_bytes(NAME_LIMIT, char);
            assert_eq!(
                with(&longest).map(|found| found[at] == longest),
                Ok(true),
                "bounded names: {encoding}: {what} of {NAME_LIMIT} bytes of {char}"
            );
            // The longest ones take their time to write: once is enough.
            for length in lengths.iter().filter(|own| char == "x" || **own < MANY) {
                assert_eq!(
                    with(&of_bytes(*length, char)),
                    Err(Malformed::LONG_NAME),
                    "bounded names: {encoding}: {what} of {length} bytes of {char}"
                );
            }
        }
    }
    let mut names = SHORT;
    names[0] = "(other)";
    assert_eq!(
        read(names),
        Err(Malformed::OWN_NAME),
        "bounded names: {encoding}: a service in parentheses"
    );
}

/// A text of so many bytes, of this character as far as it goes.
fn of_bytes(length: usize, char: &str) -> String {
    let (whole, rest) = (length / char.len(), length % char.len());
    format!("{}{}", char.repeat(whole), "x".repeat(rest))
}
