//! Verification of the other side's certificate, and until when it holds.

use std::sync::Arc;

use finback_core::net::Handshake;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity;
use super::resumption::{LONGEST, ServersKnown};

/// The last second, since 1970, in which all certificates of a chain are valid.
pub(super) fn last_second(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<u64, Error> {
    let all = std::iter::once(end_entity).chain(intermediates);
    let mut last = u64::MAX;
    for certificate in all {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return Err(CertificateError::BadEncoding.into());
        };
        let not_after = parsed.validity().not_after.timestamp();
        last = last.min(u64::try_from(not_after).unwrap_or_default());
    }
    Ok(last)
}

/// Clients whose certificates descend from our authorities.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) webpki: Arc<dyn ClientCertVerifier>,
    /// The last second, since 1970, in which all revocation lists are current.
    pub(super) next_update: u64,
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.webpki.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.webpki.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .webpki
            .verify_client_cert(end_entity, intermediates, now)?;
        if let Err(unusable) = identity::named(end_entity) {
            return Err(CertificateError::Other(OtherError(Arc::new(unusable))).into());
        }
        let longest = now.as_secs().saturating_add(LONGEST);
        let last = last_second(end_entity, intermediates)?;
        Handshake::set_not_after(last.min(self.next_update).min(longest));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Endpoints whose certificates are for their names and descend from the authorities that we trust.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) webpki: Arc<dyn ServerCertVerifier>,
    /// The last second, since 1970, in which all revocation lists are current.
    pub(super) next_update: u64,
    pub(super) known: Arc<ServersKnown>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.webpki
                .verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        let last = last_second(end_entity, intermediates)?;
        self.known.note(name, last.min(self.next_update));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
