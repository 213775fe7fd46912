//! The crops behind verdicts: chosen in the watching thread, kept as JPEG and PNG, bounded in number and in bytes.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use image::{ImageFormat, RgbImage};
use serde::Serialize;

use super::picture::{jpeg, shrunk};
use crate::gallery::Sample;
use crate::report::heat::typical;
use crate::report::json::{rounded, seconds};
use crate::resample::Resampler;
use crate::watch::Event;
use crate::watch::witness::Judged;

/// Verdicts whose crops are kept.
const MAX_VERDICTS: usize = 64;
/// What they may take together, bytes.
const MAX_BYTES: usize = 8 << 20;
/// Verdicts whose crops wait to be encoded: as many as there are faces in a frame, which may all be over at once.
const MAX_WAITING: usize = 32;
/// Longer side of a crop on the page.
const SIDE_PX: u32 = 224;
const QUALITY: u8 = 85;
const MEDIAN: &str = "median";

/// A look that stands for a verdict.
struct Pick {
    what: &'static str,
    score: f32,
    pts_ns: i64,
    crop: RgbImage,
}

/// What a verdict rests on, on its way.
struct Parcel {
    event: Arc<Event>,
    model: String,
    picks: Vec<Pick>,
}

/// The watching thread's end.
pub(super) struct Sender {
    parcels: SyncSender<Parcel>,
    /// SHA-256 of the network that judges from here on.
    pub(super) model: String,
}

/// A crop that is kept, as the page is told of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    what: &'static str,
    score: Option<f64>,
    pts_s: f64,
}

/// The crops of one verdict.
pub(super) struct Exhibit {
    /// That of the event.
    id: String,
    about: Vec<About>,
    crops: Vec<Arc<Vec<u8>>>,
    typical: Look,
}

/// The look with the median score.
#[derive(Clone)]
pub(super) struct Look {
    /// Exactly as the network saw it.
    pub(super) png: Arc<Vec<u8>>,
    pub(super) caption: String,
    /// SHA-256 of the network that judged it.
    pub(super) model: String,
    /// The heat map, once somebody has asked for it, as PNG.
    pub(super) map: Option<Arc<Vec<u8>>>,
}

/// The end of the thread that hears the events: encodes what came with them.
pub(super) struct Encoder {
    parcels: Receiver<Parcel>,
    /// Came before its event did.
    early: Option<Parcel>,
    resampler: Resampler,
}

/// All that is kept.
#[derive(Default)]
pub(super) struct Archive {
    exhibits: VecDeque<Exhibit>,
}

/// The way of crops from the watching thread to the one that hears the events.
pub(super) fn way(model: &str) -> (Sender, Encoder) {
    let (sender, parcels) = sync_channel(MAX_WAITING);
    let sender = Sender { parcels: sender, model: model.to_owned() };
    (sender, Encoder { parcels, early: None, resampler: Resampler::default() })
}

impl Sender {
    /// Copies the looks that stand for a verdict: those with the highest, the median and the lowest score. Where too
    /// many wait, the verdict goes without.
    pub(super) fn keep(&self, judged: &Judged<'_>) {
        let finite = || judged.samples.iter().filter(|s| s.score.is_some_and(f32::is_finite));
        let by_score =
            |a: &&Sample, b: &&Sample| a.score.unwrap_or_default().total_cmp(&b.score.unwrap_or_default());
        let Some(median) = typical(judged.samples) else { return };
        let is_one = judged.samples.len() == 1;
        let mut picks = vec![Pick::new(if is_one { "newest" } else { MEDIAN }, median)];
        if !is_one {
            picks.splice(0..0, finite().max_by(by_score).map(|s| Pick::new("highest", s)));
            picks.extend(finite().min_by(by_score).map(|s| Pick::new("lowest", s)));
        }
        let parcel = Parcel { event: Arc::clone(judged.event), model: self.model.clone(), picks };
        let _ = self.parcels.try_send(parcel);
    }
}

