//! file → `RawConfig` → [`Config`].

pub mod model;

pub use model::Config;
