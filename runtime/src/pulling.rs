//! `candor slot pull`, and the threads of `candor watch` that do the same at a slow pace.

use std::path::Path;

use candor::bundle::Roots;
use candor::slot::{Outcome, Place, Puller, Settings, now_unix_s};

use crate::repeating::Repeating;

/// Asks every source once; prints, and gives, what came of each.
///
/// # Errors
/// What is wrong with the configuration's files.
pub(crate) fn once(folder: &Path, settings: &Settings, roots: &Roots) -> Result<Vec<Outcome>, String> {
    let place = Place { folder, roots, limits: settings, now_unix_s };
    let mut outcomes = Vec::new();
    for mut puller in Puller::of(settings).map_err(|error| error.to_string())? {
        let outcome = puller.look(&place);
        println!("{}: {}", puller.name(), outcome.text());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Who asks, for a device that takes models.
///
/// # Errors
/// What is wrong with the configuration's files.
pub(crate) fn prepare(settings: &Settings) -> Result<Vec<Puller>, String> {
    match settings.trusted_folder() {
        Some(_) => Puller::of(settings).map_err(|error| error.to_string()),
        None => Ok(Vec::new()),
    }
}

/// Begins to ask. What is under way when the program ends leaves the slots whole, as a power cut does.
pub(crate) fn start(pullers: Vec<Puller>, settings: &Settings) -> Vec<Repeating> {
    let (Some(folder), Ok(roots)) = (settings.trusted_folder(), settings.roots()) else { return Vec::new() };
    let start = |mut puller: Puller| {
        let (folder, roots, settings) = (folder.to_owned(), roots.clone(), settings.clone());
        let mut told = String::new();
        Repeating::start(puller.first_pause(), move || {
            let place = Place { folder: &folder, roots: &roots, limits: &settings, now_unix_s };
            let outcome = puller.look(&place);
            let text = outcome.text();
            if text != told {
                match outcome {
                    Outcome::Known(_) | Outcome::Waits(_) => log::info!("{}: {text}", puller.name()),
                    _ => eprintln!("candor: {}: {text}", puller.name()),
                }
                told = text;
            }
            puller.pause()
        })
    };
    pullers.into_iter().map(start).collect()
}