impl Pick {
    fn new(what: &'static str, sample: &Sample) -> Self {
        let score = sample.score.unwrap_or(f32::NAN);
        Pick { what, score, pts_ns: sample.pts_ns, crop: sample.crop.clone() }
    }
}

impl Encoder {
    /// The crops of `event`, encoded; `None` where none came.
    pub(super) fn exhibit(&mut self, event: &Event) -> Option<Exhibit> {
        // A verdict's crops are sent before the verdict is, both in the order of the events.
        loop {
            let parcel = self.early.take().or_else(|| self.parcels.try_recv().ok())?;
            match parcel.event.id.n.cmp(&event.id.n) {
                // Its event was lost on the way.
                Ordering::Less => {}
                Ordering::Equal => return exhibit(&parcel, &mut self.resampler),
                Ordering::Greater => {
                    self.early = Some(parcel);
                    return None;
                }
            }
        }
    }
}

impl Archive {
    /// Keeps an exhibit; the oldest go where there are too many.
    pub(super) fn keep(&mut self, exhibit: Exhibit) {
        self.exhibits.push_back(exhibit);
        self.make_room();
    }

    fn make_room(&mut self) {
        let n_bytes = |exhibits: &VecDeque<Exhibit>| exhibits.iter().map(Exhibit::n_bytes).sum::<usize>();
        while self.exhibits.len() > MAX_VERDICTS || n_bytes(&self.exhibits) > MAX_BYTES {
            self.exhibits.pop_front();
        }
    }

    fn find(&self, id: &str) -> Option<&Exhibit> {
        self.exhibits.iter().find(|exhibit| exhibit.id == id)
    }

    /// Whether the crops of event `id` are still there.
    pub(super) fn has(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// A crop as JPEG.
    pub(super) fn crop(&self, id: &str, idx: usize) -> Option<Arc<Vec<u8>>> {
        self.find(id)?.crops.get(idx).cloned()
    }

    /// The median look.
    pub(super) fn typical(&self, id: &str) -> Option<Look> {
        Some(self.find(id)?.typical.clone())
    }

    /// Keeps the heat map of event `id`.
    pub(super) fn keep_map(&mut self, id: &str, map: Arc<Vec<u8>>) {
        if let Some(exhibit) = self.exhibits.iter_mut().find(|exhibit| exhibit.id == id) {
            exhibit.typical.map = Some(map);
            self.make_room();
        }
    }
}

impl Exhibit {
    /// What its crops are, in their order.
    pub(super) fn about(&self) -> &[About] {
        &self.about
    }

