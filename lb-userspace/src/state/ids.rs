//! Which id stands for which service, listener, endpoint, binding and choice.
//!
//! Dialogs hold binding ids, so an id keeps its meaning for as long as anything may refer to it:
//! what a reload removes is *retired* until a sweep of the dialog table finds no reference, and a
//! freed id is given out again only when the maps no longer hold its record and all others had
//! their turn.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    addr::{self, Socket},
    hash::{self, HashKey},
    maps::Capacities,
    service::Name,
};

use crate::config::model::{Config, Service, Set, SpoofCheck, Transport};

/// Name of a service's own set; sets of rules have others.
pub const OWN_SET: &str = "";

/// The name of a set as the maps have it: names that are too long end in a digest.
#[must_use]
pub fn set_name(set: &Set<'_>) -> String {
    let name = set.name();
    if name.len() <= Name::MAX {
        return name;
    }
    let digest = hash::bytes(HashKey { k0: 0, k1: 0 }, name.as_bytes());
    // Domains are ASCII.
    format!("{}~{digest:016x}", name.get(..Name::MAX - 17).unwrap_or_default())
}

/// A configured number of things exceeds what the maps were made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} {what} are needed, {retired} of them for removed backends that live dialogs still \
     use, but {key} allows {available}: raise {key} and restart, or configure fewer"
)]
pub struct CapacityError {
    /// The configuration key, such as `limits.bindings`.
    pub key: &'static str,
    pub what: &'static str,
    pub needed: usize,
    pub retired: usize,
    pub available: usize,
}

/// A VIP of a service. A VIP that moves to another service is another listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerKey {
    pub service: u16,
    pub socket: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingKey {
    pub listener: u16,
    pub endpoint: u16,
}

/// A set of a listener, by the set's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChoiceKey {
    pub listener: u16,
    pub set: String,
}

/// What is known of a binding beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    /// Name of the backend.
    pub backend: String,
    /// No longer configured.
    pub retired: bool,
    /// Retired and in no dialog when last looked for: its endpoint may start none any more.
    pub leaving: bool,
}

/// Ids that records in the maps still use, whatever they mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    pub services: BTreeSet<u16>,
    pub listeners: BTreeSet<u16>,
    pub endpoints: BTreeSet<u16>,
    pub bindings: BTreeSet<u16>,
    pub choices: BTreeSet<u16>,
}

/// What admitting a configuration has changed; binding ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Given out now: their counters start at zero.
    pub added: Vec<u16>,
    /// Removed by this configuration.
    pub retired: Vec<u16>,
    /// Retired before, configured again.
    pub revived: Vec<u16>,
}

/// A binding as users know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingView<'a> {
    pub id: u16,
    pub service: &'a str,
    pub backend: &'a str,
    pub listener: Socket,
    pub endpoint: Socket,
    pub endpoint_id: u16,
    pub retired: bool,
}

/// All ids in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    pub(crate) services: Pool<String>,
    pub(crate) listeners: Pool<ListenerKey>,
    pub(crate) endpoints: Pool<Socket>,
    pub(crate) bindings: Pool<BindingKey>,
    pub(crate) choices: Pool<ChoiceKey>,
    pub(crate) info: BTreeMap<u16, BindingInfo>,
    /// Strictest check that an endpoint's services asked for ([`lb_common::backend::spoof`]); kept
    /// for endpoints that are no longer configured.
    pub(crate) spoof: BTreeMap<u16, u8>,
}

/// The socket of a configured VIP or backend.
#[must_use]
pub fn socket(address: std::net::SocketAddr, transport: Transport) -> Socket {
    let protocol = match transport {
        Transport::Udp => addr::UDP,
    };
    Socket { protocol, ..Socket::udp(address) }
}

/// The value of a `spoof_check` in an endpoint.
#[must_use]
pub const fn spoof(check: SpoofCheck) -> u8 {
    match check {
        SpoofCheck::Strict => lb_common::backend::spoof::STRICT,
        SpoofCheck::Interface => lb_common::backend::spoof::INTERFACE,
        SpoofCheck::Off => lb_common::backend::spoof::OFF,
    }
}

impl Ids {
    /// No id in use.
    #[must_use]
    pub fn new(capacities: &Capacities) -> Self {
        // Listeners and choices are counted in services, see `Capacities::new`.
        Self {
            services: Pool::new("services", "limits.services", capacities.services),
            listeners: Pool::new("listeners", "limits.services (4 each)", capacities.listeners),
            endpoints: Pool::new("endpoints", "limits.endpoints", capacities.endpoints),
            bindings: Pool::new("bindings", "limits.bindings", capacities.bindings),
            choices: Pool::new("sets", "limits.services (8 each)", capacities.choices),
            info: BTreeMap::new(),
            spoof: BTreeMap::new(),
        }
    }

