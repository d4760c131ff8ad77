//! What the maps should say: pure functions of the configuration, health and the operator's word.

use std::collections::BTreeMap;

use lb_common::backend::admin;

pub use crate::config::model::Admin;
use crate::config::model::Config;

pub mod choose;
pub mod desired;
pub mod ids;
pub mod route;
mod senders;
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

    /// The value in a binding ([`admin`]): what is in force, and what the operator said by command.
    #[must_use]
    pub const fn value(in_force: Self, by_command: Self) -> u8 {
        in_force.word() | by_command.word() << admin::COMMAND_SHIFT
    }

    /// What is in force according to a binding.
    #[must_use]
    pub const fn in_force(value: u8) -> Self {
        Self::from_word(value & admin::WORD)
    }

    /// What the operator said by command according to a binding.
    #[must_use]
    pub const fn by_command(value: u8) -> Self {
        Self::from_word(value >> admin::COMMAND_SHIFT)
    }

    const fn word(self) -> u8 {
        match self {
            Self::Ready => admin::READY,
            Self::Drain => admin::DRAIN,
            Self::Maint => admin::MAINT,
        }
    }

    /// Words that this version does not know count as drain: no new dialogs, no live ones broken.
    const fn from_word(word: u8) -> Self {
        match word {
            admin::READY => Self::Ready,
            admin::MAINT => Self::Maint,
            _ => Self::Drain,
        }
    }
}

/// What the operator said by command, by service and backend name; who is not in it is ready.
///
/// It stands beside what the configuration says, and the stricter of the two is in force: neither
/// a reload nor a restart undoes a command, and no command undoes the configuration.
pub type AdminStates = BTreeMap<(String, String), Admin>;

/// What the operator said of one backend by command.
#[must_use]
pub fn commanded(states: &AdminStates, service: &str, backend: &str) -> Admin {
    // A look-up by a borrowed pair needs an owned key; these are short and few.
    states.get(&(service.to_owned(), backend.to_owned())).copied().unwrap_or(Admin::Ready)
}

/// Forgets what was said of backends that are no longer configured: one that is configured again
/// starts as its configuration says.
pub fn forget_removed(states: &mut AdminStates, config: &Config) {
    states.retain(|(service, backend), _| config.backend(service, backend).is_some());
}
