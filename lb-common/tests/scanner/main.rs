//! The scanner against a slow and plain reference: the same reading of every payload.

mod agree;
mod corpus;
mod differential;
mod generate;
mod mutate;
mod named;
mod reference;
mod referrals;
