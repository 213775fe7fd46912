//! Records and decisions to the manifest.

use std::collections::BTreeMap;
use std::path::Path;

use candor::geom::Rect;

use super::condition::Condition;
use super::plan::{Plan, Video};
use super::record::{self, Crop, Record};
use super::{IngestError, unexpected};
use crate::manifest::{Label, Row, Split};
use crate::review::decisions::{Decision, Verdict};

/// Least overlap (intersection over union) of two boxes that show one face in two versions of a video.
const SAME_FACE_IOU: f32 = 0.5;
/// Longest time between two looks at one moment in two versions of a video.
const SAME_MOMENT_NS: i64 = 100_000_000;

/// What to do with the real person in a fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RealPersons {
    /// Leave their crops out.
    Drop,
    /// Keep their crops as reals.
    Keep,
}

/// A manifest's rows with what they were made from.
#[derive(Default)]
pub struct Merged {
    /// By video, condition, track and frame.
    pub rows: Vec<Row>,
    /// Each row's [`super::duplicates::hash`].
    pub hashes: Vec<u64>,
    /// Faces with crops.
    pub n_faces: usize,
    /// Videos in which no face was found.
    pub n_without_face: usize,
    /// Videos that were read through ffmpeg.
    pub n_through_ffmpeg: usize,
    /// Videos that can't be read, with the reasons.
    pub refused: Vec<(String, String)>,
    /// Videos that nobody has done yet.
    pub missing: Vec<String>,
    /// Crops that decisions took out.
    pub n_dropped: usize,
    /// Crops that decisions turned from fake to real.
    pub n_relabelled: usize,
    /// Bytes of all crops.
    pub n_bytes: u64,
}

/// Puts all records of a plan together, as `decisions` say.
///
/// # Errors
/// [`IngestError`] where a record can't be read, and where the split leaks.
pub fn merge(
    folder: &Path,
    plan: &Plan,
    decisions: &[Decision],
    real_persons: RealPersons,
) -> Result<Merged, IngestError> {
    let mut by_video: BTreeMap<&str, Vec<&Decision>> = BTreeMap::new();
    for decision in decisions {
        by_video.entry(&decision.video).or_default().push(decision);
    }
    let mut merged = Merged::default();
    let mut clean: Option<Record> = None;
    for (video, condition) in plan.units() {
        let Some(record) = Record::read_whole(folder, video, condition)? else {
            merged.missing.push(format!("{} ({condition})", video.name));
            continue;
        };
        if condition.is_clean() {
            clean = Some(record.clone());
        }
        merged.n_bytes += record.n_bytes();
        merged.n_faces += record.n_faces();
        merged.n_through_ffmpeg += usize::from(record.through_ffmpeg);
        merged.n_without_face += usize::from(record.refused.is_none() && record.crops.is_empty());
        if let Some(reason) = &record.refused {
            merged.refused.push((format!("{} ({condition})", video.name), reason.clone()));
        }
        let none = Vec::new();
        let decisions = by_video.get(video.name.as_str()).unwrap_or(&none);
        for crop in &record.crops {
            let mut row = row(video, condition, crop);
            match verdict(decisions, condition, &record, clean.as_ref(), crop) {
                Some(Verdict::WrongFace) => row.crop.clear(),
                Some(Verdict::RealPerson) if video.label == Label::Fake => match real_persons {
                    RealPersons::Drop => row.crop.clear(),
                    RealPersons::Keep => {
                        (row.label, row.method) = (Label::Real, String::new());
                        merged.n_relabelled += 1;
                    }
                },
                _ => {}
            }
            if row.crop.is_empty() {
                merged.n_dropped += 1;
                continue;
            }
            let hash = u64::from_str_radix(&crop.hash, 16);
            merged.hashes.push(hash.map_err(|_| unexpected(&row.crop, "a hash of 16 digits", &crop.hash))?);
            merged.rows.push(row);
        }
    }
    check_no_leak(&merged.rows)?;
    Ok(merged)
}

fn row(video: &Video, condition: Condition, crop: &Crop) -> Row {
    let [x, y, w, h] = crop.bbox;
    Row {
        crop: format!("{}/{}", record::crops(video, condition), crop.file()),
        video: video.name.clone(),
        source: video.source.clone(),
        group: video.group.clone(),
        method: video.method.clone(),
        condition: condition.to_string(),
        track: crop.track,
        frame: crop.frame,
        pts_ns: crop.pts_ns,
        x,
        y,
        w,
        h,
        confidence: crop.confidence,
        label: video.label,
        split: video.split,
    }
}

