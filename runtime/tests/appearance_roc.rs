//! Measures how well looks tell people apart: the figures behind the thresholds of `track::Settings`.
//!
//!     CANDOR_DETECTIONS=FILE cargo test --release --test appearance_roc -- --ignored --nocapture
//!
//! FILE holds the lines that `tests/reference/mtcnn.py` prints for pictures named `CLIP@MILLISECONDS.jpg`
//! (frames of a clip with one person) or otherwise (one person each). Prints quantiles of the distance
//! between looks of one person over a lag and of different people.

#![allow(clippy::unwrap_used, reason = "a measuring tool")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use candor::appearance::Appearance;
use candor::geom::{Detection, Point, Rect};
use candor::preprocess::appearance::appearance;

struct Look {
    clip: usize,
    is_video: bool,
    pts_ms: i64,
    bbox: Rect,
    appearance: Appearance,
}

fn face(line: &serde_json::Value) -> Option<Detection> {
    let number = |v: &serde_json::Value| v.as_f64().unwrap() as f32;
    let faces = line["faces"].as_array()?;
    let face = faces.iter().filter(|f| f["confidence"].as_f64() > Some(0.9)).max_by(|a, b| {
        let width = |f: &serde_json::Value| number(&f["box"][2]) - number(&f["box"][0]);
        width(a).total_cmp(&width(b))
    })?;
    let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|k| number(&face["box"][k]));
    Some(Detection {
        bbox: Rect::from_corners(x0, y0, x1, y1),
        landmarks: std::array::from_fn(|k| Point {
            x: number(&face["landmarks"][k][0]),
            y: number(&face["landmarks"][k][1]),
        }),
        confidence: 1.0,
    })
}

fn looks(detections: &str) -> Vec<Look> {
    let mut clips = HashMap::new();
    let mut spent_s = 0.0;
    let mut looks = Vec::new();
    for line in detections.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(face) = face(&line) else { continue };
        let path = Path::new(line["source"].as_str().unwrap());
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (clip, ms) = stem.split_once('@').unwrap_or((&stem, ""));
        let n_clips = clips.len();
        let picture = image::open(path).unwrap().into_rgb8();
        let start = Instant::now();
        let appearance = appearance(&picture, &face);
        spent_s += start.elapsed().as_secs_f64();
        looks.push(Look {
            clip: *clips.entry(clip.to_owned()).or_insert(n_clips),
            is_video: !ms.is_empty(),
            pts_ms: ms.parse().unwrap_or(0),
            bbox: face.bbox,
            appearance,
        });
    }
    println!("{} looks, {:.1} us each", looks.len(), spent_s * 1e6 / looks.len() as f64);
    looks
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
fn print_quantiles(name: &str, mut distances: Vec<f32>) {
    if distances.is_empty() {
        return;
    }
    distances.sort_by(f32::total_cmp);
    print!("{name:24} n {:8}", distances.len());
    for share in [0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999] {
        let at = (distances.len() as f64 * share) as usize;
        print!("  q{share}: {:.3}", distances[at.min(distances.len() - 1)]);
    }
    println!();
    print!("{:24}", "  share at or below");
    for limit in [0.2, 0.25, 0.3, 0.33, 0.35, 0.37, 0.40, 0.43, 0.46, 0.5, 0.55] {
        let n = distances.partition_point(|d| *d <= limit);
        print!("  {limit}: {:.5}", n as f64 / distances.len() as f64);
    }
    println!();
}

#[test]
#[ignore = "a measurement: needs pictures and their detections"]
fn roc() {
    let path = std::env::var("CANDOR_DETECTIONS").expect("CANDOR_DETECTIONS names the detections");
    let looks = looks(&std::fs::read_to_string(path).unwrap());
    let mut same: HashMap<i64, Vec<f32>> = HashMap::new();
    let (mut clips, mut photos, mut gray) = (Vec::new(), Vec::new(), Vec::new());
    let is_gray = |a: &Appearance| a.head.iter().all(|c| c[1].abs_diff(128) + c[2].abs_diff(128) < 6);
    for (idx, a) in looks.iter().enumerate() {
        for b in &looks[..idx] {
            let distance = a.appearance.distance(&b.appearance);
            let (p, q) = (a.bbox.center(), b.bbox.center());
            let is_near = (p.x - q.x).hypot(p.y - q.y) < a.bbox.w;
            if a.clip == b.clip {
                // A clip may be cut; a face that is elsewhere may be somebody else.
                if is_near {
                    let lag = (a.pts_ms - b.pts_ms + 50) / 100;
                    same.entry(lag).or_default().push(distance);
                }
            } else if is_gray(&a.appearance) && is_gray(&b.appearance) {
                gray.push(distance);
            } else if a.is_video && b.is_video {
                clips.push(distance);
            } else if !a.is_video && !b.is_video {
                photos.push(distance);
            }
        }
    }
    for lag in [2, 4, 10, 20, 40, 100, 200] {
        let name = format!("one person, {:.1} s apart", lag as f64 / 10.0);
        print_quantiles(&name, same.remove(&lag).unwrap_or_default());
    }
    print_quantiles("two people, clips", clips);
    print_quantiles("two people, photos", photos);
    print_quantiles("two people, both grey", gray);
}
