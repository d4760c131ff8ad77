//! Header edits. SIP text is never touched.

pub mod nat;
