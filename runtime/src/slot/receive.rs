//! A bundle that comes over a connection that may break: the device's side of `models/TRANSFER.md`.
//!
//! What has come so far stays in a part file beside the slots, named by the SHA-256 that the sender claims; no record
//! refers to it. Only a part that is whole and has that SHA-256 goes through the same installation as any file.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;

use super::folder::Folder;
use super::part::{PIECE_BYTES, Part, is_full};
use super::state::{Held, Name, Refusal, Slot};
use super::store::Store;
use super::{Settings, SlotError};
use crate::bundle::{BundleError, Digest, MAX_HEAD_BYTES, Roots};

/// The protocol's version.
pub const PROTOCOL: u32 = 1;
/// The word that a device says first.
pub const GREETING: &str = "candor-receive";
/// Longest line of a sender.
const MAX_LINE_BYTES: u64 = 256;
/// Bytes of a reason that are told.
const MAX_REASON_BYTES: usize = 2048;
/// Left free on the disk beside what a bundle needs: the record, the key list, and what else is at work.
const SPARE_BYTES: u64 = 1 << 20;

/// What is received for.
pub struct Place<'a> {
    /// The slots' folder.
    pub folder: &'a Path,
    /// Who may sign key lists.
    pub roots: &'a Roots,
    /// The device's limits.
    pub limits: &'a Settings,
    /// The system's clock, s since 1970.
    pub now_unix_s: fn() -> u64,
}

/// How a conversation ended.
#[derive(Debug)]
pub enum Ending {
    /// The sender asked for the slots' state only.
    Told,
    /// A slot holds the bundle already: the word for its state, and the bundle.
    Held(&'static str, Held),
    /// It is installed.
    Installed(Held),
    /// The bundle, the step or the request is refused; the same again would be.
    Refused(String),
    /// Another transfer is under way.
    Busy,
    /// All came, and not what was announced; it is forgotten.
    Again(String),
    /// The device couldn't do its part.
    Failed(String),
    /// The sender went away, or said nothing for too long; so many bytes are kept.
    Cut {
        /// They.
        kept_bytes: u64,
    },
}

impl Ending {
    /// The last line.
    fn line(&self) -> Option<String> {
        let named = |held: &Held| format!("{} {}", held.id, held.version);
        match self {
            Ending::Told | Ending::Cut { .. } => None,
            Ending::Held(state, held) => Some(format!("held {state} {}", named(held))),
            Ending::Installed(held) => Some(format!("installed {}", named(held))),
            Ending::Refused(why) => Some(format!("refused {why}")),
            Ending::Busy => Some("busy another transfer is under way".to_owned()),
            Ending::Again(why) => Some(format!("again {why}")),
            Ending::Failed(why) => Some(format!("failed {why}")),
        }
    }
}

impl From<SlotError> for Ending {
    fn from(error: SlotError) -> Self {
        if error.is_of_disk() {
            Ending::Failed(error.to_string())
        } else {
            Ending::Refused(error.to_string())
        }
    }
}

/// The two directions of a connection.
struct Link<R, W> {
    input: BufReader<R>,
    output: W,
}

impl<R: Read, W: Write> Link<R, W> {
    /// Says a line. That nobody listens shows when nothing more comes.
    fn say(&mut self, line: &str) {
        say(&mut self.output, line);
    }

    /// As [`Link::say`] for text that is long and known to be one line.
    fn tell(&mut self, word: &str, text: &str) {
        let _ = writeln!(self.output, "{word} {text}").and_then(|()| self.output.flush());
    }

    /// The sender's next line; nothing where the sender is gone.
    fn line(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        let n = self.input.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes).ok()?;
        match bytes.strip_suffix(b"\n") {
            Some(line) => Some(String::from_utf8_lossy(line).into_owned()),
            // Too long to be any that is known.
            None if n as u64 == MAX_LINE_BYTES => Some(String::new()),
            None => None,
        }
    }
}

