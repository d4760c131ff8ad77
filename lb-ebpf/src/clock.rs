//! The coarse time of the dialog table.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use lb_common::verdict::Verdict;

use crate::maps;

/// Ticks since boot; the kernel inlines the call into one load.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: the helper takes nothing and only reads a counter.
    unsafe { bpf_jiffies64() }
}

/// Ticks of 1/1024 s, for fragments.
#[inline(always)]
pub fn ticks() -> Result<u32, Verdict> {
    let clock = maps::clock()?;
    Ok(if maps::records() { clock.replay_ticks() } else { clock.ticks(jiffies()) })
}

/// Now, as the dialog table counts.
#[derive(Clone, Copy)]
pub struct Now {
    pub epoch: u32,
    /// Dialog lifetime in epochs.
    pub lifetime: u32,
}

#[inline(always)]
pub fn now() -> Result<Now, Verdict> {
    let clock = maps::clock()?;
    let epoch = if maps::records() { clock.replay_epoch() } else { clock.epoch(jiffies()) };
    Ok(Now { epoch, lifetime: clock.lifetime })
}
