//! Ids of a decision → what the configuration calls them.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::verdict::Decision;

use crate::{
    config::Config,
    reconcile::Reconciler,
    state::ids::{BindingView, socket},
};

/// A backend as users know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
}

/// All names, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    bindings: BTreeMap<u16, Backend>,
    /// Service by listener.
    services: BTreeMap<u16, String>,
    /// Binding by endpoint: the one whose VIP its packets bear unless a dialog says otherwise.
    primary: BTreeMap<u16, u16>,
}

impl Names {
    /// After a round of the reconciler.
    #[must_use]
    pub(crate) fn new(config: &Config, reconciler: &Reconciler) -> Self {
        let ids = reconciler.ids();
        let of_view = |view: BindingView<'_>| Backend {
            service: view.service.to_owned(),
            name: view.backend.to_owned(),
            address: view.endpoint.address(),
        };
        let listeners = config.services.iter().flat_map(|service| {
            let id = ids.service(&service.name);
            service.listen.iter().filter_map(move |&vip| {
                let listener = ids.listener(id?, socket(vip, service.transport))?;
                Some((listener, service.name.clone()))
            })
        });
        let endpoints = reconciler.desired().map(|desired| &desired.endpoints);
        Self {
            bindings: ids.views().map(|view| (view.id, of_view(view))).collect(),
            services: listeners.collect(),
            primary: endpoints.into_iter().flatten().map(|(&id, e)| (id, e.primary)).collect(),
        }
    }

    /// The chosen backend; of a packet that comes from a backend, that one.
    #[must_use]
    pub(crate) fn backend(&self, decision: &Decision) -> Option<&Backend> {
        let id = match (decision.binding, decision.listener) {
            (0, 0) => self.primary.get(&decision.endpoint)?,
            (0, _) => return None,
            (chosen, _) => return self.bindings.get(&chosen),
        };
        self.bindings.get(id)
    }

    /// The service that a packet was addressed to.
    #[must_use]
    pub(crate) fn service(&self, decision: &Decision) -> Option<&str> {
        self.services.get(&decision.listener).map(String::as_str)
    }

    /// Length of the longest `service/backend`.
    #[must_use]
    pub(crate) fn width(&self) -> usize {
        let length = |b: &Backend| b.service.chars().count() + 1 + b.name.chars().count();
        self.bindings.values().map(length).max().unwrap_or(0)
    }
}
