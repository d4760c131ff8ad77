//! What every map should say: a pure function of configuration, health, the operator's word and
//! the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    addr::{Addr, Socket},
    backend::{Binding, Endpoint, IngressPath, NextHop, ROUTES, Route, endpoint, spoof},
    hash::HashKey,
    maps::{HOST_ADDRESSES, PortSet, Settings, address},
    service::{
        Interface, Listener, Name, affinity, all_down, balance, domains, failover, keepalive,
        malformed, rule,
    },
    sip::DomainHash,
    table::{MEMBERS, MemberOrder, Members},
};

use super::{
    Admin, AdminStates, Health, Standing, commanded,
    ids::{Ids, set_name, socket},
    route::{SetMember, SetTable},
    senders::{self, Named},
    table::{SlotTable, TableCache},
};
use crate::{
    config::alias::Alias,
    config::model::{
        Affinity, AllDown, Backend, Balance, Config, InDialogFailover, Initial, Keepalive,
        Malformed, Service, SetKind,
    },
    maps::Orders,
};

/// The ways to and from an endpoint's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The default asks the kernel's routing table for every packet.
    pub next_hop: NextHop,
    /// Where its packets may arrive.
    pub ingress: Vec<IngressPath>,
}

/// The host's network, as far as the program must know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkView {
    /// By endpoint address.
    pub paths: BTreeMap<Addr, Path>,
    /// NICs that the program is attached to; [`Interface::ifindex`] is set.
    pub interfaces: Vec<Interface>,
    /// Unicast addresses of this host.
    pub host_addresses: BTreeSet<Addr>,
    /// Routes towards clients, most specific first.
    pub client_routes: Vec<Route>,
}

/// Everything that decides what the maps should say, beside [`Ids`].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    /// By endpoint; one that is missing stands as its `initial` says.
    pub health: &'a BTreeMap<Socket, Standing>,
    /// What the operator said by command.
    pub admin: &'a AdminStates,
    /// Services whose backends all went down at once, which is not believed yet: those that are
    /// down count as up, so that the last table stays.
    pub suspected: &'a BTreeSet<String>,
    pub network: &'a NetworkView,
    pub key: HashKey,
    /// [`Settings::lost_after`], in jiffies.
    pub lost_after: u64,
}

/// A member list with its priorities and weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    pub members: Members,
    pub orders: Orders,
}

/// What a choice should publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredChoice {
    pub listener: u16,
    pub service: u16,
    pub set: Name,
    pub list: Arc<MemberList>,
    pub table: Arc<SlotTable>,
}

/// A configured backend and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    pub name: String,
    pub endpoint: Socket,
    pub priority: u16,
    pub weight: u16,
    pub standing: Standing,
    /// What is in force.
    pub admin: Admin,
    /// Slots of the table: its share of new dialogs × 65,536.
    pub slots: u32,
}

/// A configured service and how new dialogs are shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    pub id: u16,
    /// The service's own set.
    pub own: SetState,
    /// Those of its rules, in file order.
    pub rules: Vec<SetState>,
}

/// A set and how new dialogs are shared out in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// Empty for the service's own set.
    pub name: String,
    /// The tier in use; `None` if no backend is usable.
    pub active_priority: Option<u16>,
    /// No backend is usable, and new dialogs go where the last table sent them.
    pub keeps_last: bool,
    pub table_digest: u64,
    /// By name.
    pub backends: Vec<BackendState>,
}

/// What the maps should say. Unset entries are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredState {
    pub settings: Settings,
    pub routes: Vec<Route>,
    /// By ifindex.
    pub interfaces: BTreeMap<u32, Interface>,
    pub service_names: BTreeMap<u16, Name>,
    pub set_names: BTreeMap<u16, Name>,
    pub backend_names: BTreeMap<u16, Name>,
    pub listeners: BTreeMap<u16, Listener>,
    pub endpoints: BTreeMap<u16, Endpoint>,
    pub bindings: BTreeMap<u16, Binding>,
    pub choices: BTreeMap<u16, DesiredChoice>,
    /// Ids by socket.
    pub listener_index: BTreeMap<Socket, u16>,
    pub endpoint_index: BTreeMap<Socket, u16>,
    pub host_index: BTreeMap<Socket, u16>,
    /// Choices by [`rule::key`].
    pub rule_index: BTreeMap<Socket, u16>,
    pub address_index: BTreeMap<Socket, u16>,
    /// Bindings by [`lb_common::sip::SentBy::key`].
    pub sender_index: BTreeMap<Socket, u16>,
    /// Rows of [`lb_common::maps::ports`].
    pub ports: [Box<PortSet>; 2],
    /// By name; for people, not for maps.
    pub services: BTreeMap<String, ServiceState>,
    /// What had to be left out.
    pub notices: Vec<String>,
}

