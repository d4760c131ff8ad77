//! Probing all endpoints: one task, which sleeps until a probe or a timeout of any of them is due.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle},
};

use super::{
    ProbeEvent,
    endpoint::{Endpoint, Readiness},
    options::ProbeId,
    schedule::Schedule,
    transport::{self, MAX_DATAGRAM, Sources},
};
use crate::config::model::HealthByEndpoint;

/// The running prober. Dropping it stops the probes.
#[derive(Debug)]
pub struct Prober {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProberError {
    #[error("the prober has ended, for nobody takes its events any more; restart sip-lb")]
    Gone,
    #[error("the prober has failed: {0}")]
    Failed(#[from] JoinError),
}

#[derive(Debug)]
enum Command {
    SetEndpoints(HealthByEndpoint),
    ProbeNow(SocketAddr),
}

impl Prober {
    /// Starts the task, with no endpoints, on the current tokio runtime. When the receiver of
    /// `events` is slow, probes wait for it; when it is gone, the task ends.
    #[must_use]
    pub fn start(sources: Sources, events: mpsc::Sender<ProbeEvent>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(Worker::new(sources).run(receiver, events));
        Self { commands, task }
    }

    /// Probes these endpoints from now on, and no others. Those that were probed before go on in
    /// their rhythm, also under changed settings; `None` = no probes (`health: off`).
    ///
    /// # Errors
    ///
    /// [`ProberError::Gone`].
    pub fn set_endpoints(&self, endpoints: HealthByEndpoint) -> Result<(), ProberError> {
        self.command(Command::SetEndpoints(endpoints))
    }

    /// Probes the endpoint as soon as `fast_interval` has passed since its previous probe. An
    /// unknown endpoint is ignored: a reload may have removed it meanwhile.
    ///
    /// # Errors
    ///
    /// [`ProberError::Gone`].
    pub fn probe_now(&self, endpoint: SocketAddr) -> Result<(), ProberError> {
        self.command(Command::ProbeNow(endpoint))
    }

    fn command(&self, command: Command) -> Result<(), ProberError> {
        self.commands.send(command).or(Err(ProberError::Gone))
    }

    /// Stops the probes and waits until they have stopped, even if nobody takes the events.
    ///
    /// # Errors
    ///
    /// [`ProberError::Failed`] if the task had failed.
    pub async fn stop(self) -> Result<(), ProberError> {
        self.task.abort();
        match self.task.await {
            Err(error) if !error.is_cancelled() => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

struct Worker {
    sources: Sources,
    random: StdRng,
    endpoints: HashMap<SocketAddr, Entry>,
    /// When to look at which endpoint next: one entry for each.
    wakes: BTreeSet<(Instant, SocketAddr)>,
    readiness: FuturesUnordered<Readiness>,
    buffer: Box<[u8]>,
    /// Not handed to the controller yet.
    events: Vec<ProbeEvent>,
}

struct Entry {
    endpoint: Endpoint,
    /// Its entry in [`Worker::wakes`].
    wake: Instant,
}

impl Worker {
    fn new(sources: Sources) -> Self {
        Self {
            sources,
            random: rand::make_rng(),
            endpoints: HashMap::new(),
            wakes: BTreeSet::new(),
            readiness: FuturesUnordered::new(),
            buffer: vec![0; MAX_DATAGRAM].into(),
            events: Vec::new(),
        }
    }

    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<ProbeEvent>,
    ) {
        loop {
            let wake = self.wakes.first().map(|&(at, _)| at);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::SetEndpoints(endpoints)) => self.set_endpoints(endpoints),
                    Some(Command::ProbeNow(address)) => self.probe_now(address),
                    None => return,
                },
                Some(ready) = self.readiness.next() => {
                    if let Some(address) = ready {
                        self.receive(address);
                    }
                }
                () = sleep_until(wake) => self.work(Instant::now()),
            }
            for event in self.events.drain(..) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    fn set_endpoints(&mut self, wanted: HealthByEndpoint) {
        let is_wanted = |address: &SocketAddr| wanted.get(address).is_some_and(Option::is_some);
        self.endpoints.retain(|address, _| is_wanted(address));
        self.wakes.retain(|(_, address)| is_wanted(address));
        transport::allow_sockets(wanted.len());
        let now = Instant::now();
        for (address, check) in wanted {
            let Some(check) = check else { continue };
            if let Some(Entry { endpoint, .. }) = self.endpoints.get_mut(&address) {
                if *endpoint.schedule.check() != check {
                    endpoint.schedule.set_check(check);
                    self.reschedule(address);
                }
                continue;
            }
            let schedule = Schedule::new(check, now, self.random.random());
            let wake = schedule.next_wake();
            let endpoint = Endpoint::new(address, schedule);
            self.endpoints.insert(address, Entry { endpoint, wake });
            self.wakes.insert((wake, address));
        }
    }

    fn probe_now(&mut self, address: SocketAddr) {
        if let Some(Entry { endpoint, .. }) = self.endpoints.get_mut(&address) {
            endpoint.schedule.probe_now(Instant::now());
            self.reschedule(address);
        }
    }

    fn receive(&mut self, address: SocketAddr) {
        if let Some(Entry { endpoint, .. }) = self.endpoints.get_mut(&address) {
            let now = Instant::now();
            let readiness = endpoint.receive(now, &mut self.buffer, &mut self.events);
            self.readiness.extend(readiness);
            self.reschedule(address);
        }
    }

    /// Does all that is due.
    fn work(&mut self, due: Instant) {
        while let Some(&(at, address)) = self.wakes.first()
            && at <= due
            && let Some(Entry { endpoint, .. }) = self.endpoints.get_mut(&address)
        {
            // Thousands may be due: each is timed by itself.
            let now = Instant::now();
            endpoint.time_out(now, &mut self.buffer, &mut self.events);
            if endpoint.schedule.next_probe() <= now {
                let id = ProbeId {
                    branch: self.random.random(),
                    call: self.random.random(),
                    tag: self.random.random(),
                };
                let readiness = endpoint.probe(id, now, self.sources, &mut self.events);
                self.readiness.extend(readiness);
            }
            self.reschedule(address);
        }
    }

    fn reschedule(&mut self, address: SocketAddr) {
        if let Some(entry) = self.endpoints.get_mut(&address) {
            let wake = entry.endpoint.schedule.next_wake();
            if wake != entry.wake {
                self.wakes.remove(&(entry.wake, address));
                self.wakes.insert((wake, address));
                entry.wake = wake;
            }
        }
    }
}

/// `None` = never.
async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
