//! One running `ssh` client with `candor slot receive` at its other end, line by line.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use candor::slot::{GREETING, PROTOCOL};

use super::ssh::{NO_CONNECTION, Target, is_final};
use super::{FlashError, plain};

/// Longest line of a device; the slots' record is a mebibyte at most, and its JSON may be written longer.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// What a login shell may print before candor says its word.
const MAX_LINES_BEFORE: usize = 1000;
/// The end of what `ssh` and the device said that is shown.
const MAX_SAID_BYTES: usize = 4096;
/// How long a device may be silent: it checks a bundle meanwhile, or a person types a passphrase.
const SILENCE: Duration = Duration::from_secs(120);
/// How long a client may take to end once its output has.
const ENDING: Duration = Duration::from_secs(10);
/// How long the last of what it said may take to come.
const LISTENING: Duration = Duration::from_millis(500);

/// Why a try came to nothing.
pub(super) enum Trouble {
    /// Another try may do.
    Passing(String),
    /// It can't.
    Final(FlashError),
}

impl From<FlashError> for Trouble {
    fn from(error: FlashError) -> Self {
        Trouble::Final(error)
    }
}

/// A running client.
pub(super) struct Link {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Arc<Mutex<Vec<u8>>>,
    listener: JoinHandle<()>,
    target: String,
    has_greeted: bool,
}

impl Link {
    /// Starts a client and waits until candor says its word.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) fn open(target: &Target) -> Result<Self, Trouble> {
        let name = target.name.clone();
        let failed = |why: String| Trouble::Final(FlashError::Unreachable { target: name.clone(), why });
        let started = target.command().spawn();
        let mut child = started.map_err(|error| failed(format!("{}: {error}", target.ssh.display())))?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("ssh: no streams".to_owned()));
        };
        let (sender, lines) = sync_channel(64);
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut next = || {
                let mut line = Vec::new();
                output.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).ok()?;
                // The last line of a connection that broke isn't whole.
                line.ends_with(b"\n").then(|| String::from_utf8_lossy(&line).trim_end().to_owned())
            };
            while let Some(line) = next() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let said = Arc::default();
        let listener = thread::spawn({
            let said = Arc::clone(&said);
            move || keep_last(errors, &said)
        });
        let mut link =
            Link { child, input: Some(input), lines, said, listener, target: name, has_greeted: false };
        for _ in 0..MAX_LINES_BEFORE {
            let line = link.line()?;
            let mut words = line.split(' ');
            if words.next() != Some(GREETING) {
                continue;
            }
            let version = words.next().unwrap_or_default();
            if version == PROTOCOL.to_string() {
                link.has_greeted = true;
                return Ok(link);
            }
            let version = plain(version);
            return Err(link.broken(&format!("expected protocol {PROTOCOL}, found {version}")).into());
        }
        Err(link.broken(&format!("expected the word {GREETING}, found other lines")).into())
    }

    /// Says a line.
    ///
    /// # Errors
    /// [`Trouble`] where nobody is there any more.
    pub(super) fn say(&mut self, line: &str) -> Result<(), Trouble> {
        let said = self.input.as_mut().map(|input| writeln!(input, "{line}").and_then(|()| input.flush()));
        match said {
            Some(Ok(())) => Ok(()),
            // What was said last by the device or by the client tells more than a broken pipe.
            _ => match self.line() {
                Ok(line) => Err(Trouble::Passing(plain(&line))),
                Err(trouble) => Err(trouble),
            },
        }
    }

    /// The stream to the device, for a thread that writes.
    pub(super) fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// The device's next line.
    ///
    /// # Errors
    /// [`Trouble`] where none comes.
    pub(super) fn line(&mut self) -> Result<String, Trouble> {
        match self.lines.recv_timeout(SILENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                let silence_s = SILENCE.as_secs();
                self.stop();
                Err(Trouble::Passing(format!("nothing came for {silence_s} s")))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// The device answers, and not as it should.
    pub(super) fn broken(&self, why: &str) -> FlashError {
        FlashError::Device { target: self.target.clone(), why: why.to_owned() }
    }

    /// What the end of the client means.
    fn ended(&mut self) -> Trouble {
        self.input = None;
        let code = self.exit_code();
        self.stop();
        let said = self.last_said();
        let why = if said.is_empty() { "the connection ended".to_owned() } else { said.clone() };
        let target = self.target.clone();
        match code {
            Some(NO_CONNECTION) if !self.has_greeted && is_final(&said) => {
                Trouble::Final(FlashError::Unreachable { target, why })
            }
            // Ended by a signal or by us, without a connection, or by a device that saw its connection end.
            None | Some(NO_CONNECTION) => Trouble::Passing(why),
            Some(3) if self.has_greeted => Trouble::Passing(why),
            Some(code) => {
                let why = format!("candor ended with {code} there: {why}");
                Trouble::Final(FlashError::Device { target, why })
            }
        }
    }

    /// The end of what the client and the device said to people, as one line.
    fn last_said(&self) -> String {
        let asked = Instant::now();
        // A master of shared connections, which stays, keeps the stream open.
        while !self.listener.is_finished() && asked.elapsed() < LISTENING {
            thread::sleep(Duration::from_millis(5));
        }
        let said = self.said.lock().map(|said| said.clone()).unwrap_or_default();
        plain(&String::from_utf8_lossy(&said))
    }

    fn exit_code(&mut self) -> Option<i32> {
        let asked = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) if asked.elapsed() < ENDING => thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }

    /// Ends the client, which lets go of whoever writes to it.
    pub(super) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Keeps the end of everything that comes.
fn keep_last(mut from: impl Read, said: &Mutex<Vec<u8>>) {
    let mut piece = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        let Ok(mut said) = said.lock() else { return };
        said.extend_from_slice(&piece[..n]);
        let n_over = said.len().saturating_sub(MAX_SAID_BYTES);
        said.drain(..n_over);
    }
}
