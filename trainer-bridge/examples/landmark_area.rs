//! How much of a crop the landmarks' network should see: for parts of the side, how far the landmarks are from the
//! detector's five points and how far they move when the crop is moved by 3 % of its side; in % of the eyes' distance.
//!
//!     cargo run -p trainer-bridge --example landmark_area PICTURE...

#![allow(
    clippy::unwrap_used,
    clippy::missing_docs_in_private_items,
    reason = "a measurement, not a part of the program"
)]

use candor::detect::{Mtcnn, Settings};
use candor::engine::Engine;
use candor::geom::Rect;
use candor::preprocess::crop::Cropper;
use trainer_bridge::landmarks::{Landmarker, Landmarks};

const SIDE_PX: u32 = 224;
const MARGIN: f32 = 0.3;

fn main() {
    let engine = Engine::default();
    let mut detector = Mtcnn::new(&engine, Settings::default()).unwrap();
    let mut landmarker = Landmarker::new(&engine).unwrap();
    let seens: Vec<f32> = (0..8_u8).map(|k| 0.65 + 0.05 * f32::from(k)).collect();
    let (mut n_faces, mut apart, mut moved) =
        (0.0_f32, vec![0.0_f32; seens.len()], vec![0.0_f32; seens.len()]);
    for path in std::env::args().skip(1) {
        let picture = image::open(&path).unwrap().into_rgb8();
        for face in detector.detect(&picture).unwrap() {
            n_faces += 1.0;
            let [left, right] = [face.landmarks[0], face.landmarks[1]];
            let eyes_px = (left.x - right.x).hypot(left.y - right.y);
            let side = face.bbox.w.max(face.bbox.h) * (1.0 + MARGIN);
            for (k, seen) in seens.iter().enumerate() {
                let mut find = |dx: f32, dy: f32| -> Landmarks {
                    let bbox = Rect { x: face.bbox.x + dx * side, y: face.bbox.y + dy * side, ..face.bbox };
                    let square = bbox.square(1.0 + MARGIN);
                    let crop = Cropper::default().crop(&picture, &bbox, MARGIN, SIDE_PX);
                    let unit = side / SIDE_PX as f32;
                    landmarker
                        .find_in(&crop, *seen)
                        .unwrap()
                        .map(|[x, y]| [square.x + x * unit, square.y + y * unit])
                };
                let still = find(0.0, 0.0);
                let mean = |from: usize, to: usize| {
                    [0, 1].map(|k| still[from..to].iter().map(|p| p[k]).sum::<f32>() / (to - from) as f32)
                };
                let five = [mean(36, 42), mean(42, 48), still[30], still[48], still[54]];
                let far = five.iter().zip(&face.landmarks).map(|(p, q)| (p[0] - q.x).hypot(p[1] - q.y));
                apart[k] += far.sum::<f32>() / 5.0 / eyes_px;
                for (dx, dy) in [(0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.0, -0.03)] {
                    let there = find(dx, dy);
                    let far = still.iter().zip(&there).map(|(p, q)| (p[0] - q[0]).hypot(p[1] - q[1]));
                    moved[k] += far.sum::<f32>() / 68.0 / eyes_px / 4.0;
                }
            }
        }
    }
    println!("{n_faces} faces\nseen  from the five  moved");
    for ((seen, apart), moved) in seens.iter().zip(apart).zip(moved) {
        println!("{seen:.2}  {:13.1}  {:5.1}", 100.0 * apart / n_faces, 100.0 * moved / n_faces);
    }
}
