//! Which endpoint the published tables give a slot to, for the sweep of the dialog table.

use std::{collections::HashMap, sync::Arc};

use lb_common::{
    dialog::Entry,
    hash,
    table::{Choice, NO_MEMBER, choice_members, choice_table},
};

use super::applied::Applied;
use crate::state::table::SlotTable;

/// The owners of all slots, as of when it was made.
#[derive(Debug, Default)]
pub struct Owners {
    /// By binding id.
    bindings: Vec<Option<Place>>,
    choices: Vec<Owned>,
}

/// What a binding has to do with slots: its endpoint, and which of the choices places its dialogs.
#[derive(Clone, Copy, Debug)]
struct Place {
    endpoint: u16,
    choice: usize,
}

/// A choice: its table, and the endpoint of each member; without a table nobody owns a slot.
#[derive(Debug)]
struct Owned {
    table: Option<Arc<SlotTable>>,
    endpoints: Vec<u16>,
}

impl Owners {
    /// Reads them off what the maps hold.
    #[must_use]
    pub fn of(applied: &Applied) -> Self {
        let mut owners = Self::default();
        let mut known = HashMap::<Choice, Option<usize>>::new();
        for (&id, binding) in &applied.bindings {
            let place = applied.listeners.get(&binding.listener).and_then(|listener| {
                let choice = applied.choices.get(&listener.choice).copied().unwrap_or(0);
                let index = known.entry(choice).or_insert_with(|| {
                    owners.choices.push(Owned::of(applied, choice)?);
                    Some(owners.choices.len() - 1)
                });
                Some(Place { endpoint: binding.endpoint, choice: (*index)? })
            });
            let id = usize::from(id);
            if owners.bindings.len() <= id {
                owners.bindings.resize(id + 1, None);
            }
            if let Some(slot) = owners.bindings.get_mut(id) {
                *slot = place;
            }
        }
        owners
    }

    /// Whether the slot of an entry names another endpoint than the entry; `None` if its binding or
    /// its table is not known.
    #[must_use]
    pub fn is_elsewhere(&self, entry: Entry) -> Option<bool> {
        let place = (*self.bindings.get(usize::from(entry.binding()))?)?;
        let owned = self.choices.get(place.choice)?;
        Some(owned.endpoint(hash::slot(entry.0)) != place.endpoint)
    }
}

impl Owned {
    /// `None` if the table or the list is published but its content is not known.
    fn of(applied: &Applied, choice: Choice) -> Option<Self> {
        let table = u16::try_from(choice_table(choice)).ok()?;
        if table == 0 {
            return Some(Self { table: None, endpoints: Vec::new() });
        }
        let members = u16::try_from(choice_members(choice)).ok()?;
        let endpoint = |id: &u16| applied.bindings.get(id).map_or(0, |binding| binding.endpoint);
        Some(Self {
            table: Some(Arc::clone(applied.tables.get(&table)?)),
            endpoints: applied.members.get(&members)?.iter().map(endpoint).collect(),
        })
    }

    /// The endpoint of a slot, 0 = none.
    fn endpoint(&self, slot: u32) -> u16 {
        let member = self.table.as_ref().and_then(|table| table.slots().get(slot as usize));
        match member {
            Some(&member) if member != NO_MEMBER => {
                self.endpoints.get(usize::from(member)).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        backend::Binding,
        dialog::State,
        maps::Capacities,
        service::Listener,
        table::{MEMBERS, SLOTS, choice},
    };

    use super::*;

    /// Bindings 1 and 2 of listener 1 and binding 3 of listener 2, of endpoints 11, 12 and 11; even
    /// slots belong to the first.
    fn applied() -> Applied {
        let mut applied = Applied::new(Capacities::new(4, 16, 32, 4, 64));
        for (id, endpoint, listener) in [(1, 11, 1), (2, 12, 1), (3, 11, 2)] {
            applied.bindings.insert(id, Binding { endpoint, listener, ..Binding::default() });
        }
        for id in [1, 2] {
            applied.listeners.insert(id, Listener { choice: id, ..Listener::default() });
        }
        let mut slots = Box::new([0; SLOTS]);
        slots.iter_mut().skip(1).step_by(2).for_each(|slot| *slot = 1);
        slots[4] = NO_MEMBER;
        applied.tables.insert(7, Arc::new(SlotTable::new(slots)));
        let mut members = [0; MEMBERS];
        members[..2].copy_from_slice(&[1, 2]);
        applied.members.insert(5, members);
        applied.choices.insert(1, choice(7, 5));
        applied
    }

    fn entry(slot: u64, binding: u16) -> Entry {
        Entry::new(slot << 48 | 0xabcd << 26, binding, 3, State::Unconfirmed)
    }

    #[test]
    fn an_entry_is_elsewhere_if_its_slot_names_another_endpoint() {
        let owners = Owners::of(&applied());
        for (slot, binding, expected) in [
            (2, 1, Some(false)),
            (3, 1, Some(true)),
            (2, 2, Some(true)),
            (3, 2, Some(false)),
            // Nobody's slot.
            (4, 1, Some(true)),
            // A listener without a table.
            (2, 3, Some(true)),
            // No such binding.
            (2, 9, None),
            (2, 0, None),
        ] {
            assert_eq!(owners.is_elsewhere(entry(slot, binding)), expected, "{slot} {binding}");
        }
    }

    #[test]
    fn what_is_published_but_not_known_is_not_judged() {
        let mut applied = applied();
        applied.tables.clear();
        let owners = Owners::of(&applied);
        assert_eq!(owners.is_elsewhere(entry(2, 1)), None);
        assert_eq!(owners.is_elsewhere(entry(2, 3)), Some(true));
    }
}
