//! The log on the disk: entries are added, each whole and synced; what a cut left unfinished is mended at the next start.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use image::RgbImage;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

use super::EvidenceError;
use super::entry::{Entry, FORMAT, Look, MAX_LINE_BYTES, Model, What};
use crate::bundle::{Digest, PublicKey};
use crate::files;
use crate::watch::machine::unix_ms;

/// A segment's entries.
pub(super) const ENTRIES: &str = "entries.jsonl";
/// Held by the process that keeps the log.
const LOCK: &str = "lock";
/// What the name of a segment ends with that is being removed.
const DROPPED: &str = "dropped";
/// A segment is a sixteenth of what the log may take.
const N_SEGMENTS: u64 = 16;
/// A file takes whole blocks.
const BLOCK_BYTES: u64 = 4096;

/// What the entries are made with.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// The classifier.
    pub model: Model,
    /// The settings, TOML.
    pub settings: String,
}

/// A verdict to enter.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The event as it was published.
    pub event: serde_json::Value,
    /// The scores that it rests on, oldest first.
    pub scores: Vec<f32>,
    /// Its looks, oldest first.
    pub looks: Vec<Look>,
    /// Verdicts before this one that could not be entered.
    pub n_lost: u64,
}

/// A log that this process keeps.
pub struct Log {
    folder: PathBuf,
    key: SigningKey,
    max_bytes: u64,
    /// Number and size of each segment, oldest first; the last one is written to.
    segments: Vec<(u32, u64)>,
    entries: File,
    /// The crops that the newest segment's entries name.
    named: BTreeSet<Digest>,
    /// What the newest segment's entries are made with, as it says itself.
    told: Option<About>,
    has_started: bool,
    next_n: u64,
    previous: Digest,
    _lock: File,
}

/// Blocks of a file of `n_bytes`.
fn taken(n_bytes: u64) -> u64 {
    n_bytes.div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES
}

/// The numbers of the segments in `folder`, in their order. Whatever else lies there isn't ours, a folder that a cut has
/// left without entries included: it is begun again.
pub(super) fn segments(folder: &Path) -> Result<Vec<u32>, EvidenceError> {
    let mut found = numbered(folder, "")?;
    found.retain(|number| segment(folder, *number).join(ENTRIES).is_file());
    Ok(found)
}

/// The numbers before `ending` in the names of what is in `folder`, in their order.
fn numbered(folder: &Path, ending: &str) -> Result<Vec<u32>, EvidenceError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(EvidenceError::io(folder))? {
        let name = entry.map_err(EvidenceError::io(folder))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(ending)).unwrap_or("");
        if digits.len() == 6 {
            found.extend(digits.parse::<u32>());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The folder of a segment.
pub(super) fn segment(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:06}"))
}

/// The file of a crop in a segment's folder.
pub(super) fn crop_file(segment: &Path, crop: Digest) -> PathBuf {
    segment.join(format!("{crop}.png"))
}

/// The digest that the line after `line` holds.
pub(super) fn link(line: &str) -> Digest {
    Digest::of(line.as_bytes())
}

fn sync_names(folder: &Path) -> Result<(), EvidenceError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(EvidenceError::io(folder))
}

/// Reads a segment's lines; `each` gets them whole, in order. Gives the bytes of what is unfinished at its end.
pub(super) fn read_lines(
    path: &Path,
    mut each: impl FnMut(&str) -> Result<(), EvidenceError>,
) -> Result<u64, EvidenceError> {
    let wrong =
        |reason: &str| EvidenceError::Entry { path: path.display().to_string(), reason: reason.to_owned() };
    let mut file = BufReader::new(File::open(path).map_err(EvidenceError::io(path))?);
    loop {
        let mut line = Vec::new();
        let n_read = file.by_ref().take(MAX_LINE_BYTES as u64 + 2).read_until(b'\n', &mut line);
        n_read.map_err(EvidenceError::io(path))?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            if line.len() > MAX_LINE_BYTES {
                return Err(wrong("a line that is too long"));
            }
            return Ok(line.len() as u64);
        }
        each(std::str::from_utf8(&line).map_err(|_| wrong("a line that is no text"))?)?;
    }
}

