//! Looks of real faces: pictures and their detections, as `tests/reference/mtcnn.py` prints them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candor::appearance::Appearance;
use candor::geom::{Detection, Point, Rect};
use candor::preprocess::appearance::appearance;

/// One face of one picture.
pub(crate) struct Look {
    /// Of a clip's frames; `None` for a photo.
    pub(crate) pts_ms: Option<i64>,
    pub(crate) bbox: Rect,
    pub(crate) appearance: Appearance,
}

fn number(v: &serde_json::Value) -> f32 {
    v.as_f64().unwrap() as f32
}

/// The faces of a line of detections of which the detector is sure.
pub(crate) fn confident_faces(line: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    let faces = line["faces"].as_array().unwrap();
    faces.iter().filter(|face| number(&face["confidence"]) > 0.9)
}

pub(crate) fn detection(face: &serde_json::Value) -> Detection {
    let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|k| number(&face["box"][k]));
    let landmark = |k: usize| &face["landmarks"][k];
    Detection {
        bbox: Rect::from_corners(x0, y0, x1, y1),
        landmarks: std::array::from_fn(|k| Point { x: number(&landmark(k)[0]), y: number(&landmark(k)[1]) }),
        confidence: number(&face["confidence"]),
    }
}

/// The looks of each person, in time: a person is a clip (pictures named `CLIP@MILLISECONDS`) or a photo.
pub(crate) fn read(detections: &Path) -> Vec<Vec<Look>> {
    let mut people: BTreeMap<String, Vec<Look>> = BTreeMap::new();
    let mut spent_s = 0.0;
    for line in std::fs::read_to_string(detections).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let faces = confident_faces(&line).map(detection);
        let largest = faces.max_by(|a, b| a.bbox.w.total_cmp(&b.bbox.w));
        let Some(face) = largest else { continue };
        let path = Path::new(line["source"].as_str().unwrap());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (clip, pts_ms) = match stem.split_once('@') {
            Some((clip, pts_ms)) => (clip, Some(pts_ms.parse().unwrap())),
            None => (stem, None),
        };
        let picture = image::open(path).unwrap().into_rgb8();
        let start = Instant::now();
        let appearance = appearance(&picture, &face);
        spent_s += start.elapsed().as_secs_f64();
        let look = Look { pts_ms, bbox: face.bbox, appearance };
        people.entry(clip.to_owned()).or_default().push(look);
    }
    let n_looks: usize = people.values().map(Vec::len).sum();
    println!("{n_looks} looks of {} people, {:.1} us each", people.len(), spent_s * 1e6 / n_looks as f64);
    people.into_values().collect()
}
