//! Looking at pinned maps without holding them: `status` when the controller is gone, and the
//! pinned hash key for `replay`.

use std::path::Path;

use lb_common::maps::{Capacities, LAYOUT, name};

use super::{
    counters::Counters,
    dialogs::DialogTable,
    error::{Error, Result},
    generation, migrate,
    shape::{self, Shapes},
};
use crate::maps::kernel::KernelMaps;

/// The maps that carry traffic, or would.
#[derive(Debug)]
pub struct Inspected {
    /// For reading: whoever holds the pin directory writes them.
    pub maps: KernelMaps,
    pub counters: Counters,
    pub dialogs: DialogTable,
}

/// Opens the pinned maps below `pin_dir`; `None` if there are none.
///
/// # Errors
///
/// Maps of another layout, which another version of this program can read; missing rights.
pub fn inspect(pin_dir: &Path) -> Result<Option<Inspected>> {
    let running: Vec<_> = generation::links(pin_dir)?.iter().map(|link| link.program).collect();
    let Some(live) = generation::live(&generation::list(pin_dir)?, &running) else {
        return Ok(None);
    };
    if !live.has_our_layout() {
        return Err(Error::OtherLayout { path: live.path, layout: LAYOUT });
    }
    let capacities = capacities(&shape::pinned(&live.path)?)?;
    let mut open = |name| migrate::pinned(&live.path, name);
    Ok(Some(Inspected {
        maps: KernelMaps::open(capacities, &mut open)?,
        counters: Counters::open(&mut open)?,
        dialogs: DialogTable::open(&mut open)?,
    }))
}

/// The capacities that maps were made with.
fn capacities(shapes: &Shapes) -> Result<Capacities> {
    let entries = |name: &'static str| {
        shapes
            .get(name)
            .map(|shape| shape.entries)
            .ok_or(Error::Incomplete { kind: "pinned map", name })
    };
    Ok(Capacities {
        services: entries(name::TOUCHED)?,
        listeners: entries(name::LISTENERS)?,
        endpoints: entries(name::ENDPOINTS)?,
        bindings: entries(name::BINDINGS)?,
        choices: entries(name::CHOICES)?,
        member_lists: entries(name::MEMBERS)?,
        tables: entries(name::TABLES)?,
        dialog_lines: entries(name::DIALOGS)?,
        fragments: entries(name::FRAGMENTS)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_read_back_from_the_maps_made_for_them() {
        let made = Capacities::new(16, 32, 64, 8, 1024);
        assert_eq!(capacities(&shape::wanted(&made).unwrap()).unwrap(), made);
    }
}
