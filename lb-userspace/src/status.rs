//! What `status --json` shows: one shape for the running controller, which fills it, and for the
//! command, which prints it. With the controller gone it is filled from the pins.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// The whole document; fields as the README describes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub attached: Vec<AttachedInterface>,
    pub config: ConfigStatus,
    pub controller: ControllerState,
    pub services: Vec<ServiceStatus>,
    /// Backends that are no longer configured and still have dialogs.
    pub retired: Vec<RetiredStatus>,
    /// How many watch packets by `capture` or `trace`.
    #[serde(default)]
    pub watchers: usize,
    /// What could not be done, each with its remedy.
    pub notices: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedInterface {
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Interface index of the link; 0 = the interface has vanished.
    pub link: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// `None` when only the pins are left.
    pub path: Option<PathBuf>,
    /// RFC 3339, UTC.
    pub loaded_at: Option<String>,
    /// First 16 hexadecimal digits of the file's SHA-256.
    pub digest: Option<String>,
    /// Why the last reload was refused; the running configuration is the one before.
    pub reload_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControllerState {
    Running,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub listen: Vec<String>,
    pub forward: String,
    pub balance: String,
    /// `null` when no tier has a usable backend.
    pub active_priority: Option<u16>,
    /// 16 hexadecimal digits; equal on two nodes that place new dialogs alike.
    pub table_digest: String,
    /// True while the service keeps its last table because all backends failed at once.
    pub suspected: bool,
    /// What happens to new requests while no backend is usable: `reject`, `keep-last`, `drop`;
    /// `null` while one is.
    #[serde(default)]
    pub all_down: Option<String>,
    /// The service's own set.
    pub backends: Vec<BackendStatus>,
    /// Sets of domain and method rules.
    pub sets: Vec<SetStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: String,
    pub address: String,
    /// What else its Via headers may call it; not known without a controller.
    pub aliases: Vec<String>,
    pub priority: u16,
    pub weight: u16,
    /// Fraction of new dialogs.
    pub share: f64,
    /// Fraction of the service's requests in the last 60 s; `null` if there were none.
    pub traffic_share: Option<f64>,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// RFC 3339, UTC, or `next-answer`; `null` if it is not busy.
    pub busy_until: Option<String>,
    /// `ready`, `drain` or `maint`.
    pub admin: String,
    /// Since when `health`; RFC 3339, UTC.
    pub since: Option<String>,
    /// What the last probe brought.
    pub last_reason: Option<String>,
    /// Answered INVITEs without a BYE, counted by the last sweep: approximate.
    pub live_dialogs: u64,
    /// INVITEs without a final answer, counted by the last sweep.
    pub ringing_dialogs: u64,
    pub requests_total: u64,
    /// By class.
    pub responses: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetStatus {
    /// What its rule matches first.
    pub name: String,
    /// `null` when no tier has a usable backend.
    pub active_priority: Option<u16>,
    pub table_digest: String,
    /// Shares are of the new dialogs that the rule matches; counters are the backend's own, whatever
    /// set chose it.
    pub backends: Vec<BackendStatus>,
}

impl ServiceStatus {
    /// Every backend once, as the first set that has it shows it.
    pub fn all_backends(&self) -> impl Iterator<Item = &BackendStatus> {
        let mut seen = HashSet::new();
        let sets = self.sets.iter().flat_map(|set| &set.backends);
        self.backends.iter().chain(sets).filter(move |b| seen.insert(b.name.as_str()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredStatus {
    pub service: String,
    pub backend: String,
    pub address: String,
    pub live_dialogs: u64,
}
