//! The task that keeps a [`Network`] equal to what the kernel has.
//!
//! Neighbour events are applied as they come: there are many and each says all. For links,
//! addresses, routes and rules an event only says that there is something to list again: the
//! kernel removes IPv4 routes silently with their link or address, and deletes IPv6 next hops one
//! by one out of a set.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_route::AddressFamily;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    decode::{self, Change},
    keeper::Keeper,
    kernel::{Dump, Event, Kernel, NetlinkError},
    model::{Network, PolicyRules},
};

/// How long changes are gathered before they are listed and published.
const COALESCE: Duration = Duration::from_millis(20);
/// Listing a full routing table takes seconds; at most one part in this many of the time is
/// spent on it while routes keep changing.
const ROUTE_LISTING_SHARE: u32 = 10;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
const KEEPER_TICK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes that the kernel may queue before it drops events (and this task lists everything
    /// again); the kernel bounds it by net.core.rmem_max.
    pub receive_buffer: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { receive_buffer: 1 << 20 }
    }
}

/// Speaks to the task that follows the network.
#[derive(Clone, Debug)]
pub struct NetlinkHandle {
    requests: mpsc::Sender<Request>,
    destinations: Arc<watch::Sender<BTreeSet<IpAddr>>>,
    overruns: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Request {
    address: IpAddr,
    device: u32,
    answer: oneshot::Sender<Result<(), NetlinkError>>,
}

impl NetlinkHandle {
    /// Has the kernel resolve (or confirm) one neighbour now; the result comes as a snapshot.
    /// `device` is [`super::Incomplete::device`], not the physical interface.
    ///
    /// # Errors
    /// The kernel refuses (no such device, no privilege), or the task has ended.
    pub async fn resolve(&self, address: IpAddr, device: u32) -> Result<(), NetlinkError> {
        let (answer, result) = oneshot::channel();
        let request = Request { address, device, answer };
        self.requests.send(request).await.map_err(|_closed| NetlinkError::Ended)?;
        result.await.unwrap_or(Err(NetlinkError::Ended))
    }

    /// Names the destinations in use. Their neighbours are resolved whenever they are unknown
    /// and confirmed while they are known; so are the gateways towards clients.
    pub fn keep_resolved(&self, destinations: BTreeSet<IpAddr>) {
        self.destinations.send_if_modified(|current| {
            let changed = *current != destinations;
            *current = destinations;
            changed
        });
    }

    /// How often events were lost and everything was listed again.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

/// Follows the network namespace of the calling thread. The first snapshot is complete; the task
/// ends when all receivers are gone.
///
/// # Errors
/// Netlink cannot be opened, or the kernel refuses to list something.
pub async fn spawn(
    options: Options,
) -> Result<(watch::Receiver<Arc<Network>>, NetlinkHandle), NetlinkError> {
    let (kernel, events) = Kernel::open(options.receive_buffer)?;
    let mut mirror = Mirror::new(kernel);
    mirror.list().await?;

    let (requests, request_queue) = mpsc::channel(64);
    let (snapshots, receiver) = watch::channel(Arc::new(mirror.network.clone()));
    let (destinations, wanted) = watch::channel(BTreeSet::new());
    let overruns = Arc::new(AtomicU64::new(0));
    let task = Task {
        options,
        snapshots,
        requests: request_queue,
        destinations: wanted,
        overruns: Arc::clone(&overruns),
        keeper: Keeper::default(),
    };
    tokio::spawn(task.run(mirror, events));
    Ok((receiver, NetlinkHandle { requests, destinations: Arc::new(destinations), overruns }))
}

/// What must be listed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dirty {
    links: bool,
    addresses: bool,
    routes: bool,
    rules: bool,
    neighbours: bool,
}

impl Dirty {
    const NOTHING: Self =
        Self { links: false, addresses: false, routes: false, rules: false, neighbours: false };
    const ALL: Self =
        Self { links: true, addresses: true, routes: true, rules: true, neighbours: true };
}

/// The mirror over one pair of sockets.
struct Mirror {
    kernel: Kernel,
    network: Network,
    dirty: Dirty,
    /// Routes are not listed again before.
    routes_after: Instant,
}

impl Mirror {
    fn new(kernel: Kernel) -> Self {
        let network = Network::default();
        Self { kernel, network, dirty: Dirty::ALL, routes_after: Instant::now() }
    }

    /// Applies an event, or notes what to list again.
    fn note(&mut self, event: Event) {
        let message = match event {
            Event::Message(message) => message,
            Event::Overrun => {
                self.dirty = Dirty::ALL;
                return;
            }
        };
        match decode::change(&message) {
            Change::Neighbour(key, neighbour) => {
                self.network.neighbours.insert(key, neighbour);
            }
            Change::NeighbourGone(key) => {
                self.network.neighbours.remove(&key);
            }
            Change::Links => {
                self.dirty.links = true;
                self.dirty.routes = true;
            }
            Change::Addresses => {
                self.dirty.addresses = true;
                self.dirty.routes = true;
            }
            Change::Routes => self.dirty.routes = true,
            Change::Rules => self.dirty.rules = true,
            Change::Nothing => {}
        }
    }

