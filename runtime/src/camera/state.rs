//! What a camera is doing, and why.

use serde::Serialize;

use super::kernel::{Errno, Request};
use super::picture::PictureError;

/// What a source of live frames is doing. In all states but `Streaming` nothing is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is being opened; no frame has come yet.
    Opening,
    /// Fresh frames come.
    Streaming,
    /// The device is there, and nothing is plugged into it, or what is gives no picture.
    NoSignal,
    /// Frames come, and all are the same.
    Frozen,
    /// The device isn't there.
    Unplugged,
    /// Another program has the device.
    Busy,
    /// The device gives no format that is built in.
    FormatLost,
    /// The driver takes requests and gives no frames.
    Stalled,
    /// The system refuses something else; the reason says what.
    Failed,
    /// There will be no more frames: the end of a pipe or of a clip.
    Ended,
}

impl State {
    /// All there are.
    pub const ALL: [State; 10] = [
        State::Opening,
        State::Streaming,
        State::NoSignal,
        State::Frozen,
        State::Unplugged,
        State::Busy,
        State::FormatLost,
        State::Stalled,
        State::Failed,
        State::Ended,
    ];

    /// The word that people and JSON see.
    pub fn word(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Streaming => "streaming",
            State::NoSignal => "no-signal",
            State::Frozen => "frozen",
            State::Unplugged => "unplugged",
            State::Busy => "busy",
            State::FormatLost => "format-lost",
            State::Stalled => "stalled",
            State::Failed => "failed",
            State::Ended => "ended",
        }
    }
}

/// Why a camera gives no frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What that is called.
    pub state: State,
    /// What happened, for people.
    pub reason: String,
}

impl Fault {
    pub(super) fn new(state: State, reason: impl Into<String>) -> Self {
        Fault { state, reason: reason.into() }
    }

    /// What it means that `request` gave `errno` (the pages of each ioctl, and "Generic Error Codes").
    pub(super) fn of(request: Request, errno: Errno) -> Self {
        let state = match errno {
            Errno::NODEV | Errno::NXIO | Errno::NOENT => State::Unplugged,
            Errno::BUSY => State::Busy,
            Errno::NOLINK | Errno::NOLCK => State::NoSignal,
            Errno::RANGE if request == Request::QueryTimings => State::NoSignal,
            Errno::INVAL if request == Request::SetFormat => State::FormatLost,
            // The stream was going, and is not any more.
            Errno::IO | Errno::PIPE | Errno::INVAL if request == Request::Dequeue => State::Stalled,
            _ => State::Failed,
        };
        Fault::new(state, format!("{}: {errno}", request.name()))
    }
}

impl From<PictureError> for Fault {
    fn from(error: PictureError) -> Self {
        Fault::new(State::FormatLost, error.to_string())
    }
}
