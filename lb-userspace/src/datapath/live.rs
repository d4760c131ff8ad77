//! The program that balances traffic, pinned so that it outlives the controller.
//!
//! [`open`] never touches what carries traffic: it makes or adopts maps and loads the program
//! beside them. The caller then fills the maps, [`Live::attach`]es each interface (which replaces
//! the program on a link atomically) and calls [`Live::finish`]. A crash at any point leaves the
//! old program on its maps, or the new one on complete maps.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    programs::Xdp,
    sys::{Stats, enable_stats},
};
use aya_obj::programs::XdpAttachType;
use lb_common::maps::{Capacities, LAYOUT, name, program};
use tracing::{info, warn};

use super::{
    clock::Heart,
    counters::Counters,
    dialogs::DialogTable,
    error::{Error, Result},
    fragments::{Current, Fragments, Held},
    generation::{self, Generation},
    load::{self, LoadStats, Record, Watch},
    loads::Loads,
    migrate::{self, Migration},
    pins::{self, PinDir},
    reline::Relined,
    shape,
    watch::{Resting, WatchMaps},
};
use crate::{
    maps::kernel::KernelMaps,
    slow::rings::{self, Ring},
};

/// Where the maps came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made anew, empty.
    Fresh,
    /// Found pinned, as they must be.
    Adopted,
    /// Made anew with other capacities or another layout, with the content of the pinned ones.
    Migrated(Relined),
}

/// The pinned program and everything that belongs to it, to be given to whoever works with it.
#[derive(Debug)]
pub struct Opened {
    pub live: Live,
    pub maps: KernelMaps,
    pub counters: Counters,
    pub dialogs: DialogTable,
    pub loads: Loads,
    pub heart: Heart,
    /// Where the program hands packets over.
    pub rings: Vec<Ring>,
    /// What is watched.
    pub watch: WatchMaps,
    /// For fragments that were held; for the slow path to take.
    pub held: Option<Held>,
    pub origin: Origin,
    /// What loading cost; `None` if the pinned program is the one of this binary.
    pub stats: Option<LoadStats>,
}

/// The lock on the pin directory, the program, and the links.
#[derive(Debug)]
pub struct Live {
    pub(super) pins: PinDir,
    pub(super) balancer: Xdp,
    /// Id of `balancer`.
    pub(super) program: u32,
    pub(super) build: u64,
    migration: Option<Migration>,
    /// The same program, as the slow path runs it.
    pub(super) held: Current,
    /// The program that gave way to one that watches.
    pub(super) resting: Option<Resting>,
    pub(super) has_watched: bool,
    /// What programs that are gone took.
    pub(super) spent: RunTime,
}

/// What the kernel measured of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    pub runs: u64,
    pub time: Duration,
}

/// Makes the kernel measure every BPF program's runs until the result is dropped. Costs about 45 ns
/// a packet.
///
/// # Errors
///
/// What the kernel says, such as a lack of rights.
pub fn time_programs() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|cause| Error::aya("time the BPF programs", cause))
}

/// Takes the pin directory and makes the program ready in it, with maps of `capacities`.
///
/// # Errors
///
/// Another instance that runs, a missing BPF file system, missing rights, an old kernel: each with
/// its remedy.
pub fn open(pin_dir: &Path, capacities: &Capacities) -> Result<Opened> {
    let pins = PinDir::take(pin_dir)?;
    let build = load::build_id(capacities)?;
    let wanted = shape::wanted(capacities)?;
    pins::remove_tree(&generation::staging(pin_dir))?;

    let running: Vec<_> = generation::links(pin_dir)?.iter().map(|link| link.program).collect();
    let live = generation::live(&generation::list(pin_dir)?, &running)
        .map(|live| generation::restore(pin_dir, live))
        .transpose()?;

    let current = generation::current(pin_dir);
    let (origin, stats, migration) = match live {
        Some(live) if live.path == current => {
            let found = shape::pinned(&current)?;
            let differences = shape::differences(&found, &wanted);
            if differences.is_empty() {
                let stats = load_into(&current, &current, capacities, build)?;
                info!(directory = %current.display(), "adopted the pinned maps");
                (Origin::Adopted, stats, None)
            } else {
                for difference in &differences {
                    info!(%difference, "pinned map differs from the configuration");
                }
                replace(pin_dir, live, capacities, build)?
            }
        }
        Some(live) => replace(pin_dir, live, capacities, build)?,
        None => {
            let stats = stage(pin_dir, capacities, build)?;
            generation::promote(pin_dir, None)?;
            info!(directory = %current.display(), "made new maps");
            (Origin::Fresh, stats, None)
        }
    };

    let balancer = open_program(&current, program::SIP_LB, build)?;
    let id = balancer.info().map_err(|cause| Error::aya("query the program", cause))?.id();
    let held = Current::new(open_program(&current, program::SIP_LB, build)?);
    let mut open = |name| migrate::pinned(&current, name);
    Ok(Opened {
        maps: KernelMaps::open(*capacities, &mut open)?,
        counters: Counters::open(&mut open)?,
        dialogs: DialogTable::open(&mut open)?,
        loads: Loads::open(&mut open)?,
        heart: Heart::open(open_program(&current, program::HEARTBEAT, build)?, &mut open)?,
        rings: rings::open(&mut open, name::SLOW_PATH, rings::PAGES)?,
        held: Some(Held { records: Fragments::open(&mut open)?, balancer: held.clone() }),
        watch: WatchMaps::open(&mut open)?,
        live: Live {
            pins,
            balancer,
            program: id,
            build,
            migration,
            held,
            resting: None,
            has_watched: false,
            spent: RunTime::default(),
        },
        origin,
        stats,
    })
}

