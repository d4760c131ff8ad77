//! Nobody home: requests for which no backend is usable are answered 503 (RFC 3261 §21.5.4).

mod request;
mod response;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use etherparse::{
    IpNumber, LaxIpPayloadSlice, LaxNetSlice, LaxSlicedPacket, PacketBuilder, TransportSlice,
};
use lb_common::hash::HashKey;

pub use self::{
    request::{Refusal, Request},
    response::{Answer, answer},
};
use super::{Action, Consumer, Fate, Handed, fragments::arrival};
use crate::config::Config;

/// Answers a second at most, over all CPUs; a tenth of a second's worth may be sent at once.
pub const RATE: u32 = 2_000;
/// Hop limit of answers.
const HOP_LIMIT: u8 = 64;

/// Retry-After by VIP; shared with whoever reads the configuration.
#[derive(Clone, Debug, Default)]
pub struct RetryAfter(Arc<RwLock<BTreeMap<SocketAddr, Duration>>>);

impl RetryAfter {
    /// As the configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let new = Self::default();
        new.set(config);
        new
    }

    /// Takes another configuration.
    pub fn set(&self, config: &Config) {
        let services = config.services.iter();
        let all = services.flat_map(|s| s.listen.iter().map(|&vip| (vip, s.retry_after))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn of(&self, vip: SocketAddr) -> Option<Duration> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&vip).copied()
    }
}

/// The consumer of [`super::Kind::NoBackend`].
#[derive(Debug)]
pub struct Answerer {
    retry_after: RetryAfter,
    key: HashKey,
    /// `None` = as many as there are requests.
    budget: Option<Budget>,
}

impl Answerer {
    /// `key` makes To tags that nobody can guess and that are the same for a retransmission.
    #[must_use]
    pub fn new(retry_after: RetryAfter, key: HashKey) -> Self {
        Self { retry_after, key, budget: Some(Budget::default()) }
    }

    /// Answers everything: for replay, where nobody is flooded.
    #[must_use]
    pub fn unlimited(self) -> Self {
        Self { budget: None, ..self }
    }

    fn answer(&mut self, packet: &Handed<'_>, now: Duration) -> Result<Vec<u8>, &'static str> {
        if packet.is_cut() {
            return Err("truncated");
        }
        let Datagram { source, vip, payload } = open(packet.frame).ok_or("no-datagram")?;
        if !is_answerable(source) {
            return Err("bad-source");
        }
        let retry_after = self.retry_after.of(vip).ok_or("unknown-vip")?;
        let request = Request::read(payload).map_err(Refusal::label)?;
        let answer = answer(&request, source, retry_after, self.key);
        if self.budget.as_mut().is_some_and(|budget| !budget.take(now)) {
            return Err("rate");
        }
        wrap(vip, answer.to, &answer.text).ok_or("too-big")
    }
}

impl Consumer for Answerer {
    fn take(&mut self, packet: &Handed<'_>, now: Duration, out: &mut Vec<Action>) -> Fate {
        match self.answer(packet, now) {
            Ok(packet) => {
                out.push(Action::Send(packet));
                Fate::Answered
            }
            Err(reason) => Fate::Dropped(reason),
        }
    }
}

/// Why a request is not answered, for the README.
pub const REASONS: [&str; 6] =
    ["truncated", "no-datagram", "bad-source", "unknown-vip", "rate", "too-big"];

struct Datagram<'a> {
    source: SocketAddr,
    vip: SocketAddr,
    payload: &'a [u8],
}

/// The UDP datagram in an Ethernet frame, or what its first fragment has of it.
fn open(frame: &[u8]) -> Option<Datagram<'_>> {
    let sliced = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let net = sliced.net?;
    let (source, destination): (IpAddr, IpAddr) = match &net {
        LaxNetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        LaxNetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        LaxNetSlice::Arp(_) => return None,
    };
    let (from, to, payload) = match sliced.transport {
        Some(TransportSlice::Udp(udp)) => {
            (udp.source_port(), udp.destination_port(), udp.payload())
        }
        Some(
            TransportSlice::Tcp(_)
            | TransportSlice::Icmpv4(_)
            | TransportSlice::Icmpv6(_)
            | TransportSlice::Igmp(_),
        ) => return None,
        None => first_fragment(frame, net.ip_payload_ref()?)?,
    };
    Some(Datagram {
        source: SocketAddr::new(source, from),
        vip: SocketAddr::new(destination, to),
        payload,
    })
}

/// Ports and payload in the first fragment of a datagram. An answer repeats headers alone, so a body
/// that is cut does not matter; headers that are cut, the reader refuses.
fn first_fragment<'a>(frame: &[u8], ip: &LaxIpPayloadSlice<'a>) -> Option<(u16, u16, &'a [u8])> {
    let is_first = ip.fragmented && arrival(frame)?.piece.start == 0;
    let (&[from, from_low, to, to_low, ..], payload) = ip.payload.split_first_chunk::<8>()?;
    let ports = (u16::from_be_bytes([from, from_low]), u16::from_be_bytes([to, to_low]));
    let is_udp = ip.ip_number == IpNumber::UDP;
    (is_first && is_udp).then_some((ports.0, ports.1, payload))
}

/// Nothing is sent to many, to nobody or to this host itself.
fn is_answerable(source: SocketAddr) -> bool {
    let to_one = match source.ip() {
        IpAddr::V4(v4) => {
            !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified() && v4.octets()[0] != 0
        }
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    };
    to_one && !source.ip().is_loopback() && source.port() != 0
}

/// An IP packet with a UDP datagram; `None` if it is too long for one.
fn wrap(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let builder = builder.udp(from.port(), to.port());
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).ok()?;
    Some(packet)
}

/// What may still be sent.
#[derive(Debug, Default)]
struct Budget {
    /// Billionths of an answer.
    credit: u64,
    last: Option<Duration>,
}

impl Budget {
    const FULL: u64 = RATE as u64 / 10 * 1_000_000_000;

    fn take(&mut self, now: Duration) -> bool {
        let earned = match self.last {
            Some(last) => {
                let nanos = u64::try_from(now.saturating_sub(last).as_nanos()).unwrap_or(u64::MAX);
                nanos.saturating_mul(RATE.into())
            }
            None => Self::FULL,
        };
        self.last = Some(now);
        self.credit = self.credit.saturating_add(earned).min(Self::FULL);
        match self.credit.checked_sub(1_000_000_000) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}
