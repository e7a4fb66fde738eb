//! A network of addresses, as in `10.0.0.0/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// An IP network. IPv4 addresses that arrive mapped into IPv6 (`::ffff:10.0.0.1`) count as the
/// IPv4 addresses they are, in the network and in what is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    /// The part before the slash is not an address.
    #[error("'{0}' is not an IP address; write for instance 10.0.0.0/8 or ::1")]
    Address(String),
    /// The part after the slash is not a number of bits that such an address has.
    #[error("'/{found}' is not a prefix length of that address; write a number from 0 to {most}")]
    Bits {
        /// What was there.
        found: String,
        /// How many bits the address has.
        most: u8,
    },
    /// The address has bits beyond the prefix.
    #[error("the address has bits beyond its prefix length; write {0}")]
    Beyond(Cidr),
}

impl Cidr {
    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask_v4(self.bits) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask_v6(self.bits) == 0
            }
            _ => false,
        }
    }

    /// Whether its addresses are of IPv6.
    pub(crate) fn is_v6(self) -> bool {
        self.network.is_ipv6()
    }

    /// Its prefix length.
    pub(crate) fn bits(self) -> u8 {
        self.bits
    }

    /// The network of an address and a prefix length that it has.
    pub(crate) fn around(address: IpAddr, bits: u8) -> Self {
        let network = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & mask_v4(bits)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & mask_v6(bits)).into(),
        };
        Self { network, bits }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `ADDRESS/BITS`, or `ADDRESS` for that one address.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address = address
            .parse::<IpAddr>()
            .map_err(|_| CidrError::Address(address.to_owned()))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(found) => prefix_length(found, most).ok_or_else(|| CidrError::Bits {
                found: found.to_owned(),
                most,
            })?,
        };
        let network = Self::around(address, bits);
        if network.network != address {
            return Err(CidrError::Beyond(network));
        }
        Ok(match (address.to_canonical(), bits.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(bits)) if address.is_ipv6() => Self {
                network: mapped,
                bits,
            },
            _ => network,
        })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

/// Reads digits, without the sign that `parse` would take.
fn prefix_length(text: &str, most: u8) -> Option<u8> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|bits| digits && *bits <= most)
}

fn mask_v4(bits: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(bits.min(32)))
        .unwrap_or(0)
}

fn mask_v6(bits: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(bits.min(128)))
        .unwrap_or(0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        network
            .parse::<Cidr>()
            .unwrap()
            .contains(address.parse().unwrap())
    }

    #[test]
    fn networks_contain_what_shares_their_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("127.0.0.1/32", "127.0.0.1", "127.0.0.2"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("0.0.0.0/1", "127.0.0.1", "128.0.0.0"),
            ("::1", "::1", "::2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::/0", "ffff::1", "1.2.3.4"),
        ] {
            assert!(contains(network, inside), "{inside} in {network}");
            assert!(!contains(network, outside), "{outside} in {network}");
        }
    }

    #[test]
    fn mapped_addresses_are_the_ones_they_map() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!contains("10.0.0.0/8", "::ffff:11.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "::ffff:10.1.2.3"));
        assert!(contains("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!contains("::/0", "::ffff:10.1.2.3"));
    }

    #[test]
    fn shows_as_it_is_written() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "fd00::/8",
            "127.0.0.1/32",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_to_write() {
        for text in [
            "",
            "/8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "localhost",
            "10.0.0.0 /8",
            "[::1]",
        ] {
            assert!(
                matches!(text.parse::<Cidr>(), Err(CidrError::Address(_))),
                "{text}"
            );
        }
        for text in [
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "::/256",
            "::/+8",
            "::/-1",
            "::/8/8",
        ] {
            assert!(
                matches!(text.parse::<Cidr>(), Err(CidrError::Bits { .. })),
                "{text}"
            );
        }
        let beyond = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
        assert!(beyond.to_string().ends_with("write 10.0.0.0/8"), "{beyond}");
    }
}
