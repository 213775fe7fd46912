//! Which model a run uses: the one that is named, the slots', or the built-in one.

use std::io;
use std::path::{Path, PathBuf};

use candor::bundle::{self, Digest, Manifest, Roots};
use candor::engine::{Engine, EngineError};
use candor::slot::{self, Folder, Settings, SlotError, Store, TrialLock, now_unix_s};

use crate::models::{Failure, admitted, usage};

/// The bundle that a run uses.
pub(crate) struct Chosen {
    /// It.
    pub(crate) bundle: bundle::Bundle,
    /// The slot's file that it is of.
    pub(crate) digest: Option<Digest>,
    /// Set where it is in trial.
    pub(crate) trial: Option<Trial>,
    /// What went wrong on the way, for people.
    pub(crate) notes: Vec<String>,
}

/// A trial that this run makes, and no other one while it lives.
pub(crate) struct Trial {
    digest: Digest,
    folder: PathBuf,
    _lock: TrialLock,
}

/// What a run with a bundle in trial came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It scored crops.
    RanWell,
    /// It met none.
    NothingToScore,
    /// Its network failed, and how.
    Failed(String),
}

impl Trial {
    /// Writes down what the run came to.
    pub(crate) fn end(self, outcome: &Outcome) {
        let now = now_unix_s();
        let written = Store::locked(&self.folder).and_then(|mut store| match outcome {
            Outcome::RanWell => store.ran_well(self.digest, now),
            Outcome::NothingToScore => store.was_not_tried(self.digest, now),
            Outcome::Failed(reason) => {
                let held = store.record().slots.held().find(|held| held.digest == self.digest).cloned();
                held.map_or(Ok(()), |held| store.fail(&held, reason, now))
            }
        });
        if let Err(error) = written {
            eprintln!("candor: {error}; this run counts as a failed start");
        }
    }
}

impl Chosen {
    /// One that is of no slot.
    fn alone(bundle: bundle::Bundle) -> Self {
        Chosen { bundle, digest: None, trial: None, notes: Vec::new() }
    }

    fn of_slots(started: slot::Started, trial: Option<Trial>) -> Self {
        Chosen { bundle: started.bundle, digest: started.digest, trial, notes: started.notes }
    }
}

fn built_in() -> Result<Chosen, String> {
    bundle::Bundle::embedded().map(Chosen::alone).map_err(|error| error.to_string())
}

/// The bundle that is named, else the slots', which `of_slots` gets, else the built-in one.
///
/// # Errors
/// What is wrong with the bundle that was named, or with the settings.
fn choose(
    named: Option<&Path>,
    settings: &Settings,
    of_slots: impl FnOnce(&Path, &Roots) -> Result<Chosen, SlotError>,
) -> Result<Chosen, String> {
    match (named, settings.trusted_folder()) {
        (Some(folder), _) if folder.is_dir() => {
            bundle::Bundle::open(folder).map(Chosen::alone).map_err(|error| error.to_string())
        }
        (Some(file), _) => signed(file, settings).map(Chosen::alone).map_err(|Failure(_, message)| message),
        // Nothing was ever installed where there is no folder.
        (None, Some(folder)) if !matches!(folder.try_exists(), Ok(false)) => {
            let roots = settings.roots().map_err(|error| error.to_string())?;
            of_slots(folder, &roots).or_else(|error| {
                let mut chosen = built_in()?;
                chosen.notes.push(format!("{error}; the built-in bundle runs"));
                Ok(chosen)
            })
        }
        (None, _) => built_in(),
    }
}

/// The bundle to look at or to begin with: of the slots the confirmed one, so that nothing is written down.
///
/// # Errors
/// What is wrong with the bundle that was named, or with the settings.
pub(crate) fn bundle_to_look_at(named: Option<&Path>, settings: &Settings) -> Result<Chosen, String> {
    choose(named, settings, |folder, roots| {
        let started = slot::start_without_trial(&Store::readable(folder)?, roots, None)?;
        Ok(Chosen::of_slots(started, None))
    })
}

