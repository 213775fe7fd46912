//! `candor slot receive`: standard input and output as a connection.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use candor::bundle::Roots;
use candor::slot::{self, Ending, Place, Settings, now_unix_s};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::scan::exit;

/// How long a sender may say nothing.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// Talks to a sender.
///
/// # Errors
/// The exit code and what to say.
pub(crate) fn receive(folder: &Path, settings: &Settings, roots: &Roots) -> Result<(), (u8, String)> {
    let place = Place { folder, roots, limits: settings, now_unix_s };
    match slot::receive(&place, Patient { input: io::stdin(), patience: PATIENCE }, io::stdout().lock()) {
        Ending::Told | Ending::Held(..) | Ending::Installed(_) => Ok(()),
        Ending::Refused(why) => Err((exit::REFUSED, why)),
        Ending::Busy => Err((exit::REFUSED, "another transfer is under way".to_owned())),
        Ending::Again(why) | Ending::Failed(why) => Err((exit::NOT_WRITTEN, why)),
        Ending::Cut { kept_bytes } => {
            let why = format!("the sender went away; {kept_bytes} bytes are kept for the next time");
            Err((exit::NOT_SCANNED, why))
        }
    }
}

/// An input that fails when nothing comes for too long: a connection may be gone without a word, and one transfer at a
/// time is taken.
struct Patient<F> {
    input: F,
    patience: Timespec,
}

impl<F: AsFd> Read for Patient<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut fds = [PollFd::new(&self.input, PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&self.patience))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Past any buffer of the standard library, which poll knows nothing of.
        Ok(rustix::io::read(&self.input, into)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_nothing_is_given_up() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut silent = Patient { input: reader, patience: Timespec { tv_sec: 0, tv_nsec: 1_000_000 } };
        assert_eq!(silent.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
