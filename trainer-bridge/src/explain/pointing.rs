//! The pointing game (Zhang et al., "Top-Down Neural Attention by Excitation Backprop", 2018): whether a map's largest
//! value lies where a fake is fake.

use std::collections::BTreeSet;

use candor::classify::HeatMap;
use serde::Serialize;

use crate::augment::region::Plane;
use crate::evaluate::bootstrap::Bootstrap;
use crate::evaluate::figure::{Estimate, Figure};
use crate::evaluate::metrics::Scored;

/// Points a side of the raster by which the best fixed point is looked for.
const N_RASTER: usize = 29;

/// One fake that was pointed at.
#[derive(Clone, Debug)]
pub struct Try {
    /// How it was made.
    pub kind: &'static str,
    /// What counts as one in intervals.
    pub group: String,
    /// P(fake) that the network gives.
    pub score: f32,
    /// Whether the map's largest value lies inside.
    pub is_hit: bool,
    /// The mask's part of the crop.
    pub area: f64,
    /// For each point of a raster, whether it lies inside.
    raster: Vec<bool>,
}

impl Try {
    /// Points by `map` at a fake whose mask is `mask`. Inside is where the mask is at least half of its largest value: a
    /// fake that is blended in by a quarter is there by a quarter.
    pub fn new(kind: &'static str, group: String, score: f32, map: &HeatMap, mask: &Plane) -> Self {
        let limit = mask.values.iter().copied().fold(0.0, f32::max) / 2.0;
        let inside = |x: f32, y: f32| limit > 0.0 && mask.values[place(mask, x, y)] >= limit;
        let (_, [x, y]) = map.peak();
        let n_inside = mask.values.iter().filter(|v| limit > 0.0 && **v >= limit).count();
        let part = |idx: usize| (idx as f32 + 0.5) / N_RASTER as f32;
        let raster =
            (0..N_RASTER * N_RASTER).map(|idx| inside(part(idx % N_RASTER), part(idx / N_RASTER))).collect();
        let area = n_inside as f64 / mask.values.len() as f64;
        Try { kind, group, score, is_hit: inside(x, y), area, raster }
    }

    fn is_called_fake(&self) -> bool {
        self.score >= 0.5
    }
}

/// Index of the pixel at x, y from 0 to 1 of the sides.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=side")]
fn place(mask: &Plane, x: f32, y: f32) -> usize {
    let pixel = |part: f32, side: usize| ((part * side as f32) as usize).min(side - 1);
    pixel(y, mask.height) * mask.width + pixel(x, mask.width)
}

/// How often maps point at fakes.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Which fakes.
    pub fakes: String,
    /// How many.
    pub n: usize,
    /// The share of them whose map has its largest value inside the mask.
    pub hits: Estimate,
    /// The share that a point drawn at random hits: the masks' mean area.
    pub chance: Figure,
    /// The share that the one point of the crop hits that lies in most of these masks: what it takes no network for.
    pub best_point: Figure,
}

const NONE: &str = "no such fake";

/// A line for all fakes, for each kind, and for those that the network calls fake, of which alone a map can say why.
pub fn lines(tries: &[Try], n_resamples: usize, seed: u64) -> Vec<Line> {
    let kinds: BTreeSet<&str> = tries.iter().map(|one| one.kind).collect();
    let mut lines = vec![line("all", tries.iter().collect(), n_resamples, seed)];
    for kind in kinds {
        lines.push(line(kind, tries.iter().filter(|one| one.kind == kind).collect(), n_resamples, seed));
    }
    let called = tries.iter().filter(|one| one.is_called_fake()).collect();
    lines.push(line("called fake", called, n_resamples, seed));
    lines
}

fn line(fakes: &str, tries: Vec<&Try>, n_resamples: usize, seed: u64) -> Line {
    let groups: Vec<&str> =
        tries.iter().map(|one| one.group.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let scored = |one: &&Try| {
        let group = groups.binary_search(&one.group.as_str()).unwrap_or_default();
        Scored { score: one.score, rank: 0.0, loss: 0.0, is_fake: true, group }
    };
    let items: Vec<Scored> = tries.iter().map(scored).collect();
    let says: Vec<f64> = tries.iter().map(|one| f64::from(u8::from(one.is_hit))).collect();
    let n = tries.len() as f64;
    let at_point = |at: usize| tries.iter().filter(|one| one.raster[at]).count();
    let most = (0..N_RASTER * N_RASTER).map(at_point).max().unwrap_or(0);
    Line {
        fakes: fakes.to_owned(),
        n: tries.len(),
        hits: Bootstrap::new(groups.len().max(1), n_resamples, seed).share(&items, &says, NONE),
        chance: Figure::share(tries.iter().map(|one| one.area).sum(), n, NONE),
        best_point: Figure::share(most as f64, n, NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> Plane {
        // The right half, at a quarter of its strength; a faint rim doesn't count.
        let mut mask = Plane::filled(8, 4, 0.0);
        for (idx, value) in mask.values.iter_mut().enumerate() {
            *value = if idx % 8 >= 4 {
                0.25
            } else if idx % 8 == 3 {
                0.1
            } else {
                0.0
            };
        }
        mask
    }

    fn tried(peak: usize, group: &str, score: f32) -> Try {
        let mut log_odds = vec![0.0; 9];
        log_odds[peak] = 1.0;
        Try::new("swap", group.to_owned(), score, &HeatMap { n_points: 3, log_odds }, &mask())
    }

    #[test]
    fn the_largest_value_is_inside_or_not() {
        // Points of a line stand at 0, 1/2 and 1.
        let hits: Vec<bool> = (0..9).map(|peak| tried(peak, "a", 0.9).is_hit).collect();
        assert_eq!(hits, [false, true, true, false, true, true, false, true, true]);
        assert_eq!(tried(0, "a", 0.9).area, 0.5);
    }

    #[test]
    fn a_line_counts_hits_beside_chance() {
        let tries = [tried(0, "a", 0.9), tried(1, "a", 0.9), tried(2, "b", 0.1), tried(5, "c", 0.6)];
        let lines = lines(&tries, 200, 1);
        let of = |fakes: &str| lines.iter().find(|line| line.fakes == fakes).unwrap();
        assert_eq!(of("all").hits.value, Figure::Known(0.75));
        assert_eq!(of("all").chance, Figure::Known(0.5));
        assert_eq!(of("all").best_point, Figure::Known(1.0));
        assert_eq!((of("called fake").n, of("called fake").hits.value), (3, Figure::Known(2.0 / 3.0)));
        assert_eq!(of("swap").n, 4);
    }
}
