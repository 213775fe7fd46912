//! Faces brought onto each other's landmarks.

use crate::landmarks::{Landmarks, N_LANDMARKS};

/// The mean of points.
pub(super) fn centre(points: &[[f32; 2]]) -> [f32; 2] {
    let n = points.len().max(1) as f32;
    [0, 1].map(|k| points.iter().map(|p| p[k]).sum::<f32>() / n)
}

/// A turn, a scale and a shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Scale times cosine and sine.
    turn: [f32; 2],
    shift: [f32; 2],
}

impl Similarity {
    /// That which brings `from` nearest to `to`, by least squares (Umeyama, 1991, without reflection).
    pub fn fit(from: &[[f32; 2]], to: &[[f32; 2]]) -> Self {
        let (a, b) = (centre(from), centre(to));
        let (mut cos, mut sin, mut norm) = (0.0, 0.0, 0.0);
        for (p, q) in from.iter().zip(to) {
            let (p, q) = ([p[0] - a[0], p[1] - a[1]], [q[0] - b[0], q[1] - b[1]]);
            cos += p[0] * q[0] + p[1] * q[1];
            sin += p[0] * q[1] - p[1] * q[0];
            norm += p[0] * p[0] + p[1] * p[1];
        }
        let norm = if norm > 0.0 { norm } else { 1.0 };
        let turn = [cos / norm, sin / norm];
        let turned = [turn[0] * a[0] - turn[1] * a[1], turn[1] * a[0] + turn[0] * a[1]];
        Similarity { turn, shift: [b[0] - turned[0], b[1] - turned[1]] }
    }

    /// Where a point goes.
    pub fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [cos, sin] = self.turn;
        [cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1]]
    }
}

/// How badly the landmarks of `donor` fit those of `target` after the best [`Similarity`], as a part of the target's
/// size: 0 for the same shape and pose; a swap looks natural below about .1.
pub fn unlikeness(target: &Landmarks, donor: &Landmarks) -> f32 {
    let to_target = Similarity::fit(donor, target);
    let middle = centre(target);
    let square = |a: [f32; 2], b: [f32; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    let (mut apart, mut size) = (0.0, 0.0);
    for (to, from) in target.iter().zip(donor) {
        apart += square(*to, to_target.at(*from));
        size += square(*to, middle);
    }
    if size > 0.0 { (apart / size).sqrt() } else { f32::INFINITY }
}

/// Nodes of a [`Spline`] are this far apart.
const STEP_PX: usize = 8;
/// How much the spline may miss the landmarks, which are a pixel or two off themselves, to stay smooth.
const STIFFNESS: f64 = 2e-3;

/// A thin-plate spline (Bookstein, 1989), evaluated on a grid and linear between its nodes.
#[derive(Clone, Debug)]
pub struct Spline {
    n_columns: usize,
    n_rows: usize,
    nodes: Vec<[f32; 2]>,
}

impl Spline {
    /// From points of a picture of `size_px` to where they go: landmarks `from` to `to`, and beyond the face more and more
    /// as `rigid` says.
    pub fn fit(from: &Landmarks, to: &Landmarks, rigid: &Similarity, size_px: (u32, u32)) -> Self {
        let [width, height] = [size_px.0 as f32, size_px.1 as f32];
        let mut points = from.to_vec();
        // Only what the rigid map leaves is splined; on the border nothing is left.
        let mut rests: Vec<[f32; 2]> = from
            .iter()
            .zip(to)
            .map(|(f, t)| {
                let at = rigid.at(*f);
                [t[0] - at[0], t[1] - at[1]]
            })
            .collect();
        for x in [0.0, 0.5, 1.0] {
            for y in [0.0, 0.5, 1.0] {
                if (x, y) != (0.5, 0.5) {
                    points.push([x * width, y * height]);
                    rests.push([0.0; 2]);
                }
            }
        }
        let unit = f64::from(width.max(height).max(1.0));
        let points: Vec<[f64; 2]> = points.iter().map(|p| p.map(|v| f64::from(v) / unit)).collect();
        let weights = solve(&points, &rests);
        let cells = |side: u32| (side as usize).div_ceil(STEP_PX) + 1;
        let (n_columns, n_rows) = (cells(size_px.0), cells(size_px.1));
        let node = |idx: usize| {
            let at = [idx % n_columns * STEP_PX, idx / n_columns * STEP_PX].map(|v| v as f64);
            let rest = rest_at(&points, &weights, at.map(|v| v / unit));
            let rigid = rigid.at(at.map(narrow));
            [0, 1].map(|k| rigid[k] + narrow(rest[k]))
        };
        Spline { n_columns, n_rows, nodes: (0..n_columns * n_rows).map(node).collect() }
    }

    /// Where a point goes.
    pub fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let place = |v: f32, n: usize| {
            let v = v / STEP_PX as f32;
            let cell = v.floor().clamp(0.0, (n - 2) as f32);
            (index(cell), v - cell)
        };
        let ((i, tx), (j, ty)) = (place(x, self.n_columns), place(y, self.n_rows));
        let row = |j: usize, k: usize| {
            let [a, b] = [i, i + 1].map(|i| self.nodes[j * self.n_columns + i][k]);
            a + (b - a) * tx
        };
        [0, 1].map(|k| row(j, k) + (row(j + 1, k) - row(j, k)) * ty)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..")]
fn index(value: f32) -> usize {
    value as usize
}

#[expect(clippy::cast_possible_truncation, reason = "pixels need no more")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// r² ln r² of two points.
fn kernel(a: &[f64; 2], b: &[f64; 2]) -> f64 {
    let square = (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    if square > 0.0 { square * square.ln() } else { 0.0 }
}

fn rest_at(points: &[[f64; 2]], weights: &[[f64; 2]], at: [f64; 2]) -> [f64; 2] {
    let mut rest = [0.0; 2];
    let affine = [1.0, at[0], at[1]];
    let values = points.iter().map(|point| kernel(point, &at)).chain(affine);
    for (value, weight) in values.zip(weights) {
        rest[0] += value * weight[0];
        rest[1] += value * weight[1];
    }
    rest
}

/// The weights of the kernels at `points`, then of 1, x and y, by elimination with pivots.
fn solve(points: &[[f64; 2]], rests: &[[f32; 2]]) -> Vec<[f64; 2]> {
    let n = points.len();
    let size = n + 3;
    let mut rows = vec![vec![0.0; size + 2]; size];
    for (i, a) in points.iter().enumerate() {
        for (j, b) in points.iter().enumerate() {
            rows[i][j] = kernel(a, b);
        }
        if i < N_LANDMARKS {
            rows[i][i] += STIFFNESS;
        }
        for (k, value) in [1.0, a[0], a[1]].into_iter().enumerate() {
            rows[i][n + k] = value;
            rows[n + k][i] = value;
        }
        rows[i][size] = f64::from(rests[i][0]);
        rows[i][size + 1] = f64::from(rests[i][1]);
    }
    for column in 0..size {
        let best = (column..size).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, best.unwrap_or(column));
        let pivot = rows[column].clone();
        if pivot[column] == 0.0 {
            continue;
        }
        for (i, row) in rows.iter_mut().enumerate() {
            if i != column {
                let factor = row[column] / pivot[column];
                row[column..].iter_mut().zip(&pivot[column..]).for_each(|(v, p)| *v -= factor * p);
            }
        }
    }
    let weight =
        |i: usize| [0, 1].map(|k| if rows[i][i] == 0.0 { 0.0 } else { rows[i][size + k] / rows[i][i] });
    (0..size).map(weight).collect()
}
