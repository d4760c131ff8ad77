//! The scanner against the reference on generated payloads.

use proptest::prelude::*;

use crate::{agree, generate};

fn agrees(payload: &[u8]) -> Result<(), TestCaseError> {
    agree::read(payload)
        .map(|_| ())
        .map_err(|e| TestCaseError::fail(format!("{e}; payload \"{}\"", payload.escape_ascii())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_any_bytes(payload in generate::bytes()) {
        agrees(&payload)?;
    }

    #[test]
    fn on_pieces_of_sip_in_any_order(payload in generate::pieces()) {
        agrees(&payload)?;
    }

    #[test]
    fn on_odd_messages(payload in generate::message()) {
        agrees(&payload)?;
    }
}
