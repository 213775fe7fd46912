//! Who is in a source: source -> cut? -> convert -> detect -> track -> crop. Scanning and training both follow
//! faces with this and nothing else.

use heapless::Vec as FixedVec;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::detect::{self, Mtcnn};
use crate::engine::{Engine, EngineError};
use crate::frame::Frame;
use crate::gallery::{Album, Gallery, Sample};
use crate::geom::Rect;
use crate::preprocess::color::{self, ColorError};
use crate::preprocess::{appearance::appearance, crop::Cropper, scene::CutDetector};
use crate::source::{Damage, FrameSource, SourceError};
use crate::stopwatch::{Stage, Stopwatch};
use crate::track::{self, MAX_FACES, Observation, Tracker};
use crate::verdict::WINDOW;

/// Nanoseconds of a millisecond.
const MS_NS: i64 = 1_000_000;

/// How often faces are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Longest time between two frames that are searched for faces. Short videos are searched more
    /// often, so that each face gets its 15 scores; a cut is searched at once.
    pub interval_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { interval_ms: 200 }
    }
}

/// Which faces are cut out, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Side of a crop.
    pub size_px: u32,
    /// What the crop shows around the face's box: 0.3 is 30 % of the box's longer side.
    pub margin: f32,
    /// Least longer side of a box that is cut out.
    pub min_face_px: f32,
}

/// Why faces can't be followed any further.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The source can't be read on.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A network failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A face in a searched frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Whose face.
    pub track_id: u32,
    /// Where in the upright picture.
    pub bbox: Rect,
    /// The track's scores so far, oldest first; empty unless the observer asks for them.
    pub scores: FixedVec<f32, WINDOW>,
}

/// The faces of one frame.
pub type Sightings = FixedVec<Sighting, MAX_FACES>;

/// What came with one frame.
#[derive(Clone, Debug)]
pub struct Step {
    /// The frame as decoded.
    pub frame: Frame,
    /// Who is in it, when it was searched; without scores.
    pub sightings: Option<Sightings>,
    /// The faces that are over since the step before.
    pub ended: Vec<Album>,
}

/// Finds and follows faces; clones share the networks' weights.
#[derive(Clone)]
pub struct Follower {
    settings: Settings,
    look: Look,
    detector: Mtcnn,
}

impl Follower {
    /// Loads the detector's networks.
    ///
    /// # Errors
    /// [`EngineError`] when one can't be loaded.
    pub fn new(
        engine: &Engine,
        detect: detect::Settings,
        settings: Settings,
        look: Look,
    ) -> Result<Self, EngineError> {
        Ok(Follower { settings, look, detector: Mtcnn::new(engine, detect)? })
    }

    /// Cuts out otherwise from here on.
    pub fn set_look(&mut self, look: Look) {
        self.look = look;
    }

    /// Starts to read `source`; nothing of an earlier one is remembered.
    pub fn follow<'a>(&'a mut self, source: &'a mut dyn FrameSource) -> Walk<'a> {
        let cadence = Cadence::new(source.info().duration_ns, self.settings.interval_ms);
        Walk {
            follower: self,
            source,
            cadence,
            pursuit: Pursuit::default(),
            lost: Damage::default(),
            n_frames: 0,
            n_searched: 0,
            watch: Stopwatch::default(),
        }
    }
}

/// Who was found in a frame.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Who is in it, without scores.
    pub sightings: Sightings,
    /// The faces that are over since the search before.
    pub ended: Vec<Album>,
    /// Looks that were asked for, each with its track, and that the gallery doesn't need.
    pub extras: FixedVec<(u32, Sample), MAX_FACES>,
}

/// What is known of the people in one source; frames are given to it.
pub struct Pursuit {
    cuts: CutDetector,
    tracker: Box<Tracker>,
    cropper: Cropper,
    gallery: Gallery,
    picture: RgbImage,
    /// A cut between two searched frames must not be forgotten before the next search.
    is_cut: bool,
}

impl Default for Pursuit {
    fn default() -> Self {
        Pursuit {
            cuts: CutDetector::new(),
            tracker: Box::new(Tracker::new(track::Settings::default())),
            cropper: Cropper::default(),
            gallery: Gallery::default(),
            picture: RgbImage::default(),
            is_cut: false,
        }
    }
}

