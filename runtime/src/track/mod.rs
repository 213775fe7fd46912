//! Identity over frames: which faces of different frames are one person's.
//!
//! Pure: no I/O, no clock, no heap; time is an argument. Purity comes before continuity: a face that
//! could be two people gets a new id, or none while the doubt may still resolve, never a guess.
//!
//! Position alone can't say who somebody is: a video call's layout may put one person where another
//! was, from one frame to the next. So a pair of track and observation is judged by looks, and the
//! better a box lies where its track's was a moment ago, the less alike the looks have to be. See
//! [`Settings`] for the thresholds and [`matching`] for how pairs are chosen.

mod matching;
mod memory;
mod motion;
#[cfg(test)]
mod tests;

use heapless::Vec;

use crate::appearance::Appearance;
use crate::geom::{Detection, Rect};
use matching::{NEVER, Scores};
use memory::Memory;
use motion::Motion;

/// Faces looked at per frame.
pub const MAX_FACES: usize = 32;
/// Tracks known at once: those in the picture and those remembered.
pub const MAX_TRACKS: usize = 64;

/// Two boxes of one frame that overlap more than this (IoU) are one face found twice.
const DUPLICATE_IOU: f32 = 0.6;
/// Boxes that overlap more than this share of the smaller show parts of each other's face.
const CROWDED_OVERLAP: f32 = 0.2;
/// Agreement of boxes above which a track's face would have to be this observation, if still there.
const SAME_PLACE: f32 = 0.6;

/// How the tracker decides. Distances are [`Appearance::distance`]'s.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Looks this near are one person's wherever the face is, also after a cut.
    pub far_distance: f32,
    /// The same among faces that overlap, where one shows parts of another, and for a face that would
    /// have to have jumped though nothing else says that the picture changed.
    pub strict_distance: f32,
    /// Looks this near are one person's when the face is where it was a moment ago, and no other face was in its
    /// way within [`Settings::crowd_ns`].
    pub close_distance: f32,
    /// Looks farther than this from each remembered one are never the track's.
    pub reach_distance: f32,
    /// A face not known for sure, but no farther than this from a track that has just gone from view,
    /// waits without an id until that track comes back or [`Settings::coast_ns`] is over. A face that
    /// overlaps another waits for any track that has gone within [`Settings::crowd_ns`].
    pub doubt_distance: f32,
    /// Looks farther than this from each remembered one are worth remembering.
    pub novel_distance: f32,
    /// By how much a pair must beat its rivals.
    pub margin: f32,
    /// Time after its last observation for which a face is taken to be where its motion says.
    pub coast_ns: i64,
    /// Time for which somebody may be hidden by others who pass.
    pub crowd_ns: i64,
    /// Time after its last observation at which a track ends.
    pub remember_ns: i64,
    /// The same for a track of fewer than three observations, which may be no face at all.
    pub remember_brief_ns: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            far_distance: 0.36,
            strict_distance: 0.28,
            close_distance: 0.46,
            reach_distance: 0.5,
            doubt_distance: 0.6,
            novel_distance: 0.2,
            margin: 0.04,
            coast_ns: 700_000_000,
            crowd_ns: 3_000_000_000,
            remember_ns: 60_000_000_000,
            remember_brief_ns: 2_000_000_000,
        }
    }
}

/// One face of one frame, with its looks.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Where it is.
    pub detection: Detection,
    /// What it looks like.
    pub appearance: Appearance,
}

/// What one frame's observations mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// The track of each observation, in their order: ids count from 1 and are never reused. `None`
    /// for a second box on one face and for a face in doubt, which no track may use. Observations
    /// beyond [`MAX_FACES`] have no entry.
    pub track_ids: Vec<Option<u32>, MAX_FACES>,
    /// Tracks that ended: they will never be seen again.
    pub ended: Vec<Ended, MAX_TRACKS>,
}

/// A track that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub track_id: u32,
    /// Time of its first observation.
    pub first_ns: i64,
    /// Time of its last observation.
    pub last_ns: i64,
    /// How many observations it had.
    pub n_observations: u32,
}

