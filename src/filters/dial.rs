//! Dialling policy servers: TCP, and TLS where it is configured.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::ClientFiles;

/// A connection, with or without TLS.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// Connects. With TLS, `application` is what will be spoken (RFC 7301), if that is to be agreed on, and files are read anew.
///
/// # Errors
/// Why there is no connection.
pub(crate) async fn dial(
    (host, port): (&str, u16),
    tls: Option<&ClientFiles>,
    application: &[u8],
) -> Result<Box<dyn Socket>, String> {
    let socket = TcpStream::connect((host, port)).await;
    let socket = socket.map_err(|error| format!("cannot connect: {error}"))?;
    // It could only make small questions wait for each other.
    let _ = socket.set_nodelay(true);
    let Some(files) = tls.cloned() else {
        return Ok(Box::new(socket));
    };
    let name = files.server_name.clone();
    let name = name.or_else(|| ServerName::try_from(host.to_owned()).ok());
    let name = name.ok_or("its host is not a name that a certificate could be for")?;
    // Files may be slow.
    let config = tokio::task::spawn_blocking(move || files.config()).await;
    let config = config.map_err(|_| "the process stops")?;
    let mut config = config.map_err(|error| format!("{error:#}"))?;
    if !application.is_empty() {
        config.alpn_protocols = vec![application.to_vec()];
    }
    let connector = TlsConnector::from(Arc::new(config));
    let socket = connector.connect(name, socket).await;
    Ok(Box::new(socket.map_err(|error| format!("TLS: {error}"))?))
}

/// An error and what caused it: hyper's own says little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
