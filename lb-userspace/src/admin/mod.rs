//! How people and machines speak to a running controller.

pub mod http;
pub mod socket;