/// Where a track's face should be at some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The track.
    pub track_id: u32,
    /// Its box.
    pub bbox: Rect,
}

#[derive(Clone, Debug)]
struct Track {
    id: u32,
    motion: Motion,
    memory: Memory,
    /// The picture was cut since the last observation: the box says nothing about the present.
    is_displaced: bool,
    /// Time of the last observation that overlapped another face, which may be behind this one since.
    crowded_ns: Option<i64>,
    first_ns: i64,
    n_observations: u32,
}

impl Track {
    fn new(id: u32, seen: &Observation, pts_ns: i64) -> Self {
        Track {
            id,
            motion: Motion::at_rest(seen.detection.bbox, pts_ns),
            memory: Memory::new(&seen.appearance, pts_ns),
            is_displaced: false,
            crowded_ns: None,
            first_ns: pts_ns,
            n_observations: 1,
        }
    }

    fn ended(&self) -> Ended {
        Ended {
            track_id: self.id,
            first_ns: self.first_ns,
            last_ns: self.motion.seen_ns(),
            n_observations: self.n_observations,
        }
    }

    fn unseen_ns(&self, pts_ns: i64) -> i64 {
        pts_ns.saturating_sub(self.motion.seen_ns()).max(0)
    }
}

/// How one track and one observation compare.
#[derive(Clone, Copy)]
struct Pair {
    /// Agreement of the boxes, 0..=1; `None` when the track's box is out of date.
    near: Option<f32>,
    /// Somebody else may have been behind the track's face when it was last seen.
    is_covering: bool,
    /// Distance to the latest look.
    latest: f32,
    /// Distance to the nearest exemplar.
    known: f32,
}

impl Pair {
    fn distance(&self) -> f32 {
        self.latest.min(self.known)
    }
}

/// What may be made of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// All of it.
    Free,
    /// Parts of another face may show, and the place says little.
    Crowded,
    /// Nothing: it's a second box on a face, or its box makes no sense.
    Unfit,
}

/// Every slot's track against every observation; `None` where there is no track or no observation.
type Pairs = [[Option<Pair>; MAX_FACES]; MAX_TRACKS];

/// Follows faces from frame to frame.
///
/// About 170 KiB, all inline: keep it in a `Box` where stacks are small.
#[derive(Clone, Debug)]
pub struct Tracker {
    settings: Settings,
    slots: [Option<Track>; MAX_TRACKS],
    n_started: u32,
}

impl Tracker {
    /// A tracker that knows nobody.
    pub fn new(settings: Settings) -> Self {
        Tracker { settings, slots: [const { None }; MAX_TRACKS], n_started: 0 }
    }

    /// Takes in the faces of the frame at `pts_ns`, strongest first, and says who they are.
    ///
    /// `is_cut` says that the picture changed as a whole since the last call: then only looks count.
    /// Time that runs backwards counts as standing still.
    pub fn update(&mut self, pts_ns: i64, observations: &[Observation], is_cut: bool) -> Update {
        let observations = &observations[..observations.len().min(MAX_FACES)];
        let mut update = Update { ended: self.forget(pts_ns), ..Update::default() };
        if is_cut {
            for track in self.slots.iter_mut().flatten() {
                track.is_displaced = true;
            }
        }
        let standings = self.standings(pts_ns, observations);
        let pairs = self.compare(pts_ns, observations);
        let scores = self.score(&pairs, &standings);
        let slot_of = matching::sure_pairs(&scores, observations.len(), self.settings.margin);

        let mut is_matched = [false; MAX_TRACKS];
        for slot in slot_of.iter().flatten() {
            is_matched[*slot] = true;
        }
        for (idx, seen) in observations.iter().enumerate() {
            let track_id = match slot_of[idx] {
                Some(slot) => self.observe(slot, seen, pts_ns, standings[idx]),
                None if standings[idx] == Standing::Unfit => None,
                None if self.is_in_doubt(pts_ns, idx, &pairs, &is_matched, standings[idx]) => None,
                None => Some(self.start(pts_ns, seen, &mut is_matched, &mut update.ended)),
            };
            // There are at most MAX_FACES observations.
            let _ = update.track_ids.push(track_id);
        }
        update
    }

