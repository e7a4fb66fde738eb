//! A closed-loop load generator: so many connections with so many calls in flight each.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::speech::{Kind, Protocol, Speech, TOKEN, Template};
use crate::web;

/// What to send where.
#[derive(Clone, Debug)]
pub struct Load {
    /// The protocol.
    pub protocol: Protocol,
    /// Bytes of a message, where that can be chosen.
    pub size: usize,
    /// Whom to call.
    pub target: SocketAddr,
    /// Connections.
    pub connections: usize,
    /// Calls in flight on each.
    pub in_flight: usize,
    /// Calls in all, warm-up excluded.
    pub count: u64,
    /// Calls before the measurement begins.
    pub warm_up: u64,
    /// A connection on which nothing is answered for so long ends the run with an error.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// Calls that were answered, rightly or not.
    pub calls: u64,
    /// Those whose answer was a failure, or another call's.
    pub errors: u64,
    /// Median time to the answer, in microseconds.
    pub p50_us: u64,
    /// The time within which 99 % were answered, in microseconds.
    pub p99_us: u64,
    /// Calls per second.
    pub per_second: f64,
}

/// Numbers that can be read while a load runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Calls answered so far.
    pub calls: AtomicU64,
    /// Errors so far.
    pub errors: AtomicU64,
}

