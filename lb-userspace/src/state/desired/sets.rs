//! Services and their sets: who is usable, and how new dialogs are shared out among them.

use std::collections::BTreeSet;

use lb_common::addr::Socket;

use super::{
    super::{
        Admin, Health, Standing, commanded,
        ids::{set_name, socket},
        route::{SetMember, SetTable},
        table::TableCache,
    },
    BackendState, Builder, ServiceState, SetState,
};
use crate::config::model::{AllDown, Backend, Initial, Service};

impl Builder<'_> {
    pub(super) fn service(&mut self, service: &Service, cache: &mut TableCache) {
        let Some(id) = self.ids.service(&service.name) else { return };
        let mut sets: Vec<_> = service
            .sets()
            .map(|set| self.set(id, service, set_name(&set), set.backends, cache))
            .collect();
        for &vip in &service.listen {
            self.listener(id, service, socket(vip, service.transport), &sets);
        }
        let own = sets.remove(0).0;
        let rules = sets.into_iter().map(|(state, _)| state).collect();
        self.out.services.insert(service.name.clone(), ServiceState { id, own, rules });
    }

    fn set(
        &mut self,
        id: u16,
        service: &Service,
        name: String,
        backends: &[Backend],
        cache: &mut TableCache,
    ) -> (SetState, SetTable) {
        let mut backends: Vec<_> =
            backends.iter().map(|backend| self.backend(service, backend)).collect();
        backends.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let suspected = self.inputs.suspected.contains(&service.name);
        let is_usable = |backend: &BackendState| {
            is_up(backend.standing, suspected)
                && !backend.standing.busy
                && backend.admin == Admin::Ready
        };
        let nobody = !backends.iter().any(is_usable);
        let kept = if nobody { self.kept(id, service, &name, &backends) } else { BTreeSet::new() };
        let members = backends.iter().map(|backend| SetMember {
            name: backend.name.clone(),
            priority: backend.priority,
            weight: backend.weight,
            usable: is_usable(backend) || kept.contains(&backend.endpoint),
        });
        let set = SetTable::new(members.collect(), service.balance, cache);
        for backend in &mut backends {
            backend.slots = set.slots(&backend.name);
            if let Some(endpoint) = self.ids.endpoint(&backend.endpoint) {
                *self.up.entry(endpoint).or_default() |=
                    is_up(backend.standing, suspected) || kept.contains(&backend.endpoint);
            }
        }
        let state = SetState {
            name,
            active_priority: set.active_priority.filter(|_tier| !nobody),
            keeps_last: !kept.is_empty(),
            table_digest: set.table.digest(),
            backends,
        };
        (state, set)
    }

    /// `all_down: keep-last`: the backends among which the last table shared out, but for those that
    /// the operator has taken out since.
    fn kept(
        &self,
        id: u16,
        service: &Service,
        set: &str,
        backends: &[BackendState],
    ) -> BTreeSet<Socket> {
        if service.all_down != AllDown::KeepLast {
            return BTreeSet::new();
        }
        // All listeners of a service share out alike.
        let choice = service.listen.first().and_then(|&vip| {
            let listener = self.ids.listener(id, socket(vip, service.transport))?;
            self.ids.choice(listener, set)
        });
        let last = choice.map(|choice| (self.last)(choice)).unwrap_or_default();
        let ready = backends.iter().filter(|backend| backend.admin == Admin::Ready);
        ready.map(|backend| backend.endpoint).filter(|endpoint| last.contains(endpoint)).collect()
    }

    fn backend(&self, service: &Service, backend: &Backend) -> BackendState {
        let endpoint = socket(backend.address, service.transport);
        let initial = match backend.health.as_ref().map(|check| check.initial) {
            None | Some(Initial::Up) => Standing::UP,
            Some(Initial::Down) => Standing::UNKNOWN,
        };
        BackendState {
            name: backend.name.clone(),
            endpoint,
            priority: backend.priority,
            weight: backend.weight,
            standing: self.inputs.health.get(&endpoint).copied().unwrap_or(initial),
            admin: backend.admin.max(commanded(self.inputs.admin, &service.name, &backend.name)),
            slots: 0,
        }
    }
}

/// Whether packets go there.
fn is_up(standing: Standing, suspected: bool) -> bool {
    match standing.health {
        Health::Up => true,
        Health::Down => suspected,
        Health::Unknown => false,
    }
}
