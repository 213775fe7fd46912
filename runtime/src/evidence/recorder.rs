//! Verdicts to entries: a witness of the watching copies what a verdict rests on, a thread of its own writes it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::EvidenceError;
use super::entry::{Look, Model};
use super::log::{About, Log, Verdict, packed};
use crate::bundle::{Digest, Manifest};
use crate::gallery::{MAX_CROPS, Sample};
use crate::track::MAX_TRACKS;
use crate::watch::Event;
use crate::watch::witness::{Judged, Witness};

/// Verdicts that wait to be written: every face may be over at once.
const QUEUE: usize = MAX_TRACKS;

/// A verdict on its way, with what it was made with.
struct Message {
    event: Arc<Event>,
    about: Arc<About>,
    scores: Vec<f32>,
    samples: Vec<Sample>,
}

/// What the two threads know of each other.
#[derive(Default)]
struct Shared {
    n_lost: AtomicU64,
    /// Crops on their way.
    n_crops: AtomicUsize,
}

/// Looks on and copies what verdicts rest on.
pub struct Recorder {
    messages: SyncSender<Message>,
    about: Arc<About>,
    is_lossless: bool,
    shared: Arc<Shared>,
}

/// Writes what the recorder sees to `log`, in a thread that ends when the recorder is gone, with whether everything was
/// written. `is_lossless`: the watching waits for the log; otherwise what it is too slow for is counted in the next entry.
pub fn record(log: Log, about: About, is_lossless: bool) -> (Recorder, JoinHandle<bool>) {
    let (messages, received) = sync_channel(QUEUE);
    let shared = Arc::new(Shared::default());
    let known = Arc::clone(&shared);
    let thread = std::thread::spawn(move || write(log, &received, &known));
    (Recorder { messages, about: Arc::new(about), is_lossless, shared }, thread)
}

impl Witness for Recorder {
    fn model_changed(&mut self, manifest: &Manifest) {
        Arc::make_mut(&mut self.about).model = Model::of(manifest);
    }

    fn settings_changed(&mut self, settings: &str) {
        settings.clone_into(&mut Arc::make_mut(&mut self.about).settings);
    }

    fn judged(&mut self, judged: &Judged<'_>) {
        let n_crops = judged.samples.len();
        // As many as the gallery itself may hold.
        let has_room = self.shared.n_crops.load(Ordering::Relaxed) + n_crops <= MAX_CROPS;
        let message = || Message {
            event: Arc::clone(judged.event),
            about: Arc::clone(&self.about),
            scores: judged.scores.to_vec(),
            samples: judged.samples.to_vec(),
        };
        self.shared.n_crops.fetch_add(n_crops, Ordering::Relaxed);
        let is_sent = if self.is_lossless {
            self.messages.send(message()).is_ok()
        } else {
            has_room && self.messages.try_send(message()).is_ok()
        };
        if !is_sent {
            self.shared.n_crops.fetch_sub(n_crops, Ordering::Relaxed);
            self.shared.n_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(mut log: Log, messages: &Receiver<Message>, shared: &Shared) -> bool {
    let mut is_whole = true;
    let mut has_failed = false;
    for message in messages {
        let n_crops = message.samples.len();
        let n_lost = shared.n_lost.swap(0, Ordering::Relaxed);
        let entered = enter(&mut log, message, n_lost);
        shared.n_crops.fetch_sub(n_crops, Ordering::Relaxed);
        if let Err(error) = &entered {
            shared.n_lost.fetch_add(n_lost + 1, Ordering::Relaxed);
            if !has_failed {
                log::error!("{error}");
            }
        }
        has_failed = entered.is_err();
        is_whole &= !has_failed;
    }
    let n_lost = shared.n_lost.load(Ordering::Relaxed);
    if let Err(error) = log.stop(n_lost) {
        log::error!("{error}");
        return false;
    }
    let (n, head) = log.head();
    log::info!("evidence log: entry {n} is the last: {head}");
    is_whole && n_lost == 0
}

fn enter(log: &mut Log, message: Message, n_lost: u64) -> Result<(), EvidenceError> {
    let Message { event, about, scores, samples } = message;
    let crops = samples.iter().map(|sample| packed(&sample.crop)).collect::<Result<Vec<_>, _>>()?;
    let look = |(sample, (crop, _)): (&Sample, &(Digest, Vec<u8>))| {
        let b = &sample.bbox;
        let score_bits = sample.score.unwrap_or(f32::NAN).to_bits();
        Look { crop: *crop, score_bits, pts_ns: sample.pts_ns, bbox: [b.x, b.y, b.w, b.h] }
    };
    let looks = samples.iter().zip(&crops).map(look).collect();
    let event = serde_json::to_value(&*event)
        .map_err(|error| EvidenceError::Entry { path: "a verdict".to_owned(), reason: error.to_string() })?;
    log.enter(&about, Verdict { event, scores, looks, n_lost }, &crops)
}