impl Log {
    /// Goes on with the log in `folder`, or begins one, which takes at most about `max_bytes` of the disk; writes down
    /// that the program started, with `about`, or does so with the first verdict where the disk doesn't take it.
    ///
    /// # Errors
    /// [`EvidenceError`] for a folder that can't be made or read, and for a log that another process keeps.
    pub fn open(
        folder: &Path,
        key: SigningKey,
        about: &About,
        max_bytes: u64,
    ) -> Result<Self, EvidenceError> {
        fs::create_dir_all(folder).map_err(EvidenceError::io(folder))?;
        let path = folder.join(LOCK);
        let lock = files::try_lock(&path).map_err(EvidenceError::io(&path))?;
        let lock = lock.ok_or_else(|| EvidenceError::Busy(folder.display().to_string()))?;
        forget_dropped(folder)?;
        let numbers = segments(folder)?;
        let mut end = End::default();
        // A segment without a whole entry says nothing of those before it.
        for (idx, number) in numbers.iter().rev().take(2).enumerate() {
            if end.next_n == 0 {
                end.read(&segment(folder, *number), idx == 0)?;
            }
        }
        let mut number = numbers.last().copied().unwrap_or(1);
        if let Some(reason) = &end.damage {
            log::error!("evidence log: segment {number}: {reason}; beginning another");
            number += 1;
        }
        let mut sizes = Vec::new();
        for number in &numbers {
            sizes.push((*number, size(&segment(folder, *number))?));
        }
        let entries = begin(folder, number)?;
        if numbers.last() != Some(&number) {
            sizes.push((number, BLOCK_BYTES));
        }
        let End { next_n, previous, n_torn, damage, named } = end;
        let mut log = Log {
            folder: folder.to_owned(),
            key,
            max_bytes,
            segments: sizes,
            entries,
            named,
            told: None,
            has_started: false,
            next_n,
            previous: previous.unwrap_or_else(|| Digest::of(b"")),
            _lock: lock,
        };
        if let Err(error) = log.begin_with(about, n_torn, damage, number) {
            log::error!("{error}; to be written with the first verdict");
        }
        Ok(log)
    }

    fn begin_with(
        &mut self,
        about: &About,
        n_torn: u64,
        damage: Option<String>,
        number: u32,
    ) -> Result<(), EvidenceError> {
        self.tell(about)?;
        if n_torn > 0 {
            self.add(What::Mended { n_bytes: n_torn })?;
        }
        match damage {
            Some(reason) => self.add(What::Damaged { segment: number - 1, reason }),
            None => Ok(()),
        }
    }

    /// Position and digest of the newest entry.
    pub fn head(&self) -> (u64, Digest) {
        (self.next_n.saturating_sub(1), self.previous)
    }

    /// Enters a verdict that was made with `about`, with the crops that its looks name: all is on the disk when this returns.
    ///
    /// # Errors
    /// [`EvidenceError`] when it can't be written; then it isn't in the log, and neither are its crops.
    pub fn enter(
        &mut self,
        about: &About,
        verdict: Verdict,
        crops: &[(Digest, Vec<u8>)],
    ) -> Result<(), EvidenceError> {
        self.tell(about)?;
        let mut made = Vec::new();
        let entered = self.put(crops, &mut made).and_then(|()| {
            self.add(What::Verdict {
                event: verdict.event,
                settings_sha256: Digest::of(about.settings.as_bytes()),
                model_sha256: about.model.sha256.clone(),
                scores_bits: verdict.scores.iter().map(|score| score.to_bits()).collect(),
                looks: verdict.looks,
                n_lost: verdict.n_lost,
            })
        });
        let of = self.current();
        if let Err(error) = entered {
            for (digest, _) in made {
                // What stays is taken away at the next start.
                let _ = fs::remove_file(crop_file(&of, digest));
            }
            return Err(error);
        }
        if let Some((_, size)) = self.segments.last_mut() {
            *size += made.iter().map(|(_, n_bytes)| taken(*n_bytes)).sum::<u64>();
        }
        self.named.extend(made.into_iter().map(|(digest, _)| digest));
        // The verdict is in the log; what fails here is tried again after the next one.
        if let Err(error) = self.roll(about) {
            log::error!("{error}");
        }
        Ok(())
    }

