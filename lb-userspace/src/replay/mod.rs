//! What the XDP program does with a capture: each packet runs through the real program in the
//! kernel, attached to nothing, with maps of its own.
//!
//! ```text
//! capture → link → network (Ethernet header) → XDP program → line
//!           clock (capture time)                           → frame as it would leave
//! ```
//!
//! The network is pretended: one interface by which everything comes and goes, a router towards all
//! clients, a neighbour for each backend. Nothing that is live is touched, and nothing but the
//! configuration, the capture and the hash key decides: two runs say the same.

pub mod capture;
mod clock;
pub mod line;
pub mod link;
pub(crate) mod message;
pub(crate) mod names;
mod namespace;
mod network;
pub mod pcap;
pub mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_common::{
    clock::{EPOCH_SECONDS, EPOCHS, lifetime},
    hash::HashKey,
    verdict::Exit,
};

use self::{
    capture::Packet,
    clock::{Clock, Tick},
    line::{Line, Unfit},
    names::Names,
    network::Neighbours,
};
use crate::{
    config::Config,
    datapath::{
        load::{Record, capacities},
        private::Private,
        reline::Now,
        sweep::{STEP_LINES, Sweep},
        testrun::{Action, LONGEST, SHORTEST},
    },
    reconcile::{Reconciler, applied::Applied},
    slow::{
        self, Consumers, Fate, Kind,
        answer::{Answerer, RetryAfter},
        fragments::{Holder, Limits},
    },
    state::{
        AdminStates, Standing,
        desired::{Inputs, NetworkView},
        ids::{Ids, socket},
    },
};

/// What to assume beside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Assumptions {
    pub key: HashKey,
    /// Endpoints that are down; all others are up.
    pub down: BTreeSet<SocketAddr>,
    /// Addresses of this host: what backends send there is not for clients.
    pub local: Vec<IpAddr>,
    /// Backends and this host share one link; else each backend is behind a router.
    pub on_link: bool,
}

/// A replay in progress.
#[derive(Debug)]
pub struct Replay {
    program: Private,
    ifindex: u32,
    neighbours: Neighbours,
    names: Names,
    /// Services by binding.
    services: BTreeMap<u16, u16>,
    clock: Clock,
    /// Of dialogs, in epochs.
    lifetime: u32,
    packets: u64,
    /// The packet as it is given to the program, and as it came out.
    frame: Vec<u8>,
    leaves: Vec<Vec<u8>>,
    /// What deals with packets that the program hands over.
    consumers: Consumers,
    /// Fragments that came too early.
    holder: Holder,
}

/// What became of a packet.
#[derive(Debug)]
pub struct Replayed<'a> {
    pub line: Line<'a>,
    /// The frames that leave: the packet itself, or what the slow path makes of it.
    pub leaves: &'a [Vec<u8>],
}

impl Replay {
    /// Loads the program and fills its maps. The calling thread stays in a network namespace of its
    /// own for the rest of its life and must be the one that calls [`Self::packet`].
    ///
    /// # Errors
    ///
    /// Without privileges, or what the kernel refuses.
    pub fn start(config: &Config, assumptions: &Assumptions) -> Result<Self> {
        let ifindex = namespace::enter()?;
        let capacities = capacities(config);
        let mut program =
            Private::load(&capacities, Record::On).context("cannot load the XDP program")?;
        let endpoints = config.endpoints();
        let neighbours = Neighbours::new(endpoints.keys());
        let view = neighbours.view(ifindex, assumptions.on_link, &assumptions.local);
        let mut reconciler = Reconciler::new(Ids::new(&capacities), Applied::new(capacities));
        reconciler.admit(config)?;
        fill(&mut reconciler, &mut program, config, assumptions, &view)?;
        let lifetime = lifetime(config.dialogs.timeout.as_secs());
        program.set_time(0, lifetime)?;
        let bindings = &reconciler.applied().bindings;
        Ok(Self {
            program,
            ifindex,
            neighbours,
            names: Names::new(config, &reconciler),
            services: bindings.iter().map(|(&id, binding)| (id, binding.service)).collect(),
            clock: Clock::default(),
            lifetime,
            packets: 0,
            frame: Vec::new(),
            leaves: Vec::new(),
            holder: Holder::new(Limits::DEFAULT),
            consumers: Consumers::default().on(
                Kind::NoBackend,
                Answerer::new(RetryAfter::new(config), assumptions.key).unlimited(),
            ),
        })
    }

