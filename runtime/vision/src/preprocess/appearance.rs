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

#[cfg(test)]
mod tests {
    use super::*;

    /// A face whose landmarks lie at `placement` of the canonical ones.
    fn face(placement: &Placement) -> Detection {
        let corner = placement.apply(Point { x: HEAD.x, y: HEAD.y });
        let bbox = Rect { x: corner.x, y: corner.y, w: 80.0, h: 100.0 };
        Detection { bbox, landmarks: CANON.map(|p| placement.apply(p)), confidence: 1.0 }
    }

    /// A picture in which the canonical face, placed so, is green left of its middle and red below it.
    fn picture(placement: &Placement) -> RgbImage {
        let (norm, shift) = (placement.cos.powi(2) + placement.sin.powi(2), placement.shift);
        RgbImage::from_fn(400, 400, |x, y| {
            let (dx, dy) = (x as f32 + 0.5 - shift.x, y as f32 + 0.5 - shift.y);
            let canon_x = (placement.cos * dx + placement.sin * dy) / norm;
            let canon_y = (placement.cos * dy - placement.sin * dx) / norm;
            let is = |yes: bool| if yes { 200 } else { 0 };
            image::Rgb([is(canon_y > 54.0), is(canon_x < 56.0), 50])
        })
    }

    #[test]
    fn the_head_looks_the_same_wherever_however_large_and_turned() {
        let expected = |cell: usize| {
            let is = |yes: bool| if yes { 200.0 } else { 0.0 };
            ycbcr([is(cell / 8 >= 4), is(cell % 8 < 4), 50.0])
        };
        for (cos, sin, x, y) in [(1.0, 0.0, 100.0, 90.0), (2.0, 0.1, 50.0, 40.0), (0.5, -0.2, 200.0, 150.0)] {
            let placement = Placement { cos, sin, shift: Point { x, y } };
            let seen = appearance(&picture(&placement), &face(&placement));
            for (cell, found) in seen.head.iter().enumerate() {
                // Beside the two edges a sample or two may fall on the other side.
                let differs = found.iter().zip(expected(cell)).any(|(a, b)| a.abs_diff(b) > 25);
                assert!(!differs, "cell {cell}: {found:?}, expected {:?}", expected(cell));
            }
        }
    }

    #[test]
    fn faces_beyond_the_picture_or_without_sense_do_no_harm() {
        let picture = RgbImage::from_pixel(3, 2, image::Rgb([10, 20, 30]));
        let flat = ycbcr([10.0, 20.0, 30.0]);
        for value in [0.0, -1e30, 1e30, f32::NAN, f32::INFINITY] {
            let landmarks = [Point { x: value, y: value }; 5];
            let bbox = Rect { x: value, y: value, w: value, h: value };
            let seen = appearance(&picture, &Detection { bbox, landmarks, confidence: 1.0 });
            assert!(seen.head.iter().chain(&seen.body).all(|cell| *cell == flat));
        }
        let face = face(&Placement { cos: 1.0, sin: 0.0, shift: Point::default() });
        appearance(&RgbImage::new(0, 0), &face);
    }
}
