//! The live picture: copied small in the watching thread while somebody looks, encoded in a thread of one who does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use serde::Serialize;

use super::settings::Settings;
use crate::follow::Sighting;
use crate::report::json::rounded;
use crate::resample::{Filter, Resampler};
use crate::watch::witness::Looked;

/// For so long after somebody asked for a picture more are copied.
const WANTED: Duration = Duration::from_secs(5);
/// A picture older than this isn't of the present, and nobody gets to see it.
const FRESH: Duration = Duration::from_secs(3);
const QUALITY: u8 = 75;

/// A picture with who is in it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Grows with each picture, from 1.
    n: u64,
    width_px: u32,
    height_px: u32,
    faces: Vec<Mark>,
    #[serde(skip)]
    picture: RgbImage,
    #[serde(skip)]
    taken: Instant,
}

/// A face in a picture.
#[derive(Debug, Serialize)]
struct Mark {
    track_id: u32,
    /// x, y, width, height as parts of the picture's sides.
    place: [Option<f64>; 4],
}

/// A picture as the page gets it.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    n: u64,
    /// [`Shown`] as JSON, ASCII.
    pub(super) about: String,
    pub(super) jpeg: Arc<Vec<u8>>,
}

/// Where the watching thread leaves pictures and those who look find them.
pub(super) struct Studio {
    start: Instant,
    /// Until when pictures are wanted, ms after `start`.
    wanted_ms: AtomicU64,
    newest: Mutex<Option<Arc<Shown>>>,
    has_come: Condvar,
    encoded: Mutex<Option<Encoded>>,
}

