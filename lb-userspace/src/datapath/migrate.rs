//! Carrying the state of one generation of maps over to the next.
//!
//! Ids are kept, because dialogs hold them. What no longer fits into the new capacities is left out,
//! together with whatever refers to it; the reconciliation that follows completes the rest before
//! any link runs on the new maps. Counters begin anew.
//!
//! Between layouts the maps named in [`CARRIED`] are copied if their entries have the same size. A
//! change of meaning without a change of size must therefore rename the map.

use std::path::{Path, PathBuf};

use aya::{Pod, maps::MapData};
use lb_common::{
    backend::{Binding, Endpoint, Route},
    clock::Clock,
    index::{self, Slot},
    maps::{Capacities, PortSet, Settings, name},
    service::{Interface, Listener, Name},
    table::{self, Choice, Members, Table},
};

use super::{
    dialogs::DialogTable,
    error::{Error, Result},
    reline::{self, Now, Relined},
    shape::{self, Difference, Shapes},
};
use crate::maps::{Orders, kernel::Records};

/// Every map whose content is carried over.
pub(crate) const CARRIED: &[&str] = &[
    name::SETTINGS,
    name::CLOCK,
    name::HEARTBEAT,
    name::PORTS,
    name::LISTENER_INDEX,
    name::ENDPOINT_INDEX,
    name::HOST_INDEX,
    name::RULE_INDEX,
    name::INTERFACES,
    name::LISTENERS,
    name::ENDPOINTS,
    name::BINDINGS,
    name::ROUTES,
    name::CHOICES,
    name::MEMBERS,
    name::MEMBER_ORDERS,
    name::TABLES,
    name::TOUCHED,
    name::DIALOGS,
    name::SERVICE_NAMES,
    name::SET_NAMES,
    name::BACKEND_NAMES,
];

/// Why maps of another layout cannot be read: those that differ in more than their number of
/// entries.
pub(crate) fn obstacles(found: &Shapes, wanted: &Shapes) -> Vec<Difference> {
    shape::differences(found, wanted)
        .into_iter()
        .filter(|difference| CARRIED.contains(&difference.name))
        .filter(|difference| match (difference.found, difference.wanted) {
            (Some(found), Some(wanted)) => !found.same_entries(&wanted),
            (None, _) | (_, None) => true,
        })
        .collect()
}

/// A migration whose links still run the old program.
#[derive(Debug)]
pub(crate) struct Migration {
    old: DialogTable,
    new: DialogTable,
    before: Vec<u64>,
    now: Now,
    pub relined: Relined,
}

impl Migration {
    /// Copies everything but the dialogs from the maps in `from` to those in `to`, which have
    /// `capacities` and are used by nobody yet.
    pub(crate) fn records(from: &Path, to: &Path, capacities: &Capacities) -> Result<()> {
        let copy = Copy { from, to };
        let c = *capacities;
        let fits = |id: u16, capacity: u32| u32::from(id) < capacity;

        copy.rows(name::SETTINGS, |row: Settings| row)?;
        copy.rows(name::CLOCK, |row: Clock| row)?;
        copy.rows(name::HEARTBEAT, |row: u64| row)?;
        copy.rows(name::PORTS, |row: PortSet| row)?;
        copy.rows(name::INTERFACES, |row: Interface| row)?;
        copy.rows(name::ROUTES, |row: Route| row)?;
        copy.rows(name::MEMBER_ORDERS, |row: Orders| row)?;
        copy.rows(name::TABLES, |row: Table| row)?;
        copy.rows(name::TOUCHED, |row: Table| row)?;
        copy.rows(name::SERVICE_NAMES, |row: Name| row)?;
        copy.rows(name::SET_NAMES, |row: Name| row)?;
        copy.rows(name::BACKEND_NAMES, |row: Name| row)?;
        copy.rows(name::LISTENERS, |row: Listener| {
            let whole = fits(row.service, c.services) && fits(row.choice, c.choices);
            if whole { row } else { Listener::default() }
        })?;
        copy.rows(name::ENDPOINTS, |row: Endpoint| Endpoint {
            primary: if fits(row.primary, c.bindings) { row.primary } else { 0 },
            ..row
        })?;
        copy.rows(name::BINDINGS, |row: Binding| {
            let whole = fits(row.endpoint, c.endpoints)
                && fits(row.listener, c.listeners)
                && fits(row.service, c.services);
            if whole { row } else { Binding::default() }
        })?;
        copy.rows(name::MEMBERS, |row: Members| {
            row.map(|binding| if fits(binding, c.bindings) { binding } else { 0 })
        })?;
        copy.rows(name::CHOICES, |row: Choice| {
            let whole =
                table::choice_table(row) < c.tables && table::choice_members(row) < c.member_lists;
            if whole { row } else { 0 }
        })?;
        copy.index(name::LISTENER_INDEX, c.listeners)?;
        copy.index(name::ENDPOINT_INDEX, c.endpoints)?;
        copy.index(name::RULE_INDEX, c.choices)?;
        // Ids of host addresses are all 1.
        copy.index(name::HOST_INDEX, u32::MAX)
    }

