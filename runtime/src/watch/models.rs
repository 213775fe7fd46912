//! The model while a source is watched: a bundle that is installed meanwhile is tried beside the model in use and takes over,
//! or is given up; one that a person confirms or goes back to takes over too. All that waits for a disk is in a thread.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Shadow;
use super::event::{Model, ModelStep, What};
use crate::bundle::{Bundle, Digest, Roots};
use crate::engine::Engine;
use crate::slot::{
    Alike, Boot, Folder, Held, Settings, Slot, SlotError, Store, TrialLock, Unlike, now_unix_s, try_out,
};

/// How often the slots are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long the thread may take to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Who says which model judges; asked between two frames.
pub trait Models {
    /// What has changed: `shadow` is the candidate beside the model in use, where there is one.
    fn tend(&mut self, shadow: &mut Option<Shadow>) -> Option<Turn>;
}

/// A model that never changes.
pub struct Fixed;

impl Models for Fixed {
    fn tend(&mut self, _shadow: &mut Option<Shadow>) -> Option<Turn> {
        None
    }
}

/// Something that happened to models.
pub struct Turn {
    /// What to say of it.
    pub what: What,
    /// The model that takes over now.
    pub successor: Option<Shadow>,
}

/// What the thread says.
enum News {
    /// A candidate is loaded and has passed its self-test.
    Beside(Box<Shadow>),
    /// The candidate takes over, or the given model does.
    TakeOver { model: Model, reason: String, successor: Option<Box<Shadow>> },
    /// The candidate is given up.
    GivenUp { model: Model, reason: String },
}

/// The models of the slots' folder.
pub struct Succession {
    news: Receiver<News>,
    /// What the candidate was found to be; gone when watching ends.
    reports: Option<Sender<Result<Alike, Unlike>>>,
    thread: Option<JoinHandle<()>>,
    is_reported: bool,
}

impl Succession {
    /// Looks after the slots of `settings.folder` beside a run of `current`, whose bundle is `running`; nothing for the
    /// built-in one. `current` becomes the bundle that takes over.
    pub fn new(
        folder: &Path,
        settings: &Settings,
        roots: Roots,
        engine: &Engine,
        current: Arc<Mutex<Bundle>>,
        running: Option<Digest>,
    ) -> Self {
        // One is on its way while another waits.
        let (to, news) = sync_channel(1);
        let (reports, from) = channel();
        let mut keeper = Keeper {
            folder: folder.to_owned(),
            settings: settings.clone(),
            roots,
            engine: engine.clone(),
            current,
            running,
            trial: None,
            unusable: None,
            news: to,
        };
        let thread = std::thread::spawn(move || keeper.keep(&from));
        Succession { news, reports: Some(reports), thread: Some(thread), is_reported: false }
    }

