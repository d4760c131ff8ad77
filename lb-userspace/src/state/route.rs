//! Where a Call-ID goes, computed as the datapath does: for `route`, `check` and tests.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::{
    hash::{self, HashKey},
    sip::{self, Payload},
    table::{Contender, NO_MEMBER, SLOTS, seed},
};
use sha2::{Digest as _, Sha256};

use super::{
    table::{Fill, SlotTable, TableCache},
    tier::{self, Active, Member},
};
use crate::config::model::{Admin, Backend, Balance, Service};

/// Set before the secret, so that its digest serves this purpose alone.
const DOMAIN: &[u8] = b"sip-lb call-id hash key 1\0";

/// The key of the Call-ID hash: the first 16 bytes of SHA-256 over a fixed prefix and `hash_key`, as
/// two little-endian words. The empty secret is as valid as any.
#[must_use]
pub fn derive_key(hash_key: &str) -> HashKey {
    let digest = Sha256::new().chain_update(DOMAIN).chain_update(hash_key).finalize();
    let word = |at: usize| {
        digest.iter().skip(at).take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    HashKey { k0: word(0), k1: word(8) }
}

/// The hash of a Call-ID, by the datapath's own scanner; `None` if it is empty or contains what
/// ends a Call-ID (SP, HTAB, CR, LF).
#[must_use]
pub fn call_id_hash(key: HashKey, call_id: &[u8]) -> Option<u64> {
    if call_id.is_empty() || call_id.iter().any(|byte| b" \t\r\n".contains(byte)) {
        return None;
    }
    const NAME: &[u8] = b"Call-ID:";
    let payload = Payload::new(&[NAME, b" ", call_id, b"\r\n\r\n"].concat());
    Some(sip::call_id(&payload, NAME.len() as u32, key)??.hash)
}

/// A set with its slot table: who gets which share of new dialogs.
#[derive(Clone, Debug)]
pub struct SetTable {
    /// Names by member index (ascending), with priority and weight.
    pub members: Vec<SetMember>,
    /// The tier in use; `None` without a usable member.
    pub active_priority: Option<u16>,
    pub table: Arc<SlotTable>,
}

/// A member of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMember {
    pub name: String,
    pub priority: u16,
    pub weight: u16,
    pub usable: bool,
}

impl SetTable {
    /// Sorts `members` by name (the member index), picks the tier and fills the table that
    /// `balance` needs.
    #[must_use]
    pub fn new(mut members: Vec<SetMember>, balance: Balance, cache: &mut TableCache) -> Self {
        members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let judged: Vec<_> = members
            .iter()
            .map(|m| Member { priority: m.priority, weight: m.weight, usable: m.usable })
            .collect();
        let Active { priority, contenders } = tier::active(&judged);
        let contenders: Vec<_> = contenders
            .into_iter()
            .filter_map(|(index, weight)| {
                let name = &members.get(index)?.name;
                Some(Contender { member: index as u8, seed: seed(name), weight })
            })
            .collect();
        let fill = if balance == Balance::RoundRobin { Fill::Sequence } else { Fill::Rendezvous };
        Self { members, active_priority: priority, table: cache.table(fill, &contenders) }
    }

    /// Slots of the backend called `name`; 0 if there is none.
    #[must_use]
    pub fn slots(&self, name: &str) -> u32 {
        self.index(name).map_or(0, |index| self.table.owned(index))
    }

    /// Fraction of new dialogs that go to `name`: exact slots / 65,536.
    #[must_use]
    pub fn share(&self, name: &str) -> f64 {
        f64::from(self.slots(name)) / SLOTS as f64
    }

    /// The backend of a hash.
    #[must_use]
    pub fn backend(&self, hash: u64) -> Option<&str> {
        let member = *self.table.slots().get(hash::slot(hash) as usize)?;
        if member == NO_MEMBER {
            return None;
        }
        self.members.get(usize::from(member)).map(|m| m.name.as_str())
    }

    fn index(&self, name: &str) -> Option<u8> {
        let index = self.members.binary_search_by(|m| m.name.as_str().cmp(name)).ok()?;
        u8::try_from(index).ok()
    }
}

/// The table of a configured set with every backend up but those in `down`; those that the
/// configuration drains or keeps in maintenance have no slots.
#[must_use]
pub fn expected(
    backends: &[Backend],
    balance: Balance,
    down: &BTreeSet<&str>,
    cache: &mut TableCache,
) -> SetTable {
    let members = backends
        .iter()
        .map(|b| SetMember {
            name: b.name.clone(),
            priority: b.priority,
            weight: b.weight,
            usable: b.admin == Admin::Ready && !down.contains(b.name.as_str()),
        })
        .collect();
    SetTable::new(members, balance, cache)
}

/// Text that cannot be a Call-ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Call-ID: it must not be empty and must not contain spaces, tabs or line ends")]
pub struct NotACallId(pub String);

/// The backend that a new dialog with this Call-ID goes to, with every backend up but those in
/// `down`; `None` if none is usable.
///
/// # Errors
/// If `call_id` cannot stand in a message.
pub fn backend_of(
    service: &Service,
    key: HashKey,
    call_id: &str,
    down: &BTreeSet<&str>,
) -> Result<Option<String>, NotACallId> {
    let hash =
        call_id_hash(key, call_id.as_bytes()).ok_or_else(|| NotACallId(call_id.to_owned()))?;
    let set = expected(&service.backends, service.balance, down, &mut TableCache::default());
    Ok(set.backend(hash).map(str::to_owned))
}
