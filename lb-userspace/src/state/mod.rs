//! What the maps should say: pure functions of the configuration, health and the operator's word.

use std::collections::BTreeMap;

use lb_common::backend::admin;

pub mod desired;
pub mod ids;
pub mod route;
pub mod table;
pub mod tier;

#[cfg(test)]
mod tests;

/// What the prober found out about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No probe has ended yet and the endpoint is not presumed up. Gets no traffic.
    Unknown,
    Up,
    Down,
}

/// What tables depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub health: Health,
    /// It answered 503: no new dialogs, live ones stay.
    pub busy: bool,
}

impl Standing {
    pub const UP: Self = Self { health: Health::Up, busy: false };
    pub const DOWN: Self = Self { health: Health::Down, busy: false };
    pub const UNKNOWN: Self = Self { health: Health::Unknown, busy: false };
}

/// The operator's word for a backend of a service (HAProxy's words).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admin {
    Ready,
    /// No new dialogs; live ones stay.
    Drain,
    /// No traffic.
    Maint,
}

impl Admin {
    /// The word in `status` and in the admin socket.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }

    /// The value in a binding ([`admin`]).
    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Ready => admin::READY,
            Self::Drain => admin::DRAIN,
            Self::Maint => admin::MAINT,
        }
    }

    /// From a binding; values that this version does not know count as drain: no new dialogs, no
    /// live ones broken.
    #[must_use]
    pub const fn from_value(value: u8) -> Self {
        match value {
            admin::READY => Self::Ready,
            admin::MAINT => Self::Maint,
            _ => Self::Drain,
        }
    }
}

/// By service and backend name; who is not in it is ready.
pub type AdminStates = BTreeMap<(String, String), Admin>;

/// The state of one backend.
#[must_use]
pub fn admin_of(states: &AdminStates, service: &str, backend: &str) -> Admin {
    // A look-up by a borrowed pair needs an owned key; these are short and few.
    states.get(&(service.to_owned(), backend.to_owned())).copied().unwrap_or(Admin::Ready)
}