/// Runs a load to its end.
///
/// # Errors
/// If a connection cannot be made or breaks, or an answer does not come.
pub async fn run(load: &Load, progress: &Arc<Progress>) -> io::Result<Summary> {
    if load.warm_up > 0 {
        let warm_up = Load {
            count: load.warm_up,
            warm_up: 0,
            ..load.clone()
        };
        Box::pin(run(&warm_up, &Arc::default())).await?;
    }
    let all = Arc::new(Mutex::new(Tally::default()));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..load.connections {
        let share = share(load.count, load.connections as u64, number as u64);
        let (load, progress, all) = (load.clone(), progress.clone(), all.clone());
        tasks.spawn(async move {
            let tally = match load.protocol.framed() {
                Some(speech) => {
                    let mut caller = Caller::connect(&load, speech, number).await?;
                    caller.run(share, &progress).await?;
                    caller.tally
                }
                None => {
                    let grpc = load.protocol == Protocol::Grpc;
                    web::calls(&load, grpc, number, share, &progress).await?
                }
            };
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.join(&tally);
            Ok::<_, io::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(all.summary(began.elapsed()))
}

/// A connection that is held open.
pub struct Held {
    _connection: Connection,
}

enum Connection {
    Framed(#[expect(dead_code, reason = "it is held, nothing more")] TcpStream),
    Web(#[expect(dead_code, reason = "it is held, nothing more")] web::Sender),
}

/// Opens connections, makes one call on each, and gives them back open. `certificate` is the one
/// that a server under TLS shows (HTTP and gRPC only).
///
/// # Errors
/// If one cannot be made or is not answered.
pub async fn hold(
    protocol: Protocol,
    target: SocketAddr,
    connections: usize,
    certificate: Option<&Path>,
) -> anyhow::Result<Vec<Held>> {
    let tls = certificate.map(web::trusting).transpose()?;
    let load = Load {
        protocol,
        size: 0,
        target,
        connections,
        in_flight: 1,
        count: 1,
        warm_up: 0,
        patience: Duration::from_secs(10),
    };
    let mut held = Vec::with_capacity(connections);
    for number in 0..connections {
        let connection = match protocol.framed() {
            None => {
                let grpc = protocol == Protocol::Grpc;
                Connection::Web(web::held(target, grpc, tls.as_ref()).await?)
            }
            Some(speech) => {
                let mut caller = Caller::connect(&load, speech, number).await?;
                caller.run(1, &Progress::default()).await?;
                if caller.tally.errors > 0 {
                    anyhow::bail!("a call was answered wrongly");
                }
                Connection::Framed(caller.stream)
            }
        };
        held.push(Held {
            _connection: connection,
        });
    }
    Ok(held)
}

/// What came of some calls.
pub(crate) struct Tally {
    times: Histogram<u64>,
    errors: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let mut times = Histogram::new_with_bounds(1, 60_000_000, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are in order"));
        times.auto(true);
        Self { times, errors: 0 }
    }
}

impl Tally {
    /// Counts a call that was answered after so long, rightly or not.
    pub(crate) fn add(&mut self, took: Duration, right: bool, progress: &Progress) {
        if !right {
            self.errors += 1;
            progress.errors.fetch_add(1, Relaxed);
        }
        progress.calls.fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.times.saturating_record(micros.max(1));
    }

    /// What it came to in so long.
    pub(crate) fn summary(&self, took: Duration) -> Summary {
        let times = &self.times;
        Summary {
            calls: times.len(),
            errors: self.errors,
            p50_us: times.value_at_quantile(0.5),
            p99_us: times.value_at_quantile(0.99),
            per_second: times.len() as f64 / took.as_secs_f64(),
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        // Histograms of the same shape always add up.
        let _ = self.times.add(&other.times);
        self.errors += other.errors;
    }
}

/// The calls of one of several connections.
pub(crate) fn share(count: u64, connections: u64, number: u64) -> u64 {
    count / connections + u64::from(number < count % connections)
}

struct Caller {
    stream: TcpStream,
    speech: Speech,
    request: Template,
    in_flight: usize,
    patience: Duration,
    /// When the call of each id was sent; ids are 0 to `in_flight`, used again.
    sent: Vec<Instant>,
    tokens: Vec<[u8; TOKEN]>,
    serial: u64,
    number: usize,
    tally: Tally,
}

impl Caller {
    async fn connect(load: &Load, speech: Speech, number: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(load.target).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            speech,
            request: speech.request(load.size),
            in_flight: load.in_flight,
            patience: load.patience,
            sent: vec![Instant::now(); load.in_flight],
            tokens: vec![[0; TOKEN]; load.in_flight],
            serial: 0,
            number,
            tally: Tally::default(),
        })
    }

    async fn run(&mut self, count: u64, progress: &Progress) -> io::Result<()> {
        let mut out = Vec::new();
        let mut received = Vec::with_capacity(64 * 1024);
        let mut left = count;
        let mut waiting = 0_u64;
        let now = Instant::now();
        for id in 0..self.in_flight {
            if left > 0 {
                self.put(id, now, &mut out);
                left -= 1;
                waiting += 1;
            }
        }
        while waiting > 0 {
            self.stream.write_all(&out).await?;
            out.clear();
            let read = tokio::time::timeout(self.patience, self.stream.read_buf(&mut received));
            if read.await?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = Instant::now();
            let mut at = 0;
            while let Some((len, id, kind)) = self.speech.split(&received[at..]) {
                let frame = &received[at..at + len];
                at += len;
                let answer = match self.speech {
                    Speech::Bytes => Kind::Success,
                    _ => kind,
                };
                if !matches!(answer, Kind::Success | Kind::Failure) {
                    continue;
                }
                let id = self.check(frame, id, answer, now, progress)?;
                waiting = waiting
                    .checked_sub(1)
                    .ok_or_else(|| io::Error::other("more answers than calls"))?;
                if left > 0 {
                    self.put(id, now, &mut out);
                    left -= 1;
                    waiting += 1;
                }
            }
            received.drain(..at);
        }
        Ok(())
    }

    fn put(&mut self, id: usize, now: Instant, out: &mut Vec<u8>) {
        self.serial += 1;
        let text = format!(
            "{:04x}{:08x}",
            self.number & 0xffff,
            self.serial & 0xffff_ffff
        );
        self.tokens[id].copy_from_slice(text.as_bytes());
        self.sent[id] = now;
        self.request.put(id as u64, &self.tokens[id], out);
    }

    fn check(
        &mut self,
        frame: &[u8],
        id: u64,
        kind: Kind,
        now: Instant,
        progress: &Progress,
    ) -> io::Result<usize> {
        let id = usize::try_from(id).ok().filter(|id| *id < self.in_flight);
        let id = id.ok_or_else(|| io::Error::other("an answer to nothing that was asked"))?;
        let right = kind == Kind::Success && self.speech.token(frame) == Some(&self.tokens[id]);
        self.tally.add(now - self.sent[id], right, progress);
        Ok(id)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::echo::{self, Faults};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn every_call_comes_back_right_and_faults_show() {
        for protocol in [
            Protocol::Bolt,
            Protocol::Dubbo,
            Protocol::Bytes,
            Protocol::Http,
            Protocol::Grpc,
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap();
            let server = tokio::spawn(echo::serve(listener, protocol, Faults::default()));
            let load = Load {
                protocol,
                size: 100,
                target,
                connections: 3,
                in_flight: 7,
                count: 1000,
                warm_up: 50,
                patience: Duration::from_secs(5),
            };
            let summary = run(&load, &Arc::default()).await.unwrap();
            assert_eq!((summary.calls, summary.errors), (1000, 0), "{protocol:?}");
            server.abort();

            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap();
            let faults = Faults {
                reset_after: 10,
                ..Faults::default()
            };
            tokio::spawn(echo::serve(listener, protocol, faults));
            let load = Load {
                target,
                warm_up: 0,
                ..load
            };
            assert!(run(&load, &Arc::default()).await.is_err());
        }
    }
}
