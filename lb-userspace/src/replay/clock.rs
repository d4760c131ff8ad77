//! The time of a replay: that of the capture, never backwards.

use std::time::Duration;

use lb_common::clock::{EPOCH_SECONDS, EPOCHS};

/// Epochs that may pass between two sweeps: an entry that lived at the first is not yet taken for
/// a young one at the second, since lifetime and pause together stay below a turn of the epochs.
const LONGEST_PAUSE: u64 = (EPOCHS / 2) as u64;

/// Seconds since the first packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    first: Option<u64>,
    seconds: u64,
    /// Nanoseconds since the first packet.
    elapsed: u64,
}

/// What a packet's time stamp does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tick {
    /// It is the same second as before.
    Still,
    /// It is now this second.
    Second(u64),
    /// A new epoch begins with this second: expired dialogs are to be cleared. After a long pause
    /// they have to be cleared at the second `stop` first.
    Epoch { stop: Option<u64>, second: u64 },
}

impl Clock {
    /// Since the first packet.
    pub(super) const fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed)
    }

    /// Moves on to a time stamp in nanoseconds since 1970.
    pub(super) fn advance(&mut self, time: u64) -> Tick {
        let first = *self.first.get_or_insert(time);
        self.elapsed = self.elapsed.max(time.saturating_sub(first));
        let second = time.saturating_sub(first) / 1_000_000_000;
        if second <= self.seconds {
            return Tick::Still;
        }
        let epoch = |second: u64| second / u64::from(EPOCH_SECONDS);
        let (before, now) = (epoch(self.seconds), epoch(second));
        self.seconds = second;
        if before == now {
            return Tick::Second(second);
        }
        let is_long = now - before > LONGEST_PAUSE;
        let stop = is_long.then(|| (before + LONGEST_PAUSE) * u64::from(EPOCH_SECONDS));
        Tick::Epoch { stop, second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn time_starts_with_the_first_packet_and_never_goes_back() {
        let mut clock = Clock::default();
        let start = 1_700_000_000 * SECOND;
        assert_eq!(clock.advance(start), Tick::Still);
        assert_eq!(clock.advance(start + 5 * SECOND), Tick::Second(5));
        assert_eq!(clock.advance(start + 2 * SECOND), Tick::Still);
        assert_eq!(clock.advance(start - 2 * SECOND), Tick::Still);
        assert_eq!(clock.advance(start + 6 * SECOND - 1), Tick::Still);
        assert_eq!(clock.advance(start + 6 * SECOND), Tick::Second(6));
    }

    #[test]
    fn a_long_pause_is_made_in_two_steps() {
        let mut clock = Clock::default();
        assert_eq!(clock.advance(0), Tick::Still);
        assert_eq!(clock.advance(256 * SECOND), Tick::Epoch { stop: None, second: 256 });
        let day = 86_400;
        let stop = Some(65 * 256);
        assert_eq!(clock.advance(day * SECOND), Tick::Epoch { stop, second: day });
    }
}
