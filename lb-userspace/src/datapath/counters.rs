//! What the datapath has counted, summed over the CPUs.

use std::{collections::BTreeMap, fmt};

use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
};
use lb_common::{
    maps::name,
    stats::{BindingStats, EVENTS, Event},
    verdict::{VERDICTS, Verdict},
};

use super::error::{Error, Result};
use crate::maps::{MapError, kernel::Open};

/// The counter maps.
#[derive(Debug)]
pub struct Counters {
    verdicts: PerCpu<u64>,
    events: PerCpu<u64>,
    bindings: PerCpu<BindingStats>,
}

/// Packets by verdict, in the order of [`Verdict::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictCounts(pub [u64; VERDICTS]);

/// Occurrences by event, in the order of [`Event::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCounts(pub [u64; EVENTS]);

impl VerdictCounts {
    /// Packets with this verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.0.get(verdict as usize).copied().unwrap_or(0)
    }

    /// Each verdict with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, u64)> {
        Verdict::ALL.iter().copied().zip(self.0)
    }
}

impl EventCounts {
    /// How often this happened.
    #[must_use]
    pub fn of(&self, event: Event) -> u64 {
        self.0.get(event as usize).copied().unwrap_or(0)
    }

    /// Each event with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Event, u64)> {
        Event::ALL.iter().copied().zip(self.0)
    }
}

impl Counters {
    pub(crate) fn open(open: &mut Open<'_>) -> Result<Self> {
        Ok(Self {
            verdicts: PerCpu::open(name::VERDICTS, open)?,
            events: PerCpu::open(name::EVENTS, open)?,
            bindings: PerCpu::open(name::BINDING_STATS, open)?,
        })
    }

    /// Packets by verdict.
    ///
    /// # Errors
    ///
    /// What the kernel says to the reads.
    pub fn verdicts(&self) -> Result<VerdictCounts> {
        let mut counts = [0; VERDICTS];
        for (row, count) in (0..).zip(&mut counts) {
            *count = self.verdicts.get(row)?.into_iter().sum();
        }
        Ok(VerdictCounts(counts))
    }

    /// Occurrences by event.
    ///
    /// # Errors
    ///
    /// What the kernel says to the reads.
    pub fn events(&self) -> Result<EventCounts> {
        let mut counts = [0; EVENTS];
        for (row, count) in (0..).zip(&mut counts) {
            *count = self.events.get(row)?.into_iter().sum();
        }
        Ok(EventCounts(counts))
    }

    /// Traffic of one binding.
    ///
    /// # Errors
    ///
    /// What the kernel says to the read; an id beyond the map is an error.
    pub fn binding(&self, id: u16) -> Result<BindingStats> {
        Ok(self.bindings.get(id.into())?.into_iter().fold(BindingStats::default(), add))
    }

    /// Traffic of several bindings, by id.
    ///
    /// # Errors
    ///
    /// As [`Counters::binding`].
    pub fn bindings(
        &self,
        ids: impl IntoIterator<Item = u16>,
    ) -> Result<BTreeMap<u16, BindingStats>> {
        ids.into_iter().map(|id| Ok((id, self.binding(id)?))).collect()
    }
}

impl Counters {
    /// Starts the traffic of these bindings at zero: their ids are given out anew.
    ///
    /// # Errors
    ///
    /// What the kernel says to the writes.
    pub fn reset(&mut self, ids: &[u16]) -> Result<()> {
        for id in ids {
            self.bindings.clear((*id).into())?;
        }
        Ok(())
    }
}

/// Adds two counts of the same binding.
#[must_use]
pub fn add(mut sum: BindingStats, more: BindingStats) -> BindingStats {
    sum.forwarded += more.forwarded;
    sum.forwarded_bytes += more.forwarded_bytes;
    sum.requests += more.requests;
    sum.replied += more.replied;
    sum.replied_bytes += more.replied_bytes;
    sum.server_requests += more.server_requests;
    for (sum, more) in sum.responses.iter_mut().zip(more.responses) {
        *sum += more;
    }
    sum
}

/// A per-CPU array map, with its name for errors.
pub(super) struct PerCpu<V: Pod> {
    name: &'static str,
    array: PerCpuArray<MapData, V>,
}

impl<V: Pod> fmt::Debug for PerCpu<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} entries", self.name, self.array.len())
    }
}

impl<V: Pod> PerCpu<V> {
    pub(super) fn open(name: &'static str, open: &mut Open<'_>) -> Result<Self> {
        let what = || format!("open map {name}");
        let map = Map::from_map_data(open(name)?).map_err(|cause| Error::aya(what(), cause))?;
        let array = PerCpuArray::try_from(map).map_err(|cause| Error::aya(what(), cause))?;
        Ok(Self { name, array })
    }

    /// Sets the copies of all CPUs to zero.
    fn clear(&mut self, row: u32) -> Result<()>
    where
        V: Default,
    {
        let failed = |cause| MapError::write(self.name, row, cause);
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, cause)| Error::kernel(format!("read {path}"), cause))?;
        let zeros = PerCpuValues::try_from(vec![V::default(); cpus])
            .map_err(|cause| Error::kernel("make a per-CPU value", cause))?;
        Ok(self.array.set(row, zeros, 0).map_err(failed)?)
    }

    /// The copies of all CPUs.
    pub(super) fn get(&self, row: u32) -> Result<Vec<V>> {
        let values =
            self.array.get(&row, 0).map_err(|cause| MapError::read(self.name, row, cause))?;
        Ok(values.iter().copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_bindings_traffic_is_added() {
        let one = BindingStats {
            forwarded: 1,
            forwarded_bytes: 2,
            requests: 3,
            replied: 4,
            replied_bytes: 5,
            server_requests: 6,
            responses: [7, 8, 9, 10, 11, 12],
        };
        let twice = BindingStats {
            forwarded: 2,
            forwarded_bytes: 4,
            requests: 6,
            replied: 8,
            replied_bytes: 10,
            server_requests: 12,
            responses: [14, 16, 18, 20, 22, 24],
        };
        assert_eq!(add(one, one), twice);
    }
}
