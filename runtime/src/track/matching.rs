//! Which pairs of a score matrix are beyond doubt.

use super::{MAX_FACES, MAX_TRACKS};

/// What speaks for track `row` being observation `column`; at or below 0 they may not be paired.
pub(super) type Scores = [[f32; MAX_FACES]; MAX_TRACKS];

/// A score that no rival can have: the two can never be paired.
pub(super) const NEVER: f32 = f32::NEG_INFINITY;

/// Pairs up rows and columns by elimination; gives each column's row, if one is sure.
///
/// A pair is taken when its score is positive and beats every other score in its row and in its
/// column by `margin`; then both leave the game and the rest is looked at again. An assignment of
/// greatest total score would pair more, but it also pairs two look-alikes either way round by a
/// hair's breadth; here such a pair stays open.
pub(super) fn sure_pairs(scores: &Scores, n_columns: usize, margin: f32) -> [Option<usize>; MAX_FACES] {
    let mut row_of = [None; MAX_FACES];
    let mut is_row_open = [true; MAX_TRACKS];
    while let Some((row, column)) = best_sure_pair(scores, &row_of, &is_row_open, n_columns, margin) {
        row_of[column] = Some(row);
        is_row_open[row] = false;
    }
    row_of
}

fn best_sure_pair(
    scores: &Scores,
    row_of: &[Option<usize>; MAX_FACES],
    is_row_open: &[bool; MAX_TRACKS],
    n_columns: usize,
    margin: f32,
) -> Option<(usize, usize)> {
    let open_columns = || (0..n_columns).filter(|&c| row_of[c].is_none());
    let open_rows = || (0..MAX_TRACKS).filter(|&r| is_row_open[r]);
    let mut best = None;
    let mut best_score = 0.0;
    for row in open_rows() {
        for column in open_columns() {
            let score = scores[row][column];
            if score <= best_score {
                continue;
            }
            let limit = score - margin;
            let is_sure = open_columns().all(|c| c == column || scores[row][c] <= limit)
                && open_rows().all(|r| r == row || scores[r][column] <= limit);
            if is_sure {
                best = Some((row, column));
                best_score = score;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[f32]]) -> Scores {
        let mut scores = [[NEVER; MAX_FACES]; MAX_TRACKS];
        for (r, row) in rows.iter().enumerate() {
            scores[r][..row.len()].copy_from_slice(row);
        }
        scores
    }

    #[test]
    fn clear_winners_are_paired() {
        let pairs = sure_pairs(&matrix(&[&[0.1, 0.9], &[0.8, 0.2]]), 2, 0.1);
        assert_eq!(pairs[..2], [Some(1), Some(0)]);
    }

    #[test]
    fn look_alikes_stay_open() {
        let pairs = sure_pairs(&matrix(&[&[0.50, 0.48], &[0.47, 0.51]]), 2, 0.1);
        assert_eq!(pairs[..2], [None, None]);
    }

    #[test]
    fn a_sure_pair_frees_the_rest() {
        // Row 0 likes both columns, but column 1 is row 1's beyond doubt.
        let pairs = sure_pairs(&matrix(&[&[0.50, 0.48], &[-0.5, 0.90]]), 2, 0.1);
        assert_eq!(pairs[..2], [Some(0), Some(1)]);
    }

    #[test]
    fn a_score_of_zero_is_no_match() {
        assert_eq!(sure_pairs(&matrix(&[&[0.0]]), 1, 0.1)[0], None);
    }
}
