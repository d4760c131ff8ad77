//! Loading the embedded object: sizes, globals, and what the verifier made of it.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use aya::{Ebpf, EbpfLoader, programs::Xdp};
use lb_common::{
    hash::{self, HashKey},
    maps::{Capacities, LAYOUT, name, program},
};
use tracing::info;

use super::error::{Error, OLDEST_KERNEL, Result};
use crate::config::model::Config;

/// The XDP program, compiled by this crate's build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sip-lb-xdp"));

/// Names of the object's constants that are set here.
mod global {
    pub(super) const LISTENER_MASK: &str = "LISTENER_MASK";
    pub(super) const ENDPOINT_MASK: &str = "ENDPOINT_MASK";
    pub(super) const HOST_MASK: &str = "HOST_MASK";
    pub(super) const RULE_MASK: &str = "RULE_MASK";
    pub(super) const ADDRESS_MASK: &str = "ADDRESS_MASK";
    pub(super) const SENDER_MASK: &str = "SENDER_MASK";
    pub(super) const DIALOG_MASK: &str = "DIALOG_MASK";
    pub(super) const RECORD: &str = "RECORD";
    pub(super) const WATCH: &str = "WATCH_ON";
}

/// Whether the program writes each decision to a map and takes its time from a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// Live traffic and benchmarks.
    Off,
    /// Replay and tests.
    On,
}

/// Whether the program shows packets to those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It has no code for that.
    Off,
    On,
}

/// What loading cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStats {
    /// Instructions that the verifier processed; `None` below kernel 5.16.
    pub verified: Option<u32>,
    /// From the system call to the program being ready: verifier and JIT.
    pub load_time: Duration,
    /// Size of the machine code in bytes; 0 without JIT.
    pub jited: u32,
    /// Kernel memory of the maps in bytes.
    pub map_memory: u64,
}

/// Capacities of the maps for `config`.
#[must_use]
pub const fn capacities(config: &Config) -> Capacities {
    let limits = &config.limits;
    Capacities::new(
        limits.services,
        limits.endpoints,
        limits.bindings,
        limits.tables,
        config.dialogs.max,
    )
    .with_fragments(limits.fragments)
}

/// Entries of every map whose size follows from the configuration.
pub(crate) fn entries(capacities: &Capacities) -> BTreeMap<&'static str, u32> {
    let mut entries: BTreeMap<_, _> = capacities.entries().into_iter().collect();
    // A counter for each binding, as `Capacities::memory` has it.
    entries.insert(name::BINDING_STATS, capacities.bindings);
    entries
}

