//! What can be told when the controller is gone: the pins alone.

use std::{collections::BTreeMap, path::Path};

use lb_common::{backend::endpoint, table};

use super::{
    attach,
    counters::Counters,
    error::Result,
    inspect::{self, Inspected},
};
use crate::{
    config::model::Balance,
    maps::{Index, LbMaps as _, Names, kernel::KernelMaps},
    state::{Admin, desired::balance_value},
    status::{
        AttachedInterface, BackendStatus, ConfigStatus, ControllerState, ServiceStatus, SetStatus,
        Status,
    },
};

/// The status that the pins of `pin_dir` tell; `None` if there are none.
///
/// # Errors
///
/// What the kernel says when they are read.
pub fn status(pin_dir: &Path) -> Result<Option<Status>> {
    let Some(Inspected { maps, counters, .. }) = inspect::inspect(pin_dir)? else {
        return Ok(None);
    };
    let attached = attach::attached(pin_dir)?
        .into_iter()
        .map(|link| AttachedInterface {
            interface: link.interface,
            mode: link.mode.map_or("unknown", |mode| mode.label()).to_owned(),
            link: link.ifindex,
        })
        .collect();
    Ok(Some(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        attached,
        config: ConfigStatus::default(),
        controller: ControllerState::Lost,
        services: services(&maps, &counters)?,
        retired: Vec::new(),
        watchers: 0,
        notices: Vec::new(),
    }))
}

fn services(maps: &KernelMaps, counters: &Counters) -> Result<Vec<ServiceStatus>> {
    let capacities = maps.capacities();
    let mut services: BTreeMap<u16, ServiceStatus> = BTreeMap::new();
    for id in 1..capacities.listeners as u16 {
        let listener = maps.listener(id)?;
        // A retired listener has no choice.
        if listener.service == 0 || listener.choice == 0 {
            continue;
        }
        let name = maps.name(Names::Services, listener.service)?.to_string();
        let service = services.entry(listener.service).or_insert_with(|| empty(name));
        service.listen.push(format!("{}/udp", listener.socket.address()));
        service.balance = balance(listener.balance).to_owned();
        if !service.backends.is_empty() {
            continue;
        }
        let Some(own) = set(maps, counters, listener.choice)? else { continue };
        service.active_priority = own.active_priority;
        service.table_digest = own.table_digest;
        service.backends = own.backends;
        let mut choices: Vec<u16> = maps
            .slots(Index::Rules)?
            .iter()
            .filter(|slot| slot.id != 0 && slot.socket.port.get() == id)
            .map(|slot| slot.id)
            .collect();
        choices.sort_unstable();
        choices.dedup();
        for choice in choices {
            service.sets.extend(set(maps, counters, choice)?);
        }
    }
    Ok(services.into_values().collect())
}

/// What a choice publishes; `None` if that is nothing.
fn set(maps: &KernelMaps, counters: &Counters, id: u16) -> Result<Option<SetStatus>> {
    let choice = maps.choice(id)?;
    let (table_id, list) = (table::choice_table(choice), table::choice_members(choice));
    if table_id == 0 || list == 0 {
        return Ok(None);
    }
    let slots = maps.table(table_id as u16)?;
    let owned = table::owners(&slots);
    let mut set = SetStatus {
        name: maps.name(Names::Sets, id)?.to_string(),
        active_priority: None,
        table_digest: format!("{:016x}", table::digest(&slots)),
        backends: Vec::new(),
    };
    let members = maps.members(list as u16)?;
    let orders = maps.orders(list as u16)?;
    for (member, (&binding, order)) in members.iter().zip(orders.iter()).enumerate() {
        if binding == 0 {
            continue;
        }
        let record = maps.binding(binding)?;
        let backend = maps.endpoint(record.endpoint)?;
        let share = owned.get(member).copied().unwrap_or(0);
        if share > 0 {
            set.active_priority = Some(order.priority);
        }
        let stats = counters.binding(binding)?;
        set.backends.push(BackendStatus {
            name: maps.name(Names::Backends, binding)?.to_string(),
            address: backend.socket.address().to_string(),
            aliases: Vec::new(),
            priority: order.priority,
            weight: order.weight,
            share: f64::from(share) / table::SLOTS as f64,
            traffic_share: None,
            health: match backend.state {
                endpoint::UP => "up",
                endpoint::DOWN => "down",
                _ => "unknown",
            }
            .to_owned(),
            busy_until: None,
            admin: Admin::in_force(record.admin).label().to_owned(),
            since: None,
            last_reason: None,
            live_dialogs: 0,
            ringing_dialogs: 0,
            requests_total: stats.requests,
            responses: (1..)
                .zip(stats.responses)
                .map(|(class, count)| (format!("{class}xx"), count))
                .collect(),
        });
    }
    Ok(Some(set))
}

/// The word for a listener's `balance`.
fn balance(value: u8) -> &'static str {
    Balance::ALL
        .iter()
        .find(|&&balance| balance_value(balance) == value)
        .map_or("unknown", |balance| balance.label())
}

fn empty(name: String) -> ServiceStatus {
    ServiceStatus {
        name,
        listen: Vec::new(),
        forward: "nat".to_owned(),
        balance: "call-id".to_owned(),
        active_priority: None,
        table_digest: String::new(),
        suspected: false,
        all_down: None,
        backends: Vec::new(),
        sets: Vec::new(),
    }
}
