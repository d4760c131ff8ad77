//! What a packet to a VIP finds: the listener and its policy.

use crate::addr::Socket;

/// One VIP:port:transport of a service.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Listener {
    pub socket: Socket,
    /// Service id, from 1; also the row of the touched-slot map.
    pub service: u16,
    /// Choice of the service's own set ([`crate::table::Choice`]), from 1.
    pub choice: u16,
    /// What chooses the backend; see [`balance`].
    pub balance: u8,
    /// What happens to CRLF and NUL datagrams; see [`keepalive`].
    pub keepalive: u8,
    /// What happens to datagrams that are no SIP, no keepalive and no STUN; see [`malformed`].
    pub malformed: u8,
    /// What a confirmed dialog does when its backend is down; see [`failover`].
    pub failover: u8,
    /// Methods with a rule of their own: bit n for the method of number n.
    pub methods: u32,
    /// Which kinds of domain rules there are; bits of [`domains`].
    pub domains: u8,
    /// What stays with its backend; see [`affinity`].
    pub affinity: u8,
    /// What happens to requests while no backend is usable; see [`all_down`].
    pub all_down: u8,
    /// 1 if another listener shares an endpoint with this one: the slot tells neither whose reply it
    /// will be nor which VIP it must come from, so that each message looks its dialog up.
    pub shared: u8,
    pub pad: [u8; 28],
}
const _: () = assert!(size_of::<Listener>() == 64);

/// Values of [`Listener::all_down`].
pub mod all_down {
    /// The controller answers 503.
    pub const REJECT: u8 = 0;
    /// They are dropped.
    pub const DROP: u8 = 1;
}

/// Values of [`Listener::balance`].
pub mod balance {
    pub const CALL_ID: u8 = 0;
    /// The client's address, without its port.
    pub const SOURCE_IP: u8 = 1;
    /// The user of the Request-URI; of a REGISTER, the user of its To header.
    pub const REQUEST_USER: u8 = 2;
    pub const REQUEST_DOMAIN: u8 = 3;
    pub const FROM_USER: u8 = 4;
    pub const TO_USER: u8 = 5;
    pub const ROUND_ROBIN: u8 = 6;
    pub const LEAST_DIALOGS: u8 = 7;
}

/// Values of [`Listener::affinity`].
pub mod affinity {
    /// Dialogs are remembered.
    pub const DIALOG: u8 = 0;
    /// Each message is placed for itself.
    pub const NONE: u8 = 1;
}

/// Bits of [`Listener::domains`].
pub mod domains {
    /// There are rules for domains by their whole name.
    pub const EXACT: u8 = 1;
    /// There are rules for everything below a domain.
    pub const BELOW: u8 = 2;
}

/// Rules that choose another set than the service's own. They stand in an index like sockets do:
/// key → choice.
pub mod rule {
    use crate::addr::{Addr, Port, Socket};

    /// Requests of one method; the value is its number.
    pub const METHOD: u8 = 1;
    /// Requests whose Request-URI has this domain; the value is its [`crate::sip::DomainHash`].
    pub const DOMAIN: u8 = 2;
    /// Requests whose Request-URI has a domain below this one; the value is the hash of this one.
    pub const BELOW: u8 = 3;

    /// The key of a rule of `listener`.
    #[inline(always)]
    #[must_use]
    pub const fn key(listener: u16, kind: u8, value: u64) -> Socket {
        let v = value.to_ne_bytes();
        let addr = [v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], 0, 0, 0, 0, 0, 0, 0, 0];
        Socket::new(Addr::v6(addr), Port::new(listener), kind)
    }
}

/// Values of [`Listener::failover`].
pub mod failover {
    /// Its next request moves it to another backend.
    pub const REHASH: u8 = 0;
    /// It stays where it is.
    pub const KEEP: u8 = 1;
}

/// Values of [`Listener::keepalive`].
pub mod keepalive {
    /// To a backend by source address and port.
    pub const FORWARD: u8 = 0;
    /// Dropped, counted apart.
    pub const ABSORB: u8 = 1;
}

/// Values of [`Listener::malformed`].
pub mod malformed {
    /// To a backend by source address and port.
    pub const FORWARD: u8 = 0;
    pub const DROP: u8 = 1;
}

/// A NIC of this host that the program is attached to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Interface {
    /// 0 = free slot. Slots are found from `ifindex % INTERFACES` onwards.
    pub ifindex: u32,
    /// Number of valid `macs`.
    pub count: u32,
    /// The NIC's own MAC and those of virtual routers and VLAN devices on it. Frames to any other
    /// were flooded here by a switch and are left alone.
    pub macs: [crate::addr::Mac; 4],
}
const _: () = assert!(size_of::<Interface>() == 32);

/// Rows of the interface map.
pub const INTERFACES: u32 = 256;
/// Rows that a look-up tries.
pub const INTERFACE_PROBES: u32 = 4;

/// A name as the configuration has it, padded with NULs; at most 63 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name(pub [u8; 64]);
const _: () = assert!(size_of::<Name>() == 64);

impl Default for Name {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 63;

    /// Pads `name`; bytes beyond [`Name::MAX`] are cut (the configuration allows no such name).
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(name.bytes()).take(Self::MAX) {
            *to = from;
        }
        Self(bytes)
    }

    /// The name without its padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&b| b == 0).unwrap_or(self.0.len());
        self.0.split_at(end).0
    }
}

#[cfg(feature = "user")]
impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

#[cfg(feature = "user")]
impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
