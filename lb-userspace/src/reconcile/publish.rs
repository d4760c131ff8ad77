//! Which table and which member list each choice publishes.
//!
//! Both are immutable while published: a change fills a free one and swaps the choice, so that no
//! packet sees a mix. Equal content shares one table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use lb_common::table::{MEMBERS, Members, SLOTS, choice};

use super::{
    applied::{Applied, REST, parts},
    diff::{Moment, Problem},
    op::Op,
};
use crate::state::{
    desired::{DesiredChoice, DesiredState, MemberList},
    table::SlotTable,
};

/// What brings the choices to their desired content, in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    pub(super) lists: Vec<Op>,
    pub(super) tables: Vec<Op>,
    pub(super) touches: Vec<Op>,
    pub(super) choices: Vec<Op>,
    /// Choices that keep what they have, for want of a free table or list.
    pub(super) stuck: BTreeSet<u16>,
    /// When the next one has rested long enough; `None` though something is stuck: never.
    pub(super) retry_at: Option<Duration>,
    pub(super) problems: Vec<Problem>,
}

/// Plans all choices.
pub(super) fn plan(desired: &DesiredState, applied: &Applied, at: Moment) -> Publishing {
    let (published_tables, published_lists) = applied.published();
    let changed: Vec<(u16, &DesiredChoice)> = desired
        .choices
        .iter()
        .filter(|(id, want)| !is_published(**id, want, applied))
        .map(|(id, want)| (*id, want))
        .collect();

    let mut tables =
        Allocator::new(applied.capacities.tables, published_tables, &applied.freed_tables, at.now);
    let mut by_digest: HashMap<u64, u16> = HashMap::new();
    for (&id, table) in &applied.tables {
        by_digest.entry(table.digest()).or_insert(id);
    }
    let mut lists = Allocator::new(
        applied.capacities.member_lists,
        published_lists,
        &applied.freed_lists,
        at.now,
    );
    // Bindings belong to one listener, so few lists start alike.
    let mut by_first: HashMap<u16, Vec<u16>> = HashMap::new();
    for (&id, members) in &applied.members {
        by_first.entry(first(members)).or_default().push(id);
    }

    // First whatever exists is claimed, so that nothing that is wanted is overwritten.
    let mut found: Vec<(Option<u16>, Option<u16>)> = Vec::with_capacity(changed.len());
    for (_, want) in &changed {
        let table = by_digest.get(&want.table.digest()).copied();
        let list = by_first
            .get(&first(&want.list.members))
            .and_then(|ids| ids.iter().copied().find(|&id| holds_list(applied, id, &want.list)));
        table.inspect(|&id| tables.claim(id));
        list.inspect(|&id| lists.claim(id));
        found.push((table, list));
    }

    let mut out = Publishing::default();
    let mut touched = Touched::new(desired, applied);
    let mut new_tables: HashMap<u64, u16> = HashMap::new();
    for ((id, want), (table, list)) in changed.iter().zip(found) {
        let digest = want.table.digest();
        let table = table.or_else(|| new_tables.get(&digest).copied()).or_else(|| {
            let id = tables.free()?;
            new_tables.insert(digest, id);
            out.tables.push(Op::Table { id, table: Arc::clone(&want.table) });
            Some(id)
        });
        let list = list.or_else(|| {
            let id = lists.free()?;
            out.lists.push(Op::Orders { id, list: Arc::clone(&want.list) });
            out.lists.push(Op::Members { id, list: Arc::clone(&want.list) });
            Some(id)
        });
        let (Some(table), Some(list)) = (table, list) else {
            out.stuck.insert(*id);
            if table.is_none() {
                out.problems.push(Problem::NoFreeTable { capacity: applied.capacities.tables });
            } else {
                out.problems.push(Problem::NoFreeList);
            }
            continue;
        };
        touched.changes(*id, want);
        out.choices.push(Op::Choice { id: *id, choice: choice(table, list) });
    }
    out.touches = touched.ops(at.epoch);
    if !out.stuck.is_empty() {
        out.retry_at = [tables.next_rested(), lists.next_rested()].into_iter().flatten().min();
        // What this plan replaces is free soon.
        if out.retry_at.is_none() && !out.choices.is_empty() {
            out.retry_at = Some(at.now + REST);
        }
        if out.retry_at.is_some() {
            out.problems.clear();
        }
        out.problems.dedup();
    }
    out
}

/// Does the choice in the maps say what it should?
pub(super) fn is_published(id: u16, want: &DesiredChoice, applied: &Applied) -> bool {
    let (table, list) = parts(applied.choices.get(&id).copied().unwrap_or(0));
    applied.tables.get(&table).is_some_and(|t| Arc::ptr_eq(t, &want.table) || **t == *want.table)
        && holds_list(applied, list, &want.list)
}

fn holds_list(applied: &Applied, id: u16, list: &MemberList) -> bool {
    applied.members.get(&id) == Some(&list.members) && applied.orders.get(&id) == Some(&list.orders)
}

