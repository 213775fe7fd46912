//! What the page shows: every face of a dataset, by video and track.

use std::path::Path;

use serde::Serialize;

use crate::ingest::IngestError;
use crate::ingest::condition::Condition;
use crate::ingest::plan::Plan;
use crate::ingest::record::{self, Record};
use crate::manifest::{Label, Split};

/// One crop of a face.
#[derive(Clone, Debug, Serialize)]
pub struct Picture {
    /// Which frame.
    pub frame: u64,
    /// Its PNG, below the dataset's folder.
    pub file: String,
}

/// One face of a video.
#[derive(Clone, Debug, Serialize)]
pub struct Face {
    /// The video.
    pub video: String,
    /// Which face.
    pub track: u32,
    /// Real or fake, by the video's label.
    pub label: Label,
    /// How it was faked.
    pub method: String,
    /// Its side.
    pub split: Split,
    /// Other faces of the same video.
    pub n_beside: usize,
    /// Its crops in time.
    pub pictures: Vec<Picture>,
}

/// All faces of the dataset in `folder`, by video and track, as they were before compression.
///
/// # Errors
/// [`IngestError`] where the plan or a record can't be read. Videos that aren't done are left out.
pub fn faces(folder: &Path, plan: &Plan) -> Result<Vec<Face>, IngestError> {
    let mut faces: Vec<Face> = Vec::new();
    for video in &plan.videos {
        let Some(record) = Record::read(folder, video, Condition::CLEAN)? else { continue };
        let crops = record::crops(video, Condition::CLEAN);
        let n_beside = record.n_faces().saturating_sub(1);
        let first = faces.len();
        for crop in &record.crops {
            let is_new = faces[first..].last().is_none_or(|face| face.track != crop.track);
            if is_new {
                faces.push(Face {
                    video: video.name.clone(),
                    track: crop.track,
                    label: video.label,
                    method: video.method.clone(),
                    split: video.split,
                    n_beside,
                    pictures: Vec::new(),
                });
            }
            if let Some(face) = faces.last_mut() {
                let file = format!("{crops}/{}", crop.file());
                face.pictures.push(Picture { frame: crop.frame, file });
            }
        }
    }
    Ok(faces)
}
