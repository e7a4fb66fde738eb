//! Endpoints of Bolt and Dubbo that do as a test says: answer, fail, wait, hang up, read slowly.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use finback_simulations::speech::{Kind, Speech, TOKEN};

use super::eventually;
use super::rpc::{dubbo_frame, hessian};

/// What becomes of a call.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    /// It is answered.
    Answer,
    /// It is answered after a while.
    AnswerAfter(Duration),
    /// It is answered with so many bytes.
    Large(usize),
    /// It is answered with this status.
    Status(u16),
    /// It is answered once the test lets go.
    Hold,
    /// Nothing is ever said.
    Silence,
    /// The connection ends.
    HangUp,
}

/// A running endpoint; dropping it ends its connections.
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

/// What becomes of the call of a frame.
type Script = Box<dyn Fn(&[u8]) -> Deed + Send + Sync>;

struct State {
    speech: Speech,
    script: Script,
    /// Bytes that are read per second.
    pace: Option<u64>,
    calls: AtomicU64,
    pings: AtomicU64,
    accepted: AtomicU64,
    stopped: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    held: Mutex<bool>,
    let_go: Condvar,
}

impl Endpoint {
    /// One that treats all calls alike.
    pub(crate) fn start(speech: Speech, deed: Deed) -> Self {
        Self::scripted(speech, move |_| deed.clone())
    }

    /// One that looks at a call's frame first.
    pub(crate) fn scripted(
        speech: Speech,
        script: impl Fn(&[u8]) -> Deed + Send + Sync + 'static,
    ) -> Self {
        Self::launch("127.0.0.1:0", speech, None, script)
    }

    /// One at this address.
    pub(crate) fn start_at(address: SocketAddr, speech: Speech, deed: Deed) -> Self {
        Self::launch(&address.to_string(), speech, None, move |_| deed.clone())
    }

    /// One that answers, and reads no more than so many bytes per second.
    pub(crate) fn slow(speech: Speech, pace: u64) -> Self {
        Self::launch("127.0.0.1:0", speech, Some(pace), |_| Deed::Answer)
    }

    fn launch(
        address: &str,
        speech: Speech,
        pace: Option<u64>,
        script: impl Fn(&[u8]) -> Deed + Send + Sync + 'static,
    ) -> Self {
        // A child that another test starts holds a copy of a closed listener until it is another program.
        let listener = eventually("a port given back", Duration::from_secs(5), || {
            TcpListener::bind(address).map_err(|error| error.to_string())
        });
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            speech,
            script: Box::new(script),
            pace,
            calls: AtomicU64::new(0),
            pings: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            open: Mutex::default(),
            held: Mutex::new(true),
            let_go: Condvar::new(),
        });
        let own = state.clone();
        let accepting = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.stopped.load(Relaxed) {
                    return;
                }
                own.accepted.fetch_add(1, Relaxed);
                stream.set_nodelay(true).unwrap();
                own.open.lock().unwrap().push(stream.try_clone().unwrap());
                let state = own.clone();
                thread::spawn(move || state.serve(stream));
            }
        });
        Self {
            address,
            state,
            accepting: Some(accepting),
        }
    }

    /// Calls that have come.
    pub(crate) fn calls(&self) -> u64 {
        self.state.calls.load(Relaxed)
    }

    /// Heartbeats that have come.
    pub(crate) fn pings(&self) -> u64 {
        self.state.pings.load(Relaxed)
    }

    /// Connections that were ever made to it.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Relaxed)
    }

    /// Answers what is held, and all that comes.
    pub(crate) fn let_go(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.let_go.notify_all();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.state.stopped.store(true, Relaxed);
        // The thread that accepts looks up, and its port is free again.
        let looked_up = TcpStream::connect(self.address);
        if let (Ok(_), Some(accepting)) = (looked_up, self.accepting.take()) {
            let _ = accepting.join();
        }
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.let_go();
    }
}