/// What was decided about a crop. A decision about the clean video holds for the same face at the same place and
/// time in its compressed versions, whose tracks have other numbers.
fn verdict(
    decisions: &[&Decision],
    condition: Condition,
    record: &Record,
    clean: Option<&Record>,
    crop: &Crop,
) -> Option<Verdict> {
    let holds = |decision: &&&Decision| {
        if decision.condition == condition {
            return decision.track == crop.track && decision.frame.is_none_or(|frame| frame == crop.frame);
        }
        let Some(clean) = clean.filter(|_| decision.condition.is_clean()) else { return false };
        let decided = |c: &&Crop| c.track == decision.track && decision.frame.is_none_or(|f| f == c.frame);
        let is_alike = |seen: &Crop, longest_ns: i64| {
            let nearest = clean.crops.iter().filter(decided).min_by_key(|c| c.pts_ns.abs_diff(seen.pts_ns));
            nearest.is_some_and(|c| {
                (c.pts_ns - seen.pts_ns).abs() <= longest_ns
                    && share(&c.rect(), clean).iou(&share(&seen.rect(), record)) >= SAME_FACE_IOU
            })
        };
        if decision.frame.is_some() {
            return is_alike(crop, SAME_MOMENT_NS);
        }
        let track: Vec<&Crop> = record.crops.iter().filter(|c| c.track == crop.track).collect();
        2 * track.iter().filter(|c| is_alike(c, i64::MAX)).count() > track.len()
    };
    // The one that says most exactly what it is about; of two about the same the later.
    let exactness = |decision: &&&Decision| (decision.condition == condition, decision.frame.is_some());
    decisions.iter().filter(holds).max_by_key(exactness).map(|decision| decision.verdict)
}

/// A box as a share of its picture, which may be another size after compression.
fn share(rect: &Rect, record: &Record) -> Rect {
    let [w, h] = record.size_px.map(|side| side.max(1) as f32);
    Rect { x: rect.x / w, y: rect.y / h, w: rect.w / w, h: rect.h / h }
}

/// Asserts that no video, source or group is on both sides.
///
/// # Errors
/// [`IngestError::Leak`] with the first one that is.
pub fn check_no_leak(rows: &[Row]) -> Result<(), IngestError> {
    let mut sides: BTreeMap<(&str, &str), Split> = BTreeMap::new();
    for row in rows {
        // A source is a video too: a fake and the real one that it was made from.
        for (what, name) in [("video", &row.video), ("video", &row.source), ("group", &row.group)] {
            if *sides.entry((what, name)).or_insert(row.split) != row.split {
                return Err(IngestError::Leak { what, name: name.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_exact_decision_counts() {
        let compressed: Condition = "crf28".parse().unwrap();
        let crop = |frame, pts_ns| Crop {
            track: 1,
            frame,
            pts_ns,
            bbox: [0.0, 0.0, 50.0, 50.0],
            confidence: 1.0,
            n_bytes: 0,
            hash: String::new(),
        };
        let record = Record {
            size_px: [100, 100],
            n_frames: 2,
            n_frames_lost: 0,
            through_ffmpeg: false,
            n_faces_left_out: 0,
            jpeg_tables: None,
            refused: None,
            crops: vec![crop(0, 0), crop(9, 900_000_000)],
        };
        let decision =
            |condition, frame, verdict| Decision { video: "a".into(), condition, track: 1, frame, verdict };
        let (wrong, real) = (Verdict::WrongFace, Verdict::RealPerson);
        let face = decision(Condition::CLEAN, None, real);
        let one_crop = decision(Condition::CLEAN, Some(9), wrong);
        let by_hand = decision(compressed, None, real);
        let found = |decisions: &[&Decision], condition| -> Vec<Option<Verdict>> {
            let crops = record.crops.iter();
            crops.map(|crop| verdict(decisions, condition, &record, Some(&record), crop)).collect()
        };
        for decisions in [[&face, &one_crop], [&one_crop, &face]] {
            assert_eq!(found(&decisions, Condition::CLEAN), [Some(real), Some(wrong)]);
            assert_eq!(found(&decisions, compressed), [Some(real), Some(wrong)]);
        }
        for decisions in [[&by_hand, &one_crop], [&one_crop, &by_hand]] {
            assert_eq!(found(&decisions, compressed), [Some(real), Some(real)]);
            assert_eq!(found(&decisions, Condition::CLEAN), [None, Some(wrong)]);
        }
    }
}
