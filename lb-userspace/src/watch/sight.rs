//! A sample of the program → what a person is told about it. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use lb_common::{
    verdict::{Decision, Exit, Kind, Verdict},
    watch::Sample,
};
use serde::{Deserialize, Serialize};

use crate::replay::{line::Line, message, names::Names};

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    Client,
    Backend,
    /// The controller, in the name of the VIP.
    SipLb,
}

/// A frame, or its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    #[serde(with = "base64")]
    pub bytes: Vec<u8>,
    /// Length of the whole in bytes.
    pub len: u32,
}

/// A packet as it came in and as it left, and why it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// When it came in and when it was decided about, in nanoseconds since 1970.
    pub time: u64,
    pub decided: u64,
    pub from: From,
    /// The client's address, and its port unless this is a later fragment.
    pub client: Option<String>,
    /// As in `replay --json`, the next ten too.
    pub verdict: String,
    pub reason: String,
    pub service: Option<String>,
    pub method: Option<String>,
    pub status: Option<u16>,
    pub call_id: Option<String>,
    pub key: Option<String>,
    pub backend: Option<String>,
    pub address: Option<String>,
    pub out: String,
    /// Interface that it came in by; none for what was made here.
    pub ingress: Option<String>,
    /// Interface that the program sent it by; none if it did not, or left that to the kernel.
    pub egress: Option<String>,
    /// Left out if nobody asked for packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came: Option<Frame>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Frame>,
}

/// What the ids and numbers of a sample are called.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(crate) names: Names,
    /// Interfaces by index.
    pub(crate) interfaces: BTreeMap<u32, String>,
    /// What is added to CLOCK_MONOTONIC for the time since 1970, in nanoseconds.
    pub(crate) clock: u64,
}

impl View {
    fn interface(&self, index: u32) -> String {
        self.interfaces.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
    }
}

impl Sight {
    /// What a sample says; `None` if this version does not know its decision.
    #[must_use]
    pub fn of(sample: &Sample, view: &View) -> Option<Self> {
        let seen = &sample.seen;
        let exit = Exit::from_u8(seen.decision.exit)?;
        let line = Line::decided(0, &seen.decision, exit, &sample.came, &view.names)?;
        let from = sender(&seen.decision)?;
        let frame = |bytes: &[u8], len| Frame { bytes: bytes.to_vec(), len };
        let has_packets = seen.len > 0;
        let ends = ends(&sample.came);
        let egress = match exit {
            Exit::Tx => Some(seen.ingress),
            Exit::Redirect => Some(seen.egress),
            Exit::Pass | Exit::Drop => None,
        };
        Some(Self {
            time: seen.came.wrapping_add(view.clock),
            decided: seen.decided.wrapping_add(view.clock),
            client: ends.map(|[source, destination]| match from {
                From::Backend => destination,
                From::Client | From::SipLb => source,
            }),
            ingress: Some(view.interface(seen.ingress)),
            egress: egress.map(|index| view.interface(index)),
            came: has_packets.then(|| frame(&sample.came, seen.came_len)),
            left: (!sample.left.is_empty()).then(|| frame(&sample.left, seen.end_len)),
            ..Self::new(&line, from)
        })
    }

    /// An answer that the controller makes to a request which came as `request`, and that leaves as
    /// the IP packet `answer` at `time`.
    #[must_use]
    pub fn answered(
        decision: &Decision,
        request: &[u8],
        answer: &[u8],
        view: &View,
        time: u64,
    ) -> Option<Self> {
        let frame = turned_round(request, answer)?;
        let status = status(message::payload(&frame)?)?;
        let decision = Decision { status, verdict: Verdict::NoBackend as u8, ..*decision };
        let line = Line::decided(0, &decision, Exit::Pass, request, &view.names)?;
        let [_, client] = ends(&frame)?;
        let call_id = message::payload(request).and_then(read_call_id);
        Some(Self {
            time,
            decided: time,
            client: Some(client),
            verdict: Kind::Answer.label().to_owned(),
            call_id,
            left: Some(Frame { len: frame.len() as u32, bytes: frame }),
            ..Self::new(&line, From::SipLb)
        })
    }

