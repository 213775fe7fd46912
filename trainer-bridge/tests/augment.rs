//! The augmentations against definitions in numpy, SciPy, OpenCV and Pillow (tests/reference/augmentations.py), and what
//! must hold for any draw.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use candor::engine::Engine;
use image::RgbImage;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use trainer_bridge::augment::call::{Video, encode, quantizer_of_crf, sent};
use trainer_bridge::augment::geometry::Geometry;
use trainer_bridge::augment::mask::{Shown, blacken};
use trainer_bridge::augment::pseudo::{
    Face, Similarity, Spline, membrane, seamless, self_blended, swapped, to_lab, unlikeness,
};
use trainer_bridge::augment::region::Plane;
use trainer_bridge::augment::{Augmenter, Settings, tone};
use trainer_bridge::landmarks::{Landmarker, Landmarks};

const SEED: u64 = 20_261_125;

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> RgbImage {
    image::open(golden_path(&format!("{name}.png"))).unwrap().into_rgb8()
}

fn face() -> RgbImage {
    golden("landmarks")
}

/// Of `face`, in px, by the network's definition.
fn landmarks() -> Landmarks {
    landmarks_of("landmarks.json")
}

fn landmarks_of(file: &str) -> Landmarks {
    let text = fs::read_to_string(golden_path(file)).unwrap();
    let values: Vec<f32> = serde_json::from_str(&text).unwrap();
    let mut landmarks = [[0.0; 2]; 68];
    landmarks.as_flattened_mut().iter_mut().zip(values).for_each(|(to, from)| *to = from * 112.0);
    landmarks
}

/// The largest and the mean difference of a value.
fn difference(a: &RgbImage, b: &RgbImage) -> (u8, f64) {
    assert_eq!(a.dimensions(), b.dimensions());
    let all = || a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b));
    (all().max().unwrap(), all().map(f64::from).sum::<f64>() / a.as_raw().len() as f64)
}

fn assert_near(found: &RgbImage, name: &str, most: u8) {
    let (worst, mean) = difference(found, &golden(name));
    assert!(worst <= most, "{name}: {worst} apart, {mean} on average");
}

#[test]
fn geometry_is_scipys() {
    let geometry = Geometry { place: [0.2, 0.9], flip: true, turn_degrees: 8.0, scale: [1.15, 0.85] };
    assert_near(&geometry.apply(&face(), &mut [], 96), "geometry", 1);
}

#[test]
fn brightness_and_contrast_are_fastais() {
    let mut picture = face();
    tone::light(&mut picture, 0.43, 1.2);
    assert_near(&picture, "light", 0);
    let mut picture = face();
    tone::light(&mut picture, 0.5, 1.0);
    assert_eq!(picture, face());
}

#[test]
fn blur_is_scipys() {
    for sigma_px in [0.6, 2.3] {
        let mut picture = face();
        tone::blur(&mut picture, sigma_px);
        assert_near(&picture, &format!("blur-{sigma_px}"), 1);
    }
}

#[test]
fn jpeg_is_pillows() {
    for quality in [65, 90] {
        let mut picture = face();
        tone::jpeg(&mut picture, quality);
        let (worst, mean) = difference(&picture, &golden(&format!("jpeg-{quality}")));
        // The two differ in how they average chroma, and by less than either does from the picture.
        let (_, loss) = difference(&face(), &golden(&format!("jpeg-{quality}")));
        assert!(mean < 0.5 * loss && worst < 40, "quality {quality}: {worst}, {mean} of {loss}");
    }
}

#[test]
fn masks_are_scipys_hulls_dilated_by_opencv() {
    for (name, shown) in [
        ("mask-whole", Shown::Whole),
        ("mask-features", Shown::Features([6, 2, 0])),
        ("mask-interval", Shown::Interval(20, 45)),
    ] {
        let mut picture = face();
        blacken(&mut picture, &shown.plane(&landmarks(), 112, 4.0, 2));
        assert_near(&picture, name, 0);
    }
}

/// How far ONNX Runtime's landmarks with the same int8 network may be, and those of the network's definition in float; px.
const FARTHEST_PX: [f32; 2] = [0.01, 0.6];

#[test]
fn landmarks_are_onnx_runtimes_and_near_those_of_the_networks_definition() {
    let found = Landmarker::new(&Engine::default()).unwrap().find_in(&face(), 1.0).unwrap();
    for (file, farthest_px) in ["landmarks-int8.json", "landmarks.json"].into_iter().zip(FARTHEST_PX) {
        for (k, (found, expected)) in found.iter().zip(landmarks_of(file)).enumerate() {
            let apart = (found[0] - expected[0]).hypot(found[1] - expected[1]);
            assert!(apart < farthest_px, "{file}: landmark {k}: {apart} px");
        }
    }
}

#[test]
fn seamless_solves_poissons_equation() {
    let mask = golden("seamless-mask");
    let plane = Plane {
        width: 112,
        height: 112,
        values: mask.pixels().map(|p| f32::from(u8::from(p.0[0] > 127))).collect(),
    };
    let found = seamless(&golden("seamless-over"), &face(), &plane);
    assert_near(&found, "seamless", 2);
}

