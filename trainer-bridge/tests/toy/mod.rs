//! A set that a small network can learn: smooth faces, and the same with a patch of another texture blended in.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use trainer_bridge::manifest::{self, Label, Row, Split};
use trainer_bridge::train::sampler::stream;

/// Crops of a video.
const N_CROPS: u64 = 2;

/// Writes a dataset of `n_sources` real videos, each with a fake, into `folder`; every fourth source is for validation.
pub(crate) fn write(folder: &Path, n_sources: u64, size_px: u32, seed: u64) {
    fs::create_dir_all(folder.join("crops")).unwrap();
    let mut rows = Vec::new();
    for source in 0..n_sources {
        for frame in 0..N_CROPS {
            // A pair shares its face; its fake has one thing more.
            let mut rng = stream(seed, source, frame);
            let real = face(size_px, &mut rng);
            let fake = patched(&real, &mut rng);
            for (label, picture) in [(Label::Real, real), (Label::Fake, fake)] {
                let crop = format!("crops/{source}-{}-{frame}.png", label.class());
                picture.save(folder.join(&crop)).unwrap();
                rows.push(row(crop, source, frame, label));
            }
        }
    }
    manifest::write(folder, &rows).unwrap();
}

fn row(crop: String, source: u64, frame: u64, label: Label) -> Row {
    let name = format!("toy/{source}.mp4");
    let video = if label == Label::Real { name.clone() } else { format!("toy/{source}-fake.mp4") };
    Row {
        crop,
        video,
        source: name.clone(),
        group: name,
        method: if label == Label::Fake { "patch".into() } else { String::new() },
        condition: "clean".into(),
        track: 0,
        frame,
        pts_ns: 0,
        x: 0.0,
        y: 0.0,
        w: 64.0,
        h: 64.0,
        confidence: 1.0,
        label,
        split: if source.is_multiple_of(4) { Split::Validation } else { Split::Train },
    }
}

/// A bright oval with two dark eyes and a mouth on a slanted background, with a little noise.
fn face(size_px: u32, rng: &mut ChaCha8Rng) -> RgbImage {
    let mut number = |low: f32, high: f32| rng.random_range(low..high);
    let center = [number(0.42, 0.58), number(0.42, 0.58)];
    let radii = [number(0.25, 0.36), number(0.32, 0.45)];
    let (skin, back) =
        ([number(140.0, 220.0), number(110.0, 180.0), number(90.0, 150.0)], number(20.0, 120.0));
    let slant = [number(-60.0, 60.0), number(-60.0, 60.0)];
    RgbImage::from_fn(size_px, size_px, |x, y| {
        let at = [x, y].map(|v| (v as f32 + 0.5) / size_px as f32);
        let offset = [(at[0] - center[0]) / radii[0], (at[1] - center[1]) / radii[1]];
        let inside = soft(1.0 - (offset[0].powi(2) + offset[1].powi(2)).sqrt(), 0.15);
        let spot = |x: f32, y: f32, r: f32| {
            soft(r - ((offset[0] - x).powi(2) + (offset[1] - y).powi(2)).sqrt(), 0.1)
        };
        let dark = spot(-0.4, -0.25, 0.14) + spot(0.4, -0.25, 0.14) + spot(0.0, 0.5, 0.2);
        let light = slant[0] * (at[0] - 0.5) + slant[1] * (at[1] - 0.5);
        let noise = rng.random_range(-3.0..3.0);
        let channel = |c: usize| back + (skin[c] - back) * inside - 80.0 * dark * inside + light + noise;
        Rgb([0, 1, 2].map(|c| to_u8(channel(c))))
    })
}

/// A soft disc in which a fine texture is laid over the picture.
fn patched(picture: &RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
    let side = picture.width() as f32;
    let center = [rng.random_range(0.35..0.65) * side, rng.random_range(0.35..0.65) * side];
    let (radius, strength) = (rng.random_range(0.2..0.3) * side, rng.random_range(15.0..30.0));
    let mut patched = picture.clone();
    for (x, y, pixel) in patched.enumerate_pixels_mut() {
        let distance = ((x as f32 - center[0]).powi(2) + (y as f32 - center[1]).powi(2)).sqrt();
        let texture = if (x / 2 + y / 2) % 2 == 0 { strength } else { -strength };
        let change = texture * soft(radius - distance, side * 0.05);
        pixel.0 = pixel.0.map(|value| to_u8(f32::from(value) + change));
    }
    patched
}

/// 0 below -width, 1 above width.
fn soft(distance: f32, width: f32) -> f32 {
    (distance / width / 2.0 + 0.5).clamp(0.0, 1.0)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255 after the clamp")]
fn to_u8(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}
