//! Which backend a Via header means: what the index of senders should hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::{
    addr::Socket,
    hash::HashKey,
    sip::{self, SentBy},
};

use crate::config::alias::{Alias, Host, Sender, likely, sure};

/// A backend of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) binding: u16,
    pub(super) endpoint: u16,
    /// Other listeners have it too.
    pub(super) shared: bool,
    pub(super) address: SocketAddr,
    /// None are known of a backend that is no longer configured.
    pub(super) aliases: &'a [Alias],
}

/// Adds the entries of one listener; who comes first in `backends` keeps what others claim too.
pub(super) fn add(
    index: &mut BTreeMap<Socket, u16>,
    key: HashKey,
    listener: u16,
    backends: &[Named<'_>],
) {
    let slot = |sender: &Sender| sent_by(key, sender).key(listener);
    for backend in backends {
        for sender in sure(backend.address, backend.aliases) {
            index.entry(slot(&sender)).or_insert(backend.binding);
        }
    }
    for backend in backends.iter().filter(|backend| backend.shared) {
        index.insert(SentBy::endpoint(backend.endpoint).key(listener), backend.binding);
    }
    let mut claims: BTreeMap<Sender, BTreeSet<u16>> = BTreeMap::new();
    for backend in backends {
        for sender in likely(backend.address, backend.aliases) {
            claims.entry(sender).or_default().insert(backend.binding);
        }
    }
    for (sender, bindings) in claims {
        if let (Some(&binding), 1) = (bindings.first(), bindings.len()) {
            index.entry(slot(&sender)).or_insert(binding);
        }
    }
}

/// What the datapath makes of a Via that names `sender`.
fn sent_by(key: HashKey, sender: &Sender) -> SentBy {
    let host = match &sender.host {
        Host::Address(IpAddr::V4(v4)) => sip::host_text(key, v4.to_string().as_bytes()),
        Host::Address(IpAddr::V6(v6)) => {
            let bits = u128::from(*v6);
            sip::host_v6(key, (bits >> 64) as u64, bits as u64)
        }
        Host::Name(name) => sip::host_text(key, name.as_bytes()),
    };
    SentBy { host, port: sender.port }
}

#[cfg(test)]
mod tests {
    use lb_common::sip::Payload;

    use super::*;

    const KEY: HashKey = HashKey { k0: 3, k1: 4 };

    /// The binding that a Via means to the datapath, for `listener`.
    fn meant(index: &BTreeMap<Socket, u16>, listener: u16, sent_by: &str) -> Option<u16> {
        let value = format!(" SIP/2.0/UDP {sent_by};branch=z9hG4bK1");
        let found = sip::sent_by(&Payload::new(value.as_bytes()), 0, KEY).unwrap().unwrap();
        index.get(&found.key(listener)).copied()
    }

    fn alias(host: &str, port: Option<u16>) -> Alias {
        let address = host.parse().map(Host::Address);
        Alias { host: address.unwrap_or_else(|_| Host::Name(host.to_owned())), port }
    }

    #[test]
    fn a_via_leads_to_the_backend_by_address_and_alias() {
        let gw2 = [alias("gw2.example.net", None), alias("203.0.113.77", Some(5099))];
        let gw4 = [alias("2001:db8::4", None)];
        let backends = [
            ("10.0.1.200:5060", &[][..]),
            ("10.0.1.201:5080", &gw2),
            ("10.0.1.203:5070", &[]),
            ("10.0.1.203:5080", &gw4),
            ("10.0.1.204:5060", &[]),
            ("10.0.1.204:5070", &[]),
        ];
        let named: Vec<_> = (1..)
            .zip(backends)
            .map(|(binding, (address, aliases))| Named {
                binding,
                endpoint: 100 + binding,
                shared: binding == 2,
                address: address.parse().unwrap(),
                aliases,
            })
            .collect();
        let mut index = BTreeMap::new();
        add(&mut index, KEY, 7, &named);
        for (sent_by, binding) in [
            ("10.0.1.200", Some(1)),
            ("10.0.1.200:5060", Some(1)),
            ("10.0.1.200:5061", None),
            // No port means 5060, and the only backend there, whatever its port.
            ("10.0.1.201:5080", Some(2)),
            ("10.0.1.201", Some(2)),
            ("GW2.example.net", Some(2)),
            ("gw2.example.net:5080", Some(2)),
            ("gw2.example.net:5081", None),
            ("203.0.113.77:5099", Some(2)),
            ("203.0.113.77", None),
            // Two are there, neither on 5060: nobody knows.
            ("10.0.1.203", None),
            ("10.0.1.203:5070", Some(3)),
            ("10.0.1.203:5080", Some(4)),
            ("[2001:DB8:0::4]", Some(4)),
            ("[2001:db8::4]:5080", Some(4)),
            // Two are there, one on 5060.
            ("10.0.1.204", Some(5)),
            ("10.0.1.204:5070", Some(6)),
            ("10.9.9.9", None),
        ] {
            assert_eq!(meant(&index, 7, sent_by), binding, "{sent_by}");
            assert_eq!(meant(&index, 8, sent_by), None, "{sent_by} at another listener");
        }
        let here = |endpoint| index.get(&SentBy::endpoint(endpoint).key(7)).copied();
        assert_eq!((here(101), here(102)), (None, Some(2)), "endpoints that others have too");
    }

    #[test]
    fn who_is_configured_comes_before_who_was() {
        let other = [alias("10.0.0.1", None)];
        let named = [("10.0.0.2:5060", &other[..]), ("10.0.0.1:5060", &[])];
        let named: Vec<_> = (1..)
            .zip(named)
            .map(|(binding, (address, aliases))| Named {
                binding,
                endpoint: binding,
                shared: false,
                address: address.parse().unwrap(),
                aliases,
            })
            .collect();
        let mut index = BTreeMap::new();
        add(&mut index, KEY, 1, &named);
        assert_eq!(meant(&index, 1, "10.0.0.1"), Some(1));
    }
}
