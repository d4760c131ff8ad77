//! One round from the state to the maps, and the comparison of both.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use tracing::{debug, error, warn};

use super::{Controller, TICK, view};
use crate::{
    config::{
        Config,
        model::{ControllerLost, Transport},
    },
    datapath::clock::Heart,
    state::{self, desired::Inputs, ids},
};

impl Controller {
    /// One round from the state to the maps.
    pub(super) fn reconcile(&mut self) {
        let epoch = match self.heart.now() {
            Ok(now) => now.epoch,
            Err(cause) => {
                error!("cannot read the datapath's clock: {cause}");
                self.is_written = false;
                self.retry_at = Some(Instant::now() + TICK);
                return;
            }
        };
        let now = Instant::now();
        let config = &self.source.config;
        let addresses: BTreeSet<IpAddr> =
            self.probed_endpoints.keys().map(SocketAddr::ip).collect();
        let view = view::view(&self.network, &config.interfaces, &addresses);
        let standings = self
            .health
            .iter()
            .map(|(&endpoint, health)| {
                let standing = health.standing(now);
                let socket = ids::socket(endpoint, Transport::Udp);
                (socket, state::Standing { health: standing.state.into(), busy: standing.busy })
            })
            .collect();
        let inputs = Inputs {
            config,
            health: &standings,
            admin: &self.admin,
            suspected: &self.suspected,
            network: &view,
            key: self.key,
            lost_after: lost_after(config),
        };
        let origin = self.origin;
        let outcome =
            self.reconciler.reconcile(&mut self.maps, &inputs, epoch, &|| origin.elapsed());
        if outcome.done > 0 {
            debug!(writes = outcome.done, "maps written");
        }
        self.is_written = outcome.failure.is_none();
        self.is_ready |= outcome.failure.is_none();
        if let Some(failure) = &outcome.failure {
            error!("{failure}; trying again");
        }
        self.retry_at = outcome.retry_at.map(|at| origin + at);
        let mut notices: BTreeSet<String> =
            outcome.problems.iter().map(ToString::to_string).collect();
        if let Some(desired) = self.reconciler.desired() {
            notices.extend(desired.notices.iter().cloned());
        }
        for notice in notices.difference(&self.notices) {
            warn!("{notice}");
        }
        self.notices = notices;
        self.name_watched();
    }

    /// Compares the maps with what was written, and repairs what somebody else changed.
    pub(super) fn verify(&mut self) {
        match self.reconciler.verify(&self.maps) {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                for difference in &differences {
                    warn!("{difference}; writing it again");
                }
                self.reconcile();
            }
            Err(cause) => error!("cannot verify the maps: {cause}"),
        }
    }
}

/// Jiffies without a heartbeat after which the program stands aside; 0 = never.
fn lost_after(config: &Config) -> u64 {
    match config.controller_lost {
        ControllerLost::Keep => 0,
        ControllerLost::DetachAfter(duration) => Heart::jiffies(duration).unwrap_or_else(|cause| {
            error!("controller_lost is not in force: {cause}");
            0
        }),
    }
}
