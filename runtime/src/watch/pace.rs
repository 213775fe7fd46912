//! How often to look for faces, so that a share of the processor is enough. Pure: time and temperature are arguments.

/// Degrees below and above the limit between which less and less is done.
const RAMP_C: f32 = 5.0;
/// What is left of the share when it is hotter than that.
const LEAST_FACTOR: f32 = 0.1;
/// Weight of what was measured before.
const MEMORY: f64 = 0.6;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Shortest and longest time between two looks.
    pub interval_ns: (i64, i64),
    /// Cores' worth of time a second.
    pub n_cores: f64,
    /// Temperature above which less is done, degrees Celsius.
    pub max_temperature_c: f32,
}

/// Chooses the time between two looks by what looks have cost.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    limits: Limits,
    interval_ns: i64,
    /// Cores' worth of time that goes on whether or not there are looks, and time of a look.
    known: Option<(f64, f64)>,
}

impl Pace {
    /// As fast as the limits allow, until something is known.
    pub fn new(limits: Limits) -> Self {
        Pace { limits, interval_ns: limits.interval_ns.0, known: None }
    }

    /// Time between two looks.
    pub fn interval_ns(&self) -> i64 {
        self.interval_ns
    }

    /// Takes in what a stretch of time has cost: `wall_ns` long, `cpu_ns` of the whole process, of which `looks_ns` went
    /// to `n_looks` looks; and how hot it is now.
    pub fn measure(
        &mut self,
        (wall_ns, cpu_ns): (i64, i64),
        (n_looks, looks_ns): (u64, i64),
        temperature_c: Option<f32>,
    ) {
        if wall_ns <= 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds' worth of nanoseconds")]
        let (wall, cpu, looks, n) = (wall_ns as f64, cpu_ns as f64, looks_ns as f64, n_looks as f64);
        let base = ((cpu - looks) / wall).max(0.0);
        let mix = |before: f64, now: f64| before * MEMORY + now * (1.0 - MEMORY);
        self.known = match (self.known, n_looks) {
            (Some((b, look)), 0) => Some((mix(b, base), look)),
            (Some((b, look)), _) => Some((mix(b, base), mix(look, looks / n))),
            (None, 0) => None,
            (None, _) => Some((base, looks / n)),
        };
        let Some((base, look)) = self.known else { return };
        let (least, most) = self.limits.interval_ns;
        let left = self.limits.n_cores * f64::from(self.factor(temperature_c)) - base;
        self.interval_ns = if left <= 0.0 {
            most
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and is clamped")]
            let wanted = (look / left) as i64;
            wanted.clamp(least, most)
        };
    }

    /// The part of the share that may be used at this temperature: 1 where it is cool or unknown.
    fn factor(&self, temperature_c: Option<f32>) -> f32 {
        let Some(now_c) = temperature_c else { return 1.0 };
        let over = (now_c - (self.limits.max_temperature_c - RAMP_C)) / (2.0 * RAMP_C);
        (1.0 - over).clamp(LEAST_FACTOR, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;
    const LIMITS: Limits =
        Limits { interval_ns: (200 * MS, 2000 * MS), n_cores: 0.5, max_temperature_c: 80.0 };

    /// A second in which looks of `look_ms` are made at the pace's interval, beside `base_ms` of other work.
    fn second(pace: &mut Pace, look_ms: i64, base_ms: i64, temperature_c: Option<f32>) {
        let n = 1000 * MS / pace.interval_ns();
        let looks_ns = n * look_ms * MS;
        pace.measure((1000 * MS, base_ms * MS + looks_ns), (n.unsigned_abs(), looks_ns), temperature_c);
    }

    #[test]
    fn enough_is_left_alone_and_too_much_is_stretched_to_the_share() {
        let mut pace = Pace::new(LIMITS);
        (0..5).for_each(|_| second(&mut pace, 50, 100, None));
        assert_eq!(pace.interval_ns(), 200 * MS);
        // 200 ms a look and 0.4 cores left: every 500 ms.
        (0..30).for_each(|_| second(&mut pace, 200, 100, None));
        assert!((pace.interval_ns() - 500 * MS).abs() < MS, "{}", pace.interval_ns());
        // And back, once looks are cheap again.
        (0..30).for_each(|_| second(&mut pace, 50, 100, None));
        assert_eq!(pace.interval_ns(), 200 * MS);
    }

    #[test]
    fn the_interval_keeps_to_its_limits_whatever_is_measured() {
        let mut pace = Pace::new(LIMITS);
        (0..30).for_each(|_| second(&mut pace, 200, 900, None));
        assert_eq!(pace.interval_ns(), 2000 * MS);
        pace.measure((0, 5), (0, 0), None);
        pace.measure((1000 * MS, -5), (3, i64::MAX), Some(f32::NAN));
        assert!((200 * MS..=2000 * MS).contains(&pace.interval_ns()));
    }

    #[test]
    fn heat_takes_the_share_away_step_by_step() {
        let mut intervals = Vec::new();
        for temperature_c in [None, Some(75.0), Some(80.0), Some(95.0)] {
            let mut pace = Pace::new(LIMITS);
            (0..50).for_each(|_| second(&mut pace, 100, 0, temperature_c));
            intervals.push((pace.interval_ns() + MS / 2) / MS);
        }
        // 100 ms a look: of 0.5, 0.5, 0.25 and 0.05 cores.
        assert_eq!(intervals, [200, 200, 400, 2000]);
    }
}
