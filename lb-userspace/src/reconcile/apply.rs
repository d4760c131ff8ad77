//! Doing what a plan says, and trying again later.

use std::time::Duration;

use super::{applied::Applied, op::Op};
use crate::maps::{LbMaps, MapError};

/// A plan that could not be applied in full.
#[derive(Debug, thiserror::Error)]
#[error("{error} ({done} of {total} changes are done)")]
pub struct Interrupted {
    /// Writes that succeeded; they are in `applied`.
    pub done: usize,
    pub total: usize,
    /// The write that failed.
    pub op: Op,
    #[source]
    pub error: MapError,
}

/// Does `ops` in order, each noted in `applied` once it succeeded. Stops at the first failure: plan
/// again then. `clock` tells the monotonic time that [`super::diff::Moment`] uses.
///
/// # Errors
/// The first write that failed.
pub fn apply(
    ops: &[Op],
    maps: &mut dyn LbMaps,
    applied: &mut Applied,
    clock: &dyn Fn() -> Duration,
) -> Result<usize, Box<Interrupted>> {
    for (done, op) in ops.iter().enumerate() {
        op.write(maps).map_err(|error| {
            Box::new(Interrupted { done, total: ops.len(), op: op.clone(), error })
        })?;
        applied.record(op, clock());
    }
    Ok(ops.len())
}

/// Pauses between attempts: 50 ms, doubled up to 5 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    pub const FIRST: Duration = Duration::from_millis(50);
    pub const LONGEST: Duration = Duration::from_secs(5);

    #[must_use]
    pub const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The pause after a failure.
    #[must_use]
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        pause
    }

    /// After a success.
    pub const fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_after_a_success() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..9).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.pause(), Backoff::FIRST);
    }
}
