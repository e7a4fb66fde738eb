//! Bytes that no well-behaved client sends, at the real binary, while real clients go on calling.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use finback_simulations::echo::{self, Faults};
use finback_simulations::speech::{Kind, Speech, TOKEN};

use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::Load;
use crate::support::world::{NODE_GREETER, world};

const SPEECHES: [Speech; 2] = [Speech::Bolt, Speech::Dubbo];
/// Longer than anything here may take to be answered or ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// What hostile clients may make the proxy hold: a few frames at their limit, not more.
const GROWTH_KIB: u64 = 64 * 1024;

/// A proxy in front of a stand-in per protocol for hostile callers, and of the registry's services
/// for the others.
fn finback() -> &'static Finback {
    static FINBACK: OnceLock<Finback> = OnceLock::new();
    FINBACK.get_or_init(|| {
        let [bolt, dubbo] = SPEECHES.map(stand_in);
        Finback::start(&format!(
            r#"
workers: 1
registries:
  zk: {{ zookeeper: "{zookeeper}" }}
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: all }}
  - {{ name: dubbo, address: "127.0.0.1:0", protocol: dubbo, routes: all }}
  - {{ name: auto, address: "127.0.0.1:0", protocol: auto, routes: all }}
routes:
  all:
    - match: {{ service: com.acme.OrderService, protocol: bolt }}
      to: {{ cluster: bolt }}
    - match: {{ service: com.acme.OrderService, protocol: dubbo }}
      to: {{ cluster: dubbo }}
    - to: {{ registry: zk }}
clusters:
  bolt: {{ endpoints: [ "127.0.0.1:{bolt}" ] }}
  dubbo: {{ endpoints: [ "127.0.0.1:{dubbo}" ] }}
limits: {{ detect_timeout: 1s, frame: 2MiB, queue_hard: 2MiB }}
"#,
            zookeeper = world().zookeeper(),
        ))
    })
}

/// The port of a service that answers every call with its token.
fn stand_in(speech: Speech) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            echo::serve(listener, speech, Faults::default())
                .await
                .unwrap();
        });
    });
    port
}

fn connect(listener: &str) -> TcpStream {
    let stream = TcpStream::connect(finback().local(listener)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn request(speech: Speech, id: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    speech.request(0).put(id, &token(id), &mut frame);
    frame
}

fn token(id: u64) -> [u8; TOKEN] {
    format!("{id:012}").into_bytes().try_into().unwrap()
}

/// Reads answers until `count` have come; each must be the right one, in any order.
fn read_answers(stream: &mut TcpStream, speech: Speech, count: usize) {
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut seen = std::collections::HashSet::new();
    while seen.len() < count {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{speech:?}: ended after {} of {count}", seen.len());
        received.extend_from_slice(&buffer[..n]);
        let mut at = 0;
        while let Some((len, id, kind)) = speech.split(&received[at..]) {
            assert_eq!(kind, Kind::Success, "{speech:?} {id}");
            let frame = &received[at..at + len];
            assert_eq!(speech.token(frame), Some(&token(id)), "{speech:?}");
            assert!(seen.insert(id), "{speech:?}: {id} answered twice");
            at += len;
        }
        received.drain(..at);
    }
}

/// Everything the proxy says until it hangs up, which it must.
fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => all,
        // Hanging up on bytes that it did not read resets the connection.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => all,
        Err(error) => panic!("still open: {error}"),
    }
}

/// Calls of real clients in both protocols, which nothing below may disturb.
fn undisturbed(millis: u64, disturb: impl FnOnce()) {
    let address = finback().local("auto");
    let callers = [("bolt", ""), ("dubbo", "1.0.0")].map(|(protocol, version)| {
        world().node().caller(&[
            ("protocol", protocol),
            ("address", &address),
            ("interface", NODE_GREETER),
            ("version", version),
            ("threads", "4"),
        ])
    });
    for caller in &callers {
        eventually("an answer", PATIENCE, || {
            caller.call("who", "").map_err(|failure| failure.text)
        });
    }
    let before = finback().process().rss();
    let loads = callers.each_ref().map(|caller| caller.load(millis));
    disturb();
    for load in loads {
        let load = Load::of(load);
        assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
        assert!(load.right > 20, "{load:?}");
    }
    let grown = finback().process().rss().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB more than before");
}