    /// Where the faces in the picture should be at `pts_ns`, for frames that are not searched.
    pub fn predict(&self, pts_ns: i64) -> Vec<Expected, MAX_TRACKS> {
        let tracks = self.slots.iter().flatten();
        tracks
            .filter(|t| self.is_current(t, pts_ns))
            .map(|t| Expected { track_id: t.id, bbox: t.motion.predict(pts_ns) })
            .collect()
    }

    /// Ends all tracks.
    pub fn finish(&mut self) -> Vec<Ended, MAX_TRACKS> {
        self.slots.iter_mut().filter_map(Option::take).map(|t| t.ended()).collect()
    }

    /// Ends the tracks not seen for too long.
    fn forget(&mut self, pts_ns: i64) -> Vec<Ended, MAX_TRACKS> {
        let Settings { remember_ns, remember_brief_ns, .. } = self.settings;
        let is_old = |t: &mut Track| {
            let limit_ns = if t.n_observations < 3 { remember_brief_ns } else { remember_ns };
            t.unseen_ns(pts_ns) > limit_ns
        };
        self.slots.iter_mut().filter_map(|s| s.take_if(is_old)).map(|t| t.ended()).collect()
    }
}

impl Tracker {
    /// Compares every track with every observation.
    fn compare(&self, pts_ns: i64, observations: &[Observation]) -> Pairs {
        let mut pairs = [[None; MAX_FACES]; MAX_TRACKS];
        for (row, track) in pairs.iter_mut().zip(&self.slots) {
            let Some(track) = track else { continue };
            let is_current = self.is_current(track, pts_ns);
            let expected = track.motion.predict(pts_ns);
            let is_covering =
                track.crowded_ns.is_some_and(|at_ns| pts_ns.saturating_sub(at_ns) <= self.settings.crowd_ns);
            for (pair, seen) in row.iter_mut().zip(observations) {
                let near = motion::agreement(&expected, &seen.detection.bbox);
                *pair = Some(Pair {
                    near: is_current.then_some(near),
                    is_covering,
                    latest: track.memory.distance_to_latest(&seen.appearance),
                    known: track.memory.distance(&seen.appearance),
                });
            }
        }
        pairs
    }

    /// Scores the pairs: by how much the looks are nearer than they have to be.
    fn score(&self, pairs: &Pairs, standings: &[Standing; MAX_FACES]) -> Scores {
        let Settings { far_distance, close_distance, strict_distance, .. } = self.settings;
        // A stranger where a face was a moment ago: the layout may have changed, so no place counts.
        let is_stranger = |(pair, standing): (&Option<Pair>, &Standing)| {
            let Some(p) = pair else { return false };
            let is_same_place = p.near.is_some_and(|near| near > SAME_PLACE);
            *standing == Standing::Free && is_same_place && p.distance() > close_distance
        };
        let is_rearranged = pairs.iter().any(|row| row.iter().zip(standings).any(is_stranger));
        let mut scores = [[NEVER; MAX_FACES]; MAX_TRACKS];
        for (scores, pairs) in scores.iter_mut().zip(pairs) {
            for ((score, pair), standing) in scores.iter_mut().zip(pairs).zip(standings) {
                let Some(pair) = pair else { continue };
                let limit = match (standing, pair.near) {
                    (Standing::Unfit, _) => continue,
                    (Standing::Crowded, _) => strict_distance,
                    (Standing::Free, Some(near)) if !is_rearranged => {
                        // Who comes out from behind a face is near where it was, and shows parts of it.
                        let here = if pair.is_covering { far_distance } else { close_distance };
                        strict_distance + near * (here - strict_distance)
                    }
                    (Standing::Free, _) => far_distance,
                };
                if pair.known <= self.settings.reach_distance {
                    *score = limit - pair.distance();
                }
            }
        }
        scores
    }
}

