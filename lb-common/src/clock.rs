//! Coarse time for the dialog table: epochs of 256 s, counted modulo 128 from a pinned base.

/// Length of an epoch in seconds.
pub const EPOCH_SECONDS: u32 = 256;
/// Epochs are counted modulo this (9.1 hours), well beyond the longest dialog lifetime of 4 h.
pub const EPOCHS: u32 = 128;

/// The clock of the datapath, written when the maps are made.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Clock {
    /// Jiffies at epoch 0.
    pub base: u64,
    /// 2³⁶ / (jiffies per epoch), rounded.
    pub rate: u64,
    /// Replay: seconds since epoch 0, taken from the capture; the live program reads jiffies.
    pub seconds: u64,
    /// Dialog lifetime in epochs, 1…56.
    pub lifetime: u32,
    /// Jiffies a second; 0 = not known, then no rate is limited.
    pub hz: u32,
}
const _: () = assert!(size_of::<Clock>() == 32);

impl Clock {
    /// `hz` jiffies a second, counted from `base`.
    #[must_use]
    pub const fn new(base: u64, hz: u64, lifetime: u32) -> Self {
        let per_epoch = hz * EPOCH_SECONDS as u64;
        Self {
            base,
            rate: ((1 << 36) + per_epoch / 2) / per_epoch,
            seconds: 0,
            lifetime,
            hz: hz as u32,
        }
    }

    /// The epoch at `jiffies`.
    #[inline(always)]
    #[must_use]
    pub const fn epoch(&self, jiffies: u64) -> u32 {
        let since = jiffies.wrapping_sub(self.base);
        ((since.wrapping_mul(self.rate) >> 36) as u32) % EPOCHS
    }

    /// Ticks of 1/1024 s at `jiffies`, modulo 2³².
    #[inline(always)]
    #[must_use]
    pub const fn ticks(&self, jiffies: u64) -> u32 {
        // rate / 2³⁶ epochs a jiffy, 2¹⁸ ticks an epoch.
        (jiffies.wrapping_sub(self.base).wrapping_mul(self.rate) >> 18) as u32
    }

    /// The same by the replay cell.
    #[inline(always)]
    #[must_use]
    pub const fn replay_ticks(&self) -> u32 {
        (self.seconds << 10) as u32
    }

    /// The epoch by the replay cell.
    #[inline(always)]
    #[must_use]
    pub const fn replay_epoch(&self) -> u32 {
        ((self.seconds >> 8) as u32) % EPOCHS
    }
}

/// Epochs that passed from `then` to `now`.
#[inline(always)]
#[must_use]
pub const fn age(now: u32, then: u32) -> u32 {
    now.wrapping_sub(then) % EPOCHS
}

/// A dialog lifetime in epochs, rounded up.
#[must_use]
pub const fn lifetime(seconds: u64) -> u32 {
    seconds.div_ceil(EPOCH_SECONDS as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_lasts_256_seconds_at_every_tick_rate() {
        for hz in [100, 250, 300, 1000] {
            let clock = Clock::new(4_294_667_296, hz, 43);
            for day in [0u64, 1, 10] {
                let epoch = day * 337;
                let at = clock.base + epoch * 256 * hz;
                assert_eq!(clock.epoch(at + 8 * hz), (epoch % 128) as u32, "hz {hz} day {day}");
                assert_eq!(clock.epoch(at + 248 * hz), (epoch % 128) as u32, "hz {hz} day {day}");
                assert_eq!(clock.epoch(at + 264 * hz), ((epoch + 1) % 128) as u32, "hz {hz}");
            }
        }
    }

    #[test]
    fn a_second_has_1024_ticks_at_every_tick_rate() {
        for hz in [100, 250, 300, 1000] {
            let clock = Clock::new(4_294_667_296, hz, 43);
            for seconds in [1u64, 30, 86_400] {
                let ticks = clock.ticks(clock.base + seconds * hz);
                let off = i64::from(ticks) - (seconds as i64) * 1024;
                assert!(off.abs() <= 1 + seconds as i64 / 100, "hz {hz} after {seconds} s: {off}");
            }
        }
    }

    #[test]
    fn age_wraps() {
        assert_eq!(age(3, 126), 5);
        assert_eq!(age(10, 10), 0);
    }

    #[test]
    fn three_hours_are_43_epochs() {
        assert_eq!(lifetime(3 * 3600), 43);
        assert_eq!(lifetime(256), 1);
    }
}
