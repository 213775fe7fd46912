//! Where a fake is blended in: parts of a face with bent outlines and soft edges.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use super::super::geometry::mirrored;
use super::super::region::{Plane, fill, hull};
use super::super::tone::gaussian;
use crate::landmarks::Landmarks;

/// The part of a face that is replaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outline {
    /// The hull of all landmarks, the brows raised by this part of their height over the nose's tip: some of the forehead.
    Whole {
        /// 0..=.6.
        forehead: f32,
    },
    /// The hull of brows, eyes, nose and mouth.
    Inner,
    /// From under the eyes to the chin.
    Lower,
    /// Brows and eyes.
    Upper,
    /// The mouth and around.
    Mouth,
    /// Eyes and mouth, each on its own.
    Parts,
}

impl Outline {
    /// For a blend of a face with itself: mostly the whole face.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..10) {
            0..=3 => Outline::Whole { forehead: rng.random_range(0.0..=0.6) },
            4..=5 => Outline::Inner,
            6 => Outline::Lower,
            7 => Outline::Upper,
            8 => Outline::Mouth,
            _ => Outline::Parts,
        }
    }

    /// For a swap: what holds an identity.
    pub fn draw_for_swap(rng: &mut ChaCha8Rng) -> Self {
        let forehead = rng.random_range(0.0..=0.4);
        let all =
            [Outline::Whole { forehead }, Outline::Whole { forehead: 0.0 }, Outline::Inner, Outline::Lower];
        *all.choose_weighted(rng, |outline| if *outline == Outline::Lower { 1 } else { 3 }).unwrap_or(&all[0])
    }

    /// The polygons.
    fn hulls(self, landmarks: &Landmarks) -> Vec<Vec<[f32; 2]>> {
        let raised = |part: f32| {
            let tip = landmarks[30];
            let mut points = *landmarks;
            for brow in &mut points[17..27] {
                *brow = [0, 1].map(|k| brow[k] + part * (brow[k] - tip[k]) * if k == 0 { 0.3 } else { 1.0 });
            }
            points
        };
        let grown = |points: &[[f32; 2]], factor: f32| {
            let centre = super::shape::centre(points);
            let grow = |p: &[f32; 2]| [0, 1].map(|k| centre[k] + factor * (p[k] - centre[k]));
            hull(&points.iter().map(grow).collect::<Vec<_>>())
        };
        match self {
            Outline::Whole { forehead } => vec![hull(&raised(forehead))],
            Outline::Inner => vec![grown(&landmarks[17..68], 1.08)],
            Outline::Lower => {
                let nose = &landmarks[28..36];
                vec![hull(&[&landmarks[2..15], nose].concat())]
            }
            Outline::Upper => vec![grown(&landmarks[17..27], 1.0), grown(&landmarks[36..48], 1.15)]
                .into_iter()
                .reduce(|a, b| hull(&[a, b].concat()))
                .into_iter()
                .collect(),
            Outline::Mouth => vec![grown(&landmarks[48..60], 1.6)],
            Outline::Parts => vec![
                grown(&landmarks[36..42], 2.2),
                grown(&landmarks[42..48], 2.2),
                grown(&landmarks[48..60], 1.5),
            ],
        }
    }
}

/// The outline bent at random and softened by two blurs; between them only what was whole stays, so that the edge lies
/// inside the outline when the first is the wider one, else outside (Shiohara and Yamasaki, 3.2). 0..=1, `size_px` wide
/// and high.
pub fn soft_mask(
    outline: Outline,
    landmarks: &Landmarks,
    size_px: (u32, u32),
    rng: &mut ChaCha8Rng,
) -> Plane {
    let (width, height) = (size_px.0 as usize, size_px.1 as usize);
    let mut hard = Plane::filled(width, height, 0.0);
    for corners in outline.hulls(landmarks) {
        fill(&mut hard, &corners, 1.0);
    }
    // Blurs are in parts of the face's width, so that they mean the same at any size of the crop.
    let [left, right] = [landmarks[0][0], landmarks[16][0]];
    let face_px = (right - left).abs().clamp(8.0, width.max(8) as f32);
    let bent = Bend::draw(0.05 * face_px, rng).apply(&hard);
    let part = match outline {
        Outline::Mouth | Outline::Parts => 0.5,
        _ => 1.0,
    };
    let mut sigma = |least: f32, most: f32| rng.random_range(least..=most) * part * face_px;
    let (first, second) = (sigma(0.004, 0.035), sigma(0.008, 0.055));
    let mut mask = blurred(&bent, first);
    mask.values.iter_mut().for_each(|v| *v = f32::from(u8::from(*v > 0.999)));
    if mask.values.iter().all(|v| *v == 0.0) {
        mask = bent;
    }
    let mut mask = blurred(&mask, second);
    // A tail of next to nothing would change no byte and make the mask seem to hold the whole picture.
    mask.values.iter_mut().for_each(|v| *v = if *v < 1.0 / 512.0 { 0.0 } else { v.min(1.0) });
    mask
}

