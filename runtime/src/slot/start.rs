//! A start of the program on a device with slots: which bundle runs.

use super::state::{Boot, Held};
use super::store::{Files, Store};
use super::{Settings, try_out};
use crate::bundle::{Bundle, BundleError, Digest, Roots};
use crate::engine::Engine;

/// What a start runs.
pub struct Started {
    /// It.
    pub bundle: Bundle,
    /// The bundle in trial: to be told to [`Store::ran_well`] when the run has ended well.
    pub trial: Option<Digest>,
    /// What was given up on the way, and what else went wrong, for people.
    pub notes: Vec<String>,
}

/// Chooses the bundle to run. One in trial must pass its self-test first; one that doesn't, or whose file is
/// damaged, is given up for the one before it. The built-in bundle is always left.
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
    // A trial, the current bundle, the one before it.
    for _ in 0..3 {
        let boot = match store.boot(limits.trial_boots, now_unix_s) {
            Ok(boot) => boot,
            Err(error) => {
                notes.push(format!("{error}; no trial without a record of it"));
                store.record().slots.without_trial()
            }
        };
        let Some(held) = boot.held() else { break };
        let reason = match (store.load(held, roots), &boot) {
            (Err(error), _) => {
                if !error.is_of_bundle() {
                    notes.push(format!("{}: {error}; the built-in bundle runs this time", name(held)));
                    break;
                }
                error.to_string()
            }
            (Ok(bundle), Boot::Trial(_)) => match try_out(engine, &bundle, &floor, limits) {
                Ok(fit) => {
                    log::info!("{}: in trial, {:.2} times the time", name(held), fit.time_ratio);
                    return Ok(Started { bundle, trial: Some(held.digest), notes });
                }
                Err(unfit) => unfit.to_string(),
            },
            (Ok(bundle), _) => return Ok(Started { bundle, trial: None, notes }),
        };
        notes.push(format!("{} is given up: {reason}", name(held)));
        if let Err(error) = store.fail(held, &reason, now_unix_s) {
            notes.push(error.to_string());
            break;
        }
    }
    Ok(Started { bundle: floor, trial: None, notes })
}

/// The bundle to run while another process is at work on the slots: no trial.
///
/// # Errors
/// As [`start`].
pub fn start_without_trial<F: Files>(store: &Store<F>, roots: &Roots) -> Result<Started, BundleError> {
    let mut notes = vec!["the slots are being changed: no trial this time".to_owned()];
    if let Some(held) = store.record().slots.without_trial().held() {
        match store.load(held, roots) {
            Ok(bundle) => return Ok(Started { bundle, trial: None, notes }),
            Err(error) => notes.push(format!("{}: {error}; the built-in bundle runs this time", name(held))),
        }
    }
    Ok(Started { bundle: Bundle::embedded()?, trial: None, notes })
}

fn name(held: &Held) -> String {
    format!("bundle {} {}", held.id, held.version)
}
