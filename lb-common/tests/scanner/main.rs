//! The scanner against a slow and plain reference: the same reading of every payload.

mod agree;
mod differential;
mod generate;
mod reference;