    /// The program stops in good order.
    ///
    /// # Errors
    /// As [`Log::enter`].
    pub fn stop(&mut self, n_lost: u64) -> Result<(), EvidenceError> {
        if self.told.is_none() {
            return Ok(());
        }
        self.add(What::Stop { n_lost })
    }

    fn current(&self) -> PathBuf {
        segment(&self.folder, self.segments.last().map_or(1, |(number, _)| *number))
    }

    /// Lets the newest segment say what the entries are made with, unless it has.
    fn tell(&mut self, about: &About) -> Result<(), EvidenceError> {
        if self.told.as_ref() == Some(about) {
            return Ok(());
        }
        self.add(What::Start {
            is_continued: self.has_started,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            key: PublicKey::of(&self.key),
            model: about.model.clone(),
            settings: about.settings.clone(),
        })?;
        self.has_started = true;
        self.told = Some(about.clone());
        Ok(())
    }

    /// Writes the crops that the segment doesn't have; `made` gets them with their sizes.
    fn put(&self, crops: &[(Digest, Vec<u8>)], made: &mut Vec<(Digest, u64)>) -> Result<(), EvidenceError> {
        let of = self.current();
        for (digest, png) in crops {
            if self.named.contains(digest) || made.iter().any(|(other, _)| other == digest) {
                continue;
            }
            made.push((*digest, png.len() as u64));
            let path = crop_file(&of, *digest);
            let written = File::create(&path).and_then(|mut file| {
                file.write_all(png)?;
                file.sync_all()
            });
            written.map_err(EvidenceError::io(&path))?;
        }
        if made.is_empty() { Ok(()) } else { sync_names(&of) }
    }

    fn add(&mut self, what: What) -> Result<(), EvidenceError> {
        let path = self.current().join(ENTRIES);
        let entry =
            Entry { format: FORMAT, n: self.next_n, previous: self.previous, unix_ms: unix_ms(), what };
        let wrong = |reason| EvidenceError::Entry { path: path.display().to_string(), reason };
        let line = entry.line(&self.key).map_err(wrong)?;
        let before = self.entries.metadata().map_err(EvidenceError::io(&path))?.len();
        let written = self.entries.write_all(format!("{line}\n").as_bytes());
        if let Err(error) = written.and_then(|()| self.entries.sync_data()) {
            // A full disk must not leave half a line before the next one.
            let _ = self.entries.set_len(before);
            return Err(EvidenceError::io(&path)(error));
        }
        self.next_n += 1;
        self.previous = link(&line);
        if let Some((_, size)) = self.segments.last_mut() {
            let after = before + line.len() as u64 + 1;
            *size += taken(after) - taken(before.max(1));
        }
        Ok(())
    }

    /// Begins another segment when this one is long, and lets the oldest go while all are too much.
    fn roll(&mut self, about: &About) -> Result<(), EvidenceError> {
        let (number, size) = self.segments.last().copied().unwrap_or((1, 0));
        if size >= self.max_bytes / N_SEGMENTS {
            let number = number + 1;
            self.entries = begin(&self.folder, number)?;
            self.segments.push((number, BLOCK_BYTES));
            self.named.clear();
            self.told = None;
        }
        // First, so that every segment begins with it.
        self.tell(about)?;
        while self.segments.len() > 1
            && self.segments.iter().map(|(_, size)| size).sum::<u64>() > self.max_bytes
        {
            let (oldest, _) = self.segments[0];
            let path = segment(&self.folder, oldest).join(ENTRIES);
            let mut last = None;
            read_lines(&path, |line| {
                last = Entry::read(line, None).ok().map(|entry| (entry.n, link(line)));
                Ok(())
            })?;
            if let Some((last_n, last_sha256)) = last {
                self.add(What::Dropped { segment: oldest, last_n, last_sha256 })?;
            }
            remove(&self.folder, oldest)?;
            self.segments.remove(0);
        }
        Ok(())
    }
}

/// Where a log ends.
#[derive(Default)]
struct End {
    next_n: u64,
    previous: Option<Digest>,
    n_torn: u64,
    damage: Option<String>,
    named: BTreeSet<Digest>,
}

