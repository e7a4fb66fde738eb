//! Reading files that others may be writing: tells when what was read is whole.
//!
//! Not everybody writes a file beside and renames it. Between two writes a file is empty or ends
//! anywhere, and may still be good YAML: of fewer services.

use std::time::{Duration, Instant};

/// How long content is doubted that looks like the beginning of something.
const DOUBT: Duration = Duration::from_secs(30);

/// What repeated looks at a file found.
#[derive(Debug, Default)]
pub struct Looks {
    /// What was taken last.
    taken: Option<Vec<u8>>,
    /// What was seen instead, since when, and how long it has to stay the same.
    seen: Option<(Vec<u8>, Instant, Duration)>,
}

impl Looks {
    /// The first look, whose finding is taken at once.
    #[must_use]
    pub fn new(taken: Option<Vec<u8>>) -> Self {
        Self { taken, seen: None }
    }

    /// Another look. Whether its finding is to be taken: two looks agree on it, and for as long as
    /// it looks like the beginning of a file, or is `doubtful` by what it says, it stays so for a
    /// while.
    pub fn see(&mut self, text: &[u8], now: Instant, doubtful: impl Fn(&[u8]) -> bool) -> bool {
        if self.taken.as_deref() == Some(text) {
            self.seen = None;
            return false;
        }
        match &self.seen {
            Some((seen, since, patience)) if seen == text => {
                if now.saturating_duration_since(*since) < *patience {
                    return false;
                }
                self.take(text);
                true
            }
            _ => {
                let former = self.taken.as_deref().unwrap_or_default();
                let patience = match is_beginning(text, former) || doubtful(text) {
                    true => DOUBT,
                    false => Duration::ZERO,
                };
                if !patience.is_zero() {
                    tracing::warn!(
                        bytes = text.len(),
                        ?patience,
                        "a followed file looks half written; it is taken after a while, or when it has changed"
                    );
                }
                self.seen = Some((text.to_vec(), now, patience));
                false
            }
        }
    }

    /// Takes a finding, whatever it looks like.
    pub fn take(&mut self, text: &[u8]) {
        self.taken = Some(text.to_vec());
        self.seen = None;
    }

    /// Since when something is doubted.
    #[must_use]
    pub fn doubted(&self) -> Option<Instant> {
        let (_, since, patience) = self.seen.as_ref()?;
        (!patience.is_zero()).then_some(*since)
    }
}

/// Whether a text may be the beginning of another: there is nothing in it, it is the beginning of
/// what was there before, or it ends within a line where that did not.
fn is_beginning(text: &[u8], former: &[u8]) -> bool {
    let is_blank = text.iter().all(u8::is_ascii_whitespace);
    let is_shorter = text.len() < former.len() && former.starts_with(text);
    // Blank space at the end alone says nothing.
    let lost = former.get(text.len()..).unwrap_or_default();
    let is_trimmed = lost.iter().all(u8::is_ascii_whitespace);
    let is_broken = former.ends_with(b"\n") && !text.ends_with(b"\n");
    is_blank && !former.is_empty() || is_shorter && !is_trimmed || is_broken && !is_shorter
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(200);

    /// Which look in a row takes the text, if any of the first 200 does.
    fn taken_by(former: &str, text: &str, doubtful: bool) -> Option<usize> {
        let mut looks = Looks::new(Some(former.into()));
        let begun = Instant::now();
        (0..200_usize).position(|look| {
            let now = begun + LOOK * u32::try_from(look).unwrap_or_default();
            looks.see(text.as_bytes(), now, |_| doubtful)
        })
    }

    #[test]
    fn the_second_look_takes_what_is_whole_and_doubt_lasts_its_time() {
        let former = "- a\n- b\n";
        for (text, doubtful, look) in [
            ("- a\n- c\n", false, Some(1)),
            ("- a\n- b\n- c\n", false, Some(1)),
            ("- c\n", false, Some(1)),
            ("- a\n- b", false, Some(1)),
            (former, false, None),
            ("", false, Some(150)),
            ("\n", false, Some(150)),
            ("- a\n", false, Some(150)),
            ("- a\n- c", false, Some(150)),
            ("- c\n", true, Some(150)),
        ] {
            assert_eq!(taken_by(former, text, doubtful), look, "{text:?}");
        }
    }

    #[test]
    fn two_looks_must_agree() {
        let now = Instant::now();
        let mut looks = Looks::new(Some(b"a\n".to_vec()));
        for text in [&b"b\n"[..], b"c\n", b"b\n", b"c\n"] {
            assert!(!looks.see(text, now, |_| false));
        }
        assert!(looks.see(b"c\n", now, |_| false));
        // What is back as it was was never gone.
        assert!(!looks.see(b"", now, |_| false));
        assert!(looks.doubted().is_some());
        assert!(!looks.see(b"c\n", now, |_| false));
        assert!(looks.doubted().is_none());
        assert!(!looks.see(b"", now + 2 * DOUBT, |_| false));
    }
}
