//! A socket that takes StatsD's packets and never waits for long.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

/// So many packets go at once; servers have little room, and a pause follows each that comes after.
const BURST: usize = 8;
const PAUSE: Duration = Duration::from_millis(1);
/// How often a socket that has no room is tried again within a packet, a pause in between.
const TRIES: usize = 50;

/// A connected socket. What sends must be a thread that may wait a moment.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    /// Packets since the last pause that was long enough for a burst.
    burst: usize,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// Why a packet was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// The packet before it was not taken either, as its host says only now.
    pub(super) former_too: bool,
}

impl Link {
    /// To an address, over UDP.
    ///
    /// # Errors
    /// If there is no socket, or no way there.
    pub fn udp(address: SocketAddr) -> io::Result<Self> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Ok(Self::new(Socket::Udp(socket)))
    }

    /// To a socket in the file system.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self::new(Socket::Unix(socket)))
    }

    fn new(socket: Socket) -> Self {
        Self { socket, burst: 0 }
    }

    /// Begins a round: there was a pause.
    pub(super) fn rested(&mut self) {
        self.burst = 0;
    }

    /// Sends one packet.
    pub(super) fn send(&mut self, packet: &[u8]) -> Result<(), Failure> {
        if self.burst >= BURST {
            std::thread::sleep(PAUSE);
        }
        self.burst += 1;
        let mut sent = self.try_send(packet);
        for _ in 0..TRIES {
            match &sent {
                // Its reader is slow, and may take it in a moment.
                Err(own) if own.error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(PAUSE);
                    sent = self.try_send(packet);
                }
                _ => break,
            }
        }
        sent
    }

    fn try_send(&self, packet: &[u8]) -> Result<(), Failure> {
        let failed = |former_too| {
            move |error: io::Error| Failure {
                former_too: former_too && error.kind() == io::ErrorKind::ConnectionRefused,
                error,
            }
        };
        match &self.socket {
            Socket::Udp(socket) => {
                // The answer to a packet that was sent stands in the way of the next.
                socket.send(packet).map_err(failed(true))?;
                // Where the host refuses it at once, this very packet is the one.
                match socket.take_error().map_err(failed(false))? {
                    Some(error) => Err(failed(false)(error)),
                    None => Ok(()),
                }
            }
            Socket::Unix(socket) => socket.send(packet).map(|_| ()).map_err(failed(false)),
        }
    }
}
