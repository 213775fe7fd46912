//! Verdicts to entries: a witness of the watching copies what a verdict rests on, a thread of its own writes it down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::EvidenceError;
use super::entry::{Look, Model, What};
use super::log::{Log, packed};
use crate::bundle::{Digest, Manifest};
use crate::gallery::Sample;
use crate::track::MAX_TRACKS;
use crate::watch::Event;
use crate::watch::witness::{Judged, Witness};

/// Verdicts that wait to be written: every face may be over at once.
const QUEUE: usize = MAX_TRACKS;

enum Message {
    Verdict { event: Arc<Event>, model: Arc<Model>, scores: Vec<f32>, samples: Vec<Sample> },
    Settings(String),
}

/// Looks on and copies what verdicts rest on.
pub struct Recorder {
    messages: SyncSender<Message>,
    model: Arc<Model>,
    is_lossless: bool,
    n_lost: Arc<AtomicU64>,
}

/// Tells the log of other settings.
#[derive(Clone)]
pub struct Settle(SyncSender<Message>);

impl Settle {
    /// The settings, TOML, are these from here on. Waits while the log is behind.
    pub fn settings(&self, settings: String) {
        // A log that has ended has said why.
        let _ = self.0.send(Message::Settings(settings));
    }
}

/// Writes what the recorder sees to `log`, in a thread that ends when the recorder and the other sender are gone, with
/// whether everything was written. `is_lossless`: the watching waits for the log; otherwise what it is too slow for is
/// counted in the next entry.
pub fn record(log: Log, is_lossless: bool) -> (Recorder, Settle, JoinHandle<bool>) {
    let (messages, received) = sync_channel(QUEUE);
    let n_lost = Arc::new(AtomicU64::new(0));
    let (lost, model) = (Arc::clone(&n_lost), Arc::new(log.about().model.clone()));
    let thread = std::thread::spawn(move || write(log, &received, &lost));
    let settle = Settle(messages.clone());
    (Recorder { messages, model, is_lossless, n_lost }, settle, thread)
}

impl Witness for Recorder {
    fn model_changed(&mut self, manifest: &Manifest) {
        self.model = Arc::new(Model::of(manifest));
    }

    fn judged(&mut self, judged: &Judged<'_>) {
        let message = Message::Verdict {
            event: Arc::clone(judged.event),
            model: Arc::clone(&self.model),
            scores: judged.scores.to_vec(),
            samples: judged.samples.to_vec(),
        };
        let is_sent = if self.is_lossless {
            self.messages.send(message).is_ok()
        } else {
            !matches!(
                self.messages.try_send(message),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            )
        };
        if !is_sent {
            self.n_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(mut log: Log, messages: &Receiver<Message>, n_lost: &AtomicU64) -> bool {
    let mut settings_sha256 = Digest::of(log.about().settings.as_bytes());
    let mut is_whole = true;
    let mut failed = false;
    for message in messages {
        let entered = match message {
            Message::Settings(settings) => {
                settings_sha256 = Digest::of(settings.as_bytes());
                log.settings(settings)
            }
            Message::Verdict { event, model, scores, samples } => {
                let lost = n_lost.swap(0, Ordering::Relaxed);
                let entered = log
                    .model(&model)
                    .and_then(|()| enter(&mut log, &event, &scores, &samples, (settings_sha256, lost)));
                if entered.is_err() {
                    n_lost.fetch_add(lost + 1, Ordering::Relaxed);
                }
                entered
            }
        };
        if let Err(error) = &entered
            && !failed
        {
            log::error!("{error}");
        }
        failed = entered.is_err();
        is_whole &= !failed;
    }
    let lost = n_lost.load(Ordering::Relaxed);
    if let Err(error) = log.enter(What::Stop { n_lost: lost }, &[]) {
        log::error!("{error}");
        return false;
    }
    let (n, head) = log.head();
    log::info!("evidence log: entry {n} is the last: {head}");
    is_whole && lost == 0
}

fn enter(
    log: &mut Log,
    event: &Event,
    scores: &[f32],
    samples: &[Sample],
    (settings_sha256, n_lost): (Digest, u64),
) -> Result<(), EvidenceError> {
    let crops = samples.iter().map(|sample| packed(&sample.crop)).collect::<Result<Vec<_>, _>>()?;
    let look = |(sample, (crop, _)): (&Sample, &(Digest, Vec<u8>))| {
        let b = &sample.bbox;
        let score_bits = sample.score.unwrap_or(f32::NAN).to_bits();
        Look { crop: *crop, score_bits, pts_ns: sample.pts_ns, bbox: [b.x, b.y, b.w, b.h] }
    };
    let wrong = |error: serde_json::Error| EvidenceError::Entry {
        path: "a verdict".to_owned(),
        reason: error.to_string(),
    };
    let model_sha256 = log.about().model.sha256.clone();
    let what = What::Verdict {
        event: serde_json::to_value(event).map_err(wrong)?,
        settings_sha256,
        model_sha256,
        scores_bits: scores.iter().map(|score| score.to_bits()).collect(),
        looks: samples.iter().zip(&crops).map(look).collect(),
        n_lost,
    };
    log.enter(what, &crops)
}