    fn n_bytes(&self) -> usize {
        let Look { png, map, .. } = &self.typical;
        [png].into_iter().chain(map).chain(&self.crops).map(|bytes| bytes.len()).sum()
    }
}

fn exhibit(parcel: &Parcel, resampler: &mut Resampler) -> Option<Exhibit> {
    let about =
        |pick: &Pick| About { what: pick.what, score: rounded(pick.score, 6), pts_s: seconds(pick.pts_ns) };
    let shown = |pick: &Pick| jpeg(&shrunk(resampler, &pick.crop, SIDE_PX)?, QUALITY).map(Arc::new);
    let crops: Option<Vec<_>> = parcel.picks.iter().map(shown).collect();
    let median = parcel.picks.iter().find(|pick| pick.what == MEDIAN).or(parcel.picks.first())?;
    let mut png = Vec::new();
    median.crop.write_to(&mut Cursor::new(&mut png), ImageFormat::Png).ok()?;
    let caption = format!("score {:.3}; log odds", median.score);
    Some(Exhibit {
        id: parcel.event.id.to_string(),
        about: parcel.picks.iter().map(about).collect(),
        crops: crops?,
        typical: Look { png: Arc::new(png), caption, model: parcel.model.clone(), map: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geom::Rect;
    use crate::watch::event::{Id, Stamp, What};

    fn sample(score: Option<f32>, side: u32) -> Sample {
        // Noise, since nothing takes more bytes as PNG.
        let mut state = 1u32;
        let crop = RgbImage::from_fn(side, side, |_, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb(state.to_be_bytes()[..3].try_into().unwrap())
        });
        Sample { pts_ns: 5, frame_idx: 0, bbox: Rect::default(), confidence: 1.0, crop, score }
    }

    fn event(n: u64) -> Arc<Event> {
        let stamp = Stamp { file: "x".into(), start_ns: 0 };
        let event = stamp.event(0, What::FaceAppeared { track_id: 1, bbox: [0.0; 4] });
        Arc::new(Event { id: Id { run: 0xa, n }, ..event })
    }

    fn id(n: u64) -> String {
        event(n).id.to_string()
    }

    #[test]
    fn the_looks_that_stand_for_a_verdict_are_kept_with_it() {
        let ((sender, mut encoder), mut archive) = (way("model"), Archive::default());
        let samples: Vec<Sample> =
            [Some(0.5), Some(0.9), None, Some(0.1), Some(f32::NAN)].map(|s| sample(s, 8)).to_vec();
        let send = |n| sender.keep(&Judged { event: &event(n), scores: &[], samples: &samples });
        // Event 5 is lost on the way, and 6 has no crops.
        [5, 7, 8].into_iter().for_each(send);
        assert!(encoder.exhibit(&event(6)).is_none());
        let exhibit = encoder.exhibit(&event(7)).unwrap();
        let told: Vec<_> = exhibit.about().iter().map(|a| (a.what, a.score.unwrap())).collect();
        assert_eq!(told, [("highest", 0.9), ("median", 0.5), ("lowest", 0.1)]);
        archive.keep(exhibit);
        assert!(encoder.exhibit(&event(7)).is_none() && encoder.exhibit(&event(8)).is_some());
        assert!(
            archive.has(&id(7)) && !archive.has(&id(8)) && !archive.has(&Id { run: 0xb, n: 7 }.to_string())
        );
        let is_there = |idx| archive.crop(&id(7), idx).is_some();
        assert!(is_there(2) && !is_there(3) && archive.crop(&id(6), 0).is_none());
        let look = archive.typical(&id(7)).unwrap();
        let back = image::load_from_memory(&look.png).unwrap().to_rgb8();
        assert_eq!((back, look.caption.as_str()), (samples[0].crop.clone(), "score 0.500; log odds"));
        assert_eq!((look.model.as_str(), look.map), ("model", None));
        archive.keep_map(&id(7), Arc::new(vec![0; 9]));
        assert_eq!(archive.typical(&id(7)).unwrap().map.unwrap().len(), 9);
        archive.keep_map(&id(7), Arc::new(vec![0; MAX_BYTES]));
        assert!(!archive.has(&id(7)), "maps count as crops do");
    }

    #[test]
    fn memory_is_bounded() {
        let ((sender, mut encoder), mut archive) = (way("model"), Archive::default());
        let large = [sample(Some(0.5), 600)];
        for n in 0..30 {
            let event = event(n);
            sender.keep(&Judged { event: &event, scores: &[], samples: &large });
            archive.keep(encoder.exhibit(&event).unwrap());
        }
        let n_bytes: usize = archive.exhibits.iter().map(Exhibit::n_bytes).sum();
        assert!(n_bytes <= MAX_BYTES && archive.has(&id(29)) && !archive.has(&id(0)), "{n_bytes}");
        let small = [sample(Some(0.5), 4)];
        for n in 30..200 {
            let event = event(n);
            sender.keep(&Judged { event: &event, scores: &[], samples: &small });
            archive.keep(encoder.exhibit(&event).unwrap());
        }
        assert_eq!(archive.exhibits.len(), MAX_VERDICTS);
        // What nobody takes is not kept.
        for n in 200..300 {
            sender.keep(&Judged { event: &event(n), scores: &[], samples: &small });
        }
        let is_there = |n: &u64| encoder.exhibit(&event(*n)).is_some();
        assert_eq!((200..300).filter(is_there).count(), MAX_WAITING);
    }
}
