//! All videos of a shard, side by side, each whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candor::follow::Follower;
use candor::stopwatch::Stopwatch;
use indicatif::ProgressBar;

use super::condition::Condition;
use super::ffmpeg::Ffmpeg;
use super::plan::{Plan, Video};
use super::record::{self, Record};
use super::work::{Outcome, Worker};
use super::{IngestError, io_error, unexpected};

/// A part of the work: every `n_shards`-th video, from `idx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub idx: usize,
    /// How many there are.
    pub n_shards: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((i, n_shards)) if (1..=n_shards).contains(&i) => Ok(Shard { idx: i - 1, n_shards }),
            _ => Err(format!("expected i/n with i from 1 to n, found {text:?}")),
        }
    }
}

/// How to go about it; none of this changes what comes out.
pub struct Options<'a> {
    /// The dataset's.
    pub folder: &'a Path,
    /// Which part of the work.
    pub shard: Shard,
    /// Videos at a time.
    pub jobs: usize,
    /// For what candor doesn't read, and for compression.
    pub ffmpeg: Option<&'a Ffmpeg>,
    /// Most bytes of all crops of all shards; each shard has an equal part.
    pub max_bytes: u64,
}

/// What was done.
#[derive(Default)]
pub struct Tally {
    /// Videos, each once for every condition, that were done before.
    pub n_done_before: usize,
    /// Those that were done now.
    pub n_done: usize,
    /// Frames that were read now.
    pub n_frames: u64,
    /// Crops that were cut now.
    pub n_crops: usize,
    /// Videos that can't be read here and now, with the reasons.
    pub not_read: Vec<(String, String)>,
    /// CPU time of each worker by stage.
    pub watches: Vec<Stopwatch>,
}

/// What all workers share.
struct Job<'a> {
    options: &'a Options<'a>,
    todo: Vec<(&'a Video, Condition)>,
    next: AtomicUsize,
    is_over: AtomicBool,
    limit_bytes: u64,
    /// Bytes of crops, those included that are being written.
    used_bytes: Mutex<u64>,
    tally: Mutex<Tally>,
    fault: Mutex<Option<IngestError>>,
    progress: &'a ProgressBar,
}

/// The folder in which a shard keeps what is not done; it goes when the shard is done.
pub fn scratch(folder: &Path, shard: Shard) -> PathBuf {
    folder.join(format!("work-{}-of-{}", shard.idx + 1, shard.n_shards))
}

/// Makes sure that nobody else works on this shard, and throws away what an earlier run left half done. The lock
/// lasts as long as the file.
///
/// # Errors
/// [`IngestError`] where somebody does.
pub fn lock(folder: &Path, shard: Shard) -> Result<File, IngestError> {
    let scratch = scratch(folder, shard);
    fs::create_dir_all(&scratch).map_err(io_error(&scratch, "create"))?;
    let path = scratch.join("lock");
    let file = File::create(&path).map_err(io_error(&path, "create"))?;
    if file.try_lock().is_err() {
        let what = scratch.display().to_string();
        return Err(unexpected(what, "one process for a shard", "another one that runs"));
    }
    for entry in fs::read_dir(&scratch).map_err(io_error(&scratch, "list"))? {
        let path = entry.map_err(io_error(&scratch, "list"))?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(io_error(&path, "remove"))?;
        } else if !path.ends_with("lock") {
            fs::remove_file(&path).map_err(io_error(&path, "remove"))?;
        }
    }
    Ok(file)
}

