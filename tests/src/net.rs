//! Who is who in the tests: addresses, ports and MACs that packets and namespaces agree on.
//!
//! Clients live in documentation ranges (RFC 5737, RFC 3849), backends in private ones
//! (RFC 1918, RFC 4193). Counters start at 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// SIP's port (RFC 3261 §19.1.2).
pub const SIP: u16 = 5060;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

/// Both, for tests that run over either.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A subnet of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subnet {
    /// Between the edge host and the clients (or their router).
    Clients,
    /// Between the edge host and the backends (or their router).
    Backends,
    /// Clients behind a router.
    FarClients,
    /// Backends behind a router.
    FarBackends,
}

impl Subnet {
    /// The host with this number, 1…254. The edge host is 1, routers are 2 towards it and 1 behind.
    #[must_use]
    pub const fn host(self, family: Family, number: u8) -> IpAddr {
        match (family, self) {
            (Family::V4, Self::Clients) => IpAddr::V4(Ipv4Addr::new(198, 51, 100, number)),
            (Family::V4, Self::Backends) => IpAddr::V4(Ipv4Addr::new(10, 0, 1, number)),
            (Family::V4, Self::FarClients) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            (Family::V4, Self::FarBackends) => IpAddr::V4(Ipv4Addr::new(10, 0, 2, number)),
            (Family::V6, Self::Clients) => v6([0x2001, 0xdb8, 1], number),
            (Family::V6, Self::Backends) => v6([0xfd00, 0, 1], number),
            (Family::V6, Self::FarClients) => v6([0x2001, 0xdb8, 2], number),
            (Family::V6, Self::FarBackends) => v6([0xfd00, 0, 2], number),
        }
    }

    /// Bits of the prefix: 24 or 64.
    #[must_use]
    pub const fn prefix(self, family: Family) -> u8 {
        match family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    /// `address/prefix` of a host, as `ip address add` takes it.
    #[must_use]
    pub fn interface(self, family: Family, number: u8) -> String {
        format!("{}/{}", self.host(family, number), self.prefix(family))
    }

    /// `network/prefix`, as `ip route add` takes it.
    #[must_use]
    pub fn network(self, family: Family) -> String {
        self.interface(family, 0)
    }
}

const fn v6(net: [u16; 3], host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(net[0], net[1], net[2], 0, 0, 0, 0, host as u16))
}

/// A service's virtual address: 203.0.113.(10 + n) or 2001:db8:f::(10 + n), port 5060.
#[must_use]
pub const fn vip(family: Family, n: u8) -> SocketAddr {
    let ip = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10 + n)),
        Family::V6 => v6([0x2001, 0xdb8, 0xf], 10 + n),
    };
    SocketAddr::new(ip, SIP)
}

/// A client on the edge host's link: host 10 + n, port 5060.
#[must_use]
pub const fn client(family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(Subnet::Clients.host(family, 10 + n), SIP)
}

/// A backend on the edge host's link: host 200 + n, port 5060.
#[must_use]
pub const fn backend(family: Family, n: u8) -> SocketAddr {
    SocketAddr::new(Subnet::Backends.host(family, 200 + n), SIP)
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The edge host's own MAC on the n-th NIC, in packets under test-run.
#[must_use]
pub const fn edge_mac(n: u8) -> Mac {
    [0x02, 0, 0, 0, 0xed, n]
}

/// MAC of the n-th client, or of the router in front of it.
#[must_use]
pub const fn client_mac(n: u8) -> Mac {
    [0x02, 0, 0, 0, 0xc1, n]
}

/// MAC of the n-th backend.
#[must_use]
pub const fn backend_mac(n: u8) -> Mac {
    [0x02, 0, 0, 0, 0xbe, n]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_documented() {
        assert_eq!(vip(Family::V4, 0).to_string(), "203.0.113.10:5060");
        assert_eq!(vip(Family::V6, 1).to_string(), "[2001:db8:f::b]:5060");
        assert_eq!(backend(Family::V4, 2).to_string(), "10.0.1.202:5060");
        assert_eq!(Subnet::FarBackends.network(Family::V6), "fd00:0:2::/64");
        assert_eq!(Subnet::Clients.interface(Family::V4, 1), "198.51.100.1/24");
    }
}
