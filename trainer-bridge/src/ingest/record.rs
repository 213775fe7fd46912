//! One finished video: its crops, or why there are none.

use std::fs;
use std::path::{Path, PathBuf};

use candor::geom::Rect;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::jpeg::Tables;
use super::plan::Video;
use super::{IngestError, read_bounded, unexpected, write_whole};

/// Largest record that is read.
const MAX_RECORD_BYTES: u64 = 16 << 20;

/// One crop, as it was cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// Which face of the video.
    pub track: u32,
    /// Which frame, from 0.
    pub frame: u64,
    /// The frame's time.
    pub pts_ns: i64,
    /// The face's box in the upright frame, px: x, y, w, h.
    pub bbox: [f32; 4],
    /// The detector's P(face).
    pub confidence: f32,
    /// Length of the PNG.
    pub n_bytes: u64,
    /// [`super::duplicates::hash`] of its pixels, in hexadecimal.
    pub hash: String,
}

impl Crop {
    /// The face's box in the upright frame, px.
    pub fn rect(&self) -> Rect {
        let [x, y, w, h] = self.bbox;
        Rect { x, y, w, h }
    }

    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}-{:06}.png", self.track, self.frame)
    }
}

/// What became of a video in one condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Width and height of the upright picture; 0 where nothing was read.
    pub size_px: [u32; 2],
    /// Frames that were read.
    pub n_frames: u64,
    /// Frames that are lost.
    pub n_frames_lost: u64,
    /// Read through ffmpeg, because candor doesn't read it.
    pub through_ffmpeg: bool,
    /// Faces that were left out: too brief, or more than are kept.
    pub n_faces_left_out: usize,
    /// Of a still: what [`super::jpeg::quantization_tables`] finds in its own file, whatever condition it went through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jpeg_tables: Option<Tables>,
    /// Why nothing could be read.
    pub refused: Option<String>,
    /// Its crops by track and frame.
    pub crops: Vec<Crop>,
}

impl Record {
    /// Bytes on the disk: the crops'.
    pub fn n_bytes(&self) -> u64 {
        self.crops.iter().map(|c| c.n_bytes).sum()
    }

    /// Faces that have crops.
    pub fn n_faces(&self) -> usize {
        let mut tracks: Vec<u32> = self.crops.iter().map(|c| c.track).collect();
        tracks.dedup();
        tracks.len()
    }

    /// Reads a record; `None` where there is none.
    ///
    /// # Errors
    /// [`IngestError`] where it can't be read.
    pub fn read(folder: &Path, video: &Video, condition: Condition) -> Result<Option<Self>, IngestError> {
        let path = path(folder, video, condition);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_bounded(&path, MAX_RECORD_BYTES)?;
        let record = serde_json::from_slice(&bytes);
        record.map(Some).map_err(|e| unexpected(path.display().to_string(), "a record", e.to_string()))
    }

    /// Reads a record whose crops are all there; `None` where anything is missing.
    ///
    /// # Errors
    /// [`IngestError`] where it can't be read.
    pub fn read_whole(
        folder: &Path,
        video: &Video,
        condition: Condition,
    ) -> Result<Option<Self>, IngestError> {
        let record = Record::read(folder, video, condition)?;
        let crops = folder.join(crops(video, condition));
        let is_there = |crop: &Crop| {
            fs::metadata(crops.join(crop.file())).is_ok_and(|about| about.len() == crop.n_bytes)
        };
        Ok(record.filter(|record| record.crops.iter().all(is_there)))
    }

    /// Writes it: from now on the video is done.
    ///
    /// # Errors
    /// [`IngestError`] where it can't be written.
    pub fn write(
        &self,
        folder: &Path,
        scratch: &Path,
        video: &Video,
        condition: Condition,
    ) -> Result<(), IngestError> {
        let path = path(folder, video, condition);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| unexpected(path.display().to_string(), "JSON", error.to_string()))?;
        write_whole(&path, scratch, &bytes)
    }
}

/// Where a video's record is.
pub fn path(folder: &Path, video: &Video, condition: Condition) -> PathBuf {
    folder.join("records").join(plain(&video.name)).join(format!("{condition}.json"))
}

/// The folder of a video's crops below the dataset's.
pub fn crops(video: &Video, condition: Condition) -> String {
    format!("crops/{}/{condition}", plain(&video.name))
}

/// A name as a path that every file system takes: other characters as `%` and two hexadecimal digits a byte.
fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut is_first = true;
    for byte in name.bytes() {
        // A leading dot would hide the file, or lead to another folder.
        let is_plain = byte.is_ascii_alphanumeric() || b"_-/".contains(&byte) || (byte == b'.' && !is_first);
        match char::from_u32(u32::from(byte)).filter(|_| is_plain) {
            Some(c) => plain.push(c),
            None => plain.push_str(&format!("%{byte:02x}")),
        }
        is_first = byte == b'/';
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths_one_to_one() {
        assert_eq!(plain("dfdc_00/abc-1.mp4"), "dfdc_00/abc-1.mp4");
        assert_eq!(plain("a b/.x%/ü..png"), "a%20b/%2ex%25/%c3%bc..png");
    }
}
