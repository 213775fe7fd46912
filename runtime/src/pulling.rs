//! `candor slot pull`, and the threads of `candor watch` that do the same at a slow pace.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use candor::bundle::Roots;
use candor::slot::{Outcome, Place, Puller, Settings, now_unix_s};

/// Asks every source once and prints what came of it; the worst.
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

/// Threads that ask until this goes; where no source is configured there are none.
pub(crate) struct Pulling(
    #[expect(dead_code, reason = "the threads end when they are gone")] Vec<Sender<()>>,
);

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

impl Pulling {
    /// Begins to ask. What is under way when the program ends leaves the slots whole, as a power cut does.
    pub(crate) fn start(pullers: Vec<Puller>, settings: &Settings) -> Self {
        let (Some(folder), Ok(roots)) = (settings.trusted_folder(), settings.roots()) else {
            return Pulling(Vec::new());
        };
        let start = |mut puller: Puller| {
            let (sender, stopped) = channel();
            let (folder, roots, settings) = (folder.to_owned(), roots.clone(), settings.clone());
            thread::spawn(move || {
                let place = Place { folder: &folder, roots: &roots, limits: &settings, now_unix_s };
                let (mut pause, mut told) = (puller.first_pause(), String::new());
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let outcome = puller.look(&place);
                    let text = outcome.text();
                    if text != told {
                        match outcome {
                            Outcome::Known(_) | Outcome::Waits(_) => log::info!("{}: {text}", puller.name()),
                            _ => eprintln!("candor: {}: {text}", puller.name()),
                        }
                        told = text;
                    }
                    pause = puller.pause();
                }
            });
            sender
        };
        Pulling(pullers.into_iter().map(start).collect())
    }
}