impl Tracker {
    /// Adds an observation to the track in `slot`.
    fn observe(&mut self, slot: usize, seen: &Observation, pts_ns: i64, standing: Standing) -> Option<u32> {
        let track = self.slots[slot].as_mut()?;
        let bbox = seen.detection.bbox;
        if track.is_displaced || track.unseen_ns(pts_ns) > self.settings.coast_ns {
            track.motion = Motion::at_rest(bbox, pts_ns.max(track.motion.seen_ns()));
            track.is_displaced = false;
        } else {
            track.motion.observe(bbox, pts_ns);
        }
        track.n_observations = track.n_observations.saturating_add(1);
        if standing == Standing::Crowded {
            track.crowded_ns = Some(pts_ns);
        }
        if standing == Standing::Free {
            track.memory.learn(&seen.appearance, pts_ns, &self.settings);
        }
        Some(track.id)
    }

    /// Starts a track; when all slots are taken, the one unseen for longest ends.
    fn start(
        &mut self,
        pts_ns: i64,
        seen: &Observation,
        is_matched: &mut [bool; MAX_TRACKS],
        ended: &mut Vec<Ended, MAX_TRACKS>,
    ) -> u32 {
        // Fewer observations than slots: some slot is free or holds a track that this frame lacks.
        let age = |slot: &usize| self.slots[*slot].as_ref().map(|t| t.motion.seen_ns());
        let slot = (0..MAX_TRACKS).filter(|s| !is_matched[*s]).min_by_key(age).unwrap_or(0);
        self.n_started += 1;
        let track = Track::new(self.n_started, seen, pts_ns);
        if let Some(old) = self.slots[slot].replace(track) {
            // Each slot ends at most once per frame: a taken one is matched from then on.
            let _ = ended.push(old.ended());
        }
        is_matched[slot] = true;
        self.n_started
    }

    /// What may be made of each observation.
    fn standings(&self, pts_ns: i64, observations: &[Observation]) -> [Standing; MAX_FACES] {
        let current = self.slots.iter().flatten().filter(|t| self.is_current(t, pts_ns));
        let expected: Vec<Rect, MAX_TRACKS> = current.map(|t| t.motion.predict(pts_ns)).collect();
        std::array::from_fn(|idx| {
            let Some(seen) = observations.get(idx) else { return Standing::Unfit };
            let bbox = seen.detection.bbox;
            let is_same = |before: &Observation| before.detection.bbox.iou(&bbox) > DUPLICATE_IOU;
            if !bbox.is_finite() || observations[..idx].iter().any(is_same) {
                return Standing::Unfit;
            }
            let overlaps = |other: &Rect| bbox.overlap_min(other) > CROWDED_OVERLAP;
            // One of the boxes seen is its own, and one of those expected may be.
            let n_seen = observations.iter().filter(|o| overlaps(&o.detection.bbox)).count();
            let n_expected = expected.iter().filter(|bbox| overlaps(bbox)).count();
            if n_seen > 1 || n_expected > 1 { Standing::Crowded } else { Standing::Free }
        })
    }

    /// True when observation `idx` may yet turn out to be a track that was in the picture just now.
    fn is_in_doubt(
        &self,
        pts_ns: i64,
        idx: usize,
        pairs: &Pairs,
        is_matched: &[bool; MAX_TRACKS],
        standing: Standing,
    ) -> bool {
        let Settings { coast_ns, crowd_ns, doubt_distance, .. } = self.settings;
        (0..MAX_TRACKS).filter(|slot| !is_matched[*slot]).any(|slot| {
            let (Some(track), Some(pair)) = (&self.slots[slot], &pairs[slot][idx]) else {
                return false;
            };
            let unseen_ns = track.unseen_ns(pts_ns);
            let is_hidden = standing == Standing::Crowded && unseen_ns <= crowd_ns;
            is_hidden || (unseen_ns <= coast_ns && pair.distance() < doubt_distance)
        })
    }

    /// True when the track's box still says where its face is.
    fn is_current(&self, track: &Track, pts_ns: i64) -> bool {
        !track.is_displaced && track.unseen_ns(pts_ns) <= self.settings.coast_ns
    }
}
