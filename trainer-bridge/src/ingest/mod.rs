//! Videos and photos to a dataset: what there is (`inputs`), who belongs together (`groups`), who learns and
//! who is measured (`split`), one video's faces (`work`), all of them (`run`), the manifest (`merge`).
//!
//! A dataset's folder:
//!
//! | path | what |
//! |---|---|
//! | `plan.json` | the settings and all videos with their splits: [`plan::Plan`] |
//! | `crops/VIDEO/CONDITION/TRACK-FRAME.png` | a face, or a whole frame |
//! | `records/VIDEO/CONDITION.json` | a finished video: [`record::Record`]; without it nothing of the video counts |
//! | `manifest.csv` | all crops that count: [`crate::manifest::Row`] |
//! | `decisions.csv` | what a person decided: [`crate::review::decisions::Decision`] |
//! | `duplicates.csv` | pictures of training that look like ones of validation: [`duplicates::Pair`] |

pub mod command;
pub mod condition;
pub mod duplicates;
pub mod ffmpeg;
pub mod groups;
pub mod inputs;
pub mod jpeg;
pub mod merge;
pub mod plan;
pub mod record;
pub mod run;
pub mod split;
pub mod work;

use std::fs;
use std::io;
use std::path::Path;

use candor::engine::EngineError;

use crate::files::{self, FileError};
use crate::table::TableError;

/// Why a dataset can't be made.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// An input, a setting or a file of the dataset isn't what it should be.
    #[error("{what}: expected {expected}, found {found}")]
    Unexpected {
        /// The file or setting.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The same thing on both sides of the split.
    #[error("{what} {name} is in training and in validation")]
    Leak {
        /// Video, source or group.
        what: &'static str,
        /// Which one.
        name: String,
    },
    /// The crops take more room than they may.
    #[error(
        "{limit_bytes} bytes are allowed (this process's part of --max-bytes) and {used_bytes} are used: {video} \
         needs {needed_bytes} more. What is done stays; run again with a larger limit"
    )]
    Full {
        /// What may be used.
        limit_bytes: u64,
        /// What is used.
        used_bytes: u64,
        /// What the video needs.
        needed_bytes: u64,
        /// The video that has no room.
        video: String,
    },
    /// The detector can't be loaded or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A manifest, or a file of decisions or of near-duplicates, can't be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

pub(crate) fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> IngestError {
    let of = FileError::of(path, operation);
    move |cause| of(cause).into()
}

pub(crate) fn unexpected(
    what: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> IngestError {
    IngestError::Unexpected { what: what.into(), expected: expected.into(), found: found.into() }
}

/// [`files::replace_through`], with the folders of both files.
pub(crate) fn write_whole(path: &Path, scratch: &Path, bytes: &[u8]) -> Result<(), IngestError> {
    for folder in [path, scratch].iter().filter_map(|p| p.parent()) {
        fs::create_dir_all(folder).map_err(io_error(folder, "create"))?;
    }
    Ok(files::replace_through(scratch, path, bytes)?)
}

/// A file's bytes, at most `limit_bytes` of them.
pub(crate) fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, IngestError> {
    let n_bytes = fs::metadata(path).map_err(io_error(path, "read"))?.len();
    if n_bytes > limit_bytes {
        let found = format!("{n_bytes} bytes");
        return Err(unexpected(path.display().to_string(), format!("at most {limit_bytes} bytes"), found));
    }
    fs::read(path).map_err(io_error(path, "read"))
}
