//! What the controller counts itself: probes.

use anyhow::Result;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::names::{PROBE_FAILURES, PROBE_SECONDS};
use crate::probe::{Judgement, ProbeEvent};

/// Bounds of the histogram in seconds: a probe's timeout is seldom above 5 s.
const BUCKETS: [f64; 11] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The instruments; clones count together.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    seconds: HistogramVec,
    failures: IntCounterVec,
}

impl ProbeMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self> {
        let seconds = HistogramVec::new(
            HistogramOpts::new(PROBE_SECONDS.name, PROBE_SECONDS.help).buckets(BUCKETS.to_vec()),
            PROBE_SECONDS.labels,
        )?;
        let failures = IntCounterVec::new(
            Opts::new(PROBE_FAILURES.name, PROBE_FAILURES.help),
            PROBE_FAILURES.labels,
        )?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        Ok(Self { seconds, failures })
    }

    /// Takes in a probe that ended.
    pub fn observe(&self, event: &ProbeEvent, judgement: Judgement) {
        let endpoint = event.endpoint.to_string();
        if judgement.is_alive() {
            self.seconds.with_label_values(&[&endpoint]).observe(event.duration.as_secs_f64());
        } else {
            let reason = judgement.reason().label();
            self.failures.with_label_values(&[endpoint.as_str(), reason]).inc();
        }
    }
}
