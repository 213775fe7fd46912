//! A clip in the place of a camera, at its own pace or as fast as it is looked at.

use std::sync::Arc;

use super::clock::Clock;
use super::state::State;
use super::{Counts, Feed, Shot, Step};
use crate::frame::Frame;
use crate::source::{FrameSource, SourceError};

/// The longest wait within a step.
const SLICE_NS: i64 = 250_000_000;

/// Opens the clip anew.
pub type Opening = Box<dyn FnMut() -> Result<Box<dyn FrameSource>, SourceError>>;

/// The frames of a clip as if they were taken now.
pub struct Player<C> {
    clock: C,
    opening: Opening,
    source: Option<Box<dyn FrameSource>>,
    description: String,
    is_paced: bool,
    n_rounds_left: u32,
    /// What time 0 of the clip is on the clock.
    base_ns: i64,
    /// Where the round after this one begins.
    end_ns: i64,
    frame_gap_ns: i64,
    waiting: Option<Frame>,
    state: State,
    counts: Counts,
}

impl<C: Clock> Player<C> {
    /// Plays the clip `n_rounds` times. With `is_paced` at its own pace, else a frame a step, stamped with the clip's
    /// time from the clock's start on.
    ///
    /// # Errors
    /// [`SourceError`] when it can't be opened.
    pub fn new(mut opening: Opening, clock: C, is_paced: bool, n_rounds: u32) -> Result<Self, SourceError> {
        let source = opening()?;
        let description = source.info().description.clone();
        let base_ns = clock.now_ns();
        Ok(Player {
            clock,
            opening,
            source: Some(source),
            description,
            is_paced,
            n_rounds_left: n_rounds.saturating_sub(1),
            base_ns,
            end_ns: base_ns,
            frame_gap_ns: 0,
            waiting: None,
            state: State::Opening,
            counts: Counts::default(),
        })
    }

    /// The next frame, stamped on the clock; the reason when there is none.
    fn decode(&mut self) -> Result<Frame, String> {
        loop {
            let Some(source) = &mut self.source else { return Err("the clip has ended".to_owned()) };
            if let Some(mut frame) = source.next_frame().map_err(|error| error.to_string())? {
                let at_ns = self.base_ns.saturating_add(frame.pts_ns);
                self.frame_gap_ns = (at_ns - self.end_ns).clamp(1, SLICE_NS);
                self.end_ns = at_ns;
                frame.pts_ns = at_ns;
                frame.frame_idx = self.counts.n_frames;
                self.counts.n_frames += 1;
                return Ok(frame);
            }
            self.counts.n_bad += source.damage().n_frames_lost;
            if self.n_rounds_left == 0 {
                self.source = None;
                continue;
            }
            self.n_rounds_left -= 1;
            self.counts.n_opened += 1;
            self.source = Some((self.opening)().map_err(|error| error.to_string())?);
            self.base_ns = self.end_ns + self.frame_gap_ns;
        }
    }
}

impl<C: Clock> Feed for Player<C> {
    fn step(&mut self) -> Step {
        if self.state == State::Ended {
            self.clock.sleep_ns(SLICE_NS);
            return Step::Nothing;
        }
        if self.state == State::Opening {
            self.state = State::Streaming;
            return Step::Changed(State::Streaming, self.description.clone());
        }
        let frame = match self.waiting.take().map_or_else(|| self.decode(), Ok) {
            Ok(frame) => frame,
            Err(reason) => {
                self.state = State::Ended;
                return Step::Changed(State::Ended, reason);
            }
        };
        if self.is_paced {
            let early_ns = frame.pts_ns - self.clock.now_ns();
            self.clock.sleep_ns(early_ns.min(SLICE_NS));
            if early_ns > SLICE_NS {
                self.waiting = Some(frame);
                return Step::Nothing;
            }
            if early_ns < -SLICE_NS {
                // Whoever decodes too slowly plays more slowly.
                self.base_ns -= early_ns;
                self.end_ns -= early_ns;
                return Step::Shot(Shot::Frame(Arc::new(Frame { pts_ns: frame.pts_ns - early_ns, ..frame })));
            }
        }
        Step::Shot(Shot::Frame(Arc::new(frame)))
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