    /// Copies the dialogs, as they stand now, of the bindings that `to` has.
    pub(crate) fn dialogs(from: &Path, to: &Path, now: Now) -> Result<Self> {
        let old = DialogTable::open(&mut |name| pinned(from, name))?;
        let new = DialogTable::open(&mut |name| pinned(to, name))?;
        let known = known_bindings(to)?;
        let before = old.read();
        let relined = reline::copy(&before, new.entries(), now, |binding| {
            known.get(usize::from(binding)).copied().unwrap_or(false)
        });
        Ok(Self { old, new, before, now, relined })
    }

    /// Copies what the old program learned since, now that no link runs it any more. Returns the
    /// number of entries.
    pub(crate) fn finish(&self) -> u64 {
        reline::catch_up(self.old.entries(), &self.before, self.new.entries(), self.now)
    }
}

/// Which binding ids have a record in the maps of `directory`.
fn known_bindings(directory: &Path) -> Result<Vec<bool>> {
    let bindings = Records::<Binding>::open(name::BINDINGS, &mut |name| pinned(directory, name))?;
    (0..bindings.len()).map(|id| Ok(bindings.get(id)?.endpoint != 0)).collect()
}

struct Copy<'a> {
    from: &'a Path,
    to: &'a Path,
}

impl Copy<'_> {
    fn open<V: Pod>(&self, name: &'static str) -> Result<(Records<V>, Records<V>)> {
        let from = Records::open(name, &mut |name| pinned(self.from, name))?;
        let to = Records::open(name, &mut |name| pinned(self.to, name))?;
        Ok((from, to))
    }

    /// Copies the rows that both have, each passed through `adapt`.
    fn rows<V: Pod>(&self, name: &'static str, adapt: impl Fn(V) -> V) -> Result<()> {
        let (from, mut to) = self.open::<V>(name)?;
        for row in 0..from.len().min(to.len()) {
            to.put(row, &adapt(from.get(row)?))?;
        }
        Ok(())
    }

    /// Puts the entries of an index whose ids are below `ids` where the new number of slots wants
    /// them.
    fn index(&self, name: &'static str, ids: u32) -> Result<()> {
        let (from, mut to) = self.open::<Slot>(name)?;
        let old: Vec<Slot> =
            (0..from.len()).map(|row| from.get(row)).collect::<std::result::Result<_, _>>()?;
        for (row, slot) in rehash(&old, to.len(), ids) {
            to.put(row, &slot)?;
        }
        Ok(())
    }
}

/// Rows and slots of an index with `rows` rows (a power of two). What finds no free row is left to
/// the reconciliation, which says so.
fn rehash(old: &[Slot], rows: u32, ids: u32) -> Vec<(u32, Slot)> {
    let mut taken = vec![false; rows as usize];
    old.iter()
        .filter(|slot| slot.id != 0 && u32::from(slot.id) < ids)
        .filter_map(|slot| {
            let first = index::first(&slot.socket, rows - 1);
            let row = (0..index::PROBES)
                .map(|probe| (first + probe) & (rows - 1))
                .find(|&row| taken.get(row as usize) == Some(&false))?;
            if let Some(taken) = taken.get_mut(row as usize) {
                *taken = true;
            }
            Some((row, *slot))
        })
        .collect()
}

/// Opens a pinned map.
pub(crate) fn pinned(directory: &Path, name: &'static str) -> Result<MapData> {
    let path: PathBuf = directory.join(name);
    MapData::from_pin(&path)
        .map_err(|cause| Error::aya(format!("open pinned map {}", path.display()), cause))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lb_common::addr::Socket;

    use super::*;

    #[test]
    fn an_index_of_another_size_still_finds_every_socket() {
        let socket = |port: u16| Socket::udp(SocketAddr::from(([10, 0, 0, 1], port)));
        let old: Vec<_> = (1..=100)
            .map(|id| Slot { socket: socket(5000 + id), id, pad: 0 })
            .chain([Slot { socket: socket(1), id: 0, pad: 0 }])
            .collect();
        for rows in [1024, 4096] {
            let rows_of: Vec<_> = rehash(&old, rows, 90);
            assert_eq!(rows_of.len(), 89, "free slots and ids from 90 on are left out");
            let mut table = vec![Slot::default(); rows as usize];
            for (row, slot) in rows_of {
                assert_eq!(table[row as usize].id, 0, "each row once");
                table[row as usize] = slot;
            }
            for id in 1..90 {
                let socket = socket(5000 + id);
                let first = index::first(&socket, rows - 1);
                let found = (0..index::PROBES)
                    .map(|probe| table[((first + probe) & (rows - 1)) as usize])
                    .find(|slot| index::holds(slot, &socket));
                assert_eq!(found.map(|slot| slot.id), Some(id));
            }
        }
    }
}