    /// Gives an id to everything in `config`, keeps those that exist, retires bindings that are no
    /// longer configured. `occupied` ids are not given out.
    ///
    /// # Errors
    /// If the maps are too small; nothing is changed then.
    pub fn admit(
        &mut self,
        config: &Config,
        occupied: &Occupied,
    ) -> Result<Admission, CapacityError> {
        let mut next = self.clone();
        let admission = next.admit_all(config, occupied)?;
        *self = next;
        Ok(admission)
    }

    fn admit_all(
        &mut self,
        config: &Config,
        occupied: &Occupied,
    ) -> Result<Admission, CapacityError> {
        let mut admission = Admission::default();
        self.services.claim(config.services.iter().map(|s| s.name.clone()), &occupied.services)?;
        let listeners = listener_keys(config, &self.services);
        self.listeners.claim(listeners.iter().map(|(_, key)| *key), &occupied.listeners)?;
        self.endpoints.claim(
            config.services.iter().flat_map(|service| {
                service.all_backends().map(|b| socket(b.address, service.transport))
            }),
            &occupied.endpoints,
        )?;

        let mut wanted = Vec::new();
        let mut strictest: BTreeMap<u16, u8> = BTreeMap::new();
        for (service, key) in &listeners {
            let Some(listener) = self.listeners.id(key) else { continue };
            for backend in service.all_backends() {
                let Some(endpoint) = self.endpoints.id(&socket(backend.address, service.transport))
                else {
                    continue;
                };
                let check = spoof(service.spoof_check);
                strictest.entry(endpoint).and_modify(|s| *s = check.min(*s)).or_insert(check);
                wanted.push((BindingKey { listener, endpoint }, backend.name.clone()));
            }
        }
        self.spoof.append(&mut strictest);
        admission.added =
            self.bindings.claim(wanted.iter().map(|(key, _)| *key), &occupied.bindings)?;

        let mut configured = BTreeSet::new();
        for (key, backend) in wanted {
            let Some(id) = self.bindings.id(&key) else { continue };
            configured.insert(id);
            let info = BindingInfo { backend, retired: false, leaving: false };
            if self.info.insert(id, info).is_some_and(|old| old.retired) {
                admission.revived.push(id);
            }
        }
        for (&id, info) in &mut self.info {
            if !configured.contains(&id) && !info.retired {
                info.retired = true;
                admission.retired.push(id);
            }
        }

        let choices: BTreeSet<ChoiceKey> = listeners
            .iter()
            .filter_map(|(service, key)| Some((service, self.listeners.id(key)?)))
            .flat_map(|(service, listener)| {
                service.sets().map(move |set| ChoiceKey { listener, set: set_name(&set) })
            })
            .collect();
        self.choices.retain(|key| choices.contains(key));
        self.choices.claim(choices.into_iter(), &occupied.choices)?;
        let live = listeners.iter().filter_map(|(_, key)| self.listeners.id(key)).collect();
        self.prune(&live);
        Ok(admission)
    }

    /// Says of a retired binding whether it is about to be freed; true if that is news.
    pub fn set_leaving(&mut self, id: u16, leaving: bool) -> bool {
        match self.info.get_mut(&id) {
            Some(info) if info.retired && info.leaving != leaving => {
                info.leaving = leaving;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Gives up retired bindings, and whatever only they needed.
    pub fn free(&mut self, ids: &[u16]) {
        for id in ids {
            if self.info.get(id).is_some_and(|info| info.retired) {
                self.info.remove(id);
                self.bindings.free(*id);
            }
        }
        let listeners = self.choices.keys().map(|(_, key)| key.listener).collect();
        self.prune(&listeners);
    }

    /// Gives up endpoints without bindings, listeners that are neither configured (`live`) nor
    /// bound, services without listeners.
    fn prune(&mut self, live: &BTreeSet<u16>) {
        let bound: BTreeSet<u16> = self.bindings.keys().map(|(_, key)| key.listener).collect();
        let used: BTreeSet<u16> = self.bindings.keys().map(|(_, key)| key.endpoint).collect();
        self.endpoints.retain_ids(|id| used.contains(&id));
        self.spoof.retain(|id, _| used.contains(id));
        self.listeners.retain_ids(|id| live.contains(&id) || bound.contains(&id));
        let served: BTreeSet<u16> = self.listeners.keys().map(|(_, key)| key.service).collect();
        self.services.retain_ids(|id| served.contains(&id));
    }

    #[must_use]
    pub fn service(&self, name: &str) -> Option<u16> {
        self.services.by_key.get(name).copied()
    }

    #[must_use]
    pub fn listener(&self, service: u16, socket: Socket) -> Option<u16> {
        self.listeners.id(&ListenerKey { service, socket })
    }

    #[must_use]
    pub fn endpoint(&self, socket: &Socket) -> Option<u16> {
        self.endpoints.id(socket)
    }

    #[must_use]
    pub fn binding(&self, listener: u16, endpoint: u16) -> Option<u16> {
        self.bindings.id(&BindingKey { listener, endpoint })
    }

    /// The choice of `set` ([`OWN_SET`]) of a listener.
    #[must_use]
    pub fn choice(&self, listener: u16, set: &str) -> Option<u16> {
        self.choices.id(&ChoiceKey { listener, set: set.to_owned() })
    }

    /// The binding of `id` in users' terms.
    #[must_use]
    pub fn view(&self, id: u16) -> Option<BindingView<'_>> {
        let key = self.bindings.key(id)?;
        let info = self.info.get(&id)?;
        let listener = self.listeners.key(key.listener)?;
        Some(BindingView {
            id,
            service: self.services.key(listener.service)?,
            backend: &info.backend,
            listener: listener.socket,
            endpoint: *self.endpoints.key(key.endpoint)?,
            endpoint_id: key.endpoint,
            retired: info.retired,
        })
    }

    /// All bindings, by id.
    pub fn views(&self) -> impl Iterator<Item = BindingView<'_>> {
        self.info.keys().filter_map(|&id| self.view(id))
    }

    /// Services by id.
    pub fn service_names(&self) -> impl Iterator<Item = (u16, &str)> {
        self.services.keys().map(|(id, name)| (id, name.as_str()))
    }
}

/// Every VIP in file order, with its service.
fn listener_keys<'a>(
    config: &'a Config,
    services: &Pool<String>,
) -> Vec<(&'a Service, ListenerKey)> {
    config
        .services
        .iter()
        .filter_map(|service| Some((service, services.id(&service.name)?)))
        .flat_map(|(service, id)| {
            service.listen.iter().map(move |&vip| {
                (service, ListenerKey { service: id, socket: socket(vip, service.transport) })
            })
        })
        .collect()
}

