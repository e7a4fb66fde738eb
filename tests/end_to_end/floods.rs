//! Clients of HTTP that only want to make work, beside others that want answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load, Summary};
use finback_simulations::speech::Protocol;
use tokio::runtime::Runtime;

use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};
use crate::support::peer::Peer;
use crate::support::temporary_folder;

/// What hostile clients may make the proxy hold, who are the more at once the busier the machine.
const GROWTH_KIB: u64 = 64 * 1024;
/// What they may add when they come again: what the first ones held has room for them.
const AGAIN_KIB: u64 = 24 * 1024;
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls of an honest client. They take long enough for several rounds of an attack.
const CALLS: u64 = 500;

/// A GET of `/slow` by HPACK's static table: `:method GET`, `:scheme http`, `:path`, `:authority a`.
const GET: &[u8] = b"\x82\x86\x04\x05/slow\x01\x01a";

/// A stand-in service on a runtime, and a proxy in front of it. Another proxy beside it is attacked
/// to learn what attackers cost everybody on this machine, whoever they attack.
struct World {
    runtime: Runtime,
    finback: Finback,
    other: Finback,
    attacks_other: AtomicBool,
}

impl World {
    fn new(delay: Duration) -> Self {
        let runtime = Runtime::new().unwrap();
        let serve = |delay| {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
            let listener = listener.unwrap();
            let address = listener.local_addr().unwrap();
            let faults = Faults {
                delay,
                ..Faults::default()
            };
            runtime.spawn(echo::serve(listener, Protocol::Http, faults));
            address
        };
        let (quick, slow) = (serve(Duration::ZERO), serve(delay));
        let folder = temporary_folder();
        certificates(&folder);
        let f = folder.display();
        let config = format!(
            r#"
workers: 1
listeners:
  - {{ name: web, address: "127.0.0.1:0", routes: web }}
  - {{ name: tls, address: "127.0.0.1:0", routes: web, tls: {{ certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ] }} }}
routes:
  web:
    - match: {{ path: /slow }}
      to: {{ cluster: slow }}
    - to: {{ cluster: quick }}
clusters:
  quick: {{ endpoints: [ "{quick}" ] }}
  slow: {{ endpoints: [ "{slow}" ] }}
"#
        );
        Self {
            runtime,
            finback: Finback::start(&config),
            other: Finback::start(&config),
            attacks_other: AtomicBool::new(false),
        }
    }

    /// Who is attacked.
    fn victim(&self) -> &Finback {
        match self.attacks_other.load(Relaxed) {
            true => &self.other,
            false => &self.finback,
        }
    }

    fn target(&self) -> SocketAddr {
        self.finback.local("web").parse().unwrap()
    }

    fn load(&self, protocol: Protocol, count: u64) -> Summary {
        let load = Load {
            protocol,
            size: 0,
            target: self.target(),
            connections: 4,
            in_flight: 2,
            count,
            warm_up: 100,
            patience: Duration::from_secs(10),
        };
        let run = self.runtime.block_on(load::run(&load, &Arc::default()));
        run.unwrap()
    }

    /// Runs an attack while others call; none of their calls may fail, and memory stays bounded.
    fn beside(&self, name: &str, attack: impl Fn(&Self) + Sync) {
        for (protocol, bound) in [(Protocol::Http, GROWTH_KIB), (Protocol::Grpc, AGAIN_KIB)] {
            let calm = self.load(protocol, CALLS);
            let before = self.finback.process().rss();
            self.attacks_other.store(true, Relaxed);
            let (elsewhere, _) = self.during(protocol, &attack);
            self.attacks_other.store(false, Relaxed);
            let (under, rounds) = self.during(protocol, &attack);
            assert_eq!((under.calls, under.errors), (CALLS, 0), "{name} {under:?}");
            let grown = self.finback.process().rss().saturating_sub(before);
            println!(
                "{name}, {}: p99 {} us calm, {} us while another is attacked, {} us during {rounds} \
                 attacks, {grown} KiB more",
                protocol.name(),
                calm.p99_us,
                elsewhere.p99_us,
                under.p99_us
            );
            assert!(grown < bound, "{name}: {grown} KiB");
        }
    }

    /// Calls while an attack goes on, and how often it was made.
    fn during(&self, protocol: Protocol, attack: &(impl Fn(&Self) + Sync)) -> (Summary, u32) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let attacking = scope.spawn(|| {
                let mut rounds = 0;
                while !over.load(Relaxed) {
                    attack(self);
                    rounds += 1;
                }
                rounds
            });
            thread::sleep(Duration::from_millis(100));
            let under = self.load(protocol, CALLS);
            over.store(true, Relaxed);
            (under, attacking.join().unwrap())
        })
    }

    fn connect(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.victim().local("web")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        stream
    }

    fn requests(&self, cluster: &str) -> u64 {
        let (_, metrics) = self.finback.admin("/metrics");
        let own = metrics
            .lines()
            .filter(|line| line.starts_with("finback_requests_total") && line.contains(cluster));
        own.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

/// Sends until the other side hangs up, or everything is sent; tells which.
fn pour(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    bytes
        .chunks(16 * 1024)
        .all(|piece| stream.write_all(piece).is_ok())
}

/// Reads until the connection ends; the code of a GOAWAY if there was one.
fn until_closed(mut stream: TcpStream) -> Option<u32> {
    let mut heard = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => heard.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("still open: {error}"),
        }
    }
    let mut code = None;
    let mut rest = &heard[..];
    while let [a, b, c, kind, _, _, _, _, _, more @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = more.get(..length)?;
        if *kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &more[length..];
    }
    code
}

