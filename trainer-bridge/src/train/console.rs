//! The live line of a training: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where a training is.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// From 1, of this phase.
    pub epoch: u64,
    /// Of this phase, at most.
    pub n_epochs: u64,
    /// From 1, of this epoch.
    pub step: u64,
    /// Of this epoch.
    pub n_steps: u64,
    /// Steps that are left in all phases, at most.
    pub n_left: u64,
    /// Mean of this epoch's losses so far.
    pub loss: f64,
}

/// Says on standard error how a training goes.
pub struct Console {
    bar: Option<ProgressBar>,
    report_steps: u64,
    started: Instant,
    n_steps: u64,
    epoch_started: Instant,
    n_pictures: usize,
}

impl Console {
    /// A bar where standard error is a terminal; a line every `report_steps` steps otherwise.
    pub fn new(report_steps: u64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Console { bar, report_steps, started: now, n_steps: 0, epoch_started: now, n_pictures: 0 }
    }

    /// An epoch's training starts: its speed is counted from here.
    pub fn start_epoch(&mut self) {
        (self.epoch_started, self.n_pictures) = (Instant::now(), 0);
    }

    /// A step of `n_pictures` is done.
    pub fn step(&mut self, at: Position, n_pictures: usize) {
        self.n_steps += 1;
        self.n_pictures += n_pictures;
        let Position { epoch, n_epochs, step, n_steps, n_left, loss } = at;
        let speed = self.pictures_per_s();
        // Validation is in it, as it will be in what is left.
        let seconds = self.started.elapsed().as_secs_f64() / self.n_steps as f64 * n_left as f64;
        let left = Duration::try_from_secs_f64(seconds)
            .map_or_else(|_| "?".to_owned(), |d| HumanDuration(d).to_string());
        let line = format!(
            "epoch {epoch}/{n_epochs}  step {step}/{n_steps}  loss {loss:.4}  {speed:.1} pictures/s  at most {left} left"
        );
        match &self.bar {
            Some(bar) => {
                bar.set_length(n_steps);
                bar.set_position(step);
                bar.set_message(line);
            }
            None if step.is_multiple_of(self.report_steps) || step == n_steps => eprintln!("{line}"),
            None => {}
        }
    }

    /// Pictures a second of this epoch's training.
    pub fn pictures_per_s(&self) -> f64 {
        self.n_pictures as f64 / self.epoch_started.elapsed().as_secs_f64().max(1e-9)
    }

    /// A line of its own.
    pub fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
