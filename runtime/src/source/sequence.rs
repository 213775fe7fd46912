//! A folder of pictures as the frames of one video.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Damage, FrameRate, FrameSource, SourceError, SourceInfo, still};
use crate::frame::Frame;

/// Names that are taken for pictures; what a file really is, its bytes say.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "jpe", "png"];

/// The JPEG and PNG pictures of one folder (not of its sub-folders) in natural order of their names.
///
/// Pictures may differ in size. One that can't be decoded leaves a gap in time and is counted.
pub struct SequenceSource {
    paths: Vec<PathBuf>,
    rate: FrameRate,
    info: SourceInfo,
    damage: Damage,
    next_idx: usize,
}

impl SequenceSource {
    /// Lists the folder.
    ///
    /// # Errors
    /// [`SourceError::Io`] when the folder can't be listed, [`SourceError::Malformed`] when no file in
    /// it is named like a picture.
    pub fn open(folder: &Path, rate: FrameRate) -> Result<Self, SourceError> {
        let path = folder.display().to_string();
        let (paths, n_others) =
            list(folder).map_err(|cause| SourceError::Io { path: path.clone(), operation: "list", cause })?;
        if paths.is_empty() {
            let expected = "at least one JPEG or PNG".to_owned();
            let found = format!("{n_others} other files and folders");
            return Err(SourceError::Malformed { path, what: "folder", expected, found });
        }
        let n_frames = paths.len() as u64;
        let info = SourceInfo {
            description: format!("folder of pictures, {rate}/s"),
            n_frames: Some(n_frames),
            duration_ns: Some(rate.pts_ns(n_frames)),
            ..Default::default()
        };
        Ok(SequenceSource { paths, rate, info, damage: Damage::default(), next_idx: 0 })
    }
}

impl FrameSource for SequenceSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        while let Some(path) = self.paths.get(self.next_idx) {
            let frame_idx = self.next_idx as u64;
            self.next_idx += 1;
            match read_picture(path) {
                Ok(still) => {
                    if let Some(why) = still.damage {
                        self.damage.lose_frame(format!("{}: {why}", path.display()));
                    }
                    return Ok(Some(Frame { pts_ns: self.rate.pts_ns(frame_idx), frame_idx, ..still.frame }));
                }
                Err(cause) => self.damage.lose_frame(cause.to_string()),
            }
        }
        Ok(None)
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

fn read_picture(path: &Path) -> Result<still::Still, SourceError> {
    let name = path.display().to_string();
    let file =
        File::open(path).map_err(|cause| SourceError::Io { path: name.clone(), operation: "open", cause })?;
    let bytes = still::read_bounded(file, &name)?;
    still::decode(&bytes).map_err(|fault| fault.at(&name))
}

/// The pictures in order, and how many other entries there are. Hidden files are no pictures: some
/// systems leave a `._NAME.jpg` beside every file.
fn list(folder: &Path) -> std::io::Result<(Vec<PathBuf>, usize)> {
    let mut paths = vec![];
    let mut n_others = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_named_picture = path
            .extension()
            .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)));
        if is_named_picture && !is_hidden && path.is_file() {
            paths.push(path);
        } else {
            n_others += 1;
        }
    }
    paths.sort_by_cached_key(|path| natural_key(&path.file_name().unwrap_or_default().to_string_lossy()));
    Ok((paths, n_others))
}

/// A part of a name: a number by its value, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NamePart {
    /// Without leading zeros, so longer is larger.
    Number(String),
    Other(char),
}

impl Ord for NamePart {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (NamePart::Number(a), NamePart::Number(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (NamePart::Other(a), NamePart::Other(b)) => a.cmp(b),
            (NamePart::Number(_), NamePart::Other(b)) => '0'.cmp(b),
            (NamePart::Other(a), NamePart::Number(_)) => a.cmp(&'0'),
        }
    }
}

impl PartialOrd for NamePart {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Sorts names as people count; the name itself comes last, so that `1.png` and `01.png` have an order.
fn natural_key(name: &str) -> (Vec<NamePart>, String) {
    let mut parts = vec![];
    let mut is_in_number = false;
    for c in name.chars() {
        match parts.last_mut() {
            Some(NamePart::Number(digits)) if is_in_number && c.is_ascii_digit() => {
                if digits == "0" {
                    digits.clear();
                }
                digits.push(c);
            }
            _ if c.is_ascii_digit() => parts.push(NamePart::Number(c.to_string())),
            _ => parts.push(NamePart::Other(c)),
        }
        is_in_number = c.is_ascii_digit();
    }
    (parts, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names =
            vec!["frame10.png", "frame2.png", "b1.png", "frame002.png", "frame.png", "a10b2", "a10b1"];
        names.sort_by_cached_key(|name| natural_key(name));
        let expected = ["a10b1", "a10b2", "b1.png", "frame.png", "frame002.png", "frame2.png", "frame10.png"];
        assert_eq!(names, expected);
    }

    #[test]
    fn numbers_beyond_any_integer_sort_too() {
        let mut names = ["100000000000000000000000000", "99999999999999999999999999"];
        names.sort_by_cached_key(|name| natural_key(name));
        assert_eq!(names[0], "99999999999999999999999999");
    }
}
