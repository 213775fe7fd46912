//! What a track remembers of its face's looks.

use super::Settings;
use crate::appearance::Appearance;

/// Looks kept beside the latest: the first, and others that differ from it (a turned head, a smile).
const N_EXEMPLARS: usize = 6;

/// The latest look of a face and a few that differ.
///
/// All exemplars lie within [`Settings::reach_distance`] of the first one, so a slow change, such as a dissolve from one
/// person to another, can't carry the memory along step by step.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    latest: Appearance,
    exemplars: heapless::Vec<Appearance, N_EXEMPLARS>,
}

impl Memory {
    pub(super) fn new(first: &Appearance) -> Self {
        let mut exemplars = heapless::Vec::new();
        // A fresh vector has room for one.
        let _ = exemplars.push(first.clone());
        Memory { latest: first.clone(), exemplars }
    }

    /// Distance of `seen` to the latest look.
    pub(super) fn distance_to_latest(&self, seen: &Appearance) -> f32 {
        self.latest.distance(seen)
    }

    /// Distance of `seen` to the nearest exemplar.
    pub(super) fn distance(&self, seen: &Appearance) -> f32 {
        self.exemplars.iter().map(|e| e.distance(seen)).fold(f32::INFINITY, f32::min)
    }

    /// Takes in a look that is this face's beyond doubt. One that differs from all exemplars becomes
    /// another, if it is still like the first.
    pub(super) fn learn(&mut self, seen: &Appearance, settings: &Settings) {
        self.latest = seen.clone();
        let is_novel = self.distance(seen) > settings.novel_distance;
        if is_novel && self.exemplars[0].distance(seen) < settings.reach_distance {
            // When full, the looks at hand span the face well enough.
            let _ = self.exemplars.push(seen.clone());
        }
    }
}
