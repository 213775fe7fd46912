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
/// `picture`: the bilinear value there, mirrored at the edge.
pub fn warp(picture: &RgbImage, size_px: (u32, u32), source: impl Fn(f32, f32) -> [f32; 2]) -> RgbImage {
    let texture = Texture::of(picture);
    let mut warped = RgbImage::new(size_px.0, size_px.1);
    for (y, row) in warped.rows_mut().enumerate() {
        for (x, pixel) in row.enumerate() {
            let [r, g, b, _] = texture.at(source(x as f32 + 0.5, y as f32 + 0.5));
            pixel.0 = [(r + 0.5) as u8, (g + 0.5) as u8, (b + 0.5) as u8];
        }
    }
    warped
}

/// A picture with a fourth, empty value in each pixel: vectors of four are what a processor adds at once.
struct Texture {
    width: i32,
    height: i32,
    pixels: Vec<[u8; 4]>,
}

impl Texture {
    fn of(picture: &RgbImage) -> Self {
        let pixels = picture.as_raw().as_chunks::<3>().0.iter().map(|&[r, g, b]| [r, g, b, 0]).collect();
        Texture { width: picture.width() as i32, height: picture.height() as i32, pixels }
    }

    #[inline]
    fn at(&self, [x, y]: [f32; 2]) -> [f32; 4] {
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (floor(x), floor(y));
        let (tx, ty) = (x - left as f32, y - top as f32);
        let (mut right, mut bottom) = (left.saturating_add(1), top.saturating_add(1));
        let (mut left, mut top) = (left, top);
        let is_within = left >= 0 && right < self.width && top >= 0 && bottom < self.height;
        if !is_within {
            (left, right) = (mirrored(left, self.width), mirrored(right, self.width));
            (top, bottom) = (mirrored(top, self.height), mirrored(bottom, self.height));
        }
        let upper = mix(self.pixel(left, top), self.pixel(right, top), tx);
        let lower = mix(self.pixel(left, bottom), self.pixel(right, bottom), tx);
        mix(upper, lower, ty)
    }

    #[inline]
    fn pixel(&self, x: i32, y: i32) -> [f32; 4] {
        let [r, g, b, a] = self.pixels[(y * self.width + x) as usize];
        [f32::from(r), f32::from(g), f32::from(b), f32::from(a)]
    }
}

#[inline]
fn mix(a: [f32; 4], b: [f32; 4], t: f32) -> [f32; 4] {
    let [a0, a1, a2, a3] = a;
    let [b0, b1, b2, b3] = b;
    [a0 + (b0 - a0) * t, a1 + (b1 - a1) * t, a2 + (b2 - a2) * t, a3 + (b3 - a3) * t]
}

/// The largest whole number up to `value`, which may need no call of the mathematical library.
#[inline]
fn floor(value: f32) -> i32 {
    let whole = value as i32;
    whole.saturating_sub(i32::from(whole as f32 > value))
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
