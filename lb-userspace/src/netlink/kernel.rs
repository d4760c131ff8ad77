//! The two netlink sockets: one hears of changes, one asks.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's enumerations are open; what is not awaited is of no interest"
)]

use std::{
    io,
    net::IpAddr,
    pin::pin,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage},
        route::RouteMessage,
        rule::RuleMessage,
    },
    sys::AsyncSocket,
};
use tokio::task::JoinSet;

/// The kernel answers a dump at once; this bounds how long a lost answer can hang the mirror.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// `action` names the request, such as "list routes".
    #[error("the kernel refused to {action}")]
    Refused {
        action: &'static str,
        #[source]
        cause: io::Error,
    },
    #[error("the netlink connection broke while trying to {action}")]
    Broken { action: &'static str },
    #[error("no answer from the kernel to {action} within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout { action: &'static str },
    #[error("the task that follows the network has ended")]
    Ended,
}

/// Asks the kernel; its tasks end when it is dropped.
pub(super) struct Kernel {
    handle: Handle,
    _connections: JoinSet<()>,
}

/// What the multicast groups report.
pub(super) enum Event {
    Message(RouteNetlinkMessage),
    /// The kernel dropped messages because this process read too slowly.
    Overrun,
}

/// All of one kind, and whether it changed while it was being listed.
pub(super) struct Dump {
    pub(super) messages: Vec<RouteNetlinkMessage>,
    pub(super) interrupted: bool,
    pub(super) took: Duration,
}

impl Kernel {
    /// Opens both sockets in the network namespace of the calling thread. Events are queued from
    /// now on, so that a dump made afterwards misses none.
    pub(super) fn open(
        receive_buffer: u32,
    ) -> Result<(Self, impl Stream<Item = Event> + Unpin + use<>), NetlinkError> {
        let mut connections = JoinSet::new();
        let (mut connection, _, events) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
        let size = i32::try_from(receive_buffer).unwrap_or(i32::MAX);
        let socket = connection.socket_mut().socket_mut();
        socket.set_rx_buf_sz(size).map_err(NetlinkError::Open)?;
        connections.spawn(connection);

        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        connections.spawn(connection);

        let events = events.filter_map(|(message, _)| {
            std::future::ready(match message.payload {
                NetlinkPayload::InnerMessage(message) => Some(Event::Message(message)),
                NetlinkPayload::Overrun(_) => Some(Event::Overrun),
                _ => None,
            })
        });
        Ok((Self { handle, _connections: connections }, events))
    }

    pub(super) async fn links(&self) -> Result<Dump, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump(RouteNetlinkMessage::GetLink(message), "list links").await
    }

    pub(super) async fn addresses(&self) -> Result<Dump, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(message, "list addresses").await
    }

    pub(super) async fn neighbours(&self) -> Result<Dump, NetlinkError> {
        let message = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(message, "list neighbours").await
    }

    /// The routes of one family, of all tables.
    pub(super) async fn routes(&self, family: AddressFamily) -> Result<Dump, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        self.dump(RouteNetlinkMessage::GetRoute(message), "list routes").await
    }

    pub(super) async fn rules(&self, family: AddressFamily) -> Result<Dump, NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family;
        self.dump(RouteNetlinkMessage::GetRule(message), "list routing rules").await
    }

    /// Makes the kernel find out, or confirm, a neighbour's MAC as if it had a packet for it
    /// (`ip neighbour add ADDRESS dev DEVICE use`). The answer comes as a neighbour event. For IPv6
    /// the kernel asks from the device's link-local address and does nothing where there is none.
    pub(super) async fn use_neighbour(
        &self,
        address: IpAddr,
        device: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = device;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.ask(message, flags, "resolve a neighbour").await.map(drop)
    }

    async fn dump(
        &self,
        message: RouteNetlinkMessage,
        action: &'static str,
    ) -> Result<Dump, NetlinkError> {
        self.ask(message, NLM_F_REQUEST | NLM_F_DUMP, action).await
    }

    async fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: &'static str,
    ) -> Result<Dump, NetlinkError> {
        let collect = self.collect(message, flags, action);
        match tokio::time::timeout(ANSWER_TIMEOUT, collect).await {
            Ok(result) => result,
            Err(_elapsed) => Err(NetlinkError::Timeout { action }),
        }
    }

    async fn collect(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: &'static str,
    ) -> Result<Dump, NetlinkError> {
        let started = Instant::now();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let broken = |_| NetlinkError::Broken { action };
        let mut answers = pin!(self.handle.clone().request(request).map_err(broken)?);
        let mut messages = Vec::new();
        let mut interrupted = false;
        while let Some(answer) = answers.next().await {
            interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetlinkError::Refused { action, cause: error.to_io() });
                }
                _ => {}
            }
        }
        Ok(Dump { messages, interrupted, took: started.elapsed() })
    }
}
