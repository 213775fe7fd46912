//! The annotated video of a scan: boxes for every frame, also for those that were not searched.

use std::collections::VecDeque;
use std::path::Path;

use image::RgbImage;

use super::annotate::{AnnotateError, AnnotatedVideo};
use super::draw::{FaceMark, Tone};
use crate::frame::Frame;
use crate::geom::Rect;
use crate::pipeline::Sighting;
use crate::preprocess::color;
use crate::verdict::{Rules, Verdict, judge_face};

/// Most frames that wait for the next search; a longer gap is drawn with the last boxes.
const MAX_WAITING: usize = 16;
/// A face that the next search does not find keeps its box for this share of the gap.
const HOLD: f32 = 0.5;

/// Draws what a scan finds. Frames wait until the next search, so that boxes move smoothly from one
/// search to the next instead of trailing behind.
pub struct LiveAnnotation {
    path: std::path::PathBuf,
    banner: Option<String>,
    rules: Rules,
    is_still: bool,
    video: Option<AnnotatedVideo>,
    picture: RgbImage,
    waiting: VecDeque<Frame>,
    last: Vec<Sighting>,
    last_ns: i64,
}

impl LiveAnnotation {
    /// A video at `path` with `banner` along its lower edge; words follow `rules`.
    pub fn new(path: &Path, banner: Option<&str>, rules: Rules, is_still: bool) -> Self {
        LiveAnnotation {
            path: path.to_owned(),
            banner: banner.map(str::to_owned),
            rules,
            is_still,
            video: None,
            picture: RgbImage::default(),
            waiting: VecDeque::new(),
            last: Vec::new(),
            last_ns: 0,
        }
    }

    /// Takes the next frame, with who is in it when it was searched.
    ///
    /// # Errors
    /// [`AnnotateError`] when it can't be written.
    pub fn frame(&mut self, frame: &Frame, sightings: Option<&[Sighting]>) -> Result<(), AnnotateError> {
        let Some(now) = sightings else {
            self.waiting.push_back(frame.clone());
            if self.waiting.len() > MAX_WAITING
                && let Some(oldest) = self.waiting.pop_front()
            {
                let still = self.last.clone();
                self.draw(&oldest, &still)?;
            }
            return Ok(());
        };
        while let Some(waiting) = self.waiting.pop_front() {
            let between = between(&self.last, now, share(waiting.pts_ns, self.last_ns, frame.pts_ns));
            self.draw(&waiting, &between)?;
        }
        self.last = now.to_vec();
        self.last_ns = frame.pts_ns;
        self.draw(frame, now)
    }

    /// Draws what still waits and completes the file; gives the number of frames.
    ///
    /// # Errors
    /// [`AnnotateError`] when it can't be written.
    pub fn finish(mut self) -> Result<usize, AnnotateError> {
        while let Some(waiting) = self.waiting.pop_front() {
            let last = self.last.clone();
            self.draw(&waiting, &last)?;
        }
        self.video.map_or(Ok(0), AnnotatedVideo::finish)
    }

    fn draw(&mut self, frame: &Frame, sightings: &[Sighting]) -> Result<(), AnnotateError> {
        if color::to_rgb_into(frame, &mut self.picture).is_err() {
            // The scan counts it as damage.
            return Ok(());
        }
        let (width_px, height_px) = self.picture.dimensions();
        let video = match &mut self.video {
            Some(video) => video,
            none => {
                none.insert(AnnotatedVideo::create(&self.path, width_px, height_px, self.banner.as_deref())?)
            }
        };
        let marks: Vec<FaceMark> = sightings
            .iter()
            .map(|seen| {
                let (word, tone) = running_word(&seen.scores, self.is_still, &self.rules);
                let mean_score = crate::verdict::mean(&seen.scores);
                let (bbox, track_id) = (seen.bbox, seen.track_id);
                FaceMark { bbox, track_id, word, tone, mean_score, scores: &seen.scores }
            })
            .collect();
        video.push(&self.picture, &marks, frame.pts_ns)
    }
}

/// How far `pts_ns` lies between two searches, 0..=1.
fn share(pts_ns: i64, from_ns: i64, to_ns: i64) -> f32 {
    let (passed_ns, gap_ns) = (pts_ns.saturating_sub(from_ns), to_ns.saturating_sub(from_ns));
    #[expect(clippy::cast_precision_loss, reason = "a share of a short gap")]
    if gap_ns > 0 { (passed_ns as f32 / gap_ns as f32).clamp(0.0, 1.0) } else { 1.0 }
}

/// The faces `t` of the way from one search to the next.
fn between(from: &[Sighting], to: &[Sighting], t: f32) -> Vec<Sighting> {
    let of = |seen: &Sighting, bbox: Rect| Sighting { bbox, ..seen.clone() };
    let moved = from.iter().filter_map(|a| match to.iter().find(|b| b.track_id == a.track_id) {
        Some(b) => Some(of(a, a.bbox.lerp(&b.bbox, t))),
        None => (t <= HOLD).then(|| a.clone()),
    });
    moved.collect()
}

fn running_word(scores: &[f32], is_still: bool, rules: &Rules) -> (&'static str, Tone) {
    if scores.len() < rules.min_scores && !is_still {
        return ("...", Tone::Pending);
    }
    let verdict = judge_face(scores, is_still, rules).verdict;
    let tone = match verdict {
        Verdict::Real => Tone::Real,
        Verdict::Fake => Tone::Fake,
        Verdict::Uncertain => Tone::Uncertain,
        Verdict::NoFace | Verdict::FaceTooSmall => Tone::Pending,
    };
    (verdict.word(), tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(track_id: u32, x: f32) -> Sighting {
        let bbox = Rect { x, y: 0.0, w: 10.0, h: 10.0 };
        Sighting { track_id, bbox, scores: heapless::Vec::new() }
    }

    #[test]
    fn boxes_move_evenly_and_lost_faces_go_half_way() {
        let (from, to) = ([seen(1, 0.0), seen(2, 50.0)], [seen(1, 10.0), seen(3, 90.0)]);
        assert_eq!(between(&from, &to, 0.4), [seen(1, 4.0), seen(2, 50.0)]);
        assert_eq!(between(&from, &to, 0.6), [seen(1, 6.0)]);
        assert!((share(15, 10, 20) - 0.5).abs() < 1e-6);
        assert!((share(15, 10, 10) - 1.0).abs() < 1e-6);
    }
}
