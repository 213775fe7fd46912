//! What a person decided about faces: `decisions.csv` in the dataset's folder.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::FileError;
use crate::ingest::IngestError;
use crate::ingest::condition::Condition;
use crate::table;

/// The file's name in a dataset's folder.
pub const FILE: &str = "decisions.csv";

/// Why a face doesn't count as its video's label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No face, or not a face to learn from: a print on a shirt, a drawing, a hand.
    WrongFace,
    /// A person in a fake whom nobody touched.
    RealPerson,
}

/// A decision about a face of a video, or about one crop of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The video.
    pub video: String,
    /// What the video went through; a decision about `clean` holds for the same face in all others.
    pub condition: Condition,
    /// Which face.
    pub track: u32,
    /// Which crop; the whole face where it is empty.
    pub frame: Option<u64>,
    /// What was decided.
    pub verdict: Verdict,
}

/// Reads a file of decisions.
///
/// # Errors
/// [`IngestError`] where it can't be read, and for the first line that is no decision.
pub fn read(path: &Path) -> Result<Vec<Decision>, IngestError> {
    Ok(table::read(path)?)
}

/// Reads the decisions of a dataset; none where it has no file.
///
/// # Errors
/// [`IngestError`] as [`read`].
pub fn of_dataset(folder: &Path) -> Result<Vec<Decision>, IngestError> {
    let path = folder.join(FILE);
    if path.exists() { read(&path) } else { Ok(Vec::new()) }
}

/// Writes a dataset's decisions, sorted; the old file stays whole until the new one is on the disk. No decisions
/// are no file.
///
/// # Errors
/// [`IngestError`] where it can't be written.
pub fn write(folder: &Path, decisions: &[Decision]) -> Result<(), IngestError> {
    let path = folder.join(FILE);
    if decisions.is_empty() {
        return match fs::remove_file(&path) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(FileError { path, operation: "remove", cause }.into())
            }
            _ => Ok(()),
        };
    }
    let mut sorted = decisions.to_vec();
    sorted.sort();
    Ok(table::write(&path, &sorted)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_dataset(folder.path()).unwrap(), []);
        let decision = |track, frame, verdict| Decision {
            video: "a/b, \"c\".mp4".into(),
            condition: "crf40-360p".parse().unwrap(),
            track,
            frame,
            verdict,
        };
        let first = decision(1, None, Verdict::RealPerson);
        let second = decision(2, Some(7), Verdict::WrongFace);
        write(folder.path(), &[second.clone(), first.clone()]).unwrap();
        assert_eq!(of_dataset(folder.path()).unwrap(), [first, second]);
        write(folder.path(), &[]).unwrap();
        assert!(!folder.path().join(FILE).exists());
    }

    #[test]
    fn a_wrong_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, "video,condition,track,frame,verdict\na,clean,1,,maybe\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line: 2") && error.contains("maybe"), "{error}");
    }
}
