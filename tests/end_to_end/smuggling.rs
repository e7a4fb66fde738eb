//! Requests that one server reads as one and another as two, with back ends that nobody here wrote.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, block, frame,
};
use crate::support::process::Process;
use crate::support::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server that answers every request at once, whatever of it was read, and writes a line about each
/// into a file.
pub(crate) struct Backend {
    _process: Process,
    pub(crate) address: String,
    log: std::path::PathBuf,
}

/// Go's server, whose handler reads no body; or its proxy before somebody else.
const GO: &str = r#"package main
import ("fmt"; "net/http"; "net/http/httputil"; "net/url"; "os")
func main() {
    log, _ := os.Create(os.Args[2])
    if len(os.Args) > 3 {
        to, _ := url.Parse("http://" + os.Args[3])
        http.ListenAndServe(os.Args[1], httputil.NewSingleHostReverseProxy(to))
    }
    http.ListenAndServe(os.Args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
        fmt.Fprintf(log, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
        w.Write([]byte("fine"))
    }))
}
"#;

impl Backend {
    fn go() -> Self {
        Self::go_with(&[])
    }

    /// Go's proxy before somebody else.
    fn go_before(address: &str) -> Self {
        Self::go_with(&[address])
    }

    fn go_with(more: &[&str]) -> Self {
        let (folder, port) = (temporary_folder(), free_port());
        std::fs::write(folder.join("main.go"), GO).unwrap();
        let mut build = Command::new("/usr/local/go/bin/go");
        let built = build
            .args(["build", "-o", "server", "main.go"])
            .current_dir(&folder)
            .env("GO111MODULE", "off")
            .status();
        assert!(built.unwrap().success(), "Go does not build it");
        let log = folder.join("log");
        let mut command = Command::new(folder.join("server"));
        command
            .arg(format!("127.0.0.1:{port}"))
            .arg(&log)
            .args(more);
        Self::started("server", command, port, log)
    }

    /// nginx before somebody else, with connections that it uses again.
    fn nginx_before(address: &str) -> Self {
        let server =
            "proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection '';";
        let upstream = format!("upstream back {{ server {address}; keepalive 8; }}");
        Self::nginx_with(&upstream, server)
    }

    /// HAProxy before somebody else.
    fn haproxy_before(address: &str) -> Self {
        Self::haproxy_with(&format!(
            " default_backend back\nbackend back\n http-reuse always\n server one {address}\n"
        ))
    }

    pub(crate) fn nginx() -> Self {
        Self::nginx_with("", "return 200 fine;")
    }

    fn nginx_with(upstream: &str, server: &str) -> Self {
        let (folder, port) = (temporary_folder(), free_port());
        let f = folder.display();
        let text = format!(
            "worker_processes 1; daemon off; pid {f}/pid; error_log stderr error;\n\
             events {{ worker_connections 200; }}\n\
             http {{ log_format own '$request_method $request_uri $host'; access_log {f}/log own;\n\
             client_body_temp_path {f}; proxy_temp_path {f}; fastcgi_temp_path {f};\n\
             uwsgi_temp_path {f}; scgi_temp_path {f};\n\
             {upstream} server {{ listen 127.0.0.1:{port}; location / {{ {server} }} }} }}\n"
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(path);
        Self::begin("nginx", "nginx-light", command, port, folder.join("log"))
    }

    fn haproxy() -> Self {
        Self::haproxy_with(" http-request return status 200 content-type text/plain string fine\n")
    }

    fn haproxy_with(rules: &str) -> Self {
        let (folder, port) = (temporary_folder(), free_port());
        let log = folder.join("log");
        let text = format!(
            "global\n log stdout format raw local0\ndefaults\n mode http\n timeout client 30s\n \
             timeout connect 5s\n timeout server 30s\nfrontend own\n bind 127.0.0.1:{port}\n \
             log global\n log-format \"%HM %HU\"\n{rules}"
        );
        let path = folder.join("haproxy.cfg");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "exec /usr/sbin/haproxy -db -f \"$0\" > \"$1\""]);
        command.arg(path).arg(&log);
        Self::begin("haproxy", "haproxy", command, port, log)
    }

    fn begin(
        name: &str,
        package: &str,
        command: Command,
        port: u16,
        log: std::path::PathBuf,
    ) -> Self {
        let program = format!("/usr/sbin/{name}");
        assert!(
            Path::new(&program).exists(),
            "{program} is missing: run `make peers`, or `apt-get install {package}`"
        );
        Self::started(name, command, port, log)
    }

    fn started(name: &str, mut command: Command, port: u16, log: std::path::PathBuf) -> Self {
        let process = Process::start(name, &mut command);
        let address = format!("127.0.0.1:{port}");
        eventually(name, PATIENCE, || {
            TcpStream::connect(&address).map_err(|error| error.to_string())
        });
        Self {
            _process: process,
            address,
            log,
        }
    }

    /// What it was asked so far.
    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.lines().filter(|line| line.contains('/'));
        whole.map(str::to_owned).collect()
    }
}

