//! What the kernel knows of the program's cost.

use std::os::fd::OwnedFd;

use aya::sys::{Stats, enable_stats};

use super::{
    error::{Error, Result},
    live::Live,
};
use crate::event::ProgramTime;

/// CPUs that per-CPU maps have a copy for.
#[must_use]
pub fn cpus() -> u64 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u64)
}

/// Lets the kernel measure the run time of BPF programs for as long as the descriptor is open
/// (5.8); costs about 45 ns a packet.
///
/// # Errors
///
/// What the kernel says.
pub fn enable() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime).map_err(|cause| Error::aya("enable run time statistics", cause))
}

impl Live {
    /// Runs of the balancer and the time they took, since it was loaded, as far as they were
    /// measured.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn program_time(&self) -> Result<ProgramTime> {
        let info = self.balancer.info().map_err(|cause| Error::aya("query the program", cause))?;
        Ok(ProgramTime { runs: info.run_count(), nanoseconds: info.run_time().as_nanos() as u64 })
    }
}
