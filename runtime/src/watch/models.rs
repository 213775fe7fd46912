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
    Alike, Boot, Folder, Held, Name, Settings, Slot, SlotError, Slots, Store, TrialLock, Unlike, now_unix_s,
    try_out,
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
    /// The candidate with this file is loaded and has passed its self-test.
    Beside(Digest, Box<Shadow>),
    /// The model of this bundle takes over: the candidate, or the given one.
    TakeOver { model: Model, reason: String, bundle: Box<Bundle>, successor: Option<Box<Shadow>> },
    /// A candidate is given up.
    GivenUp { model: Model, reason: String },
}

/// What the candidate with this file was found to be.
type Report = (Digest, Result<Alike, Unlike>);

/// The models of the slots' folder.
pub struct Succession {
    news: Receiver<News>,
    /// Gone when watching ends.
    reports: Option<Sender<Report>>,
    thread: Option<JoinHandle<()>>,
    current: Arc<Mutex<Bundle>>,
    /// The candidate that nothing was reported of so far.
    compared: Option<Digest>,
}

impl Succession {
    /// Looks after the slots of `settings.folder` beside a run of `current`, whose bundle is `running`; nothing for the
    /// built-in one. `current` becomes the bundle that takes over when it does.
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
            running,
            trial: None,
            unusable: None,
            news: to,
        };
        let thread = std::thread::spawn(move || keeper.keep(&from));
        Succession { news, reports: Some(reports), thread: Some(thread), current, compared: None }
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
        if let (Some(shadow), Some(digest), Some(reports)) = (shadow.as_ref(), self.compared, &self.reports)
            && let Some(outcome) = shadow.outcome()
        {
            // Nobody listens any more only at the very end.
            let _ = reports.send((digest, outcome));
            self.compared = None;
        }
        let say = |step, model, reason| What::Model { step, model, reason };
        Some(match self.news.try_recv().ok()? {
            News::Beside(digest, candidate) => {
                let model = Model::of(candidate.manifest());
                self.compared = Some(digest);
                *shadow = Some(*candidate);
                Turn { what: say(ModelStep::TrialStarted, model, None), successor: None }
            }
            News::TakeOver { model, reason, bundle, successor } => {
                let successor = successor.map(|successor| *successor).or_else(|| shadow.take());
                self.compared = None;
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = *bundle;
                Turn { what: say(ModelStep::TookOver, model, Some(reason)), successor }
            }
            News::GivenUp { model, reason } => {
                *shadow = None;
                self.compared = None;
                Turn { what: say(ModelStep::GivenUp, model, Some(reason)), successor: None }
            }
        })
    }
}

/// A candidate on its way.
struct Trial {
    held: Held,
    bundle: Bundle,
    /// What it was found to be, until that is written down.
    outcome: Option<Result<Alike, Unlike>>,
    /// Whether it is written down that this run was a good one.
    is_counted: bool,
    /// No other run makes a trial meanwhile.
    _lock: TrialLock,
}

/// The thread's side.
struct Keeper {
    folder: PathBuf,
    settings: Settings,
    roots: Roots,
    engine: Engine,
    running: Option<Digest>,
    trial: Option<Trial>,
    /// A confirmed bundle that can't be run; it isn't tried again.
    unusable: Option<Digest>,
    news: SyncSender<News>,
}