fn say(output: &mut impl Write, line: &str) {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = &line[..line.floor_char_boundary(MAX_REASON_BYTES)];
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// What a sender may ask first.
enum Request {
    Status,
    Bundle { digest: Digest, size_bytes: u64 },
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["status"] => Some(Request::Status),
            ["bundle", digest, size] => {
                let digest = Digest::try_from(digest.to_owned()).ok()?;
                Some(Request::Bundle { digest, size_bytes: number(size)? })
            }
            _ => None,
        }
    }
}

/// Digits only.
fn number(word: &str) -> Option<u64> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// One conversation with a sender, from the greeting to the last line. `input` may end or fail at any byte; what has
/// come until then is kept for the next conversation.
pub fn receive(place: &Place<'_>, input: impl Read, output: impl Write) -> Ending {
    let mut link = Link { input: BufReader::with_capacity(PIECE_BYTES, input), output };
    link.say(&format!("{GREETING} {PROTOCOL} {}", env!("CARGO_PKG_VERSION")));
    let ending = match link.line().map(|line| (Request::parse(&line), line)) {
        None => Ending::Cut { kept_bytes: 0 },
        Some((Some(Request::Status), _)) => status(place, &mut link).unwrap_or_else(Ending::from),
        Some((Some(Request::Bundle { digest, size_bytes }), _)) => {
            bundle(place, &mut link, digest, size_bytes).unwrap_or_else(Ending::from)
        }
        Some((None, line)) => {
            let found = line.escape_debug();
            Ending::Refused(format!("protocol: expected status or bundle SHA-256 SIZE, found \"{found}\""))
        }
    };
    if let Some(line) = ending.line() {
        link.say(&line);
    }
    ending
}

fn status<R: Read, W: Write>(place: &Place<'_>, link: &mut Link<R, W>) -> Result<Ending, SlotError> {
    // Whoever has never received anything has no folder yet.
    if !place.folder.is_dir() {
        drop(Folder::lock(place.folder).map_err(SlotError::io("lock", place.folder))?);
    }
    let status = Store::readable(place.folder)?.status(place.roots)?;
    link.tell("status", &status.to_string());
    Ok(Ending::Told)
}

fn bundle<R: Read, W: Write>(
    place: &Place<'_>,
    link: &mut Link<R, W>,
    digest: Digest,
    size_bytes: u64,
) -> Result<Ending, SlotError> {
    if let Some(ending) = settled(place, digest, size_bytes)? {
        return Ok(ending);
    }
    let Some(mut part) = Part::open(place.folder, digest, size_bytes)? else { return Ok(Ending::Busy) };
    // What another sender has finished since is not to be sent again.
    if let Some(ending) = settled(place, digest, size_bytes)? {
        part.forget()?;
        return Ok(ending);
    }
    if let Some(why) = lacks_room(place, size_bytes, part.n_bytes()) {
        return Ok(Ending::Failed(why));
    }
    link.say(&format!("have {} {}", part.n_bytes(), part.digest()));
    let Some(line) = link.line() else { return Ok(Ending::Cut { kept_bytes: part.n_bytes() }) };
    match line.strip_prefix("from ").and_then(number) {
        Some(0) => part.empty()?,
        Some(n) if n == part.n_bytes() => {}
        _ => {
            let n = part.n_bytes();
            let found = line.escape_debug();
            return Ok(Ending::Refused(format!("protocol: expected from 0 or from {n}, found \"{found}\"")));
        }
    }
    let Link { input, output } = link;
    let mut n_told = part.n_bytes();
    // A sender who is gone, however, may come again.
    let ended = part.fill(input, |n_bytes| {
        if n_bytes - n_told >= PIECE_BYTES as u64 || n_bytes == size_bytes {
            n_told = n_bytes;
            say(output, &format!("got {n_bytes}"));
        }
    })?;
    if ended.is_some() {
        return Ok(Ending::Cut { kept_bytes: part.n_bytes() });
    }
    if let Some(why) = part.difference() {
        part.forget()?;
        return Ok(Ending::Again(why));
    }
    install(place, part, digest, None).map(Ending::Installed)
}

