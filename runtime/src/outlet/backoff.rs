//! How long to wait before the next attempt.

use std::time::Duration;

use crate::watch::machine::random;

/// The longest pause, whatever a peer asks for.
pub(super) const MOST: Duration = Duration::from_secs(600);

/// Pauses that double from the least to the most; each is drawn from the upper half below that, so that many devices
/// don't come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    n_failures: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(least_ms: u32, most_ms: u32) -> Self {
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        Backoff { least: ms(least_ms), most: ms(most_ms), n_failures: 0, random: random() | 1 }
    }

    /// An attempt was a success.
    pub(super) fn reset(&mut self) {
        self.n_failures = 0;
    }

    /// The pause after another failure.
    pub(super) fn pause(&mut self) -> Duration {
        let doubled = self.least.saturating_mul(1 << self.n_failures.min(24)).min(self.most);
        self.n_failures = self.n_failures.saturating_add(1);
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = doubled / 2;
        half + half * u32::try_from(self.random >> 44).unwrap_or(0) / (1 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_differ() {
        let mut backoff = Backoff::new(1000, 60_000);
        for round in 0..2 {
            for n in 0..40 {
                let doubled = (1000_u64 << n.min(20)).min(60_000);
                let pause = u64::try_from(backoff.pause().as_millis()).unwrap();
                assert!((doubled / 2..=doubled).contains(&pause), "round {round}, {n}: {pause} ms");
            }
            backoff.reset();
        }
        let mut drawn: Vec<_> = (0..100).map(|_| Backoff::new(60_000, 60_000).pause()).collect();
        drawn.sort();
        assert!(drawn[99] - drawn[0] > Duration::from_secs(10), "{:?} to {:?}", drawn[0], drawn[99]);
    }
}