impl Keeper {
    fn keep(&mut self, reports: &Receiver<Report>) {
        let mut said = String::new();
        loop {
            let done = match reports.recv_timeout(LOOK) {
                Ok((digest, outcome)) => self.hear(digest, outcome),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => {
                    return self
                        .end()
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

    /// Watching is over: a trial that has shown nothing by now doesn't count as one.
    fn end(&mut self) -> Result<(), SlotError> {
        self.settle()?;
        match self.trial.take() {
            Some(trial) if !trial.is_counted => {
                Store::locked(&self.folder)?.was_not_tried(trial.held.digest, now_unix_s())
            }
            _ => Ok(()),
        }
    }

    /// Looks at the slots: a trial that somebody else has ended, another current model, a candidate.
    fn look(&mut self) -> Result<(), SlotError> {
        if !self.folder.is_dir() {
            return Ok(());
        }
        if self.trial.is_some() {
            return self.settle();
        }
        let store = Store::readable(&self.folder)?;
        let slots = &store.record().slots;
        let wanted = slots.without_trial();
        let digest = wanted.held().map(|held| held.digest);
        if digest != self.running && (digest.is_none() || digest != self.unusable) {
            self.replace(&store, wanted.held().cloned());
            return Ok(());
        }
        if slots.candidate().is_some() {
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
                let reason = "it is the current one now".to_owned();
                let (bundle, successor) = (Box::new(bundle), Some(Box::new(shadow)));
                self.tell(News::TakeOver { model, reason, bundle, successor });
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
        // A device that has lost its own key list has no bundle to blame.
        store.key_list(&self.roots)?;
        let candidate = store.record().slots.candidate();
        let Boot::Trial(held) = store.boot(self.settings.trial_boots, now_unix_s())? else {
            // Its starts were used up by runs that didn't end.
            let given_up = match candidate.map(|name| store.record().slots.slot(name)) {
                Some(Slot::Bad { held, reason }) => {
                    Some(News::GivenUp { model: named(held), reason: reason.clone() })
                }
                _ => None,
            };
            drop(store);
            if let Some(news) = given_up {
                self.tell(news);
            }
            return Ok(());
        };
        let loaded = match store.load_for_trial(&held, &self.roots) {
            Err(error) if error.may_pass() => {
                store.was_not_tried(held.digest, now_unix_s())?;
                return Err(error);
            }
            loaded => loaded,
        };
        drop(store);
        let ready = loaded.map_err(|error| error.to_string()).and_then(|bundle| {
            let floor = Bundle::embedded().map_err(|error| error.to_string())?;
            try_out(&self.engine, &bundle, &floor, &self.settings).map_err(|error| error.to_string())?;
            let made = Shadow::new(&self.engine, &bundle, self.settings.clone());
            made.map(|shadow| (bundle, shadow)).map_err(|error| error.to_string())
        });
        match ready {
            Ok((bundle, shadow)) => {
                let digest = held.digest;
                self.trial = Some(Trial { held, bundle, outcome: None, is_counted: false, _lock: lock });
                self.tell(News::Beside(digest, Box::new(shadow)));
            }
            Err(reason) => {
                Store::locked(&self.folder)?.fail(&held, &reason, now_unix_s())?;
                self.tell(News::GivenUp { model: named(&held), reason });
            }
        }
        Ok(())
    }

    /// The candidate was seen often enough.
    fn hear(&mut self, digest: Digest, outcome: Result<Alike, Unlike>) -> Result<(), SlotError> {
        match &mut self.trial {
            Some(trial) if trial.held.digest == digest => trial.outcome = Some(outcome),
            // Somebody else was faster.
            _ => return Ok(()),
        }
        self.settle()
    }

    /// Ends the trial if somebody else has, or if it has an outcome. It goes on until that is written down, so that the next look
    /// tries again where a disk fails.
    fn settle(&mut self) -> Result<(), SlotError> {
        let Some(trial) = &mut self.trial else { return Ok(()) };
        let digest = trial.held.digest;
        if trial.outcome.is_none()
            && ended_meanwhile(&Store::readable(&self.folder)?.record().slots, digest).is_none()
        {
            return Ok(());
        }
        let mut store = Store::locked(&self.folder)?;
        let ended = match ended_meanwhile(&store.record().slots, digest) {
            Some(ended) => ended,
            None => match write_down(&mut store, trial, &self.roots)? {
                Some(ended) => ended,
                None => return Ok(()),
            },
        };
        drop(store);
        let Some(trial) = self.trial.take() else { return Ok(()) };
        let model = Model::of(trial.bundle.manifest());
        match ended {
            Ok(reason) => {
                self.running = Some(digest);
                let bundle = Box::new(trial.bundle);
                self.tell(News::TakeOver { model, reason, bundle, successor: None });
            }
            Err(reason) => self.tell(News::GivenUp { model, reason }),
        }
        Ok(())
    }
}

/// How a trial ended, with the reason: the candidate takes over, or is given up.
type Ended = Result<String, String>;

/// What somebody else, a person say, has made of the candidate; nothing while it is in trial.
fn ended_meanwhile(slots: &Slots, digest: Digest) -> Option<Ended> {
    let is_in_trial = |name| matches!(slots.slot(name), Slot::Trial { held, .. } if held.digest == digest);
    if slots.candidate().is_some_and(is_in_trial) {
        return None;
    }
    if slots.without_trial().held().is_some_and(|held| held.digest == digest) {
        return Some(Ok("it was confirmed meanwhile".to_owned()));
    }
    let why = Name::ALL.into_iter().find_map(|name| match slots.slot(name) {
        Slot::Bad { held, reason } if held.digest == digest => Some(format!(": {reason}")),
        _ => None,
    });
    Some(Err(format!("its trial was ended meanwhile{}", why.unwrap_or_default())))
}

/// Confirms the candidate, or gives it up, by what it was found to be; nothing while that isn't known.
fn write_down(
    store: &mut Store<Folder>,
    trial: &mut Trial,
    roots: &Roots,
) -> Result<Option<Ended>, SlotError> {
    let Some(outcome) = &trial.outcome else { return Ok(None) };
    let ended = match outcome {
        Err(unlike) => Err(unlike.to_string()),
        Ok(alike) => {
            if !trial.is_counted {
                store.ran_well(trial.held.digest, now_unix_s())?;
                trial.is_counted = true;
            }
            store.key_list(roots)?;
            let reason = format!(
                "{} looks beside the model before: {:.1} % contrary verdicts, mean score {:+.3}, {:.2} times the time",
                alike.n_looks,
                100.0 * alike.contrary,
                alike.shift,
                alike.time_ratio
            );
            match store.confirm_because(roots, &reason, now_unix_s()) {
                Ok(_) => Ok(reason),
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => Err(error.to_string()),
            }
        }
    };
    if let Err(reason) = &ended {
        store.fail(&trial.held, reason, now_unix_s())?;
    }
    Ok(Some(ended))
}

/// A model of which nothing is loaded.
fn named(held: &Held) -> Model {
    Model { id: held.id.clone(), version: held.version.clone(), status: "unknown" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_bundle_changes_when_the_model_does() {
        let built_in = Bundle::embedded().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = built_in.manifest().clone();
        manifest.version = "9.0.0".into();
        std::fs::write(folder.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        std::fs::write(folder.path().join(&manifest.model.file), built_in.model()).unwrap();
        let next = Bundle::open(folder.path()).unwrap();

        let current = Arc::new(Mutex::new(built_in));
        let version = || current.lock().unwrap().manifest().version.clone();
        let (to, news) = sync_channel(1);
        let (current_too, compared) = (Arc::clone(&current), Some(Digest::of(b"next")));
        let mut succession = Succession { news, reports: None, thread: None, current: current_too, compared };
        let mut shadow = Some(Shadow::new(&Engine::default(), &next, Settings::default()).unwrap());
        let model = Model::of(next.manifest());
        let (reason, bundle) = (String::new(), Box::new(next));
        to.send(News::TakeOver { model, reason, bundle, successor: None }).unwrap();
        assert_ne!(version(), "9.0.0");
        let turn = succession.tend(&mut shadow).unwrap();
        assert!(turn.successor.is_some() && shadow.is_none());
        assert_eq!(version(), "9.0.0");
        assert!(succession.tend(&mut shadow).is_none());
    }
}
