//! A picture's face -> what it looks like, for the tracker.

use image::RgbImage;

use crate::appearance::{Appearance, BODY_COLUMNS, BODY_ROWS, Cell, HEAD_SIDE};
use crate::geom::{Detection, Point, Rect};

/// Where a face's landmarks lie in a canonical face whose head is [`HEAD`].
const CANON: [Point; 5] = [
    Point { x: 38.3, y: 51.6 },
    Point { x: 73.6, y: 51.6 },
    Point { x: 56.0, y: 71.7 },
    Point { x: 41.5, y: 92.3 },
    Point { x: 70.8, y: 92.3 },
];
/// The canonical face's middle, about which the body's window is turned upright.
const MIDDLE: Point = Point { x: 56.0, y: 70.0 };
/// The head with hair and chin, in canonical units.
const HEAD: Rect = Rect { x: -4.0, y: -14.0, w: 120.0, h: 136.0 };
/// The head, shoulders and what is beside them, in canonical units.
const BODY: Rect = Rect { x: -29.0, y: -45.0, w: 170.0, h: 240.0 };
/// Width of a detector's box around a canonical face.
const BOX_WIDTH: f32 = 80.0;
/// Samples per cell along each side.
const SAMPLES: usize = 6;

/// Describes a face of an upright picture. Parts outside the picture repeat its edge.
///
/// The landmarks place the head; a face whose landmarks are in one place is placed by its box.
pub fn appearance(picture: &RgbImage, face: &Detection) -> Appearance {
    let tilted = Placement::by_landmarks(&face.landmarks).unwrap_or(Placement::by_box(&face.bbox));
    Appearance {
        head: mosaic::<HEAD_SIDE, { HEAD_SIDE * HEAD_SIDE }>(picture, &tilted, &HEAD),
        body: mosaic::<BODY_COLUMNS, { BODY_COLUMNS * BODY_ROWS }>(picture, &tilted.upright(), &BODY),
    }
}

/// A similarity from canonical coordinates to the picture's: `p -> [cos -sin; sin cos] p + shift`,
/// with the scale in `cos` and `sin`.
#[derive(Clone, Copy)]
struct Placement {
    cos: f32,
    sin: f32,
    shift: Point,
}

impl Placement {
    /// Least-squares fit of the canonical landmarks to those seen (Umeyama, 1991, in two dimensions).
    fn by_landmarks(seen: &[Point; 5]) -> Option<Self> {
        let (canon_mean, seen_mean) = (mean(&CANON), mean(seen));
        let (mut dot, mut cross, mut norm) = (0.0, 0.0, 0.0);
        for (c, s) in CANON.iter().zip(seen) {
            let (cx, cy) = (c.x - canon_mean.x, c.y - canon_mean.y);
            let (sx, sy) = (s.x - seen_mean.x, s.y - seen_mean.y);
            dot += cx * sx + cy * sy;
            cross += cx * sy - cy * sx;
            norm += cx * cx + cy * cy;
        }
        let (cos, sin) = (dot / norm, cross / norm);
        let has_size = cos.hypot(sin) > f32::EPSILON && cos.hypot(sin).is_finite();
        has_size.then(|| Placement { cos, sin, shift: Point::default() }.moving(canon_mean, seen_mean))
    }

    fn by_box(bbox: &Rect) -> Self {
        let scale = bbox.w / BOX_WIDTH;
        Placement { cos: scale, sin: 0.0, shift: Point::default() }.moving(MIDDLE, bbox.center())
    }

    /// The same scale without the turn, about the face's middle.
    fn upright(&self) -> Self {
        let scale = self.cos.hypot(self.sin);
        Placement { cos: scale, sin: 0.0, shift: Point::default() }.moving(MIDDLE, self.apply(MIDDLE))
    }

    /// The same turn and scale, shifted so that `from` lands on `to`.
    fn moving(self, from: Point, to: Point) -> Self {
        let lands = Placement { shift: Point::default(), ..self }.apply(from);
        Placement { shift: Point { x: to.x - lands.x, y: to.y - lands.y }, ..self }
    }

    fn apply(&self, p: Point) -> Point {
        Point {
            x: self.cos * p.x - self.sin * p.y + self.shift.x,
            y: self.sin * p.x + self.cos * p.y + self.shift.y,
        }
    }
}

fn mean(points: &[Point; 5]) -> Point {
    let sum = points.iter().fold(Point::default(), |a, p| Point { x: a.x + p.x, y: a.y + p.y });
    Point { x: sum.x / 5.0, y: sum.y / 5.0 }
}

/// Mean colours of `window`'s N cells, `COLUMNS` to a row.
fn mosaic<const COLUMNS: usize, const N: usize>(
    picture: &RgbImage,
    placement: &Placement,
    window: &Rect,
) -> [Cell; N] {
    let n_rows = N / COLUMNS;
    let step_x = window.w / (COLUMNS * SAMPLES) as f32;
    let step_y = window.h / (n_rows * SAMPLES) as f32;
    std::array::from_fn(|cell| {
        let (row, column) = (cell / COLUMNS, cell % COLUMNS);
        let mut sums = [0_u32; 3];
        for j in 0..SAMPLES {
            for i in 0..SAMPLES {
                let seen = placement.apply(Point {
                    x: window.x + ((column * SAMPLES + i) as f32 + 0.5) * step_x,
                    y: window.y + ((row * SAMPLES + j) as f32 + 0.5) * step_y,
                });
                for (sum, sample) in sums.iter_mut().zip(nearest(picture, seen)) {
                    *sum += u32::from(sample);
                }
            }
        }
        ycbcr(sums.map(|sum| sum as f32 / (SAMPLES * SAMPLES) as f32))
    })
}

/// The pixel at `p`, or the edge's nearest to it; black in an empty picture.
#[expect(clippy::cast_possible_truncation, reason = "saturates, then is clamped")]
#[expect(clippy::cast_sign_loss, reason = "clamped to be positive")]
fn nearest(picture: &RgbImage, p: Point) -> [u8; 3] {
    let x = (p.x.max(0.0) as u32).min(picture.width().saturating_sub(1));
    let y = (p.y.max(0.0) as u32).min(picture.height().saturating_sub(1));
    picture.get_pixel_checked(x, y).map_or([0; 3], |pixel| pixel.0)
}

/// R'G'B' -> Y'CbCr of JFIF.
#[expect(clippy::cast_possible_truncation, reason = "within 0..=255, and saturates")]
#[expect(clippy::cast_sign_loss, reason = "within 0..=255, and saturates")]
fn ycbcr([r, g, b]: [f32; 3]) -> Cell {
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    [y, 128.0 + 0.564 * (b - y), 128.0 + 0.713 * (r - y)].map(|v| v.round() as u8)
}
