//! Where a packet goes: endpoints, the bindings that tie them to listeners, next hops.

use crate::addr::{Addr, Mac, Socket};

/// The way out of this host, as netlink told it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct NextHop {
    /// The physical interface: VLAN devices cannot take redirected frames.
    pub ifindex: u32,
    /// See [`next_hop`].
    pub state: u8,
    /// Number of VLAN tags to send, 0–2.
    pub vlans: u8,
    /// Largest IP packet in bytes; 0 = not known.
    pub mtu: u16,
    pub dst_mac: Mac,
    pub src_mac: Mac,
    /// TPID and TCI of each tag as on the wire, outermost first.
    pub tags: [[u8; 4]; 2],
    /// 1 if the destination itself is the neighbour (no gateway between).
    pub on_link: u8,
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<NextHop>() == 32);

/// Values of [`NextHop::state`].
pub mod next_hop {
    /// Not known: the program asks `bpf_fib_lookup`.
    pub const ASK_FIB: u8 = 0;
    /// All fields hold.
    pub const VALID: u8 = 1;
}

/// A way by which packets of an endpoint may arrive.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct IngressPath {
    pub ifindex: u32,
    /// VLAN ids, outermost first, 0 = untagged.
    pub vids: [u16; 2],
}
const _: () = assert!(size_of::<IngressPath>() == 8);

/// address:port:transport of a backend: one health, one next hop, whoever uses it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Endpoint {
    pub socket: Socket,
    /// Binding to its primary listener (first in file order of its family and transport): the VIP
    /// of packets that no dialog entry explains.
    pub primary: u16,
    /// See [`endpoint`].
    pub state: u8,
    /// See [`spoof`].
    pub spoof: u8,
    /// 1 if several listeners share this endpoint: the VIP of its replies needs an entry.
    pub shared: u8,
    /// Number of valid `ingress` paths.
    pub paths: u8,
    pub pad: [u8; 6],
    pub next_hop: NextHop,
    pub ingress: [IngressPath; 8],
}
const _: () = assert!(size_of::<Endpoint>() == 128);

/// Values of [`Endpoint::state`].
pub mod endpoint {
    /// Never written: the id is free.
    pub const UNSET: u8 = 0;
    pub const UP: u8 = 1;
    pub const DOWN: u8 = 2;
}

/// Values of [`Endpoint::spoof`].
pub mod spoof {
    /// Interface, VLAN and, on-link with a known neighbour, source MAC.
    pub const STRICT: u8 = 0;
    /// Interface and VLAN.
    pub const INTERFACE: u8 = 1;
    pub const OFF: u8 = 2;
}

/// (listener, endpoint): what dialogs hold and counters count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Binding {
    /// From 1; 0 = the id is free.
    pub endpoint: u16,
    pub listener: u16,
    pub service: u16,
    /// What the operator wants of this backend of this service; see [`admin`].
    pub admin: u8,
    /// 1 = no longer configured: no slots, but forwarded to and known as a source until no dialog
    /// holds it.
    pub retired: u8,
    /// Choice of the set that takes over its dialogs when it is down: the service's own if it is a
    /// member of that, else the one of the first rule that names it. 0 = the service's own.
    pub home: u16,
    pub pad: [u8; 6],
}
const _: () = assert!(size_of::<Binding>() == 16);

/// Values of [`Binding::admin`] (HAProxy's words) under [`WORD`](admin::WORD).
pub mod admin {
    pub const READY: u8 = 0;
    /// No new dialogs; live ones stay.
    pub const DRAIN: u8 = 1;
    /// No traffic.
    pub const MAINT: u8 = 2;
    /// The bits that hold one of the above: what is in force.
    pub const WORD: u8 = 0x0f;
    /// Where another of the above tells what the operator said by command, whatever the
    /// configuration says: a restarted controller goes on with that.
    pub const COMMAND_SHIFT: u32 = 4;
}

impl Binding {
    /// May it have new dialogs, as far as the operator is concerned?
    #[inline(always)]
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.admin & admin::WORD == admin::READY
    }

    /// Does the operator want it to have no traffic at all?
    #[inline(always)]
    #[must_use]
    pub const fn is_in_maintenance(&self) -> bool {
        self.admin & admin::WORD == admin::MAINT
    }
}

/// A route towards clients. The program tries them in order; the first whose prefix covers the
/// address decides.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Route {
    /// Network and mask as [`Addr::words`], IPv4 mapped.
    pub network: [u64; 2],
    pub mask: [u64; 2],
    pub next_hop: NextHop,
}
const _: () = assert!(size_of::<Route>() == 64);

/// Routes that the program tries before it asks `bpf_fib_lookup`.
pub const ROUTES: u32 = 16;

impl Route {
    #[inline(always)]
    #[must_use]
    pub const fn covers(&self, addr: &Addr) -> bool {
        let [high, low] = addr.words();
        high & self.mask[0] == self.network[0] && low & self.mask[1] == self.network[1]
    }

    /// The route of `prefix`/`bits`, bits counted in the 128-bit form (an IPv4 /24 has 120).
    #[must_use]
    pub fn new(prefix: Addr, bits: u32, next_hop: NextHop) -> Self {
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
        let mask = Addr::v6(mask.to_be_bytes()).words();
        let [high, low] = prefix.words();
        Self { network: [high & mask[0], low & mask[1]], mask, next_hop }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_route_covers_its_prefix_and_nothing_else() {
        let addr = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        for (prefix, bits, inside, outside) in [
            ("10.1.2.0", 120, "10.1.2.255", "10.1.3.0"),
            ("0.0.0.0", 96, "203.0.113.9", "2001:db8::1"),
            ("2001:db8::", 32, "2001:db8:ffff::1", "2001:db9::"),
            ("10.1.2.3", 128, "10.1.2.3", "10.1.2.2"),
        ] {
            let route = Route::new(addr(prefix), bits, NextHop::default());
            assert!(route.covers(&addr(inside)), "{prefix}/{bits}");
            assert!(!route.covers(&addr(outside)), "{prefix}/{bits}");
        }
        assert!(Route::new(addr("::"), 0, NextHop::default()).covers(&addr("10.0.0.1")));
    }
}
