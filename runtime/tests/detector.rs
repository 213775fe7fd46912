//! The built-in detector, whose networks are int8, finds the faces that the reference detector finds in float, in the same
//! places.
//!
//! `golden/faces.jsonl` is what the reference, an independent cascade in numpy and ONNX Runtime, says of
//! the fetched photos: `python tests/reference/mtcnn.py --models float --min-face-px 40
//! .cache/clips/astronaut.png .cache/clips/sample?.jpg > runtime/tests/golden/faces.jsonl`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::{Path, PathBuf};

use candor::detect::{Mtcnn, Settings};
use candor::engine::Engine;
use candor::geom::Rect;
use image::RgbImage;
use serde_json::Value;

const FACES: &str = include_str!("golden/faces.jsonl");
/// Least overlap with the reference's box of each face.
const LEAST_IOU: f32 = 0.9;

/// A fetched file; `None`, with a printed reason, where `tests/setup` hasn't run.
fn fetched(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if path.exists() {
        return Some(path);
    }
    let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
    assert!(!is_required, "{} is missing: run tests/setup", path.display());
    println!("skipped: {} is missing, run tests/setup", path.display());
    None
}

/// The boxes of a golden's faces that the detector would keep.
fn expected_boxes(line: &Value, keep_above: f32) -> Vec<Rect> {
    let faces = line["faces"].as_array().unwrap().iter();
    let kept = faces.filter(|face| face["confidence"].as_f64().unwrap() > f64::from(keep_above));
    let to_box = |face: &Value| {
        let [x0, y0, x1, y1]: [f32; 4] = serde_json::from_value(face["box"].clone()).unwrap();
        Rect::from_corners(x0, y0, x1, y1)
    };
    kept.map(to_box).collect()
}

#[test]
fn photos_have_the_faces_that_the_reference_finds() {
    let settings = Settings::default();
    let mut detector = Mtcnn::new(&Engine::default(), settings).unwrap();
    for line in FACES.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let source = line["source"].as_str().unwrap();
        let Some(path) = fetched(source) else { return };
        let found = detector.detect(&image::open(path).unwrap().into_rgb8()).unwrap();
        let mut expected = expected_boxes(&line, settings.keep_above);
        assert_eq!(found.len(), expected.len(), "{source}: {found:?}");
        for face in &found {
            let overlap = |other: &Rect| face.bbox.iou(other);
            let best =
                (0..expected.len()).max_by(|&a, &b| overlap(&expected[a]).total_cmp(&overlap(&expected[b])));
            let iou = overlap(&expected.swap_remove(best.unwrap()));
            println!("{source}: {iou:.4}");
            assert!(iou >= LEAST_IOU, "{source}: {face:?} overlaps its counterpart by {iou}");
        }
    }
}

#[test]
fn a_flat_picture_and_a_gradient_have_no_face() {
    let mut detector = Mtcnn::new(&Engine::default(), Settings::default()).unwrap();
    let gradient =
        RgbImage::from_fn(320, 240, |x, y| image::Rgb([x.to_le_bytes()[0], y.to_le_bytes()[0], 128]));
    for picture in [RgbImage::from_pixel(320, 240, image::Rgb([120; 3])), gradient] {
        assert_eq!(detector.detect(&picture).unwrap(), []);
    }
}
