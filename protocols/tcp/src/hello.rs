//! The server name in the beginning of a TLS connection.

use rustls::server::Acceptor;

/// The first byte of a TLS connection: a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;
/// A ClientHello that is longer is passed on unread.
const MOST: usize = 16 * 1024;

/// What the first bytes tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Whom the client wants.
    Name(String),
    /// No TLS, or no name in it.
    Nothing,
    /// More bytes are needed.
    Undecided,
}

/// Reads the first bytes of a connection.
pub(crate) fn server_name(mut bytes: &[u8]) -> Found {
    match bytes.first() {
        None => return Found::Undecided,
        Some(&HANDSHAKE) if bytes.len() <= MOST => {}
        Some(_) => return Found::Nothing,
    }
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).is_err() {
            return Found::Nothing;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return name.map_or(Found::Nothing, Found::Name);
            }
            Ok(None) => {}
            Err(_) => return Found::Nothing,
        }
    }
    Found::Undecided
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_name_is_found_however_the_bytes_are_cut() {
        let bytes = hello("pay.acme.test");
        for length in 0..bytes.len() {
            assert_eq!(server_name(&bytes[..length]), Found::Undecided, "{length}");
        }
        let name = Found::Name("pay.acme.test".to_owned());
        assert_eq!(server_name(&bytes), name);
        let mut more = bytes;
        more.extend_from_slice(b"and more");
        assert_eq!(server_name(&more), name);
    }

    #[test]
    fn what_is_no_tls_names_nobody() {
        assert_eq!(server_name(b"GET / HTTP/1.1"), Found::Nothing);
        assert_eq!(server_name(b"\x16\x03\x01\xff\xff"), Found::Nothing);
        // An address is no name.
        assert_eq!(server_name(&hello("127.0.0.1")), Found::Nothing);
    }
}
