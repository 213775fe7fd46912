//! Bundles that somebody puts into a folder of the device, or brings on a stick.
//!
//! A look takes at most one of them, by the installation that any file goes through. What became of a bundle is kept by
//! its SHA-256, in a journal beside the slots' record, so that no bundle is taken twice, whatever it is called and
//! wherever it lies. What the device's clock, keys, settings or program refused, which may change, is tried again. Names
//! and files may be anybody's: nothing but a regular file is opened, no link is followed, and a result replaces no file
//! that it would write into.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::SlotError;
use super::folder::Folder;
use super::receive::{Place, forget_part};
use super::state::{Held, Name, Slot};
use super::store::Store;
use crate::bundle::{BundleError, Digest, MAX_HEAD_BYTES};
use crate::files;

/// The ending of what is looked at.
const ENDING: &str = ".bundle";
/// Added to a bundle's name for what became of it.
const RESULT_ENDING: &str = ".result.txt";
/// What became of bundles, in the slots' folder.
const JOURNAL: &str = "drops";
/// Bundles that a look tries; what is known already doesn't count, or it would keep others out for ever.
const MAX_TRIED: usize = 16;
/// Entries of a folder that are read.
const MAX_ENTRIES: usize = 4096;
/// Bundles that are remembered, the newest.
const MAX_REMEMBERED: usize = 256;
/// What a text of a refusal begins with.
const REFUSED: &str = "refused: ";
/// Bytes of a text that are kept.
const MAX_TEXT_BYTES: usize = 512;
/// Most bytes of a journal: every entry's digest, its text with every character escaped, and what JSON adds.
const MAX_JOURNAL_BYTES: u64 = (MAX_REMEMBERED * (6 * MAX_TEXT_BYTES + 256)) as u64;

/// What became of a file.
#[derive(Debug)]
pub enum Outcome {
    /// It is installed now.
    Installed(Held),
    /// The device doesn't take it.
    Refused(String),
    /// It was met before; what became of it then.
    Known(String),
    /// It is for a later look.
    Waits(String),
    /// The file, or the slots' disk, can't be read or written now.
    Failed(String),
}

/// A file that was looked at.
#[derive(Debug)]
pub struct Found {
    /// It.
    pub file: PathBuf,
    /// What became of it.
    pub outcome: Outcome,
}

/// What tells a file from another one without reading it.
type Mark = (u64, u64, u64, i64, i64);

/// What is known of a file as long as it has this mark.
#[derive(Debug)]
struct Met {
    mark: Mark,
    digest: Option<Digest>,
    /// Also when the journal has no room for it any more.
    entry: Option<Entry>,
}

/// Looks into folders, again and again.
#[derive(Debug, Default)]
pub struct Looker {
    /// Only a file that was the same a look before is taken: it may still be copied.
    waits_for_rest: bool,
    met: BTreeMap<PathBuf, Met>,
}

impl Looker {
    /// One who looks once, and takes what is there.
    pub fn once() -> Self {
        Looker::default()
    }

    /// One who comes again, and lets a file rest between two looks before it is taken.
    pub fn patient() -> Self {
        Looker { waits_for_rest: true, ..Looker::default() }
    }

    /// Looks at the bundles in `folders`, in the order of their names; a folder that isn't there has none.
    ///
    /// # Errors
    /// [`SlotError`] when the slots can't be read.
    pub fn look(&mut self, place: &Place<'_>, folders: &[PathBuf]) -> Result<Vec<Found>, SlotError> {
        let files: Vec<PathBuf> = folders.iter().flat_map(|folder| bundles(folder)).collect();
        let there: BTreeSet<&PathBuf> = files.iter().collect();
        self.met.retain(|file, _| there.contains(file));
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let mut journal = Journal::read(place.folder);
        let (mut found, mut n_tried) = (Vec::new(), 0);
        for file in files {
            if n_tried == MAX_TRIED {
                break;
            }
            let outcome = match self.take(place, &mut journal, &file) {
                Ok(outcome) => outcome,
                Err(error) if error.is_of_disk() => Outcome::Failed(error.to_string()),
                Err(error) => Outcome::Refused(error.to_string()),
            };
            if let Outcome::Installed(_) | Outcome::Refused(_) | Outcome::Known(_) = &outcome {
                // A stick may be write-protected.
                if let Err(error) = write_result(&file, &outcome.text()) {
                    log::info!("{}: its result: {error}", file.display());
                }
            }
            let is_read = self.met.get(&file).is_some_and(|met| met.digest.is_some());
            if is_read && !matches!(outcome, Outcome::Known(_) | Outcome::Failed(_)) {
                n_tried += 1;
            }
            found.push(Found { file, outcome });
        }
        Ok(found)
    }

