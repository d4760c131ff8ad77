//! Live dialogs by binding, as `balance: least-dialogs` compares them.
//!
//! The datapath counts what begins and what ends; after each sweep the controller says how many
//! there really are, since calls also fail, move and expire.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{maps::name, stats::Load};

use super::error::{Error, Result};
use crate::maps::{kernel::Open, mmap::MappedArray};

/// The loads, shared with the datapath.
#[derive(Debug)]
pub struct Loads {
    /// Rows of [`Load`]: changes and base.
    memory: MappedArray<AtomicU64>,
}

impl Loads {
    pub(crate) fn open(open: &mut Open<'_>) -> Result<Self> {
        let map = open(name::LOADS)?;
        let memory = MappedArray::new(&map)
            .map_err(|cause| Error::kernel("map the loads into memory", cause))?;
        Ok(Self { memory })
    }

    /// Changes so far, by binding; to be read when a sweep begins.
    #[must_use]
    pub fn changes(&self) -> Vec<u64> {
        let changes = |row: &[AtomicU64; 2]| row[0].load(Ordering::Relaxed);
        self.rows().iter().map(changes).collect()
    }

    /// Says that `live` dialogs of each binding were found by a sweep that began at `changes`.
    pub fn settle(&self, changes: &[u64], live: impl Fn(u16) -> u64) {
        for ((binding, row), changes) in (0..=u16::MAX).zip(self.rows()).zip(changes) {
            row[1].store(Load::base(live(binding), *changes), Ordering::Relaxed);
        }
    }

    /// Live dialogs of a binding, as the datapath sees them now.
    #[must_use]
    pub fn dialogs(&self, binding: u16) -> u64 {
        let row = self.rows().get(usize::from(binding));
        row.map_or(0, |[changes, base]| {
            let (changes, base) = (changes.load(Ordering::Relaxed), base.load(Ordering::Relaxed));
            Load { changes, base }.dialogs()
        })
    }

    fn rows(&self) -> &[[AtomicU64; 2]] {
        self.memory.elements().as_chunks().0
    }
}
