//! `candor slot check-drop`, and the thread of `candor watch` that does the same at a slow pace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candor::bundle::Roots;
use candor::slot::{Found, Looker, Outcome, Place, Settings, SlotError, now_unix_s};

use crate::repeating::Repeating;

/// Looks once and prints what became of each file; whether any is refused now.
///
/// # Errors
/// [`SlotError`].
pub(crate) fn check(folder: &Path, settings: &Settings, roots: &Roots) -> Result<bool, SlotError> {
    let place = Place { folder, roots, limits: settings, now_unix_s };
    let found = Looker::once().look(&place, &settings.drop)?;
    if found.is_empty() {
        println!(
            "no bundle in {}",
            settings.drop.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    for Found { file, outcome } in &found {
        println!("{}: {}", file.display(), outcome.text());
    }
    Ok(found.iter().any(|found| matches!(found.outcome, Outcome::Refused(_))))
}

/// Begins to look; where no folder is configured nothing does. A look that is under way when the program ends leaves the
/// slots whole, as a power cut does.
pub(crate) fn start(settings: &Settings) -> Option<Repeating> {
    let (Some(folder), false) = (settings.folder.clone(), settings.drop.is_empty()) else { return None };
    let roots = match settings.roots() {
        Ok(roots) => roots,
        Err(error) => {
            eprintln!("candor: drop: {error}");
            return None;
        }
    };
    let settings = settings.clone();
    let pause = Duration::from_secs(u64::from(settings.drop_interval_s));
    let (mut looker, mut told) = (Looker::patient(), BTreeMap::new());
    Some(Repeating::start(Duration::ZERO, move || {
        let place = Place { folder: &folder, roots: &roots, limits: &settings, now_unix_s };
        tell(looker.look(&place, &settings.drop), &mut told);
        pause
    }))
}

/// Says what is new since the last look, on standard error.
fn tell(found: Result<Vec<Found>, SlotError>, told: &mut BTreeMap<PathBuf, String>) {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            log::warn!("drop: {error}");
            return;
        }
    };
    told.retain(|file, _| found.iter().any(|found| found.file == *file));
    for Found { file, outcome } in found {
        let text = outcome.text();
        if told.get(&file) != Some(&text) {
            match outcome {
                Outcome::Known(_) | Outcome::Waits(_) => log::info!("{}: {text}", file.display()),
                _ => eprintln!("candor: {}: {text}", file.display()),
            }
            told.insert(file, text);
        }
    }
}