/// Share of new dialogs of each backend in the own set of `service`: exact slots / 65,536.
#[must_use]
pub fn shares(desired: &DesiredState, service: &str) -> BTreeMap<String, f64> {
    desired
        .services
        .get(service)
        .map(|state| {
            let share = |slots: u32| f64::from(slots) / lb_common::table::SLOTS as f64;
            state.own.backends.iter().map(|b| (b.name.clone(), share(b.slots))).collect()
        })
        .unwrap_or_default()
}

/// The desired state. `ids` must have admitted the configuration; `last` tells which endpoints own
/// slots of the table that a choice publishes now.
#[must_use]
pub fn desired(
    inputs: &Inputs<'_>,
    ids: &Ids,
    last: &dyn Fn(u16) -> BTreeSet<Socket>,
    cache: &mut TableCache,
) -> DesiredState {
    let mut state = Builder::new(inputs, ids, last);
    state.bindings();
    for service in &inputs.config.services {
        state.service(service, cache);
    }
    state.endpoints();
    state.addresses();
    state.retired_listeners();
    state.senders();
    state.network();
    cache.trim();
    state.out
}

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    ids: &'a Ids,
    last: &'a dyn Fn(u16) -> BTreeSet<Socket>,
    out: DesiredState,
    /// By endpoint id: the binding to its first listener in file order.
    primary: BTreeMap<u16, u16>,
    /// Endpoints that are configured, and whether packets go there.
    up: BTreeMap<u16, bool>,
}

impl<'a> Builder<'a> {
    fn new(
        inputs: &'a Inputs<'a>,
        ids: &'a Ids,
        last: &'a dyn Fn(u16) -> BTreeSet<Socket>,
    ) -> Self {
        let out = DesiredState {
            settings: Settings {
                key: inputs.key,
                lost_after: inputs.lost_after,
                ..Settings::default()
            },
            routes: Vec::new(),
            interfaces: BTreeMap::new(),
            service_names: ids.service_names().map(|(id, name)| (id, Name::new(name))).collect(),
            set_names: BTreeMap::new(),
            backend_names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            bindings: BTreeMap::new(),
            choices: BTreeMap::new(),
            listener_index: BTreeMap::new(),
            endpoint_index: BTreeMap::new(),
            host_index: BTreeMap::new(),
            rule_index: BTreeMap::new(),
            address_index: BTreeMap::new(),
            sender_index: BTreeMap::new(),
            ports: [Box::new([0; 1024]), Box::new([0; 1024])],
            services: BTreeMap::new(),
            notices: Vec::new(),
        };
        Self { inputs, ids, last, out, primary: BTreeMap::new(), up: BTreeMap::new() }
    }

