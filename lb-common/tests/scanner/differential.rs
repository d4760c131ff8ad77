//! The scanner against the reference on generated payloads.

use proptest::prelude::*;

use crate::{agree, corpus, generate, mutate};

fn agrees(payload: &[u8]) -> Result<(), TestCaseError> {
    agree::read(payload)
        .map(|_| ())
        .map_err(|e| TestCaseError::fail(format!("{e}; payload \"{}\"", payload.escape_ascii())))
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn on_any_bytes(payload in generate::bytes()) {
        agrees(&payload)?;
    }

    #[test]
    fn on_pieces_of_sip_in_any_order(payload in generate::pieces()) {
        agrees(&payload)?;
    }
}

proptest! {
    #![proptest_config(cases(8_000))]

    #[test]
    fn on_odd_messages(payload in generate::message()) {
        agrees(&payload)?;
    }
}

#[test]
fn on_mutants_of_the_named_messages() {
    let payloads: Vec<_> = corpus::load().unwrap().into_iter().map(|named| named.payload).collect();
    for n in 0..200_000 {
        let payload = mutate::mutant(&payloads, 0, n);
        if let Err(e) = agree::read(&payload) {
            let least = mutate::smallest(payload, |payload| agree::read(payload).is_err());
            panic!("mutant {n}: {e}; smallest \"{}\"", least.escape_ascii());
        }
    }
}
