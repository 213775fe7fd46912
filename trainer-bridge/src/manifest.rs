//! A dataset: a folder of crops and `manifest.csv`, one row a crop.

use std::path::Path;

use candor::geom::Rect;
use serde::{Deserialize, Serialize};

use crate::table::{self, TableError};

/// The manifest's name in a dataset's folder.
pub const FILE: &str = "manifest.csv";

/// What a crop shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Label {
    /// A face as the camera saw it.
    Real,
    /// A face that was swapped, reenacted or made.
    Fake,
}

impl Label {
    /// The logit's index: 0 real, 1 fake.
    pub fn class(self) -> usize {
        match self {
            Label::Real => 0,
            Label::Fake => 1,
        }
    }
}

/// What a crop is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Weights learn from it.
    Train,
    /// It chooses between weights, thresholds and recipes, and is reported.
    Validation,
}

/// One crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its PNG, below the dataset's folder, with `/`; no two rows share one.
    pub crop: String,
    /// The video or photo that it is cut from, as the metadata names it, behind its folder's name: `dfdc_00/abc.mp4`.
    pub video: String,
    /// The video that a fake was made from; a real video's own name.
    pub source: String,
    /// Everything that must stay on one side of the split: sources that share a person, at least the source itself.
    pub group: String,
    /// How a fake was made, as the metadata says; empty for a real one and where nothing is known.
    pub method: String,
    /// What the video went through before its faces were looked for: `clean`, or the name of a compression.
    pub condition: String,
    /// Which face of the video.
    pub track: u32,
    /// Which frame of the video, from 0.
    pub frame: u64,
    /// The frame's time.
    pub pts_ns: i64,
    /// Left edge of the face's box in the upright frame, px.
    pub x: f32,
    /// Top edge, px.
    pub y: f32,
    /// Width, px.
    pub w: f32,
    /// Height, px.
    pub h: f32,
    /// The detector's P(face), 0..=1.
    pub confidence: f32,
    /// Real or fake.
    pub label: Label,
    /// Train or validation.
    pub split: Split,
}

impl Row {
    /// The face's box in the upright frame.
    pub fn bbox(&self) -> Rect {
        Rect { x: self.x, y: self.y, w: self.w, h: self.h }
    }
}

/// Reads the manifest of the dataset in `folder`.
///
/// # Errors
/// [`TableError`] for a file that can't be read, and for the first row that isn't a [`Row`].
pub fn read(folder: &Path) -> Result<Vec<Row>, TableError> {
    table::read(&folder.join(FILE))
}

/// Writes the manifest of the dataset in `folder`; the old one stays whole until the new one is on the disk.
///
/// # Errors
/// [`TableError`] when it can't be written.
pub fn write(folder: &Path, rows: &[Row]) -> Result<(), TableError> {
    table::write(&folder.join(FILE), rows)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row() -> Row {
        Row {
            crop: "crops/a/0-00012.png".into(),
            video: "a/b, c.mp4".into(),
            source: "a/\"d\".mp4".into(),
            group: "g".into(),
            method: String::new(),
            condition: "clean".into(),
            track: 1,
            frame: 12,
            pts_ns: 400_000_000,
            x: -1.25,
            y: 0.1,
            w: 33.3,
            h: 44.0,
            confidence: 0.999_9,
            label: Label::Fake,
            split: Split::Validation,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let rows = [row(), Row { label: Label::Real, split: Split::Train, ..row() }];
        write(folder.path(), &rows).unwrap();
        assert_eq!(read(folder.path()).unwrap(), rows);
    }

    #[test]
    fn a_wrong_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[row(), row()]).unwrap();
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let (head, last) = text.trim_end().rsplit_once('\n').unwrap();
        fs::write(&path, format!("{head}\n{}\n", last.replace("FAKE", "MAYBE"))).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line: 3") && error.contains("MAYBE"), "{error}");
    }

    #[test]
    fn a_missing_manifest_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(FILE) && error.contains("opening"), "{error}");
    }
}