impl State {
    fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let writer = Arc::new(Mutex::new(stream.try_clone().unwrap()));
        let mut received = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            received.extend_from_slice(&buffer[..n]);
            if let Some(pace) = self.pace {
                thread::sleep(Duration::from_micros(n as u64 * 1_000_000 / pace));
            }
            let mut at = 0;
            while let Some((len, id, kind)) = self.speech.split(&received[at..]) {
                let frame = &received[at..at + len];
                match kind {
                    Kind::Ping => {
                        self.pings.fetch_add(1, Relaxed);
                        let mut pong = Vec::new();
                        self.speech.put_pong(frame, &mut pong);
                        let _ = writer.lock().unwrap().write_all(&pong);
                    }
                    Kind::Request => {
                        self.calls.fetch_add(1, Relaxed);
                        self.clone().treat(id, (self.script)(frame), &writer);
                    }
                    _ => {}
                }
                at += len;
            }
            received.drain(..at);
        }
    }

    fn treat(self: Arc<Self>, id: u64, deed: Deed, writer: &Arc<Mutex<TcpStream>>) {
        let say = |frame: Vec<u8>| {
            let _ = writer.lock().unwrap().write_all(&frame);
        };
        let writer = writer.clone();
        match deed {
            Deed::Answer => say(success(self.speech, id)),
            Deed::Large(length) => say(large(self.speech, id, length)),
            Deed::Status(status) => say(failure(self.speech, id, status)),
            Deed::Silence => {}
            Deed::HangUp => {
                let _ = writer.lock().unwrap().shutdown(Shutdown::Both);
            }
            Deed::AnswerAfter(delay) => {
                thread::spawn(move || {
                    thread::sleep(delay);
                    let frame = success(self.speech, id);
                    let _ = writer.lock().unwrap().write_all(&frame);
                });
            }
            Deed::Hold => {
                thread::spawn(move || {
                    let held = self.held.lock().unwrap();
                    drop(self.let_go.wait_while(held, |held| *held).unwrap());
                    let frame = success(self.speech, id);
                    let _ = writer.lock().unwrap().write_all(&frame);
                });
            }
        }
    }
}

fn success(speech: Speech, id: u64) -> Vec<u8> {
    let mut out = Vec::new();
    speech.response().put(id, &[b'x'; TOKEN], &mut out);
    out
}

fn large(speech: Speech, id: u64, length: usize) -> Vec<u8> {
    match speech {
        Speech::Dubbo => {
            let mut body = vec![b'x'; length];
            // A value without attachments follows.
            body[0] = 0x91;
            dubbo_frame(0x02, 20, id, &body)
        }
        _ => bolt_response(id, 0, length),
    }
}

fn failure(speech: Speech, id: u64, status: u16) -> Vec<u8> {
    match speech {
        Speech::Dubbo => {
            let mut body = Vec::new();
            hessian("so the endpoint says", &mut body);
            dubbo_frame(0x02, status as u8, id, &body)
        }
        _ => bolt_response(id, status, 0),
    }
}

fn bolt_response(id: u64, status: u16, length: usize) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 2, 1];
    out.extend((id as u32).to_be_bytes());
    out.push(1);
    out.extend(status.to_be_bytes());
    out.extend([0; 4]);
    out.extend((length as u32).to_be_bytes());
    out.resize(out.len() + length, b'x');
    out
}

/// An address where connections are never made: SYNs are dropped, as by a host that is gone.
pub(crate) struct BlackHole {
    /// Where it is.
    pub(crate) address: SocketAddr,
    listener: socket2::Socket,
    crowd: Vec<TcpStream>,
}

impl BlackHole {
    /// A socket whose backlog is full.
    pub(crate) fn open() -> Self {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(1).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let patience = Duration::from_millis(300);
        let connect = |_| TcpStream::connect_timeout(&address, patience).ok();
        let crowd: Vec<_> = (0..16).map_while(connect).collect();
        assert!(crowd.len() < 16, "its backlog is never full");
        Self {
            address,
            listener,
            crowd,
        }
    }

    /// Becomes an endpoint that answers.
    pub(crate) fn fill(self, speech: Speech) -> Endpoint {
        drop(self.crowd);
        drop(self.listener);
        Endpoint::start_at(self.address, speech, Deed::Answer)
    }
}
