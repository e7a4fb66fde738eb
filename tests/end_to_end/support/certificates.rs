//! Certificates of the tests' own.

use std::process::Command;

/// An authority, and certificates of it: for a server on loopback, for a client, for servers of
/// other names, and for a workload.
pub(crate) fn certificates(folder: &std::path::Path) {
    let openssl = |arguments: &str| {
        let out = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .expect("openssl is missing: run `make peers`, or `apt-get install openssl`");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
    );
    for (name, names) in [
        ("server", "IP:127.0.0.1,DNS:localhost"),
        ("client", "IP:127.0.0.1,DNS:localhost"),
        ("other", "DNS:other.test,DNS:*.wild.test"),
        ("workload", "URI:spiffe://acme/pay"),
    ] {
        let extensions =
            format!("subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n");
        std::fs::write(folder.join("names"), extensions).unwrap();
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out {name}.pem"
        ));
    }
}
