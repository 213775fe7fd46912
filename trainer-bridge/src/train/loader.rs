//! Batches made ahead by threads, in order, in bounded memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use image::RgbImage;

/// Pictures of one size and their classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// u8 RGB, all of one size.
    pub pictures: Vec<RgbImage>,
    /// 0 real, 1 fake.
    pub classes: Vec<i64>,
}

/// Why a batch can't be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A crop can't be read.
    #[error("{path}: {cause}")]
    Crop {
        /// Its file.
        path: std::path::PathBuf,
        /// What the decoder says.
        cause: image::ImageError,
    },
    /// A thread is gone without a word.
    #[error("a loader thread ended before its last batch: see the panic above")]
    Thread,
}

/// Makes a batch by its index; what it gives depends on nothing but the index.
pub type Make = dyn Fn(usize) -> Result<Batch, LoadError> + Send + Sync;

/// Threads that take turns: thread t of n makes batches t, t + n, ... into a queue of its own, so that the order is
/// the same with any number of them.
pub struct Loader {
    queues: Vec<Receiver<Result<Batch, LoadError>>>,
    threads: Vec<JoinHandle<()>>,
    next: Range<usize>,
    n_taken: usize,
}

impl Loader {
    /// Starts to make the batches of `batches`; at most `queue_batches` (at least one a thread) wait to be taken, and
    /// each thread holds one more.
    pub fn start(batches: Range<usize>, n_threads: usize, queue_batches: usize, make: &Arc<Make>) -> Self {
        let n_threads = n_threads.clamp(1, batches.len().max(1));
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for thread_idx in 0..n_threads {
            let (sender, queue) = sync_channel((queue_batches / n_threads).max(1));
            let (make, mine) = (Arc::clone(make), batches.clone().skip(thread_idx).step_by(n_threads));
            threads.push(thread::spawn(move || {
                for batch_idx in mine {
                    let batch = make(batch_idx);
                    let is_last = batch.is_err();
                    // Nobody listens any more when the loader is dropped early.
                    if sender.send(batch).is_err() || is_last {
                        return;
                    }
                }
            }));
            queues.push(queue);
        }
        Loader { queues, threads, next: batches, n_taken: 0 }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next.next()?;
        let queue = &self.queues[self.n_taken % self.queues.len()];
        self.n_taken += 1;
        Some(queue.recv().unwrap_or(Err(LoadError::Thread)))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            // A panic has been printed and reported as LoadError::Thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn numbered() -> Arc<Make> {
        Arc::new(|batch_idx| Ok(Batch { classes: vec![batch_idx as i64], ..Batch::default() }))
    }

    fn order(n_threads: usize) -> Vec<i64> {
        Loader::start(3..20, n_threads, 4, &numbered()).map(|batch| batch.unwrap().classes[0]).collect()
    }

    #[test]
    fn batches_come_in_order_with_any_number_of_threads() {
        let expected: Vec<i64> = (3..20).collect();
        for n_threads in [1, 2, 3, 7, 40] {
            assert_eq!(order(n_threads), expected, "{n_threads} threads");
        }
        assert_eq!(Loader::start(5..5, 2, 4, &numbered()).count(), 0);
    }

    #[test]
    fn no_more_is_made_ahead_than_the_queues_hold() {
        let n_made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&n_made);
        let make: Arc<Make> = Arc::new(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(Batch::default())
        });
        let mut loader = Loader::start(0..1000, 2, 6, &make);
        for n_taken in 1..=100 {
            loader.next().unwrap().unwrap();
            // Six wait, each of two threads holds one, and one is taken.
            let n_made = n_made.load(Ordering::SeqCst);
            assert!(n_made <= n_taken + 6 + 2, "{n_made} made, {n_taken} taken");
        }
        drop(loader);
        assert!(n_made.load(Ordering::SeqCst) <= 108);
    }

    #[test]
    fn an_error_comes_in_its_place_and_a_panic_is_one() {
        let path = || "a.png".into();
        let failing: Arc<Make> = Arc::new(move |batch_idx| match batch_idx {
            2 => Err(LoadError::Crop { path: path(), cause: std::io::Error::other("gone").into() }),
            _ => Ok(Batch::default()),
        });
        let outcomes: Vec<bool> = Loader::start(0..3, 2, 2, &failing).map(|batch| batch.is_ok()).collect();
        assert_eq!(outcomes, [true, true, false]);
        let panicking: Arc<Make> = Arc::new(|batch_idx| {
            assert_ne!(batch_idx, 1, "on purpose");
            Ok(Batch::default())
        });
        let mut loader = Loader::start(0..4, 1, 2, &panicking);
        assert!(loader.next().unwrap().is_ok());
        assert!(matches!(loader.next(), Some(Err(LoadError::Thread))));
    }
}