impl End {
    /// Reads the segment in `of` to its end. In the newest what a cut has left there is mended.
    fn read(&mut self, of: &Path, is_newest: bool) -> Result<(), EvidenceError> {
        let path = of.join(ENTRIES);
        let mut named = BTreeSet::new();
        let read = read_lines(&path, |line| {
            let wrong = |reason| EvidenceError::Entry { path: path.display().to_string(), reason };
            let entry = Entry::read(line, None).map_err(wrong)?;
            (self.next_n, self.previous) = (entry.n + 1, Some(link(line)));
            if let What::Verdict { looks, .. } = entry.what {
                named.extend(looks.into_iter().map(|look| look.crop));
            }
            Ok(())
        });
        // Those of the segment before don't matter any more, and damage that can't be read is like any other.
        let n_torn = match read {
            _ if !is_newest => return Ok(()),
            Ok(n_torn) => n_torn,
            Err(EvidenceError::Entry { reason, .. }) => {
                self.damage = Some(reason);
                return Ok(());
            }
            Err(error) => {
                self.damage = Some(error.to_string());
                return Ok(());
            }
        };
        self.n_torn = n_torn;
        if n_torn > 0 {
            let file = OpenOptions::new().write(true).open(&path).map_err(EvidenceError::io(&path))?;
            let n_bytes = file.metadata().map_err(EvidenceError::io(&path))?.len();
            file.set_len(n_bytes - n_torn).map_err(EvidenceError::io(&path))?;
            file.sync_all().map_err(EvidenceError::io(&path))?;
        }
        forget_unnamed(of, &named)?;
        self.named = named;
        Ok(())
    }
}

/// The open file of a segment's entries; made where it is missing.
fn begin(folder: &Path, number: u32) -> Result<File, EvidenceError> {
    let of = segment(folder, number);
    let path = of.join(ENTRIES);
    fs::create_dir_all(&of).map_err(EvidenceError::io(&of))?;
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(EvidenceError::io(&path))?;
    file.sync_all().map_err(EvidenceError::io(&path))?;
    sync_names(&of)?;
    sync_names(folder)?;
    Ok(file)
}

/// Removes a segment, by a name first that isn't a segment's: a cut leaves it whole or not there.
fn remove(folder: &Path, number: u32) -> Result<(), EvidenceError> {
    let of = segment(folder, number);
    fs::rename(&of, of.with_extension(DROPPED)).map_err(EvidenceError::io(&of))?;
    sync_names(folder)?;
    forget_dropped(folder)
}

fn forget_dropped(folder: &Path) -> Result<(), EvidenceError> {
    for number in numbered(folder, &format!(".{DROPPED}"))? {
        let path = segment(folder, number).with_extension(DROPPED);
        fs::remove_dir_all(&path).map_err(EvidenceError::io(&path))?;
    }
    Ok(())
}

/// Removes crops whose entry a cut has prevented.
fn forget_unnamed(of: &Path, named: &BTreeSet<Digest>) -> Result<(), EvidenceError> {
    for entry in fs::read_dir(of).map_err(EvidenceError::io(of))? {
        let path = entry.map_err(EvidenceError::io(of))?.path();
        let is_named = named.iter().any(|crop| crop_file(of, *crop) == path);
        if path.extension().is_some_and(|ext| ext == "png") && !is_named {
            fs::remove_file(&path).map_err(EvidenceError::io(&path))?;
        }
    }
    Ok(())
}

/// What a segment takes of the disk.
fn size(of: &Path) -> Result<u64, EvidenceError> {
    let mut n_bytes = 0;
    for entry in fs::read_dir(of).map_err(EvidenceError::io(of))? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(EvidenceError::io(of))?;
        n_bytes += taken(metadata.len());
    }
    Ok(n_bytes)
}

/// A crop as the PNG file that is kept, with its digest; no pixel is lost.
///
/// # Errors
/// [`EvidenceError::Picture`] for a crop without pixels.
pub(super) fn packed(crop: &RgbImage) -> Result<(Digest, Vec<u8>), EvidenceError> {
    let mut png = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive);
    crop.write_with_encoder(encoder)?;
    Ok((Digest::of(&png), png))
}
