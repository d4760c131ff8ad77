//! Counters: one copy per CPU, so that plain additions do.

use lb_common::{
    stats::{BindingStats, Event},
    verdict::Verdict,
};

use crate::maps;

/// Counts a packet under its verdict.
#[inline(always)]
pub fn verdict(verdict: Verdict) {
    bump(maps::verdict_counter(verdict as u32));
}

/// Packets that this CPU has counted under the verdict of this number.
#[inline(always)]
pub fn so_far(verdict: u32) -> u64 {
    // SAFETY: as in `bump`.
    maps::verdict_counter(verdict).map_or(0, |cell| unsafe { *cell })
}

/// Counts an event.
#[inline(always)]
pub fn event(event: Event) {
    bump(maps::event_counter(event as u32));
}

#[inline(always)]
fn bump(cell: Option<*mut u64>) {
    if let Some(cell) = cell {
        // SAFETY: a checked pointer to this CPU's copy of the value; an XDP program is not
        // interrupted by another on its CPU.
        unsafe { *cell += 1 };
    }
}

/// Lets `change` add to the counters of a binding.
#[inline(always)]
pub fn binding(id: u16, change: impl FnOnce(&mut BindingStats)) {
    if let Some(cell) = maps::binding_stats(id) {
        // SAFETY: as in `bump`.
        change(unsafe { &mut *cell });
    }
}