fn first(members: &Members) -> u16 {
    members.first().copied().unwrap_or(0)
}

/// Free ids of a pool.
struct Allocator<'a> {
    entries: u32,
    next: u16,
    taken: BTreeSet<u16>,
    freed: &'a BTreeMap<u16, Duration>,
    now: Duration,
}

impl<'a> Allocator<'a> {
    fn new(
        entries: u32,
        taken: BTreeSet<u16>,
        freed: &'a BTreeMap<u16, Duration>,
        now: Duration,
    ) -> Self {
        Self { entries, next: 1, taken, freed, now }
    }

    fn claim(&mut self, id: u16) {
        self.taken.insert(id);
    }

    /// The lowest id that is neither published nor resting.
    fn free(&mut self) -> Option<u16> {
        while u32::from(self.next) < self.entries {
            let id = self.next;
            let rests = self.freed.get(&id).is_some_and(|&freed| freed + REST > self.now);
            if !rests && !self.taken.contains(&id) {
                self.taken.insert(id);
                return Some(id);
            }
            self.next = id.checked_add(1)?;
        }
        None
    }

    /// When the next id may be written again.
    fn next_rested(&self) -> Option<Duration> {
        self.freed
            .iter()
            .filter(|(id, _)| !self.taken.contains(id))
            .map(|(_, &freed)| freed + REST)
            .filter(|&rested| rested > self.now)
            .min()
    }
}

/// Slots of each service whose owner changes with this plan.
struct Touched<'a> {
    desired: &'a DesiredState,
    applied: &'a Applied,
    slots: BTreeMap<u16, Box<[bool; SLOTS]>>,
    /// The last comparison of each service: its listeners mostly change alike.
    compared: HashMap<u16, Comparison<'a>>,
}

#[derive(PartialEq)]
struct Comparison<'a> {
    old: &'a SlotTable,
    new: &'a SlotTable,
    /// Endpoints by member.
    old_owners: [u16; MEMBERS],
    new_owners: [u16; MEMBERS],
}

impl<'a> Touched<'a> {
    fn new(desired: &'a DesiredState, applied: &'a Applied) -> Self {
        Self { desired, applied, slots: BTreeMap::new(), compared: HashMap::new() }
    }

    /// Notes what publishing `want` changes. The marks concern the service's own set only.
    fn changes(&mut self, id: u16, want: &'a DesiredChoice) {
        if !want.set.as_bytes().is_empty() {
            return;
        }
        let current = self.applied.choices.get(&id).copied().unwrap_or(0);
        let Some((old, old_members)) = self.published(current).or_else(|| self.sibling(want))
        else {
            // A listener that exists without a choice was removed and is back: where its dialogs
            // were placed is not known any more. A new one has no dialogs.
            if self.applied.listeners.values().any(|l| l.service == want.service) {
                self.slots.insert(want.service, Box::new([true; SLOTS]));
            }
            return;
        };
        let endpoint = |binding: u16| {
            let bindings = [&self.applied.bindings, &self.desired.bindings];
            bindings.iter().find_map(|b| b.get(&binding)).map_or(0, |b| b.endpoint)
        };
        let comparison = Comparison {
            old,
            new: &want.table,
            old_owners: old_members.map(endpoint),
            new_owners: want.list.members.map(endpoint),
        };
        if self.compared.get(&want.service) == Some(&comparison) {
            return;
        }
        let slots = self.slots.entry(want.service).or_insert_with(|| Box::new([false; SLOTS]));
        let Comparison { old_owners, new_owners, .. } = &comparison;
        let owners = old.slots().iter().zip(want.table.slots());
        for (touched, (&before, &after)) in slots.iter_mut().zip(owners) {
            *touched |= old_owners[usize::from(before)] != new_owners[usize::from(after)];
        }
        self.compared.insert(want.service, comparison);
    }

    fn published(&self, choice: u32) -> Option<(&'a SlotTable, Members)> {
        let (table, list) = parts(choice);
        Some((self.applied.tables.get(&table)?, *self.applied.members.get(&list)?))
    }

    /// What another listener of the service publishes.
    fn sibling(&self, want: &DesiredChoice) -> Option<(&'a SlotTable, Members)> {
        self.applied
            .listeners
            .values()
            .filter(|l| l.service == want.service)
            .find_map(|l| self.published(self.applied.choices.get(&l.choice).copied()?))
    }

    fn ops(self, epoch: u32) -> Vec<Op> {
        self.slots
            .into_iter()
            .filter_map(|(service, touched)| {
                let slots: Vec<u16> = (0..=u16::MAX)
                    .zip(touched.iter())
                    .filter(|&(_, &touched)| touched)
                    .map(|(slot, _)| slot)
                    .collect();
                let value = (epoch % lb_common::clock::EPOCHS) as u8 + 1;
                (!slots.is_empty()).then_some(Op::Touch { service, slots, value })
            })
            .collect()
    }
}
