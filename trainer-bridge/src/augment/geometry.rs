//! Where the pixels of a picture go: crop, flip, rotation and scale as one map, so that pixels are sampled once.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are floored and mirrored into the picture before they are indices"
)]

use candor::geom::Rect;
use candor::resample::Resampler;
use image::RgbImage;

/// More source pixels than this to one are averaged before they are sampled.
const MOST_PX_PER_PX: f32 = 1.5;

/// A picture seen through a window of another size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Where the window lies, horizontally and vertically: 0 at the scaled picture's one edge, 1 at its other.
    pub place: [f32; 2],
    /// Whether left and right change places.
    pub flip: bool,
    /// Turn about the window's centre, degrees, positive against the clock.
    pub turn_degrees: f32,
    /// Width and height of the picture in windows.
    pub scale: [f32; 2],
}

impl Geometry {
    /// Shows the picture as it is.
    pub const NONE: Geometry = Geometry { place: [0.5; 2], flip: false, turn_degrees: 0.0, scale: [1.0; 2] };

    /// From a point of a window of `size_px` to the point of a picture of `picture_px` that it shows.
    pub fn inverse(&self, picture_px: (u32, u32), size_px: u32) -> Affine {
        let (sin, cos) = self.turn_degrees.to_radians().sin_cos();
        let side = size_px as f32;
        let sign = if self.flip { -1.0 } else { 1.0 };
        let picture = [picture_px.0 as f32, picture_px.1 as f32];
        let unit = [0, 1].map(|k| picture[k] / (self.scale[k] * side));
        let centre = [0, 1].map(|k| self.place[k] * (self.scale[k] - 1.0) * side + side / 2.0);
        // flip, turn, move to the scaled picture's coordinates, scale
        let rows = [[sign * cos, -sin], [sign * sin, cos]];
        Affine([0, 1].map(|k| {
            let [a, b] = rows[k].map(|v| v * unit[k]);
            [a, b, centre[k] * unit[k] - (a + b) * side / 2.0]
        }))
    }

    /// `picture` through the window, and `points` of it in the window's coordinates. Bilinear; outside, the picture is
    /// mirrored at its edge, edge pixel not repeated.
    pub fn apply(&self, picture: &RgbImage, points: &mut [[f32; 2]], size_px: u32) -> RgbImage {
        let inverse = self.inverse(picture.dimensions(), size_px);
        let forward = inverse.inverted();
        for point in points {
            *point = forward.at(*point);
        }
        let n_px = inverse.stretch();
        if n_px <= MOST_PX_PER_PX {
            return warp(picture, (size_px, size_px), |x, y| inverse.at([x, y]));
        }
        let (width, height) = picture.dimensions();
        let shrunk_px = (width.max(height) as f32 / n_px).ceil().max(1.0) as u32;
        let whole = Rect { x: 0.0, y: 0.0, w: width as f32, h: height as f32 };
        let shrunk = Resampler::default().area(picture, &whole, shrunk_px);
        let inverse = self.inverse(shrunk.dimensions(), size_px);
        warp(&shrunk, (size_px, size_px), |x, y| inverse.at([x, y]))
    }
}

/// `[[a, b, c], [d, e, f]]`: (x, y) to (ax + by + c, dx + ey + f).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine(pub [[f32; 3]; 2]);

impl Affine {
    /// Where a point goes.
    pub fn at(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        self.0.map(|[a, b, c]| a * x + b * y + c)
    }

    /// The map back; nonsense for one that squeezes the plane to a line.
    #[must_use]
    pub fn inverted(&self) -> Affine {
        let [[a, b, c], [d, e, f]] = self.0;
        let det = a * e - b * d;
        let [p, q, r, s] = [e / det, -b / det, -d / det, a / det];
        Affine([[p, q, -(p * c + q * f)], [r, s, -(r * c + s * f)]])
    }

