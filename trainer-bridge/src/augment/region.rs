//! Regions of a picture: convex hulls of points, filled; dilation.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions are clamped to the picture before they are indices"
)]

/// A number for each pixel, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The values.
    pub values: Vec<f32>,
}

impl Plane {
    /// All `value`.
    pub fn filled(width: usize, height: usize, value: f32) -> Self {
        Plane { width, height, values: vec![value; width * height] }
    }
}

/// The corners of the convex hull of `points`, in order of turning (Andrew's monotone chain).
pub fn hull(points: &[[f32; 2]]) -> Vec<[f32; 2]> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    if sorted.len() < 3 {
        return sorted;
    }
    let turns =
        |a: [f32; 2], b: [f32; 2], c: [f32; 2]| (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    let half = |points: &mut dyn Iterator<Item = [f32; 2]>| {
        let mut chain: Vec<[f32; 2]> = Vec::new();
        for point in points {
            while let [.., a, b] = chain[..] {
                if turns(a, b, point) > 0.0 {
                    break;
                }
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop();
        chain
    };
    let mut corners = half(&mut sorted.iter().copied());
    corners.extend(half(&mut sorted.iter().rev().copied()));
    corners
}

/// Sets to `value` the pixels of `plane` whose centres lie in the polygon (even-odd), and the pixels that hold its
/// corners, so that a region of one point or a line isn't empty.
pub fn fill(plane: &mut Plane, corners: &[[f32; 2]], value: f32) {
    let mut crossings = Vec::new();
    for y in 0..plane.height {
        let centre = y as f32 + 0.5;
        crossings.clear();
        for (k, a) in corners.iter().enumerate() {
            let b = corners[(k + 1) % corners.len()];
            if (a[1] <= centre) != (b[1] <= centre) {
                crossings.push(a[0] + (centre - a[1]) / (b[1] - a[1]) * (b[0] - a[0]));
            }
        }
        crossings.sort_by(f32::total_cmp);
        for span in crossings.chunks_exact(2) {
            let [from, to] =
                [span[0], span[1]].map(|x| ((x - 0.5).ceil().max(0.0) as usize).min(plane.width));
            plane.values[y * plane.width..][from..to.max(from)].fill(value);
        }
    }
    for [x, y] in corners {
        if (0.0..plane.width as f32).contains(x) && (0.0..plane.height as f32).contains(y) {
            plane.values[*y as usize * plane.width + *x as usize] = value;
        }
    }
}

/// Sets to 1 all pixels whose centre is at most `radius_px` from the centre of one that is 1, and the others to 0:
/// dilation by a disc.
pub fn dilate(plane: &mut Plane, radius_px: f32) {
    let squares = squared_distances(plane);
    let most = radius_px * radius_px;
    for (value, square) in plane.values.iter_mut().zip(squares) {
        *value = f32::from(u8::from(square <= most));
    }
}

/// Squared distance of every pixel to the nearest that is not 0, infinite without any. Felzenszwalb and Huttenlocher,
/// "Distance Transforms of Sampled Functions" (2012).
pub fn squared_distances(plane: &Plane) -> Vec<f32> {
    let (width, height) = (plane.width, plane.height);
    // Along the columns a scan each way is enough.
    let mut columns = vec![f32::INFINITY; width * height];
    let mut since = vec![f32::INFINITY; width];
    let mut scan = |y: usize| {
        for x in 0..width {
            since[x] = if plane.values[y * width + x] > 0.0 { 0.0 } else { since[x] + 1.0 };
            let at = &mut columns[y * width + x];
            *at = at.min(since[x] * since[x]);
        }
    };
    (0..height).for_each(&mut scan);
    (0..height).rev().for_each(&mut scan);
    let mut squares = columns;
    let mut row = vec![0.0; width];
    let (mut vertices, mut bounds) = (vec![0_usize; width], vec![0.0_f32; width + 1]);
    for line in squares.chunks_exact_mut(width) {
        row.copy_from_slice(line);
        envelope(&row, line, &mut vertices, &mut bounds);
    }
    squares
}

/// `to[x]` = the least of `from[v]` + (x - v)².
fn envelope(from: &[f32], to: &mut [f32], vertices: &mut [usize], bounds: &mut [f32]) {
    let mut n = 0;
    for (q, value) in from.iter().enumerate().filter(|(_, value)| value.is_finite()) {
        let height = |v: usize, f: f32| f + (v * v) as f32;
        loop {
            if n == 0 {
                (vertices[0], bounds[0]) = (q, f32::NEG_INFINITY);
                break;
            }
            let v = vertices[n - 1];
            let cross = (height(q, *value) - height(v, from[v])) / (2 * (q - v)) as f32;
            if cross > bounds[n - 1] {
                (vertices[n], bounds[n]) = (q, cross);
                break;
            }
            n -= 1;
        }
        n += 1;
        bounds[n] = f32::INFINITY;
    }
    let mut k = 0;
    for (x, to) in to.iter_mut().enumerate() {
        if n == 0 {
            *to = f32::INFINITY;
            continue;
        }
        while bounds[k + 1] < x as f32 {
            k += 1;
        }
        let v = vertices[k];
        *to = from[v] + (x.abs_diff(v) * x.abs_diff(v)) as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dilation_is_the_union_of_discs() {
        let mut plane = Plane::filled(31, 23, 0.0);
        let seeds = [(3_usize, 4_usize), (20, 11), (30, 22)];
        seeds.iter().for_each(|&(x, y)| plane.values[y * 31 + x] = 1.0);
        for radius in [0.0_f32, 1.0, 2.5, 5.0, 9.3] {
            let mut dilated = plane.clone();
            dilate(&mut dilated, radius);
            for (idx, value) in dilated.values.iter().enumerate() {
                let (x, y) = (idx % 31, idx / 31);
                let near = |&(u, v): &(usize, usize)| {
                    (x.abs_diff(u).pow(2) + y.abs_diff(v).pow(2)) as f32 <= radius * radius
                };
                assert_eq!(*value > 0.0, seeds.iter().any(near), "radius {radius}, at {x}, {y}");
            }
        }
    }
}
