//! What is to be done: settings, and every video with its group and split. The same inputs and settings give
//! the same plan in whatever order and on whatever machine, so that shards agree without talking.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use super::groups::Groups;
use super::inputs::Found;
use super::split::{self, Kinds};
use super::{IngestError, read_bounded, unexpected, write_whole};
use crate::manifest::{Label, Split};

/// The plan's name in a dataset's folder.
pub const FILE: &str = "plan.json";
/// Largest plan that is read.
const MAX_PLAN_BYTES: u64 = 1 << 30;

/// What decides which crops there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Side of a crop.
    pub size_px: u32,
    /// Margin about a face's box; 0.3 is 30 % of its longer side.
    pub margin: f32,
    /// Most crops of one face, or most frames of a video with `whole_frames`.
    pub per_face: usize,
    /// Most faces of a video: the ones that are longest in it.
    pub max_faces: usize,
    /// A face of a video with fewer crops than this is left out.
    pub min_looks: usize,
    /// Least longer side of a face's box.
    pub min_face_px: f32,
    /// Frames as a whole instead of faces.
    pub whole_frames: bool,
    /// What decides the split.
    pub seed: u64,
    /// Share of the videos that is validation, 0..1.
    pub validation: f64,
    /// The metadata's split counts instead.
    pub given_split: bool,
    /// The two sides change places.
    #[serde(default)]
    pub swapped: bool,
    /// What validation is looked at in; the first is clean.
    pub conditions: Vec<Condition>,
    /// What is learnt from is looked at in; the first is clean.
    #[serde(default = "clean_alone")]
    pub train_conditions: Vec<Condition>,
}

fn clean_alone() -> Vec<Condition> {
    vec![Condition::CLEAN]
}

/// A video or photo with all that a manifest says about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// `FOLDER/FILE`.
    pub name: String,
    /// The video that it was made from, or itself.
    pub source: String,
    /// What must stay on one side.
    pub group: String,
    /// How it was faked; empty where nothing is known.
    pub method: String,
    /// Real or fake.
    pub label: Label,
    /// The side.
    pub split: Split,
    /// A photo, not a video.
    pub is_photo: bool,
    /// Where it is on this machine; not written.
    #[serde(skip)]
    pub path: PathBuf,
}

/// The settings and all videos, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What decides which crops there are.
    pub settings: Settings,
    /// Sorted by name.
    pub videos: Vec<Video>,
}

impl Plan {
    /// Groups and splits what was found.
    ///
    /// # Errors
    /// [`IngestError`] for two videos of one name, and for a given split that is missing or tears a group apart.
    pub fn new(mut found: Vec<Found>, settings: Settings) -> Result<Self, IngestError> {
        found.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = found.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let paths = format!("{} and {}", pair[0].path.display(), pair[1].path.display());
            return Err(unexpected(&pair[0].name, "one video of this name (give the folders names)", paths));
        }
        let sources = sources(&found);
        let groups = name_groups(&found, &sources);
        let sides = if settings.given_split {
            given_sides(&found, &groups)?
        } else {
            let mut kinds: BTreeMap<String, Kinds> = BTreeMap::new();
            for (video, group) in found.iter().zip(&groups) {
                let form = if video.is_photo { "photo" } else { "video" };
                let kind = format!("{form} {:?} {}", video.label, video.method);
                *kinds.entry(group.clone()).or_default().entry(kind).or_default() += 1;
            }
            split::split(&kinds, settings.validation, settings.seed)
        };
        let swapped = settings.swapped;
        let videos = found.into_iter().zip(sources).zip(groups).map(|((found, source), group)| Video {
            split: match sides.get(&group).copied().unwrap_or(Split::Train) {
                Split::Train if swapped => Split::Validation,
                Split::Validation if swapped => Split::Train,
                side => side,
            },
            name: found.name,
            source,
            group,
            method: found.method,
            label: found.label,
            is_photo: found.is_photo,
            path: found.path,
        });
        Ok(Plan { settings, videos: videos.collect() })
    }

    /// Every video in every condition that it is looked at in, in the manifest's order.
    pub fn units(&self) -> Vec<(&Video, Condition)> {
        let conditions = |video: &Video| match video.split {
            Split::Train => &self.settings.train_conditions,
            Split::Validation => &self.settings.conditions,
        };
        self.videos.iter().flat_map(|v| conditions(v).iter().map(move |c| (v, *c))).collect()
    }

    /// Reads the plan of the dataset in `folder`; `None` where there is none.
    ///
    /// # Errors
    /// [`IngestError`] where it can't be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, IngestError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_bounded(&path, MAX_PLAN_BYTES)?;
        let plan: Plan = serde_json::from_slice(&bytes)
            .map_err(|error| unexpected(path.display().to_string(), "a plan", error.to_string()))?;
        let Settings { conditions, train_conditions, .. } = &plan.settings;
        if [conditions, train_conditions].iter().any(|list| list.first() != Some(&Condition::CLEAN)) {
            return Err(unexpected(path.display().to_string(), "clean as the first condition", "another"));
        }
        Ok(Some(plan))
    }

    /// Makes this the plan of the dataset in `folder`.
    ///
    /// # Errors
    /// [`IngestError`] where the dataset has another plan, or this one can't be written.
    pub fn settle(&self, folder: &Path, scratch: &Path) -> Result<(), IngestError> {
        let path = folder.join(FILE);
        let json =
            |error: serde_json::Error| unexpected(path.display().to_string(), "JSON", error.to_string());
        let bytes = serde_json::to_vec_pretty(self).map_err(json)?;
        let Some(old) = Plan::read(folder)? else { return write_whole(&path, scratch, &bytes) };
        // As it would be read again: a number's last digit may change on the way, and paths aren't written.
        let new: Plan = serde_json::from_slice(&bytes).map_err(json)?;
        let differs = |what: &str, expected: String, found: String| {
            let what = format!("{}: another dataset is in this folder: {what}", folder.display());
            Err(unexpected(what, expected, found))
        };
        if old.settings != new.settings {
            return differs("settings", format!("{:?}", old.settings), format!("{:?}", new.settings));
        }
        if old.videos.len() != new.videos.len() {
            return differs("videos", old.videos.len().to_string(), new.videos.len().to_string());
        }
        match old.videos.iter().zip(&new.videos).find(|(old, new)| old != new) {
            Some((old, new)) => differs("a video", format!("{old:?}"), format!("{new:?}")),
            None => Ok(()),
        }
    }
}

