//! Heat maps against what the network itself gives, and `candor explain` as a user runs it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candor::bundle::Bundle;
use candor::classify::{Classifier, Explainer};
use candor::engine::{Engine, KernelSet, Normalisation, Picture, Settings};
use image::{Rgb, RgbImage};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A crop with structure everywhere.
fn crop(side_px: u32) -> RgbImage {
    RgbImage::from_fn(side_px, side_px, |x, y| {
        Rgb([x * 3 + y, x * y / 7, 255 - (x ^ y)].map(|v| u8::try_from(v % 256).unwrap()))
    })
}

/// The built-in network's last map and head give its own logits, but for the rounding of the bytes between the head's
/// layers: what cells say adds up to what the network says.
#[test]
fn the_parts_of_a_network_give_its_logits() {
    let bundle = Bundle::embedded().unwrap();
    let (manifest, engine) = (bundle.manifest(), Engine::default());
    let side = manifest.input.size_px as usize;
    let (map, head) = engine.load_split("default", bundle.model(), &[1, 3, side, side]).unwrap();
    assert_eq!((head.n_channels(), head.n_logits()), (1280, 2));
    let normalisation = Normalisation { mean: manifest.input.mean, std: manifest.input.std };
    let mut map = map.with_pixels(normalisation).unwrap();
    assert_eq!(map.output_shapes(), [[1, 1280, 7, 7]]);
    let mut classifier = Classifier::new(&engine, manifest, bundle.model()).unwrap();
    for crop in [crop(224), RgbImage::from_pixel(224, 224, Rgb([90, 120, 60]))] {
        let [real, fake] = classifier.logits(&[&crop]).unwrap()[0];
        let mut found = f64::NAN;
        map.run_each(&[Picture::Pixels(crop.as_raw())], |_, outputs| {
            let mean = |channel: &[f32]| channel.iter().map(|&v| f64::from(v)).sum::<f64>() / 49.0;
            let means: Vec<f64> = outputs[0].chunks_exact(49).map(mean).collect();
            let slope = head.difference(&means, 1, 0);
            found = slope.constant + slope.weights.iter().zip(&means).map(|(w, x)| w * x).sum::<f64>();
        })
        .unwrap();
        let expected = f64::from(fake - real);
        println!("logits' difference {expected}, by the parts {found}");
        assert!((found - expected).abs() < 0.1, "{found} {expected}");
    }
}

/// What a patch in a corner changes of the map pulls to that corner: x is x and y is y.
#[test]
fn a_map_lies_on_its_crop() {
    let engine = Engine::default();
    let mut explainer = Explainer::of(&engine, &Bundle::embedded().unwrap()).unwrap();
    let plain = RgbImage::from_pixel(224, 224, Rgb([128; 3]));
    let before = explainer.heat_map(&plain).unwrap();
    // Where a map changes when a patch is put at a place: the centre of the squared changes.
    let mut centre_of = |left: u32, top: u32| {
        let mut changed = plain.clone();
        for (x, y, pixel) in crop(64).enumerate_pixels() {
            changed.put_pixel(left + x, top + y, *pixel);
        }
        let after = explainer.heat_map(&changed).unwrap();
        let n = after.n_points;
        let (mut total, mut centre) = (0.0, [0.0; 2]);
        for (idx, (after, before)) in after.log_odds.iter().zip(&before.log_odds).enumerate() {
            let weight = f64::from(after - before).powi(2);
            total += weight;
            centre[0] += weight * (idx % n) as f64 / n as f64;
            centre[1] += weight * (idx / n) as f64 / n as f64;
        }
        centre.map(|sum| sum / total)
    };
    let [[a, b], [c, d]] = [0, 160].map(|top| [0, 160].map(|left| centre_of(left, top)));
    // A network looks far beyond a patch, so that only a part of the way shows.
    for (near, far, axis) in [(a, b, 0), (c, d, 0), (a, c, 1), (b, d, 1)] {
        assert!(near[axis] + 0.1 < far[axis], "axis {axis}: {near:?}, {far:?}");
    }
}

#[test]
fn any_kernels_and_threads_give_the_same_map() {
    let bundle = Bundle::embedded().unwrap();
    let crop = crop(224);
    let map = |kernels: KernelSet, threads: u8| {
        let engine = Engine::new(&Settings { threads, kernels }).unwrap();
        Explainer::of(&engine, &bundle).unwrap().heat_map(&crop).unwrap()
    };
    let expected = map(KernelSet::Auto, 1);
    assert_eq!(map(KernelSet::Auto, 2), expected);
    assert_eq!(map(KernelSet::Auto, 5), expected);
    for name in Engine::kernels_available() {
        assert_eq!(map(name.parse().unwrap(), 1), expected, "{name}");
    }
}

