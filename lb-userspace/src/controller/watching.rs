//! Those who watch: the program that shows packets is on exactly while there is one.

use std::collections::BTreeMap;

use tracing::{error, info};

use super::Controller;
use crate::{
    datapath::{load, watch::Loaded},
    replay::names::Names,
    watch::{
        Wanted,
        hub::{self, Seat},
        stream::Join,
    },
};

impl Controller {
    /// Gives somebody a slot, and puts the watching program on if it is the first.
    pub(super) fn watch(&mut self, wanted: &Wanted, loaded: Option<Loaded>) -> Join {
        match self.try_watch(wanted, loaded) {
            Ok(join) => join,
            Err(why) => {
                self.stop_watching();
                Join::Refused(why)
            }
        }
    }

    fn try_watch(&mut self, wanted: &Wanted, loaded: Option<Loaded>) -> Result<Join, String> {
        let service = match &wanted.service {
            Some(name) => self.service_id(name)?,
            None => 0,
        };
        let filter = wanted.filter(self.key, service)?;
        if !self.live.is_watching() {
            let Some(loaded) = loaded else {
                let capacities = load::capacities(&self.source.config);
                return Ok(Join::Load(self.live.plan_watch(capacities)));
            };
            let rings = self.live.watch(loaded).map_err(|cause| cause.to_string())?;
            self.watch_readers =
                hub::follow(rings, &self.hub).map_err(|cause| format!("cannot watch: {cause}"))?;
            info!("somebody watches: the program that shows packets is on");
        }
        let seat = self.hub.join(wanted, filter)?;
        self.name_watched();
        match self.begin(&seat) {
            Ok(()) => Ok(Join::Seat(seat)),
            Err(why) => {
                self.hub.leave(seat.slot);
                Err(why)
            }
        }
    }

    fn service_id(&self, name: &str) -> Result<u16, String> {
        self.reconciler.ids().service(name).ok_or_else(|| {
            let names = self.source.config.services.iter().map(|service| service.name.as_str());
            let names: Vec<_> = names.collect();
            format!("no service {name} is configured; there are {}", names.join(", "))
        })
    }

    fn begin(&mut self, seat: &Seat) -> Result<(), String> {
        let failed = |cause: &dyn std::fmt::Display| format!("cannot watch: {cause}");
        let lost = self.watch_maps.lost().map_err(|cause| failed(&cause))?;
        if let (Some(before), Some(lost)) =
            (self.watch_lost.get_mut(seat.slot), lost.get(seat.slot))
        {
            *before = *lost;
        }
        self.watch_maps.set(&self.hub.filters()).map_err(|cause| failed(&cause))
    }

    /// Frees a slot; returns how many packets were not shown that should have been.
    pub(super) fn unwatch(&mut self, slot: usize) -> u64 {
        let missed = self.hub.leave(slot);
        let lost = match self.watch_maps.lost() {
            Ok(lost) => lost,
            Err(cause) => {
                error!("cannot read what was lost of packets that are watched: {cause}");
                self.watch_lost
            }
        };
        let of = |lost: &[u64]| lost.get(slot).copied().unwrap_or(0);
        let lost = of(&lost).saturating_sub(of(&self.watch_lost));
        if let Err(cause) = self.watch_maps.set(&self.hub.filters()) {
            error!("cannot write what is watched: {cause}");
        }
        self.stop_watching();
        missed + lost
    }

    /// Takes the watching program off if nobody watches.
    pub(super) fn stop_watching(&mut self) {
        if self.hub.watchers() > 0 || !self.live.has_watched() {
            return;
        }
        for reader in self.watch_readers.drain(..) {
            reader.abort();
        }
        match self.live.unwatch() {
            Ok(()) => info!("nobody watches any more: the program that shows packets is off"),
            // Tried again at the next tick.
            Err(cause) => error!("cannot take the program off that shows packets: {cause}"),
        }
    }

    /// Tells those who watch what ids are called now.
    pub(super) fn name_watched(&mut self) {
        if self.hub.watchers() == 0 {
            return;
        }
        let before = self.hub.filters();
        let interfaces: BTreeMap<u32, String> =
            self.network.links.iter().map(|(&index, link)| (index, link.name.clone())).collect();
        let names = Names::new(&self.source.config, &self.reconciler);
        let ids = self.reconciler.ids();
        self.hub.rename(names, interfaces, |service| ids.service(service));
        let filters = self.hub.filters();
        if filters != before
            && let Err(cause) = self.watch_maps.set(&filters)
        {
            error!("cannot write what is watched: {cause}");
        }
    }
}
