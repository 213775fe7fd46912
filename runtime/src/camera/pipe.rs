//! Raw pictures on a pipe, as `rpicam-vid --codec yuv420 -o -` writes them.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::clock::Clock;
use super::picture::{Layout, Raw};
use super::state::State;
use super::{Counts, Feed, Shot, Step};

/// The longest wait within a step.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Read at once; what a pipe holds.
const CHUNK_BYTES: usize = 1 << 16;
/// Memory that is kept for frames that were read.
const MAX_RAW: usize = 4;

/// Pictures of one known layout, one after the other, with nothing between them.
pub struct RawPipe<R, C> {
    reader: R,
    clock: C,
    layout: Arc<Layout>,
    frame_bytes: usize,
    stall_ns: i64,
    state: State,
    filling: Arc<Raw>,
    pool: Vec<Arc<Raw>>,
    last_ns: i64,
    counts: Counts,
}

impl<R: Read + AsFd, C: Clock> RawPipe<R, C> {
    /// Reads from `reader`; without a whole picture for `stall_ms` the sender counts as stalled.
    pub fn new(reader: R, clock: C, layout: Layout, stall_ms: u32) -> Self {
        let frame_bytes = layout.n_bytes_needed().first().copied().unwrap_or(0);
        RawPipe {
            reader,
            last_ns: clock.now_ns(),
            clock,
            layout: Arc::new(layout),
            frame_bytes,
            stall_ns: i64::from(stall_ms) * 1_000_000,
            state: State::Opening,
            filling: Arc::default(),
            pool: Vec::new(),
            counts: Counts::default(),
        }
    }

    fn change(&mut self, state: State, reason: impl Into<String>) -> Step {
        if self.state == state {
            return Step::Nothing;
        }
        self.state = state;
        Step::Changed(state, reason.into())
    }

    /// Reads what is there. True for the end.
    fn fill(&mut self) -> std::io::Result<bool> {
        let mut fds = [PollFd::new(&self.reader, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&SLICE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Nobody else has the frame that is being filled.
        let bytes = &mut Arc::make_mut(&mut self.filling).bytes;
        let at = bytes.len();
        bytes.resize((at + CHUNK_BYTES).min(self.frame_bytes), 0);
        let read = self.reader.read(&mut bytes[at..]);
        bytes.truncate(at + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(n) => Ok(n == 0),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl<R: Read + AsFd, C: Clock> Feed for RawPipe<R, C> {
    fn step(&mut self) -> Step {
        if self.state == State::Ended {
            self.clock.sleep_ns(SLICE.tv_nsec);
            return Step::Nothing;
        }
        match self.fill() {
            Ok(false) => {}
            Ok(true) => {
                self.counts.n_bad += u64::from(!self.filling.bytes.is_empty());
                return self.change(State::Ended, "the pipe has ended");
            }
            Err(error) => return self.change(State::Ended, error.to_string()),
        }
        let now_ns = self.clock.now_ns();
        if self.filling.bytes.len() < self.frame_bytes {
            let waited_ns = now_ns - self.last_ns;
            if waited_ns >= self.stall_ns {
                return self.change(State::Stalled, format!("no picture for {} ms", waited_ns / 1_000_000));
            }
            return Step::Nothing;
        }
        self.last_ns = now_ns;
        let mut free = match self.pool.iter().position(|raw| Arc::strong_count(raw) == 1) {
            Some(idx) => self.pool.swap_remove(idx),
            None => Arc::default(),
        };
        Arc::make_mut(&mut free).bytes.clear();
        let mut full = std::mem::replace(&mut self.filling, free);
        let raw = Arc::make_mut(&mut full);
        raw.ends.clear();
        let _ = raw.ends.push(raw.bytes.len());
        (raw.taken_ns, raw.frame_idx) = (now_ns, self.counts.n_frames);
        self.counts.n_frames += 1;
        if self.pool.len() < MAX_RAW {
            self.pool.push(Arc::clone(&full));
        }
        if self.state != State::Streaming {
            let Layout { encoding, width_px, height_px, .. } = *self.layout;
            return self.change(State::Streaming, format!("{} {width_px}x{height_px}", encoding.word()));
        }
        Step::Shot(Shot::Raw(full, Arc::clone(&self.layout)))
    }

    fn description(&self) -> String {
        "raw pictures on standard input".to_owned()
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::Encoding;
    use super::super::clock::Monotonic;
    use super::*;
    use std::io::{Seek as _, Write as _};

    #[test]
    fn pictures_come_whole_and_the_end_is_told() {
        let mut file = tempfile::tempfile().unwrap();
        let picture = |n: u8| [vec![n; 8], vec![100 + n; 2], vec![200 + n; 2]].concat();
        for n in 0..3 {
            file.write_all(&picture(n)).unwrap();
        }
        file.write_all(&[9; 5]).unwrap();
        file.rewind().unwrap();
        let layout = Layout::packed(Encoding::I420, 4, 2).unwrap();
        let mut pipe = RawPipe::new(file, Monotonic, layout, 1500);
        let mut seen = Vec::new();
        let mut states = Vec::new();
        while !matches!(states.last(), Some(State::Ended)) {
            match pipe.step() {
                Step::Shot(shot) => {
                    let mut frame = crate::frame::Frame::default();
                    shot.read(&mut frame).unwrap();
                    seen.push((frame.frame_idx, frame.planes[0].samples[7], frame.planes[2].samples[1]));
                }
                Step::Changed(state, _) => states.push(state),
                Step::Nothing => {}
            }
        }
        // The first picture is the proof that pictures come.
        assert_eq!(seen, [(1, 1, 201), (2, 2, 202)]);
        assert_eq!(states, [State::Streaming, State::Ended]);
        assert_eq!((pipe.counts().n_frames, pipe.counts().n_bad), (3, 1));
    }
}
