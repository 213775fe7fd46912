//! A disk whose power can be cut, after POSIX: what a system may leave when it has promised nothing more.
//!
//! - A file's bytes are durable once the file is synced. Until then each write, and each truncation, may have reached
//!   the disk or not, in any order, the last one in part; a part that hasn't reads as zeros or as anything.
//! - Names (creations, renames, removals) are durable once names are synced. Until then any subset of the changes may
//!   have reached the disk, in the order in which they were made. A single rename is whole: both names or neither.
//! - Syncing a file doesn't make its name durable, syncing names doesn't make bytes durable.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::rc::Rc;

use candor::bundle::Digest;
use candor::slot::Files;

use crate::random::Random;

/// Most states that are tried of one cut; with more, a seeded choice of as many.
const MAX_STATES_OF_A_CUT: usize = 384;

#[derive(Clone)]
enum Change {
    Truncate,
    Write(Vec<u8>),
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Inode {
    /// Its bytes as a running system sees them.
    fn bytes(&self) -> Vec<u8> {
        after(&self.durable, self.pending.iter())
    }

    /// The bytes that a cut may leave, each once.
    fn leavings(&self, random: &mut Random) -> BTreeSet<Vec<u8>> {
        let all = self.bytes();
        let mut left = BTreeSet::from([self.durable.clone(), all.clone()]);
        if self.pending.is_empty() {
            return left;
        }
        let noise = |random: &mut Random, n_bytes: usize| -> Vec<u8> {
            (0..n_bytes).map(|_| random.next().to_le_bytes()[0]).collect()
        };
        // Cut off anywhere: the last write in part, or more.
        for _ in 0..8 {
            left.insert(all[..random.below(all.len() + 1)].to_vec());
        }
        // The length has arrived and the bytes have not.
        left.insert(vec![0; all.len()]);
        let of_noise = noise(random, all.len());
        left.insert(of_noise);
        // Each write, without which the others have arrived, and up to which they have.
        let mut at = 0;
        for (idx, change) in self.pending.iter().enumerate() {
            left.insert(after(&self.durable, self.pending[..idx].iter()));
            match change {
                Change::Truncate => at = 0,
                Change::Write(bytes) => {
                    let mut with_hole = all.clone();
                    if at + bytes.len() <= with_hole.len() {
                        with_hole[at..at + bytes.len()].fill(0);
                    }
                    left.insert(with_hole);
                    at += bytes.len();
                }
            }
        }
        left
    }
}

fn after<'a>(durable: &[u8], changes: impl Iterator<Item = &'a Change>) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    for change in changes {
        match change {
            Change::Truncate => bytes.clear(),
            Change::Write(more) => bytes.extend_from_slice(more),
        }
    }
    bytes
}

