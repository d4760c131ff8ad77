//! Listens on a host's NIC: which SIP messages passed there, and when.
//!
//! What counts as arrived is counted here and not by the balancer: a tap on a backend sees exactly
//! what the network brought to it, even while the server there is frozen.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{frame::Frame, lab::Host, net::Mac};

/// A SIP message that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub at: Instant,
    /// Sent by the host, not to it.
    pub outgoing: bool,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// `INVITE sip:… SIP/2.0` or `SIP/2.0 200 OK`.
    pub start_line: String,
    pub call_id: String,
    /// Method of the CSeq.
    pub cseq_method: String,
}

impl Heard {
    /// Whether it is a request of that method.
    #[must_use]
    pub fn is_request(&self, method: &str) -> bool {
        self.start_line.split(' ').next() == Some(method)
    }

    /// Status of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.start_line.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
    }
}

/// A running tap.
#[derive(Debug)]
pub struct Tap {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on a NIC from now on.
    ///
    /// # Errors
    /// If the host has no such NIC, or packet sockets are not permitted.
    pub fn on(host: &Host, nic: &str) -> Result<Self> {
        let mac = host.mac(nic)?;
        let socket = host.enter(open)?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, until) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name(format!("tap {}", host.name()))
            .spawn(move || listen(&socket, mac, &into, &until))?;
        Ok(Self { heard, stop, thread: Some(thread) })
    }

    /// Everything heard so far, in order.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.heard).clone()
    }

    /// How many messages were heard so far.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.heard).len()
    }

    /// Looks at what was heard after the first `from` messages, without a copy.
    pub fn look<T>(&self, from: usize, eye: impl FnOnce(&[Heard]) -> T) -> T {
        let heard = lock(&self.heard);
        eye(heard.get(from..).unwrap_or_default())
    }

    /// What was heard since the last call, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Heard> {
        std::mem::take(&mut lock(&self.heard))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a tap has panicked: what it heard is incomplete");
        }
    }
}

fn lock(heard: &Mutex<Vec<Heard>>) -> MutexGuard<'_, Vec<Heard>> {
    // Pushing to a Vec leaves no half state behind.
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> Result<OwnedFd> {
    /// Room for a burst of some thousand messages.
    const BUFFER: usize = 16 << 20;
    /// How often the end is looked for, milliseconds.
    const TICK: i64 = 50;
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("no packet socket: CAP_NET_RAW is needed")?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TICK))?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, mac: Mac, heard: &Mutex<Vec<Heard>>, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                if let Some(message) = read(&buffer[..length], mac, Instant::now()) {
                    lock(heard).push(message);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(why) => {
                eprintln!("a tap ends: {}", io::Error::from(why));
                return;
            }
        }
    }
}

/// A frame of this NIC (not of loopback or another one) that holds SIP over UDP.
fn read(bytes: &[u8], mac: Mac, at: Instant) -> Option<Heard> {
    let frame = Frame::parse(bytes).ok()?;
    let outgoing = frame.source_mac() == mac;
    if !(outgoing || frame.destination_mac() == mac) || frame.protocol() != 17 {
        return None;
    }
    let text = String::from_utf8_lossy(frame.payload());
    let mut lines = text.split("\r\n");
    let start_line = lines.next().filter(|line| line.contains("SIP/2.0"))?.to_owned();
    let (mut call_id, mut cseq_method) = (String::new(), String::new());
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("Call-ID") || name.eq_ignore_ascii_case("i") {
            value.trim().clone_into(&mut call_id);
        } else if name.eq_ignore_ascii_case("CSeq") {
            value.split_whitespace().nth(1).unwrap_or_default().clone_into(&mut cseq_method);
        }
    }
    let (source, destination) = (frame.source(), frame.destination());
    Some(Heard { at, outgoing, source, destination, start_line, call_id, cseq_method })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::{Message, Method},
        net::{Family, client, client_mac, edge_mac, vip},
        packet::Packet,
    };

    #[test]
    fn a_message_is_heard_with_its_direction_and_names() {
        let (source, destination) = (client(Family::V4, 0), vip(Family::V4, 0));
        let response = Message::response(180, Method::Invite, "a@b").build();
        let bytes = Packet::udp(source, destination, response).build();
        let heard = read(&bytes, client_mac(0), Instant::now()).unwrap();
        assert!(heard.outgoing);
        assert_eq!((heard.status(), heard.is_request("INVITE")), (Some(180), false));
        assert_eq!((heard.call_id.as_str(), heard.cseq_method.as_str()), ("a@b", "INVITE"));
        assert_eq!((heard.source, heard.destination), (source, destination));
        assert!(!read(&bytes, edge_mac(0), Instant::now()).unwrap().outgoing);
        assert!(read(&bytes, edge_mac(1), Instant::now()).is_none());

        let invite = Packet::udp(source, destination, Message::invite("c").build()).build();
        let heard = read(&invite, edge_mac(0), Instant::now()).unwrap();
        assert_eq!((heard.status(), heard.is_request("INVITE")), (None, true));
    }
}