#[test]
fn membrane_finds_a_harmonic_function() {
    // x² - y² is harmonic on the grid too: each value is exactly the mean of its neighbours.
    let side = 100;
    let value = |idx: usize| {
        let [x, y] = [idx % side, idx / side].map(|v| v as f32 / 25.0 - 2.0);
        [10.0 * (x * x - y * y), 7.0 * x, -3.0]
    };
    let is_inside: Vec<bool> = (0..side * side)
        .map(|idx| (idx % side).abs_diff(48).pow(2) + (idx / side).abs_diff(52).pow(2) < 40 * 40)
        .collect();
    let mut values: Vec<[f32; 3]> =
        (0..side * side).map(|idx| if is_inside[idx] { [99.0; 3] } else { value(idx) }).collect();
    membrane(&mut values, &is_inside, side);
    for (idx, found) in values.iter().enumerate() {
        for (found, expected) in found.iter().zip(value(idx)) {
            assert!((found - expected).abs() < 0.5, "{idx}: {found}, expected {expected}");
        }
    }
}

#[test]
fn lab_is_opencvs() {
    let text = fs::read_to_string(golden_path("lab.json")).unwrap();
    let pairs: Vec<([u8; 3], [f32; 3])> = serde_json::from_str(&text).unwrap();
    for (rgb, expected) in pairs {
        for (found, expected) in to_lab(rgb).iter().zip(expected) {
            assert!((found - expected).abs() < 0.2, "{rgb:?}: {:?}, expected {expected:?}", to_lab(rgb));
        }
    }
}

