//! Whom packets without the ports of a listener are told by: addresses of fragments, Via headers.

use std::collections::BTreeMap;

use lb_common::{addr::Socket, backend::Binding, maps::address};

use super::{
    super::{
        ids::socket,
        senders::{self, Named},
    },
    Builder,
};
use crate::config::alias::Alias;

impl Builder<'_> {
    /// Whose later fragments, which have no ports, may be ours.
    pub(super) fn addresses(&mut self) {
        let vips = self.out.listener_index.keys().map(|vip| (vip.addr, address::VIP));
        let backends = self.out.endpoint_index.keys().map(|to| (to.addr, address::BACKEND));
        let mut index = BTreeMap::<Socket, u16>::new();
        for (addr, bit) in vips.chain(backends) {
            *index.entry(Socket::host(addr)).or_default() |= bit;
        }
        self.out.address_index = index;
    }

    /// Who Via headers of responses to each configured listener may name.
    pub(super) fn senders(&mut self) {
        let mut bindings: BTreeMap<u16, Vec<(u16, &Binding)>> = BTreeMap::new();
        for (&id, binding) in &self.out.bindings {
            bindings.entry(binding.listener).or_default().push((id, binding));
        }
        let mut index = BTreeMap::new();
        for service in &self.inputs.config.services {
            let mut aliases: BTreeMap<_, &[Alias]> = BTreeMap::new();
            for backend in service.sets().flat_map(|set| set.backends) {
                if !backend.aliases.is_empty() {
                    aliases.entry(backend.address).or_insert(&backend.aliases);
                }
            }
            for &vip in &service.listen {
                let listener = self
                    .ids
                    .service(&service.name)
                    .and_then(|id| self.ids.listener(id, socket(vip, service.transport)));
                let Some(listener) = listener else { continue };
                let mut named: Vec<_> = bindings
                    .get(&listener)
                    .into_iter()
                    .flatten()
                    .filter_map(|&(binding, record)| {
                        let address = self.ids.endpoints.key(record.endpoint)?.address();
                        let aliases = aliases.get(&address).copied().unwrap_or_default();
                        let endpoint = record.endpoint;
                        let shared =
                            self.out.endpoints.get(&endpoint).is_some_and(|e| e.shared != 0);
                        let named = Named { binding, endpoint, shared, address, aliases };
                        Some((record.retired, named))
                    })
                    .collect();
                // Those that are configured first.
                named.sort_by_key(|(retired, _)| *retired);
                let named: Vec<_> = named.into_iter().map(|(_, named)| named).collect();
                if let Some(record) = self.out.listeners.get_mut(&listener) {
                    record.shared = named.iter().any(|backend| backend.shared).into();
                }
                senders::add(&mut index, self.inputs.key, listener, &named);
            }
        }
        self.out.sender_index = index;
    }
}
