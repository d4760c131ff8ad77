//! Listeners: the policy of a service at each of its VIPs, and the choices that it leads to.

use std::sync::Arc;

use lb_common::{
    addr::Socket,
    service::{
        Listener, Name, affinity, all_down, balance, domains, failover, keepalive, malformed, rule,
    },
    sip::DomainHash,
    table::{MEMBERS, MemberOrder},
};

use super::{super::route::SetTable, Builder, DesiredChoice, MemberList, SetState, add_port};
use crate::config::model::{
    Affinity, AllDown, Balance, InDialogFailover, Keepalive, Malformed, Service, SetKind,
};

impl Builder<'_> {
    pub(super) fn listener(
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

    /// Listeners that only dialogs of retired bindings need: known by id, not by socket.
    pub(super) fn retired_listeners(&mut self) {
        for (id, key) in self.ids.listeners.keys() {
            self.out.listeners.entry(id).or_insert_with(|| Listener {
                socket: key.socket,
                service: key.service,
                ..Listener::default()
            });
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