    fn take(&mut self, place: &Place<'_>, journal: &mut Journal, path: &Path) -> Result<Outcome, SlotError> {
        let (mut file, mark) = match open(path) {
            Ok(opened) => opened,
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        };
        let met = self.met.remove(path).filter(|met| met.mark == mark);
        let is_resting = met.is_some() || !self.waits_for_rest;
        let mut met = met.unwrap_or(Met { mark, digest: None, entry: None });
        let outcome = if is_resting {
            take(place, journal, path, &mut file, &mut met)
        } else {
            Ok(Outcome::Waits("it was changed since the last look".to_owned()))
        };
        self.met.insert(path.to_owned(), met);
        outcome
    }
}

fn take(
    place: &Place<'_>,
    journal: &mut Journal,
    path: &Path,
    file: &mut File,
    met: &mut Met,
) -> Result<Outcome, SlotError> {
    let (size_bytes, limit_bytes) =
        (met.mark.0, place.limits.max_bundle_bytes.saturating_add(MAX_HEAD_BYTES));
    if !(1..=limit_bytes).contains(&size_bytes) {
        let why = format!("size: expected 1 to {limit_bytes} bytes, found {size_bytes}");
        return Ok(Outcome::Refused(why));
    }
    let digest = match met.digest {
        Some(digest) => digest,
        None => match Digest::of_reader((&*file).take(limit_bytes)).and_then(|d| file.rewind().map(|()| d)) {
            Ok(digest) => digest,
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        },
    };
    met.digest = Some(digest);
    let before = met.entry.take().or_else(|| journal.entry_of(digest).cloned());
    met.entry.clone_from(&before);
    if let Some(before) = &before
        && !before.may_pass
    {
        return Ok(Outcome::Known(before.text.clone()));
    }
    let mut store = Store::locked(place.folder)?;
    if let Some(outcome) = settled(&store, digest) {
        return Ok(outcome);
    }
    // A device that has lost its own key list has no bundle to blame.
    store.key_list(place.roots)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let now_unix_s = (place.now_unix_s)();
    let origin = format!("dropped as {}", one_line(&name));
    let installed = store.install_from(file, place.roots, place.limits, now_unix_s, Some(&origin));
    let (outcome, may_pass) = match installed {
        Ok(held) => (Outcome::Installed(held), false),
        Err(SlotError::Refused(why)) => return Ok(Outcome::Waits(why.to_string())),
        // A stick that was pulled out says nothing about its bundle.
        Err(SlotError::Bundle(BundleError::Read { cause, what })) if is_of_reader(&cause) => {
            return Ok(Outcome::Failed(format!("{what}: {cause}")));
        }
        Err(error) if error.is_of_disk() => return Err(error),
        Err(error) => (Outcome::Refused(error.to_string()), !error.is_of_bytes()),
    };
    let text = outcome.text();
    if let Some(before) = before
        && but_for_numbers(&before.text).eq(but_for_numbers(&text))
    {
        return Ok(Outcome::Known(before.text));
    }
    let entry = Entry { digest, text, may_pass };
    if let Outcome::Installed(held) = &outcome {
        // A file that was changed between two readings.
        journal.add(Entry { digest: held.digest, ..entry.clone() });
        forget_part(place.folder)?;
    }
    met.entry = Some(entry.clone());
    journal.add(entry);
    journal.write(place.folder)?;
    Ok(outcome)
}

impl Outcome {
    /// For people, one line.
    pub fn text(&self) -> String {
        match self {
            Outcome::Installed(held) => {
                let (id, version, digest) = (&held.id, &held.version, held.digest);
                one_line(&format!("installed: {id} {version}; the next start tries it. SHA-256 {digest}"))
            }
            Outcome::Refused(why) => one_line(&format!("{REFUSED}{why}")),
            Outcome::Known(text) => one_line(text),
            Outcome::Waits(why) => one_line(&format!("waits: {why}")),
            Outcome::Failed(why) => one_line(&format!("failed: {why}")),
        }
    }
}

