//! Reading and writing the dialog table. One line, single stores; see `lb_common::dialog`.

use lb_common::{
    dialog::{self, Entry, State, WAYS},
    hash,
    stats::Event,
    verdict::Verdict,
};

use crate::{
    clock::Now,
    count, maps,
    packet::{Flag, Packet},
};

/// Above every reluctance.
const NEVER: u32 = 0xfff;

/// Whose entry a look-up wants.
#[derive(Clone, Copy)]
pub struct Whose {
    pub service: u16,
    /// A backend's packet: the entry of this endpoint; failing that, one of the service is told
    /// too. 0 = a client's packet: any entry of the service.
    pub endpoint: u16,
}

/// What a look-up found.
#[derive(Clone, Copy)]
pub struct Found {
    /// The entry, 0 = none.
    pub entry: Entry,
    pub way: u32,
    /// It exists; the other one: it is the endpoint's that was asked for.
    exists: Flag,
}

impl Found {
    pub const NOTHING: Self = Self { entry: Entry(0), way: 0, exists: Flag::NO };

    #[inline(always)]
    pub fn exists(&self) -> bool {
        self.exists.is_set()
    }

    /// It is the endpoint's that was asked for, if one was.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.exists.other().is_set()
    }

    /// Its state as [`State::bits`] gives it, 0 if there is none.
    #[inline(always)]
    pub fn state(&self) -> u64 {
        self.entry.state_bits()
    }
}

/// The place of the entry that is missed least.
#[derive(Clone, Copy)]
pub struct Place {
    way: u32,
    least: u32,
    held: u64,
}

/// The dialog table at one hash.
#[derive(Clone, Copy)]
pub struct Dialogs {
    line: maps::Line,
    hash: u64,
    now: Now,
    packet: Packet,
}

impl Dialogs {
    #[inline(always)]
    pub fn at(packet: Packet, hash: u64, now: Now) -> Result<Self, Verdict> {
        let line = maps::line(dialog::line(hash, maps::dialog_mask()))?;
        Ok(Self { line, hash, now, packet })
    }

    /// Finds the live entry of the dialog.
    #[inline(always)]
    pub fn find(&self, whose: Whose) -> Result<Found, Verdict> {
        let mut found = Found::NOTHING;
        let (mut exists, mut owned) = (false, false);
        for way in 0..WAYS as u32 {
            let entry = Entry(self.line.load(way));
            if !entry.has_tag(self.hash) || entry.is_expired(self.now.epoch, self.now.lifetime) {
                continue;
            }
            let binding = maps::binding(entry.binding())?;
            let in_service = binding.service == whose.service;
            let is_own =
                if whose.endpoint == 0 { in_service } else { binding.endpoint == whose.endpoint };
            if is_own || in_service {
                found.entry = entry;
                found.way = way;
                exists = true;
            }
            if is_own {
                owned = true;
                break;
            }
        }
        found.way = self.packet.forget(found.way);
        found.exists = Flag::new(self.packet, exists).with(self.packet, owned);
        found.entry = Entry(self.packet.forget_all(found.entry.0));
        Ok(found)
    }

    /// The entry in `way` if it is the dialog's and live, of whatever service.
    #[inline(always)]
    pub fn entry(&self, way: u32) -> Option<Entry> {
        let entry = Entry(self.line.load(way));
        let is_live =
            entry.has_tag(self.hash) && !entry.is_expired(self.now.epoch, self.now.lifetime);
        is_live.then(|| Entry(self.packet.forget_all(entry.0)))
    }

