//! Bundles that the device fetches itself: `channel` follows a signed file on a web server, `hawkbit` asks an update
//! server. Both say which bundle is wanted by its SHA-256; the part of it that has come is kept as `receive` keeps it,
//! and what is whole goes through the installation that any file goes through.

mod channel;
mod hawkbit;
mod memo;
mod web;

use std::time::Duration;

pub use self::channel::Settings as ChannelSettings;
pub use self::hawkbit::Settings as HawkbitSettings;
use self::web::{Web, WebError};
use super::dropped::is_of_reader;
use super::part::Part;
use super::receive::{Place, fits, install, lacks_room};
use super::{Folder, Held, Inadmissible, Name, Outcome, Settings, Slot, SlotError, Store};
use crate::bundle::{BundleError, Digest};
use crate::secret::SecretError;

/// Shortest pause after a failure, and the longest where the interval isn't longer: a server that sends something else
/// than it says costs its whole length each time.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(3600);
/// A first look comes within this time, so that a fleet that has power again doesn't come at once.
const FIRST_LOOK: Duration = Duration::from_secs(600);

/// Where bundles come from.
enum Source {
    Channel(channel::Follower),
    Hawkbit(hawkbit::Client),
}

/// Asks one of the sources that are configured, again and again.
pub struct Puller {
    source: Source,
    /// Looks that failed since one that didn't.
    n_failed: u32,
}

impl Puller {
    /// One for each source of `settings`, which have been checked.
    ///
    /// # Errors
    /// [`SecretError`] for a file of theirs that can't be used.
    pub fn of(settings: &Settings) -> Result<Vec<Self>, SecretError> {
        let channel = settings.channel.as_ref().map(channel::Follower::new).transpose()?;
        let hawkbit = settings.hawkbit.as_ref().map(hawkbit::Client::new).transpose()?;
        let sources = channel.map(Source::Channel).into_iter().chain(hawkbit.map(Source::Hawkbit));
        Ok(sources.map(|source| Puller { source, n_failed: 0 }).collect())
    }

