//! The dialog table, mapped into this process.

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::maps::name;

use super::error::{Error, Result};
use crate::maps::{kernel::Open, mmap::MappedArray};

/// All lines of the dialog table, shared with the datapath.
#[derive(Debug)]
pub struct DialogTable {
    memory: MappedArray<AtomicU64>,
}

impl DialogTable {
    pub(crate) fn open(open: &mut Open<'_>) -> Result<Self> {
        let map = open(name::DIALOGS)?;
        let memory = MappedArray::new(&map)
            .map_err(|cause| Error::kernel("map the dialog table into memory", cause))?;
        Ok(Self { memory })
    }

    /// Every entry, line after line. Write by compare-exchange only: the datapath writes too.
    #[must_use]
    pub fn entries(&self) -> &[AtomicU64] {
        self.memory.elements()
    }

    /// A copy of every entry.
    #[must_use]
    pub fn read(&self) -> Vec<u64> {
        self.entries().iter().map(|entry| entry.load(Ordering::Relaxed)).collect()
    }
}
