//! Slot tables with what is asked about them, and a cache, so that a backend that comes back costs
//! no computation.

use std::{collections::HashMap, fmt, sync::Arc};

use lb_common::table::{self, Contender, MEMBERS, NO_MEMBER, SLOTS, Table};

/// A slot table, its owners and its digest.
pub struct SlotTable {
    slots: Box<Table>,
    owned: [u32; MEMBERS],
    digest: u64,
}

impl SlotTable {
    /// Wraps a table as it was read from a map.
    #[must_use]
    pub fn new(slots: Box<Table>) -> Self {
        Self { owned: table::owners(&slots), digest: table::digest(&slots), slots }
    }

    /// Fills a table.
    #[must_use]
    pub fn fill(contenders: &[Contender]) -> Self {
        let mut slots = Box::new([NO_MEMBER; SLOTS]);
        table::fill(contenders, &mut slots);
        Self::new(slots)
    }

    /// Fills a table for round-robin ([`table::sequence`]).
    #[must_use]
    pub fn sequence(contenders: &[Contender]) -> Self {
        let mut slots = Box::new([NO_MEMBER; SLOTS]);
        table::sequence(contenders, &mut slots);
        Self::new(slots)
    }

    #[must_use]
    pub fn slots(&self) -> &Table {
        &self.slots
    }

    /// Slots of `member`; of [`NO_MEMBER`]: slots without an owner.
    #[must_use]
    pub fn owned(&self, member: u8) -> u32 {
        self.owned[usize::from(member)]
    }

    /// Members that own a slot, ascending.
    pub fn owners(&self) -> impl Iterator<Item = u8> + '_ {
        (0..NO_MEMBER).filter(|&member| self.owned(member) > 0)
    }

    /// [`table::digest`]: equal on two nodes whose tables are equal.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }
}

impl PartialEq for SlotTable {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.slots == other.slots
    }
}

impl Eq for SlotTable {}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotTable({:016x})", self.digest)
    }
}

/// How a table is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// For hashes: see [`table::fill`].
    Rendezvous,
    /// For round-robin: see [`table::sequence`].
    Sequence,
}

/// What a table is made of: member, seed and weight of each contender.
type Key = (Fill, Vec<(u8, u64, u16)>);

/// Tables by content, the most recently used kept.
#[derive(Debug, Default)]
pub struct TableCache {
    tables: HashMap<Key, Entry>,
    tick: u64,
    fills: u64,
}

#[derive(Debug)]
struct Entry {
    table: Arc<SlotTable>,
    used: u64,
}

impl TableCache {
    /// Tables kept that nobody else holds: 4 MB.
    const SPARE: usize = 64;

    /// The table of `contenders`.
    pub fn table(&mut self, fill: Fill, contenders: &[Contender]) -> Arc<SlotTable> {
        self.tick += 1;
        let key = contenders.iter().map(|c| (c.member, c.seed, c.weight)).collect();
        let fills = &mut self.fills;
        let entry = self.tables.entry((fill, key)).or_insert_with(|| {
            *fills += 1;
            let table = match fill {
                Fill::Rendezvous => SlotTable::fill(contenders),
                Fill::Sequence => SlotTable::sequence(contenders),
            };
            Entry { table: Arc::new(table), used: 0 }
        });
        entry.used = self.tick;
        Arc::clone(&entry.table)
    }

    /// Tables computed so far.
    #[must_use]
    pub const fn fills(&self) -> u64 {
        self.fills
    }

    /// Forgets the longest unused tables beyond a handful.
    pub fn trim(&mut self) {
        let mut idle: Vec<u64> = self
            .tables
            .values()
            .filter(|entry| Arc::strong_count(&entry.table) == 1)
            .map(|entry| entry.used)
            .collect();
        if idle.len() <= Self::SPARE {
            return;
        }
        idle.sort_unstable_by(|a, b| b.cmp(a));
        let oldest_kept = idle.get(Self::SPARE - 1).copied().unwrap_or(0);
        self.tables
            .retain(|_, entry| Arc::strong_count(&entry.table) > 1 || entry.used >= oldest_kept);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn contenders(count: u16) -> Vec<Contender> {
        (0..count)
            .map(|i| Contender {
                member: i as u8,
                seed: table::seed(&format!("gw{i}")),
                weight: 100 + i,
            })
            .collect()
    }

    #[test]
    fn a_table_is_computed_once_and_shared() {
        let mut cache = TableCache::default();
        let first = cache.table(Fill::Rendezvous, &contenders(3));
        let other = cache.table(Fill::Rendezvous, &contenders(2));
        let again = cache.table(Fill::Rendezvous, &contenders(3));
        assert!(Arc::ptr_eq(&first, &again));
        assert!(first != other);
        assert_eq!(cache.fills(), 2);
    }

    #[test]
    fn trimming_keeps_tables_in_use_and_the_most_recent() {
        let mut cache = TableCache::default();
        let held = cache.table(Fill::Rendezvous, &contenders(1));
        for weight in 1..=100u16 {
            cache.table(Fill::Rendezvous, &[Contender { member: 0, seed: 1, weight }]);
        }
        cache.trim();
        assert_eq!(cache.tables.len(), TableCache::SPARE + 1);
        let fills = cache.fills();
        assert!(Arc::ptr_eq(&held, &cache.table(Fill::Rendezvous, &contenders(1))));
        cache.table(Fill::Rendezvous, &[Contender { member: 0, seed: 1, weight: 100 }]);
        assert_eq!(cache.fills(), fills);
        cache.table(Fill::Rendezvous, &[Contender { member: 0, seed: 1, weight: 1 }]);
        assert_eq!(cache.fills(), fills + 1);
    }

    /// CPU time of this thread; other work on the machine does not count.
    fn cpu_time() -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
    }

    #[test]
    fn filling_a_table_keeps_its_budget_of_cpu_time() {
        for (count, budget) in [(10, 5), (255, 100)] {
            let contenders = contenders(count);
            let fastest = (0..5)
                .map(|_| {
                    let start = cpu_time();
                    let table = SlotTable::fill(&contenders);
                    assert_eq!(table.owned(NO_MEMBER), 0);
                    cpu_time() - start
                })
                .min()
                .unwrap();
            assert!(fastest > Duration::ZERO);
            assert!(fastest <= Duration::from_millis(budget), "{count} backends: {fastest:?}");
        }
    }
}
