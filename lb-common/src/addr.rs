//! Addresses and ports as they stand on the wire.

/// An IPv6 address, or an IPv4 address mapped into one (RFC 4291 §2.5.5.2), in network order.
///
/// One type for both families keeps maps and functions single.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Addr([u8; 16]);

/// A UDP or TCP port in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Port([u8; 2]);

/// A MAC address in transmission order.
pub type Mac = [u8; 6];

/// IANA protocol number of UDP.
pub const UDP: u8 = 17;
/// IANA protocol number of TCP.
pub const TCP: u8 = 6;

impl Addr {
    /// From an IPv4 address in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]])
    }

    /// From an IPv6 address in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v6(a: [u8; 16]) -> Self {
        Self(a)
    }

    /// All 16 bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        self.0
    }

    /// The last four bytes in network order: the IPv4 address of a mapped one.
    #[inline(always)]
    #[must_use]
    pub const fn v4_octets(&self) -> [u8; 4] {
        [self.0[12], self.0[13], self.0[14], self.0[15]]
    }

    /// True for a mapped IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let [high, low] = self.words();
        high == 0 && low as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff])
    }

    /// The address as two native words, for comparing and hashing.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let a = &self.0;
        [
            u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
            u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
        ]
    }

    /// False for multicast, the limited broadcast and the unspecified address. Directed
    /// broadcasts need the interface's prefix and are not known here.
    #[inline(always)]
    #[must_use]
    pub const fn is_unicast(&self) -> bool {
        if self.is_v4() {
            // 224.0.0.0/4 is multicast, 240.0.0.0/4 reserved up to 255.255.255.255.
            self.0[12] < 224 && self.0[12] != 0
        } else {
            let [high, low] = self.words();
            self.0[0] != 0xff && (high | low) != 0
        }
    }
}

impl Port {
    /// From host order.
    #[inline(always)]
    #[must_use]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be_bytes())
    }

    /// From the two bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(bytes)
    }

    /// The two bytes on the wire.
    #[inline(always)]
    #[must_use]
    pub const fn wire(&self) -> [u8; 2] {
        self.0
    }

    /// In host order.
    #[inline(always)]
    #[must_use]
    pub const fn get(&self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

/// An address, a port and a transport: what a listener and an endpoint are known by.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Socket {
    pub addr: Addr,
    pub port: Port,
    /// [`UDP`] or [`TCP`]; 0 where only the address counts.
    pub protocol: u8,
    pub pad: u8,
}
const _: () = assert!(size_of::<Socket>() == 20);

impl Socket {
    #[inline(always)]
    #[must_use]
    pub const fn new(addr: Addr, port: Port, protocol: u8) -> Self {
        Self { addr, port, protocol, pad: 0 }
    }

    /// The key of an address alone, as the set of this host's addresses holds it.
    #[inline(always)]
    #[must_use]
    pub const fn host(addr: Addr) -> Self {
        Self::new(addr, Port::new(0), 0)
    }

    /// Port, protocol and padding as one native word.
    #[inline(always)]
    #[must_use]
    pub const fn tail(&self) -> u32 {
        u32::from_ne_bytes([self.port.0[0], self.port.0[1], self.protocol, self.pad])
    }
}

#[cfg(feature = "user")]
mod user {
    use core::fmt;
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::{Addr, Port, Socket};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::v4(v4.octets()),
                IpAddr::V6(v6) => Self::v6(v6.octets()),
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            Ipv6Addr::from(addr.octets()).to_canonical()
        }
    }

    impl Socket {
        /// The UDP socket at `address`.
        #[must_use]
        pub fn udp(address: SocketAddr) -> Self {
            Self::new(address.ip().into(), Port::new(address.port()), super::UDP)
        }

        /// Address and port without the transport.
        #[must_use]
        pub fn address(&self) -> SocketAddr {
            SocketAddr::new(self.addr.into(), self.port.get())
        }
    }

    impl fmt::Debug for Addr {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&IpAddr::from(*self), f)
        }
    }

    impl fmt::Debug for Port {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&self.get(), f)
        }
    }

    impl fmt::Debug for Socket {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}/{}", self.address(), self.protocol)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_mapped_address_knows_its_family_and_comes_back() {
        for text in ["203.0.113.10", "0.0.0.1", "2001:db8::5", "::1", "ff02::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let addr = Addr::from(ip);
            assert_eq!(IpAddr::from(addr), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
        }
    }

    #[test]
    fn multicast_broadcast_and_unspecified_are_not_unicast() {
        for (text, unicast) in [
            ("10.0.0.1", true),
            ("223.255.255.255", true),
            ("224.0.1.75", false),
            ("255.255.255.255", false),
            ("0.0.0.0", false),
            ("2001:db8::1", true),
            ("ff02::1", false),
            ("::", false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).is_unicast(), unicast, "{text}");
        }
    }
}