/// Ids 1… of one kind, by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool<K> {
    by_key: BTreeMap<K, u16>,
    by_id: BTreeMap<u16, K>,
    /// The id given out last: the search for a free one starts behind it, so that a freed id rests.
    last: u16,
    available: u16,
    what: &'static str,
    limit: &'static str,
}

impl<K: Ord + Clone> Pool<K> {
    fn new(what: &'static str, limit: &'static str, entries: u32) -> Self {
        let available = u16::try_from(entries.saturating_sub(1)).unwrap_or(u16::MAX);
        Self { by_key: BTreeMap::new(), by_id: BTreeMap::new(), last: 0, available, what, limit }
    }

    pub(crate) fn id(&self, key: &K) -> Option<u16> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn key(&self, id: u16) -> Option<&K> {
        self.by_id.get(&id)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (u16, &K)> {
        self.by_id.iter().map(|(id, key)| (*id, key))
    }

    /// Takes over an id that records in the maps bear; false if the id or the key is taken.
    pub(crate) fn adopt(&mut self, id: u16, key: K) -> bool {
        if id == 0 || self.by_id.contains_key(&id) || self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(key.clone(), id);
        self.by_id.insert(id, key);
        self.last = self.last.max(id);
        true
    }

    /// Gives an id to every key that has none; returns the new ids.
    fn claim(
        &mut self,
        keys: impl Iterator<Item = K>,
        occupied: &BTreeSet<u16>,
    ) -> Result<Vec<u16>, CapacityError> {
        let (mut new, mut seen) = (Vec::new(), BTreeSet::new());
        for key in keys {
            if seen.insert(key.clone()) && !self.by_key.contains_key(&key) {
                new.push(key);
            }
        }
        let needed = self.by_id.len() + new.len();
        let retired = needed - seen.len();
        let mut added = Vec::new();
        for key in new {
            let Some(id) = self.free_id(occupied) else {
                return Err(CapacityError {
                    key: self.limit,
                    what: self.what,
                    needed,
                    retired,
                    available: usize::from(self.available),
                });
            };
            self.by_key.insert(key.clone(), id);
            self.by_id.insert(id, key);
            self.last = id;
            added.push(id);
        }
        Ok(added)
    }

    fn free_id(&self, occupied: &BTreeSet<u16>) -> Option<u16> {
        (self.last.saturating_add(1)..=self.available)
            .chain(1..=self.last.min(self.available))
            .find(|id| !self.by_id.contains_key(id) && !occupied.contains(id))
    }

    fn free(&mut self, id: u16) {
        if let Some(key) = self.by_id.remove(&id) {
            self.by_key.remove(&key);
        }
    }

    fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.by_key.retain(|key, _| keep(key));
        self.by_id.retain(|_, key| keep(key));
    }

    fn retain_ids(&mut self, keep: impl Fn(u16) -> bool) {
        self.by_key.retain(|_, id| keep(*id));
        self.by_id.retain(|id, _| keep(*id));
    }
}