    fn new(line: &Line<'_>, from: From) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            time: 0,
            decided: 0,
            from,
            client: None,
            verdict: line.verdict.to_owned(),
            reason: line.reason.to_owned(),
            service: owned(line.service),
            method: owned(line.method.as_deref()),
            status: line.status,
            call_id: owned(line.call_id.as_deref()),
            key: owned(line.key),
            backend: owned(line.backend),
            address: line.address.map(|address| address.to_string()),
            out: line.out.to_owned(),
            ingress: None,
            egress: None,
            came: None,
            left: None,
        }
    }

    /// The same without its packets.
    #[must_use]
    pub fn without_packets(&self) -> Self {
        Self { came: None, left: None, ..self.clone() }
    }
}

/// Who sent a packet that was decided about.
fn sender(decision: &Decision) -> Option<From> {
    let kind = Verdict::ALL.get(usize::from(decision.verdict))?.kind();
    // What is for a VIP has a listener, also if a backend sends it.
    let is_backends = decision.listener == 0 && decision.endpoint != 0;
    Some(if kind == Kind::Reply || is_backends { From::Backend } else { From::Client })
}

/// Source and destination of a frame, with ports if it has any.
fn ends(frame: &[u8]) -> Option<[String; 2]> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let ports = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => Some([udp.source_port(), udp.destination_port()]),
        Some(
            TransportSlice::Tcp(_)
            | TransportSlice::Icmpv4(_)
            | TransportSlice::Icmpv6(_)
            | TransportSlice::Igmp(_),
        ) => None,
        None => first_ports(&packet),
    };
    let addresses: [IpAddr; 2] = match packet.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            [header.source_addr().into(), header.destination_addr().into()]
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            [header.source_addr().into(), header.destination_addr().into()]
        }
        LaxNetSlice::Arp(_) => return None,
    };
    Some(match ports {
        Some([source, destination]) => {
            let [a, b] = addresses;
            [
                std::net::SocketAddr::new(a, source).to_string(),
                std::net::SocketAddr::new(b, destination).to_string(),
            ]
        }
        None => addresses.map(|address| address.to_string()),
    })
}

