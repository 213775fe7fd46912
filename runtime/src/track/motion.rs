//! Where a face that was seen before should be now.

use crate::geom::Rect;

/// How fast a remembered velocity fades: a head in a call stops soon.
const DAMPING_S: f32 = 0.4;
/// Time over which the velocity is averaged, against the detector's jitter.
const VELOCITY_MEMORY_S: f32 = 0.3;
/// Distance between centres at which agreement falls to 1/e, in mean box sides.
const CENTER_SCALE: f32 = 0.5;
/// Logarithm of the size ratio at which agreement falls to 1/e.
const SIZE_SCALE: f32 = 0.35;

/// A box that moves, with the time of its last observation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    bbox: Rect,
    /// Change of the box's four numbers per second.
    velocity: Rect,
    seen_ns: i64,
}

/// Seconds from `from_ns` to `to_ns`, never negative.
pub(super) fn elapsed_s(from_ns: i64, to_ns: i64) -> f32 {
    std::time::Duration::from_nanos(to_ns.saturating_sub(from_ns).max(0).unsigned_abs()).as_secs_f32()
}

impl Motion {
    /// A box at rest.
    pub(super) fn at_rest(bbox: Rect, pts_ns: i64) -> Self {
        Motion { bbox, velocity: Rect::default(), seen_ns: pts_ns }
    }

    /// Time of the last observation.
    pub(super) fn seen_ns(&self) -> i64 {
        self.seen_ns
    }

    /// The box at `pts_ns`, by a velocity that fades; never of negative size.
    pub(super) fn predict(&self, pts_ns: i64) -> Rect {
        let dt_s = elapsed_s(self.seen_ns, pts_ns);
        let reach_s = DAMPING_S * (1.0 - (-dt_s / DAMPING_S).exp());
        Rect {
            x: self.bbox.x + self.velocity.x * reach_s,
            y: self.bbox.y + self.velocity.y * reach_s,
            w: (self.bbox.w + self.velocity.w * reach_s).max(0.0),
            h: (self.bbox.h + self.velocity.h * reach_s).max(0.0),
        }
    }

    /// Takes in the box seen at `pts_ns`.
    pub(super) fn observe(&mut self, bbox: Rect, pts_ns: i64) {
        let dt_s = elapsed_s(self.seen_ns, pts_ns);
        if dt_s > 0.0 {
            let new_share = 1.0 - (-dt_s / VELOCITY_MEMORY_S).exp();
            let rate = |old: f32, new: f32| (new - old) / dt_s;
            let seen = Rect {
                x: rate(self.bbox.x, bbox.x),
                y: rate(self.bbox.y, bbox.y),
                w: rate(self.bbox.w, bbox.w),
                h: rate(self.bbox.h, bbox.h),
            };
            self.velocity = self.velocity.lerp(&seen, new_share);
        }
        self.bbox = bbox;
        self.seen_ns = self.seen_ns.max(pts_ns);
    }
}

/// How well `seen` lies where `expected` was: 1 on top of it, towards 0 elsewhere or otherwise large.
pub(super) fn agreement(expected: &Rect, seen: &Rect) -> f32 {
    let side = |r: &Rect| (r.w + r.h) / 2.0;
    let (expected_side, seen_side) = (side(expected), side(seen));
    if expected_side <= 0.0 || seen_side <= 0.0 {
        return 0.0;
    }
    let (a, b) = (expected.center(), seen.center());
    let offset = (a.x - b.x).hypot(a.y - b.y) / ((expected_side + seen_side) / 2.0);
    let growth = (seen_side / expected_side).ln();
    (-(offset / CENTER_SCALE).powi(2) - (growth / SIZE_SCALE).powi(2)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: i64 = 1_000_000_000;

    fn square(x: f32, side: f32) -> Rect {
        Rect { x, y: 0.0, w: side, h: side }
    }

    #[test]
    fn a_steady_walk_is_followed_and_then_fades() {
        let mut motion = Motion::at_rest(square(0.0, 50.0), 0);
        for i in 1..=20_i16 {
            motion.observe(square(f32::from(i) * 10.0, 50.0), i64::from(i) * SECOND_NS / 10);
        }
        let soon = motion.predict(2 * SECOND_NS + SECOND_NS / 10);
        assert!((soon.x - 208.8).abs() < 0.5, "{soon:?}");
        let late = motion.predict(60 * SECOND_NS);
        assert!((late.x - 240.0).abs() < 0.5, "{late:?}");
    }

    #[test]
    fn time_that_stands_still_or_runs_back_is_harmless() {
        let mut motion = Motion::at_rest(square(0.0, 50.0), SECOND_NS);
        motion.observe(square(30.0, 50.0), SECOND_NS);
        motion.observe(square(60.0, 50.0), i64::MIN);
        assert!(motion.predict(i64::MAX).is_finite());
        assert_eq!(motion.seen_ns(), SECOND_NS);
    }

    #[test]
    fn agreement_falls_with_offset_and_size() {
        let a = square(0.0, 100.0);
        assert!((agreement(&a, &a) - 1.0).abs() < 1e-6);
        assert!(agreement(&a, &square(20.0, 100.0)) > 0.8);
        assert!(agreement(&a, &square(100.0, 100.0)) < 0.05);
        assert!(agreement(&a, &Rect { x: -50.0, y: -50.0, w: 200.0, h: 200.0 }) < 0.05);
        assert_eq!(agreement(&a, &Rect::default()), 0.0);
    }
}
