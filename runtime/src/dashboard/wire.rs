//! Bytes to and from one client, each with a time by which they must have moved.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::http::{MAX_BODY, MAX_HEAD, Refusal, Request};

/// How much of what a refused client still sends is read, and for how long, so that it can read why.
const LINGER: (usize, Duration) = (256 << 10, Duration::from_secs(1));

/// One connection.
pub(super) struct Wire {
    stream: TcpStream,
    /// What came and isn't used yet.
    buffer: Vec<u8>,
}

/// What came instead of a request.
pub(super) enum Silence {
    /// The client has gone, or has nothing to ask.
    Over,
    /// It asked for what isn't served.
    Refused(Refusal),
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Answers are written whole; waiting for more would only delay them.
        let _ = stream.set_nodelay(true);
        Wire { stream, buffer: Vec::new() }
    }

    /// The next request and its body. The client may be silent for `idle`; what it then asks must come within `asking`.
    pub(super) fn request(
        &mut self,
        idle: Duration,
        asking: Duration,
    ) -> Result<(Request, Vec<u8>), Silence> {
        let mut until = Instant::now() + if self.buffer.is_empty() { idle } else { asking };
        loop {
            if !self.buffer.is_empty()
                && let Some((request, n_head)) = Request::parse(&self.buffer).map_err(Silence::Refused)?
            {
                let n_all = n_head + request.n_body;
                while self.buffer.len() < n_all {
                    self.read(until)?;
                }
                let body = self.buffer[n_head..n_all].to_vec();
                self.buffer.drain(..n_all);
                return Ok((request, body));
            }
            let was_silent = self.buffer.is_empty();
            self.read(until)?;
            if was_silent {
                until = Instant::now() + asking;
            }
        }
    }

    fn read(&mut self, until: Instant) -> Result<(), Silence> {
        let mut bytes = [0; MAX_HEAD + MAX_BODY];
        let room = bytes.len().saturating_sub(self.buffer.len()).max(1);
        let is_asking = !self.buffer.is_empty();
        match self.read_some(&mut bytes[..room], until) {
            Ok(0) => Err(Silence::Over),
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                Ok(())
            }
            Err(error) if is_late(&error) && is_asking => {
                Err(Silence::Refused(Refusal(408, "the request took too long")))
            }
            Err(_) => Err(Silence::Over),
        }
    }

    fn read_some(&self, bytes: &mut [u8], until: Instant) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(left(until)?))?;
            match (&self.stream).read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Writes all of `bytes` within `timeout`, however slowly the client takes them.
    pub(super) fn write(&self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        let (until, mut rest) = (Instant::now() + timeout, bytes);
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(left(until)?))?;
            match (&self.stream).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection. What the client still sends is read for a moment: unread, it would make the system drop the
    /// answer with the connection.
    pub(super) fn end(self) {
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let (mut room, until) = (LINGER.0, Instant::now() + LINGER.1);
        let mut bytes = [0; 4096];
        while room > 0 {
            match self.read_some(&mut bytes, until) {
                Ok(n) if n > 0 => room = room.saturating_sub(n),
                _ => break,
            }
        }
    }
}

/// What is left of the time; an error when nothing is.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
