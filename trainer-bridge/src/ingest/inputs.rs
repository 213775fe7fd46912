//! Folders to videos: metadata.json of DFDC's form, and photos.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use super::{IngestError, io_error, read_bounded, unexpected};
use crate::manifest::Label;

/// The metadata's name in a folder of videos.
pub const METADATA: &str = "metadata.json";
/// Largest metadata that is read.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// Endings of files that are photos.
const PHOTO_ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];

/// A video or photo as its folder describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `FOLDER/FILE`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Real or fake.
    pub label: Label,
    /// How it was faked; empty where nothing is known.
    pub method: String,
    /// The bare name of the video that it was made from.
    pub original: Option<String>,
    /// Who or what it belongs to, as the metadata says.
    pub group: Option<String>,
    /// The metadata's own split.
    pub split: Option<String>,
    /// A photo, not a video.
    pub is_photo: bool,
}

/// What photos have in common that belong to one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhotoGroup {
    /// Each photo is a person.
    File,
    /// Each folder is a person.
    Folder,
    /// A person is what stands in the file's name before the last of this character.
    Before(char),
}

impl FromStr for PhotoGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text.strip_prefix("before:").unwrap_or_default().chars();
        match (text, rest.next(), rest.next()) {
            ("file", ..) => Ok(PhotoGroup::File),
            ("folder", ..) => Ok(PhotoGroup::Folder),
            (_, Some(c), None) => Ok(PhotoGroup::Before(c)),
            _ => Err(format!("expected file, folder or before:CHARACTER, found {text:?}")),
        }
    }
}

/// One entry of metadata.json. Other keys, such as DFDC's `original_missing`, mean nothing here.
#[derive(Deserialize)]
struct Entry {
    label: Label,
    split: Option<String>,
    original: Option<String>,
    method: Option<String>,
    group: Option<String>,
}

/// The videos of a folder with metadata.json, or of its subfolders that have one.
///
/// # Errors
/// [`IngestError`] where there is no metadata, or metadata that makes no sense.
pub fn videos(folder: &Path) -> Result<Vec<Found>, IngestError> {
    if folder.join(METADATA).is_file() {
        return read_folder(folder);
    }
    let mut folders = list(folder)?;
    folders.retain(|path| path.join(METADATA).is_file());
    if folders.is_empty() {
        let what = folder.display().to_string();
        return Err(unexpected(what, format!("{METADATA}, here or one folder below"), "none"));
    }
    folders.iter().map(|folder| read_folder(folder)).collect::<Result<Vec<_>, _>>().map(|v| v.concat())
}

fn read_folder(folder: &Path) -> Result<Vec<Found>, IngestError> {
    let path = folder.join(METADATA);
    let what = path.display().to_string();
    let bytes = read_bounded(&path, MAX_METADATA_BYTES)?;
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(&bytes).map_err(|error| {
        unexpected(
            &what,
            "FILE -> {label: REAL or FAKE, split?, original?, method?, group?}",
            error.to_string(),
        )
    })?;
    if entries.is_empty() {
        return Err(unexpected(what, "at least one video", "none"));
    }
    let folder_name = name_of(folder)?;
    let mut found = Vec::with_capacity(entries.len());
    for (file, entry) in entries {
        check_relative(&file, &what)?;
        let filled = |text: Option<String>| text.filter(|t| !t.is_empty());
        let method = filled(entry.method).filter(|_| entry.label == Label::Fake).unwrap_or_default();
        found.push(Found {
            name: format!("{folder_name}/{file}"),
            path: folder.join(&file),
            label: entry.label,
            method,
            original: filled(entry.original).filter(|o| *o != file),
            group: filled(entry.group),
            split: filled(entry.split),
            is_photo: false,
        });
    }
    Ok(found)
}