#[test]
fn probabilities_and_ranges_are_the_papers() {
    println!("seed {SEED}");
    let augmenter = Augmenter::new(&Settings::paper()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let plans: Vec<_> = (0..10_000).map(|_| augmenter.draw(&mut rng)).collect();
    let is_share = |name: &str, n: usize, of: usize, p: f64| {
        let (n, of) = (n as f64, of as f64);
        let spread = (p * (1.0 - p) / of).sqrt();
        assert!((n / of - p).abs() < 4.0 * spread, "{name}: {n} of {of}, expected {p}");
    };
    let count = |is: &dyn Fn(&trainer_bridge::augment::Plan) -> bool| plans.iter().filter(|p| is(p)).count();
    is_share("flip", count(&|p| p.geometry.flip), 10_000, 0.5);
    is_share("rotate", count(&|p| p.geometry.turn_degrees != 0.0), 10_000, 0.75);
    is_share("brightness", count(&|p| p.brightness != 0.5), 10_000, 0.75);
    is_share("contrast", count(&|p| p.contrast != 1.0), 10_000, 0.75);
    is_share("darker", count(&|p| p.contrast < 1.0), count(&|p| p.contrast != 1.0), 0.5);
    is_share("blur", count(&|p| p.blur_px != 0.0), 10_000, 0.5);
    is_share("JPEG", count(&|p| p.jpeg_quality.is_some()), 10_000, 0.35);
    let n_masks = count(&|p| p.mask.is_some());
    is_share("mask", n_masks, 10_000, 0.33);
    is_share("whole", count(&|p| matches!(p.mask, Some((Shown::Whole, ..)))), n_masks, 1.0 / 3.0);
    is_share("features", count(&|p| matches!(p.mask, Some((Shown::Features(_), ..)))), n_masks, 1.0 / 3.0);
    for n in 1..=3 {
        is_share("dilations", count(&|p| p.mask.is_some_and(|m| m.2 == n)), n_masks, 1.0 / 3.0);
    }
    assert_eq!(count(&|p| p.call.video.is_some() || p.call.rescale.is_some()), 0);
    for plan in &plans {
        let geometry = &plan.geometry;
        assert!(geometry.place.iter().all(|v| (0.0..=1.0).contains(v)));
        assert!(geometry.scale.iter().all(|v| (0.8..=1.2).contains(v)));
        assert!(geometry.turn_degrees.abs() <= 10.0);
        assert!((0.4..=0.6).contains(&plan.brightness));
        assert!((0.799_9..=1.250_1).contains(&plan.contrast));
        assert!((0.0..=3.0).contains(&plan.blur_px));
        assert!(plan.jpeg_quality.is_none_or(|q| (65..=100).contains(&q)));
        if let Some((shown, radius_px, _)) = plan.mask {
            assert!((10.0..=60.0).contains(&radius_px));
            match shown {
                Shown::Whole => {}
                Shown::Features([a, b, c]) => assert!(a != b && b != c && a != c && a.max(b).max(c) < 7),
                Shown::Interval(first, last) => assert!(first < 34 && (34..68).contains(&last)),
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_thread() {
    let augmenter = Augmenter::new(&Settings::call()).unwrap();
    let make = |seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let blended = self_blended(Face { picture: &face(), landmarks: &landmarks() }, &mut rng);
        augmenter.apply(&blended.fake, Some(&landmarks()), 96, &mut rng)
    };
    let here: Vec<_> = (0..12).map(make).collect();
    let there: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..12).map(|seed| scope.spawn(move || make(seed))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(here, there);
    assert!(here.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_pseudo_fake_is_its_real_outside_of_the_mask() {
    println!("seed {SEED}");
    let picture = face();
    let flipped = image::imageops::flip_horizontal(&picture);
    let own = landmarks();
    let donor = mirrored(&own);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    for idx in 0..40 {
        let target = Face { picture: &picture, landmarks: &own };
        let pseudo = if idx % 2 == 0 {
            self_blended(target, &mut rng)
        } else {
            swapped(target, Face { picture: &flipped, landmarks: &donor }, &mut rng)
        };
        let mut n_changed = 0;
        let pixels = pseudo.real.pixels().zip(pseudo.fake.pixels()).zip(&pseudo.mask.values);
        for ((real, fake), weight) in pixels {
            assert!((0.0..=1.0).contains(weight));
            assert!(*weight > 0.0 || real == fake, "draw {idx}");
            n_changed += usize::from(real != fake);
        }
        let n_masked = pseudo.mask.values.iter().filter(|weight| **weight > 0.0).count();
        assert!(n_changed > 100 && n_masked < 112 * 112 * 9 / 10, "draw {idx}: {n_changed} of {n_masked}");
    }
}

/// The landmarks of a mirrored face: each takes the place of its counterpart.
fn mirrored(landmarks: &Landmarks) -> Landmarks {
    const PAIRS: [(usize, usize); 29] = [
        (0, 16),
        (1, 15),
        (2, 14),
        (3, 13),
        (4, 12),
        (5, 11),
        (6, 10),
        (7, 9),
        (17, 26),
        (18, 25),
        (19, 24),
        (20, 23),
        (21, 22),
        (31, 35),
        (32, 34),
        (36, 45),
        (37, 44),
        (38, 43),
        (39, 42),
        (40, 47),
        (41, 46),
        (48, 54),
        (49, 53),
        (50, 52),
        (55, 59),
        (56, 58),
        (60, 64),
        (61, 63),
        (65, 67),
    ];
    let mut mirrored = landmarks.map(|[x, y]| [112.0 - x, y]);
    PAIRS.iter().for_each(|&(a, b)| mirrored.swap(a, b));
    mirrored
}

#[test]
fn a_spline_brings_landmarks_onto_landmarks() {
    let from = landmarks();
    let rigid = Similarity::fit(&from, &from);
    let same = Spline::fit(&from, &from, &rigid, (112, 112));
    let mut bent = from;
    bent.iter_mut().enumerate().for_each(|(k, p)| p[k % 2] += 2.0 * (k as f32 / 9.0).sin());
    let spline = Spline::fit(&from, &bent, &Similarity::fit(&from, &bent), (112, 112));
    for (from, to) in from.iter().zip(&bent) {
        let far = |a: [f32; 2], b: &[f32; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
        assert!(far(same.at(*from), from) < 0.01);
        assert!(far(spline.at(*from), to) < 1.5, "{from:?}: {:?}, expected {to:?}", spline.at(*from));
    }
    let moved = from.map(|[x, y]| [30.0 + 1.5 * x - 0.4 * y, 0.4 * x + 1.5 * y]);
    assert!(unlikeness(&from, &moved) < 1e-3);
    assert!(unlikeness(&from, &bent) > 0.01);
}

#[test]
fn a_call_loses_more_at_a_higher_rate_factor() {
    let face = face();
    let mut last = (usize::MAX, 0.0);
    for crf in [23.0, 30.0, 40.0] {
        let video = Video { qp: quantizer_of_crf(crf), n_frames: 4, motion_px: [0.7, -0.4], is_bt709: false };
        let n_bytes = encode(&face, video).unwrap().len();
        let (_, loss) = difference(&face, &sent(&face, video).unwrap());
        assert!(n_bytes < last.0 && loss > last.1, "{crf}: {n_bytes} bytes, {loss} after {last:?}");
        last = (n_bytes, loss);
    }
    // Odd sides, and smaller than a macroblock.
    for (width, height) in [(33, 51), (7, 5)] {
        let small = image::imageops::crop_imm(&face, 0, 0, width, height).to_image();
        let video = Video { qp: 30, n_frames: 2, motion_px: [1.0, 0.0], is_bt709: true };
        assert_eq!(sent(&small, video).unwrap().dimensions(), (width, height));
    }
}

#[test]
fn a_setting_out_of_range_is_named() {
    let mut settings = Settings::paper();
    settings.call.crf.most = 60.0;
    let error = Augmenter::new(&settings).unwrap_err().to_string();
    assert!(error.contains("augment.call.crf") && error.contains("60"), "{error}");
    let text = r#"{"flip_p": 0.1, "flop_p": 1}"#;
    assert!(serde_json::from_str::<Settings>(text).unwrap_err().to_string().contains("flop_p"));
}
