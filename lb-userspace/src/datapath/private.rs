//! A program of one's own: pinned nowhere, attached to nothing.

use std::fmt;

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::Xdp,
};
use lb_common::{
    clock::Clock,
    maps::{Capacities, name, program},
    verdict::Decision,
    watch::{Sample, Seen},
};

use super::{
    counters::Counters,
    dialogs::DialogTable,
    error::{Error, Result},
    fragments::Fragments,
    load::{self, LoadStats, Record, Watch},
    loads::Loads,
    testrun::{self, Action},
    watch::WatchMaps,
};
use crate::{
    maps::kernel::{KernelMaps, Records},
    slow::{
        Handed,
        rings::{self, Ring},
    },
};

/// The balancer with private maps.
pub struct Private {
    ebpf: Ebpf,
    /// What it decides by.
    pub maps: KernelMaps,
    pub counters: Counters,
    pub dialogs: DialogTable,
    pub loads: Loads,
    /// What loading it cost.
    pub stats: LoadStats,
    clock: Records<Clock>,
    decision: Records<Decision>,
    rings: Vec<Ring>,
    watched: Vec<Ring>,
    /// What is watched, if the program does that.
    pub watch: WatchMaps,
    /// What it remembers of datagrams in fragments.
    pub(crate) fragments: Fragments,
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Private").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// What the program did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunResult {
    pub action: Action,
    /// The frame as the program left it.
    pub frame_out: Vec<u8>,
    /// Why; all zero unless the program records its decisions.
    pub decision: Decision,
}

impl Private {
    /// Loads the program with maps of `capacities`.
    ///
    /// # Errors
    ///
    /// What the kernel refuses, with its remedy.
    pub fn load(capacities: &Capacities, record: Record) -> Result<Self> {
        Self::load_as(capacities, record, Watch::Off)
    }

    /// The same, as the program is while somebody watches, or not.
    ///
    /// # Errors
    ///
    /// As [`Private::load`].
    pub fn load_as(capacities: &Capacities, record: Record, watch: Watch) -> Result<Self> {
        let mut ebpf = load::prepare(capacities, record, watch, None)?;
        let stats = load::load(&mut ebpf, capacities)?;
        let mut take = |name: &'static str| -> Result<MapData> {
            match ebpf.take_map(name) {
                Some(
                    Map::Array(map)
                    | Map::PerCpuArray(map)
                    | Map::PerfEventArray(map)
                    | Map::LruHashMap(map),
                ) => Ok(map),
                Some(_) | None => Err(Error::Incomplete { kind: "map", name }),
            }
        };
        Ok(Self {
            maps: KernelMaps::open(*capacities, &mut take)?,
            counters: Counters::open(&mut take)?,
            dialogs: DialogTable::open(&mut take)?,
            loads: Loads::open(&mut take)?,
            clock: Records::open(name::CLOCK, &mut take)?,
            decision: Records::open(name::DECISION, &mut take)?,
            rings: rings::open(&mut take, name::SLOW_PATH, rings::PAGES)?,
            watched: rings::open(&mut take, name::WATCHED, rings::PAGES)?,
            watch: WatchMaps::open(&mut take)?,
            fragments: Fragments::open(&mut take)?,
            stats,
            ebpf,
        })
    }

    /// The balancer program, for test runs.
    ///
    /// # Errors
    ///
    /// None in practice: loading has checked that it is there.
    pub fn program(&self) -> Result<&Xdp> {
        load::xdp(&self.ebpf, program::SIP_LB)
    }

    /// Sets the time of a recording program, in seconds from epoch 0, and the lifetime of dialogs
    /// in epochs.
    ///
    /// # Errors
    ///
    /// What the kernel says to the write.
    pub fn set_time(&mut self, seconds: u64, lifetime: u32) -> Result<()> {
        let clock = Clock { seconds, lifetime, ..self.clock.get(0)? };
        Ok(self.clock.put(0, &clock)?)
    }

    /// Makes rates count in real time, with `hz` jiffies a second, and gives a sign of life, which
    /// the program waits for from then on. A recording program has neither.
    ///
    /// # Errors
    ///
    /// What the kernel says to the write or the run.
    pub fn beat(&mut self, hz: u32) -> Result<()> {
        let clock = Clock { hz, ..self.clock.get(0)? };
        self.clock.put(0, &clock)?;
        testrun::run(load::xdp(&self.ebpf, program::HEARTBEAT)?, &[0; 64], None).map(drop)
    }

    /// Gives every packet that the program has handed over to `each`, and returns how many were lost.
    pub fn drain(&mut self, mut each: impl FnMut(&Handed<'_>)) -> u64 {
        self.rings
            .iter_mut()
            .map(|ring| {
                let lost = ring.drain(&mut each);
                lost.full + lost.unreadable
            })
            .sum()
    }

    /// Gives everything that the program has shown to `each`; returns how many samples were lost, or
    /// are none of this version's.
    pub fn drain_watched(&mut self, mut each: impl FnMut(Sample)) -> u64 {
        let mut lost = 0;
        for ring in &mut self.watched {
            lost += ring.samples(|sample| match Seen::split(sample) {
                Some(sample) => each(sample),
                None => lost += 1,
            });
        }
        lost
    }

    /// Runs one frame; see [`testrun::run`].
    ///
    /// # Errors
    ///
    /// As [`testrun::run`].
    pub fn run(&mut self, frame: &[u8], ingress: Option<u32>) -> Result<RunResult> {
        self.decision.put(0, &Decision::default())?;
        let (action, frame_out) = testrun::run(self.program()?, frame, ingress)?;
        Ok(RunResult { action, frame_out, decision: self.decision.get(0)? })
    }
}
