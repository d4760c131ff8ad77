//! What this host needs so that packets flow, and how to mend what is missing.
//!
//! The XDP program sends by itself whatever it can. What it hands to the kernel (an unknown
//! neighbour, a stale route, policy rules) flows only if the kernel would route it; that is what
//! most of these checks are about. [`check`] is pure: configuration + network + facts → findings.

use std::{fmt, net::IpAddr, path::PathBuf};

use serde::Serialize;

use crate::{config::Config, netlink::Network};

pub mod facts;
mod forwarding;
mod interfaces;
mod paths;
mod privileges;
mod vips;

pub use facts::{FactsError, HostFacts};

/// Something about this host that keeps packets from flowing, or may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What was found, naming the object and its value, and what follows from it.
    pub what: String,
    /// The command, setting or change of configuration that mends it.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; may well be as it should.
    Note,
    /// Some packets are lost or take the slow way.
    Warning,
    /// It cannot work.
    Error,
}

/// The part of the configuration that the host must be fit for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interfaces: Vec<String>,
    pub pin_dir: PathBuf,
    pub services: Vec<WantedService>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedService {
    pub name: String,
    pub vips: Vec<IpAddr>,
    pub backends: Vec<(String, IpAddr)>,
}

impl From<&Config> for Wanted {
    fn from(config: &Config) -> Self {
        let services = config.services.iter().map(|service| WantedService {
            name: service.name.clone(),
            vips: service.listen.iter().map(std::net::SocketAddr::ip).collect(),
            backends: service
                .all_backends()
                .map(|backend| (backend.name.clone(), backend.address.ip()))
                .collect(),
        });
        Self {
            interfaces: config.interfaces.clone(),
            pin_dir: config.pin_dir.clone(),
            services: services.collect(),
        }
    }
}

/// Everything that is not as it should be, the worst first.
#[must_use]
pub fn check(wanted: &Wanted, network: &Network, facts: &HostFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    privileges::check(wanted, facts, &mut findings);
    interfaces::check(wanted, network, facts, &mut findings);
    forwarding::check(wanted, network, facts, &mut findings);
    vips::check(wanted, network, facts, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut unique: Vec<Finding> = Vec::new();
    for finding in findings {
        if !unique.contains(&finding) {
            unique.push(finding);
        }
    }
    unique
}

impl Finding {
    fn error(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, what: what.into(), remedy: remedy.into() }
    }

    fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, what: what.into(), remedy: remedy.into() }
    }

    fn note(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Note, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.severity, self.what, self.remedy)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The name by which `sysctl` knows a setting of a device (dots in device names become slashes).
fn sysctl(family: &str, device: &str, key: &str) -> String {
    format!("net.{family}.conf.{}.{key}", device.replace('.', "/"))
}

#[cfg(test)]
mod tests;
