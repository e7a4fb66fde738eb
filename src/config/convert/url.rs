//! URLs of servers that Finback itself asks or tells something, and the TLS to them.

use std::net::Ipv6Addr;

use http::Uri;

use super::{Result, Wrong, clusters};
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::Placed;
use crate::tls::ClientFiles;

/// A server as the configuration names it.
pub(super) struct Url {
    /// TLS is spoken.
    pub(super) is_secure: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    /// The port that is written there.
    pub(super) port: Option<u16>,
    /// The path, with its query; at least `/`.
    pub(super) target: String,
}

impl Url {
    /// Reads one. `form` says what it has to be, and how that is written.
    pub(super) fn read(Placed { value, place }: &Placed<String>, form: &str) -> Result<Self> {
        let wrong = || Wrong::at(*place, format!("`{value}` is not {form}"));
        let uri: Uri = value.parse().map_err(|_| wrong())?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authority = uri.authority().map_or("", |own| own.as_str());
        let is_v6 = uri.host().is_some_and(|own| own.starts_with('['));
        let is_odd = is_v6 && host.parse::<Ipv6Addr>().is_err();
        // One that is no number between 1 and 65535, or is none at all.
        let has_port = authority
            .rsplit(']')
            .next()
            .is_some_and(|end| end.contains(':'));
        let port = uri.port_u16().filter(|port| *port > 0);
        if host.is_empty() || authority.contains('@') || is_odd || has_port != port.is_some() {
            return Err(wrong());
        }
        Ok(Self {
            is_secure,
            host: host.to_owned(),
            port,
            target: uri
                .path_and_query()
                .map_or("/", |own| own.as_str())
                .to_owned(),
        })
    }

    /// The files of its TLS, if that is spoken; those of public authorities, unless others are written down.
    /// `server` is what it is called, and `place` where it is named.
    pub(super) fn tls(
        &self,
        tls: Option<Placed<file::ClusterTls>>,
        (server, place): (&str, (u64, u64)),
        folder: &Folder<'_>,
    ) -> Result<Option<Placed<ClientFiles>>> {
        match (tls, self.is_secure) {
            (Some(tls), false) => {
                let message = format!(
                    "the {server} is spoken to without TLS; write https://, or take `tls` away"
                );
                Err(Wrong::at(tls.place, message))
            }
            (Some(tls), true) => Ok(Some(clusters::client_files(tls, folder)?)),
            (None, true) => Ok(Some(Placed {
                value: ClientFiles::default(),
                place,
            })),
            (None, false) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Option<(bool, String, Option<u16>, String)> {
        let placed = Placed {
            value: url.to_owned(),
            place: (1, 1),
        };
        let url = Url::read(&placed, "URL").ok()?;
        Some((url.is_secure, url.host, url.port, url.target))
    }

    #[test]
    fn a_url_is_read_or_refused() {
        for (url, secure, host, port, target) in [
            ("http://a.test", false, "a.test", None, "/"),
            ("https://a.test:1/", true, "a.test", Some(1), "/"),
            ("http://[::1]:65535/x?y", false, "::1", Some(65535), "/x?y"),
        ] {
            let expected = (secure, host.to_owned(), port, target.to_owned());
            assert_eq!(read(url), Some(expected), "{url}");
        }
        for bad in [
            "",
            "a.test:1",
            "ftp://a.test",
            "http://",
            "http://:1",
            "http://u@a.test",
            "http://u:p@a.test:1",
            "http://a.test:0",
            "http://a.test:65536",
            "http://a.test:",
            "http://[::1",
            "http://[x]:1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
