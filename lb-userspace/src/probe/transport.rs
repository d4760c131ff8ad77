//! The sockets that probes leave by: one for each endpoint, connected, so that the kernel reports
//! ICMP errors on it and drops what others send to it.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::ProbeResult;

/// Largest UDP payload; nothing that arrives is cut.
pub(super) const MAX_DATAGRAM: usize = 65_535;

/// Addresses of this host that probes come from; `None` = the kernel chooses by route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// Descriptors that everything but the probes may need.
const OTHER_DESCRIPTORS: u64 = 256;

/// Raises this process's limit on open files, as far as it may, so that `sockets` fit.
pub(super) fn allow_sockets(sockets: usize) {
    let wanted = sockets as u64 + OTHER_DESCRIPTORS;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft >= wanted {
            return Ok(true);
        }
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
        Ok(wanted <= hard)
    });
    if raised != Ok(true) {
        tracing::warn!(
            wanted,
            "the limit on open files may not suffice to probe every endpoint; raise LimitNOFILE"
        );
    }
}

#[derive(Debug)]
pub(super) struct ProbeSocket {
    socket: UdpSocket,
    local: SocketAddr,
}

/// What was on a socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Its length.
    Datagram(usize),
    /// An ICMP error about something sent earlier.
    Refused(ProbeResult),
    Nothing,
}

impl ProbeSocket {
    /// # Errors
    ///
    /// Those of socket, bind and connect: no descriptors left, no such source address, no route.
    pub(super) fn open(endpoint: SocketAddr, sources: Sources) -> io::Result<Self> {
        let source: IpAddr = match endpoint {
            SocketAddr::V4(_) => sources.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            SocketAddr::V6(_) => sources.ipv6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        };
        let socket = std::net::UdpSocket::bind((source, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(endpoint)?;
        let local = socket.local_addr()?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, local })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Never waits: a full send buffer is an error like any other. An ICMP error that an earlier
    /// datagram has brought meanwhile comes back as `Some`; this datagram has left all the same.
    ///
    /// # Errors
    ///
    /// Those of send.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<Option<ProbeResult>> {
        // Not tokio's send, which trusts its own idea of readiness and refuses on a new socket.
        let socket = SockRef::from(&self.socket);
        match socket.send(datagram) {
            Ok(_) => Ok(None),
            // The kernel hands out a pending ICMP error instead of sending; an error of the sending
            // itself comes again.
            Err(first) => match icmp_error(&first) {
                Some(result) => socket.send(datagram).map(|_| Some(result)),
                None => Err(first),
            },
        }
    }

    /// Takes the next datagram or error, if the runtime has seen one.
    ///
    /// # Errors
    ///
    /// Those of recv that are no ICMP errors.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut read = || (&*SockRef::from(&self.socket)).read(buffer);
        // One interest at a time: tokio's try_io does nothing for a combined one.
        let outcome = match self.socket.try_io(Interest::READABLE, &mut read) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.socket.try_io(Interest::ERROR, &mut read)
            }
            outcome => outcome,
        };
        classify(outcome)
    }

    /// Takes the next datagram or error, though the runtime may not have seen it yet.
    ///
    /// # Errors
    ///
    /// Those of recv that are no ICMP errors.
    pub(super) fn receive_unseen(&self, buffer: &mut [u8]) -> io::Result<Received> {
        classify((&*SockRef::from(&self.socket)).read(buffer))
    }

    /// Waits until [`ProbeSocket::receive`] has something.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down.
    pub(super) async fn ready(&self) -> io::Result<()> {
        // An ICMP error alone does not make a socket readable.
        self.socket.ready(Interest::READABLE | Interest::ERROR).await.map(drop)
    }
}

fn classify(outcome: io::Result<usize>) -> io::Result<Received> {
    match outcome {
        Ok(length) => Ok(Received::Datagram(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Received::Nothing),
        Err(error) => icmp_error(&error).map(Received::Refused).ok_or(error),
    }
}

/// The errors that Linux derives from ICMP messages and reports on connected UDP sockets (udp(7));
/// transient ones (no route, fragmentation needed) it does not report there.
fn icmp_error(error: &io::Error) -> Option<ProbeResult> {
    let errno = Errno::from_raw(error.raw_os_error()?);
    if errno == Errno::ECONNREFUSED {
        return Some(ProbeResult::PortUnreachable);
    }
    // Filtered, protocol unreachable, host unknown; administratively prohibited (IPv6).
    let others = [Errno::EHOSTUNREACH, Errno::ENOPROTOOPT, Errno::EHOSTDOWN, Errno::EACCES];
    others.contains(&errno).then_some(ProbeResult::Unreachable)
}

#[cfg(test)]
mod tests;
