//! Identity of the process that listens on a port of this machine.
//!
//! Its listening socket stands for it: the kernel tells the sockets of our network namespace to
//! everybody, of whatever user or container, and a successor on the same port has another one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The state of a socket that listens, in the kernel's tables (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The sockets that listen on an address, since the machine started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listening {
    /// Numbers of sockets begin anew with each start of the machine.
    boot: String,
    sockets: BTreeSet<u64>,
}

impl Listening {
    /// Who listens on an address now; `None` if nobody does that the kernel tells us of.
    pub(super) fn on(address: SocketAddr) -> Option<Self> {
        let mut sockets = BTreeSet::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            // Without such a table there are no such sockets.
            if let Ok(table) = File::open(table) {
                sockets.extend(read(BufReader::new(table), address).unwrap_or_default());
            }
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        (!sockets.is_empty()).then(|| Self {
            boot: boot.trim().to_owned(),
            sockets,
        })
    }

    /// Whether both are of one process: it may have closed some of its sockets, or opened more.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.boot == other.boot && !self.sockets.is_disjoint(&other.sockets)
    }
}

/// The inodes of the sockets that listen on an address. They come first in a table, which may be
/// long.
fn read(table: impl BufRead, address: SocketAddr) -> io::Result<Vec<u64>> {
    let mut inodes = Vec::new();
    for line in table.lines().skip(1) {
        let line = line?;
        let mut fields = line.split_whitespace().skip(1);
        let (local, state, inode) = (fields.next(), fields.nth(1), fields.nth(5));
        if state != Some(LISTEN) {
            break;
        }
        let listens = local
            .and_then(socket_address)
            .is_some_and(|local| hears(local, address));
        if let Some(Ok(inode)) = inode.map(str::parse)
            && listens
        {
            inodes.push(inode);
        }
    }
    Ok(inodes)
}

/// Whether a socket bound to `local` takes connections to `address`.
fn hears(local: SocketAddr, address: SocketAddr) -> bool {
    let ip = local.ip().to_canonical();
    local.port() == address.port() && (ip.is_unspecified() || ip == address.ip().to_canonical())
}

/// An address as the kernel writes it: words in the machine's own order, in hexadecimal.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|n| u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip: IpAddr = match *words {
        [word] => Ipv4Addr::from(word).into(),
        [_, _, _, _] => {
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_successor_on_the_same_port_is_somebody_else() {
        for any in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let first = TcpListener::bind(any).unwrap();
            let port = first.local_addr().unwrap().port();
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let one = Listening::on(address).unwrap();
            assert!(one.is(&Listening::on(address).unwrap()), "{any}");
            drop(first);
            assert_eq!(Listening::on(address), None, "{any}");
            let _second = TcpListener::bind(any.replace(":0", &format!(":{port}"))).unwrap();
            let two = Listening::on(address).unwrap();
            assert!(!one.is(&two), "{any}: {one:?} {two:?}");
        }
    }

    #[test]
    fn tables_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st\n\
            0: 0100007F:2FA9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1065 1 0\n\
            1: 00000000:2FA9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1066 1 0\n\
            2: 0200007F:2FA9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1067 1 0\n\
            3: 0100007F:2FAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1068 1 0\n\
            4: 0100007F:2FA9 0100007F:B8A0 01 00000000:00000000 03:0000125A 00000000     0        0 1069 3 0\n\
            5: 0100007F:2FA9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1070 1 0\n";
        let address = "127.0.0.1:12201".parse().unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(read(table.as_bytes(), address).unwrap(), [1065, 1066]);
        }
        let mapped = "0000000000000000FFFF00000100007F:2FA9";
        if cfg!(target_endian = "little") {
            assert!(hears(socket_address(mapped).unwrap(), address));
        }
        for bad in [
            "",
            "zz",
            "0100007F",
            "0100007F:",
            "01:1",
            "0100007F:zz",
            "€€€:1",
        ] {
            assert_eq!(socket_address(bad), None, "{bad}");
        }
    }
}
