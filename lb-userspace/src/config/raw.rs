//! The file's keys as serde reads them, after the structural check filled in the defaults.
//!
//! `None` means that the value was refused: the error is recorded, and rules that would need the
//! value say nothing. Keys and words of later versions never come this far.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    alias::Alias,
    model::{
        Admin, Affinity, AllDown, Balance, ControllerLost, Expect, Forward, InDialogFailover,
        Initial, Keepalive, Malformed, PanicMode, SpoofCheck, Transport, XdpMode,
    },
    values,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) interfaces: Option<Vec<Option<String>>>,
    pub(super) xdp_mode: Option<XdpMode>,
    #[serde(default)]
    pub(super) hash_key: Given<String>,
    #[serde(default)]
    pub(super) hash_key_file: Given<PathBuf>,
    pub(super) metrics: Option<RawMetrics>,
    pub(super) admin: Option<RawAdmin>,
    pub(super) pin_dir: Option<PathBuf>,
    pub(super) dialogs: Option<RawDialogs>,
    pub(super) limits: Option<RawLimits>,
    #[serde(deserialize_with = "controller_lost")]
    pub(super) controller_lost: Option<ControllerLost>,
    pub(super) defaults: Option<RawDefaults>,
    pub(super) services: Option<Vec<Option<RawService>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetrics {
    pub(super) listen: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) socket: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDialogs {
    pub(super) max: Option<u32>,
    pub(super) timeout: Option<RawDuration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) services: Option<u32>,
    pub(super) endpoints: Option<u32>,
    pub(super) bindings: Option<u32>,
    pub(super) tables: Option<u32>,
    pub(super) fragments: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDefaults {
    pub(super) health: Option<RawHealth>,
}

/// `defaults.health` and a backend's `health`; in the latter a key may be absent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct RawHealth {
    pub(super) method: Given<String>,
    pub(super) interval: Given<RawDuration>,
    pub(super) fast_interval: Given<RawDuration>,
    pub(super) timeout: Given<RawDuration>,
    pub(super) rise: Given<u32>,
    pub(super) fall: Given<u32>,
    pub(super) expect: Given<RawExpect>,
    pub(super) initial: Given<Initial>,
    pub(super) panic: Given<PanicMode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    pub(super) name: Option<String>,
    pub(super) listen: Option<Vec<Option<SocketAddr>>>,
    pub(super) transport: Option<Vec<Option<Transport>>>,
    pub(super) forward: Option<Forward>,
    pub(super) balance: Option<Balance>,
    pub(super) affinity: Option<Affinity>,
    pub(super) in_dialog_failover: Option<InDialogFailover>,
    pub(super) keepalive: Option<Keepalive>,
    pub(super) malformed: Option<Malformed>,
    pub(super) all_down: Option<AllDown>,
    pub(super) retry_after: Option<RawDuration>,
    pub(super) spoof_check: Option<SpoofCheck>,
    pub(super) backends: Option<Vec<Option<RawBackend>>>,
    #[serde(default)]
    pub(super) domains: Given<Vec<Option<RawRule>>>,
    #[serde(default)]
    pub(super) methods: Given<Vec<Option<RawRule>>>,
}

/// An element of `domains:` or of `methods:`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    #[serde(rename = "match")]
    pub(super) matches: Option<Vec<Option<String>>>,
    pub(super) backends: Option<Vec<Option<RawBackend>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBackend {
    pub(super) name: Option<String>,
    pub(super) address: Option<SocketAddr>,
    #[serde(default)]
    pub(super) aliases: Given<Vec<Option<Alias>>>,
    pub(super) priority: Option<u16>,
    pub(super) weight: Option<u16>,
    pub(super) admin: Option<Admin>,
    #[serde(default)]
    pub(super) health: Given<RawBackendHealth>,
}

#[derive(Debug, Deserialize)]
pub(super) enum RawBackendHealth {
    #[serde(rename = "off")]
    Off,
    #[serde(untagged)]
    Own(Box<RawHealth>),
}

/// A key that may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Given<T> {
    #[default]
    Absent,
    /// Present, but not usable; the error is recorded.
    Refused,
    Value(T),
}

impl<T> Given<T> {
    /// The value, else that of `default`; `None` if the one that counts was refused.
    pub(super) fn or<'a>(&'a self, default: &'a Self) -> Option<&'a T> {
        match self {
            Self::Absent => default.value(),
            Self::Refused => None,
            Self::Value(value) => Some(value),
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Refused => None,
        }
    }

    pub(super) fn is_present(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Refused | Self::Value(_) => true,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Refused, Self::Value))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RawDuration(pub(super) Duration);

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        values::duration(&text).map(Self).ok_or_else(|| D::Error::custom("not a duration"))
    }
}

fn controller_lost<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ControllerLost>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| values::controller_lost(&text).map_err(D::Error::custom)).transpose()
}

/// Answers that a probe expects, as the file has them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) enum RawExpect {
    #[serde(rename = "any")]
    Any,
    #[serde(untagged)]
    Codes(Vec<Option<RawCode>>),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum RawCode {
    Code(u16),
    Class(String),
}

impl RawExpect {
    /// `None` if a code was refused.
    pub(super) fn resolve(&self) -> Option<Expect> {
        let codes = match self {
            Self::Any => return Some(Expect::Any),
            Self::Codes(codes) => codes,
        };
        let range = |code: &Option<RawCode>| match code.as_ref()? {
            RawCode::Code(code) => Some((*code, *code)),
            RawCode::Class(class) => values::status_class(class),
        };
        codes.iter().map(range).collect::<Option<_>>().map(Expect::Codes)
    }
}