/// Why a bundle of this size is for no device with these limits.
pub(super) fn fits(place: &Place<'_>, size_bytes: u64) -> Option<String> {
    let limit_bytes = place.limits.max_bundle_bytes.saturating_add(MAX_HEAD_BYTES);
    let is_fit = (1..=limit_bytes).contains(&size_bytes);
    (!is_fit).then(|| format!("size: expected 1 to {limit_bytes} bytes, found {size_bytes}"))
}

/// What can be said before a byte has come.
fn settled(place: &Place<'_>, digest: Digest, size_bytes: u64) -> Result<Option<Ending>, SlotError> {
    if let Some(why) = fits(place, size_bytes) {
        return Ok(Some(Ending::Refused(why)));
    }
    if !place.folder.is_dir() {
        return Ok(None);
    }
    let store = Store::readable(place.folder)?;
    let slots = &store.record().slots;
    for name in Name::ALL {
        let state = match slots.slot(name) {
            Slot::Staged(held) => Some(("staged", held)),
            Slot::Trial { held, .. } => Some(("trial", held)),
            Slot::Confirmed(held) if slots.current() == Some(name) => Some(("confirmed", held)),
            Slot::Confirmed(_) | Slot::Empty | Slot::Bad { .. } => None,
        };
        if let Some((state, held)) = state
            && held.digest == digest
        {
            return Ok(Some(Ending::Held(state, held.clone())));
        }
    }
    slots.can_stage()?;
    Ok(None)
}

/// Why there is no room on the disk for the rest of the part and its copy, which installing makes.
pub(super) fn lacks_room(place: &Place<'_>, size_bytes: u64, had_bytes: u64) -> Option<String> {
    // A file system that doesn't tell is found out by writing.
    let disk = rustix::fs::statvfs(place.folder).ok()?;
    let found = disk.f_bavail.saturating_mul(disk.f_frsize);
    let expected = size_bytes.saturating_mul(2).saturating_sub(had_bytes).saturating_add(SPARE_BYTES);
    (found < expected).then(|| {
        let folder = place.folder.display();
        format!("disk of {folder}: expected {expected} free bytes, found {found}")
    })
}

fn is_of_full_disk(error: &SlotError) -> bool {
    match error {
        SlotError::Io { cause, .. } | SlotError::Bundle(BundleError::Copy(cause)) => is_full(cause.kind()),
        _ => false,
    }
}

/// Installs a part that is what was announced; `origin` is for the history.
pub(super) fn install(
    place: &Place<'_>,
    mut part: Part,
    digest: Digest,
    origin: Option<&str>,
) -> Result<Held, SlotError> {
    let mut store = Store::locked(place.folder)?;
    // Whoever staged another one meanwhile wanted it tried; a person who sends one wants that.
    let slots = &store.record().slots;
    if let Some(name) = slots.candidate().filter(|_| origin.is_some())
        && slots.slot(name).held().is_some_and(|held| held.digest != digest)
    {
        return Err(Refusal::OtherWaits(name).into());
    }
    let now_unix_s = (place.now_unix_s)();
    let held = store.install_from(part.reader()?, place.roots, place.limits, now_unix_s, origin);
    match &held {
        // The bundle is none the worse for what the slots or the disk are in the midst of.
        Err(SlotError::Refused(_)) => {}
        Err(error) if error.is_of_disk() && !is_of_full_disk(error) => {}
        _ => part.forget()?,
    }
    held
}

/// Forgets what has come of a transfer that isn't under way: whoever installs another bundle wants the room.
///
/// # Errors
/// [`SlotError::Io`].
pub fn forget_part(folder: &Path) -> Result<(), SlotError> {
    Part::forget_all(folder)
}