/// A smooth random displacement: noise on a coarse grid, between its nodes a smooth step.
struct Bend {
    n_cells: usize,
    nodes: Vec<[f32; 2]>,
}

impl Bend {
    fn draw(most_px: f32, rng: &mut ChaCha8Rng) -> Self {
        let n_cells = rng.random_range(3..=6_usize);
        let amount = most_px * rng.random_range(0.2..=1.0_f32);
        let nodes = (0..(n_cells + 1).pow(2))
            .map(|_| [0, 1].map(|_| rng.random_range(-1.0..=1.0_f32) * amount))
            .collect();
        Bend { n_cells, nodes }
    }

    fn at(&self, x: f32, y: f32) -> [f32; 2] {
        let place = |t: f32| {
            let t = t * self.n_cells as f32;
            let cell = t.floor().clamp(0.0, (self.n_cells - 1) as f32);
            let rest = (t - cell).clamp(0.0, 1.0);
            (index(cell), rest * rest * (3.0 - 2.0 * rest))
        };
        let ((i, tx), (j, ty)) = (place(x), place(y));
        let node = |i: usize, j: usize| self.nodes[j * (self.n_cells + 1) + i];
        [0, 1].map(|k| {
            let row = |j| node(i, j)[k] * (1.0 - tx) + node(i + 1, j)[k] * tx;
            row(j) * (1.0 - ty) + row(j + 1) * ty
        })
    }

    fn apply(&self, plane: &Plane) -> Plane {
        let mut bent = Plane::filled(plane.width, plane.height, 0.0);
        for (idx, value) in bent.values.iter_mut().enumerate() {
            let (x, y) = ((idx % plane.width) as f32 + 0.5, (idx / plane.width) as f32 + 0.5);
            let [dx, dy] = self.at(x / plane.width as f32, y / plane.height as f32);
            let inside = |v: f32, n: usize| index(v.clamp(0.0, (n - 1) as f32));
            *value = plane.values[inside(y + dy, plane.height) * plane.width + inside(x + dx, plane.width)];
        }
        bent
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers clamp to 0..")]
fn index(value: f32) -> usize {
    value as usize
}

/// `plane` blurred by a Gaussian, mirrored at the edge.
pub(super) fn blurred(plane: &Plane, sigma_px: f32) -> Plane {
    let reach = i32::try_from(index((3.0 * sigma_px).round().clamp(1.0, 1e4))).unwrap_or(1);
    let kernel = gaussian(sigma_px, reach);
    let (width, height) = (plane.width, plane.height);
    let side = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let at = |i: i32, n: usize| usize::try_from(mirrored(i, side(n))).unwrap_or(0);
    let mut down = Plane::filled(width, height, 0.0);
    for y in 0..height {
        let to = &mut down.values[y * width..][..width];
        for (dy, weight) in (-reach..).zip(&kernel) {
            let from = &plane.values[at(side(y) + dy, height) * width..][..width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
        }
    }
    let mut out = Plane::filled(width, height, 0.0);
    let mut padded = Vec::new();
    for (to, from) in out.values.chunks_exact_mut(width).zip(down.values.chunks_exact(width)) {
        padded.clear();
        padded.extend((-reach..side(width) + reach).map(|x| from[at(x, width)]));
        for (k, weight) in kernel.iter().enumerate() {
            to.iter_mut().zip(&padded[k..]).for_each(|(to, from)| *to += weight * from);
        }
    }
    out
}