/// Sends bytes and hears what comes until nothing does.
fn tell(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_millis(300));
    stream.set_read_timeout(patience).unwrap();
    // It may hang up before it has read everything.
    let _ = stream.write_all(bytes);
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n) = stream.read(&mut piece) {
        if n == 0 {
            break;
        }
        heard.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// Requests of HTTP/1.1 that servers have read differently.
fn ambiguous() -> Vec<String> {
    let post = |headers: &str, body: &str| {
        format!("POST /one HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n{body}")
    };
    let ends = format!("0\r\n\r\n{SMUGGLED}");
    let length = format!("Content-Length: {}", ends.len());
    let mut all = Vec::new();
    for encoding in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding:\r\n chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "\x20Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "transfer_encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
    ] {
        all.push(post(&format!("{encoding}\r\n{length}"), &ends));
        all.push(post(&format!("{length}\r\n{encoding}"), &ends));
        all.push(post(encoding, &ends));
    }
    for lengths in [
        "Content-Length: 0\r\nContent-Length: 37",
        "Content-Length: 37\r\nContent-Length: 0",
        "Content-Length: 0, 37",
        "Content-Length: +0",
        "Content-Length: 0x25",
        "Content-Length: -1",
        "Content-Length: 00000000000000000000000000000000000",
        "Content-Length : 37",
        "Content-Length: 99999999999999999999",
    ] {
        all.push(post(lengths, SMUGGLED));
    }
    let chunked = "Transfer-Encoding: chunked";
    for body in [
        format!("0;x=y\r\n\r\n{SMUGGLED}"),
        format!("0;x=\"\n\r\n\r\n{SMUGGLED}"),
        format!("00000000000000000\r\n\r\n{SMUGGLED}"),
        format!("0x0\r\n\r\n{SMUGGLED}"),
        format!("1\nz\n0\n\n{SMUGGLED}"),
        format!("1\r\nzz\r\n0\r\n\r\n{SMUGGLED}"),
        format!("fffffffffffffffff\r\n{SMUGGLED}"),
        format!("0\r\nX: y\r\n\r\n{SMUGGLED}"),
        format!("0\r\nContent-Length: 37\r\n\r\n{SMUGGLED}"),
    ] {
        all.push(post(chunked, &body));
    }
    all.push(format!(
        "GET /one HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    ));
    all.push(format!(
        "GET /one HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n{chunked}\r\n\r\n{ends}"
    ));
    all.push(format!(
        "GET /one HTTP/1.1\nHost: a\nContent-Length: 0\n\n{SMUGGLED}"
    ));
    all.push(format!(
        "GET /one HTTP/1.1\r\nHost: a\r\nX: \0\r\n{length}\r\n\r\n{ends}"
    ));
    all.push(format!(
        "GET http://b/one HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n{ends}"
    ));
    all.push(format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{length}\r\n\r\n{ends}"
    ));
    all.push(format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\n{length}\r\n\r\n{ends}"
    ));
    all.push(format!(
        "POST /one HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\n{chunked}\r\n\r\n{ends}"
    ));
    all
}

/// The same by HTTP/2, where a careless translation makes the second request.
fn translated() -> Vec<Vec<u8>> {
    let base = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/one"),
        (":authority", "a"),
    ];
    let inject = "x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut all = Vec::new();
    let mut request = |headers: &[(&str, &str)], body: &str| {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(headers)));
        bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
        all.push(bytes);
    };
    for more in [
        ("content-length", "0"),
        ("content-length", "3"),
        ("content-length", "400"),
        ("transfer-encoding", "chunked"),
        ("connection", "transfer-encoding"),
        ("x", inject),
        ("x: y\r\nz", "1"),
        ("x y", "1"),
        ("host", "b"),
        ("Content-Length", "0"),
        ("", "x"),
        (":x", "y"),
    ] {
        let headers = [&base[..], &[more]].concat();
        request(&headers, &format!("0\r\n\r\n{SMUGGLED}"));
    }
    for (place, value) in [
        (0, "POST / HTTP/1.1\r\nx:"),
        (0, "GET /smuggled"),
        (1, "http://b/smuggled"),
        (2, "/one HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"),
        (2, "/one /smuggled"),
        (2, "smuggled"),
        (3, "a\r\nX: y"),
        (3, "a/smuggled"),
        (3, "user@a"),
    ] {
        let mut headers = base;
        headers[place].1 = value;
        request(&headers, SMUGGLED);
    }
    all
}

/// A proxy in front of a server, by one worker, so that all share its connections.
fn before(backend: &Backend) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{}" ], http: "1.1", outlier: {{ consecutive: 0 }} }} }}
"#,
        backend.address
    ))
}