impl Studio {
    pub(super) fn new() -> Self {
        Studio {
            start: Instant::now(),
            wanted_ms: AtomicU64::new(0),
            newest: Mutex::new(None),
            has_come: Condvar::new(),
            encoded: Mutex::new(None),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_wanted(&self) -> bool {
        self.now_ms() < self.wanted_ms.load(Ordering::Relaxed)
    }

    fn newest(&self) -> MutexGuard<'_, Option<Arc<Shown>>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A picture after number `after`, waited for until `timeout`; `None` where there is none of the present.
    pub(super) fn picture(&self, after: u64, timeout: Duration) -> Option<Encoded> {
        let until = u64::try_from(WANTED.as_millis()).unwrap_or(0);
        self.wanted_ms.store(self.now_ms() + until, Ordering::Relaxed);
        let mut newest = self.newest();
        // A number that was never given is of an earlier run.
        let after = newest.as_ref().map_or(0, |shown| if after > shown.n { 0 } else { after });
        let is_old = |shown: &Option<Arc<Shown>>| {
            shown.as_ref().is_none_or(|shown| shown.n <= after || shown.taken.elapsed() > FRESH)
        };
        newest = self
            .has_come
            .wait_timeout_while(newest, timeout, |shown| is_old(shown))
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if is_old(&newest) {
            return None;
        }
        let shown = newest.clone()?;
        drop(newest);
        self.encode(&shown)
    }

    /// Encodes a picture, once for all who look.
    fn encode(&self, shown: &Shown) -> Option<Encoded> {
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = encoded.as_ref().filter(|done| done.n >= shown.n) {
            return Some(done.clone());
        }
        let about = serde_json::to_string(shown).ok()?;
        let done = Encoded { n: shown.n, about, jpeg: Arc::new(jpeg(&shown.picture, QUALITY)?) };
        *encoded = Some(done.clone());
        Some(done)
    }

    /// Forgets pictures that aren't of the present.
    pub(super) fn forget(&self) {
        let mut newest = self.newest();
        if newest.as_ref().is_some_and(|shown| shown.taken.elapsed() > FRESH) {
            *newest = None;
            drop(newest);
            *self.encoded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// The watching thread's end: copies pictures while they are wanted.
pub(super) struct Copyist {
    studio: Arc<Studio>,
    resampler: Resampler,
    most_px: u32,
    every: Duration,
    copied: Option<Instant>,
    n: u64,
}

impl Copyist {
    pub(super) fn new(studio: Arc<Studio>, settings: &Settings) -> Self {
        // Looks come unsteadily; without some grace every other one would be left out.
        let every = Duration::from_millis(800) / settings.picture_hz.max(1);
        let most_px = settings.picture_px.max(1);
        Copyist { studio, resampler: Resampler::default(), most_px, every, copied: None, n: 0 }
    }

    pub(super) fn is_due(&self) -> bool {
        self.studio.is_wanted() && self.copied.is_none_or(|at| at.elapsed() >= self.every)
    }

    /// Copies the picture for those who look.
    pub(super) fn copy(&mut self, looked: &Looked<'_>) {
        let (width_px, height_px) = looked.picture.dimensions();
        let Some(picture) = shrunk(&mut self.resampler, looked.picture, self.most_px) else { return };
        self.n += 1;
        self.copied = Some(Instant::now());
        let shown = Shown {
            n: self.n,
            width_px,
            height_px,
            faces: looked.faces.iter().map(|seen| Mark::new(seen, width_px, height_px)).collect(),
            picture,
            taken: Instant::now(),
        };
        // Held by others for no longer than a pointer takes to copy.
        *self.studio.newest() = Some(Arc::new(shown));
        self.studio.has_come.notify_all();
    }
}

impl Mark {
    #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
    fn new(seen: &Sighting, width_px: u32, height_px: u32) -> Self {
        let (w, h, b) = (width_px.max(1) as f32, height_px.max(1) as f32, seen.bbox);
        let place = [b.x / w, b.y / h, b.w / w, b.h / h].map(|part| rounded(part, 4));
        Mark { track_id: seen.track_id, place }
    }
}

/// `picture` with its longer side at most `most_px`; `None` for one without pixels.
pub(super) fn shrunk(resampler: &mut Resampler, picture: &RgbImage, most_px: u32) -> Option<RgbImage> {
    let (width, height) = picture.dimensions();
    let longer = width.max(height);
    if longer <= most_px {
        return (longer > 0).then(|| picture.clone());
    }
    let side = |px: u32| {
        let scaled = u64::from(px) * u64::from(most_px) / u64::from(longer);
        u32::try_from(scaled).unwrap_or(most_px).max(1)
    };
    let mut small = RgbImage::new(side(width), side(height));
    resampler.whole_into(picture, Filter::Box, &mut small)?;
    Some(small)
}

/// `picture` as JPEG; `None` for one that has no pixels or too many.
pub(super) fn jpeg(picture: &RgbImage, quality: u8) -> Option<Vec<u8>> {
    let (width, height) = (u16::try_from(picture.width()).ok()?, u16::try_from(picture.height()).ok()?);
    let mut bytes = Vec::with_capacity(usize::from(width) * usize::from(height) / 4);
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode(picture.as_raw(), width, height, ColorType::Rgb).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geom::Rect;
    use image::Rgb;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn pictures_are_copied_only_while_somebody_looks_and_encoded_once() {
        let studio = Arc::new(Studio::new());
        let mut copyist = Copyist::new(Arc::clone(&studio), &Settings::default());
        assert!(!copyist.is_due());
        assert!(studio.picture(0, NOW).is_none());
        assert!(copyist.is_due());
        let picture = RgbImage::from_pixel(1280, 720, Rgb([200, 40, 90]));
        let bbox = Rect { x: 128.0, y: 72.0, w: 64.0, h: 72.0 };
        let faces = [Sighting { track_id: 3, bbox, scores: heapless::Vec::new() }];
        copyist.copy(&Looked { picture: &picture, faces: &faces });
        assert!(!copyist.is_due(), "one was just copied");
        let (first, again) = (studio.picture(0, NOW).unwrap(), studio.picture(99, NOW).unwrap());
        assert!(Arc::ptr_eq(&first.jpeg, &again.jpeg));
        assert!(studio.picture(1, NOW).is_none(), "there is none after it");
        assert!(first.about.contains(r#""place":[0.1,0.1,0.05,0.1]"#), "{}", first.about);
        let shown = image::load_from_memory(&first.jpeg).unwrap().to_rgb8();
        assert_eq!(shown.dimensions(), (640, 360));
        let at = shown.get_pixel(300, 200).0;
        assert!(at.iter().zip([200, 40, 90]).all(|(a, b)| a.abs_diff(b) < 6), "{at:?}");
    }

    #[test]
    fn any_size_is_shrunk() {
        let mut resampler = Resampler::default();
        for (size, expected) in [((9000, 1), Some((640, 1))), ((3, 5), Some((3, 5))), ((0, 0), None)] {
            let small = shrunk(&mut resampler, &RgbImage::new(size.0, size.1), 640);
            assert_eq!(small.map(|s| s.dimensions()), expected);
        }
    }
}
