//! Bindings and endpoints: who packets go to and come from, those that are leaving included.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    backend::{Binding, Endpoint, endpoint, spoof},
    service::Name,
};

use super::{
    super::{Admin, Health, commanded},
    Builder, add_port,
};

impl Builder<'_> {
    /// All bindings, retired ones included.
    pub(super) fn bindings(&mut self) {
        let configured: BTreeMap<_, _> = self
            .inputs
            .config
            .services
            .iter()
            .flat_map(|s| s.all_backends().map(|b| ((s.name.as_str(), b.name.as_str()), b.admin)))
            .collect();
        for view in self.ids.views() {
            let Some(key) = self.ids.bindings.key(view.id) else { continue };
            let Some(listener) = self.ids.listeners.key(key.listener) else { continue };
            let by_command = commanded(self.inputs.admin, view.service, view.backend);
            let in_force = configured
                .get(&(view.service, view.backend))
                .map_or(by_command, |&admin| by_command.max(admin));
            let binding = Binding {
                endpoint: key.endpoint,
                listener: key.listener,
                service: listener.service,
                admin: Admin::value(in_force, by_command),
                retired: view.retired.into(),
                ..Binding::default()
            };
            self.out.bindings.insert(view.id, binding);
            self.out.backend_names.insert(view.id, Name::new(view.backend));
        }
    }

    /// All endpoints, those of retired bindings included.
    pub(super) fn endpoints(&mut self) {
        let mut listeners: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        // As sources of packets.
        let mut known = BTreeSet::new();
        for (&id, binding) in &self.out.bindings {
            if self.ids.info.get(&id).is_some_and(|info| !info.leaving) {
                known.insert(binding.endpoint);
            }
            listeners.entry(binding.endpoint).or_default().insert(binding.listener);
            // Only endpoints whose bindings are all retired have no primary one by now.
            self.primary.entry(binding.endpoint).or_insert(id);
        }
        for (id, key) in self.ids.endpoints.keys() {
            let Some(&primary) = self.primary.get(&id) else { continue };
            let up = self.up.get(&id).copied().unwrap_or_else(|| {
                // Removed from the configuration: up until the prober says otherwise.
                self.inputs.health.get(key).is_none_or(|s| s.health == Health::Up)
            });
            let mut record = Endpoint {
                socket: *key,
                primary,
                state: if up { endpoint::UP } else { endpoint::DOWN },
                spoof: self.ids.spoof.get(&id).copied().unwrap_or(spoof::STRICT),
                shared: listeners.get(&id).is_some_and(|l| l.len() > 1).into(),
                ..Endpoint::default()
            };
            if let Some(path) = self.inputs.network.paths.get(&key.addr) {
                record.next_hop = path.next_hop;
                for (slot, way) in record.ingress.iter_mut().zip(&path.ingress) {
                    *slot = *way;
                }
                record.paths = path.ingress.len().min(record.ingress.len()) as u8;
                if path.ingress.len() > record.ingress.len() {
                    self.out.notices.push(format!(
                        "packets of backend {} may arrive by {} interfaces and VLANs; only the \
                         first {} are accepted",
                        key.address(),
                        path.ingress.len(),
                        record.ingress.len()
                    ));
                }
            }
            self.out.endpoints.insert(id, record);
            if known.contains(&id) {
                self.out.endpoint_index.insert(*key, id);
                add_port(&mut self.out.ports[1], *key);
            }
        }
    }
}
