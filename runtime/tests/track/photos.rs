//! Scenes drawn from photos of real faces.
//!
//! `sample_faces.jsonl` is what the reference detector finds in them, less what is no face:
//! `python tests/reference/mtcnn.py --min-face-px 60 .cache/clips/sample?.jpg`.

use std::path::Path;

use candor::appearance::Appearance;
use candor::geom::{Detection, Point, Rect};
use candor::preprocess::appearance::appearance;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

use crate::looks::{confident_faces, detection};
use crate::scenes::{Dice, HEIGHT_PX, Shot, Truth, WIDTH_PX};

const FACES: &str = include_str!("sample_faces.jsonl");
/// A cut-out's side relative to its face's box: the head with some of what is beside it.
const CUT_OUT: f32 = 2.4;
/// Width of a face in its cut-out, in pixels.
const FACE_PX: f32 = 80.0;
/// The scene's units per pixel drawn.
const SHRINK: f32 = 2.0;

/// A head cut out of a photo, and its face in it.
pub(crate) struct Photo {
    pixels: RgbImage,
    face: Detection,
}

/// The photos' heads; `None`, with a printed reason, where the photos are missing.
pub(crate) fn read() -> Option<Vec<Photo>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/clips");
    let mut photos = Vec::new();
    for line in FACES.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let path = folder.join(line["source"].as_str().unwrap());
        if !path.exists() {
            let is_required = std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_some_and(|v| v == "1");
            assert!(!is_required, "{} is missing: run tests/setup", path.display());
            println!("skipped: {} is missing, run tests/setup", path.display());
            return None;
        }
        let picture = image::open(&path).unwrap().into_rgb8();
        photos.extend(confident_faces(&line).map(|face| cut_out(&picture, &detection(face))));
    }
    Some(photos)
}

fn cut_out(picture: &RgbImage, face: &Detection) -> Photo {
    let window = face.bbox.square(CUT_OUT);
    let (width, height) = (picture.width() as f32, picture.height() as f32);
    let inside = window.intersect(&Rect { x: 0.0, y: 0.0, w: width, h: height });
    let cut = [inside.x, inside.y, inside.w, inside.h].map(|v| v as u32);
    let scale = FACE_PX / face.bbox.w;
    let pixels = resize(
        &crop_imm(picture, cut[0], cut[1], cut[2], cut[3]).to_image(),
        (cut[2] as f32 * scale) as u32,
        (cut[3] as f32 * scale) as u32,
        FilterType::Triangle,
    );
    let place = |p: Point| Point { x: (p.x - inside.x) * scale, y: (p.y - inside.y) * scale };
    let corner = place(Point { x: face.bbox.x, y: face.bbox.y });
    let (w, h) = (face.bbox.w * scale, face.bbox.h * scale);
    let bbox = Rect { x: corner.x, y: corner.y, w, h };
    Photo { pixels, face: Detection { bbox, landmarks: face.landmarks.map(place), ..*face } }
}

/// The picture of one frame, drawn once for all of its faces.
pub(crate) struct Canvas {
    is_room: bool,
    drawn_ns: Option<i64>,
    pixels: RgbImage,
}

impl Canvas {
    /// Of a room, where heads stand before each other, or of tiles with what is beside each head.
    pub(crate) fn new(is_room: bool) -> Self {
        Canvas { is_room, drawn_ns: None, pixels: RgbImage::default() }
    }

    /// The look of a face in its frame, with the landmarks of a detector that trembles.
    pub(crate) fn appearance<'a>(
        &mut self,
        shot: &Shot,
        face: &Truth,
        photo_of: impl Fn(usize) -> &'a Photo,
        dice: &mut Dice,
    ) -> Appearance {
        if self.drawn_ns != Some(shot.pts_ns) {
            self.drawn_ns = Some(shot.pts_ns);
            let gray = image::Rgb([70, 74, 80]);
            let size = [WIDTH_PX, HEIGHT_PX].map(|v| (v / SHRINK) as u32);
            self.pixels = RgbImage::from_pixel(size[0], size[1], gray);
            for face in &shot.faces {
                if let Some(person) = face.person {
                    self.draw(photo_of(person), &drawn(&face.bbox), dice);
                }
            }
        }
        let bbox = drawn(&face.bbox);
        let mut landmarks = match face.person {
            Some(person) => {
                let photo = photo_of(person);
                photo.face.landmarks.map(|p| moved(p, &photo.face.bbox, &bbox))
            }
            None => [Point::default(); 5],
        };
        for p in &mut landmarks {
            p.x += bbox.w * 0.015 * dice.normal();
            p.y += bbox.h * 0.015 * dice.normal();
        }
        appearance(&self.pixels, &Detection { bbox, landmarks, confidence: 0.99 })
    }

    /// Pastes a head so that its face fills `bbox`, a little lighter or darker each time.
    fn draw(&mut self, photo: &Photo, bbox: &Rect, dice: &mut Dice) {
        let gain = dice.between(0.92, 1.08);
        let (width, height) = (photo.pixels.width() as f32, photo.pixels.height() as f32);
        let corner = moved(Point::default(), &photo.face.bbox, bbox);
        let end = moved(Point { x: width, y: height }, &photo.face.bbox, bbox);
        let columns = corner.x.max(0.0) as u32..(end.x.max(0.0) as u32).min(self.pixels.width());
        let rows = corner.y.max(0.0) as u32..(end.y.max(0.0) as u32).min(self.pixels.height());
        for y in rows {
            for x in columns.clone() {
                let at = Point { x: x as f32 + 0.5, y: y as f32 + 0.5 };
                if self.is_room && !is_head(at, bbox) {
                    continue;
                }
                let from = moved(at, bbox, &photo.face.bbox);
                if let Some(pixel) = photo.pixels.get_pixel_checked(from.x as u32, from.y as u32) {
                    let noise = dice.between(-4.0, 4.0);
                    let lit = pixel.0.map(|v| (f32::from(v) * gain + noise).clamp(0.0, 255.0) as u8);
                    self.pixels.put_pixel(x, y, image::Rgb(lit));
                }
            }
        }
    }
}

fn drawn(bbox: &Rect) -> Rect {
    let [x, y, w, h] = [bbox.x, bbox.y, bbox.w, bbox.h].map(|v| v / SHRINK);
    Rect { x, y, w, h }
}

/// `p` as it lies in `from`, moved to where that is in `to`.
fn moved(p: Point, from: &Rect, to: &Rect) -> Point {
    Point { x: to.x + (p.x - from.x) / from.w * to.w, y: to.y + (p.y - from.y) / from.h * to.h }
}

/// True inside an ellipse about the face that takes in hair and chin.
fn is_head(p: Point, bbox: &Rect) -> bool {
    let c = bbox.center();
    ((p.x - c.x) / (0.65 * bbox.w)).hypot((p.y - c.y) / (0.65 * bbox.h)) < 1.0
}
