//! The program that shows packets: another build of the balancer, on the same maps, which takes the
//! place of the live one while somebody watches.
//!
//! So watching that is off costs nothing at all, and a kernel that refused this program would still
//! run the other one. A controller that dies meanwhile leaves it on the links, where it shows
//! nothing any more, as the rings end with their reader; the next controller puts its own program
//! there.

use std::path::PathBuf;

use aya::{Ebpf, programs::Xdp};
use lb_common::{
    maps::{Capacities, name, program},
    watch::{Desk, Filter, Filters, SLOTS},
};
use tracing::info;

use super::{
    attach::mode_of,
    counters::PerCpu,
    error::{Error, Result},
    generation, interfaces,
    live::{Live, RunTime, open_program},
    load::{self, Record, Watch},
    migrate, pins,
};
use crate::{
    maps::kernel::{Open, Records},
    slow::rings::{self, Ring},
};

/// Pages of each ring: 2 MiB, some 1,000 packets of 1 kB.
const PAGES: usize = 512;

/// The name that this program is pinned under, beside the live one.
const PINNED: &str = "sip_lb_watch";

/// What is watched, and what was lost.
#[derive(Debug)]
pub struct WatchMaps {
    filters: Records<Filters>,
    desks: PerCpu<Desk>,
}

impl WatchMaps {
    pub(crate) fn open(open: &mut Open<'_>) -> Result<Self> {
        Ok(Self {
            filters: Records::open(name::WATCH, open)?,
            desks: PerCpu::open(name::WATCH_DESK, open)?,
        })
    }

    /// Sets what is watched.
    ///
    /// # Errors
    ///
    /// What the kernel says to the write.
    pub fn set(&mut self, filters: &Filters) -> Result<()> {
        Ok(self.filters.put(0, filters)?)
    }

    /// Nothing is watched.
    ///
    /// # Errors
    ///
    /// What the kernel says to the write.
    pub fn clear(&mut self) -> Result<()> {
        self.set(&[Filter::default(); SLOTS])
    }

    /// Packets that the program could not hand over, by slot, since the maps were made.
    ///
    /// # Errors
    ///
    /// What the kernel says to the read.
    pub fn lost(&self) -> Result<[u64; SLOTS]> {
        let mut lost = [0; SLOTS];
        for desk in self.desks.get(0)? {
            for (sum, more) in lost.iter_mut().zip(desk.lost) {
                *sum += more;
            }
        }
        Ok(lost)
    }
}

/// How to load the watching program; takes a third of a second, so not where others wait.
#[derive(Clone, Debug)]
pub struct Plan {
    pin_dir: PathBuf,
    capacities: Capacities,
}

impl Plan {
    /// Loads the program on the live maps.
    ///
    /// # Errors
    ///
    /// What the kernel says. Nothing that is live has changed then.
    pub fn load(&self) -> Result<Loaded> {
        let maps = generation::current(&self.pin_dir);
        let mut ebpf =
            load::prepare(&self.capacities, Record::Off, Watch::On, Some(maps.as_path()))?;
        load::load_balancer(&mut ebpf, &self.capacities)?;
        Ok(Loaded(ebpf))
    }
}

/// The watching program, in the kernel but on no interface.
pub struct Loaded(Ebpf);

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(PINNED)
    }
}

/// The program that gave way.
#[derive(Debug)]
pub(super) struct Resting {
    balancer: Xdp,
    program: u32,
}

impl Live {
    /// How to load the program that watches on maps of `capacities`.
    #[must_use]
    pub fn plan_watch(&self, capacities: Capacities) -> Plan {
        Plan { pin_dir: self.pin_dir().to_owned(), capacities }
    }

    /// True while the watching program is the live one.
    #[must_use]
    pub const fn is_watching(&self) -> bool {
        self.resting.is_some()
    }

    /// True until the watching program is off every link again.
    #[must_use]
    pub const fn has_watched(&self) -> bool {
        self.has_watched
    }

    /// Puts the watching program on every link, and opens the rings that it writes to.
    ///
    /// # Errors
    ///
    /// What the kernel says; [`Live::unwatch`] is due then, as [`Live::has_watched`] tells.
    pub fn watch(&mut self, mut loaded: Loaded) -> Result<Vec<Ring>> {
        let current = generation::current(self.pin_dir());
        let rings = rings::open(&mut |name| migrate::pinned(&current, name), name::WATCHED, PAGES)?;
        if self.is_watching() {
            return Ok(rings);
        }
        let path = generation::program_pin(&current, PINNED, self.build);
        pins::remove_file(&path)?;
        load::xdp_mut(&mut loaded.0, program::SIP_LB)?
            .pin(&path)
            .map_err(|cause| Error::aya(format!("pin {}", path.display()), cause))?;
        let watching = open_program(&current, PINNED, self.build)?;
        let id = watching.info().map_err(|cause| Error::aya("query the program", cause))?.id();
        self.resting = Some(Resting {
            balancer: std::mem::replace(&mut self.balancer, watching),
            program: std::mem::replace(&mut self.program, id),
        });
        self.has_watched = true;
        self.held_by(PINNED)?;
        self.renew()?;
        Ok(rings)
    }

    /// Puts the other program back on every link.
    ///
    /// # Errors
    ///
    /// What the kernel says; to be tried again.
    pub fn unwatch(&mut self) -> Result<()> {
        if let Some(resting) = self.resting.take() {
            let spent = self.run_time_of(&self.balancer).unwrap_or_default();
            self.spent.runs += spent.runs;
            self.spent.time += spent.time;
            self.balancer = resting.balancer;
            self.program = resting.program;
        }
        self.held_by(program::SIP_LB)?;
        self.renew()?;
        let current = generation::current(self.pin_dir());
        pins::remove_file(&generation::program_pin(&current, PINNED, self.build))?;
        self.has_watched = false;
        Ok(())
    }

    /// Gives fragments that were held to the program of this name from now on.
    fn held_by(&self, name: &'static str) -> Result<()> {
        let current = generation::current(self.pin_dir());
        self.held.set(open_program(&current, name, self.build)?);
        Ok(())
    }

    /// Makes every link run the program that is live now.
    fn renew(&mut self) -> Result<()> {
        let nics = interfaces::list()?;
        for link in generation::links(self.pin_dir())? {
            let Some(nic) =
                nics.iter().find(|nic| link.ifindex != 0 && nic.ifindex == link.ifindex)
            else {
                continue;
            };
            let mode = mode_of(nic, link.program).unwrap_or(interfaces::Mode::Native);
            self.take_over(nic, link, mode)?;
        }
        info!(program = self.program, watching = self.is_watching(), "program exchanged");
        Ok(())
    }

    /// Runs and time of all programs that were live since the start.
    pub(super) fn all_run_time(&self) -> Result<RunTime> {
        let mut sum = self.spent;
        let resting = self.resting.as_ref().map(|resting| &resting.balancer);
        for balancer in resting.into_iter().chain([&self.balancer]) {
            let one = self.run_time_of(balancer)?;
            sum.runs += one.runs;
            sum.time += one.time;
        }
        Ok(sum)
    }
}
