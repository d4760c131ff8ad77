//! Who watches, and what each is shown.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lb_common::{
    slow::Record,
    watch::{self, Facts, Filter, Filters, SLOTS, Sample, Seen, wants},
};
use nix::time::{ClockId, clock_gettime};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};
use tracing::error;

use super::{Sight, Wanted, datagrams::Datagrams, sight::View};
use crate::{
    replay::names::Names,
    slow::{fragments::arrival, rings::Ring},
};

/// Packets that may wait for one watcher to take them.
const QUEUE: usize = 1024;

/// What the hub is given when a service is gone: no packet has this service.
const GONE: u16 = u16::MAX;

/// A place among those who watch.
#[derive(Debug)]
pub struct Seat {
    pub slot: usize,
    pub sights: mpsc::Receiver<Arc<Sight>>,
}

/// All who watch.
#[derive(Debug, Default)]
pub struct Hub(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: [Option<Slot>; SLOTS],
    view: View,
}

#[derive(Debug)]
struct Slot {
    filter: Filter,
    service: Option<String>,
    datagrams: Datagrams,
    out: mpsc::Sender<Arc<Sight>>,
    /// What it did not take in time.
    missed: u64,
}

impl Hub {
    /// Takes a slot for somebody.
    ///
    /// # Errors
    ///
    /// If none is free.
    pub fn join(&self, wanted: &Wanted, filter: Filter) -> Result<Seat, String> {
        let mut inner = self.lock();
        if inner.slots.iter().all(Option::is_none) {
            inner.view.clock = since_1970();
        }
        let free = inner.slots.iter_mut().enumerate().find(|(_, slot)| slot.is_none());
        let Some((slot, place)) = free else {
            return Err(format!(
                "{SLOTS} watch already, and more cannot: end a `sip-lb capture` or `sip-lb trace`"
            ));
        };
        let (out, sights) = mpsc::channel(QUEUE);
        *place = Some(Slot {
            filter,
            service: wanted.service.clone(),
            datagrams: Datagrams::default(),
            out,
            missed: 0,
        });
        Ok(Seat { slot, sights })
    }

    /// Frees a slot; returns how many packets its watcher did not take in time.
    pub fn leave(&self, slot: usize) -> u64 {
        let mut inner = self.lock();
        let place = inner.slots.get_mut(slot).and_then(Option::take);
        place.map_or(0, |slot| slot.missed)
    }

    /// How many watch.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.lock().slots.iter().flatten().count()
    }

    /// What the program is to hand over.
    #[must_use]
    pub fn filters(&self) -> Filters {
        let inner = self.lock();
        std::array::from_fn(|n| {
            let slot = inner.slots.get(n).and_then(Option::as_ref);
            slot.map_or(Filter::default(), |slot| slot.filter)
        })
    }

    /// Tells what ids are called now, and which id a service has.
    pub(crate) fn rename(
        &self,
        names: Names,
        interfaces: BTreeMap<u32, String>,
        id: impl Fn(&str) -> Option<u16>,
    ) {
        let mut inner = self.lock();
        let clock = inner.view.clock;
        inner.view = View { names, interfaces, clock };
        for slot in inner.slots.iter_mut().flatten() {
            if let Some(service) = &slot.service {
                slot.filter.service = id(service).unwrap_or(GONE);
            }
        }
    }

    /// Shows what the program has handed over.
    pub fn show(&self, sample: &Sample) {
        let mut inner = self.lock();
        let Inner { slots, view } = &mut *inner;
        let Some(sight) = Sight::of(sample, view).map(Arc::new) else { return };
        let decision = &sample.seen.decision;
        let facts = Facts {
            hash: decision.hash,
            has_call_id: decision.call_id_len != 0,
            is_piece: watch::has(watch::PIECES, decision.verdict),
            // Compared by name below.
            service: 0,
        };
        for (n, slot) in slots.iter_mut().enumerate() {
            if sample.seen.wanted >> n & 1 == 0 {
                continue;
            }
            if let Some(slot) = slot {
                slot.consider(&sight, facts, sample);
            }
        }
    }

    /// Shows an answer of the controller to a request that the program handed over.
    pub fn answered(&self, record: &Record, request: &[u8], answer: &[u8]) {
        let mut inner = self.lock();
        let Inner { slots, view } = &mut *inner;
        if slots.iter().all(Option::is_none) {
            return;
        }
        let time = monotonic().wrapping_add(view.clock);
        let Some(sight) = Sight::answered(&record.decision, request, answer, view, time) else {
            return;
        };
        let facts = Facts {
            hash: record.decision.hash,
            has_call_id: sight.call_id.is_some(),
            is_piece: false,
            service: 0,
        };
        let sight = Arc::new(sight);
        for slot in slots.iter_mut().flatten() {
            if slot.wants(&sight, facts) {
                slot.send(&sight);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Slots are changed one by one: a panic leaves no half state behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The program has compared too, but perhaps for the slot's former watcher.
    fn wants(&self, sight: &Sight, facts: Facts) -> bool {
        let is_theirs = self.service.is_none() || self.service == sight.service;
        is_theirs && Filter { service: 0, ..self.filter }.suits(facts)
    }

    fn consider(&mut self, sight: &Arc<Sight>, facts: Facts, sample: &Sample) {
        if !self.wants(sight, facts) {
            return;
        }
        let fragment = if self.filter.by_call == 0 { None } else { arrival(&sample.came) };
        let now = Duration::from_nanos(sample.seen.came);
        if let Some(fragment) = fragment {
            if facts.is_piece {
                if !self.datagrams.later(&fragment.key, now, sight) {
                    return;
                }
            } else if !fragment.piece.is_last {
                self.send(sight);
                for early in self.datagrams.first(&fragment.key, now) {
                    self.send(&early);
                }
                return;
            }
        }
        self.send(sight);
    }

    fn send(&mut self, sight: &Arc<Sight>) {
        let sight = match self.filter.wants {
            // Another one wanted the packets.
            wants::DECISIONS if sight.came.is_some() || sight.left.is_some() => {
                Arc::new(sight.without_packets())
            }
            _ => Arc::clone(sight),
        };
        if self.out.try_send(sight).is_err() {
            self.missed += 1;
        }
    }
}

/// Reads the rings until it is aborted.
///
/// # Errors
///
/// If the runtime cannot wait for a ring.
pub fn follow(rings: Vec<Ring>, hub: &Arc<Hub>) -> io::Result<Vec<JoinHandle<()>>> {
    rings.into_iter().map(|ring| Ok(tokio::spawn(read(ring.wait()?, Arc::clone(hub))))).collect()
}

async fn read(mut ring: AsyncFd<Ring>, hub: Arc<Hub>) {
    loop {
        let mut guard = match ring.readable_mut().await {
            Ok(guard) => guard,
            Err(cause) => return error!("cannot wait for packets that are watched: {cause}"),
        };
        // Before reading, so that what comes meanwhile wakes this task again.
        guard.clear_ready();
        // What found the ring full, the program has counted.
        guard.get_inner_mut().samples(|sample| {
            if let Some(sample) = Seen::split(sample) {
                hub.show(&sample);
            }
        });
    }
}

fn monotonic() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

/// What is added to CLOCK_MONOTONIC for the time since 1970.
fn since_1970() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, nanoseconds).wrapping_sub(monotonic())
}

fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use lb_common::verdict::{Decision, Exit, Verdict};

    use super::*;

    fn join(hub: &Hub, wanted: &Wanted) -> Seat {
        let key = lb_common::hash::HashKey::default();
        let filter = wanted.filter(key, u16::from(wanted.service.is_some())).unwrap();
        hub.join(wanted, filter).unwrap()
    }

    fn sample(wanted: u8, call_id: &str) -> Sample {
        let filter = Wanted { call_id: Some(call_id.to_owned()), ..Wanted::default() }
            .filter(lb_common::hash::HashKey::default(), 0)
            .unwrap();
        let decision = Decision {
            verdict: Verdict::Dialog as u8,
            exit: Exit::Tx as u8,
            hash: filter.hash,
            call_id_len: 1,
            listener: 1,
            ..Decision::default()
        };
        let seen = Seen { decision, wanted, len: 4, came_len: 4, ..Seen::default() };
        Sample { seen, came: b"came".to_vec(), left: b"left".to_vec() }
    }

    fn taken(seat: &mut Seat) -> usize {
        let mut count = 0;
        while seat.sights.try_recv().is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn each_is_shown_what_the_program_says_and_it_asked_for() {
        let hub = Hub::default();
        let all = Wanted { packets: true, ..Wanted::default() };
        let call = Wanted { call_id: Some("abc".to_owned()), ..Wanted::default() };
        let (mut all, mut call) = (join(&hub, &all), join(&hub, &call));
        let mut other =
            join(&hub, &Wanted { service: Some("other".to_owned()), ..Wanted::default() });
        assert_eq!((all.slot, call.slot, other.slot, hub.watchers()), (0, 1, 2, 3));
        hub.show(&sample(0b111, "abc"));
        let seen = all.sights.try_recv().unwrap();
        assert_eq!(seen.left.as_ref().unwrap().bytes, b"left");
        let seen = call.sights.try_recv().unwrap();
        assert_eq!((&seen.came, &seen.left), (&None, &None), "it asked for decisions only");
        // What the program found for a watcher that was in this slot before.
        hub.show(&sample(0b110, "xyz"));
        assert_eq!([&mut all, &mut call, &mut other].map(taken), [0, 0, 0]);
    }

    #[test]
    fn what_a_slow_watcher_does_not_take_is_counted_for_it_alone() {
        let hub = Hub::default();
        let (slow, mut quick) = (join(&hub, &Wanted::default()), join(&hub, &Wanted::default()));
        for _ in 0..QUEUE + 3 {
            hub.show(&sample(0b11, "abc"));
            assert_eq!(taken(&mut quick), 1);
        }
        assert_eq!((hub.leave(slow.slot), hub.leave(quick.slot)), (3, 0));
        assert_eq!(hub.filters(), Filters::default());
    }

    #[test]
    fn slots_are_given_out_again_and_no_more_than_there_are() {
        let hub = Hub::default();
        let seats: Vec<_> = (0..SLOTS).map(|_| join(&hub, &Wanted::default())).collect();
        let refused = hub.join(&Wanted::default(), Filter::default()).unwrap_err();
        assert!(refused.contains("8 watch already"), "{refused}");
        hub.leave(seats[4].slot);
        assert_eq!(join(&hub, &Wanted::default()).slot, 4);
    }

    #[test]
    fn a_service_is_followed_to_its_id_and_matches_nothing_while_it_is_gone() {
        let hub = Hub::default();
        let wanted = Wanted { service: Some("trunk".to_owned()), ..Wanted::default() };
        let seat = join(&hub, &wanted);
        let id = |hub: &Hub| hub.filters()[seat.slot].service;
        assert_eq!(id(&hub), 1);
        hub.rename(Names::default(), BTreeMap::new(), |name| (name == "trunk").then_some(9));
        assert_eq!(id(&hub), 9);
        hub.rename(Names::default(), BTreeMap::new(), |_| None);
        assert_eq!(id(&hub), GONE);
    }
}