/// The photos below a folder, as reals.
///
/// # Errors
/// [`IngestError`] where there are none.
pub fn photos(folder: &Path, rule: &PhotoGroup) -> Result<Vec<Found>, IngestError> {
    let folder_name = name_of(folder)?;
    let mut paths = Vec::new();
    walk(folder, &mut paths)?;
    if paths.is_empty() {
        return Err(unexpected(folder.display().to_string(), "photos (JPEG, PNG)", "none"));
    }
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let below = path.strip_prefix(folder).unwrap_or(&path);
        let parts: Vec<String> =
            below.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        let file = parts.join("/");
        let stem = file.rsplit_once('.').map_or(file.as_str(), |(stem, _)| stem);
        let person = match rule {
            PhotoGroup::File => &file,
            PhotoGroup::Folder => file.rsplit_once('/').map_or("", |(folder, _)| folder),
            PhotoGroup::Before(c) => stem.rsplit_once(*c).map_or(stem, |(person, _)| person),
        };
        found.push(Found {
            name: format!("{folder_name}/{file}"),
            label: Label::Real,
            method: String::new(),
            original: None,
            group: Some(format!("{folder_name}/{person}")),
            split: None,
            is_photo: true,
            path,
        });
    }
    Ok(found)
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), IngestError> {
    for path in list(folder)? {
        // A link to a folder could lead round in circles.
        if path.is_dir() && !path.is_symlink() {
            walk(&path, paths)?;
        } else if path.is_file() {
            let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
            if ending.is_some_and(|e| PHOTO_ENDINGS.contains(&e.as_str())) {
                paths.push(path);
            }
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, IngestError> {
    let entries = fs::read_dir(folder).map_err(io_error(folder, "list"))?;
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(io_error(folder, "list"))?;
    paths.sort();
    Ok(paths)
}

fn name_of(folder: &Path) -> Result<String, IngestError> {
    let whole = folder.canonicalize().map_err(io_error(folder, "open"))?;
    let name = whole.file_name().map(|n| n.to_string_lossy().into_owned());
    name.ok_or_else(|| unexpected(folder.display().to_string(), "a folder with a name", "the root"))
}

/// Metadata comes from outside: it must not name files elsewhere.
fn check_relative(file: &str, what: &str) -> Result<(), IngestError> {
    let is_plain = |c: Component| matches!(c, Component::Normal(_));
    if !file.is_empty() && Path::new(file).components().all(is_plain) && !file.contains(['\\', '\0']) {
        return Ok(());
    }
    Err(unexpected(what, "names of files below its folder", format!("{file:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for file in ["", "../a.mp4", "/a.mp4", "a/../b.mp4", "./../a", "a\\b"] {
            assert!(check_relative(file, "m").is_err(), "{file}");
        }
        check_relative("a b/ü.mp4", "m").unwrap();
    }

    #[test]
    fn wrong_metadata_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = videos(folder.path()).unwrap_err().to_string();
        assert!(error.contains(METADATA) && error.contains("found none"), "{error}");
        for (text, expected) in
            [("{}", "at least one"), ("{\"a\":{\"label\":\"MAYBE\"}}", "MAYBE"), ("[", "EOF")]
        {
            fs::write(folder.path().join(METADATA), text).unwrap();
            let error = videos(folder.path()).unwrap_err().to_string();
            assert!(error.contains(METADATA) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn people_of_photos_are_told_by_rule() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("ann")).unwrap();
        for file in ["ann/x_1.jpg", "ann/y_2.PNG", "ann/notes.txt"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        let base = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let people = |rule: &str| -> Vec<String> {
            let found = photos(folder.path(), &rule.parse().unwrap()).unwrap();
            let strip = |g: String| g.strip_prefix(&format!("{base}/")).unwrap().to_owned();
            found.into_iter().map(|f| strip(f.group.unwrap())).collect()
        };
        assert_eq!(people("file"), ["ann/x_1.jpg", "ann/y_2.PNG"]);
        assert_eq!(people("folder"), ["ann", "ann"]);
        assert_eq!(people("before:_"), ["ann/x", "ann/y"]);
        for rule in ["", "person", "before:", "before:ab"] {
            assert!(rule.parse::<PhotoGroup>().is_err(), "{rule}");
        }
    }
}
