//! Work that is done again and again beside the rest of the program.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// A thread that works until this goes.
pub(crate) struct Repeating(#[expect(dead_code, reason = "the thread ends when it is gone")] Sender<()>);

impl Repeating {
    /// Works after `pause`, and then after each pause that the work asks for.
    pub(crate) fn start(mut pause: Duration, mut work: impl FnMut() -> Duration + Send + 'static) -> Self {
        let (sender, stopped) = channel();
        thread::spawn(move || {
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = work();
            }
        });
        Repeating(sender)
    }
}