    /// Ends the thread; a trial that isn't over doesn't count as one. A disk that takes too long is left alone.
    pub fn end(&mut self) {
        self.reports = None;
        let asked = Instant::now();
        // One that waits for room has nobody left to tell.
        while let Some(thread) = &self.thread
            && !thread.is_finished()
            && asked.elapsed() < GOODBYE
        {
            let _ = self.news.recv_timeout(Duration::from_millis(10));
        }
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

impl Models for Succession {
    fn tend(&mut self, shadow: &mut Option<Shadow>) -> Option<Turn> {
        if let Some(shadow) = shadow
            && !self.is_reported
            && let Some(outcome) = shadow.outcome()
            && let Some(reports) = &self.reports
        {
            self.is_reported = reports.send(outcome).is_ok();
        }
        let say = |step, model, reason| What::Model { step, model, reason };
        Some(match self.news.try_recv().ok()? {
            News::Beside(candidate) => {
                let model = Model::of(candidate.manifest());
                self.is_reported = false;
                *shadow = Some(*candidate);
                Turn { what: say(ModelStep::TrialStarted, model, None), successor: None }
            }
            News::TakeOver { model, reason, successor } => {
                let successor = successor.map(|successor| *successor).or_else(|| shadow.take());
                Turn { what: say(ModelStep::TookOver, model, Some(reason)), successor }
            }
            News::GivenUp { model, reason } => {
                *shadow = None;
                Turn { what: say(ModelStep::GivenUp, model, Some(reason)), successor: None }
            }
        })
    }
}

/// A candidate on its way.
struct Trial {
    held: Held,
    bundle: Bundle,
    /// No other run makes a trial meanwhile.
    _lock: TrialLock,
}

/// The thread's side.
struct Keeper {
    folder: PathBuf,
    settings: Settings,
    roots: Roots,
    engine: Engine,
    current: Arc<Mutex<Bundle>>,
    running: Option<Digest>,
    trial: Option<Trial>,
    /// A confirmed bundle that can't be run; it isn't tried again.
    unusable: Option<Digest>,
    news: SyncSender<News>,
}

impl Keeper {
    fn keep(&mut self, reports: &Receiver<Result<Alike, Unlike>>) {
        let mut said = String::new();
        loop {
            let done = match reports.recv_timeout(LOOK) {
                Ok(outcome) => self.settle(outcome),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => {
                    let Some(trial) = self.trial.take() else { return };
                    let undone = Store::locked(&self.folder)
                        .and_then(|mut store| store.was_not_tried(trial.held.digest, now_unix_s()));
                    return undone
                        .unwrap_or_else(|error| log::error!("{error}; this run counts as a failed start"));
                }
            };
            // The same every two seconds helps nobody.
            let problem = done.err().map_or(String::new(), |error| error.to_string());
            if problem != said && !problem.is_empty() {
                log::error!("{problem}");
            }
            said = problem;
        }
    }

    /// Whoever watches may have ended; then nobody is left to tell.
    fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }

    /// Looks at the slots: a trial that was ended by hand, another current model, a candidate.
    fn look(&mut self) -> Result<(), SlotError> {
        if !self.folder.is_dir() {
            return Ok(());
        }
        let store = Store::readable(&self.folder)?;
        let slots = &store.record().slots;
        if let Some(trial) = &self.trial {
            let digest = trial.held.digest;
            let goes_on = crate::slot::Name::ALL
                .into_iter()
                .any(|name| matches!(slots.slot(name), Slot::Trial { held, .. } if held.digest == digest));
            if !goes_on {
                let model = Model::of(trial.bundle.manifest());
                self.trial = None;
                self.tell(News::GivenUp { model, reason: "its trial was ended by hand".to_owned() });
            }
            return Ok(());
        }
        let wanted = slots.without_trial();
        let digest = wanted.held().map(|held| held.digest);
        if digest != self.running && (digest.is_none() || digest != self.unusable) {
            self.replace(&store, wanted.held().cloned());
            return Ok(());
        }
        if matches!(slots.next_boot(), Boot::Trial(_)) {
            drop(store);
            return self.try_candidate();
        }
        Ok(())
    }

    /// Another model is the current one: it takes over without a trial, which it has had.
    fn replace(&mut self, store: &Store<Folder>, held: Option<Held>) {
        let loaded = match &held {
            Some(held) => store.load(held, &self.roots).map_err(|error| error.to_string()),
            None => Bundle::embedded().map_err(|error| error.to_string()),
        };
        let ready = loaded.and_then(|bundle| {
            let made = Shadow::new(&self.engine, &bundle, self.settings.clone());
            made.map(|shadow| (bundle, shadow)).map_err(|error| error.to_string())
        });
        match ready {
            Ok((bundle, shadow)) => {
                let model = Model::of(bundle.manifest());
                self.running = held.map(|held| held.digest);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = bundle;
                let reason = "it is the current one now".to_owned();
                self.tell(News::TakeOver { model, reason, successor: Some(Box::new(shadow)) });
            }
            Err(reason) => {
                log::error!("{reason}; the model in use stays");
                self.unusable = held.map(|held| held.digest);
            }
        }
    }

    /// Starts a trial: written down first, then loaded, then compared with its goldens.
    fn try_candidate(&mut self) -> Result<(), SlotError> {
        let Some(folder) = Folder::try_lock(&self.folder).map_err(SlotError::io("lock", &self.folder))?
        else {
            return Ok(());
        };
        let Some(lock) = folder.try_lock_trial().map_err(SlotError::io("lock", &self.folder))? else {
            return Ok(());
        };
        let mut store = Store::open(folder)?;
        let Boot::Trial(held) = store.boot(self.settings.trial_boots, now_unix_s())? else { return Ok(()) };
        let model = Model { id: held.id.clone(), version: held.version.clone(), status: "unknown" };
        let loaded = store.load_for_trial(&held, &self.roots);
        drop(store);
        let ready = loaded.map_err(|error| error.to_string()).and_then(|bundle| {
            let floor = Bundle::embedded().map_err(|error| error.to_string())?;
            try_out(&self.engine, &bundle, &floor, &self.settings).map_err(|error| error.to_string())?;
            let made = Shadow::new(&self.engine, &bundle, self.settings.clone());
            made.map(|shadow| (bundle, shadow)).map_err(|error| error.to_string())
        });
        match ready {
            Ok((bundle, shadow)) => {
                self.trial = Some(Trial { held, bundle, _lock: lock });
                self.tell(News::Beside(Box::new(shadow)));
            }
            Err(reason) => {
                Store::locked(&self.folder)?.fail(&held, &reason, now_unix_s())?;
                self.tell(News::GivenUp { model, reason });
            }
        }
        Ok(())
    }

    /// The candidate was seen often enough.
    fn settle(&mut self, outcome: Result<Alike, Unlike>) -> Result<(), SlotError> {
        let Some(trial) = self.trial.take() else { return Ok(()) };
        let model = Model::of(trial.bundle.manifest());
        let mut store = Store::locked(&self.folder)?;
        let alike = match outcome {
            Ok(alike) => alike,
            Err(unlike) => {
                let reason = unlike.to_string();
                store.fail(&trial.held, &reason, now_unix_s())?;
                self.tell(News::GivenUp { model, reason });
                return Ok(());
            }
        };
        let reason = format!(
            "{} looks beside the model before: {:.1} % contrary verdicts, mean score {:+.3}, {:.2} times the time",
            alike.n_looks,
            100.0 * alike.contrary,
            alike.shift,
            alike.time_ratio
        );
        let kept = store
            .ran_well(trial.held.digest, now_unix_s())
            .and_then(|()| store.confirm_because(&self.roots, &reason, now_unix_s()));
        match kept {
            Ok(held) => {
                self.running = Some(held.digest);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = trial.bundle;
                self.tell(News::TakeOver { model, reason, successor: None });
            }
            Err(error) => self.tell(News::GivenUp { model, reason: error.to_string() }),
        }
        Ok(())
    }
}