/// The name of each video's source: itself, the original beside it, or an original in another folder. One that
/// is in no folder keeps its bare name, which all its fakes then share.
fn sources(found: &[Found]) -> Vec<String> {
    let names: BTreeSet<&str> = found.iter().map(|f| f.name.as_str()).collect();
    let mut by_file: BTreeMap<&str, &str> = BTreeMap::new();
    for video in found.iter().rev() {
        if let Some((_, file)) = video.name.split_once('/') {
            by_file.insert(file, &video.name);
        }
    }
    let source = |video: &Found| {
        let Some(original) = &video.original else { return video.name.clone() };
        let folder = video.name.split('/').next().unwrap_or_default();
        let beside = format!("{folder}/{original}");
        if names.contains(beside.as_str()) {
            return beside;
        }
        by_file.get(original.as_str()).map_or_else(|| original.clone(), |name| (*name).to_owned())
    };
    found.iter().map(source).collect()
}

/// A name for everything that hangs together through sources, bare names of originals and given groups.
fn name_groups(found: &[Found], sources: &[String]) -> Vec<String> {
    let mut groups = Groups::default();
    for (video, source) in found.iter().zip(sources) {
        groups.link(&format!("video {}", video.name), &format!("video {source}"));
        if let Some(original) = &video.original {
            // Two fakes of one missing original belong together, whatever folders they are in.
            groups.link(&format!("video {source}"), &format!("original {original}"));
        }
        if let Some(group) = &video.group {
            groups.link(&format!("video {}", video.name), &format!("group {group}"));
        }
    }
    // The least given group names a component; the least source where none is given.
    let mut names: BTreeMap<usize, (bool, &str)> = BTreeMap::new();
    let mut members = Vec::with_capacity(found.len());
    for (video, source) in found.iter().zip(sources) {
        let component = groups.component(&format!("video {}", video.name));
        let candidate = (video.group.is_none(), video.group.as_deref().unwrap_or(source));
        let name = names.entry(component).or_insert(candidate);
        *name = (*name).min(candidate);
        members.push(component);
    }
    members.iter().map(|component| names[component].1.to_owned()).collect()
}

fn given_sides(found: &[Found], groups: &[String]) -> Result<BTreeMap<String, Split>, IngestError> {
    let mut sides: BTreeMap<String, (Split, &str)> = BTreeMap::new();
    for (video, group) in found.iter().zip(groups) {
        let side = match video.split.as_deref() {
            Some("train") => Split::Train,
            Some("validation" | "test") => Split::Validation,
            other => {
                let found = other.map_or("none".to_owned(), |o| format!("{o:?}"));
                let what = format!("{}: split", video.name);
                return Err(unexpected(what, "train, validation or test in the metadata", found));
            }
        };
        let (first_side, first) = *sides.entry(group.clone()).or_insert((side, &video.name));
        if first_side != side {
            let what = format!("group {group}: the metadata's split");
            let found = format!("{first} in {first_side:?} and {} in {side:?}", video.name);
            return Err(unexpected(what, "one split for all of its videos", found));
        }
    }
    Ok(sides.into_iter().map(|(group, (side, _))| (group, side)).collect())
}
