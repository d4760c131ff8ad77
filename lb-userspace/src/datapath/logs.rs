//! What the XDP program itself has to say: faults, through aya-log's ring into this process's log.
//!
//! The ring is pinned beside the other maps, so that the program goes on writing to the one that a
//! restarted controller reads. While nobody reads, it keeps the first 128 KiB.

use std::{path::Path, time::Duration};

use aya_log::EbpfLogger;
use lb_common::maps::Capacities;

use super::{
    error::{Error, Result},
    generation,
    load::{self, Record, Watch},
};

/// How often the ring is looked into. Faults are rare, and few of them are logged: there is room for
/// hundreds.
const EVERY: Duration = Duration::from_secs(1);

/// Reads the log of the program that is pinned in `pin_dir`, which [`super::live::open`] has made
/// ready, and forwards it to the global logger until the runtime ends.
///
/// # Errors
///
/// If the ring cannot be opened.
pub fn forward(pin_dir: &Path, capacities: &Capacities) -> Result<()> {
    let current = generation::current(pin_dir);
    // Opens the pinned maps; no program is loaded by that.
    let mut ebpf = load::prepare(capacities, Record::Off, Watch::Off, Some(&current))?;
    let mut logger = EbpfLogger::init(&mut ebpf)
        .map_err(|cause| Error::kernel("open the program's log", std::io::Error::other(cause)))?;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    });
    Ok(())
}