/// Networks of other forms are refused with a reason; none makes the loader panic.
#[test]
fn other_networks_are_refused() {
    let (mut n_loaded, mut n_refused) = (0, 0);
    for folder in ["engine/tests/golden/networks", "tests/golden/classifiers"] {
        for entry in fs::read_dir(root().join("runtime").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|ending| ending != "onnx") {
                continue;
            }
            match Engine::default().load_split("network", &fs::read(&path).unwrap()[..], &[1, 3, 16, 16]) {
                Ok((_, head)) => {
                    n_loaded += 1;
                    assert!(head.n_channels() > 0, "{}", path.display());
                }
                Err(error) => {
                    n_refused += 1;
                    assert!(error.to_string().contains("network network: "), "{error}");
                }
            }
        }
    }
    println!("{n_loaded} loaded, {n_refused} refused");
    assert!(n_loaded >= 2 && n_refused >= 10, "{n_loaded} {n_refused}");
}

fn candor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candor")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_video_a_crop_and_a_scan_give_maps() {
    let scratch = tempfile::tempdir().unwrap();
    let clip = root().join("tests/fixtures/astronaut.mp4").display().to_string();
    let out = scratch.path().join("maps").display().to_string();
    let output = candor(&["explain", &clip, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("untrained"));
    let folder = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let face = json(&folder.join("face-1-heat.json"));
    assert_eq!((&face["schema"], &face["track_id"], &face["n_points"]), (&1.into(), &1.into(), &15.into()));
    let rows = face["log_odds"].as_array().unwrap();
    let values: Vec<f64> =
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|v| v.as_f64().unwrap()).collect();
    assert_eq!((rows.len(), values.len()), (15, 225));
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(face["peak"]["log_odds"].as_f64().unwrap(), most);
    let panel = image::open(folder.join("face-1-heat.png")).unwrap().into_rgb8();
    assert_eq!(panel.dimensions(), (542, 258));

    // The crop alone, cut out of the panel, is the same crop with the same map.
    let alone = scratch.path().join("crop.png");
    image::imageops::crop_imm(&panel, 6, 6, 224, 224).to_image().save(&alone).unwrap();
    let output = candor(&["explain", "--crop", alone.to_str().unwrap(), "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let of_crop =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().path().join("heat.json")).find(|p| p.exists());
    let of_crop = json(&of_crop.unwrap());
    assert_eq!((&of_crop["log_odds"], &of_crop["score"]), (&face["log_odds"], &face["score"]));

    let faces = scratch.path().join("faces").display().to_string();
    let output = candor(&["scan", "--no-progress", "--faces", &faces, "--heat-maps", &clip]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let folder = fs::read_dir(&faces).unwrap().next().unwrap().unwrap().path();
    assert_eq!(json(&folder.join("face-1-heat.json")), face);
}

#[test]
fn what_is_wrong_has_its_exit_code() {
    let scratch = tempfile::tempdir().unwrap();
    let (out, bad) = (scratch.path().join("out"), scratch.path().join("bad.png"));
    fs::write(&bad, "no picture").unwrap();
    let (out, bad) = (out.to_str().unwrap(), bad.to_str().unwrap());
    let code = |args: &[&str]| candor(args).status.code();
    assert_eq!(code(&["explain", "--crop", bad, "--out", out]), Some(3));
    assert_eq!(code(&["explain", bad, "--out", out]), Some(3));
    assert_eq!(code(&["explain", bad]), Some(2));
    assert_eq!(code(&["scan", "--heat-maps", bad]), Some(2));
    assert_eq!(code(&["explain", bad, "--bundle", "none", "--out", out]), Some(2));
}

#[test]
fn maps_of_an_untrained_model_come_with_a_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let bundle = scratch.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let shipped = root().join("models/default");
    let mut manifest = json(&shipped.join("manifest.json"));
    manifest["status"] = "untrained".into();
    fs::write(bundle.join("manifest.json"), manifest.to_string()).unwrap();
    fs::copy(shipped.join("model.onnx"), bundle.join("model.onnx")).unwrap();
    let clip = root().join("tests/fixtures/astronaut.mp4").display().to_string();
    let (bundle, out) = (bundle.display().to_string(), scratch.path().join("maps").display().to_string());
    let output = candor(&["explain", &clip, "--bundle", &bundle, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("untrained model: verdicts mean nothing"));
}