/// The masks and switches that a program is built with.
#[derive(Clone, Copy)]
struct Globals {
    masks: [(&'static str, u32); 7],
    record: u8,
}

impl Globals {
    fn new(capacities: &Capacities, record: Record) -> Result<Self> {
        let entries = entries(capacities);
        let mask = |map: &'static str| {
            entries.get(map).map(|n| n - 1).ok_or(Error::Incomplete { kind: "capacity", name: map })
        };
        Ok(Self {
            masks: [
                (global::LISTENER_MASK, mask(name::LISTENER_INDEX)?),
                (global::ENDPOINT_MASK, mask(name::ENDPOINT_INDEX)?),
                (global::HOST_MASK, mask(name::HOST_INDEX)?),
                (global::RULE_MASK, mask(name::RULE_INDEX)?),
                (global::ADDRESS_MASK, mask(name::ADDRESS_INDEX)?),
                (global::SENDER_MASK, mask(name::SENDER_INDEX)?),
                (global::DIALOG_MASK, mask(name::DIALOGS)?),
            ],
            record: match record {
                Record::Off => 0,
                Record::On => 1,
            },
        })
    }
}

/// What tells one build of the live program from another: the object's bytes and its masks.
pub(crate) fn build_id(capacities: &Capacities) -> Result<u64> {
    let globals = Globals::new(capacities, Record::Off)?;
    let object = hash::bytes(HashKey { k0: LAYOUT, k1: 0 }, OBJECT);
    Ok(globals
        .masks
        .iter()
        .fold(object, |id, (_, mask)| hash::bytes(HashKey { k0: id, k1: 0 }, &mask.to_le_bytes())))
}

/// Makes the maps and prepares the programs, without loading these yet. With `pin_to`, every map is
/// pinned in that directory, or opened from it if it is there already.
pub(crate) fn prepare(
    capacities: &Capacities,
    record: Record,
    watch: Watch,
    pin_to: Option<&Path>,
) -> Result<Ebpf> {
    check_kernel()?;
    let globals = Globals::new(capacities, record)?;
    let mut loader = EbpfLoader::new();
    for (map, entries) in entries(capacities) {
        loader.map_max_entries(map, entries);
    }
    for (name, mask) in &globals.masks {
        loader.override_global(name, mask, true);
    }
    loader.override_global(global::RECORD, &globals.record, true);
    let watches = u8::from(watch == Watch::On);
    loader.override_global(global::WATCH, &watches, true);
    if let Some(directory) = pin_to {
        for map in name::ALL {
            loader.map_pin_path(map, directory.join(map));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(Error::object)?;
    match name::ALL.iter().find(|&&map| ebpf.map(map).is_none()) {
        None => Ok(ebpf),
        Some(&name) => Err(Error::Incomplete { kind: "map", name }),
    }
}

/// Loads both programs of `ebpf` into the kernel.
pub(crate) fn load(ebpf: &mut Ebpf, capacities: &Capacities) -> Result<LoadStats> {
    xdp_mut(ebpf, program::HEARTBEAT)?
        .load()
        .map_err(|cause| Error::load(program::HEARTBEAT, cause))?;
    load_balancer(ebpf, capacities)
}

/// Loads the balancer alone.
pub(crate) fn load_balancer(ebpf: &mut Ebpf, capacities: &Capacities) -> Result<LoadStats> {
    let balancer = xdp_mut(ebpf, program::SIP_LB)?;
    let begin = Instant::now();
    balancer.load().map_err(|cause| Error::load(program::SIP_LB, cause))?;
    let load_time = begin.elapsed();
    let info = balancer.info().map_err(|cause| Error::aya("query the program", cause))?;
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, cause)| Error::kernel(format!("read {path}"), cause))?;
    let stats = LoadStats {
        verified: info.verified_instruction_count(),
        load_time,
        jited: info.size_jitted(),
        map_memory: capacities.memory(cpus as u64),
    };
    info!(
        program = info.id(),
        verified_instructions = stats.verified,
        load_ms = u64::try_from(load_time.as_millis()).unwrap_or(u64::MAX),
        machine_code_bytes = stats.jited,
        map_mib = stats.map_memory >> 20,
        "XDP program loaded"
    );
    Ok(stats)
}

pub(crate) fn xdp_mut<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp> {
    ebpf.program_mut(name)
        .ok_or(Error::Incomplete { kind: "program", name })?
        .try_into()
        .map_err(|cause| Error::aya(format!("use program {name}"), cause))
}

pub(crate) fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp> {
    ebpf.program(name)
        .ok_or(Error::Incomplete { kind: "program", name })?
        .try_into()
        .map_err(|cause| Error::aya(format!("use program {name}"), cause))
}

/// Refuses kernels older than [`OLDEST_KERNEL`].
fn check_kernel() -> Result<()> {
    let path = "/proc/sys/kernel/osrelease";
    let release = std::fs::read_to_string(path)
        .map_err(|cause| Error::kernel(format!("read {path}"), cause))?;
    match parse_release(&release) {
        Some(version) if version < OLDEST_KERNEL => {
            Err(Error::OldKernel { found: release.trim().to_owned() })
        }
        // A release that no number can be read from is no reason to refuse: loading will tell.
        Some(_) | None => Ok(()),
    }
}

/// Major and minor number of a kernel release such as `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u8, u8)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_is_compared_by_its_numbers() {
        for (release, version) in [
            ("6.1.0-18-amd64\n", Some((6, 1))),
            ("5.4.0", Some((5, 4))),
            ("6.18-rc1", Some((6, 18))),
            ("custom", None),
        ] {
            assert_eq!(parse_release(release), version, "{release}");
        }
        assert!(parse_release("5.4.0").unwrap() < OLDEST_KERNEL);
        assert!(parse_release("5.15.0").unwrap() >= OLDEST_KERNEL);
        assert!(parse_release("6.1.0").unwrap() >= OLDEST_KERNEL);
    }

    #[test]
    fn a_build_is_known_by_its_masks_and_its_object() {
        let id = |dialogs| build_id(&Capacities::new(16, 16, 16, 8, dialogs)).unwrap();
        assert_eq!(id(1024), id(1024));
        assert_ne!(id(1024), id(4096));
    }
}