/// As [`load`] without a trial, which is made beside the model that is chosen; its file where it is a slot's.
///
/// # Errors
/// What to say.
pub(crate) fn load_beside<T>(
    named: Option<&Path>,
    settings: &Settings,
    make: impl Fn(&bundle::Bundle) -> Result<T, EngineError>,
) -> Result<(T, bundle::Bundle, Option<Digest>), String> {
    let (made, chosen) = made(bundle_to_look_at(named, settings)?, named.is_some(), make)?;
    Ok((made, chosen.bundle, chosen.digest))
}

/// What a run loads of the bundle that it uses, and the trial where that is in one. A model of the slots that can't be
/// loaded gives way to the built-in one.
///
/// # Errors
/// What to say.
pub(crate) fn load<T>(
    named: Option<&Path>,
    settings: &Settings,
    engine: &Engine,
    make: impl Fn(&bundle::Bundle) -> Result<T, EngineError>,
) -> Result<(T, bundle::Bundle, Option<Trial>), String> {
    let chosen = choose(named, settings, |folder, roots| from_slots(folder, roots, settings, engine))?;
    let (made, chosen) = made(chosen, named.is_some(), make)?;
    Ok((made, chosen.bundle, chosen.trial))
}

/// What is made of a bundle, and which one that is.
fn made<T>(
    chosen: Chosen,
    is_named: bool,
    make: impl Fn(&bundle::Bundle) -> Result<T, EngineError>,
) -> Result<(T, Chosen), String> {
    for note in &chosen.notes {
        eprintln!("candor: {note}");
    }
    match make(&chosen.bundle) {
        Ok(made) => Ok((made, chosen)),
        Err(error) if !is_named && is_of(&error, chosen.bundle.manifest()) => {
            let built_in = built_in()?;
            let made = make(&built_in.bundle).map_err(|error| error.to_string())?;
            eprintln!("candor: {error}; the built-in model runs");
            if let Some(trial) = chosen.trial {
                trial.end(&Outcome::Failed(error.to_string()));
            }
            Ok((made, built_in))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the network that failed is the bundle's.
pub(crate) fn is_of(error: &EngineError, manifest: &Manifest) -> bool {
    match error {
        EngineError::Load { network, .. }
        | EngineError::Shape { network, .. }
        | EngineError::Run { network, .. } => *network == manifest.id,
        EngineError::Kernels { .. } => false,
    }
}

fn from_slots(path: &Path, roots: &Roots, settings: &Settings, engine: &Engine) -> Result<Chosen, SlotError> {
    let why = match alone(path) {
        Ok(Ok((folder, lock))) => {
            let started = slot::start(&mut Store::open(folder)?, engine, roots, settings, now_unix_s())?;
            let trial = |digest| Trial { digest, folder: path.to_owned(), _lock: lock };
            let trial = started.trial.map(trial);
            return Ok(Chosen::of_slots(started, trial));
        }
        Ok(Err(why)) => why.to_owned(),
        // A folder that can't be written can be read all the same.
        Err(error) => SlotError::io("lock", path)(error).to_string(),
    };
    let started = slot::start_without_trial(&Store::readable(path)?, roots, Some(&why))?;
    Ok(Chosen::of_slots(started, None))
}

/// The folder and the right to make a trial in it, or who has one of them.
fn alone(path: &Path) -> io::Result<Result<(Folder, TrialLock), &'static str>> {
    let Some(folder) = Folder::try_lock(path)? else { return Ok(Err("the slots are being changed")) };
    Ok(folder.try_lock_trial()?.map(|lock| (folder, lock)).ok_or("another run makes a trial"))
}

fn signed(file: &Path, settings: &Settings) -> Result<bundle::Bundle, Failure> {
    let roots = settings.roots().map_err(usage)?;
    Ok(admitted(file, settings, &roots)?.load()?.0)
}
