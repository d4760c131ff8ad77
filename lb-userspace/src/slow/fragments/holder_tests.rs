use std::time::Duration;

use lb_common::fragment::{Key, Piece, Record, Step, state};
use proptest::prelude::*;

use super::{super::parse::Arrival, Holder, Limits, Refusal};

const LIMITS: Limits =
    Limits { datagrams: 3, bytes: 10_000, pieces: 4, time: Duration::from_secs(1) };

fn key(id: u32) -> Key {
    Key { id, ..Key::default() }
}

fn piece(start: u32, units: u32, is_last: bool) -> Piece {
    Piece::new(start, units * 8, is_last).unwrap()
}

fn arrival(id: u32, piece: Piece) -> Arrival {
    Arrival { key: key(id), piece, is_v4: true }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A record whose first fragment ends at `next`.
fn record(next: u16) -> Record {
    Record { state: state::FORWARDED, next, pieces: 1, ..Record::default() }
}

#[test]
fn a_fragment_waits_for_its_record_and_then_for_its_turn() {
    let mut holder = Holder::new(LIMITS);
    holder.put(arrival(1, piece(20, 10, true)), 7, vec![3; 100], ms(0)).unwrap();
    holder.put(arrival(1, piece(10, 10, false)), 7, vec![2; 100], ms(1)).unwrap();
    assert_eq!(holder.next(&key(1), None), None, "no first fragment yet");
    let open = Record { state: state::OPEN, ..record(10) };
    assert_eq!(holder.next(&key(1), Some(&open)), None, "not decided about yet");
    assert_eq!(holder.next(&key(1), Some(&record(5))), None, "another is missing");
    assert_eq!(holder.next(&key(1), Some(&record(10))), Some((7, vec![2; 100])));
    assert_eq!(holder.next(&key(1), Some(&record(10))), None, "not yet the third's turn");
    assert_eq!(holder.next(&key(1), Some(&record(20))), Some((7, vec![3; 100])));
    assert!(holder.is_empty());
    assert_eq!(holder.bytes(), 0);
}

#[test]
fn what_is_not_ours_or_dropped_goes_to_the_program_in_any_order() {
    for state in [state::PASSED, state::DROPPED, state::DEAD] {
        let mut holder = Holder::new(LIMITS);
        holder.put(arrival(1, piece(20, 10, true)), 7, vec![3], ms(0)).unwrap();
        assert!(holder.next(&key(1), Some(&Record { state, ..record(10) })).is_some(), "{state}");
    }
}

#[test]
fn duplicates_overlaps_and_what_is_too_much_are_refused() {
    let mut holder = Holder::new(LIMITS);
    let mut put = |id, start, units, len| {
        holder.put(arrival(id, piece(start, units, false)), 1, vec![0; len], ms(0))
    };
    assert_eq!(put(1, 10, 10, 100), Ok(()));
    for (name, start, units, refusal) in [
        ("the same", 10, 10, Refusal::Duplicate),
        ("a shorter one", 10, 9, Refusal::Overlap),
        ("across its start", 9, 2, Refusal::Overlap),
        ("across its end", 19, 2, Refusal::Overlap),
        ("around it", 5, 30, Refusal::Overlap),
    ] {
        assert_eq!(put(1, start, units, 100), Err(refusal), "{name}");
    }
    assert_eq!(put(1, 20, 1, 100), Ok(()));
    assert_eq!(put(1, 9, 1, 100), Ok(()));
    assert_eq!(put(1, 30, 1, 100), Ok(()));
    assert_eq!(put(1, 40, 1, 100), Err(Refusal::Full), "pieces");
    assert_eq!(put(2, 40, 1, 9_601), Err(Refusal::Full), "bytes");
    assert_eq!(put(2, 40, 1, 100), Ok(()));
    assert_eq!(put(3, 40, 1, 100), Ok(()));
    assert_eq!(put(4, 40, 1, 100), Err(Refusal::Full), "datagrams");
    assert_eq!(holder.bytes(), 600);
}

#[test]
fn an_overlap_spoils_an_ipv6_datagram_until_it_expires() {
    let mut holder = Holder::new(LIMITS);
    let v6 = |piece| Arrival { is_v4: false, ..arrival(1, piece) };
    holder.put(v6(piece(10, 10, false)), 1, vec![0; 100], ms(0)).unwrap();
    let overlap = holder.put(v6(piece(15, 10, false)), 1, vec![0; 100], ms(0));
    assert_eq!(overlap, Err(Refusal::Overlap));
    assert_eq!(holder.next(&key(1), Some(&record(10))), None, "nothing of it is left");
    assert_eq!(holder.bytes(), 0);
    let whole = holder.put(v6(piece(40, 10, false)), 1, vec![0; 100], ms(10));
    assert_eq!(whole, Err(Refusal::Overlap));
    assert_eq!(holder.expire(ms(1000)), 0);
    assert_eq!(holder.put(v6(piece(40, 10, false)), 1, vec![0; 100], ms(1001)), Ok(()));
}

#[test]
fn nothing_waits_longer_than_a_second() {
    let mut holder = Holder::new(LIMITS);
    holder.put(arrival(1, piece(10, 10, false)), 1, vec![0; 100], ms(0)).unwrap();
    holder.put(arrival(1, piece(30, 10, false)), 1, vec![0; 100], ms(900)).unwrap();
    holder.put(arrival(2, piece(10, 10, false)), 1, vec![0; 100], ms(900)).unwrap();
    assert_eq!(holder.expire(ms(999)), 0);
    assert_eq!(holder.expire(ms(1000)), 2, "a later fragment does not prolong it");
    assert_eq!((holder.keys(), holder.bytes()), (vec![key(2)], 100));
}

proptest! {
    /// Fragments that come in any order, each now to the program, now to the holder as the record
    /// says, leave in order, each once, and nothing stays.
    #[test]
    fn any_order_becomes_the_right_one(
        order in Just((0u32..6).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let mut holder = Holder::new(Limits { pieces: 8, ..LIMITS });
        let mut record: Option<Record> = None;
        let mut out = Vec::new();
        let place = |n: u32| piece(n * 10, 10, n == 5);
        for n in order {
            let step = record.as_ref().map(|record| record.judge(place(n)));
            match (n, step) {
                (0, None) => {
                    let mut first = Record { state: state::FORWARDED, ..Record::default() };
                    first.advance(place(0));
                    record = Some(first);
                    out.push(0);
                }
                (_, Some(Step::InOrder)) => {
                    record.as_mut().unwrap().advance(place(n));
                    out.push(n);
                }
                (_, None | Some(Step::Early)) => {
                    let frame = vec![u8::try_from(n).unwrap()];
                    holder.put(arrival(1, place(n)), 1, frame, ms(0)).unwrap();
                }
                (_, Some(step)) => prop_assert!(false, "{:?}", step),
            }
            while let Some((_, frame)) = holder.next(&key(1), record.as_ref()) {
                let n = u32::from(frame[0]);
                let record = record.as_mut().unwrap();
                prop_assert_eq!(record.judge(place(n)), Step::InOrder);
                record.advance(place(n));
                out.push(n);
            }
        }
        prop_assert_eq!(out, (0..6).collect::<Vec<_>>());
        prop_assert!(holder.is_empty());
        prop_assert_eq!(holder.bytes(), 0);
    }
}