    /// Lists what is dirty. Events that are queued meanwhile are applied afterwards, in order, so
    /// that the newest of them decides even if an older one repeats what was just listed.
    async fn list(&mut self) -> Result<(), NetlinkError> {
        let dirty = std::mem::replace(&mut self.dirty, Dirty::NOTHING);
        if dirty.links {
            let dump = self.kernel.links().await?;
            self.dirty.links |= dump.interrupted;
            let links = decode::links(&dump.messages);
            self.network.links = links.map(|link| (link.index, link)).collect();
        }
        if dirty.addresses {
            let dump = self.kernel.addresses().await?;
            self.dirty.addresses |= dump.interrupted;
            self.network.addresses = decode::addresses(&dump.messages).collect();
        }
        if dirty.routes {
            self.list_routes().await?;
        }
        if dirty.rules {
            self.network.policy_rules = PolicyRules {
                ipv4: self.has_rules(AddressFamily::Inet).await?,
                ipv6: self.has_rules(AddressFamily::Inet6).await?,
            };
        }
        if dirty.neighbours {
            let dump = self.kernel.neighbours().await?;
            self.dirty.neighbours |= dump.interrupted;
            self.network.neighbours = decode::neighbours(&dump.messages).collect();
        }
        Ok(())
    }

    async fn list_routes(&mut self) -> Result<(), NetlinkError> {
        if Instant::now() < self.routes_after {
            self.dirty.routes = true;
            return Ok(());
        }
        let mut all = Vec::new();
        let mut took = Duration::ZERO;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let dump = self.kernel.routes(family).await?;
            self.dirty.routes |= dump.interrupted;
            took += dump.took;
            all.extend(decode::routes(&dump.messages));
        }
        self.routes_after = Instant::now() + took * (ROUTE_LISTING_SHARE - 1);
        let routes = all.into_iter().collect();
        if *self.network.routes != routes {
            self.network.routes = Arc::new(routes);
        }
        Ok(())
    }

    async fn has_rules(&mut self, family: AddressFamily) -> Result<bool, NetlinkError> {
        let Dump { messages, interrupted, .. } = self.kernel.rules(family).await?;
        self.dirty.rules |= interrupted;
        Ok(decode::has_policy_rules(&messages))
    }
}

struct Task {
    options: Options,
    snapshots: watch::Sender<Arc<Network>>,
    requests: mpsc::Receiver<Request>,
    destinations: watch::Receiver<BTreeSet<IpAddr>>,
    overruns: Arc<AtomicU64>,
    keeper: Keeper,
}

impl Task {
    async fn run(mut self, mirror: Mirror, events: impl Stream<Item = Event> + Unpin) {
        let mut end = self.follow(mirror, events).await;
        while let End::Broken(error) = end {
            tracing::warn!(
                error = %error_chain(&error),
                "lost sight of the network, next hops may be stale; trying again"
            );
            tokio::time::sleep(RECONNECT_AFTER).await;
            end = match Kernel::open(self.options.receive_buffer) {
                Ok((kernel, events)) => self.follow(Mirror::new(kernel), events).await,
                Err(error) => End::Broken(error),
            };
        }
    }

    async fn follow(
        &mut self,
        mut mirror: Mirror,
        mut events: impl Stream<Item = Event> + Unpin,
    ) -> End {
        let mut tick = tokio::time::interval(KEEPER_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When to list and publish; there may be something to publish from the start.
        let mut deadline = Some(Instant::now());
        loop {
            let due = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else {
                        return End::Broken(NetlinkError::Broken { action: "hear of changes" });
                    };
                    if matches!(event, Event::Overrun) {
                        self.overruns.fetch_add(1, Ordering::Relaxed);
                        tracing::info!("network events were lost, listing everything again");
                    }
                    mirror.note(event);
                    deadline.get_or_insert(Instant::now() + COALESCE);
                }
                () = tokio::time::sleep_until(due), if deadline.is_some() => {
                    if let Err(error) = mirror.list().await {
                        return End::Broken(error);
                    }
                    deadline = (mirror.dirty != Dirty::NOTHING)
                        .then(|| (Instant::now() + COALESCE).max(mirror.routes_after));
                    self.publish(&mirror.network);
                    self.keep(&mirror).await;
                }
                Some(request) = self.requests.recv() => {
                    let result = mirror.kernel.use_neighbour(request.address, request.device).await;
                    // The asker may have gone meanwhile; then nobody waits for the result.
                    let _ = request.answer.send(result);
                }
                Ok(()) = self.destinations.changed() => self.keep(&mirror).await,
                _ = tick.tick() => self.keep(&mirror).await,
                () = self.snapshots.closed() => return End::Abandoned,
            }
        }
    }

    fn publish(&self, network: &Network) {
        self.snapshots.send_if_modified(|current| {
            let changed = !current.forwards_like(network);
            if changed {
                *current = Arc::new(network.clone());
            }
            changed
        });
    }

    async fn keep(&mut self, mirror: &Mirror) {
        let destinations = self.destinations.borrow_and_update().clone();
        let now = Instant::now().into_std();
        for (device, address) in self.keeper.due(&mirror.network, &destinations, now) {
            if let Err(error) = mirror.kernel.use_neighbour(address, device).await {
                // The link may be going away right now; the keeper asks again.
                tracing::debug!(%address, device, error = %error_chain(&error), "not resolved");
            }
        }
    }
}

enum End {
    /// Nobody listens any more.
    Abandoned,
    Broken(NetlinkError),
}

fn error_chain(error: &NetlinkError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