#[test]
fn requests_taken_back_at_once_end_the_connection() {
    let world = World::new(Duration::from_secs(5));
    world.beside("rapid reset", |world| {
        let mut stream = world.connect();
        let all: Vec<u8> = (0..10_000_u32)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
                both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
                both
            })
            .collect();
        pour(&mut stream, &all);
        // ENHANCE_YOUR_CALM, unless the connection was reset before that could be read.
        let code = until_closed(stream);
        assert!(matches!(code, None | Some(0xb)), "{code:?}");
    });
}

#[test]
fn requests_taken_back_one_by_one_end_the_connection() {
    let world = World::new(Duration::from_secs(5));
    let mut stream = world.connect();
    stream.set_nodelay(true).unwrap();
    let before = world.requests("");
    for n in 0..2000_u32 {
        let id = 2 * n + 1;
        let open = frame(HEADERS, END_STREAM | END_HEADERS, id, GET);
        if stream.write_all(&open).is_err() {
            break;
        }
        // Long enough for each to be looked at by itself.
        thread::sleep(Duration::from_micros(500));
        if stream
            .write_all(&frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()))
            .is_err()
        {
            break;
        }
    }
    until_closed(stream);
    let made = world.requests("") - before;
    println!("{made} of 2000 requests were looked at");
    assert!((50..1000).contains(&made), "{made}");
}

#[test]
fn resets_that_we_are_made_to_send_end_the_connection() {
    let world = World::new(Duration::from_secs(5));
    world.beside("made you reset", |world| {
        let mut stream = world.connect();
        let all: Vec<u8> = (0..5000_u32)
            .flat_map(|n| {
                let stream = 2 * n + 1;
                let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
                // A window that grows by nothing is an error of the stream.
                both.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
                both
            })
            .collect();
        pour(&mut stream, &all);
        until_closed(stream);
    });
    let made = world.requests("slow");
    println!("{made} requests went on");
}

#[test]
fn headers_without_end_and_headers_that_unfold_are_cut_off() {
    let world = World::new(Duration::from_secs(5));
    world.beside("continuation flood", |world| {
        let mut stream = world.connect();
        let mut all = frame(HEADERS, END_STREAM, 1, GET);
        // Literal headers that are not indexed: "x: y", over and over.
        let piece = b"\x00\x01x\x01y".repeat(1000);
        for _ in 0..2000 {
            all.extend(frame(CONTINUATION, 0, 1, &piece));
        }
        pour(&mut stream, &all);
        until_closed(stream);
    });
    world.beside("HPACK bomb", |world| {
        let mut stream = world.connect();
        // A header of 4000 bytes enters the dynamic table, and is then named 16,000 times.
        let mut block = GET.to_vec();
        block.extend(b"\x40\x01x\x7f\xa1\x1e");
        block.extend(b"y".repeat(4000));
        block.extend([0xbe].repeat(12_000));
        stream
            .write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block))
            .unwrap();
        // It is answered, or the connection ends; nothing of the 48 MB is ever there.
        let mut piece = [0; 1024];
        let _ = stream.read(&mut piece);
    });
}

#[test]
fn frames_that_ask_for_work_alone_are_borne_or_cut_off() {
    let world = World::new(Duration::from_secs(5));
    let open = frame(HEADERS, END_HEADERS, 1, b"\x83\x86\x04\x05/slow\x01\x01a");
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("PING flood", Vec::new(), frame(PING, 0, 0, &[7; 8])),
        (
            "SETTINGS flood",
            Vec::new(),
            frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
        ),
        (
            "WINDOW_UPDATE flood",
            Vec::new(),
            frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        ),
        (
            "PRIORITY flood",
            Vec::new(),
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
        ),
        ("empty DATA flood", open.clone(), frame(DATA, 0, 1, &[])),
        ("DATA dribble", open, frame(DATA, 0, 1, b"x")),
    ];
    for (name, first, again) in cases {
        let flood = again.repeat(50_000);
        world.beside(name, |world| {
            let mut stream = world.connect();
            stream
                .set_write_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            stream.write_all(&first).unwrap();
            // Nothing of what it says is read: either it stops reading, too, or it hangs up.
            pour(&mut stream, &flood);
        });
    }
}

