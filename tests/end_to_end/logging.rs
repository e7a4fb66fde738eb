//! A log that nobody reads, or nobody can write, stops neither calls nor a reload nor a drain.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::rpc::{Call, Client};
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that a pipe holds (pipe(7)).
const PIPE: usize = 64 * 1024;

/// A proxy that answers by itself, with this for its stderr.
struct Proxy {
    child: Child,
    file: PathBuf,
    admin: u16,
    port: u16,
    /// Where any protocol is spoken.
    rpc: u16,
    /// An endpoint that takes connections and says nothing.
    hung: TcpListener,
}

impl Proxy {
    fn start(level: &str, stderr: Stdio) -> Self {
        Self::start_with(Some(level), "", stderr)
    }

    /// With more in its configuration, and `RUST_LOG` if there is one.
    fn start_with(level: Option<&str>, more: &str, stderr: Stdio) -> Self {
        let file = temporary_folder().join("finback.yaml");
        let (admin, port, rpc) = (free_port(), free_port(), free_port());
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        write(&file, (admin, port, rpc), &hung, "one", more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
        command.env_remove("RUST_LOG");
        command.envs(level.map(|level| ("RUST_LOG", level)));
        command.args(["run", "-c"]).arg(&file).stderr(stderr);
        let child = command.spawn().unwrap();
        let own = Self {
            child,
            file,
            admin,
            port,
            rpc,
            hung,
        };
        eventually("readiness", PATIENCE, || {
            match own.ask(own.admin, "/readyz") {
                Ok(said) if said.starts_with("HTTP/1.1 200") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        own
    }

    fn ask(&self, port: u16, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    }

    fn metric(&self, name: &str) -> u64 {
        let page = self.ask(self.admin, "/metrics").unwrap();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args(["-s", name, &id]).status();
        assert!(killed.unwrap().success());
    }

    fn reload(&self, text: &str) {
        self.reload_with(text, "");
    }

    fn reload_with(&self, text: &str, more: &str) {
        let ports = (self.admin, self.port, self.rpc);
        write(&self.file, ports, &self.hung, text, more);
        self.signal("HUP");
        eventually("the reload", PATIENCE, || {
            let said = self
                .ask(self.port, "/")
                .map_err(|error| error.to_string())?;
            said.ends_with(text).then_some(()).ok_or(said)
        });
    }

    /// Ends it; what it said.
    fn said(mut self) -> String {
        self.signal("TERM");
        assert_eq!(self.ends().code(), Some(0));
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        said
    }

    /// Sends bytes that no protocol begins with.
    fn nonsense(&self, bytes: &[u8]) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(bytes).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }

    fn ends(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(
    file: &Path,
    (admin, port, rpc): (u16, u16, u16),
    hung: &TcpListener,
    text: &str,
    more: &str,
) {
    let hung = hung.local_addr().unwrap();
    let config = format!(
        r#"
workers: 1
admin: {{ address: "127.0.0.1:{admin}" }}
listeners: [ {{ name: web, address: "127.0.0.1:{port}", protocol: http, routes: web }}, {{ name: rpc, address: "127.0.0.1:{rpc}", routes: web }} ]
clusters: {{ hung: {{ endpoints: [ "{hung}" ] }} }}
limits: {{ drain_delay: 0s }}
{more}
routes:
  web:
    - {{ match: {{ path: /hung }}, to: {{ cluster: hung }} }}
    - {{ respond: {{ status: 200, body: "{text}" }} }}
"#
    );
    let beside = file.with_extension("new");
    std::fs::write(&beside, config).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    // A pipe that takes no more, as one is whose reader was stopped.
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'.'; PIPE]).unwrap();
    let mut proxy = Proxy::start("debug", Stdio::from(writer));
    for _ in 0..100 {
        let said = proxy.ask(proxy.port, "/").unwrap();
        assert!(said.ends_with("one"), "{said}");
    }
    assert!(proxy.ask(proxy.admin, "/livez").unwrap().contains("alive"));
    proxy.reload("two");
    assert_eq!(proxy.metric("finback_log_lines_dropped_total "), 0);
    proxy.signal("TERM");
    assert_eq!(proxy.ends().code(), Some(0));
    drop(reader);
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for stderr in [Stdio::piped(), full()] {
        let mut proxy = Proxy::start("info", stderr);
        // Whoever read it is gone.
        drop(proxy.child.stderr.take());
        proxy.reload("two");
        proxy.reload("three");
        assert_eq!(proxy.metric("finback_reloads_total "), 2);
        proxy.signal("USR1");
        proxy.signal("USR2");
        let said = proxy.ask(proxy.port, "/").unwrap();
        assert!(said.ends_with("three"), "{said}");
        proxy.signal("TERM");
        assert_eq!(proxy.ends().code(), Some(0));
    }
}

#[test]
fn a_second_signal_ends_it_at_once_and_not_as_if_all_were_well() {
    let mut proxy = Proxy::start("error", Stdio::piped());
    // A request that is never answered holds the drain up.
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
    stream
        .write_all(b"GET /hung HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    proxy.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(proxy.child.try_wait().unwrap().is_none());
    proxy.signal("TERM");
    assert_eq!(proxy.ends().code(), Some(1));
    let mut said = String::new();
    let mut stderr = proxy.child.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    for wanted in ["INFO listening web", "INFO ready", "WARN ended at once"] {
        assert!(said.contains(wanted), "at every level: {said}");
    }
}

#[test]
fn every_line_is_json_where_that_is_asked_for() {
    let more = "log: { format: json, level: warn, modules: { finback_http: debug } }";
    let proxy = Proxy::start_with(None, more, Stdio::piped());
    proxy.nonsense(b"GARBAGE\x1b[31m\r\n\r\n");
    proxy.reload_with("two", more);
    let said = proxy.said();
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{line}: {why}")))
        .collect();
    for (at, line) in lines.iter().enumerate() {
        for member in ["time", "level", "target", "message"] {
            assert!(line[member].is_string(), "{at}: {line}");
        }
    }
    let messages: Vec<_> = lines
        .iter()
        .filter_map(|own| own["message"].as_str())
        .collect();
    // What happens to the process is said whatever the level.
    for wanted in ["listening web", "ready", "reloaded", "stopping", "stopped"] {
        assert!(
            messages.iter().any(|own| own.contains(wanted)),
            "{wanted}: {said}"
        );
    }
    let closed = lines
        .iter()
        .find(|own| own["message"] == "connection closed");
    let closed = closed.unwrap_or_else(|| panic!("a module at another level: {said}"));
    assert_eq!(closed["target"], "finback_http::serve");
    assert_eq!(closed["left_out"], 0);
}

#[test]
fn a_level_changes_by_a_reload() {
    let proxy = Proxy::start_with(None, "log: { level: warn }", Stdio::piped());
    proxy.nonsense(b"GARBAGE-ONE\r\n\r\n");
    proxy.reload_with("two", "log: { level: info }");
    proxy.nonsense(b"GARBAGE-TWO\r\n\r\n");
    let said = proxy.said();
    let after = said.find("reloaded").unwrap();
    assert!(!said[..after].contains("connection closed"), "{said}");
    assert!(said[after..].contains("connection closed"), "{said}");
}

#[test]
fn the_environment_goes_before_the_file_and_what_cannot_be_read_is_refused() {
    let proxy = Proxy::start_with(Some("warn"), "log: { level: info }", Stdio::piped());
    proxy.nonsense(b"GARBAGE\r\n\r\n");
    let said = proxy.said();
    assert!(!said.contains("connection closed"), "{said}");
    for (wrong, wanted) in [
        (
            "inof",
            "RUST_LOG: no level is called `inof`; write error, warn, info, debug, trace or off",
        ),
        ("finback=x", "RUST_LOG: no level is called `x`"),
        ("a b=info", "RUST_LOG: `a b` is not a module"),
    ] {
        let ended = Command::new(env!("CARGO_BIN_EXE_finback"))
            .env("RUST_LOG", wrong)
            .args(["run", "-c", "/nonexistent"])
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.starts_with(wanted), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn what_clients_send_feigns_no_line() {
    let proxy = Proxy::start("debug", Stdio::piped());
    for path in [
        "/a%0a2026-01-01T00:00:00Z ERROR forged",
        "/\x1b[31mred",
        "/\u{2028}x",
    ] {
        let _ = proxy.ask(proxy.port, path);
    }
    proxy.nonsense(b"GET /\nERROR forged\x1b[31m HTTP/1.1\r\nhost: a\x1b[2J\r\n\r\n");
    // Names of services stand in the lines of calls that go nowhere.
    let name = "com.x\n2026-01-01T00:00:00Z ERROR forged \x1b[31m";
    for speech in [Speech::Bolt, Speech::Dubbo] {
        let mut client = Client::connect(&format!("127.0.0.1:{}", proxy.rpc), speech);
        client.call(&Call::new(name, "m"));
    }
    let said = proxy.said();
    assert_eq!(said.matches("ERROR forged").count(), 2, "{said:?}");
    assert!(!said.contains('\x1b'), "{said:?}");
    assert!(
        !said
            .lines()
            .any(|line| line.starts_with("ERROR") || line.starts_with("2026-01-01"))
    );
    for line in said.lines() {
        assert!(line.starts_with("20"), "a time begins each line: {line}");
    }
}