impl Live {
    /// The pin directory.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        self.pins.path()
    }

    /// Kernel id of the balancer program.
    #[must_use]
    pub const fn program_id(&self) -> u32 {
        self.program
    }

    /// How often the program ran and how long it took in all, while [`time_programs`] was on.
    ///
    /// # Errors
    ///
    /// What the kernel says to the query.
    pub fn run_time(&self) -> Result<RunTime> {
        self.all_run_time()
    }

    pub(super) fn run_time_of(&self, balancer: &Xdp) -> Result<RunTime> {
        let info = balancer.info().map_err(|cause| Error::aya("query the program", cause))?;
        Ok(RunTime { runs: info.run_count(), time: info.run_time() })
    }

    /// To be called when every link runs the new program: carries over what the old one learned
    /// meanwhile, and removes the generations and programs of before.
    ///
    /// # Errors
    ///
    /// If a link still runs another program, or a pin cannot be removed; it may be called again.
    pub fn finish(&mut self) -> Result<()> {
        let pin_dir = self.pins.path();
        let links = generation::links(pin_dir)?;
        let stale = links.iter().find(|link| link.ifindex != 0 && link.program != self.program);
        if let Some(link) = stale {
            return Err(Error::Kernel {
                what: format!("remove the former program {}", link.program),
                cause: std::io::Error::other(format!(
                    "interface {} still runs it: attach that or take it off",
                    link.ifindex
                )),
            });
        }
        if let Some(migration) = self.migration.take() {
            let entries = migration.finish();
            info!(entries, "carried over the dialogs learned meanwhile");
        }
        generation::remove_other_programs(&generation::current(pin_dir), self.build)?;
        generation::remove_former(pin_dir)
    }
}

/// What [`open`] found out: where the maps came from, what loading cost, what is left to carry over.
type Prepared = (Origin, Option<LoadStats>, Option<Migration>);

/// Makes a new generation with the content of `live`.
fn replace(
    pin_dir: &Path,
    live: Generation,
    capacities: &Capacities,
    build: u64,
) -> Result<Prepared> {
    let obstacles = migrate::obstacles(&shape::pinned(&live.path)?, &shape::wanted(capacities)?);
    let stats = stage(pin_dir, capacities, build)?;
    let staging = generation::staging(pin_dir);
    if !obstacles.is_empty() {
        for difference in &obstacles {
            warn!(%difference, "map of another layout");
        }
        warn!(
            from = %live.path.display(),
            layout = format!("{LAYOUT:016x}"),
            "the pinned maps cannot be read: running dialogs are placed by the hash of their \
             Call-ID until they are learned again"
        );
        generation::promote(pin_dir, Some(&live))?;
        return Ok((Origin::Fresh, stats, None));
    }

    Migration::records(&live.path, &staging, capacities)?;
    let heartbeat = open_program(&staging, program::HEARTBEAT, build)?;
    let mut heart = Heart::open(heartbeat, &mut |name| migrate::pinned(&staging, name))?;
    let migration = Migration::dialogs(&live.path, &staging, heart.now()?)?;
    let relined = migration.relined;
    info!(
        from = %live.path.display(),
        dialogs = relined.moved,
        copies = relined.copies,
        "copied the pinned maps into new ones"
    );
    let lost = relined.overflowed + relined.without_binding;
    if lost > 0 {
        warn!(
            overflowed = relined.overflowed,
            without_binding = relined.without_binding,
            "some dialogs do not fit into the new capacities: they are placed by the hash of \
             their Call-ID"
        );
    }
    generation::promote(pin_dir, Some(&live))?;
    Ok((Origin::Migrated(relined), stats, Some(migration)))
}

/// Makes the maps and programs of a new generation in the staging directory.
fn stage(pin_dir: &Path, capacities: &Capacities, build: u64) -> Result<Option<LoadStats>> {
    let staging = generation::staging(pin_dir);
    pins::make_private(&staging)?;
    load_into(&staging, &staging, capacities, build)
}

/// Loads the programs on the maps in `maps` and pins them in `programs`, unless this very build is
/// pinned there already.
fn load_into(
    maps: &Path,
    programs: &Path,
    capacities: &Capacities,
    build: u64,
) -> Result<Option<LoadStats>> {
    let pin = |name: &str| -> PathBuf { generation::program_pin(programs, name, build) };
    // The balancer is pinned last: if it is there, so is the other.
    if pin(program::SIP_LB).exists() && pin(program::HEARTBEAT).exists() {
        return Ok(None);
    }
    let mut ebpf = load::prepare(capacities, Record::Off, Watch::Off, Some(maps))?;
    let stats = load::load(&mut ebpf, capacities)?;
    for name in [program::HEARTBEAT, program::SIP_LB] {
        let path = pin(name);
        pins::remove_file(&path)?;
        load::xdp_mut(&mut ebpf, name)?
            .pin(&path)
            .map_err(|cause| Error::aya(format!("pin {}", path.display()), cause))?;
    }
    Ok(Some(stats))
}

pub(super) fn open_program(directory: &Path, name: &str, build: u64) -> Result<Xdp> {
    let path = generation::program_pin(directory, name, build);
    Xdp::from_pin(&path, XdpAttachType::Interface)
        .map_err(|cause| Error::aya(format!("open {}", path.display()), cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_may_go_to_a_task_of_its_own() {
        const fn sendable<T: Send + 'static>() {}
        sendable::<Live>();
        sendable::<KernelMaps>();
        sendable::<Counters>();
        sendable::<DialogTable>();
        sendable::<Heart>();
        sendable::<Ring>();
    }
}