/// What the slots already say about a bundle.
fn settled(store: &Store<Folder>, digest: Digest) -> Option<Outcome> {
    let slots = &store.record().slots;
    for name in Name::ALL {
        match slots.slot(name) {
            Slot::Bad { held, reason } if held.digest == digest => {
                return Some(Outcome::Known(format!("slot {name:?}: found bad: {reason}")));
            }
            slot if slot.held().is_some_and(|held| held.digest == digest) => {
                return Some(Outcome::Known(format!("slot {name:?} holds it")));
            }
            // Whoever staged it wanted it tried; a trial isn't to be disturbed.
            Slot::Staged(held) | Slot::Trial { held, .. } => {
                let (id, version) = (&held.id, &held.version);
                return Some(Outcome::Waits(format!("slot {name:?}: {id} {version} is to be tried first")));
            }
            Slot::Empty | Slot::Confirmed(_) | Slot::Bad { .. } => {}
        }
    }
    None
}

/// The files of a folder whose names end like a bundle's, in the order of their names.
fn bundles(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.take(MAX_ENTRIES).flatten().map(|entry| entry.path());
    let is_bundle = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        // Names with a dot before are what some systems leave beside a file that they copy.
        name.is_some_and(|name| name.ends_with(ENDING) && !name.starts_with('.'))
            && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_bundle).collect();
    paths.sort();
    paths
}

/// A regular file, and what marks it.
fn open(path: &Path) -> io::Result<(File, Mark)> {
    // A pipe of that name would otherwise hold up whoever opens it.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("expected a file, found something else"));
    }
    let mark = (metadata.len(), metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    Ok((file, mark))
}

/// Whether a bundle couldn't be read, which says nothing about it.
pub(super) fn is_of_reader(cause: &io::Error) -> bool {
    !matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// Writes what became of a bundle beside it, unless that stands there already.
fn write_result(bundle: &Path, text: &str) -> io::Result<()> {
    let mut name = bundle.file_name().unwrap_or_default().to_owned();
    name.push(RESULT_ENDING);
    let path = bundle.with_file_name(name);
    let text = format!("{text}\n");
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        let mut there = String::new();
        let (file, _) = open(&path)?;
        if file.take(text.len() as u64 + 1).read_to_string(&mut there).is_ok() && there == text {
            return Ok(());
        }
    }
    // Never into what is there, which may be a link or a device.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).open(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What became of a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    digest: Digest,
    text: String,
    /// Whether the same bytes may be taken another time.
    #[serde(default)]
    may_pass: bool,
}

/// The newest [`MAX_REMEMBERED`] of them. A journal that is lost or damaged costs another try of each bundle, no more.
#[derive(Debug, Default)]
struct Journal(Vec<Entry>);

impl Journal {
    fn read(folder: &Path) -> Self {
        let read = || -> io::Result<Vec<Entry>> {
            let mut bytes = Vec::new();
            File::open(folder.join(JOURNAL))?.take(MAX_JOURNAL_BYTES).read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        match read() {
            Ok(entries) => Journal(entries),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{JOURNAL}: {error}; bundles in drop folders are tried again");
                }
                Journal::default()
            }
        }
    }

    fn entry_of(&self, digest: Digest) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.digest == digest)
    }

    fn add(&mut self, entry: Entry) {
        self.0.retain(|other| other.digest != entry.digest);
        self.0.push(entry);
        if self.0.len() > MAX_REMEMBERED {
            // What was installed once is the last to be forgotten.
            let oldest = self.0.iter().position(|entry| entry.text.starts_with(REFUSED));
            self.0.remove(oldest.unwrap_or(0));
        }
    }

    fn write(&self, folder: &Path) -> Result<(), SlotError> {
        let path = folder.join(JOURNAL);
        let written = serde_json::to_vec_pretty(&self.0).map_err(io::Error::from);
        let written = written.and_then(|bytes| files::replace(&path, 0o666, &bytes));
        written.map(drop).map_err(SlotError::io("write", &path))
    }
}

/// Times and sizes are others at each look.
fn but_for_numbers(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !c.is_ascii_digit())
}

fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line[..line.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}
