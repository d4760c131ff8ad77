//! One endpoint under probe: its [`Schedule`] and its socket.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _};

use super::{
    ProbeEvent, ProbeResult,
    options::{self, Datagram, ProbeId},
    schedule::{Schedule, Settled},
    transport::{ProbeSocket, Received, Sources},
};

/// A chattering endpoint gives way to the others after this many datagrams.
const RECEIVE_BATCH: usize = 64;

/// Resolves to the endpoint whose socket has something to read; `None` = that socket is closed.
pub(super) type Readiness = BoxFuture<'static, Option<SocketAddr>>;

pub(super) struct Endpoint {
    address: SocketAddr,
    pub(super) schedule: Schedule,
    /// Opened for the first probe, and anew after an error.
    socket: Option<OpenSocket>,
    /// The last probe could not be sent; said once.
    mute: bool,
}

struct OpenSocket {
    socket: Arc<ProbeSocket>,
    readiness: AbortHandle,
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.readiness.abort();
    }
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, schedule: Schedule) -> Self {
        Self { address, schedule, socket: None, mute: false }
    }

    /// Sends a probe. Returns what to wait for if a socket was opened for it.
    pub(super) fn probe(
        &mut self,
        id: ProbeId,
        now: Instant,
        sources: Sources,
        events: &mut Vec<ProbeEvent>,
    ) -> Option<Readiness> {
        let opened = match &self.socket {
            Some(_) => Ok(None),
            None => self.open(sources).map(Some),
        };
        let (readiness, outcome) = match opened {
            Ok(readiness) => (readiness, self.send(id, now, events)),
            Err(error) => (None, Err(error)),
        };
        match outcome {
            Ok(()) => {
                self.mute = false;
                self.schedule.sent(id, now);
            }
            Err(error) => {
                if !self.mute {
                    tracing::warn!(endpoint = %self.address, %error, "probe not sent");
                }
                self.mute = true;
                // Its source address or its route may be gone: the next probe gets a new one.
                self.socket = None;
                let settled = self.schedule.send_failed(now);
                events.push(self.event(settled, now));
            }
        }
        readiness
    }

    fn open(&mut self, sources: Sources) -> io::Result<Readiness> {
        let socket = Arc::new(ProbeSocket::open(self.address, sources)?);
        let (handle, registration) = AbortHandle::new_pair();
        let readiness = watch(Arc::clone(&socket), self.address, registration);
        self.socket = Some(OpenSocket { socket, readiness: handle });
        Ok(readiness)
    }

    fn send(&mut self, id: ProbeId, now: Instant, events: &mut Vec<ProbeEvent>) -> io::Result<()> {
        let Some(open) = &self.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let method = &self.schedule.check().method;
        let Some(request) = options::build(method, id, open.socket.local(), self.address) else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no probe can be made with method {method}; set health.method to OPTIONS"),
            ));
        };
        if let Some(icmp) = open.socket.send(&request)? {
            self.refused(icmp, now, events);
        }
        Ok(())
    }

    /// Takes in what has arrived. Returns what to wait for next, unless the socket is closed.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        events: &mut Vec<ProbeEvent>,
    ) -> Option<Readiness> {
        self.drain(ProbeSocket::receive, now, buffer, events);
        let open = self.socket.as_mut()?;
        let (handle, registration) = AbortHandle::new_pair();
        open.readiness = handle;
        Some(watch(Arc::clone(&open.socket), self.address, registration))
    }

    /// Ends the probes whose timeout has run out.
    pub(super) fn time_out(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        events: &mut Vec<ProbeEvent>,
    ) {
        if self.schedule.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        // If this process was kept from running, the answer is waiting already: the endpoint is
        // blamed only if it is not.
        self.drain(ProbeSocket::receive_unseen, now, buffer, events);
        while let Some(settled) = self.schedule.expire(now) {
            events.push(self.event(settled, now));
        }
    }

    fn drain(
        &mut self,
        receive: fn(&ProbeSocket, &mut [u8]) -> io::Result<Received>,
        now: Instant,
        buffer: &mut [u8],
        events: &mut Vec<ProbeEvent>,
    ) {
        for _ in 0..RECEIVE_BATCH {
            let Some(open) = &self.socket else { return };
            match receive(&open.socket, buffer) {
                Ok(Received::Datagram(length)) => self.take(&buffer[..length], now, events),
                Ok(Received::Refused(icmp)) => self.refused(icmp, now, events),
                Ok(Received::Nothing) => return,
                Err(error) => {
                    tracing::warn!(endpoint = %self.address, %error, "probe socket failed");
                    self.socket = None;
                }
            }
        }
    }

    fn take(&mut self, datagram: &[u8], now: Instant, events: &mut Vec<ProbeEvent>) {
        let (branch, result) = match options::parse(datagram) {
            Datagram::Unrelated => return,
            Datagram::Malformed { branch: None } => return self.schedule.garbage(),
            Datagram::Malformed { branch: Some(branch) } => (branch, ProbeResult::Malformed),
            Datagram::Answer(answer) => {
                let id = self.schedule.find(answer.branch);
                let method = &self.schedule.check().method;
                let result = if id.is_some_and(|id| answer.belongs_to(id, method)) {
                    ProbeResult::Answered { status: answer.status, retry_after: answer.retry_after }
                } else {
                    ProbeResult::Malformed
                };
                (answer.branch, result)
            }
        };
        let Some(id) = self.schedule.find(branch) else {
            tracing::debug!(endpoint = %self.address, "answer to no probe under way, maybe late");
            return;
        };
        if let Some(settled) = self.schedule.answered(id, result, now) {
            events.push(self.event(settled, now));
        }
    }

    fn refused(&mut self, icmp: ProbeResult, now: Instant, events: &mut Vec<ProbeEvent>) {
        if let Some(settled) = self.schedule.refused(icmp, now) {
            events.push(self.event(settled, now));
        }
    }

    fn event(&self, settled: Settled, at: Instant) -> ProbeEvent {
        let Settled { result, duration, superseded } = settled;
        ProbeEvent { endpoint: self.address, at, result, duration, superseded }
    }
}

fn watch(
    socket: Arc<ProbeSocket>,
    address: SocketAddr,
    registration: futures_util::future::AbortRegistration,
) -> Readiness {
    let ready = async move { socket.ready().await.ok().map(|()| address) };
    // Aborted = the socket was closed.
    Abortable::new(ready, registration).map(|outcome| outcome.ok().flatten()).boxed()
}