#[test]
fn what_is_no_protocol_ends_its_own_connection_only() {
    undisturbed(2500, || {
        let noise: Vec<u8> = (0..4096_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for bytes in [
            &noise[..],
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            &[0; 64],
            &[0xff; 64],
        ] {
            for listener in ["bolt", "dubbo", "auto"] {
                let mut stream = connect(listener);
                // It may hang up before it has read everything.
                let _ = stream.write_all(bytes);
                assert_eq!(read_to_end(stream), b"", "{listener}");
            }
        }
    });
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_buffered() {
    undisturbed(2500, || {
        for speech in SPEECHES {
            let lengths_at = match speech {
                Speech::Bolt => 18..22,
                Speech::Dubbo => 12..16,
                Speech::Rocketmq | Speech::RocketmqBinary | Speech::Bytes => continue,
            };
            let mut waiting = Vec::new();
            for _ in 0..200 {
                let mut lie = request(speech, 7);
                lie[lengths_at.clone()].fill(0xff);
                let mut stream = connect(speech.name());
                stream.write_all(&request(speech, 1)).unwrap();
                stream.write_all(&lie).unwrap();
                waiting.push(stream);
            }
            for stream in waiting {
                let said = read_to_end(stream);
                let (len, id, kind) = speech.split(&said).unwrap();
                let rest = &said[len..];
                // The call before it is answered, the lie refused natively; in either order.
                let (_, other, other_kind) = speech.split(rest).unwrap();
                let mut both = [(id, kind), (other, other_kind)];
                both.sort_by_key(|(id, _)| *id);
                assert_eq!(both, [(1, Kind::Success), (7, Kind::Failure)], "{speech:?}");
            }
        }
    });
}

#[test]
fn pieces_of_any_size_make_the_same_calls() {
    for speech in SPEECHES {
        let mut stream = connect("auto");
        stream.set_nodelay(true).unwrap();
        for byte in request(speech, 3) {
            stream.write_all(&[byte]).unwrap();
        }
        read_answers(&mut stream, speech, 1);

        let one = request(speech, 0).len();
        let count = 1024 * 1024 / one;
        let all: Vec<u8> = (0..count as u64)
            .flat_map(|id| request(speech, id))
            .collect();
        let mut stream = connect("auto");
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&all).unwrap());
        read_answers(&mut stream, speech, count);
        writing.join().unwrap();
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_frame_leaves_nothing_behind() {
    undisturbed(2500, || {
        for speech in SPEECHES {
            let whole = request(speech, 5);
            for cut in 1..whole.len() {
                connect("auto").write_all(&whole[..cut]).unwrap();
            }
        }
    });
    eventually("client connections to be gone", PATIENCE, || {
        let (_, text) = finback().admin("/metrics");
        let open = text
            .lines()
            .find_map(|line| line.strip_prefix("finback_connections "))
            .and_then(|value| value.trim().parse::<u64>().ok());
        // Real clients keep theirs.
        match open {
            Some(open) if open < 100 => Ok(()),
            _ => Err(format!("{open:?}")),
        }
    });
}

#[test]
fn a_flood_of_heartbeats_is_answered_or_held_back() {
    undisturbed(4000, || {
        for speech in SPEECHES {
            let ping: Vec<u8> = match speech {
                Speech::Bolt => {
                    let mut ping = vec![1, 1, 0, 0, 1, 0, 0, 0, 9, 1, 0, 0, 0x0b, 0xb8];
                    ping.extend_from_slice(&[0; 8]);
                    ping
                }
                Speech::Dubbo => {
                    let mut ping = vec![0xda, 0xbb, 0xe2, 0, 0, 0, 0, 0, 0, 0, 0, 9];
                    ping.extend_from_slice(&[0, 0, 0, 1, b'N']);
                    ping
                }
                Speech::Rocketmq | Speech::RocketmqBinary | Speech::Bytes => continue,
            };
            let count = 200_000;
            let flood = ping.repeat(count);
            let mut stream = connect(speech.name());
            let mut writer = stream.try_clone().unwrap();
            let writing = thread::spawn(move || writer.write_all(&flood).is_ok());
            let mut received = 0;
            let mut buffer = vec![0; 64 * 1024];
            let pong = match speech {
                Speech::Bolt => 20,
                Speech::Dubbo => ping.len(),
                Speech::Rocketmq | Speech::RocketmqBinary | Speech::Bytes => 0,
            };
            while received < count * pong {
                let n = stream.read(&mut buffer).unwrap();
                assert!(n > 0, "{speech:?}: ended after {received} bytes");
                received += n;
            }
            assert_eq!(received, count * pong, "{speech:?}");
            assert!(writing.join().unwrap());
        }
    });
}

#[test]
fn a_client_that_never_reads_is_held_back_and_holds_little() {
    undisturbed(5000, || {
        for speech in SPEECHES {
            let mut stream = connect(speech.name());
            let call: Vec<u8> = (0..500).flat_map(|id| request(speech, id)).collect();
            stream
                .set_write_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            // Kernels take a few MiB each way, and the proxy what may be unread.
            let taken = (0..)
                .take_while(|_| stream.write_all(&call).is_ok())
                .take(100 * 1024 * 1024 / call.len())
                .count();
            let taken = taken * call.len() / (1024 * 1024);
            assert!(taken < 50, "{speech:?}: {taken} MiB of calls were read");
        }
    });
}

#[test]
fn bodies_made_to_explode_are_refused_natively() {
    undisturbed(2500, || {
        let nested = b"\x57".repeat(20_000);
        let list_of_billions = b"\x56\x04[int\x49\x7f\xff\xff\xff".to_vec();
        let itself = b"\x57\x51\x90\x5a".repeat(2_000);
        for argument in [nested, list_of_billions, itself] {
            let mut body = Vec::new();
            for text in ["2.0.2", "com.acme.OrderService", "1.0.0", "queryOrder"] {
                body.push(text.len() as u8);
                body.extend_from_slice(text.as_bytes());
            }
            body.extend_from_slice(b"\x12Ljava/lang/Object;");
            body.extend_from_slice(&argument);
            let mut frame = vec![0xda, 0xbb, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 4];
            frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
            frame.extend_from_slice(&body);
            let mut stream = connect("dubbo");
            stream.write_all(&frame).unwrap();
            let mut head = [0; 16];
            stream.read_exact(&mut head).unwrap();
            // An argument that cannot be passed over hides only the attachments: either way an
            // answer to this id comes, and the connection goes on.
            assert_eq!(&head[..2], b"\xda\xbb");
            assert_eq!(head[11], 4);
            let length = u32::from_be_bytes(head[12..].try_into().unwrap());
            let mut rest = vec![0; length as usize];
            stream.read_exact(&mut rest).unwrap();
            stream.write_all(&request(Speech::Dubbo, 8)).unwrap();
            read_answers(&mut stream, Speech::Dubbo, 1);
        }
    });
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_disturbs_no_call() {
    let service = stand_in(Speech::Bolt);
    let finback = Finback::start_limited(
        256,
        &format!(
            r#"
workers: 1
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: all }}
routes:
  all: [ {{ to: {{ cluster: all }} }} ]
clusters:
  all: {{ endpoints: [ "127.0.0.1:{service}" ] }}
"#,
        ),
    );
    let address = finback.local("bolt");
    let mut first = TcpStream::connect(&address).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.write_all(&request(Speech::Bolt, 1)).unwrap();
    read_answers(&mut first, Speech::Bolt, 1);

    let crowd: Vec<TcpStream> = (0..1000)
        .map_while(|_| TcpStream::connect(&address).ok())
        .collect();
    assert!(crowd.len() > 300, "{}", crowd.len());
    for id in 2..50 {
        first.write_all(&request(Speech::Bolt, id)).unwrap();
        read_answers(&mut first, Speech::Bolt, 1);
    }
    assert_eq!(finback.admin("/readyz").0, 200);
    let before = finback.process().cpu();
    thread::sleep(Duration::from_secs(1));
    let spent = finback.process().cpu() - before;
    assert!(
        spent < Duration::from_millis(300),
        "busy while crowded: {spent:?}"
    );

    drop(crowd);
    let begun = Instant::now();
    let mut late = TcpStream::connect(&address).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    late.write_all(&request(Speech::Bolt, 60)).unwrap();
    read_answers(&mut late, Speech::Bolt, 1);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}
