//! Non-maximum suppression: of boxes that show the same face, the best one stays.

use crate::geom::Rect;

/// Which overlap makes two boxes the same face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    /// Intersection over union.
    Union,
    /// Intersection over the smaller box, so that a box inside another one counts as the same.
    Smaller,
}

/// A box with its score and whatever belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<T> {
    pub(super) bbox: Rect,
    pub(super) score: f32,
    pub(super) extra: T,
    /// Where it stood before it was sorted.
    position: usize,
}

impl<T> Candidate<T> {
    pub(super) fn new(bbox: Rect, score: f32, extra: T) -> Self {
        Candidate { bbox, score, extra, position: 0 }
    }
}

/// Sorts from the highest score down. Equal scores keep their order, so that the outcome is the same everywhere; a
/// stable sort would do this too, but takes memory for it.
pub(super) fn strongest_first<T>(candidates: &mut [Candidate<T>]) {
    candidates.iter_mut().enumerate().for_each(|(idx, candidate)| candidate.position = idx);
    candidates.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
}

/// Keeps, from the highest score down, each box that overlaps no kept one by more than `most`.
pub(super) fn suppress<T: Copy>(candidates: &mut Vec<Candidate<T>>, most: f32, overlap: Overlap) {
    strongest_first(candidates);
    let mut n_kept = 0;
    for idx in 0..candidates.len() {
        let candidate = candidates[idx];
        let is_same = |other: &Candidate<T>| {
            let shared = match overlap {
                Overlap::Union => candidate.bbox.iou(&other.bbox),
                Overlap::Smaller => candidate.bbox.overlap_min(&other.bbox),
            };
            shared > most
        };
        if !candidates[..n_kept].iter().any(is_same) {
            candidates[n_kept] = candidate;
            n_kept += 1;
        }
    }
    candidates.truncate(n_kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(boxes: &[(f32, f32, f32, f32)]) -> Vec<Candidate<usize>> {
        let to_candidate = |(extra, &(x, w, score, y)): (usize, &(f32, f32, f32, f32))| {
            Candidate::new(Rect { x, y, w, h: w }, score, extra)
        };
        boxes.iter().enumerate().map(to_candidate).collect()
    }

    #[test]
    fn the_strongest_box_wins() {
        let mut found = candidates(&[(0.0, 10.0, 0.7, 0.0), (1.0, 10.0, 0.9, 0.0), (30.0, 10.0, 0.6, 0.0)]);
        suppress(&mut found, 0.5, Overlap::Union);
        assert_eq!(found.iter().map(|c| c.extra).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn equal_scores_keep_their_order() {
        // Six scores in turn, none of which overlap.
        let scores = (0..300u16).map(|i| f32::from(i * 7 % 6) / 10.0);
        let boxes: Vec<_> = scores.zip(0..).map(|(score, i)| (20.0 * i as f32, 10.0, score, 0.0)).collect();
        let (mut found, mut expected) = (candidates(&boxes), candidates(&boxes));
        suppress(&mut found, 0.5, Overlap::Union);
        expected.sort_by(|a, b| b.score.total_cmp(&a.score));
        assert!(found.iter().map(|c| c.extra).eq(expected.iter().map(|c| c.extra)));
    }

    #[test]
    fn a_box_inside_another_is_the_same_only_by_the_smaller() {
        let inside = [(0.0, 100.0, 0.9, 0.0), (40.0, 20.0, 0.8, 40.0)];
        let mut by_union = candidates(&inside);
        suppress(&mut by_union, 0.7, Overlap::Union);
        assert_eq!(by_union.len(), 2);
        let mut by_smaller = candidates(&inside);
        suppress(&mut by_smaller, 0.7, Overlap::Smaller);
        assert_eq!(by_smaller.len(), 1);
    }
}
