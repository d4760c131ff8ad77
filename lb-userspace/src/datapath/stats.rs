//! What per-CPU maps have to know of the host.

/// CPUs that per-CPU maps have a copy for.
#[must_use]
pub fn cpus() -> u64 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u64)
}