    /// The longer of the images of the two unit steps.
    fn stretch(&self) -> f32 {
        let [[a, b, _], [d, e, _]] = self.0;
        a.hypot(d).max(b.hypot(e))
    }
}

/// The picture of `size_px`, width and height, whose pixel with centre (x, y) shows the point `source(x, y)` of
/// `picture`.
pub fn warp(picture: &RgbImage, size_px: (u32, u32), source: impl Fn(f32, f32) -> [f32; 2]) -> RgbImage {
    let mut warped = RgbImage::new(size_px.0, size_px.1);
    for (y, row) in warped.rows_mut().enumerate() {
        for (x, pixel) in row.enumerate() {
            let at = source(x as f32 + 0.5, y as f32 + 0.5);
            pixel.0 = sample(picture, at).map(|v| (v + 0.5) as u8);
        }
    }
    warped
}

/// The bilinear value of `picture` at a point, mirrored at the edge.
pub fn sample(picture: &RgbImage, [x, y]: [f32; 2]) -> [f32; 3] {
    let (width, height) = (picture.width() as i32, picture.height() as i32);
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (tx, ty) = (x - left, y - top);
    let (left, top) = (left as i32, top as i32);
    let columns = [mirrored(left, width), mirrored(left.saturating_add(1), width)].map(|x| x as usize * 3);
    let rows = [mirrored(top, height), mirrored(top.saturating_add(1), height)];
    let row_bytes = width as usize * 3;
    let raw = picture.as_raw();
    let [upper, lower] = rows.map(|y| &raw[y as usize * row_bytes..][..row_bytes]);
    let mut value = [0.0; 3];
    for (c, value) in value.iter_mut().enumerate() {
        let mix = |row: &[u8]| {
            let (a, b) = (f32::from(row[columns[0] + c]), f32::from(row[columns[1] + c]));
            a + (b - a) * tx
        };
        let (a, b) = (mix(upper), mix(lower));
        *value = a + (b - a) * ty;
    }
    value
}

/// The pixel of a line of `n` > 0 that stands at position `i`, mirrored into it (OpenCV's BORDER_REFLECT_101).
#[inline]
pub fn mirrored(i: i32, n: i32) -> i32 {
    if (0..n).contains(&i) {
        return i;
    }
    if n == 1 {
        return 0;
    }
    let phase = i.rem_euclid(2 * (n - 1));
    phase.min(2 * (n - 1) - phase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(40, 40, |x, y| image::Rgb([(x * 6) as u8, (y * 6) as u8, (x * y % 251) as u8]))
    }

    #[test]
    fn no_geometry_is_a_copy_and_two_flips_are_too() {
        let picture = picture();
        assert_eq!(Geometry::NONE.apply(&picture, &mut [], 40), picture);
        let flip = Geometry { flip: true, ..Geometry::NONE };
        let once = flip.apply(&picture, &mut [], 40);
        assert_eq!(once, image::imageops::flip_horizontal(&picture));
        assert_eq!(flip.apply(&once, &mut [], 40), picture);
    }

    #[test]
    fn points_stay_on_what_they_mark() {
        let mut picture = RgbImage::new(64, 64);
        picture.put_pixel(20, 30, image::Rgb([255; 3]));
        let geometry = Geometry { place: [0.2, 0.9], flip: true, turn_degrees: 8.0, scale: [1.2, 0.9] };
        let mut points = [[20.5, 30.5]];
        let shown = geometry.apply(&picture, &mut points, 64);
        let (mut total, mut centre) = (0.0, [0.0; 2]);
        for (x, y, pixel) in shown.enumerate_pixels() {
            let weight = f32::from(pixel.0[0]);
            total += weight;
            centre[0] += weight * (x as f32 + 0.5);
            centre[1] += weight * (y as f32 + 0.5);
        }
        for k in 0..2 {
            assert!((centre[k] / total - points[0][k]).abs() < 0.2, "{centre:?} {total} {points:?}");
        }
    }
}
