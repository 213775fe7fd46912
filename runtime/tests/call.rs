//! A video call drawn from photos of 21 people, through the whole pipeline: no track covers two of them.
//!
//! The layout is the ground truth. Where the photos' faces are is what the reference detector says: see `golden/faces.jsonl`
//! in `detector.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candor::bundle::Bundle;
use candor::engine::Engine;
use candor::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};
use candor::geom::Rect;
use candor::pipeline::{Face, Observer, ScanError, Scanner, Settings, Sighting};
use candor::source::{Damage, FrameSource, SourceError, SourceInfo};
use image::imageops::{FilterType, crop_imm, overlay, resize};
use image::{Rgb, RgbImage};
use serde_json::Value;

const FACES: &str = include_str!("golden/faces.jsonl");
const SIZE_PX: (u32, u32) = (960, 540);
const STEP_NS: i64 = 200_000_000;
/// A cut-out's side over its face's longer side: the head and little of the neighbours.
const CUT_OUT: f32 = 1.8;
/// A sighting is the person's whose face it overlaps by this much.
const LEAST_IOU: f32 = 0.3;
/// Share of a face behind somebody else from which it can't be seen.
const HIDDEN: f32 = 0.5;

/// A head cut out of a photo, and its face in it, in parts of the cut-out's sides.
struct Head {
    pixels: RgbImage,
    face: Rect,
}

/// The photos' heads; `None`, with a printed reason, where the photos are missing.
fn heads() -> Option<Vec<Head>> {
    let mut heads = Vec::new();
    for line in FACES.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(line["source"].as_str().unwrap());
        if !path.exists() {
            let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
            assert!(!is_required, "{} is missing: run tests/setup", path.display());
            println!("skipped: {} is missing, run tests/setup", path.display());
            return None;
        }
        let photo = image::open(&path).unwrap().into_rgb8();
        for face in line["faces"].as_array().unwrap() {
            if face["confidence"].as_f64().unwrap() > 0.99 {
                let [x0, y0, x1, y1]: [f32; 4] = serde_json::from_value(face["box"].clone()).unwrap();
                heads.push(cut_out(&photo, &Rect::from_corners(x0, y0, x1, y1)));
            }
        }
    }
    Some(heads)
}

fn cut_out(photo: &RgbImage, face: &Rect) -> Head {
    let whole = Rect { x: 0.0, y: 0.0, w: photo.width() as f32, h: photo.height() as f32 };
    let cut = face.square(CUT_OUT).intersect(&whole);
    let [x, y, w, h] = [cut.x, cut.y, cut.w, cut.h].map(|v| v as u32);
    let pixels = crop_imm(photo, x, y, w, h).to_image();
    let (x, y, w, h) = (x as f32, y as f32, w as f32, h as f32);
    Head { pixels, face: Rect { x: (face.x - x) / w, y: (face.y - y) / h, w: face.w / w, h: face.h / h } }
}

/// Who is where in one frame, those in front last.
type Scene = Vec<(usize, Rect)>;

/// The tiles of a grid of `side` x `side` with `people` in them, in order; `None` is a camera that is off.
fn grid(side: u32, people: &[Option<usize>]) -> Scene {
    let (w, h) = (SIZE_PX.0 / side, SIZE_PX.1 / side);
    let place = |(k, person): (u32, &Option<usize>)| {
        let tile = Rect { x: (k % side * w) as f32, y: (k / side * h) as f32, w: w as f32, h: h as f32 };
        let centre = tile.center();
        let half = tile.h * 0.48;
        let head = Rect { x: centre.x - half, y: centre.y - half, w: 2.0 * half, h: 2.0 * half };
        person.map(|person| (person, head))
    };
    (0u32..).zip(people).filter_map(place).collect()
}

/// The call: alone, four, four in other places, nine, two cameras off and on again, a cut to somebody else and
/// back, then two who pass each other.
fn call() -> Vec<Scene> {
    let all: Vec<Option<usize>> = (0..9).map(Some).collect();
    let mut gaps = all.clone();
    (gaps[1], gaps[4]) = (None, None);
    let mut scenes = Vec::new();
    for (n_frames, scene) in [
        (5, grid(1, &[Some(0)])),
        (6, grid(2, &all[..4])),
        (6, grid(2, &[Some(3), Some(0), Some(1), Some(2)])),
        (7, grid(3, &all)),
        (4, grid(3, &gaps)),
        (5, grid(3, &all)),
        (5, grid(1, &[Some(9)])),
        (5, grid(2, &[Some(9), Some(2), Some(10), Some(1)])),
    ] {
        scenes.extend(std::iter::repeat_n(scene, n_frames));
    }
    for step in 0..16_u8 {
        let across = f32::from(step) * 40.0;
        let head = |x: f32| Rect { x, y: 140.0, w: 260.0, h: 260.0 };
        scenes.push(vec![(11, head(30.0 + across)), (12, head(670.0 - across))]);
    }
    scenes
}