#[test]
fn heads_and_handshakes_that_never_end_hold_little_and_not_for_long() {
    let world = World::new(Duration::ZERO);
    let slow: Vec<TcpStream> = (0..400)
        .map(|n| {
            let listener = if n % 2 == 0 { "web" } else { "tls" };
            let mut stream = TcpStream::connect(world.finback.local(listener)).unwrap();
            let begun: &[u8] = match listener {
                "web" => b"GET / HTTP/1.1\r\nHost: a\r\nX-",
                // A handshake record that promises more than it has.
                _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            };
            stream.write_all(begun).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    let summary = world.load(Protocol::Http, 4000);
    assert_eq!(summary.errors, 0);
    for mut stream in slow {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        // Told so, or just cut off.
        let _ = stream.read_to_end(&mut all);
    }
    let took = began.elapsed();
    println!("all were closed after {took:?}");
    assert!(took < Duration::from_secs(16), "{took:?}");
}

/// What a client begins a handshake with.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn many_handshakes_at_once_delay_nobody_for_long() {
    let world = World::new(Duration::ZERO);
    // What is broken is answered with an alert, what is not with a key exchange and a signature.
    let broken = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec();
    for (name, hello) in [("broken", broken), ("unfinished", client_hello())] {
        world.beside(&format!("flood of {name} handshakes"), |world| {
            let tls = world.victim().local("tls");
            let streams: Vec<_> = (0..50)
                .filter_map(|_| TcpStream::connect(&tls).ok())
                .collect();
            for mut stream in streams {
                let _ = stream.write_all(&hello);
            }
            thread::sleep(Duration::from_millis(5));
        });
    }
}

#[test]
fn who_reads_nothing_costs_no_more_than_a_buffer() {
    // A server that would send a gigabyte to each.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
                let piece = vec![b'x'; 64 * 1024];
                while stream.write_all(&piece).is_ok() {}
            });
        }
    });
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{address}" ] }} }}
"#
    ));
    let before = finback.process().rss();
    let held: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(finback.local("web")).unwrap();
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_secs(4));
    let each = finback.process().rss().saturating_sub(before) / held.len() as u64;
    println!("{each} KiB for each of 200 that read nothing");
    // What was read and not yet written, in buffers of 64 KiB.
    assert!(each < 320, "{each} KiB each");
}

#[test]
fn bodies_that_hardly_come_are_given_up() {
    let peer = Peer::web();
    let fields = [("name", "back"), ("version", "1.1")];
    let back = peer.ask("serve", &fields).unwrap();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, http: {{ body_rate: 100 }} }} ]
routes:
  web:
    - match: {{ path: /twice }}
      to: {{ cluster: back }}
      retry: {{ attempts: 2, idempotent: true }}
    - to: {{ cluster: back }}
clusters: {{ back: {{ endpoints: [ "127.0.0.1:{back}" ] }} }}
limits: {{ call_timeout: 1s }}
"#
    ));
    // What is sent every tenth of a second, and what becomes of it.
    let upload = |path: &str, length: usize, piece: usize| {
        let mut stream = TcpStream::connect(finback.local("web")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut sending = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let mut left = length;
            while left > 0 && piece > 0 {
                let now = piece.min(left);
                if sending.write_all(&vec![b'x'; now]).is_err() {
                    return;
                }
                left -= now;
                thread::sleep(Duration::from_millis(100));
            }
        });
        let began = Instant::now();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        let took = began.elapsed();
        drop(stream);
        sender.join().unwrap();
        (String::from_utf8(head.to_vec()).unwrap(), took)
    };
    let soon = Duration::from_secs(5);
    for (path, piece) in [("/echo", 2), ("/echo", 0), ("/twice", 2), ("/twice", 0)] {
        let (said, took) = upload(path, 1000, piece);
        assert!(
            said == "HTTP/1.1 408" && took < soon,
            "{path} {piece}: {said} {took:?}"
        );
    }
    // Twice as fast as it has to be, and longer than a call may take without a word.
    let (said, took) = upload("/echo", 500, 20);
    assert!(
        said == "HTTP/1.1 200" && took > Duration::from_secs(2),
        "{said} {took:?}"
    );
}
