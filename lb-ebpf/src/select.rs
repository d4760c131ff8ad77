//! Hash → slot → member → binding → endpoint.

use lb_common::{
    backend::{Binding, Endpoint, endpoint},
    dialog::Entry,
    hash,
    service::{Listener, failover},
    sip::{Code, Method},
    table,
    verdict::Verdict,
};

use crate::maps;

/// A backend as seen from one listener.
#[derive(Clone, Copy)]
pub struct Target {
    pub id: u16,
    pub binding: &'static Binding,
    pub endpoint: &'static Endpoint,
}

impl Target {
    #[inline(always)]
    pub fn of(id: u16) -> Result<Self, Verdict> {
        let binding = maps::binding(id)?;
        if binding.endpoint == 0 {
            return Err(Verdict::MissingBinding);
        }
        let endpoint = maps::endpoint(binding.endpoint)?;
        if endpoint.state == endpoint::UNSET {
            return Err(Verdict::MissingEndpoint);
        }
        Ok(Self { id, binding, endpoint })
    }

    /// May it have the packets of a dialog that it holds? (A draining backend may.)
    #[inline(always)]
    pub fn is_usable(&self) -> bool {
        self.endpoint.state == endpoint::UP && !self.binding.is_in_maintenance()
    }

    /// Has it the packets of a dialog that it holds though it is not usable? Only if it is down:
    /// from a backend in maintenance the operator wants the dialogs away. And only of a confirmed
    /// dialog; the repetitions of the BYE that ended it are the last ones.
    #[inline(always)]
    pub fn keeps(&self, listener: &Listener, entry: Entry, message: Code) -> bool {
        listener.failover == failover::KEEP
            && (entry.is_confirmed() || message.is(Method::Bye))
            && !self.binding.is_in_maintenance()
    }
}

/// The binding that owns the slot of `hash` in the set of `choice`, 0 = none.
#[inline(always)]
pub fn owner(choice: u16, hash: u64) -> Result<u16, Verdict> {
    at_slot(choice, hash::slot(hash))
}

/// The binding that owns the slot of that number, modulo the number of slots, 0 = none.
#[inline(always)]
pub fn at_slot(choice: u16, slot: u32) -> Result<u16, Verdict> {
    let choice = maps::choice(choice)?;
    let table = table::choice_table(choice);
    if table == 0 {
        return Ok(0);
    }
    let member = maps::table(table)?[slot as usize & (table::SLOTS - 1)];
    if member == table::NO_MEMBER {
        return Ok(0);
    }
    Ok(maps::members(table::choice_members(choice))?[usize::from(member)])
}
