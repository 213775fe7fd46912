//! A start of the program on a device with slots: which bundle runs.

use super::state::{Boot, Held, Name, Slot};
use super::store::{Files, Store};
use super::{Settings, SlotError, try_out};
use crate::bundle::{Bundle, BundleError, Digest, Roots};
use crate::engine::Engine;

/// What a start runs.
pub struct Started {
    /// It.
    pub bundle: Bundle,
    /// The slot's file that it is of; `None` for the built-in bundle.
    pub digest: Option<Digest>,
    /// The bundle in trial: [`Store::ran_well`] is to be told when the run has ended well.
    pub trial: Option<Digest>,
    /// What was given up on the way, and what else went wrong, for people.
    pub notes: Vec<String>,
}

/// Chooses the bundle to run. One in trial must pass its self-test first; one that doesn't, or whose file is
/// damaged or gone, is given up for the one before it. A file that is the one that was installed and isn't
/// trusted now is kept: the roots of this start may be the wrong ones. The built-in bundle is always left.
///
/// # Errors
/// [`BundleError`] when the build put in a broken one.
pub fn start<F: Files>(
    store: &mut Store<F>,
    engine: &Engine,
    roots: &Roots,
    limits: &Settings,
    now_unix_s: u64,
) -> Result<Started, BundleError> {
    let floor = Bundle::embedded()?;
    let mut notes = Vec::new();
    let mut may_try = true;
    // A trial, the current bundle, the one before it.
    for _ in 0..3 {
        let boot = if may_try { boot(store, limits, now_unix_s, &mut notes) } else { without_trial(store) };
        let (held, loaded) = match &boot {
            Boot::Floor => break,
            Boot::Trial(held) => (held, store.load_for_trial(held, roots)),
            Boot::Confirmed(held) => (held, store.load(held, roots)),
        };
        let is_trial = matches!(boot, Boot::Trial(_));
        let reason = match loaded {
            Ok(bundle) if is_trial => match try_out(engine, &bundle, &floor, limits) {
                Ok(fit) => {
                    log::info!("{}: in trial, {:.2} times the time", name(held), fit.time_ratio);
                    let digest = Some(held.digest);
                    return Ok(Started { bundle, digest, trial: digest, notes });
                }
                Err(unfit) => unfit.to_string(),
            },
            Ok(bundle) => return Ok(Started { bundle, digest: Some(held.digest), trial: None, notes }),
            Err(error) if error.is_loss() => error.to_string(),
            Err(error) if is_trial => {
                notes.push(format!("{}: {error}; no trial this time", name(held)));
                if let Err(error) = store.was_not_tried(held.digest, now_unix_s) {
                    notes.push(error.to_string());
                }
                may_try = false;
                continue;
            }
            Err(error) => {
                notes.push(unusable(held, &error));
                break;
            }
        };
        notes.push(given_up(held, &reason));
        if let Err(error) = store.fail(held, &reason, now_unix_s) {
            notes.push(error.to_string());
            break;
        }
    }
    Ok(Started { bundle: floor, digest: None, trial: None, notes })
}

/// What is to run by the record; a trial whose starts are used up is noted.
fn boot<F: Files>(store: &mut Store<F>, limits: &Settings, now_unix_s: u64, notes: &mut Vec<String>) -> Boot {
    let before = store.record().slots.clone();
    match store.boot(limits.trial_boots, now_unix_s) {
        Ok(boot) => {
            for name in Name::ALL {
                let slot = store.record().slots.slot(name);
                if let Slot::Bad { held, reason } = slot
                    && before.slot(name) != slot
                {
                    notes.push(given_up(held, reason));
                }
            }
            boot
        }
        Err(error) => {
            notes.push(format!("{error}; no trial without a record of it"));
            without_trial(store)
        }
    }
}

fn without_trial<F: Files>(store: &Store<F>) -> Boot {
    store.record().slots.without_trial()
}

/// The bundle to run where no trial is made; `why` is for people, where one was to be expected.
///
/// # Errors
/// As [`start`].
pub fn start_without_trial<F: Files>(
    store: &Store<F>,
    roots: &Roots,
    why: Option<&str>,
) -> Result<Started, BundleError> {
    let mut notes: Vec<String> = why.map(|why| format!("{why}: no trial this time")).into_iter().collect();
    if let Some(held) = without_trial(store).held() {
        match store.load(held, roots) {
            Ok(bundle) => return Ok(Started { bundle, digest: Some(held.digest), trial: None, notes }),
            Err(error) => notes.push(unusable(held, &error)),
        }
    }
    Ok(Started { bundle: Bundle::embedded()?, digest: None, trial: None, notes })
}

fn name(held: &Held) -> String {
    format!("bundle {} {}", held.id, held.version)
}

fn given_up(held: &Held, reason: &str) -> String {
    format!("{} is given up: {reason}", name(held))
}

fn unusable(held: &Held, error: &SlotError) -> String {
    format!("{}: {error}; the built-in bundle runs this time", name(held))
}
