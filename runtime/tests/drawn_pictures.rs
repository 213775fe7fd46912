//! Drawn pictures against checked-in ones, pixel by pixel.
//!
//! After a wanted change: `CANDOR_WRITE_GOLDENS=1 cargo test --test drawn_pictures`, then look at the PNGs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use candor::geom::Rect;
use candor::report::contact_strip;
use candor::report::draw::{FaceMark, Tone, draw_marks};
use image::{Rgb, RgbImage};

fn check(name: &str, drawn: &RgbImage) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CANDOR_WRITE_GOLDENS").is_some() {
        drawn.save(&path).unwrap();
    }
    let expected = image::open(&path).unwrap().to_rgb8();
    assert_eq!(drawn.dimensions(), expected.dimensions(), "{name}");
    let differing = drawn.enumerate_pixels().zip(expected.pixels()).find(|((_, _, a), b)| a != b);
    assert!(differing.is_none(), "{name}: first differing pixel {differing:?}");
}

/// A plain wash, so that the golden stays small.
fn wash(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |_, y| {
        let shade = u8::try_from(60 + y * 120 / height).unwrap();
        Rgb([shade, shade, 200 - shade / 2])
    })
}

#[test]
fn every_tone_with_label_bars_and_banner() {
    let mut picture = wash(320, 240);
    let scores = [0.0, 0.07, 0.13, 0.2, 0.27, 0.33, 0.4, 0.47, 0.53, 0.6, 0.67, 0.73, 0.8, 0.9, 1.0];
    let mark = |x, y, track_id, word, tone, mean_score, scores| FaceMark {
        bbox: Rect { x, y, w: 60.4, h: 70.6 },
        track_id,
        word,
        tone,
        mean_score,
        scores,
    };
    let marks = [
        mark(10.3, 40.0, 1, "Fake", Tone::Fake, Some(0.874), &scores[..]),
        mark(200.0, -20.5, 2, "Real", Tone::Real, Some(0.069), &scores[..4]),
        mark(280.0, 120.0, 3, "Uncertain", Tone::Uncertain, Some(f32::NAN), &scores[7..9]),
        mark(120.0, 150.0, 4, "pending", Tone::Pending, None, &[]),
    ];
    draw_marks(&mut picture, &marks, Some("untrained model: its verdicts mean nothing at all"));
    check("marks.png", &picture);
}

#[test]
fn contact_strip_of_three() {
    let crops = [wash(300, 300), wash(31, 57), RgbImage::from_pixel(96, 96, Rgb([200, 30, 90]))];
    check("strip.png", &contact_strip(crops.iter().zip([0.0, 0.456, 1.0])));
    let nothing = contact_strip([(&RgbImage::new(0, 0), 0.5)]);
    assert_eq!(nothing.dimensions(), (4, 120));
}
