//! When to have the kernel resolve or confirm a neighbour.
//!
//! The kernel does so for the packets that it sends itself; it does not see those of the XDP
//! program. Without this an unknown neighbour would stay unknown until a packet takes the
//! kernel's path, and a known one would go stale and be trusted forever.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::model::{NeighbourState, Network};

/// Least distance between two confirmations of a neighbour in use.
pub(super) const CONFIRM_EVERY: Duration = Duration::from_secs(30);
/// The kernel itself asks three times, a second apart, before it gives up.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Resolve,
    Confirm,
}

struct Attempt {
    need: Need,
    at: Instant,
    /// Until the next one for the same need.
    pause: Duration,
}

#[derive(Default)]
pub(super) struct Keeper {
    attempts: BTreeMap<(u32, IpAddr), Attempt>,
}

impl Keeper {
    /// The neighbours, as (device, address), to ask for now: those on the way to `destinations`
    /// and to clients. Counts them as asked.
    pub(super) fn due(
        &mut self,
        network: &Network,
        destinations: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> Vec<(u32, IpAddr)> {
        let in_use: BTreeSet<(u32, IpAddr)> = destinations
            .iter()
            .flat_map(|destination| network.neighbours_towards(*destination))
            .chain(network.client_gateways())
            .collect();
        self.attempts.retain(|key, _| in_use.contains(key));
        in_use
            .into_iter()
            .filter(|key| need(network, key).is_some_and(|need| self.is_due(*key, need, now)))
            .collect()
    }

    fn is_due(&mut self, key: (u32, IpAddr), need: Need, now: Instant) -> bool {
        let previous = self.attempts.get(&key).filter(|attempt| attempt.need == need);
        let pause = match previous {
            Some(attempt) if now.duration_since(attempt.at) < attempt.pause => return false,
            Some(attempt) if need == Need::Resolve => (attempt.pause * 2).min(LAST_RETRY),
            Some(_) | None if need == Need::Confirm => CONFIRM_EVERY,
            Some(_) | None => FIRST_RETRY,
        };
        self.attempts.insert(key, Attempt { need, at: now, pause });
        true
    }
}

fn need(network: &Network, key: &(u32, IpAddr)) -> Option<Need> {
    let Some(neighbour) = network.neighbours.get(key) else { return Some(Need::Resolve) };
    match neighbour.state {
        NeighbourState::None | NeighbourState::Incomplete | NeighbourState::Failed => {
            Some(Need::Resolve)
        }
        NeighbourState::Stale => Some(Need::Confirm),
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::NoArp
        | NeighbourState::Permanent => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            model::LinkKind,
            sample::{Sample, ip},
        },
        *,
    };

    fn network(state: Option<NeighbourState>) -> Network {
        let sample = Sample::default()
            .link(2, "eth0", LinkKind::Ethernet)
            .address(2, "10.0.0.1/24")
            .gateway("0.0.0.0/0", 2, "10.0.0.254")
            .neighbour_in(NeighbourState::Permanent, 2, "10.0.0.254", 254);
        match state {
            Some(state) => sample.neighbour_in(state, 2, "10.0.0.9", 9).build(),
            None => sample.build(),
        }
    }

    /// The seconds, of the first minute, in which the neighbour of 10.0.0.9 is asked for.
    fn seconds_asked(network: &Network) -> Vec<u64> {
        let mut keeper = Keeper::default();
        let (start, destinations) = (Instant::now(), [ip("10.0.0.9")].into());
        let mut asked = |second: &u64| {
            let now = start + Duration::from_secs(*second);
            let due = keeper.due(network, &destinations, now);
            assert!(due.iter().all(|key| *key == (2, ip("10.0.0.9"))), "{due:?}");
            !due.is_empty()
        };
        (0..60).filter(|second| asked(second)).collect()
    }

    #[test]
    fn an_unknown_neighbour_is_asked_for_at_once_and_then_less_and_less_often() {
        let expected = [0, 1, 3, 7, 15, 23, 31, 39, 47, 55];
        assert_eq!(seconds_asked(&network(None)), expected);
        assert_eq!(seconds_asked(&network(Some(NeighbourState::Failed))), expected);
    }

    #[test]
    fn a_stale_neighbour_is_confirmed_every_half_minute_and_a_good_one_never() {
        assert_eq!(seconds_asked(&network(Some(NeighbourState::Stale))), [0, 30]);
        for state in [NeighbourState::Reachable, NeighbourState::Permanent, NeighbourState::Probe] {
            assert!(seconds_asked(&network(Some(state))).is_empty(), "{state:?}");
        }
    }

    #[test]
    fn a_neighbour_that_is_lost_after_a_confirmation_is_asked_for_at_once() {
        let (mut keeper, now, destinations) =
            (Keeper::default(), Instant::now(), [ip("10.0.0.9")].into());
        for state in [NeighbourState::Stale, NeighbourState::Failed, NeighbourState::Stale] {
            assert_eq!(keeper.due(&network(Some(state)), &destinations, now).len(), 1, "{state:?}");
        }
    }

    #[test]
    fn the_gateway_towards_clients_is_kept_too() {
        let stale = Sample::default()
            .link(2, "eth0", LinkKind::Ethernet)
            .gateway("0.0.0.0/0", 2, "10.0.0.254")
            .neighbour_in(NeighbourState::Stale, 2, "10.0.0.254", 254)
            .build();
        let due = Keeper::default().due(&stale, &BTreeSet::new(), Instant::now());
        assert_eq!(due, [(2, ip("10.0.0.254"))]);
    }
}
