//! A network between a client and a server that can be cut while both go on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often it looks at what it is told.
const LOOK: Duration = Duration::from_millis(20);

const WHOLE: u8 = 0;
const CUT: u8 = 1;
const SILENT: u8 = 2;
const GONE: u8 = 3;

/// A relay of bytes; dropping it ends it.
pub(crate) struct Cable {
    /// Where clients connect to.
    pub(crate) address: String,
    state: Arc<AtomicU8>,
    carried: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    /// One to this server.
    pub(crate) fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = Self {
            address: address.clone(),
            state: Arc::default(),
            carried: Arc::default(),
        };
        let (state, carried, server) = (own.state.clone(), own.carried.clone(), server.to_owned());
        thread::spawn(move || accept(listener, &address, &server, &state, &carried));
        own
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn cut(&self) {
        self.state.store(CUT, Ordering::SeqCst);
        for stream in self.carried.lock().unwrap().drain(..) {
            // The other end may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
        thread::sleep(2 * LOOK);
    }

    /// Connections stand, and nothing passes.
    pub(crate) fn silence(&self) {
        self.state.store(SILENT, Ordering::SeqCst);
    }

    /// All is well again.
    pub(crate) fn heal(&self) {
        self.state.store(WHOLE, Ordering::SeqCst);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.state.store(GONE, Ordering::SeqCst);
    }
}

fn accept(
    first: TcpListener,
    address: &str,
    server: &str,
    state: &Arc<AtomicU8>,
    carried: &Mutex<Vec<TcpStream>>,
) {
    let mut listener = Some(first);
    loop {
        match state.load(Ordering::SeqCst) {
            GONE => return,
            // Without a listener, the system refuses.
            CUT => listener = None,
            _ if listener.is_none() => listener = TcpListener::bind(address).ok(),
            _ => {}
        }
        if let Some(listener) = &listener {
            listener.set_nonblocking(true).unwrap();
            while let Ok((client, _)) = listener.accept() {
                client.set_nonblocking(false).unwrap();
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let mut carried = carried.lock().unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    carried.push(from.try_clone().unwrap());
                    let state = state.clone();
                    thread::spawn(move || carry(from, to, &state));
                }
            }
        }
        thread::sleep(LOOK);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &AtomicU8) {
    let mut bytes = [0; 16 * 1024];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => {
                while state.load(Ordering::SeqCst) == SILENT {
                    thread::sleep(LOOK);
                }
                if to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    for stream in [from, to] {
        // One end is enough to end both.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
