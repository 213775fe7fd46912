//! Two pictures become one: by a soft mask, or by gradients.

use image::RgbImage;

use super::super::region::Plane;
use super::color::to_byte;

/// `over` where `mask` is 1, `under` where it is 0, between them the weighted mean. All of one size.
pub fn mixed(over: &RgbImage, under: &RgbImage, mask: &Plane) -> RgbImage {
    let mut mix = under.clone();
    for ((pixel, over), weight) in mix.pixels_mut().zip(over.pixels()).zip(&mask.values) {
        for (under, over) in pixel.0.iter_mut().zip(over.0) {
            let (a, b) = (f32::from(*under), f32::from(over));
            *under = to_byte(a + weight * (b - a));
        }
    }
    mix
}

/// Most that [`seamless`] adds to a value: hair or a collar at the edge must not colour the whole face.
const MOST_ADDED: f32 = 45.0;

/// `over` with its gradients where `mask` is over .5 and meeting `under` at the edge of that; `under` elsewhere. Pérez et
/// al., "Poisson Image Editing" (2003): what is added to `over` is harmonic and is `under - over` outside, here at most
/// [`MOST_ADDED`].
pub fn seamless(over: &RgbImage, under: &RgbImage, mask: &Plane) -> RgbImage {
    let differences = over.pixels().zip(under.pixels());
    let mut added: Vec<[f32; 3]> =
        differences.map(|(o, u)| [0, 1, 2].map(|k| difference(u.0[k], o.0[k]))).collect();
    let is_inside: Vec<bool> = mask.values.iter().map(|v| *v > 0.5).collect();
    membrane(&mut added, &is_inside, mask.width);
    let mut blend = under.clone();
    let pixels = blend.pixels_mut().zip(over.pixels()).zip(added).zip(is_inside);
    for (((pixel, over), added), _) in pixels.filter(|(_, inside)| *inside) {
        pixel.0 = [0, 1, 2].map(|k| to_byte(f32::from(over.0[k]) + added[k]));
    }
    blend
}

fn difference(under: u8, over: u8) -> f32 {
    (f32::from(under) - f32::from(over)).clamp(-MOST_ADDED, MOST_ADDED)
}

/// Below this side a level of [`membrane`] has none beneath.
const LEAST_SIDE: usize = 8;
const N_SWEEPS: usize = 24;
/// Of successive over-relaxation.
const RELAXATION: f32 = 1.6;

/// Replaces the values inside by the solution of Laplace's equation with those outside as its border: each is the mean of
/// its neighbours. The picture's edge gives no neighbour. Rows of `width`; solved from coarse to fine, to about a grey
/// level.
pub fn membrane(values: &mut [[f32; 3]], is_inside: &[bool], width: usize) {
    if width == 0 || !is_inside.contains(&false) {
        values.fill([0.0; 3]);
        return;
    }
    let height = values.len() / width;
    if width > LEAST_SIDE && height > LEAST_SIDE {
        start_from_coarse(values, is_inside, width);
    } else {
        let n = is_inside.iter().filter(|inside| !**inside).count() as f32;
        let outside = values.iter().zip(is_inside).filter(|(_, inside)| !**inside);
        let mean = outside.fold([0.0; 3], |sum, (v, _)| [0, 1, 2].map(|k| sum[k] + v[k] / n));
        values.iter_mut().zip(is_inside).filter(|(_, inside)| **inside).for_each(|(v, _)| *v = mean);
    }
    let inside: Vec<usize> = (0..values.len()).filter(|idx| is_inside[*idx]).collect();
    for _ in 0..N_SWEEPS {
        inside.iter().for_each(|idx| relax(values, *idx, width, height));
    }
}

#[inline]
fn relax(values: &mut [[f32; 3]], idx: usize, width: usize, height: usize) {
    let (x, y) = (idx % width, idx / width);
    let (mut sum, mut n) = ([0.0; 3], 0.0);
    let mut add = |is_there: bool, at: usize| {
        if is_there {
            sum = [0, 1, 2].map(|k| sum[k] + values[at][k]);
            n += 1.0;
        }
    };
    add(x > 0, idx.wrapping_sub(1));
    add(x + 1 < width, idx + 1);
    add(y > 0, idx.wrapping_sub(width));
    add(y + 1 < height, idx + width);
    let own = values[idx];
    values[idx] = [0, 1, 2].map(|k| own[k] + RELAXATION * (sum[k] / n - own[k]));
}

/// Sets the values inside to those of the same problem at half the size. A coarse cell is inside when all of its pixels
/// are; else it has the mean of those outside.
fn start_from_coarse(values: &mut [[f32; 3]], is_inside: &[bool], width: usize) {
    let height = values.len() / width;
    let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
    let mut coarse = vec![[0.0; 3]; columns * rows];
    let mut n_outside = vec![0.0_f32; columns * rows];
    for (idx, value) in values.iter().enumerate().filter(|(idx, _)| !is_inside[*idx]) {
        let cell = idx / width / 2 * columns + idx % width / 2;
        n_outside[cell] += 1.0;
        coarse[cell] = [0, 1, 2].map(|k| coarse[cell][k] + value[k]);
    }
    for (value, n) in coarse.iter_mut().zip(&n_outside).filter(|(_, n)| **n > 0.0) {
        *value = value.map(|v| v / n);
    }
    let coarse_inside: Vec<bool> = n_outside.iter().map(|n| *n == 0.0).collect();
    membrane(&mut coarse, &coarse_inside, columns);
    for idx in (0..values.len()).filter(|idx| is_inside[*idx]) {
        // A pixel's centre lies a quarter of a cell from its cell's: bilinear weights 9, 3, 3, 1.
        let place = |at: usize, n: usize| {
            let other =
                if at.is_multiple_of(2) { (at / 2).saturating_sub(1) } else { (at / 2 + 1).min(n - 1) };
            (at / 2, other)
        };
        let ((x, u), (y, v)) = (place(idx % width, columns), place(idx / width, rows));
        let cell = |x: usize, y: usize| coarse[y * columns + x];
        let (a, b, c, d) = (cell(x, y), cell(u, y), cell(x, v), cell(u, v));
        values[idx] = [0, 1, 2].map(|k| (9.0 * a[k] + 3.0 * (b[k] + c[k]) + d[k]) / 16.0);
    }
}