impl Pursuit {
    /// Takes note of a frame, and says whether there was a cut since the last search.
    pub fn note(&mut self, frame: &Frame, watch: &mut Stopwatch) -> bool {
        self.is_cut |= watch.time(Stage::Track, || self.cuts.is_cut(frame));
        self.is_cut
    }

    /// Makes a noted frame the picture that is searched next.
    ///
    /// # Errors
    /// [`ColorError`] when the frame has no picture.
    pub fn convert(&mut self, frame: &Frame, watch: &mut Stopwatch) -> Result<(), ColorError> {
        watch.time(Stage::Convert, || color::to_rgb_into(frame, &mut self.picture))
    }

    /// The picture that was searched last.
    pub fn picture(&self) -> &RgbImage {
        &self.picture
    }

    /// Searches the picture of `frame`, which was converted. The gallery takes the crops that it needs; `wants` says
    /// of which other tracks one is cut out too.
    ///
    /// # Errors
    /// [`EngineError`] when a network fails.
    pub fn search(
        &mut self,
        follower: &mut Follower,
        frame: &Frame,
        mut wants: impl FnMut(u32) -> bool,
        watch: &mut Stopwatch,
    ) -> Result<Found, EngineError> {
        let picture = &self.picture;
        let detections = watch.time(Stage::Detect, || follower.detector.detect(picture))?;
        let (observations, update) = watch.time(Stage::Track, || {
            let looks = |d: &_| Observation { detection: *d, appearance: appearance(picture, d) };
            let observations: FixedVec<Observation, MAX_FACES> =
                detections.iter().take(MAX_FACES).map(looks).collect();
            let is_cut = std::mem::take(&mut self.is_cut);
            let update = self.tracker.update(frame.pts_ns, &observations, is_cut);
            (observations, update)
        });
        let ended = update.ended.iter().filter_map(|e| self.gallery.take(e.track_id)).collect();
        let (mut sightings, mut extras) = (Sightings::new(), FixedVec::new());
        for (seen, track_id) in observations.iter().zip(&update.track_ids) {
            let Some(track_id) = *track_id else { continue };
            let bbox = seen.detection.bbox;
            let is_due = self.gallery.see(track_id, frame.pts_ns, bbox);
            let Look { size_px, margin, min_face_px } = follower.look;
            if bbox.w.max(bbox.h) >= min_face_px && (is_due || wants(track_id)) {
                let mut crop = self.gallery.spare_crop();
                watch.time(Stage::Crop, || {
                    self.cropper.crop_into(picture, &bbox, margin, size_px, &mut crop);
                });
                let sample = Sample {
                    pts_ns: frame.pts_ns,
                    frame_idx: frame.frame_idx,
                    bbox,
                    confidence: seen.detection.confidence,
                    crop,
                    score: None,
                };
                if is_due {
                    self.gallery.keep(track_id, sample);
                } else {
                    // There is room for each observation, here and below.
                    let _ = extras.push((track_id, sample));
                }
            }
            let _ = sightings.push(Sighting { track_id, bbox, scores: FixedVec::new() });
        }
        Ok(Found { sightings, ended, extras })
    }

    /// What is kept of a face that is not over.
    pub fn album_mut(&mut self, track_id: u32) -> Option<&mut Album> {
        self.gallery.album_mut(track_id)
    }

    /// Takes back looks that nobody needs any more, for the memory of their crops.
    pub fn recycle(&mut self, samples: impl IntoIterator<Item = Sample>) {
        samples.into_iter().for_each(|sample| self.gallery.recycle(sample.crop));
    }

    /// Gives the memory of recycled crops back: those to come have another size.
    pub fn drop_spare(&mut self) {
        self.gallery.drop_spare();
    }

    /// The faces that are not over; they are, with this.
    pub fn finish(&mut self) -> Vec<Album> {
        self.tracker.finish().iter().filter_map(|ended| self.gallery.take(ended.track_id)).collect()
    }
}

/// One source on its way to its end.
pub struct Walk<'a> {
    follower: &'a mut Follower,
    source: &'a mut dyn FrameSource,
    cadence: Cadence,
    pursuit: Pursuit,
    /// What was decoded and could not be converted.
    lost: Damage,
    /// Frames that were decoded.
    pub n_frames: u64,
    /// Frames that were searched for faces.
    pub n_searched: u64,
    /// CPU time by stage.
    pub watch: Stopwatch,
}

