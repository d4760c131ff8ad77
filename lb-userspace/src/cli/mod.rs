//! What the user types.

pub mod check;