    /// The source's name, for people.
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Channel(_) => "channel",
            Source::Hawkbit(_) => "hawkBit",
        }
    }

    /// Asks once, and takes what is wanted.
    pub fn look(&mut self, place: &Place<'_>) -> Outcome {
        let outcome = match &mut self.source {
            Source::Channel(follower) => follower.look(place),
            Source::Hawkbit(client) => client.look(place),
        };
        let outcome = outcome.unwrap_or_else(|error| match error.is_of_disk() {
            true => Outcome::Failed(error.to_string()),
            false => Outcome::Refused(error.to_string()),
        });
        let is_failed = matches!(outcome, Outcome::Failed(_));
        self.n_failed = if is_failed { self.n_failed.saturating_add(1) } else { 0 };
        outcome
    }

    /// How long to wait before the first look.
    pub fn first_pause(&self) -> Duration {
        self.interval().min(FIRST_LOOK).mul_f64(chance())
    }

    /// How long to wait after a look: the interval, give or take a quarter of it; after failures less, at first.
    pub fn pause(&self) -> Duration {
        let interval = self.interval();
        let pause = match self.n_failed {
            0 => interval,
            n => interval.max(LAST_PAUSE).min(FIRST_PAUSE.saturating_mul(1 << (n - 1).min(16))),
        };
        pause.mul_f64(0.75 + 0.5 * chance())
    }

    fn interval(&self) -> Duration {
        match &self.source {
            Source::Channel(follower) => follower.interval(),
            Source::Hawkbit(client) => client.interval(),
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    // Devices that all have no randomness would only come together.
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

/// How the slots stand to a bundle.
enum Standing {
    /// It is to be tried, or is being tried.
    Candidate(String),
    /// It was found good and runs.
    Runs(String),
    /// It was found good; another one runs since.
    Before(Held),
    /// It was found bad.
    Bad(String),
}

/// What the slots say of a bundle; nothing of one that they don't know.
fn standing(store: &Store<Folder>, digest: Digest) -> Option<Standing> {
    let slots = &store.record().slots;
    Name::ALL.into_iter().find_map(|name| match slots.slot(name) {
        Slot::Staged(held) if held.digest == digest => {
            Some(Standing::Candidate("installed; its trial decides".to_owned()))
        }
        Slot::Trial { held, left, .. } if held.digest == digest => {
            Some(Standing::Candidate(format!("in trial, {left} starts left")))
        }
        Slot::Confirmed(held) if held.digest == digest && slots.current() == Some(name) => {
            Some(Standing::Runs(format!("{} {} was found good and runs", held.id, held.version)))
        }
        Slot::Confirmed(held) if held.digest == digest => Some(Standing::Before(held.clone())),
        Slot::Bad { held, reason } if held.digest == digest => {
            Some(Standing::Bad(format!("{} {}: {reason}", held.id, held.version)))
        }
        _ => None,
    })
}

/// Why a bundle has to wait: another one is to be tried first.
fn waits(store: &Store<Folder>) -> Option<String> {
    let slots = &store.record().slots;
    let held = slots.candidate().and_then(|name| slots.slot(name).held())?;
    Some(format!("{} {} is to be tried first", held.id, held.version))
}

/// Goes back to the bundle that ran before, which needs no other trial. No candidate may wait.
fn go_back(
    store: &mut Store<Folder>,
    held: &Held,
    origin: &str,
    now_unix_s: u64,
) -> Result<Outcome, SlotError> {
    let (least, found) = (store.record().slots.security_epoch(), held.security_epoch);
    if found < least {
        return Ok(Outcome::Refused(Inadmissible::Epoch { least, found }.to_string()));
    }
    let name = format!("{} {}", held.id, held.version);
    store.roll_back(&format!("{origin}: back to {name}"), now_unix_s)?;
    Ok(Outcome::Known(format!("back to {name}")))
}

/// A bundle that is wanted.
struct Wanted<'a> {
    digest: Digest,
    size_bytes: u64,
    url: &'a str,
    /// For the history.
    origin: &'a str,
}

/// Fetches a bundle, from where an earlier time was cut off, and installs it.
fn fetch(place: &Place<'_>, web: &Web, wanted: &Wanted<'_>) -> Result<Outcome, SlotError> {
    if let Some(why) = fits(place, wanted.size_bytes) {
        return Ok(Outcome::Refused(why));
    }
    let Some(mut part) = Part::open(place.folder, wanted.digest, wanted.size_bytes)? else {
        return Ok(Outcome::Waits("another transfer is under way".to_owned()));
    };
    if let Some(why) = lacks_room(place, wanted.size_bytes, part.n_bytes()) {
        return Ok(Outcome::Failed(why));
    }
    if !part.is_whole()
        && let Some(why) = download(&mut part, web, wanted.url)?
    {
        return Ok(Outcome::Failed(format!("{}: {why}", wanted.url)));
    }
    if let Some(why) = part.difference() {
        part.forget()?;
        return Ok(Outcome::Failed(format!("{}: {why}", wanted.url)));
    }
    match install(place, part, wanted.digest, Some(wanted.origin)) {
        Ok(held) => Ok(Outcome::Installed(held)),
        // The slots are in no state for it: what has come is kept.
        Err(SlotError::Refused(why)) => Ok(Outcome::Waits(why.to_string())),
        Err(SlotError::Bundle(BundleError::Read { cause, what })) if is_of_reader(&cause) => {
            Ok(Outcome::Failed(format!("{what}: {cause}")))
        }
        Err(error) => Err(error),
    }
}

/// Takes what is missing of a part; why it didn't come.
fn download(part: &mut Part, web: &Web, url: &str) -> Result<Option<String>, SlotError> {
    let coming = match web.download(url, part.n_bytes()) {
        Ok(coming) => coming,
        Err(error) => {
            // A part that is none of the file's, or a server that means something else by it, is begun anew.
            if matches!(error, WebError::Status(ureq::http::StatusCode::RANGE_NOT_SATISFIABLE)) {
                part.empty()?;
            }
            return Ok(Some(error.to_string()));
        }
    };
    if coming.from == 0 && part.n_bytes() > 0 {
        part.empty()?;
    }
    let ended = part.fill(&mut coming.reader(), |_| ())?;
    Ok(ended.map(|error| format!("{error}; {} bytes are kept", part.n_bytes())))
}
