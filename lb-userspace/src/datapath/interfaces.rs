//! The interfaces of this network namespace and the XDP programs on them, by rtnetlink.

use std::io;

use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::error::{Error, Result};

/// Where in the network stack a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the network stack, after the driver made a socket buffer.
    Generic,
    /// On the card.
    Offloaded,
}

impl Mode {
    /// The word that the configuration uses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub ifindex: u32,
    pub name: String,
    /// Ids of the XDP programs on it, with their modes; a driver and its card may have one each.
    pub programs: Vec<(Mode, u32)>,
}

/// All interfaces of this thread's network namespace.
///
/// # Errors
///
/// What the kernel says to the request.
pub fn list() -> Result<Vec<Nic>> {
    dump().map_err(|cause| Error::kernel("list the network interfaces", cause))
}

/// The interface called `name`.
///
/// # Errors
///
/// [`Error::NoInterface`] with the names that exist.
pub fn find(name: &str) -> Result<Nic> {
    let mut nics = list()?;
    match nics.iter().position(|nic| nic.name == name) {
        Some(index) => Ok(nics.swap_remove(index)),
        None => Err(Error::NoInterface {
            name: name.to_owned(),
            existing: nics.into_iter().map(|nic| nic.name).collect(),
        }),
    }
}

fn dump() -> io::Result<Vec<Nic>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut nics = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(io::Error::other)?;
            let len = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
            if let NetlinkPayload::Error(error) = &message.payload {
                return Err(error.to_io());
            }
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) =
                &message.payload
            {
                nics.push(nic(link));
            }
            if let NetlinkPayload::Done(_) = message.payload {
                return Ok(nics);
            }
        }
    }
}

fn nic(link: &LinkMessage) -> Nic {
    let name = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None }
    });
    let xdp = link.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Xdp(xdp) = attribute { Some(programs(xdp)) } else { None }
    });
    Nic {
        ifindex: link.header.index,
        name: name.unwrap_or_default(),
        programs: xdp.unwrap_or_default(),
    }
}

/// `IFLA_XDP_PROG_ID` is there for a single program, of the mode that `IFLA_XDP_ATTACHED` tells;
/// since 4.19 the kernel also gives each mode's id by an attribute of its own.
fn programs(xdp: &[LinkXdp]) -> Vec<(Mode, u32)> {
    let mut programs = Vec::new();
    let (mut single, mut id) = (None, None);
    for attribute in xdp {
        if let LinkXdp::DrvProgId(id) = *attribute {
            programs.push((Mode::Native, id));
        } else if let LinkXdp::SkbProgId(id) = *attribute {
            programs.push((Mode::Generic, id));
        } else if let LinkXdp::HwProgId(id) = *attribute {
            programs.push((Mode::Offloaded, id));
        } else if let LinkXdp::ProgId(program) = *attribute {
            id = Some(program);
        } else if let LinkXdp::Attached(attached) = attribute {
            single = match attached {
                XdpAttached::Driver => Some(Mode::Native),
                XdpAttached::SocketBuffer => Some(Mode::Generic),
                XdpAttached::Hardware => Some(Mode::Offloaded),
                XdpAttached::None | XdpAttached::Multiple | XdpAttached::Other(_) | _ => None,
            };
        }
    }
    if programs.is_empty() {
        programs.extend(single.zip(id));
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let lo = find("lo").unwrap();
        assert_eq!((lo.ifindex, lo.name.as_str()), (1, "lo"));
    }

    #[test]
    fn a_missing_interface_is_told_with_those_that_exist() {
        let error = find("nll-none").unwrap_err().to_string();
        assert!(error.contains("nll-none does not exist") && error.contains("lo"), "{error}");
    }

    #[test]
    fn each_program_is_known_with_its_mode() {
        let single = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7)];
        assert_eq!(programs(&single), [(Mode::Generic, 7)]);
        let both =
            [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(8), LinkXdp::HwProgId(9)];
        assert_eq!(programs(&both), [(Mode::Native, 8), (Mode::Offloaded, 9)]);
        assert_eq!(programs(&[LinkXdp::Attached(XdpAttached::None)]), []);
    }
}
