//! A bundle to a device, over as many connections as it takes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::thread;
use std::time::{Duration, Instant};

use candor::bundle::{Digest, UnverifiedBundle};

use super::link::{Link, Trouble};
use super::ssh::Target;
use super::{FlashError, plain};
use crate::files::FileError;

/// The pause after the first connection that broke; it doubles while nothing more arrives.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How often a device may say that other bytes arrived than those that it was told of.
const MOST_AGAIN: u32 = 2;
/// Bytes that are written at once.
const PIECE_BYTES: usize = 1 << 16;

/// A bundle's file.
pub(super) struct Parcel {
    path: PathBuf,
    file: File,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

impl Parcel {
    /// Opens a bundle, of which nothing but its form is checked.
    ///
    /// # Errors
    /// [`FlashError::File`], [`FlashError::Bundle`].
    pub(super) fn open(path: &Path) -> Result<Self, FlashError> {
        let mut file = File::open(path).map_err(FileError::of(path, "opening"))?;
        drop(UnverifiedBundle::read(&mut file)?);
        let mut parcel = Parcel { path: path.to_owned(), file, digest: Digest::of(b""), size_bytes: 0 };
        parcel.size_bytes = parcel.file.metadata().map_err(FileError::of(path, "reading"))?.len();
        parcel.digest = parcel.digest_of(parcel.size_bytes)?;
        Ok(parcel)
    }

    /// Of its first bytes.
    fn digest_of(&self, n_bytes: u64) -> Result<Digest, FileError> {
        let mut file = &self.file;
        let digest = file.seek(SeekFrom::Start(0)).and_then(|_| Digest::of_reader(file.take(n_bytes)));
        digest.map_err(FileError::of(&self.path, "reading"))
    }