/// Ports of a first fragment.
fn first_ports(packet: &LaxSlicedPacket<'_>) -> Option<[u16; 2]> {
    let start = match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => ip.header().fragments_offset().value(),
        LaxNetSlice::Ipv6(_) => 0,
        LaxNetSlice::Arp(_) => return None,
    };
    let payload = packet.net.as_ref()?.ip_payload_ref()?;
    let [a, b, c, d, ..] = *payload.payload else { return None };
    let is_first = start == 0 && payload.fragmented && !is_later_v6(packet);
    is_first.then(|| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// True for an IPv6 fragment that is not the first.
fn is_later_v6(packet: &LaxSlicedPacket<'_>) -> bool {
    let Some(LaxNetSlice::Ipv6(ip)) = &packet.net else { return false };
    ip.extensions().clone().into_iter().any(|extension| match extension {
        etherparse::Ipv6ExtensionSlice::Fragment(header) => header.fragment_offset().value() != 0,
        etherparse::Ipv6ExtensionSlice::HopByHop(_)
        | etherparse::Ipv6ExtensionSlice::Routing(_)
        | etherparse::Ipv6ExtensionSlice::DestinationOptions(_)
        | etherparse::Ipv6ExtensionSlice::Authentication(_) => false,
    })
}

/// An IP packet in the Ethernet header of the frame that it answers, turned round.
fn turned_round(frame: &[u8], packet: &[u8]) -> Option<Vec<u8>> {
    let (destination, rest) = frame.split_at_checked(6)?;
    let (source, rest) = rest.split_at_checked(6)?;
    let mut header = 2;
    while let [0x81, 0x00] | [0x88, 0xa8] = *rest.get(header - 2..header)? {
        header += 4;
    }
    Some([source, destination, rest.get(..header)?, packet].concat())
}

/// The status of a response.
fn status(payload: &[u8]) -> Option<u16> {
    let (message, _) = lb_common::sip::start_line(&lb_common::sip::Payload::new(payload))?;
    match message {
        lb_common::sip::Message::Response(status) => Some(status),
        lb_common::sip::Message::Request(_)
        | lb_common::sip::Message::Stun
        | lb_common::sip::Message::Keepalive => None,
    }
}

fn read_call_id(payload: &[u8]) -> Option<String> {
    let window = lb_common::sip::Payload::new(payload);
    let (_, line) = lb_common::sip::start_line(&window)?;
    let value = lb_common::sip::find_call_id(&window, line).filter(|&value| value != 0)?;
    let id = lb_common::sip::call_id(&window, value, lb_common::hash::HashKey::default())??;
    let bytes = payload.get(id.offset as usize..)?.get(..id.length as usize)?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Bytes in JSON (RFC 4648 §4).
mod base64 {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_ref()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use etherparse::PacketBuilder;
    use lb_common::watch::Seen;

    use super::*;

    /// A forwarded INVITE.
    pub(crate) fn sight() -> Sight {
        let frame = |bytes: &[u8]| Some(Frame { bytes: bytes.to_vec(), len: bytes.len() as u32 });
        Sight {
            time: 1_700_000_000_123_456_789,
            decided: 1_700_000_000_123_457_000,
            from: From::Client,
            client: Some("198.51.100.10:5060".to_owned()),
            verdict: "forward".to_owned(),
            reason: "new-dialog".to_owned(),
            service: Some("trunk".to_owned()),
            method: Some("INVITE".to_owned()),
            status: None,
            call_id: Some("a84b4c76e66710@pc33".to_owned()),
            key: Some("call-id".to_owned()),
            backend: Some("gw1".to_owned()),
            address: Some("10.0.1.201:5060".to_owned()),
            out: "redirect".to_owned(),
            ingress: Some("eth0".to_owned()),
            egress: Some("eth1".to_owned()),
            came: frame(b"as it came in"),
            left: frame(b"as it left\0\xff"),
        }
    }

    fn frame(payload: &[u8], tagged: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ends = ([198, 51, 100, 10], [203, 0, 113, 10], 64);
        let ip = match tagged {
            true => ethernet.single_vlan(7.try_into().unwrap()).ipv4(ends.0, ends.1, ends.2),
            false => ethernet.ipv4(ends.0, ends.1, ends.2),
        };
        ip.udp(5070, 5060).write(&mut out, payload).unwrap();
        out
    }

    fn sample(verdict: Verdict, exit: Exit, came: &[u8], left: &[u8]) -> Sample {
        let decision = Decision {
            verdict: verdict as u8,
            exit: exit as u8,
            endpoint: 4,
            ..Decision::default()
        };
        let seen = Seen {
            came: 1000,
            decided: 2000,
            decision,
            ingress: 2,
            egress: 3,
            came_len: came.len() as u32,
            end_len: left.len() as u32,
            len: left.len() as u32,
            ..Seen::default()
        };
        Sample { seen, came: came.to_vec(), left: left.to_vec() }
    }

    fn view() -> View {
        let interfaces = [(2, "eth0".to_owned()), (3, "eth1".to_owned())].into();
        View { interfaces, clock: 1_000_000, ..View::default() }
    }

    #[test]
    fn a_sight_survives_its_way_as_json() {
        for sight in [sight(), sight().without_packets()] {
            let text = serde_json::to_string(&sight).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Sight>(&text).unwrap(), sight);
        }
        assert!(!serde_json::to_string(&sight().without_packets()).unwrap().contains("left"));
    }

    #[test]
    fn the_client_is_whoever_is_not_the_backend() {
        let bytes = frame(b"OPTIONS sip:a SIP/2.0\r\n\r\n", false);
        let of =
            |verdict, exit| Sight::of(&sample(verdict, exit, &bytes, &bytes), &view()).unwrap();
        let mut dialog = sample(Verdict::Dialog, Exit::Redirect, &bytes, &bytes);
        dialog.seen.decision.listener = 1;
        let forwarded = Sight::of(&dialog, &view()).unwrap();
        let ends = |sight: &Sight| (sight.from, sight.client.clone().unwrap());
        assert_eq!(ends(&forwarded), (From::Client, "198.51.100.10:5070".to_owned()));
        let reply = of(Verdict::Response, Exit::Tx);
        assert_eq!(ends(&reply), (From::Backend, "203.0.113.10:5060".to_owned()));
        let spoofed = of(Verdict::SpoofedBackend, Exit::Drop);
        assert_eq!(ends(&spoofed).0, From::Backend);

        let ways = |sight: &Sight| [sight.ingress.clone(), sight.egress.clone()];
        let eth = |n: u8| Some(format!("eth{n}"));
        assert_eq!(ways(&forwarded), [eth(0), eth(1)]);
        assert_eq!(ways(&reply), [eth(0), eth(0)], "out by the way it came");
        assert_eq!(ways(&spoofed), [eth(0), None]);
        assert_eq!((forwarded.time, forwarded.decided), (1_001_000, 1_002_000));
    }

    #[test]
    fn decisions_and_interfaces_of_another_time_are_no_panic() {
        let mut sample = sample(Verdict::Dialog, Exit::Tx, &[0; 20], &[]);
        sample.seen.ingress = 99;
        let sight = Sight::of(&sample, &View::default()).unwrap();
        assert_eq!((sight.ingress.as_deref(), sight.client), (Some("#99"), None));
        sample.seen.decision.verdict = 200;
        assert_eq!(Sight::of(&sample, &View::default()), None);
        sample.seen.decision = Decision { exit: 9, ..Decision::default() };
        assert_eq!(Sight::of(&sample, &View::default()), None);
    }

    #[test]
    fn later_fragments_have_addresses_without_ports() {
        let mut bytes = frame(&[b'x'; 64], false);
        // More fragments, the first: it has ports.
        bytes[20] = 0x20;
        let ports = |bytes: &[u8]| ends(bytes).unwrap();
        assert_eq!(ports(&bytes), ["198.51.100.10:5070", "203.0.113.10:5060"]);
        bytes[21] = 8;
        assert_eq!(ports(&bytes), ["198.51.100.10", "203.0.113.10"]);
    }

    #[test]
    fn an_answer_of_the_controller_bears_the_requests_ethernet_header_turned_round() {
        for tagged in [false, true] {
            let request =
                frame(b"INVITE sip:a SIP/2.0\r\nCall-ID: abc\r\nCSeq: 1 INVITE\r\n\r\n", tagged);
            let answer = frame(b"SIP/2.0 503 Service Unavailable\r\nCall-ID: abc\r\n\r\n", false);
            let decision = Decision { listener: 1, key: 1, ..Decision::default() };
            let sight = Sight::answered(&decision, &request, &answer[14..], &view(), 5).unwrap();
            assert_eq!((sight.from, sight.status, sight.method), (From::SipLb, Some(503), None));
            assert_eq!((sight.verdict.as_str(), sight.reason.as_str()), ("answer", "no-backend"));
            assert_eq!(sight.call_id.as_deref(), Some("abc"));
            let left = sight.left.unwrap().bytes;
            assert_eq!(left[..12], [&request[6..12], &request[..6]].concat());
            let ip = if tagged { 18 } else { 14 };
            assert_eq!(left[12..ip], request[12..ip]);
            assert_eq!(left[ip..], answer[14..]);
        }
    }
}
