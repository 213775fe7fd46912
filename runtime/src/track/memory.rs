//! What a track remembers of its face's looks.

use super::Settings;
use super::motion::elapsed_s;
use crate::appearance::Appearance;

/// Looks kept beside the latest: those that differ from each other (a turned head, a smile).
const N_EXEMPLARS: usize = 8;
/// A look becomes an exemplar once it has held this long: a dissolve from one person to another is
/// a chain of looks of which none holds.
const HOLD_S: f32 = 0.6;

/// The latest look of a face and a few that differ.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    latest: Appearance,
    exemplars: heapless::Vec<Appearance, N_EXEMPLARS>,
    /// The look that may become the next exemplar, and since when it has held.
    held: Appearance,
    held_since_ns: i64,
}

impl Memory {
    pub(super) fn new(first: &Appearance, pts_ns: i64) -> Self {
        let mut exemplars = heapless::Vec::new();
        // A fresh vector has room for one.
        let _ = exemplars.push(first.clone());
        Memory { latest: first.clone(), exemplars, held: first.clone(), held_since_ns: pts_ns }
    }

    /// Distance of `seen` to the latest look.
    pub(super) fn distance_to_latest(&self, seen: &Appearance) -> f32 {
        self.latest.distance(seen)
    }

    /// Distance of `seen` to the nearest exemplar.
    pub(super) fn distance(&self, seen: &Appearance) -> f32 {
        self.exemplars.iter().map(|e| e.distance(seen)).fold(f32::INFINITY, f32::min)
    }

    /// Takes in a look that is this face's beyond doubt.
    pub(super) fn learn(&mut self, seen: &Appearance, pts_ns: i64, settings: &Settings) {
        self.latest = seen.clone();
        if self.held.distance(seen) > settings.novel_distance {
            self.held = seen.clone();
            self.held_since_ns = pts_ns;
        } else if elapsed_s(self.held_since_ns, pts_ns) >= HOLD_S
            && self.distance(&self.held) > settings.novel_distance
        {
            // When full, the looks at hand span the face well enough.
            let _ = self.exemplars.push(self.held.clone());
        }
    }
}