    /// Replaces the entry in `way`, unless that would change nothing. `elsewhere` is 1 if the slot
    /// names another endpoint than `binding`, else 0.
    #[inline(always)]
    pub fn update(&self, way: u32, old: Entry, binding: u16, state: u64, elsewhere: u64) {
        let entry = Entry::with_bits(self.hash, binding, self.now.epoch, state, elsewhere);
        if entry != old {
            self.line.store(way, entry.0);
        }
        if state != old.state_bits() {
            if state == State::Ended.bits() {
                count::event(Event::DialogEnded);
                if old.is_confirmed() {
                    maps::add_load(old.binding(), -1);
                }
            } else if dialog::is_confirmed(state) && !old.is_confirmed() {
                count::event(Event::DialogConfirmed);
            } else if old.state_bits() == State::Ringing.bits() {
                count::event(Event::DialogRefused);
            }
        }
    }

    /// Adds an entry in the place of the one that is missed least; `elsewhere` as in
    /// [`Self::update`].
    #[inline(always)]
    pub fn insert(&self, binding: u16, state: u64, elsewhere: u64) {
        let (victim, least) = self.victim();
        if self.has_room(least, state, elsewhere) {
            self.line.store(victim, self.newcomer(binding, state, elsewhere).0);
        }
    }

    /// The place for a newcomer, for [`Self::claim`].
    #[inline(always)]
    pub fn place(&self) -> Place {
        let (way, least) = self.victim();
        Place { way, least, held: self.packet.forget_all(self.line.load(way)) }
    }

    /// As [`Self::insert`], but false if another CPU has changed the place meanwhile: nothing is added
    /// then. CPUs that add one dialog at the same time have the same place, so that one of them is the
    /// first; whoever looks for a place later sees what that one wrote.
    #[inline(always)]
    pub fn claim(&self, place: Place, binding: u16, state: u64, elsewhere: u64) -> bool {
        let Place { way, least, held } = place;
        if dialog::reluctance(held, self.now.epoch, self.now.lifetime) != least {
            return false;
        }
        let entry = self.newcomer(binding, state, elsewhere);
        if least < dialog::limit(state, elsewhere) && !self.line.exchange(way, held, entry.0) {
            return false;
        }
        self.has_room(least, state, elsewhere);
        true
    }

    /// The way of the entry that is missed least, and its reluctance.
    #[inline(always)]
    fn victim(&self) -> (u32, u32) {
        let mut victim = 0;
        let mut least = self.packet.forget(NEVER);
        for way in 0..WAYS as u32 {
            let rank = dialog::reluctance(self.line.load(way), self.now.epoch, self.now.lifetime);
            let rank = self.packet.forget(rank);
            if rank < self.packet.forget(least) {
                least = rank;
                victim = self.packet.forget(way);
            }
        }
        (victim, least)
    }

    /// May an entry of the reluctance `least` be given up for a newcomer? Counts what becomes of both.
    #[inline(always)]
    fn has_room(&self, least: u32, state: u64, elsewhere: u64) -> bool {
        if least >= dialog::limit(state, elsewhere) {
            count::event(Event::DialogLineFull);
            return false;
        }
        if least >= dialog::CONFIRMED {
            count::event(Event::DialogEvictedConfirmed);
        } else if least >= dialog::UNCONFIRMED {
            count::event(Event::DialogEvicted);
        }
        count::event(Event::DialogCreated);
        true
    }

    #[inline(always)]
    fn newcomer(&self, binding: u16, state: u64, elsewhere: u64) -> Entry {
        Entry::with_bits(self.hash, binding, self.now.epoch, state, elsewhere)
    }

    /// Marks the slot: an entry was stored whose endpoint is not the one that the slot would choose.
    /// Requests on marked slots look the table up.
    #[inline(always)]
    pub fn mark(&self, service: u16) {
        maps::touch(service, hash::slot(self.hash), self.now.epoch);
    }

    /// True if an entry may say something else than the slot.
    #[inline(always)]
    pub fn is_marked(&self, service: u16) -> Result<bool, Verdict> {
        let mark = u32::from(maps::touched(service, hash::slot(self.hash))?);
        // A mark of the next epoch counts: another CPU's clock may tick first.
        let age = lb_common::clock::age(self.now.epoch + 1, mark.wrapping_sub(1));
        Ok(mark != 0 && age <= self.now.lifetime + 1)
    }
}
