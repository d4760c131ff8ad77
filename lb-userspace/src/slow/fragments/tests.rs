use std::collections::BTreeSet;

use etherparse::{EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header};
use lb_common::{fragment::state, slow};

use super::*;

/// Counts how often it is asked, and drops every datagram that is decided.
#[derive(Default)]
struct Counting {
    looks: std::cell::Cell<usize>,
    decided: BTreeSet<u16>,
}

impl Datapath for Counting {
    fn record(&self, key: &Key) -> Result<Option<Record>> {
        self.looks.set(self.looks.get() + 1);
        let id = u16::from_be_bytes((key.id as u16).to_ne_bytes());
        let record = Record { state: state::DROPPED, ..Record::default() };
        Ok(self.decided.contains(&id).then_some(record))
    }

    fn run(&mut self, _frame: &[u8], _ingress: u32) -> Result<(testrun::Action, Vec<u8>)> {
        Ok((testrun::Action::Drop, Vec::new()))
    }
}

/// The last fragment of the datagram of this id.
fn frame(id: u16) -> Vec<u8> {
    let ether =
        Ethernet2Header { source: [2; 6], destination: [4; 6], ether_type: EtherType::IPV4 };
    let mut ip =
        Ipv4Header::new(8, 64, IpNumber::UDP, [198, 51, 100, 7], [203, 0, 113, 10]).unwrap();
    ip.identification = id;
    ip.fragment_offset = IpFragOffset::try_new(185).unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    [&ether.to_bytes()[..], &ip.to_bytes(), &[7; 8]].concat()
}

fn take(fragments: &mut Fragments<Counting>, id: u16, out: &mut Vec<Action>) -> Fate {
    let frame = frame(id);
    let record = slow::Record { frame_len: frame.len() as u32, ..slow::Record::default() };
    let handed = Handed { kind: Kind::Fragment, record: &record, frame: &frame };
    fragments.take(&handed, Duration::ZERO, out)
}

/// Asked since the last time.
fn looks(fragments: &Fragments<Counting>) -> usize {
    fragments.datapath.looks.take()
}

#[test]
fn work_for_a_fragment_or_a_tick_does_not_grow_with_what_is_held() {
    const HELD: u16 = 1000;
    let mut fragments = Fragments::new(Counting::default(), Limits::DEFAULT);
    let mut out = Vec::new();
    for id in 0..HELD {
        assert_eq!(take(&mut fragments, id, &mut out), Fate::Held);
        assert_eq!(looks(&fragments), 1, "with {id} others");
    }
    for _ in 0..5 {
        fragments.tick(Duration::ZERO, &mut out);
        assert_eq!(looks(&fragments), VISITS);
    }
    assert!(out.is_empty(), "nothing is decided: {out:?}");

    // Each has its turn within a round, wherever that begins.
    fragments.datapath.decided = (0..HELD).collect();
    for _ in 0..usize::from(HELD).div_ceil(VISITS) {
        fragments.tick(Duration::ZERO, &mut out);
        // Once more after each that is released.
        assert!(looks(&fragments) <= 2 * VISITS);
    }
    assert_eq!((out.len(), fragments.is_waiting()), (usize::from(HELD), false));
}

#[test]
fn a_fragment_whose_record_is_there_by_now_does_not_wait_for_a_tick() {
    let mut fragments = Fragments::new(Counting::default(), Limits::DEFAULT);
    let mut out = Vec::new();
    take(&mut fragments, 7, &mut out);
    fragments.datapath.decided.insert(8);
    take(&mut fragments, 8, &mut out);
    assert_eq!(out.len(), 1, "{out:?}");
    assert!(fragments.is_waiting(), "the other one waits on");
}
