//! What the capturing thread leaves for the watching one: the newest frame, and every change of state.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::camera::{Counts, Shot, State};

/// Changes that wait; of more the oldest are forgotten, since only the last one counts.
const MAX_CHANGES: usize = 32;

/// What was left.
#[derive(Debug, Default)]
pub struct Post {
    /// Changes of state, oldest first.
    pub changes: VecDeque<(State, String)>,
    /// The newest frame, taken after the last change.
    pub shot: Option<Shot>,
    /// Frames so far that gave way to newer ones.
    pub n_skipped: u64,
    /// The feed's counts.
    pub counts: Counts,
    /// Steps of the feed: it is alive while this grows.
    pub n_steps: u64,
}

/// One place for one frame.
#[derive(Debug, Default)]
pub struct Mailbox {
    post: Mutex<Post>,
    has_come: Condvar,
    was_taken: Condvar,
    is_lossless: bool,
}

impl Mailbox {
    /// An empty one. With `is_lossless` a frame waits until the one before was taken.
    pub fn new(is_lossless: bool) -> Self {
        Mailbox { is_lossless, ..Mailbox::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the feed is alive, and its counts.
    pub fn beat(&self, counts: Counts) {
        let mut post = self.lock();
        post.counts = counts;
        post.n_steps += 1;
    }

    /// Leaves a frame. Where none may be lost, waits for room, `timeout` at most.
    ///
    /// # Errors
    /// The frame, when there is no room.
    pub fn put(&self, shot: Shot, timeout: Duration) -> Result<(), Shot> {
        let mut post = self.room(timeout);
        if self.is_lossless && post.shot.is_some() {
            return Err(shot);
        }
        if post.shot.replace(shot).is_some() {
            post.n_skipped += 1;
        }
        self.has_come.notify_one();
        Ok(())
    }

    /// Leaves a change. A frame from before it is not looked at any more; where none may be lost, it is waited for as
    /// in [`Mailbox::put`].
    ///
    /// # Errors
    /// The change, when there is no room.
    pub fn change(&self, change: (State, String), timeout: Duration) -> Result<(), (State, String)> {
        let mut post = self.room(timeout);
        if self.is_lossless && post.shot.is_some() {
            return Err(change);
        }
        if post.shot.take().is_some() {
            post.n_skipped += 1;
        }
        if post.changes.len() == MAX_CHANGES {
            post.changes.pop_front();
        }
        post.changes.push_back(change);
        self.has_come.notify_one();
        Ok(())
    }

    fn room(&self, timeout: Duration) -> MutexGuard<'_, Post> {
        let post = self.lock();
        if !self.is_lossless {
            return post;
        }
        let waited = self.was_taken.wait_timeout_while(post, timeout, |post| post.shot.is_some());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What came, at the latest after `timeout`.
    pub fn take(&self, timeout: Duration) -> Post {
        let is_empty = |post: &mut Post| post.shot.is_none() && post.changes.is_empty();
        let waited = self.has_come.wait_timeout_while(self.lock(), timeout, is_empty);
        let mut post = waited.unwrap_or_else(PoisonError::into_inner).0;
        let taken = Post {
            changes: std::mem::take(&mut post.changes),
            shot: post.shot.take(),
            n_skipped: post.n_skipped,
            counts: post.counts,
            n_steps: post.n_steps,
        };
        self.was_taken.notify_one();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frame;
    use std::sync::Arc;

    fn shot(pts_ns: i64) -> Shot {
        Shot::Frame(Arc::new(Frame { pts_ns, ..Frame::default() }))
    }

    fn taken_ns(post: &Post) -> Option<i64> {
        post.shot.as_ref().map(Shot::taken_ns)
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn the_newest_frame_wins_and_the_others_are_counted() {
        let mailbox = Mailbox::new(false);
        for pts_ns in 0..5 {
            mailbox.put(shot(pts_ns), NOW).unwrap();
        }
        let post = mailbox.take(NOW);
        assert_eq!((taken_ns(&post), post.n_skipped), (Some(4), 4));
        assert_eq!(taken_ns(&mailbox.take(NOW)), None);
    }

    #[test]
    fn a_frame_from_before_a_change_is_not_looked_at() {
        let mailbox = Mailbox::new(false);
        mailbox.put(shot(1), NOW).unwrap();
        for _ in 0..100 {
            mailbox.change((State::Unplugged, "gone".into()), NOW).unwrap();
        }
        let post = mailbox.take(NOW);
        assert_eq!((taken_ns(&post), post.n_skipped, post.changes.len()), (None, 1, MAX_CHANGES));
    }

    #[test]
    fn where_none_may_be_lost_a_frame_waits_for_room() {
        let mailbox = Mailbox::new(true);
        mailbox.put(shot(1), NOW).unwrap();
        assert!(mailbox.put(shot(2), NOW).is_err());
        assert_eq!(taken_ns(&mailbox.take(NOW)), Some(1));
        mailbox.put(shot(2), NOW).unwrap();
        assert_eq!(mailbox.take(NOW).n_skipped, 0);
    }
}
