//! The slots on a disk: every step leaves what was before or what comes after, whenever the power goes.
//!
//! A bundle's file is named by its SHA-256 and never changed. The record names the files that count and is
//! replaced whole. Order: a file's bytes are synced before its name is changed, the change of the name is synced
//! before anything refers to it, and a file is removed only once a record that doesn't refer to it is synced.

use std::io::{self, Read, Write};

use super::Settings;
use super::admission::Known;
use super::error::{OPEN, SlotError};
use super::record::{Record, What};
use super::state::{Boot, Held, Slot};
use crate::bundle::{
    Bundle, Digest, KeyList, Roots, Signed, UnverifiedBundle, VerifiedBundle, read_key_list, write_key_list,
};

/// The states and the history.
const RECORD: &str = "record";
/// The key list with the highest serial so far.
const KEYS: &str = "keys";
/// A file that is being written; what a cut has left of it is overwritten.
const INCOMING: &str = "incoming";
/// The ending of bundles' names.
const ENDING: &str = ".bundle";
/// Most bytes of a record.
const MAX_RECORD_BYTES: usize = 1 << 20;
/// Bytes of a reason that are kept.
const MAX_REASON_BYTES: usize = 1024;

/// The operations on one folder's files that a store needs. A rename is atomic; nothing is durable before it is
/// synced: a file's bytes by `sync`, names by `sync_names`.
pub trait Files {
    /// A file that is being written.
    type Writer: Write;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` where there is none, and the system's.
    fn open(&self, name: &str) -> io::Result<impl Read>;
    /// Creates a file, or empties it.
    ///
    /// # Errors
    /// The system's.
    fn create(&self, name: &str) -> io::Result<Self::Writer>;
    /// Makes a file's bytes durable.
    ///
    /// # Errors
    /// The system's.
    fn sync(&self, file: Self::Writer) -> io::Result<()>;
    /// Renames a file, in the place of another one where there is one.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes names durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_names(&self) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files.
    ///
    /// # Errors
    /// The system's.
    fn names(&self) -> io::Result<Vec<String>>;
}

fn file_of(digest: Digest) -> String {
    format!("{digest}{ENDING}")
}

/// The slots of a device. Whoever changes them must be alone with the folder, see `Folder::lock`.
pub struct Store<F> {
    files: F,
    record: Record,
}

impl<F: Files> Store<F> {
    /// Reads the record; without one both slots are empty.
    ///
    /// # Errors
    /// [`SlotError::Record`] for a damaged one, [`SlotError::Io`].
    pub fn open(files: F) -> Result<Self, SlotError> {
        let mut bytes = Vec::new();
        let record = match files.open(RECORD) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(SlotError::io(OPEN, RECORD)(error)),
            Ok(file) => {
                file.take(MAX_RECORD_BYTES as u64)
                    .read_to_end(&mut bytes)
                    .map_err(SlotError::io("read", RECORD))?;
                Record::from_bytes(&bytes).map_err(SlotError::Record)?
            }
        };
        Ok(Store { files, record })
    }

    /// What is kept.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What decides on a bundle, of what the device has seen.
    ///
    /// # Errors
    /// As [`Store::key_list`].
    pub fn known(&self, roots: &Roots) -> Result<Known, SlotError> {
        Ok(Known {
            key_list: self.key_list(roots)?,
            security_epoch: self.record.slots.security_epoch(),
            latest_unix_s: self.record.latest_unix_s,
        })
    }

    /// Installs the bundle that `reader` gives: checks and copies it, and stages it. The device's key list
    /// becomes the bundle's where that is newer.
    ///
    /// # Errors
    /// [`SlotError`]; the slots are then as they were.
    pub fn install(
        &mut self,
        reader: impl Read,
        roots: &Roots,
        limits: &Settings,
        now_unix_s: u64,
    ) -> Result<Held, SlotError> {
        self.install_from(reader, roots, limits, now_unix_s, None)
    }

    /// As [`Store::install`], with where the bundle comes from, for the history.
    ///
    /// # Errors
    /// As [`Store::install`].
    pub(super) fn install_from(
        &mut self,
        reader: impl Read,
        roots: &Roots,
        limits: &Settings,
        now_unix_s: u64,
        origin: Option<&str>,
    ) -> Result<Held, SlotError> {
        self.record.slots.can_stage()?;
        self.collect()?;
        let mut record = self.record_at(now_unix_s);
        let known = self.known(roots)?;
        let bundle = known.verify(reader, roots, limits, now_unix_s)?;
        let (manifest, release) = (bundle.manifest(), bundle.release());
        let signers = bundle.signers().iter().map(|key| Held::signer(&key.name, key.public.id())).collect();
        let (id, version) = (manifest.id.clone(), manifest.version.clone());
        let security_epoch = release.security_epoch;
        let (carried, list) = bundle.key_list();
        let newer_list =
            known.key_list.is_none_or(|known| known.serial < carried.serial).then(|| list.clone());

        let mut file = self.files.create(INCOMING).map_err(SlotError::io("create", INCOMING))?;
        let digest = match bundle.copy(&mut file) {
            Ok(digest) => digest,
            Err(error) => {
                drop(file);
                self.files.remove(INCOMING).map_err(SlotError::io("remove", INCOMING))?;
                return Err(error.into());
            }
        };
        self.finish(file, &file_of(digest))?;
        if let Some(list) = newer_list {
            self.put(KEYS, |file| write_key_list(&list, file))?;
        }
        self.sync_names()?;
        let held = Held { digest, id, version, security_epoch, signers };
        record.slots.stage(held.clone())?;
        record.note(What::Installed, held.clone(), origin.map(|origin| shortened(origin).to_owned()));
        self.save(record)?;
        self.collect()?;
        Ok(held)
    }

    /// A start: what is to run. A start with a bundle in trial is written down before it may fail.
    ///
    /// # Errors
    /// [`SlotError::Io`]; no trial may then be run.
    pub fn boot(&mut self, trial_boots: u8, now_unix_s: u64) -> Result<Boot, SlotError> {
        let mut record = self.record_at(now_unix_s);
        let (boot, bad) = record.slots.boot(trial_boots);
        if record.slots == self.record.slots {
            return Ok(boot);
        }
        if let Boot::Trial(held) = &boot
            && is_staged(&self.record, held)
        {
            record.note(What::TrialStarted, held.clone(), None);
        }
        let is_bad = bad.is_some();
        if let Some((held, reason)) = bad {
            record.note(What::Failed, held, Some(reason));
        }
        self.save(record)?;
        if is_bad {
            self.collect()?;
        }
        Ok(boot)
    }

    /// A run with the bundle in trial ended well.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub fn ran_well(&mut self, digest: Digest, now_unix_s: u64) -> Result<(), SlotError> {
        let mut record = self.record_at(now_unix_s);
        if record.slots.ran_well(digest) { self.save(record) } else { Ok(()) }
    }

    /// A start with the bundle in trial ended in good order before the bundle could show anything: it doesn't count.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub fn was_not_tried(&mut self, digest: Digest, now_unix_s: u64) -> Result<(), SlotError> {
        let mut record = self.record_at(now_unix_s);
        if record.slots.was_not_tried(digest) { self.save(record) } else { Ok(()) }
    }

    /// Confirms the bundle in trial, once its file has been checked again, against the device's key list.
    ///
    /// # Errors
    /// [`SlotError`]; the slots are then as they were.
    pub fn confirm(&mut self, roots: &Roots, now_unix_s: u64) -> Result<Held, SlotError> {
        self.confirm_for(roots, None, now_unix_s)
    }

    /// As [`Store::confirm`], with the reason for the history.
    ///
    /// # Errors
    /// As [`Store::confirm`].
    pub fn confirm_because(
        &mut self,
        roots: &Roots,
        reason: &str,
        now_unix_s: u64,
    ) -> Result<Held, SlotError> {
        self.confirm_for(roots, Some(shortened(reason).to_owned()), now_unix_s)
    }

    fn confirm_for(
        &mut self,
        roots: &Roots,
        reason: Option<String>,
        now_unix_s: u64,
    ) -> Result<Held, SlotError> {
        let mut record = self.record_at(now_unix_s);
        let held = record.slots.confirm()?;
        self.load_for_trial(&held, roots)?;
        record.note(What::Confirmed, held.clone(), reason);
        self.save(record)?;
        self.collect()?;
        Ok(held)
    }

    /// Goes back: gives up the bundle that is staged, in trial, or else the current one.
    ///
    /// # Errors
    /// [`SlotError`]; the slots are then as they were.
    pub fn roll_back(&mut self, reason: &str, now_unix_s: u64) -> Result<Held, SlotError> {
        let mut record = self.record_at(now_unix_s);
        let reason = shortened(reason);
        let held = record.slots.roll_back(reason)?;
        record.note(What::RolledBack, held.clone(), Some(reason.to_owned()));
        self.save(record)?;
        self.collect()?;
        Ok(held)
    }

    /// A slot's bundle turned out to be bad.
    ///
    /// # Errors
    /// [`SlotError::Io`].
    pub fn fail(&mut self, held: &Held, reason: &str, now_unix_s: u64) -> Result<(), SlotError> {
        let mut record = self.record_at(now_unix_s);
        let reason = shortened(reason);
        if !record.slots.fail(held.digest, reason) {
            return Ok(());
        }
        record.note(What::Failed, held.clone(), Some(reason.to_owned()));
        self.save(record)?;
        self.collect()
    }

    /// Takes over a key list with a higher serial; the same list again is no error.
    ///
    /// # Errors
    /// [`SlotError`]; the old list then stays.
    pub fn rotate_keys(&mut self, reader: impl Read, roots: &Roots) -> Result<KeyList, SlotError> {
        let list = read_key_list(reader)?;
        let new = roots.check(&list)?;
        match self.key_list(roots)? {
            Some(known) if known == new => Ok(new),
            Some(known) if known.serial >= new.serial => {
                Err(SlotError::Serial { known: known.serial, found: new.serial })
            }
            _ => self.take_key_list(&list).map(|()| new),
        }
    }

    /// Replaces the device's key list by one that has been checked and has a higher serial.
    ///
    /// # Errors
    /// [`SlotError::Io`]; the old list then stays.
    pub(super) fn take_key_list(&mut self, list: &Signed) -> Result<(), SlotError> {
        self.put(KEYS, |file| write_key_list(list, file))?;
        self.sync_names()
    }

    /// The device's key list.
    ///
    /// # Errors
    /// [`SlotError`] for a damaged one: what it has revoked must not come back.
    pub fn key_list(&self, roots: &Roots) -> Result<Option<KeyList>, SlotError> {
        match self.files.open(KEYS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SlotError::io(OPEN, KEYS)(error)),
            Ok(file) => Ok(Some(roots.check(&read_key_list(file)?)?)),
        }
    }

    /// Reads a slot's bundle and checks everything again: that it is the file that was installed, signatures,
    /// digests. The key list that it carries counts, and time doesn't: a key that has expired or was rotated
    /// out since signs nothing new, but what a device has confirmed goes on.
    ///
    /// # Errors
    /// [`SlotError::Digest`] for another file, whatever else is wrong with it; [`SlotError`].
    pub fn load(&self, held: &Held, roots: &Roots) -> Result<Bundle, SlotError> {
        self.load_by(held, roots, None)
    }

    /// As [`Store::load`] for a bundle that isn't confirmed yet: the device's key list counts where it is newer.
    ///
    /// # Errors
    /// As [`Store::load`], and [`SlotError`] for a damaged key list.
    pub fn load_for_trial(&self, held: &Held, roots: &Roots) -> Result<Bundle, SlotError> {
        match self.key_list(roots) {
            Ok(known) => self.load_by(held, roots, known.as_ref()),
            Err(error) => Err(error),
        }
    }

    fn load_by(&self, held: &Held, roots: &Roots, known: Option<&KeyList>) -> Result<Bundle, SlotError> {
        let file = file_of(held.digest);
        let reader = self.files.open(&file).map_err(SlotError::io(OPEN, &file))?;
        let loaded = UnverifiedBundle::read(reader)
            .and_then(|bundle| bundle.verify(roots, known, None))
            .and_then(VerifiedBundle::load);
        let found = match &loaded {
            Ok((_, found)) => *found,
            Err(_) => self.digest(&file)?,
        };
        if found != held.digest {
            return Err(SlotError::Digest { file, expected: held.digest, found });
        }
        Ok(loaded?.0)
    }

    fn digest(&self, file: &str) -> Result<Digest, SlotError> {
        let reader = self.files.open(file).map_err(SlotError::io(OPEN, file))?;
        Digest::of_reader(reader).map_err(SlotError::io("read", file))
    }

    /// The record to be changed, at this time or the latest that was known.
    fn record_at(&self, now_unix_s: u64) -> Record {
        let mut record = self.record.clone();
        record.latest_unix_s = record.latest_unix_s.max(now_unix_s);
        record
    }

    /// Removes bundles that no slot holds and files that were never finished.
    fn collect(&self) -> Result<(), SlotError> {
        let kept: Vec<String> = self.record.slots.held().map(|held| file_of(held.digest)).collect();
        for name in self.files.names().map_err(SlotError::io("list", "the folder"))? {
            if name == INCOMING || (name.ends_with(ENDING) && !kept.contains(&name)) {
                self.files.remove(&name).map_err(SlotError::io("remove", &name))?;
            }
        }
        Ok(())
    }

    fn save(&mut self, record: Record) -> Result<(), SlotError> {
        let bytes = record.to_bytes().map_err(|error| SlotError::io("write", RECORD)(error.into()))?;
        if bytes.len() > MAX_RECORD_BYTES {
            let found = bytes.len();
            let cause =
                format!("expected at most {MAX_RECORD_BYTES} bytes, which can be read again, found {found}");
            return Err(SlotError::io("write", RECORD)(io::Error::other(cause)));
        }
        self.put(RECORD, |file| file.write_all(&bytes))?;
        self.sync_names()?;
        self.record = record;
        Ok(())
    }

    /// Replaces a file whole; its name is durable with the next sync of names.
    fn put(
        &self,
        name: &str,
        content: impl FnOnce(&mut F::Writer) -> io::Result<()>,
    ) -> Result<(), SlotError> {
        let mut file = self.files.create(INCOMING).map_err(SlotError::io("create", INCOMING))?;
        content(&mut file).map_err(SlotError::io("write", INCOMING))?;
        self.finish(file, name)
    }

    /// Gives a file that has been written its name.
    fn finish(&self, file: F::Writer, name: &str) -> Result<(), SlotError> {
        self.files.sync(file).map_err(SlotError::io("sync", INCOMING))?;
        self.files.rename(INCOMING, name).map_err(SlotError::io("rename to", name))
    }

    fn sync_names(&self) -> Result<(), SlotError> {
        self.files.sync_names().map_err(SlotError::io("sync names in", "the folder"))
    }
}

fn shortened(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

/// Whether no start has tried the bundle so far.
fn is_staged(record: &Record, held: &Held) -> bool {
    let slots = &record.slots;
    super::Name::ALL.into_iter().any(|n| matches!(slots.slot(n), Slot::Staged(h) if h.digest == held.digest))
}
