//! What Prometheus scrapes. Names and meanings stand in [`names`]; labels are bounded by the
//! configuration, never by traffic.

pub mod control;
mod datapath;
pub mod names;

use anyhow::{Context as _, Result};
use prometheus::{Registry, TextEncoder};

use self::control::ProbeMetrics;
use crate::event::Snapshot;

/// The registry of what is counted here; what the datapath counts is added at each scrape.
pub struct Metrics {
    registry: Registry,
    probes: ProbeMetrics,
}

impl Metrics {
    /// # Errors
    ///
    /// If a metric is declared wrongly.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        let probes = ProbeMetrics::register(&registry)?;
        Ok(Self { registry, probes })
    }

    /// Where the controller counts its probes.
    #[must_use]
    pub fn probes(&self) -> ProbeMetrics {
        self.probes.clone()
    }

    /// The whole page in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// If a metric is declared wrongly.
    pub fn render(&self, snapshot: &Snapshot) -> Result<String> {
        let mut families = self.registry.gather();
        families.extend(datapath::gather(snapshot)?);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families).context("cannot render the metrics")
    }
}