impl Walk<'_> {
    /// Reads one frame on; `None` at the source's end.
    ///
    /// # Errors
    /// [`FollowError`]; what was given before stays valid.
    pub fn next_step(&mut self) -> Result<Option<Step>, FollowError> {
        let Walk { follower, source, pursuit, watch, .. } = self;
        while let Some(frame) = watch.time(Stage::Source, || source.next_frame())? {
            self.n_frames += 1;
            let is_cut = pursuit.note(&frame, watch);
            if !self.cadence.is_due(frame.pts_ns, is_cut) {
                return Ok(Some(Step { frame, sightings: None, ended: Vec::new() }));
            }
            if let Err(error) = pursuit.convert(&frame, watch) {
                self.lost.n_frames_lost += 1;
                self.lost.note(format!("frame {}: {error}", frame.frame_idx));
                continue;
            }
            self.n_searched += 1;
            let Found { sightings, ended, .. } = pursuit.search(follower, &frame, |_| false, watch)?;
            return Ok(Some(Step { frame, sightings: Some(sightings), ended }));
        }
        Ok(None)
    }

    /// What is kept of a face that is not over.
    pub fn album_mut(&mut self, track_id: u32) -> Option<&mut Album> {
        self.pursuit.album_mut(track_id)
    }

    /// The faces that are not over; they are, with this.
    pub fn finish(&mut self) -> Vec<Album> {
        self.pursuit.finish()
    }

    /// What could not be read so far.
    pub fn damage(&self) -> Damage {
        let mut damage = self.lost.clone();
        damage.add(self.source.damage());
        damage
    }
}

/// Says which frames are searched for faces.
struct Cadence {
    interval_ns: i64,
    /// True when the length is unknown: the interval then grows with the time that has passed.
    is_growing: bool,
    first_ns: Option<i64>,
    last_ns: i64,
}

impl Cadence {
    /// Searches in a window's worth of time; twice as many as its samples, so that a face seen in only
    /// a part of a short video can still give enough.
    const SEARCHES: i64 = 2 * WINDOW as i64;

    fn new(duration_ns: Option<i64>, interval_ms: u32) -> Self {
        let most_ns = i64::from(interval_ms) * MS_NS;
        let interval_ns = duration_ns.map_or(most_ns, |d| most_ns.min(d / Self::SEARCHES));
        Cadence { interval_ns, is_growing: duration_ns.is_none(), first_ns: None, last_ns: 0 }
    }

    fn is_due(&mut self, pts_ns: i64, is_cut: bool) -> bool {
        let is_due = match self.first_ns {
            None => {
                self.first_ns = Some(pts_ns);
                true
            }
            Some(first_ns) => {
                let passed_ns = pts_ns.saturating_sub(first_ns);
                let interval_ns = if self.is_growing {
                    self.interval_ns.min(passed_ns / Self::SEARCHES)
                } else {
                    self.interval_ns
                };
                // Half a millisecond of grace, or rounded timestamps would skip a frame now and then.
                is_cut || pts_ns.saturating_sub(self.last_ns) >= interval_ns - MS_NS / 2
            }
        };
        if is_due {
            self.last_ns = pts_ns;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searches(duration_ns: Option<i64>, n_frames: i64, cuts: &[i64]) -> Vec<i64> {
        let mut cadence = Cadence::new(duration_ns, 200);
        (0..n_frames).filter(|i| cadence.is_due(i * 1_000_000_000 / 30, cuts.contains(i))).collect()
    }

    #[test]
    fn a_long_video_is_searched_at_the_interval() {
        assert_eq!(searches(Some(60_000_000_000), 31, &[]), [0, 6, 12, 18, 24, 30]);
    }

    #[test]
    fn a_short_video_is_searched_in_every_frame() {
        assert_eq!(searches(Some(1_000_000_000), 30, &[]).len(), 30);
        assert_eq!(searches(Some(2_000_000_000), 60, &[]).len(), 30);
    }

    #[test]
    fn unknown_length_starts_dense_and_thins_out() {
        let found = searches(None, 600, &[]);
        assert_eq!(found[..15], (0..15).collect::<Vec<_>>());
        assert_eq!(found[found.len() - 1] - found[found.len() - 2], 6);
    }

    #[test]
    fn a_cut_is_searched_at_once() {
        assert_eq!(searches(Some(60_000_000_000), 16, &[2]), [0, 2, 8, 14]);
    }
}