    /// Writes everything from `offset` on; an error of the reader, or nothing where the other end is gone.
    fn write(&self, offset: u64, into: &mut ChildStdin) -> Result<(), FlashError> {
        let mut file = &self.file;
        let failed = |cause| FileError::of(&self.path, "reading")(cause);
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut n_left = self.size_bytes - offset;
        while n_left > 0 {
            let n_wanted = usize::try_from(n_left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            match file.read(&mut piece[..n_wanted]) {
                Ok(0) => {
                    let path = self.path.display();
                    return Err(FlashError::Bundle(format!("{path}: has become shorter while it was sent")));
                }
                Ok(n) if into.write_all(&piece[..n]).is_ok() => n_left -= n as u64,
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
        let _ = into.flush();
        Ok(())
    }
}

/// What a sender tells while it works.
pub(super) trait Watcher: Sync {
    /// So many bytes are on the device.
    fn arrived(&self, n_bytes: u64);
    /// The connection broke.
    fn broke(&self, why: &str, pause: Duration);
}

/// What the device made of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It is installed; the bundle's name.
    Installed(String),
    /// A slot held it already: the slot's state and the bundle's name.
    Held(String),
}

/// Sends the bundle; a connection that breaks, or finds the device busy, is made again until nothing has arrived for
/// `patience`.
///
/// # Errors
/// [`FlashError`].
pub(super) fn send(
    target: &Target,
    parcel: &Parcel,
    patience: Duration,
    watcher: &dyn Watcher,
) -> Result<Delivered, FlashError> {
    let (mut most_bytes, mut n_again) = (0, 0);
    let (mut pause, mut last_progress) = (FIRST_PAUSE, Instant::now());
    loop {
        let mut arrived = |n_bytes: u64| {
            watcher.arrived(n_bytes);
            if n_bytes > most_bytes {
                most_bytes = n_bytes;
                (pause, last_progress) = (FIRST_PAUSE, Instant::now());
            }
        };
        let mut is_busy = false;
        let why = match attempt(target, parcel, &mut arrived) {
            Ok(Answer::Delivered(delivered)) => return Ok(delivered),
            Ok(Answer::Busy(why)) => {
                is_busy = true;
                why
            }
            Ok(Answer::Again(why)) => {
                n_again += 1;
                if n_again > MOST_AGAIN {
                    return Err(FlashError::Device { target: target.name.clone(), why });
                }
                most_bytes = 0;
                why
            }
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(why)) => why,
        };
        if last_progress.elapsed() + pause > patience {
            let target = target.name.clone();
            return Err(if is_busy {
                FlashError::Device { target, why }
            } else {
                FlashError::Unreachable { target, why }
            });
        }
        watcher.broke(&why, pause);
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What one whole conversation gives.
enum Answer {
    Delivered(Delivered),
    Again(String),
    /// The device has to do with somebody else.
    Busy(String),
}

/// One connection.
fn attempt(target: &Target, parcel: &Parcel, arrived: &mut dyn FnMut(u64)) -> Result<Answer, Trouble> {
    let mut link = Link::open(target)?;
    link.say(&format!("bundle {} {}", parcel.digest, parcel.size_bytes))?;
    let line = link.line()?;
    let Some(had) = line.strip_prefix("have ") else { return last_word(&link, target, &line) };
    let offset = offset(parcel, had).map_err(FlashError::File)?;
    let Some(offset) = offset else { return Err(link.broken(&unknown(&line)).into()) };
    arrived(offset);
    link.say(&format!("from {offset}"))?;
    let Some(mut input) = link.take_input() else { return Err(link.broken("the stream is gone").into()) };
    thread::scope(|scope| {
        let writer = scope.spawn(move || parcel.write(offset, &mut input));
        let outcome = loop {
            let line = match link.line() {
                Ok(line) => line,
                Err(trouble) => break Err(trouble),
            };
            match line.strip_prefix("got ").map(str::parse) {
                Some(Ok(n_bytes)) if n_bytes <= parcel.size_bytes => arrived(n_bytes),
                Some(_) => break Err(link.broken(&unknown(&line)).into()),
                None => break last_word(&link, target, &line),
            }
        };
        // Lets go of a writer whom nobody reads from.
        link.stop();
        match writer.join() {
            Ok(Err(error)) => Err(Trouble::Final(error)),
            _ => outcome,
        }
    })
}

/// Where to go on: behind what the device has, if that is the bundle's beginning; nothing for a line of no sense.
fn offset(parcel: &Parcel, had: &str) -> Result<Option<u64>, FileError> {
    let Some((n_bytes, digest)) = had.split_once(' ') else { return Ok(None) };
    let (Ok(n_bytes), Ok(digest)) = (n_bytes.parse(), Digest::try_from(digest.to_owned())) else {
        return Ok(None);
    };
    if n_bytes > parcel.size_bytes {
        return Ok(None);
    }
    let is_beginning = parcel.digest_of(n_bytes)? == digest;
    Ok(Some(if is_beginning { n_bytes } else { 0 }))
}

fn unknown(line: &str) -> String {
    format!("said what this program doesn't know: {:?}", plain(line))
}

/// The line that ends a conversation.
fn last_word(link: &Link, target: &Target, line: &str) -> Result<Answer, Trouble> {
    let (word, text) = line.split_once(' ').unwrap_or((line, ""));
    let (target, text) = (target.name.clone(), plain(text));
    match word {
        "installed" => Ok(Answer::Delivered(Delivered::Installed(text))),
        "held" => {
            let (state, name) = text.split_once(' ').unwrap_or((&text, ""));
            Ok(Answer::Delivered(Delivered::Held(format!("{name}: {state}"))))
        }
        "again" => Ok(Answer::Again(text)),
        "busy" => Ok(Answer::Busy(text)),
        "refused" => Err(FlashError::Refused { target, why: text }.into()),
        "failed" => Err(FlashError::Device { target, why: text }.into()),
        _ => Err(link.broken(&unknown(line)).into()),
    }
}
