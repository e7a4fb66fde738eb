//! A certificate authority of the tests' own: certificates that end when a test says, revocation
//! lists and OCSP responses.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::temporary_folder;

const SETTINGS: &str = "[ca]\ndefault_ca = own\n[own]\ndatabase = index.txt\nnew_certs_dir = .\n\
    certificate = ca.pem\nprivate_key = ca.key\nserial = serial\ncrlnumber = crlnumber\n\
    default_md = sha256\npolicy = any\nunique_subject = no\ndefault_days = 2\n\
    [any]\ncommonName = optional\norganizationName = optional\n";

/// The authority; its files are those of its folder.
pub(crate) struct Authority {
    pub(crate) folder: PathBuf,
}

impl Authority {
    /// With a certificate for a server on loopback, `server`, which lasts.
    pub(crate) fn new() -> Self {
        let own = Self {
            folder: temporary_folder(),
        };
        for (name, text) in [
            ("ca.cnf", SETTINGS),
            ("index.txt", ""),
            ("serial", "1000\n"),
            ("crlnumber", "10\n"),
        ] {
            std::fs::write(own.folder.join(name), text).unwrap();
        }
        let make = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
                    -keyout ca.key -out ca.pem";
        own.openssl(&make.split_whitespace().collect::<Vec<_>>());
        own.issue("server", "server", "IP:127.0.0.1,DNS:localhost", 100_000);
        own
    }

    /// A certificate `{name}.pem` and its key `{name}.key` for a common name and alternative names,
    /// either of which may be "", that ends in so many seconds.
    pub(crate) fn issue(&self, name: &str, common_name: &str, names: &str, seconds: i64) {
        self.issue_of("ec", name, common_name, names, seconds);
    }

    /// The same with a key of one type: `ec` or `rsa`.
    pub(crate) fn issue_of(
        &self,
        key: &str,
        name: &str,
        common_name: &str,
        names: &str,
        seconds: i64,
    ) {
        let (own_key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let certificate = format!("{name}.pem");
        let option = match key {
            "rsa" => "rsa_keygen_bits:2048",
            _ => "ec_paramgen_curve:P-256",
        };
        let subject = match common_name {
            "" => "/O=acme".to_owned(),
            name => format!("/CN={}", name.replace('/', "\\/")),
        };
        self.openssl(&[
            "req", "-newkey", key, "-pkeyopt", option, "-nodes", "-subj", &subject, "-keyout",
            &own_key, "-out", &request,
        ]);
        let mut extensions = "extendedKeyUsage=serverAuth,clientAuth\n".to_owned();
        if !names.is_empty() {
            extensions += &format!("subjectAltName={names}\n");
        }
        std::fs::write(self.folder.join("names"), extensions).unwrap();
        let (begin, end) = (date(-86_400), date(seconds));
        self.openssl(&[
            "ca",
            "-batch",
            "-notext",
            "-config",
            "ca.cnf",
            "-in",
            &request,
            "-out",
            &certificate,
            "-extfile",
            "names",
            "-startdate",
            &begin,
            "-enddate",
            &end,
        ]);
    }

    /// Revokes a certificate; a revocation list must be written afterwards.
    pub(crate) fn revoke(&self, name: &str) {
        let certificate = format!("{name}.pem");
        self.openssl(&["ca", "-config", "ca.cnf", "-revoke", &certificate]);
    }

    /// Writes the revocation list to `ca.crl`; it is to be followed by the next in so many seconds.
    pub(crate) fn list_revoked(&self, seconds: u32) {
        let seconds = seconds.to_string();
        self.openssl(&[
            "ca", "-config", "ca.cnf", "-gencrl", "-crlsec", &seconds, "-out", "next.crl",
        ]);
        std::fs::rename(self.folder.join("next.crl"), self.folder.join("ca.crl")).unwrap();
    }

    /// Writes an OCSP response about a certificate to a file; it is to be followed by the next in so
    /// many minutes.
    pub(crate) fn respond(&self, name: &str, file: &str, minutes: u32) {
        let (certificate, minutes) = (format!("{name}.pem"), minutes.to_string());
        self.openssl(&[
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-rsigner",
            "ca.pem",
            "-rkey",
            "ca.key",
            "-issuer",
            "ca.pem",
            "-cert",
            &certificate,
            "-nmin",
            &minutes,
            "-respout",
            file,
            "-noverify",
        ]);
    }

    /// The path of a file in its folder.
    pub(crate) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    fn openssl(&self, arguments: &[&str]) {
        openssl(&self.folder, arguments);
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let out = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is missing: run `make peers`, or `apt-get install openssl`");
    assert!(
        out.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// In so many seconds, as `openssl ca` wants it.
fn date(seconds: i64) -> String {
    let from_now = format!("now {seconds:+} seconds");
    let out = Command::new("date")
        .args(["-u", "-d", &from_now, "+%Y%m%d%H%M%SZ"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}
