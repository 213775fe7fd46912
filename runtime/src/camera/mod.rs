//! Live frames: V4L2 devices, raw pictures on a pipe, a clip played at its pace.
//!
//! [`Feed`] is what they have in common. A device's is [`Supervisor`], over a [`kernel::Kernel`] that tests replace.

pub mod clock;
pub mod kernel;
mod linux;
mod negotiate;
mod picture;
mod pipe;
mod play;
mod session;
mod state;
mod supervisor;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use linux::Linux;
pub use negotiate::Wanted;
pub use picture::{Encoding, Layout, PictureError, Raw};
pub use pipe::RawPipe;
pub use play::{Opening, Player};
pub use state::{Fault, State};
pub use supervisor::{Settings, Supervisor};

use crate::frame::Frame;
use kernel::Kernel as _;

/// A frame that was taken and isn't read yet.
#[derive(Clone, Debug)]
pub enum Shot {
    /// As a camera gave it.
    Raw(Arc<Raw>, Arc<Layout>),
    /// Decoded already.
    Frame(Arc<Frame>),
}

impl Shot {
    /// When it was taken, on the feed's clock.
    pub fn taken_ns(&self) -> i64 {
        match self {
            Shot::Raw(raw, _) => raw.taken_ns,
            Shot::Frame(frame) => frame.pts_ns,
        }
    }

    /// Puts its picture into `frame`, whose memory is used again.
    ///
    /// # Errors
    /// [`PictureError`] when its bytes are no picture.
    pub fn read(&self, frame: &mut Frame) -> Result<(), PictureError> {
        match self {
            Shot::Raw(raw, layout) => layout.read(raw, frame),
            Shot::Frame(decoded) => {
                let mut planes = std::mem::take(&mut frame.planes);
                planes.clone_from(&decoded.planes);
                *frame = Frame { planes, ..**decoded };
                Ok(())
            }
        }
    }
}

/// What a feed came to in one step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A fresh frame.
    Shot(Shot),
    /// Another state, and why.
    Changed(State, String),
    /// Nothing yet.
    Nothing,
}

/// Counts of a feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Frames that came.
    pub n_frames: u64,
    /// Frames that the driver lost, by its own count.
    pub n_dropped: u64,
    /// Frames without a whole picture.
    pub n_bad: u64,
    /// Frames that were old when they came.
    pub n_stale: u64,
    /// Frames that were the same as the one before.
    pub n_repeated: u64,
    /// How often the device was opened.
    pub n_opened: u64,
}

/// A source of live frames. After [`State::Ended`] only `Nothing` comes.
pub trait Feed {
    /// Waits a quarter of a second at most.
    fn step(&mut self) -> Step;

    /// What it is, for people.
    fn description(&self) -> String;

    /// What came so far.
    fn counts(&self) -> Counts;
}

/// The video devices of this machine that can capture, with what they call themselves.
pub fn devices() -> Vec<(PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir("/dev") else { return Vec::new() };
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("video")?.parse::<u32>().ok();
    let mut paths: Vec<(u32, PathBuf)> =
        entries.flatten().filter_map(|e| Some((number(&e.path())?, e.path()))).collect();
    paths.sort();
    let mut kernel = Linux;
    let mut about = |path: &Path| {
        let device = kernel.open(path).ok()?;
        let found = kernel.query_capabilities(&device).ok()?;
        session::planarity(found.flags).map(|_| found.card)
    };
    paths.into_iter().filter_map(|(_, path)| about(&path).map(|card| (path, card))).collect()
}
