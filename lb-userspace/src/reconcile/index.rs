//! Where a socket stands in an index ([`lb_common::index`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{
    addr::Socket,
    index::{PROBES, Slot, first},
};

use super::{
    applied::{Applied, REST},
    diff::Problem,
    op::Op,
};
use crate::maps::Index;

/// What brings one index to its desired content.
#[derive(Debug, Default)]
pub(super) struct IndexPlan {
    /// New entries, and entries that get another id.
    pub(super) adds: Vec<Op>,
    /// Entries that nobody wants.
    pub(super) removals: Vec<Op>,
    /// When a slot that is needed has rested long enough.
    pub(super) retry_at: Option<Duration>,
    pub(super) problems: Vec<Problem>,
}

/// Plans `index` for `wanted` (ids by socket).
pub(super) fn plan(
    index: Index,
    wanted: &BTreeMap<Socket, u16>,
    applied: &Applied,
    now: Duration,
) -> IndexPlan {
    let mut plan = IndexPlan::default();
    let slots = index.slots(&applied.capacities);
    let rows = |socket: &Socket| {
        let start = first(socket, slots - 1);
        (0..PROBES).map(move |probe| start.wrapping_add(probe) & (slots - 1))
    };

    // Where each wanted socket stands already; anything else that bears an id goes.
    let mut standing: BTreeMap<Socket, (u32, u16)> = BTreeMap::new();
    let mut strays = Vec::new();
    let range = (index, 0)..=(index, u32::MAX);
    for (&(_, row), slot) in applied.slots.range(range).filter(|(_, slot)| slot.id != 0) {
        let reachable = rows(&slot.socket).any(|probed| probed == row);
        if reachable && wanted.contains_key(&slot.socket) && !standing.contains_key(&slot.socket) {
            standing.insert(slot.socket, (row, slot.id));
        } else {
            strays.push((row, slot.socket));
        }
    }
    for (row, socket) in strays {
        plan.removals.push(write(index, row, socket, 0));
    }

    let mut claimed = BTreeSet::new();
    for (&socket, &id) in wanted {
        if let Some(&(row, current)) = standing.get(&socket) {
            if current != id {
                plan.adds.push(write(index, row, socket, id));
            }
            continue;
        }
        let slot = |row: u32| applied.slots.get(&(index, row));
        // Its own freed slot needs no rest: whoever still reads it looks for this socket.
        let own = rows(&socket).find(|&row| {
            !claimed.contains(&row) && slot(row).is_some_and(|s| s.socket == socket && s.id == 0)
        });
        if let Some(row) = own {
            claimed.insert(row);
            plan.adds.push(write(index, row, socket, id));
            continue;
        }
        let rested = |row: u32| applied.freed_slots.get(&(index, row)).map(|&freed| freed + REST);
        let free: Vec<u32> = rows(&socket)
            .filter(|&row| !claimed.contains(&row) && slot(row).is_none_or(|s| s.id == 0))
            .collect();
        if let Some(&row) = free.iter().find(|&&row| rested(row).is_none_or(|at| at <= now)) {
            claimed.insert(row);
            plan.adds.push(write(index, row, socket, 0));
            plan.adds.push(write(index, row, socket, id));
        } else if let Some(at) = free.iter().filter_map(|&row| rested(row)).min() {
            plan.retry_at = Some(plan.retry_at.map_or(at, |earlier| earlier.min(at)));
        } else {
            plan.problems.push(Problem::IndexFull { index, socket });
        }
    }
    plan
}

fn write(index: Index, row: u32, socket: Socket, id: u16) -> Op {
    Op::Slot { index, row, slot: Slot { socket, id, pad: 0 } }
}
