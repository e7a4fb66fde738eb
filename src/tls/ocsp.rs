//! OCSP stapling: the authority's word that a certificate of ours is not revoked (RFC 6960), sent
//! along with it (RFC 6066, section 8).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::pki_types::UnixTime;
use rustls::sign::{CertifiedKey, SigningKey};
use sha1::{Digest, Sha1};
use x509_parser::asn1_rs::{Any, FromDer as _, GeneralizedTime, Oid, Tag, oid};
use x509_parser::prelude::X509Certificate;

/// Longer than any response is.
const LONGEST: u64 = 64 << 10;
/// `id-pkix-ocsp-basic` (RFC 6960, section 4.2.1).
const BASIC: Oid<'static> = oid!(1.3.6.1.5.5.7.48.1.1);
const SHA1: Oid<'static> = oid!(1.3.14.3.2.26);

/// A certificate of ours, with the response about it while that is current.
#[derive(Debug)]
pub(super) struct Stapled {
    bare: Arc<CertifiedKey>,
    /// With a response, and the seconds since 1970 from and up to which that is current.
    stapled: Option<(Arc<CertifiedKey>, u64, u64)>,
}

impl Stapled {
    pub(super) fn without(own: CertifiedKey) -> Self {
        Self {
            bare: Arc::new(own),
            stapled: None,
        }
    }

    /// With the response of a file. One that does not fit this certificate, or is not current, is
    /// left out with a warning: on its own it must not keep a good certificate from being used.
    ///
    /// # Errors
    /// The file cannot be read or is no OCSP response.
    pub(super) fn with(own: CertifiedKey, file: &Path) -> Result<Self> {
        let (bytes, answers) =
            read(file).with_context(|| format!("{} is not an OCSP response", file.display()))?;
        let mut all = Self::without(own);
        match current(&all.bare, &answers) {
            Ok((from, to)) => {
                let mut with = CertifiedKey::clone(&all.bare);
                with.ocsp = Some(bytes);
                all.stapled = Some((Arc::new(with), from, to));
            }
            Err(why) => tracing::warn!(
                file = %file.display(), why = format!("{why:#}"),
                "an OCSP response is not stapled"
            ),
        }
        Ok(all)
    }

    pub(super) fn key(&self) -> &dyn SigningKey {
        &*self.bare.key
    }

    /// The certificate as it is shown now.
    pub(super) fn now(&self) -> Arc<CertifiedKey> {
        self.at(UnixTime::now().as_secs())
    }

    fn at(&self, now: u64) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((with, from, to)) if (*from..=*to).contains(&now) => with.clone(),
            _ => self.bare.clone(),
        }
    }
}

fn read(file: &Path) -> Result<(Vec<u8>, Vec<Answer>)> {
    let length = std::fs::metadata(file)?.len();
    ensure!(length <= LONGEST, "it is longer than {LONGEST} bytes");
    let bytes = std::fs::read(file)?;
    let answers = answers(&bytes)?;
    Ok((bytes, answers))
}

/// When the response of a file is out of date, in seconds since 1970.
pub(super) fn next_response(file: &Path) -> Option<u64> {
    let (_, answers) = read(file).ok()?;
    answers.iter().map(|answer| answer.next_update).min()
}

/// What is said of one certificate (`SingleResponse`, RFC 6960, section 4.2.1).
struct Answer {
    /// Of its issuer's name, if the hash is SHA-1.
    issuer_hash: Option<Vec<u8>>,
    serial: Vec<u8>,
    is_good: bool,
    this_update: u64,
    /// The highest number where newer ones are always to be had.
    next_update: u64,
}

/// From when to when the response is current that is about this certificate.
fn current(own: &CertifiedKey, answers: &[Answer]) -> Result<(u64, u64)> {
    let end_entity = own.end_entity_cert()?;
    let (_, parsed) = X509Certificate::from_der(end_entity)
        .map_err(|_| anyhow!("the certificate cannot be read"))?;
    let issuer = Sha1::digest(parsed.issuer().as_raw());
    let is_about = |answer: &&Answer| {
        let hash = answer.issuer_hash.as_deref();
        answer.serial == parsed.raw_serial() && hash.is_none_or(|hash| hash == &issuer[..])
    };
    let Some(answer) = answers.iter().find(is_about) else {
        bail!("it is about another certificate");
    };
    validity(answer, UnixTime::now().as_secs())
}

/// From when to when an answer is current, which it must be now.
fn validity(answer: &Answer, now: u64) -> Result<(u64, u64)> {
    ensure!(
        answer.is_good,
        "it does not say that the certificate is good"
    );
    ensure!(now <= answer.next_update, "it is out of date");
    ensure!(answer.this_update <= now, "its time is yet to come");
    Ok((answer.this_update, answer.next_update))
}

/// The parts of a sequence, or of what is tagged explicitly.
fn parts<'a>(of: &Any<'a>) -> Result<Vec<Any<'a>>> {
    let mut rest = of.data;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (after, part) = Any::from_der(rest).map_err(|_| anyhow!("it is cut"))?;
        all.push(part);
        rest = after;
    }
    Ok(all)
}

fn one<'a>(of: &Any<'a>) -> Result<Any<'a>> {
    parts(of)?
        .into_iter()
        .next()
        .context("a part of it is empty")
}