    /// Runs the next packet of the capture.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the run, or the program fails.
    pub fn packet(&mut self, packet: &Packet) -> Result<Replayed<'_>> {
        self.packets += 1;
        self.leaves.clear();
        self.advance(packet.time)?;
        if let Err(why) = self.frame(packet) {
            return Ok(Replayed { line: Line::unfit(self.packets, why), leaves: &[] });
        }
        let result = self.program.run(&self.frame, Some(self.ifindex))?;
        let exit = match result.action {
            Action::Pass => Exit::Pass,
            Action::Drop => Exit::Drop,
            Action::Tx => Exit::Tx,
            Action::Redirect => Exit::Redirect,
            Action::Aborted | Action::Unknown(_) => {
                bail!("the XDP program failed on packet {}: {:?}", self.packets, result.action)
            }
        };
        if matches!(exit, Exit::Tx | Exit::Redirect) {
            self.leaves.push(result.frame_out);
        }
        let fate = self.drain();
        let mut line =
            Line::decided(self.packets, &result.decision, exit, &self.frame, &self.names)
                .with_context(|| format!("packet {}: an unknown decision", self.packets))?;
        if let Some(fate) = fate {
            line.settle(fate);
        }
        Ok(Replayed { line, leaves: &self.leaves })
    }

    /// Lets the slow path deal with what the program has handed over.
    fn drain(&mut self) -> Option<Fate> {
        let (mut fate, mut actions) = (None, Vec::new());
        let (now, consumers) = (self.clock.elapsed(), &mut self.consumers);
        consumers.tick(now, &mut actions);
        let holder = &mut self.holder;
        self.program.drain(|packet| {
            fate = Some(if packet.kind == Kind::Fragment {
                slow::fragments::hold(holder, packet, now)
            } else {
                consumers.take(packet, now, &mut actions)
            });
        });
        slow::fragments::release(holder, &mut self.program, &mut actions);
        holder.expire(now);
        for action in actions {
            match action {
                slow::Action::Send(packet) => self.leaves.push(self.neighbours.leaving(&packet)),
                slow::Action::Count(..) => {}
            }
        }
        fate
    }

    /// The names, for those who show lines.
    #[must_use]
    pub fn width(&self) -> usize {
        self.names.width()
    }

    /// Makes the frame that the program is given.
    fn frame(&mut self, packet: &Packet) -> Result<(), Unfit> {
        if packet.is_truncated {
            return Err(Unfit::Truncated);
        }
        let (ethertype, rest) = packet.link.open(&packet.data).ok_or(Unfit::TooShort)?;
        self.neighbours.frame(ethertype, rest, &mut self.frame);
        match self.frame.len() {
            ..=SHORTEST => Err(Unfit::TooShort),
            length if length > LONGEST => Err(Unfit::TooBig),
            _ => Ok(()),
        }
    }

    /// Moves the program's time on, and clears the dialogs that expired meanwhile.
    fn advance(&mut self, time: u64) -> Result<()> {
        match self.clock.advance(time) {
            Tick::Still => {}
            Tick::Second(second) => self.program.set_time(second, self.lifetime)?,
            Tick::Epoch { stop, second } => {
                for second in stop.into_iter().chain([second]) {
                    self.program.set_time(second, self.lifetime)?;
                    self.sweep(second);
                }
            }
        }
        Ok(())
    }

    fn sweep(&self, second: u64) {
        let epoch = (second / u64::from(EPOCH_SECONDS)) as u32 % EPOCHS;
        let now = Now { epoch, lifetime: self.lifetime };
        let service = |binding| self.services.get(&binding).copied().unwrap_or(0);
        let mut sweep = Sweep::new();
        while !sweep.step(self.program.dialogs.entries(), now, STEP_LINES, service) {}
    }
}

/// Brings the maps to what the configuration says.
fn fill(
    reconciler: &mut Reconciler,
    program: &mut Private,
    config: &Config,
    assumptions: &Assumptions,
    network: &NetworkView,
) -> Result<()> {
    let mut health = BTreeMap::new();
    for service in &config.services {
        for backend in service.all_backends() {
            let is_down = assumptions.down.contains(&backend.address);
            let standing = if is_down { Standing::DOWN } else { Standing::UP };
            health.insert(socket(backend.address, service.transport), standing);
        }
    }
    let inputs = Inputs {
        config,
        health: &health,
        admin: &AdminStates::new(),
        suspected: &BTreeSet::new(),
        network,
        key: assumptions.key,
        lost_after: 0,
    };
    let outcome = reconciler.reconcile(&mut program.maps, &inputs, 0, &|| Duration::ZERO);
    if let Some(failure) = outcome.failure {
        bail!("{failure}");
    }
    if let Some(problem) = outcome.problems.first() {
        bail!("{problem}");
    }
    if outcome.retry_at.is_some() {
        bail!("the maps could not be filled at once");
    }
    Ok(())
}
