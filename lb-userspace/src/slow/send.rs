//! Sending IP packets that were made here, whatever their source address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use etherparse::{LaxNetSlice, LaxSlicedPacket};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// IPPROTO_RAW: the packet brings its own header, whose source the kernel does not check.
const RAW: i32 = libc::IPPROTO_RAW;

/// Raw sockets of both families.
#[derive(Debug)]
pub struct Sender {
    v4: Socket,
    /// `None` on a host without IPv6.
    v6: Option<Socket>,
}

impl Sender {
    /// Opens the sockets.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let open = |domain| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            socket.set_nonblocking(true)?;
            if domain == Domain::IPV4 {
                // Connection tracking is not to wait for the fragments that the program has sent.
                leave_fragments(&socket)?;
            }
            io::Result::Ok(socket)
        };
        let v6 = match open(Domain::IPV6) {
            Ok(socket) => Some(socket),
            Err(cause) if cause.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(cause) => return Err(cause),
        };
        Ok(Self { v4: open(Domain::IPV4)?, v6 })
    }

    /// Sends an IP packet to its destination by the host's routing table.
    ///
    /// # Errors
    ///
    /// What the kernel says, such as no route; `InvalidInput` for what is no IP packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let to = destination(packet).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        // For IPv6 the port must be 0 (or the protocol).
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))).map(drop)
    }
}

/// Lets IPv4 fragments pass connection tracking (ip(7), `IP_NODEFRAG`). IPv6 has no such option.
#[expect(unsafe_code, reason = "no safe wrapper knows this option")]
fn leave_fragments(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, the value lives and is as long as is said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_NODEFRAG,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The destination address of an IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match LaxSlicedPacket::from_ip(packet).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => Some(ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => Some(ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => None,
    }
}
