//! Errors that tell of our own want, not of the peer's fault.

use std::error::Error;
use std::io;

/// Linux's numbers of what we ran out of: open files in all, open files of ours, memory for the
/// network. None of them has a kind in the standard library.
const WANTS: [i32; 3] = [23, 24, 105];

/// Errors within errors that are looked at.
const DEPTH: usize = 4;

/// Whether the error says that *we* lack something: open files, memory, local ports. Nobody else
/// may be blamed for it. Errors that wrap such a one are ours, too.
#[must_use]
pub fn is_ours(error: &io::Error) -> bool {
    let mut next = Some(error);
    for _ in 0..DEPTH {
        let Some(error) = next else { return false };
        let is_want = matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
        );
        if is_want || error.raw_os_error().is_some_and(|own| WANTS.contains(&own)) {
            return true;
        }
        next = error.get_ref().and_then(inner);
    }
    false
}

/// The error of input or output that this one is, or wraps.
fn inner<'a>(error: &'a (dyn Error + Send + Sync + 'static)) -> Option<&'a io::Error> {
    error
        .downcast_ref::<io::Error>()
        .or_else(|| error.source()?.downcast_ref::<io::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMFILE: i32 = 24;

    #[test]
    fn what_we_lack_is_ours() {
        // ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL, ENOBUFS.
        for number in [12, 23, 24, 99, 105] {
            let error = io::Error::from_raw_os_error(number);
            assert!(is_ours(&error), "{error}");
        }
    }

    #[test]
    fn what_a_peer_or_the_network_does_is_not() {
        // EPIPE, ENETUNREACH, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH.
        for number in [32, 101, 104, 110, 111, 113] {
            let error = io::Error::from_raw_os_error(number);
            assert!(!is_ours(&error), "{error}");
        }
        assert!(!is_ours(&io::ErrorKind::TimedOut.into()));
        assert!(!is_ours(&io::Error::other("certificate expired")));
    }

    #[test]
    fn a_wrapped_error_stays_ours() {
        let own = || io::Error::from_raw_os_error(EMFILE);
        assert!(is_ours(&io::Error::other(own())));
        assert!(is_ours(&io::Error::other(io::Error::other(own()))));
        let refused = io::Error::from_raw_os_error(111);
        assert!(!is_ours(&io::Error::other(refused)));
    }
}
