//! Watching a live source: frames in, events out, for as long as it takes.
//!
//! One thread captures and leaves the newest frame in the [`mailbox`]; the caller's thread looks at it when the [`pace`]
//! says so ([`live`]); each outlet of the [`hub`] writes in a thread of its own, and its witnesses look on in the watching
//! one. Every queue between them is bounded.

pub mod event;
pub mod faults;
pub mod hub;
pub mod lines;
pub mod live;
pub(crate) mod machine;
pub mod mailbox;
pub mod models;
pub mod notify;
pub mod pace;
mod settings;
mod shadow;
mod watcher;
pub mod witness;

pub use event::Event;
pub use settings::Settings;
pub use shadow::Shadow;
pub use watcher::{Latencies, Watcher};
