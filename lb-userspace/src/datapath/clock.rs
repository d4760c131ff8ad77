//! The clock of the datapath, and the sign of life that the controller gives it.
//!
//! The program counts epochs of 256 s from jiffies, which only the kernel can read: a small program
//! run under `BPF_PROG_TEST_RUN` stores them in a map, once a second. The same store tells the
//! datapath that the controller lives.

use std::time::Duration;

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use lb_common::{
    clock::{self, Clock},
    maps::name,
};
use nix::time::{ClockId, clock_getres};

use super::{
    error::{Error, Result},
    reline::Now,
};
use crate::maps::kernel::{Open, Records};

/// Writes the heartbeat and knows the epoch.
#[derive(Debug)]
pub struct Heart {
    program: Xdp,
    cell: Records<u64>,
    record: Records<Clock>,
    clock: Clock,
}

impl Heart {
    /// `program` is the object's heartbeat program, loaded on the maps that `open` gives.
    pub(crate) fn open(program: Xdp, open: &mut Open<'_>) -> Result<Self> {
        let cell = Records::open(name::HEARTBEAT, open)?;
        let record = Records::<Clock>::open(name::CLOCK, open)?;
        let clock = record.get(0)?;
        Ok(Self { program, cell, record, clock })
    }

    /// Sets the lifetime of dialogs, and starts the clock if these maps have none yet: adopted
    /// entries keep their ages.
    ///
    /// # Errors
    ///
    /// What the kernel says to the test run or the write.
    pub fn start(&mut self, dialog_timeout: Duration) -> Result<()> {
        let lifetime = clock::lifetime(dialog_timeout.as_secs());
        let jiffies = self.beat()?;
        let base = if self.clock.rate == 0 { jiffies } else { self.clock.base };
        self.clock = Clock::new(base, hz()?, lifetime);
        self.record.put(0, &self.clock)?;
        Ok(())
    }

    /// Gives a sign of life; call it once a second. Returns the kernel's jiffies.
    ///
    /// # Errors
    ///
    /// What the kernel says to the test run or the read.
    pub fn beat(&mut self) -> Result<u64> {
        // Any Ethernet frame will do, the program does not look at it.
        let frame = [0; 64];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        self.program
            .test_run(options)
            .map_err(|cause| Error::aya("run the heartbeat program", cause))?;
        Ok(self.cell.get(0)?)
    }

    /// The current epoch and the lifetime of dialogs, by which entries are judged.
    ///
    /// # Errors
    ///
    /// As [`Heart::beat`].
    pub fn now(&mut self) -> Result<Now> {
        let jiffies = self.beat()?;
        Ok(Now { epoch: self.clock.epoch(jiffies), lifetime: self.clock.lifetime })
    }

    /// Jiffies in `duration`, as `Settings::lost_after` counts.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell its tick.
    pub fn jiffies(duration: Duration) -> Result<u64> {
        Ok(duration.as_secs().saturating_mul(hz()?))
    }
}

/// Jiffies in a second. The coarse clock advances once a jiffy, and the kernel says how far.
fn hz() -> Result<u64> {
    let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|cause| Error::kernel("query the kernel's tick", cause.into()))?;
    tick_rate(Duration::from(tick)).ok_or_else(|| Error::Kernel {
        what: "query the kernel's tick".to_owned(),
        cause: std::io::Error::other(format!("it cannot last {:?}", Duration::from(tick))),
    })
}

/// Ticks a second, rounded: a 300 Hz tick lasts 3,333,333 ns.
fn tick_rate(tick: Duration) -> Option<u64> {
    let nanos = u64::try_from(tick.as_nanos()).ok()?;
    if !(100_000..=10_000_000).contains(&nanos) {
        return None;
    }
    Some((1_000_000_000 + nanos / 2) / nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_rate_follows_from_the_length_of_a_tick() {
        for (nanos, hz) in [
            (10_000_000, Some(100)),
            (4_000_000, Some(250)),
            (3_333_333, Some(300)),
            (1_000_000, Some(1000)),
            (1, None),
            (0, None),
        ] {
            assert_eq!(tick_rate(Duration::from_nanos(nanos)), hz, "{nanos} ns");
        }
    }

    #[test]
    fn this_kernel_has_a_tick() {
        assert!([100, 250, 300, 1000].contains(&hz().unwrap()), "{:?}", hz());
    }
}
