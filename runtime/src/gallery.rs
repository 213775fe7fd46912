//! The crops that stand for each track, spread evenly over the time it was seen, whatever its length.
//!
//! A track's length is not known before it ends. So crops are taken at a steady spacing, and when there
//! are twice as many as a verdict needs, every other one goes and the spacing doubles.

use heapless::Vec as FixedVec;
use image::RgbImage;

use crate::geom::Rect;
use crate::verdict::WINDOW;

/// Most crops of one track.
pub const MAX_SAMPLES: usize = 2 * WINDOW;
/// Most crops of all tracks together, with those whose memory is kept for others.
pub const MAX_CROPS: usize = 32 * WINDOW;

/// One look at a face.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub pts_ns: i64,
    /// The frame's position in the source, from 0.
    pub frame_idx: u64,
    /// Where in the upright picture.
    pub bbox: Rect,
    /// The detector's P(face), 0..=1.
    pub confidence: f32,
    /// Its pixels, at the size that was asked for.
    pub crop: RgbImage,
    /// P(fake), 0..=1, once it is known.
    pub score: Option<f32>,
}

/// What is kept of one track.
#[derive(Clone, Debug)]
pub struct Album {
    /// The track.
    pub track_id: u32,
    /// First sighting.
    pub start_ns: i64,
    /// Last sighting.
    pub end_ns: i64,
    /// Box of the last sighting.
    pub bbox: Rect,
    spacing_ns: i64,
    samples: FixedVec<Sample, MAX_SAMPLES>,
}

impl Album {
    fn new(track_id: u32, pts_ns: i64, bbox: Rect) -> Self {
        let samples = FixedVec::new();
        Album { track_id, start_ns: pts_ns, end_ns: pts_ns, bbox, spacing_ns: 0, samples }
    }

    fn is_due(&self, pts_ns: i64) -> bool {
        self.samples.last().is_none_or(|last| pts_ns - last.pts_ns >= self.spacing_ns)
    }

    /// Drops every other sample, whose crops go to `spare`, and doubles the spacing.
    fn thin(&mut self, spare: &mut Vec<RgbImage>) {
        for (idx, sample) in std::mem::take(&mut self.samples).into_iter().enumerate() {
            if idx % 2 == 0 {
                // There are fewer than before.
                let _ = self.samples.push(sample);
            } else {
                spare.push(sample.crop);
            }
        }
        let n_gaps = i64::try_from(self.samples.len().saturating_sub(1)).unwrap_or(0);
        if let (Some(first), Some(last)) = (self.samples.first(), self.samples.last())
            && n_gaps > 0
        {
            // A little less than the mean, or unsteady times would skip every other chance.
            self.spacing_ns = (last.pts_ns - first.pts_ns) / n_gaps * 9 / 10;
        }
    }

    /// The samples, oldest first.
    pub fn samples_mut(&mut self) -> &mut [Sample] {
        &mut self.samples
    }

    /// Scores of the samples that have one, oldest first, at most the last [`WINDOW`].
    pub fn running_scores(&self) -> FixedVec<f32, WINDOW> {
        let scored: FixedVec<f32, MAX_SAMPLES> = self.samples.iter().filter_map(|s| s.score).collect();
        scored[scored.len().saturating_sub(WINDOW)..].iter().copied().collect()
    }

    /// The [`WINDOW`] samples that lie most evenly over the track, oldest first; all if there are fewer.
    pub fn into_window(self) -> Vec<Sample> {
        if self.samples.len() <= WINDOW {
            return self.samples.into_iter().collect();
        }
        let is_chosen = most_even(&self.samples.iter().map(|s| s.pts_ns).collect::<Vec<_>>());
        self.samples
            .into_iter()
            .zip(is_chosen)
            .filter_map(|(sample, chosen)| chosen.then_some(sample))
            .collect()
    }
}

/// Marks [`WINDOW`] of more `times`, ascending: for each of [`WINDOW`] evenly spaced instants the
/// nearest time not yet taken, leaving enough for the instants that follow.
fn most_even(times: &[i64]) -> Vec<bool> {
    let mut is_chosen = vec![false; times.len()];
    let (first, last) = (times[0], times[times.len() - 1]);
    let mut next = 0;
    for k in 0..WINDOW {
        let k_ns = i64::try_from(k).unwrap_or(0);
        let wanted = first + (last - first) / (WINDOW as i64 - 1) * k_ns;
        let latest = times.len() - (WINDOW - k);
        let nearest = (next..=latest).min_by_key(|&i| times[i].abs_diff(wanted)).unwrap_or(next);
        is_chosen[nearest] = true;
        next = nearest + 1;
    }
    is_chosen
}

