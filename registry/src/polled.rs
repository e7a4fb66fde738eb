//! Addresses that a server gives by HTTP, as RocketMQ's address server does for name servers: a list of `host:port`,
//! asked for again and again. What was given last stays until something else is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use finback_core::discovery::{Lookup, SnapshotSink};
use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::hosts::{HostCluster, HostEndpoint, Hosts};
use crate::listed::Doubt;
use crate::lock;

/// The longest list, in bytes.
const LONGEST: usize = 64 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the hosts of a list are resolved anew.
const NAMES: Duration = Duration::from_secs(5);
/// The weight of each address.
const WEIGHT: u32 = 100;
/// The name under which [`Hosts`] knows the list.
const LIST: &str = "list";

/// A server that gives a list of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it is asked for.
    pub url: Uri,
    /// How often. Default: 30 s.
    pub refresh: Duration,
}

/// Hosts and ports, in order.
type Addresses = Arc<[(String, u16)]>;

/// A list that is followed.
pub(crate) struct Polled {
    handle: Handle,
    addresses: watch::Receiver<Option<Addresses>>,
    /// Since when it cannot be had, and why.
    doubted: Arc<Mutex<Option<Doubt>>>,
    task: AbortHandle,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Polled {
    pub(crate) fn new(handle: &Handle, config: &HttpConfig) -> Self {
        let (sender, addresses) = watch::channel(None);
        let doubted = Arc::default();
        let polling = poll(config.clone(), sender, Arc::clone(&doubted));
        Self {
            handle: handle.clone(),
            addresses,
            doubted,
            task: handle.spawn(polling).abort_handle(),
        }
    }

    /// Whether the list was given once.
    pub(crate) fn is_known(&self) -> bool {
        self.addresses.borrow().is_some()
    }

    /// Since when it cannot be had, and why.
    pub(crate) fn doubted(&self) -> Option<Doubt> {
        lock(&self.doubted).clone()
    }

    /// Delivers a snapshot with each change of the list, or of what its hosts resolve to. There is one list, by
    /// whatever name it is looked up.
    pub(crate) async fn follow(&self, lookup: &Lookup, sink: &dyn SnapshotSink) {
        let mut addresses = self.addresses.clone();
        let lookup = Lookup {
            service: LIST.into(),
            ..lookup.clone()
        };
        loop {
            let now = addresses.borrow_and_update().clone();
            let hosts = now.map(|list| Hosts::new(&self.handle, &cluster(&list)));
            let following = async {
                if let Some(hosts) = &hosts {
                    hosts.follow(&lookup, sink).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = following => {}
                changed = addresses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

fn cluster(list: &[(String, u16)]) -> BTreeMap<String, HostCluster> {
    let hosts = list.iter().map(|(host, port)| HostEndpoint {
        host: host.clone(),
        port: *port,
        weight: WEIGHT,
        labels: BTreeMap::new(),
    });
    let cluster = HostCluster {
        refresh: NAMES,
        fixed: Vec::new(),
        hosts: hosts.collect(),
    };
    BTreeMap::from([(LIST.to_owned(), cluster)])
}

async fn poll(
    config: HttpConfig,
    addresses: watch::Sender<Option<Addresses>>,
    doubted: Arc<Mutex<Option<Doubt>>>,
) {
    loop {
        let asked = tokio::time::timeout(PATIENCE, ask(&config.url)).await;
        let read = asked
            .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
            .and_then(|text| parse(&text));
        let known = addresses.borrow().is_some();
        match read {
            Ok(list) => {
                *lock(&doubted) = None;
                addresses.send_if_modified(|former| {
                    let is_new = former.as_deref() != Some(&list[..]);
                    if is_new {
                        *former = Some(list.into());
                    }
                    is_new
                });
            }
            Err(why) => {
                let mut doubted = lock(&doubted);
                let since = doubted.as_ref().map_or_else(Instant::now, |own| own.since);
                static UNREAD: LogLimit = LogLimit::usual();
                if let Some(left_out) = UNREAD.admit(crate::now()) {
                    let url = Escaped(&config.url.to_string()).to_string();
                    tracing::warn!(%url, why, left_out, "cannot have a list of addresses; what is known stays");
                }
                *doubted = Some(Doubt { since, why });
            }
        }
        // Nobody can be served before it is known once.
        let pause = if known || addresses.borrow().is_some() {
            config.refresh
        } else {
            config.refresh.min(Duration::from_secs(1))
        };
        tokio::time::sleep(pause).await;
    }
}

/// Asks for a list by HTTP/1.1 (RFC 9112) over a connection of its own.
async fn ask(url: &Uri) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let authority = url.authority().ok_or("no host")?;
    let host = authority.host().trim_matches(['[', ']']);
    let port = authority.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| wrong(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| wrong(&error))?;
    let path = url.path_and_query().map_or("/", |own| own.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| wrong(&error))?;
    let asking = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| wrong(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("its server answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let bytes = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|_| "it is not text".to_owned())
    };
    tokio::pin!(connection, asking);
    tokio::select! {
        biased;
        text = &mut asking => text,
        ended = &mut connection => match ended {
            // What came with the end is there.
            Ok(()) => asking.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The addresses of a list: separated by semicolons (RocketMQ's clients split there), commas or white space.
fn parse(text: &str) -> Result<Vec<(String, u16)>, String> {
    let words = text.split(|char: char| matches!(char, ';' | ',') || char.is_whitespace());
    let list: Vec<(String, u16)> = words
        .filter(|word| !word.is_empty())
        .map(|word| {
            let (host, port) = word.rsplit_once(':')?;
            let host = host.trim_matches(['[', ']']);
            let port = port.parse().ok().filter(|port| *port > 0)?;
            let sound = |char: char| char.is_ascii_alphanumeric() || "-_.:".contains(char);
            let is_host = !host.is_empty() && host.len() <= 253 && host.chars().all(sound);
            is_host.then(|| (host.to_owned(), port))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "it is not a list of host:port".to_owned())?;
    // A server that has forgotten everything is no reason to forget it as well.
    if list.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(list)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use finback_core::discovery::Snapshot;
    use std::sync::mpsc::{Sender, channel};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn a_list_is_read_as_clients_read_it() {
        let one = |host: &str, port| (host.to_owned(), port);
        for text in [
            "10.0.0.1:9876;mq-b:1\n",
            " 10.0.0.1:9876, mq-b:1",
            "10.0.0.1:9876\nmq-b:1;",
        ] {
            let wanted = [one("10.0.0.1", 9876), one("mq-b", 1)];
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(parse("[::1]:5").unwrap(), [one("::1", 5)]);
        for text in [
            "",
            " ;\n",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:70000",
            "a:1;<html>",
            "a b:1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    struct Told(Sender<Vec<String>>);

    impl SnapshotSink for Told {
        fn update(&self, snapshot: Snapshot) {
            let each = snapshot.instances.iter().map(|own| own.address.to_string());
            let _ = self.0.send(each.collect());
        }
    }

    /// Answers each connection with the next of these; the last one again and again.
    async fn server(answers: &'static [&'static str]) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for at in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 1024];
                let length = stream.read(&mut asked).await.unwrap();
                let asked = String::from_utf8_lossy(&asked[..length]).to_lowercase();
                assert!(
                    asked.starts_with("get /rocketmq/nsaddr http/1.1\r\n"),
                    "{asked}"
                );
                assert!(asked.contains(&format!("host: {address}\r\n")), "{asked}");
                let answer = answers[at.min(answers.len() - 1)];
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}/rocketmq/nsaddr").parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_given_last_stays() {
        let url = server(&[
            "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n192.0.2.1:1;192.0.2.2:2\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>no such page</html>",
            "HTTP/1.1 200 OK\r\n\r\n192.0.2.3:3",
        ])
        .await;
        let config = HttpConfig {
            url,
            refresh: Duration::from_millis(50),
        };
        let polled = Arc::new(Polled::new(&Handle::current(), &config));
        assert!(!polled.is_known());
        let lookup = Lookup {
            registry: "names".into(),
            layout: "".into(),
            service: "whatever".into(),
            version: "".into(),
            group: "".into(),
            protocol: "".into(),
        };
        let (told, snapshots) = channel();
        let follower = polled.clone();
        let task = tokio::spawn(async move { follower.follow(&lookup, &Told(told)).await });
        let both = tokio::task::spawn_blocking(move || {
            let patience = Duration::from_secs(10);
            let first = snapshots.recv_timeout(patience).unwrap();
            (first, snapshots.recv_timeout(patience).unwrap())
        });
        let (first, second) = both.await.unwrap();
        task.abort();
        assert_eq!(first, ["192.0.2.1:1", "192.0.2.2:2"]);
        assert_eq!(second, ["192.0.2.3:3"]);
        assert!(polled.is_known());
        assert!(polled.doubted().is_none());
    }
}