#[test]
fn no_back_end_sees_a_second_request() {
    for backend in [Backend::nginx(), Backend::haproxy(), Backend::go()] {
        let finback = before(&backend);
        let at = finback.local("web");
        // What follows a whole request on its connection may rightly be a second one: those are told
        // apart by answers.
        let mut passed = 0;
        for request in ambiguous() {
            let before = backend.asked().len();
            let heard = tell(&at, request.as_bytes());
            let answers = heard.matches("HTTP/1.1 2").count();
            // The log may lag behind the answer.
            std::thread::sleep(Duration::from_millis(20));
            let seen = &backend.asked()[before..];
            assert!(
                seen.len() <= answers.max(1),
                "{request:?} made {seen:?}, and was answered {heard:?}"
            );
            passed += seen.len();
        }
        for request in translated() {
            let before = backend.asked().len();
            tell(&at, &request);
            std::thread::sleep(Duration::from_millis(20));
            let seen = backend.asked()[before..].to_vec();
            let shown = String::from_utf8_lossy(&request).into_owned();
            assert!(seen.len() <= 1, "{shown:?} made {seen:?}");
            assert!(
                !seen.concat().contains("smuggled"),
                "{shown:?} made {seen:?}"
            );
            passed += seen.len();
        }
        println!("{passed} were passed on, each as what it is");
        assert!(passed > 5, "nothing was tried: {passed}");
        // And the connections to the back end are in order for the next.
        for _ in 0..5 {
            let heard = tell(&at, b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(heard.ends_with("fine"), "{heard}");
        }
    }
}

/// Beginnings of requests of which more is announced than ever comes. Who answers before it has read
/// them takes what follows on its connection for the rest.
fn unfinished() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for length in ["1", "20", "37", "300", "100000"] {
        for head in [
            "POST /one HTTP/1.1\r\nHost: a\r\n",
            "GET /one HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            "PUT /one HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n",
        ] {
            all.push(format!("{head}Content-Length: {length}\r\n\r\n").into_bytes());
        }
        let post = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/one"),
            (":authority", "a"),
            ("content-length", length),
        ];
        let mut connect = post.to_vec();
        connect[0].1 = "CONNECT";
        connect.insert(1, (":protocol", "websocket"));
        let smuggled = [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/x"),
            (":authority", "a"),
            ("x", "GET /smuggled HTTP/1.1"),
        ];
        for (asked, more) in [
            (&post[..], frame(DATA, 0, 1, b"")),
            (&post, frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
            (&connect, frame(DATA, 0, 1, b"")),
            (&connect, frame(DATA, END_STREAM, 1, b"")),
            (&connect, frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
            (&connect[..], Vec::new()),
        ] {
            let flags = END_HEADERS | END_STREAM;
            let frames = [
                PREFACE.to_vec(),
                frame(SETTINGS, 0, 0, &[]),
                frame(HEADERS, END_HEADERS, 1, &block(asked)),
                more,
                frame(HEADERS, flags, 3, &block(&smuggled)),
            ];
            all.push(frames.concat());
        }
    }
    for chunks in [
        "ff\r\n",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: y\r\n",
    ] {
        let head = "POST /one HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        all.push(format!("{head}{chunks}").into_bytes());
    }
    all
}

#[test]
fn nobody_elses_request_is_taken_for_the_rest_of_one_that_was_answered_early() {
    for backend in [Backend::nginx(), Backend::haproxy(), Backend::go()] {
        let finback = before(&backend);
        let at = finback.local("web");
        let victim = b"GET /victim HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        for asked in unfinished() {
            let shown = String::from_utf8_lossy(&asked).into_owned();
            let mut attacker = TcpStream::connect(&at).unwrap();
            attacker.write_all(&asked).unwrap();
            // Long enough for the early answer; the attacker stays, and then is gone.
            std::thread::sleep(Duration::from_millis(20));
            for stays in [true, false] {
                let heard = tell(&at, victim);
                assert!(heard.ends_with("fine"), "{shown:?}, {stays}: {heard:?}");
                if stays {
                    attacker.shutdown(std::net::Shutdown::Both).ok();
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        let asked = backend.asked();
        let fine = ["/victim", "/one", "/x"];
        let odd = asked.iter().find(|own| {
            let mut words = own.split(' ');
            let method = words.next().unwrap_or_default();
            let path = words.next().unwrap_or_default();
            !["GET", "POST", "PUT"].contains(&method) || !fine.contains(&path)
        });
        assert_eq!(odd, None, "somebody was asked something else");
    }
}

#[test]
fn no_front_end_is_answered_for_a_second_request() {
    let backend = Backend::go();
    let finback = before(&backend);
    let at = finback.local("web");
    for front in [
        Backend::nginx_before(&at),
        Backend::haproxy_before(&at),
        Backend::go_before(&at),
    ] {
        let mut passed = 0;
        for request in ambiguous() {
            let before = backend.asked().len();
            let heard = tell(&front.address, request.as_bytes());
            let answers = heard.matches("HTTP/1.1 2").count();
            std::thread::sleep(Duration::from_millis(20));
            let seen = &backend.asked()[before..];
            assert!(
                seen.len() <= answers.max(1),
                "{request:?} made {seen:?}, and was answered {heard:?}"
            );
            passed += seen.len();
            // Whoever comes next over the front's connections gets an answer of his own.
            let victim = b"GET /victim HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let heard = tell(&front.address, victim);
            assert!(heard.ends_with("fine"), "{request:?}: {heard:?}");
        }
        assert!(passed > 5, "nothing was tried: {passed}");
    }
}