#[derive(Clone)]
enum Naming {
    Set(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

type Names = BTreeMap<String, usize>;

fn rename(names: &mut Names, naming: &Naming) {
    match naming {
        Naming::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Naming::Rename(from, to, inode) => {
            if names.get(from) == Some(inode) {
                names.remove(from);
            }
            names.insert(to.clone(), *inode);
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
    }
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    durable_names: Names,
    pending_names: Vec<Naming>,
    n_operations: usize,
    n_syncs: usize,
    cut_at: Option<usize>,
    /// A sync that does nothing: what a store without it would do.
    idle_sync: Option<usize>,
}

impl State {
    fn names(&self) -> Names {
        let mut names = self.durable_names.clone();
        self.pending_names.iter().for_each(|naming| rename(&mut names, naming));
        names
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names().get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Counts an operation. `false`: the power goes during it. Afterwards everything fails.
    fn is_on(&mut self) -> io::Result<bool> {
        self.n_operations += 1;
        match self.cut_at {
            Some(at) if self.n_operations > at => Err(dead()),
            Some(at) => Ok(self.n_operations < at),
            None => Ok(true),
        }
    }

    fn is_idle_sync(&mut self) -> bool {
        self.n_syncs += 1;
        self.idle_sync == Some(self.n_syncs)
    }
}

fn dead() -> io::Error {
    io::Error::other("the power is cut")
}

fn alive(is_on: bool) -> io::Result<()> {
    if is_on { Ok(()) } else { Err(dead()) }
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Disk(Rc<RefCell<State>>);

impl Disk {
    /// A disk with these files and nothing pending.
    fn of(files: BTreeMap<String, Vec<u8>>) -> Self {
        let mut state = State::default();
        for (name, durable) in files {
            state.durable_names.insert(name, state.inodes.len());
            state.inodes.push(Inode { durable, pending: Vec::new() });
        }
        Disk(Rc::new(RefCell::new(state)))
    }

    /// Everything as a running system sees it, durable, on a disk of its own.
    pub(crate) fn settled(&self) -> Self {
        let state = self.0.borrow();
        let files = state.names().into_iter();
        Disk::of(files.map(|(name, inode)| (name, state.inodes[inode].bytes())).collect())
    }

    /// Cuts the power at the n-th operation, from 1; makes the n-th sync do nothing.
    pub(crate) fn set(&self, cut_at: Option<usize>, idle_sync: Option<usize>) {
        let mut state = self.0.borrow_mut();
        (state.cut_at, state.idle_sync) = (cut_at, idle_sync);
    }

    /// How many operations and syncs there were.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.0.borrow();
        (state.n_operations, state.n_syncs)
    }

    /// The disks that a cut now may leave, each once.
    pub(crate) fn after_cut(&self, random: &mut Random) -> Vec<Disk> {
        let state = self.0.borrow();
        let n_subsets = 1usize << state.pending_names.len().min(12);
        let mut contents: Vec<Vec<Vec<u8>>> = Vec::new();
        for inode in &state.inodes {
            contents.push(inode.leavings(random).into_iter().collect());
        }
        let n_states = contents.iter().fold(n_subsets, |n, choices| n.saturating_mul(choices.len()));
        let (mut seen, mut disks) = (BTreeSet::new(), Vec::new());
        for step in 0..n_states.min(MAX_STATES_OF_A_CUT) {
            let pick = if n_states <= MAX_STATES_OF_A_CUT { step } else { random.below(n_states) };
            let (subset, mut pick) = (pick % n_subsets, pick / n_subsets);
            let mut names = state.durable_names.clone();
            for (idx, naming) in state.pending_names.iter().enumerate() {
                if subset >> idx & 1 == 1 {
                    rename(&mut names, naming);
                }
            }
            let mut chosen = Vec::new();
            for choices in &contents {
                chosen.push(&choices[pick % choices.len()]);
                pick /= choices.len();
            }
            let files = names.into_iter().map(|(name, inode)| (name, chosen[inode].clone()));
            let disk = Disk::of(files.collect());
            if seen.insert(disk.digest()) {
                disks.push(disk);
            }
        }
        disks
    }

    /// Of all names and bytes.
    pub(crate) fn digest(&self) -> Digest {
        let state = self.0.borrow();
        let mut all = Vec::new();
        for (name, inode) in state.names() {
            let bytes = state.inodes[inode].bytes();
            all.extend_from_slice(format!("{name} {} ", bytes.len()).as_bytes());
            all.extend_from_slice(&bytes);
        }
        Digest::of(&all)
    }
}

pub(crate) struct Writer {
    disk: Disk,
    inode: usize,
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.0.borrow_mut();
        let is_on = state.is_on()?;
        state.inodes[self.inode].pending.push(Change::Write(bytes.to_vec()));
        alive(is_on).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files for Disk {
    type Writer = Writer;

    fn open(&self, name: &str) -> io::Result<impl Read> {
        let state = self.0.borrow();
        let inode = state.inode(name)?;
        Ok(io::Cursor::new(state.inodes[inode].bytes()))
    }

    fn create(&self, name: &str) -> io::Result<Writer> {
        let mut state = self.0.borrow_mut();
        let is_on = state.is_on()?;
        let inode = match state.inode(name) {
            Ok(inode) => inode,
            Err(_) => {
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.pending_names.push(Naming::Set(name.to_owned(), inode));
                inode
            }
        };
        state.inodes[inode].pending.push(Change::Truncate);
        alive(is_on).map(|()| Writer { disk: self.clone(), inode })
    }

    fn sync(&self, file: Writer) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.is_on()? {
            if !state.is_idle_sync() {
                let inode = &mut state.inodes[file.inode];
                inode.durable = inode.bytes();
                inode.pending.clear();
            }
            return Ok(());
        }
        Err(dead())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let is_on = state.is_on()?;
        let inode = state.inode(from)?;
        state.pending_names.push(Naming::Rename(from.to_owned(), to.to_owned(), inode));
        alive(is_on)
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.is_on()? {
            if !state.is_idle_sync() {
                state.durable_names = state.names();
                state.pending_names.clear();
            }
            return Ok(());
        }
        Err(dead())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let is_on = state.is_on()?;
        state.inode(name)?;
        state.pending_names.push(Naming::Remove(name.to_owned()));
        alive(is_on)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names().into_keys().collect())
    }
}