/// The albums of all tracks that have not ended.
#[derive(Default)]
pub struct Gallery {
    albums: Vec<Album>,
    /// Crops that nobody needs, whose memory will be used again.
    spare: Vec<RgbImage>,
}

impl Gallery {
    /// A picture of any size and content to put a crop into.
    pub fn spare_crop(&mut self) -> RgbImage {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a crop that nobody needs any more.
    pub fn recycle(&mut self, crop: RgbImage) {
        if self.n_kept() + self.spare.len() < MAX_CROPS {
            self.spare.push(crop);
        }
    }

    /// Gives the memory of all spare crops back.
    pub fn drop_spare(&mut self) {
        self.spare = Vec::new();
    }

    fn n_kept(&self) -> usize {
        self.albums.iter().map(|album| album.samples.len()).sum()
    }

    /// Notes that a track was seen, and says whether a sample of it is due now.
    pub fn see(&mut self, track_id: u32, pts_ns: i64, bbox: Rect) -> bool {
        let album = match self.albums.iter().position(|a| a.track_id == track_id) {
            Some(idx) => &mut self.albums[idx],
            None => {
                self.albums.push(Album::new(track_id, pts_ns, bbox));
                let last = self.albums.len() - 1;
                &mut self.albums[last]
            }
        };
        album.end_ns = pts_ns;
        album.bbox = bbox;
        album.is_due(pts_ns)
    }

    /// Keeps a sample of a track that was seen.
    pub fn keep(&mut self, track_id: u32, sample: Sample) {
        if self.n_kept() >= MAX_CROPS
            && let Some(fullest) = self.albums.iter_mut().max_by_key(|a| a.samples.len())
        {
            fullest.thin(&mut self.spare);
        }
        let Some(album) = self.albums.iter_mut().find(|a| a.track_id == track_id) else { return };
        if album.samples.is_full() {
            album.thin(&mut self.spare);
            if !album.is_due(sample.pts_ns) {
                return self.recycle(sample.crop);
            }
        }
        // There is room: a full album was thinned.
        let _ = album.samples.push(sample);
    }

    /// The album of a track.
    pub fn album_mut(&mut self, track_id: u32) -> Option<&mut Album> {
        self.albums.iter_mut().find(|a| a.track_id == track_id)
    }

    /// Takes the album of a track that ended.
    pub fn take(&mut self, track_id: u32) -> Option<Album> {
        let idx = self.albums.iter().position(|a| a.track_id == track_id)?;
        Some(self.albums.remove(idx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(pts_ns: i64) -> Sample {
        let crop = RgbImage::new(1, 1);
        Sample { pts_ns, frame_idx: 0, bbox: Rect::default(), confidence: 1.0, crop, score: None }
    }

    fn fill(times: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut gallery = Gallery::default();
        for pts_ns in times {
            if gallery.see(1, pts_ns, Rect::default()) {
                gallery.keep(1, sample(pts_ns));
            }
        }
        gallery.take(1).unwrap().into_window().iter().map(|s| s.pts_ns).collect()
    }

    proptest! {
        /// Whatever the length: 15 samples, none missing from any part of the track.
        #[test]
        fn samples_spread_over_any_length(n in 15i64..3000, jitter in 0i64..40) {
            let step = 100;
            let times: Vec<i64> = (0..n).map(|i| i * step + (i * 37) % (jitter + 1)).collect();
            let window = fill(times.iter().copied());
            prop_assert_eq!(window.len(), WINDOW);
            let length = times[times.len() - 1] - times[0];
            let even = length / (WINDOW as i64 - 1);
            let bound = 2 * even + 2 * step;
            prop_assert!(window[0] - times[0] <= bound);
            prop_assert!(times[times.len() - 1] - window[WINDOW - 1] <= bound);
            for pair in window.windows(2) {
                prop_assert!(pair[1] > pair[0] && pair[1] - pair[0] <= bound, "{:?}", window);
            }
        }
    }

    #[test]
    fn fewer_than_a_window_are_all_kept() {
        assert_eq!(fill([0, 5, 9]), [0, 5, 9]);
    }

    #[test]
    fn crops_are_bounded_over_all_tracks() {
        let mut gallery = Gallery::default();
        for pts_ns in 0..200i64 {
            for track_id in 0..100 {
                gallery.see(track_id, pts_ns, Rect::default());
                gallery.keep(track_id, sample(pts_ns));
                let n_crops: usize = gallery.albums.iter().map(|a| a.samples.len()).sum();
                assert!(n_crops <= MAX_CROPS, "{n_crops}");
            }
        }
    }
}
