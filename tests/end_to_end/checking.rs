//! `finback check`, as operators and pipelines run it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::authority::Authority;
use crate::support::process::Process;
use crate::support::{free_port, temporary_folder};
use std::time::Duration;

const CONFIG: &str = r#"listeners:
  - address: "127.0.0.1:0"
    protocol: http
    routes: web
    tls: { certificates: [ { certificate: web.pem, key: web.key } ] }
routes:
  web: [ { to: { cluster: shop } } ]
clusters:
  shop: { endpoints: [ "127.0.0.1:1" ] }
"#;

/// Whether it is good, and what is said.
fn check(file: &Path, more: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_finback"))
        .args(["check", "-c"])
        .arg(file)
        .args(more)
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}

fn written(text: impl AsRef<[u8]>) -> PathBuf {
    let file = temporary_folder().join("f.yaml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let out = Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn without_the_files_that_it_names_a_configuration_can_be_checked() {
    let file = written(CONFIG);
    let (good, said) = check(&file, &[]);
    assert!(!good && said.contains("web.pem"), "{said}");
    let (good, said) = check(&file, &["--no-files"]);
    assert!(good, "{said}");
    let password = CONFIG.replace(
        "routes:\n",
        "registries: { zk: { zookeeper: \"a:1\", user: u, password_file: p.txt } }\nroutes:\n",
    );
    let file = written(password);
    assert!(!check(&file, &[]).0);
    assert!(check(&file, &["--no-files"]).0);
}

#[test]
fn keys_and_certificates_that_are_no_good_are_told_what_they_are() {
    let file = written(CONFIG);
    let folder = file.parent().unwrap();
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout good.key -out good.pem -days 2 -subj /CN=web.test",
    );
    let put = |from: &str, to: &str| {
        std::fs::copy(folder.join(from), folder.join(to)).unwrap();
    };
    let certificate = || put("good.pem", "web.pem");
    let key = || put("good.key", "web.key");
    certificate();
    key();
    let (good, said) = check(&file, &[]);
    assert!(good && !said.contains("warning"), "{said}");
    openssl(
        folder,
        "pkey -in good.key -aes256 -passout pass:secret -out web.key",
    );
    let (good, said) = check(&file, &[]);
    assert!(
        !good && said.contains("the key is encrypted; write it without a pass phrase"),
        "{said}"
    );
    openssl(folder, "pkey -in good.key -outform der -out web.key");
    let (good, said) = check(&file, &[]);
    assert!(
        !good && said.contains("web.key has no key: it is DER; make PEM of it"),
        "{said}"
    );
    key();
    openssl(folder, "x509 -in good.pem -outform der -out web.pem");
    let (good, said) = check(&file, &[]);
    assert!(
        !good && said.contains("web.pem has no certificate: it is DER"),
        "{said}"
    );
    put("good.key", "web.pem");
    put("good.pem", "web.key");
    let (good, said) = check(&file, &[]);
    assert!(
        !good && said.contains("are the two files swapped?"),
        "{said}"
    );
    // One that has ended is served by nobody's wish; a renewal may be on its way.
    let authority = Authority::new();
    authority.issue("old", "", "DNS:web.test", -3600);
    for (from, to) in [("old.pem", "web.pem"), ("old.key", "web.key")] {
        std::fs::copy(authority.path(from), folder.join(to)).unwrap();
    }
    let (good, said) = check(&file, &[]);
    assert!(good, "{said}");
    assert!(
        said.contains("f.yaml:5:10: warning: the certificate of"),
        "{said}"
    );
    assert!(
        said.contains("minutes ago") || said.contains("hours ago"),
        "{said}"
    );
}

#[test]
fn bytes_that_are_no_text_are_placed() {
    let file = written(b"listeners:\n  - name: \xff\n");
    let (good, said) = check(&file, &[]);
    assert!(
        !good && said.contains("f.yaml:2:11: this is not UTF-8 text"),
        "{said}"
    );
}

#[test]
fn warnings_leave_a_configuration_good() {
    let plain = CONFIG.replace(
        "    tls: { certificates: [ { certificate: web.pem, key: web.key } ] }\n",
        "",
    );
    let file = written(plain.replace(
        "[ { to: { cluster: shop } } ]",
        "[ { respond: { status: 200 } } ]",
    ));
    let (good, said) = check(&file, &[]);
    assert!(good, "{said}");
    assert!(
        said.contains("f.yaml:8:9: warning: no route leads to the cluster `shop`"),
        "{said}"
    );
    assert!(said.contains("good; 1 listeners"), "{said}");
}

#[test]
fn an_address_that_is_taken_is_told_with_its_place_and_without_a_stack() {
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let plain = CONFIG.replace(
        "    tls: { certificates: [ { certificate: web.pem, key: web.key } ] }\n",
        "",
    );
    let file = written(plain.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")));
    let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
    command
        .env("RUST_BACKTRACE", "1")
        .arg("run")
        .arg("-c")
        .arg(&file);
    let process = Process::start("finback", &mut command);
    let status = process.wait_for_end(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1));
    let said = process.tail_of(1000);
    let wanted = format!(
        "{}:2:14: listener 127.0.0.1:{port} cannot listen on",
        file.display()
    );
    assert!(said.iter().any(|line| line.contains(&wanted)), "{said:?}");
    assert!(said.len() <= 3, "no stack: {said:?}");
}

#[test]
fn the_demo_shows_from_the_first_second_that_it_is_at_work_in_any_terminal() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
    command
        .args(["demo", "--duration", "4"])
        .env("COLUMNS", "44");
    let begun = std::time::Instant::now();
    let demo = Process::start("demo", &mut command);
    demo.wait_for("a row", Duration::from_secs(4), 0, |line| {
        line.starts_with("bolt ").then_some(())
    });
    assert!(begun.elapsed() < Duration::from_secs(4));
    demo.wait_for_end(Duration::from_secs(20));
    let said = demo.tail_of(1000);
    let rows = said
        .iter()
        .filter(|line| line.starts_with("bolt ") || line.starts_with("protocol "));
    for row in rows {
        assert!(row.chars().count() <= 44, "{row}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_finback"))
        .args(["demo", "--duration", "0"])
        .output()
        .unwrap();
    assert_eq!(
        out.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