/// Does what is left to do of a shard; whoever calls holds its [`lock`].
///
/// # Errors
/// The first [`IngestError`] of any worker; videos that are done stay done.
pub fn run(
    plan: &Plan,
    follower: &Follower,
    options: &Options,
    progress: &ProgressBar,
) -> Result<Tally, IngestError> {
    let Shard { idx, n_shards } = options.shard;
    let (mut todo, mut n_done_before, mut used_bytes) = (Vec::new(), 0, 0);
    for (video, condition) in plan.units().into_iter().skip(idx).step_by(n_shards) {
        match Record::read_whole(options.folder, video, condition)? {
            Some(record) => {
                used_bytes += record.n_bytes();
                n_done_before += 1;
            }
            None => todo.push((video, condition)),
        }
    }
    progress.set_length((todo.len() + n_done_before) as u64);
    progress.set_position(n_done_before as u64);
    progress.reset_eta();
    let job = Job {
        options,
        next: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        limit_bytes: options.max_bytes / n_shards as u64,
        used_bytes: Mutex::new(used_bytes),
        tally: Mutex::new(Tally { n_done_before, ..Tally::default() }),
        fault: Mutex::new(None),
        progress,
        todo,
    };
    std::thread::scope(|scope| {
        for worker_idx in 0..options.jobs.min(job.todo.len()) {
            let (job, scratch) = (&job, scratch(options.folder, options.shard).join(worker_idx.to_string()));
            let follower = follower.clone();
            scope.spawn(move || {
                let file = scratch.join("compressed.mp4");
                let worker = Worker::new(&plan.settings, follower, job.options.ffmpeg, file);
                if let Err(error) = job.work(worker, &scratch) {
                    job.is_over.store(true, Ordering::Relaxed);
                    held(&job.fault).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = job.fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut tally = job.tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.not_read.sort();
    Ok(tally)
}

impl Job<'_> {
    fn work(&self, mut worker: Worker, scratch: &Path) -> Result<(), IngestError> {
        fs::create_dir_all(scratch).map_err(io_error(scratch, "create"))?;
        while !self.is_over.load(Ordering::Relaxed)
            && let Some((video, condition)) = self.todo.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            match worker.look(video, *condition)? {
                Outcome::Done(record, pngs) => {
                    self.keep(video, *condition, &record, &pngs, scratch)?;
                    let mut tally = held(&self.tally);
                    tally.n_done += 1;
                    tally.n_frames += record.n_frames;
                    tally.n_crops += record.crops.len();
                    self.progress.set_message(format!("{} crops", tally.n_crops));
                }
                Outcome::NotRead(reason) => {
                    let name = format!("{} ({condition})", video.name);
                    held(&self.tally).not_read.push((name, reason));
                }
            }
            self.progress.inc(1);
        }
        held(&self.tally).watches.push(worker.watch);
        Ok(())
    }

    /// Crops first, all at once, then the record that makes them count.
    fn keep(
        &self,
        video: &Video,
        condition: Condition,
        record: &Record,
        pngs: &[Vec<u8>],
        scratch: &Path,
    ) -> Result<(), IngestError> {
        {
            let mut used_bytes = held(&self.used_bytes);
            let needed_bytes = record.n_bytes();
            if *used_bytes + needed_bytes > self.limit_bytes {
                let (limit_bytes, used_bytes) = (self.limit_bytes, *used_bytes);
                return Err(IngestError::Full {
                    limit_bytes,
                    used_bytes,
                    needed_bytes,
                    video: video.name.clone(),
                });
            }
            *used_bytes += needed_bytes;
        }
        let folder = self.options.folder;
        let crops = folder.join(record::crops(video, condition));
        // Crops without a record are what a killed run left.
        if crops.exists() {
            fs::remove_dir_all(&crops).map_err(io_error(&crops, "remove"))?;
        }
        if !record.crops.is_empty() {
            let new = scratch.join("crops");
            fs::create_dir_all(&new).map_err(io_error(&new, "create"))?;
            for (crop, png) in record.crops.iter().zip(pngs) {
                let path = new.join(crop.file());
                fs::write(&path, png).map_err(io_error(&path, "write"))?;
            }
            if let Some(parent) = crops.parent() {
                fs::create_dir_all(parent).map_err(io_error(parent, "create"))?;
            }
            fs::rename(&new, &crops).map_err(io_error(&crops, "move here"))?;
        }
        record.write(folder, &scratch.join("record.json"), video, condition)
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read() {
        assert_eq!("2/3".parse(), Ok(Shard { idx: 1, n_shards: 3 }));
        for text in ["0/3", "4/3", "1", "/", "1/0", "a/b", "-1/2"] {
            assert!(text.parse::<Shard>().unwrap_err().contains("expected i/n"), "{text}");
        }
    }
}