    /// All bindings, retired ones included.
    fn bindings(&mut self) {
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

    fn service(&mut self, service: &Service, cache: &mut TableCache) {
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

    fn listener(
        &mut self,
        service: u16,
        config: &Service,
        vip: Socket,
        sets: &[(SetState, SetTable)],
    ) {
        let Some(id) = self.ids.listener(service, vip) else { return };
        let choices: Vec<_> =
            sets.iter().map(|(state, set)| self.choice(id, service, state, set)).collect();
        let Some(&Some(own)) = choices.first() else { return };
        let mut record = Listener {
            socket: vip,
            service,
            choice: own,
            balance: balance_value(config.balance),
            affinity: match config.affinity {
                Affinity::Dialog => affinity::DIALOG,
                Affinity::None => affinity::NONE,
            },
            keepalive: match config.keepalive {
                Keepalive::Absorb => keepalive::ABSORB,
                Keepalive::Forward => keepalive::FORWARD,
            },
            all_down: match config.all_down {
                AllDown::Reject | AllDown::KeepLast => all_down::REJECT,
                AllDown::Drop => all_down::DROP,
            },
            malformed: match config.malformed {
                Malformed::Forward => malformed::FORWARD,
                Malformed::Drop => malformed::DROP,
            },
            failover: match config.in_dialog_failover {
                InDialogFailover::Rehash => failover::REHASH,
                InDialogFailover::Keep => failover::KEEP,
            },
            ..Listener::default()
        };
        for (set, choice) in config.sets().zip(choices) {
            let Some(choice) = choice else { continue };
            self.rules(&mut record, id, set.kind, choice);
        }
        self.out.listeners.insert(id, record);
        self.out.listener_index.insert(vip, id);
        add_port(&mut self.out.ports[0], vip);
    }

    /// The rules that lead to `choice`.
    fn rules(&mut self, record: &mut Listener, id: u16, kind: SetKind<'_>, choice: u16) {
        match kind {
            SetKind::Own => {}
            SetKind::Methods(methods) => {
                for &method in methods {
                    record.methods |= 1 << method as u32;
                    let key = rule::key(id, rule::METHOD, method as u64);
                    self.out.rule_index.insert(key, choice);
                }
            }
            SetKind::Domains(patterns) => {
                for pattern in patterns {
                    let (flag, kind) = if pattern.below {
                        (domains::BELOW, rule::BELOW)
                    } else {
                        (domains::EXACT, rule::DOMAIN)
                    };
                    record.domains |= flag;
                    let hash = DomainHash::of(self.inputs.key, pattern.domain.as_bytes());
                    self.out.rule_index.insert(rule::key(id, kind, hash.value()), choice);
                }
            }
        }
    }

    /// The choice of a set at one listener.
    fn choice(&mut self, id: u16, service: u16, state: &SetState, set: &SetTable) -> Option<u16> {
        let choice = self.ids.choice(id, &state.name)?;
        let mut list =
            MemberList { members: [0; MEMBERS], orders: [MemberOrder::default(); MEMBERS] };
        for (index, backend) in state.backends.iter().enumerate() {
            let endpoint = self.ids.endpoint(&backend.endpoint);
            let Some((endpoint, binding)) =
                endpoint.and_then(|endpoint| Some((endpoint, self.ids.binding(id, endpoint)?)))
            else {
                continue;
            };
            if let (Some(member), Some(order)) =
                (list.members.get_mut(index), list.orders.get_mut(index))
            {
                *member = binding;
                *order = MemberOrder { priority: backend.priority, weight: backend.weight };
            }
            self.primary.entry(endpoint).or_insert(binding);
            if let Some(record) = self.out.bindings.get_mut(&binding)
                && record.home == 0
            {
                record.home = choice;
            }
        }
        let name = Name::new(&state.name);
        self.out.set_names.insert(choice, name);
        let desired = DesiredChoice {
            listener: id,
            service,
            set: name,
            list: Arc::new(list),
            table: Arc::clone(&set.table),
        };
        self.out.choices.insert(choice, desired);
        Some(choice)
    }

    /// All endpoints, those of retired bindings included.
    fn endpoints(&mut self) {
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

    /// Listeners that only dialogs of retired bindings need: known by id, not by socket.
    fn retired_listeners(&mut self) {
        for (id, key) in self.ids.listeners.keys() {
            self.out.listeners.entry(id).or_insert_with(|| Listener {
                socket: key.socket,
                service: key.service,
                ..Listener::default()
            });
        }
    }

    /// Whose later fragments, which have no ports, may be ours.
    fn addresses(&mut self) {
        let vips = self.out.listener_index.keys().map(|vip| (vip.addr, address::VIP));
        let backends = self.out.endpoint_index.keys().map(|to| (to.addr, address::BACKEND));
        let mut index = BTreeMap::<Socket, u16>::new();
        for (addr, bit) in vips.chain(backends) {
            *index.entry(Socket::host(addr)).or_default() |= bit;
        }
        self.out.address_index = index;
    }

    /// Who Via headers of responses to each configured listener may name.
    fn senders(&mut self) {
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

    fn network(&mut self) {
        let network = self.inputs.network;
        self.out.interfaces = network.interfaces.iter().map(|i| (i.ifindex, *i)).collect();
        self.out.routes = network.client_routes.iter().take(ROUTES as usize).copied().collect();
        self.out.settings.routes = self.out.routes.len() as u32;
        let room = HOST_ADDRESSES as usize;
        self.out.host_index =
            network.host_addresses.iter().take(room).map(|&a| (Socket::host(a), 1)).collect();
        if network.host_addresses.len() > room {
            self.out.notices.push(format!(
                "this host has {} addresses; answers of backends to all but {room} of them are \
                 taken for answers to clients",
                network.host_addresses.len()
            ));
        }
    }
}

/// The value of a `balance` in a listener.
#[must_use]
pub const fn balance_value(balance: Balance) -> u8 {
    match balance {
        Balance::CallId => balance::CALL_ID,
        Balance::SourceIp => balance::SOURCE_IP,
        Balance::RequestUser => balance::REQUEST_USER,
        Balance::RequestDomain => balance::REQUEST_DOMAIN,
        Balance::FromUser => balance::FROM_USER,
        Balance::ToUser => balance::TO_USER,
        Balance::RoundRobin => balance::ROUND_ROBIN,
        Balance::LeastDialogs => balance::LEAST_DIALOGS,
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

fn add_port(ports: &mut PortSet, socket: Socket) {
    let port = usize::from(socket.port.get());
    if let Some(word) = ports.get_mut(port / 64) {
        *word |= 1 << (port % 64);
    }
}