/// What an OCSP response says (RFC 6960, section 4.2.1).
fn answers(bytes: &[u8]) -> Result<Vec<Answer>> {
    let (rest, response) = Any::from_der(bytes).map_err(|_| anyhow!("it is not DER"))?;
    ensure!(rest.is_empty(), "something follows it");
    let response = parts(&response)?;
    let [status, body, ..] = &*response else {
        bail!("it has only a status: the responder had no answer");
    };
    ensure!(status.data == [0], "it says that the responder failed");
    let body = parts(&one(body)?)?;
    let [kind, basic, ..] = &*body else {
        bail!("it has no response");
    };
    let kind = Oid::try_from(kind.clone()).map_err(|_| anyhow!("it has no type"))?;
    ensure!(kind == BASIC, "its type is unknown");
    let (_, basic) = Any::from_der(basic.data).map_err(|_| anyhow!("its response is cut"))?;
    let data = parts(&one(&basic)?)?;
    // Version and responder before, and extensions after it, are tagged; the time is no sequence.
    let all = data.iter().find(|part| part.tag() == Tag::Sequence);
    let all = parts(all.context("it answers nothing")?)?;
    all.iter().map(answer).collect()
}

fn answer(single: &Any<'_>) -> Result<Answer> {
    let single = parts(single)?;
    let [id, status, this_update, more @ ..] = &*single else {
        bail!("an answer is cut");
    };
    let id = parts(id)?;
    let [algorithm, issuer, _, serial, ..] = &*id else {
        bail!("an answer does not say about what it is");
    };
    let algorithm = Oid::try_from(one(algorithm)?).map_err(|_| anyhow!("its hash is unknown"))?;
    let next_update = more.iter().find(|part| part.tag() == Tag(0));
    Ok(Answer {
        issuer_hash: (algorithm == SHA1).then(|| issuer.data.to_vec()),
        serial: serial.data.to_vec(),
        is_good: status.tag() == Tag(0),
        this_update: seconds(this_update)?,
        next_update: match next_update {
            Some(tagged) => seconds(&one(tagged)?)?,
            None => u64::MAX,
        },
    })
}

fn seconds(time: &Any<'_>) -> Result<u64> {
    let time = GeneralizedTime::try_from(time.clone()).map_err(|_| anyhow!("it has no time"))?;
    let time = time.utc_datetime().map_err(|_| anyhow!("it has no time"))?;
    Ok(u64::try_from(time.unix_timestamp()).unwrap_or_default())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, &content].concat()
    }

    /// A response about the certificate 0x1234: `status` is 0 for good and 1 for revoked.
    fn response(status: u8, next_update: Option<&[u8]>) -> Vec<u8> {
        let sha1 = der(0x30, &[&der(6, &[b"\x2b\x0e\x03\x02\x1a"]), &der(5, &[])]);
        let id = [
            sha1,
            der(4, &[b"name"]),
            der(4, &[b"key"]),
            der(2, &[b"\x12\x34"]),
        ];
        let id = der(0x30, &[&id.concat()]);
        let status = match status {
            0 => der(0x80, &[]),
            _ => der(0xa1, &[&der(0x18, &[b"20200101000000Z"])]),
        };
        let this_update = der(0x18, &[b"20200101000000Z"]);
        let next_update = next_update.map(|time| der(0xa0, &[&der(0x18, &[time])]));
        let single = der(
            0x30,
            &[&id, &status, &this_update, &next_update.unwrap_or_default()],
        );
        let responder = der(0xa2, &[&der(4, &[b"key"])]);
        let data = [responder, this_update, der(0x30, &[&single])].concat();
        let signed = [der(0x30, &[&data]), der(0x30, &[]), der(3, &[b"\0"])];
        let basic = der(4, &[&der(0x30, &[&signed.concat()])]);
        let kind = der(6, &[b"\x2b\x06\x01\x05\x05\x07\x30\x01\x01"]);
        let body = der(0xa0, &[&der(0x30, &[&kind, &basic])]);
        der(0x30, &[&der(10, &[b"\0"]), &body])
    }

    const BEGIN: u64 = 1_577_836_800;
    const HOUR: u64 = 3600;

    #[test]
    fn responses_are_read_and_are_good_for_their_time() {
        let bytes = response(0, Some(b"20200101010000Z"));
        let read = answers(&bytes).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].serial, b"\x12\x34");
        assert_eq!(read[0].issuer_hash.as_deref(), Some(&b"name"[..]));
        let times = (BEGIN, BEGIN + HOUR);
        for now in [BEGIN, BEGIN + HOUR] {
            assert_eq!(validity(&read[0], now).unwrap(), times);
        }
        let wrong = |now| validity(&read[0], now).unwrap_err().to_string();
        assert_eq!(wrong(BEGIN + HOUR + 1), "it is out of date");
        assert_eq!(wrong(BEGIN - 1), "its time is yet to come");
        let read = answers(&response(0, None)).unwrap();
        assert_eq!(validity(&read[0], u64::MAX).unwrap(), (BEGIN, u64::MAX));
        let read = answers(&response(1, None)).unwrap();
        assert!(validity(&read[0], BEGIN).is_err());
    }

    #[test]
    fn what_is_no_response_is_refused_wherever_it_is_cut_or_changed() {
        let bytes = response(0, Some(b"20200101010000Z"));
        for length in 0..bytes.len() {
            assert!(answers(&bytes[..length]).is_err(), "{length}");
        }
        assert!(answers(&[&bytes[..], b"x"].concat()).is_err());
        // Nothing that is changed panics.
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                let _ = answers(&changed);
            }
        }
    }
}
