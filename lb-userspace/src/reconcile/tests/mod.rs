//! Scenarios of a controller's life: each run once, then with every single write failing, then with
//! a crash at every single write, the invariants of [`watched`] checked after each write.

mod crashes;
mod golden;
mod keep_last;
mod limits;
mod properties;
mod scenario;
mod watched;