/// The call as a source of frames.
struct Call {
    heads: Vec<Head>,
    scenes: Vec<Scene>,
    info: SourceInfo,
    damage: Damage,
    next_idx: usize,
}

impl FrameSource for Call {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(scene) = self.scenes.get(self.next_idx) else { return Ok(None) };
        let mut picture = RgbImage::from_pixel(SIZE_PX.0, SIZE_PX.1, Rgb([64, 70, 80]));
        for (person, place) in scene {
            let head = resize(
                &self.heads[*person].pixels,
                place.w.round() as u32,
                place.h.round() as u32,
                FilterType::Triangle,
            );
            overlay(&mut picture, &head, place.x.round() as i64, place.y.round() as i64);
        }
        let frame = Frame {
            width_px: SIZE_PX.0,
            height_px: SIZE_PX.1,
            format: PixelFormat::Rgb24,
            planes: vec![Plane { samples: picture.into_raw(), stride_bytes: SIZE_PX.0 as usize * 3 }],
            matrix: ColorMatrix::Bt709,
            range: ColorRange::Full,
            rotation: Rotation::None,
            pts_ns: STEP_NS * i64::try_from(self.next_idx).unwrap(),
            frame_idx: self.next_idx as u64,
        };
        self.next_idx += 1;
        Ok(Some(frame))
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// Compares what the pipeline sees with the layout.
struct Witness {
    truth: Vec<Vec<(usize, Rect)>>,
    /// Who each track showed; `None` is nobody of the layout.
    people_of: BTreeMap<u32, BTreeSet<Option<usize>>>,
    n_faces: usize,
    n_seen: usize,
}

impl Observer for Witness {
    fn frame(&mut self, frame: &Frame, sightings: Option<&[Sighting]>) -> Result<(), ScanError> {
        let truth = &self.truth[frame.frame_idx as usize];
        self.n_faces += truth.len();
        for seen in sightings.unwrap() {
            let iou = |(_, face): &&(usize, Rect)| seen.bbox.iou(face);
            let nearest = truth.iter().max_by(|a, b| iou(a).total_cmp(&iou(b)));
            let person = nearest.filter(|face| iou(face) >= LEAST_IOU).map(|(person, _)| *person);
            self.n_seen += usize::from(person.is_some());
            self.people_of.entry(seen.track_id).or_default().insert(person);
        }
        Ok(())
    }

    fn face(&mut self, _: &Face) -> Result<(), ScanError> {
        Ok(())
    }
}

#[test]
fn a_call_never_mixes_two_people() {
    let Some(heads) = heads() else { return };
    let scenes = call();
    let face_of = |(person, place): &(usize, Rect)| {
        let face = &heads[*person].face;
        let bbox = Rect {
            x: place.x + face.x * place.w,
            y: place.y + face.y * place.h,
            w: face.w * place.w,
            h: face.h * place.h,
        };
        (*person, bbox)
    };
    // Who stands behind somebody's picture isn't seen, and no face of the truth.
    let is_seen = |scene: &Scene, k: usize| {
        let (_, face) = face_of(&scene[k]);
        scene[k + 1..].iter().all(|(_, front)| face.intersect(front).area() < HIDDEN * face.area())
    };
    let seen_in =
        |scene: &Scene| (0..scene.len()).filter(|k| is_seen(scene, *k)).map(|k| face_of(&scene[k])).collect();
    let truth = scenes.iter().map(seen_in).collect();
    let mut witness = Witness { truth, people_of: BTreeMap::new(), n_faces: 0, n_seen: 0 };
    let info = SourceInfo {
        description: "a drawn call".to_owned(),
        width_px: SIZE_PX.0,
        height_px: SIZE_PX.1,
        n_frames: Some(scenes.len() as u64),
        duration_ns: Some(STEP_NS * i64::try_from(scenes.len()).unwrap()),
        is_still: false,
    };
    let mut source = Call { heads, scenes, info, damage: Damage::default(), next_idx: 0 };
    let every_frame = Settings { interval_ms: 200 };
    let mut scanner = Scanner::new(
        &Engine::default(),
        candor::detect::Settings::default(),
        every_frame,
        &Bundle::embedded().unwrap(),
    )
    .unwrap();
    scanner.scan(&mut source, &mut witness, &AtomicBool::new(false)).unwrap();

    let Witness { people_of, n_faces, n_seen, .. } = witness;
    println!("{n_seen} of {n_faces} faces got an id; {people_of:?}");
    let mixed: Vec<_> = people_of.iter().filter(|(_, people)| people.len() > 1).collect();
    assert!(mixed.is_empty(), "tracks that cover several people: {mixed:?}");
    assert!(n_seen * 10 >= n_faces * 8, "only {n_seen} of {n_faces} faces got an id");
    let seen: BTreeSet<usize> = people_of.values().flatten().flatten().copied().collect();
    assert_eq!(seen.len(), 13, "{seen:?}");
    assert!(people_of.len() <= 2 * seen.len(), "people fall apart: {people_of:?}");
}
