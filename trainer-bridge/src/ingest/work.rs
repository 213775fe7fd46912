//! One video's or photo's faces, found and cut by what a device runs.

use std::fs;
use std::path::{Path, PathBuf};

use candor::follow::{FollowError, Follower};
use candor::gallery::{Album, Gallery, Sample};
use candor::geom::Rect;
use candor::preprocess::color;
use candor::preprocess::crop::Cropper;
use candor::source::{self, Damage, FrameSource, SourceError};
use candor::stopwatch::{Stage, Stopwatch};
use image::RgbImage;

use super::condition::Condition;
use super::ffmpeg::{Ffmpeg, FfmpegError};
use super::jpeg::{self, Tables};
use super::plan::{Settings, Video};
use super::record::{Crop, Record};
use super::{IngestError, duplicates, read_bounded};

/// Largest still: candor reads none that is larger.
const MAX_STILL_BYTES: u64 = 256 << 20;

/// What became of a video.
pub enum Outcome {
    /// It was read, or is beyond reading: the record says which. The PNGs are those of the record's crops.
    Done(Record, Vec<Vec<u8>>),
    /// It can't be read here and now: it isn't there, or there is no ffmpeg for it.
    NotRead(String),
}

/// Looks at one video after the other.
pub struct Worker<'a> {
    settings: &'a Settings,
    follower: Follower,
    ffmpeg: Option<&'a Ffmpeg>,
    /// A compressed video for as long as it is read.
    scratch_file: PathBuf,
    /// CPU time by stage; writing counts PNGs.
    pub watch: Stopwatch,
}

/// What was seen of one video.
#[derive(Default)]
struct Seen {
    size_px: [u32; 2],
    n_frames: u64,
    damage: Damage,
    n_faces_left_out: usize,
    faces: Vec<(u32, Vec<Sample>)>,
}

/// Why nothing was seen.
enum Trouble {
    /// The system or another program is at fault.
    NotRead(String),
    /// The video is.
    Refused(String),
    Fatal(IngestError),
}

impl From<FfmpegError> for Trouble {
    fn from(error: FfmpegError) -> Self {
        match error {
            FfmpegError::Machine(reason) => Trouble::NotRead(reason),
            FfmpegError::Input(reason) => Trouble::Refused(reason),
        }
    }
}

impl<'a> Worker<'a> {
    /// `scratch_file` is a path that nobody else uses.
    pub fn new(
        settings: &'a Settings,
        follower: Follower,
        ffmpeg: Option<&'a Ffmpeg>,
        scratch_file: PathBuf,
    ) -> Self {
        Worker { settings, follower, ffmpeg, scratch_file, watch: Stopwatch::default() }
    }

    /// Finds, follows and cuts the faces of a video that has gone through `condition`.
    ///
    /// # Errors
    /// [`IngestError::Engine`] where the detector fails, which no video should bring about.
    pub fn look(&mut self, video: &Video, condition: Condition) -> Result<Outcome, IngestError> {
        let seen = if condition.is_clean() {
            self.read(&video.path)
        } else {
            let compressed = self.compress(video, condition);
            let seen = compressed.and_then(|()| self.read(&self.scratch_file.clone()));
            // It isn't there where ffmpeg failed.
            let _ = fs::remove_file(&self.scratch_file);
            seen
        };
        let scratch_file = self.scratch_file.display().to_string();
        // The record must not tell one machine from another.
        let nameless = |text: String| {
            let text = text.replace(&scratch_file, &video.name);
            text.replace(&video.path.display().to_string(), &video.name)
        };
        match seen {
            Ok((seen, through_ffmpeg)) => {
                let (record, pngs) = self.finish(seen, through_ffmpeg, video);
                Ok(Outcome::Done(record, pngs))
            }
            Err(Trouble::Refused(reason)) => {
                let (mut record, pngs) = self.finish(Seen::default(), false, video);
                record.refused = Some(nameless(reason));
                Ok(Outcome::Done(record, pngs))
            }
            Err(Trouble::NotRead(reason)) => Ok(Outcome::NotRead(nameless(reason))),
            Err(Trouble::Fatal(error)) => Err(error),
        }
    }

    /// Reads a file with candor, or through ffmpeg (true) where candor doesn't read such files.
    fn read(&mut self, path: &Path) -> Result<(Seen, bool), Trouble> {
        let reason = match source::open(path).map_err(FollowError::from) {
            Ok(mut source) => match self.follow(source.as_mut()) {
                Ok(seen) if seen.n_frames > 0 => return Ok((seen, false)),
                Ok(seen) => no_frame(&seen),
                Err(error) => unread(error)?,
            },
            Err(error) => unread(error)?,
        };
        let Some(ffmpeg) = self.ffmpeg else {
            return Err(Trouble::NotRead(format!(
                "{reason} (and there is no ffmpeg here that could read it)"
            )));
        };
        let mut source = ffmpeg.open(path)?;
        match self.follow(&mut source) {
            Ok(seen) if seen.n_frames > 0 => Ok((seen, true)),
            Ok(seen) => Err(Trouble::Refused(no_frame(&seen))),
            Err(error) => Err(Trouble::Refused(unread(error)?)),
        }
    }

    fn compress(&mut self, video: &Video, condition: Condition) -> Result<(), Trouble> {
        let Some(ffmpeg) = self.ffmpeg else {
            return Err(Trouble::NotRead(format!("{condition} needs ffmpeg, and there is none")));
        };
        if !video.is_photo {
            return Ok(ffmpeg.compress_video(&video.path, condition, &self.scratch_file)?);
        }
        let refused = |error: SourceError| match error {
            SourceError::Io { .. } => Trouble::NotRead(error.to_string()),
            _ => Trouble::Refused(error.to_string()),
        };
        let mut source = source::open(&video.path).map_err(refused)?;
        let Some(frame) = source.next_frame().map_err(refused)? else {
            return Err(Trouble::Refused(source.damage().notes.join("; ")));
        };
        let mut picture = RgbImage::default();
        color::to_rgb_into(&frame, &mut picture).map_err(|error| Trouble::Refused(error.to_string()))?;
        Ok(ffmpeg.compress_picture(&picture, condition, &self.scratch_file)?)
    }

    fn follow(&mut self, source: &mut dyn FrameSource) -> Result<Seen, FollowError> {
        if self.settings.whole_frames {
            return self.whole_frames(source);
        }
        let mut walk = self.follower.follow(source);
        let (mut size_px, mut albums) = ([0; 2], Vec::new());
        while let Some(step) = walk.next_step()? {
            size_px = step.frame.upright_size_px().into();
            albums.extend(step.ended);
        }
        albums.extend(walk.finish());
        let (n_frames, damage) = (walk.n_frames, walk.damage());
        self.watch.add(&walk.watch);
        let n_albums = albums.len();
        let faces = choose(albums, self.settings, n_frames);
        Ok(Seen { size_px, n_frames, damage, n_faces_left_out: n_albums - faces.len(), faces })
    }

    /// Frames evenly spread over the video, each as a square about its middle whose side is the longer side:
    /// nothing is cut off or stretched, and the rest of the square is mirrored, as at a crop's edge.
    fn whole_frames(&mut self, source: &mut dyn FrameSource) -> Result<Seen, FollowError> {
        let (mut seen, mut picture) = (Seen::default(), RgbImage::default());
        let (mut gallery, mut cropper) = (Gallery::default(), Cropper::default());
        while let Some(frame) = self.watch.time(Stage::Source, || source.next_frame())? {
            seen.n_frames += 1;
            let (width_px, height_px) = frame.upright_size_px();
            seen.size_px = [width_px, height_px];
            let bbox = Rect { x: 0.0, y: 0.0, w: width_px as f32, h: height_px as f32 };
            if !gallery.see(0, frame.pts_ns, bbox) {
                continue;
            }
            if let Err(error) = self.watch.time(Stage::Convert, || color::to_rgb_into(&frame, &mut picture)) {
                seen.damage.n_frames_lost += 1;
                seen.damage.note(format!("frame {}: {error}", frame.frame_idx));
                continue;
            }
            let size_px = self.settings.size_px;
            let crop = self.watch.time(Stage::Crop, || cropper.crop(&picture, &bbox, 0.0, size_px));
            let (pts_ns, frame_idx) = (frame.pts_ns, frame.frame_idx);
            gallery.keep(0, Sample { pts_ns, frame_idx, bbox, confidence: 1.0, crop, score: None });
        }
        seen.damage.add(source.damage());
        let samples = gallery.take(0).map(Album::into_window).unwrap_or_default();
        if !samples.is_empty() {
            seen.faces.push((0, thin(samples, self.settings.per_face)));
        }
        Ok(seen)
    }

    fn finish(&mut self, seen: Seen, through_ffmpeg: bool, video: &Video) -> (Record, Vec<Vec<u8>>) {
        let (mut crops, mut pngs) = (Vec::new(), Vec::new());
        for (track, samples) in seen.faces {
            for sample in samples {
                let png = self.watch.time(Stage::Report, || png(&sample.crop));
                let Rect { x, y, w, h } = sample.bbox;
                crops.push(Crop {
                    track,
                    frame: sample.frame_idx,
                    pts_ns: sample.pts_ns,
                    bbox: [x, y, w, h],
                    confidence: sample.confidence,
                    n_bytes: png.len() as u64,
                    hash: format!("{:016x}", duplicates::hash(&sample.crop)),
                });
                pngs.push(png);
            }
        }
        for note in &seen.damage.notes {
            log::warn!("{}: {note}", video.name);
        }
        let record = Record {
            size_px: seen.size_px,
            n_frames: seen.n_frames,
            n_frames_lost: seen.damage.n_frames_lost,
            through_ffmpeg,
            n_faces_left_out: seen.n_faces_left_out,
            jpeg_tables: (seen.n_frames == 1).then(|| jpeg_tables(&video.path)),
            refused: None,
            crops,
        };
        (record, pngs)
    }
}

/// A still's; what can't be read a second time has none.
fn jpeg_tables(path: &Path) -> Tables {
    read_bounded(path, MAX_STILL_BYTES).map(jpeg::quantization_tables).unwrap_or_default()
}

fn no_frame(seen: &Seen) -> String {
    format!("no frame can be read: {}", seen.damage.notes.join("; "))
}

/// The reason in words where the video is at fault.
fn unread(error: FollowError) -> Result<String, Trouble> {
    match error {
        FollowError::Engine(error) => Err(Trouble::Fatal(error.into())),
        FollowError::Source(error @ SourceError::Io { .. }) => Err(Trouble::NotRead(error.to_string())),
        // Its message advises how to scan by a pipe, which ingest does by itself.
        FollowError::Source(SourceError::UnsupportedCodec { path, codec }) => {
            Ok(format!("{path}: codec {codec} is not built in"))
        }
        FollowError::Source(SourceError::UnknownFormat { path, expected, found }) => {
            Ok(format!("{path}: expected {expected}, found {found}"))
        }
        FollowError::Source(error) => Ok(error.to_string()),
    }
}

/// The faces that count: of a photo the largest, of a video those that are longest in it and not too brief.
fn choose(albums: Vec<Album>, settings: &Settings, n_frames: u64) -> Vec<(u32, Vec<Sample>)> {
    let is_still = n_frames <= 1;
    let mut faces: Vec<(u32, Vec<Sample>)> =
        albums.into_iter().map(|a| (a.track_id, a.into_window())).collect();
    let min_looks = if is_still { 1 } else { settings.min_looks };
    faces.retain(|(_, samples)| samples.len() >= min_looks);
    let area = |samples: &[Sample]| samples.first().map_or(0.0, |s| s.bbox.area());
    let span = |samples: &[Sample]| match samples {
        [first, .., last] => last.pts_ns - first.pts_ns,
        _ => 0,
    };
    if is_still {
        faces.sort_by(|(a_id, a), (b_id, b)| area(b).total_cmp(&area(a)).then(a_id.cmp(b_id)));
        faces.truncate(1);
    } else {
        faces.sort_by_key(|(id, samples)| (std::cmp::Reverse((samples.len(), span(samples))), *id));
        faces.truncate(settings.max_faces);
    }
    faces.sort_by_key(|(id, _)| *id);
    faces.into_iter().map(|(id, samples)| (id, thin(samples, settings.per_face))).collect()
}

/// At most `n_kept` of the samples, evenly spread, the first and the last among them.
fn thin(samples: Vec<Sample>, n_kept: usize) -> Vec<Sample> {
    let n_samples = samples.len();
    if n_samples <= n_kept {
        return samples;
    }
    let chosen: Vec<usize> = match n_kept {
        1 => vec![n_samples / 2],
        _ => (0..n_kept).map(|k| (k * (n_samples - 1) + (n_kept - 1) / 2) / (n_kept - 1)).collect(),
    };
    let kept = samples.into_iter().enumerate().filter(|(idx, _)| chosen.contains(idx));
    kept.map(|(_, sample)| sample).collect()
}

/// Lossless bytes of a crop.
fn png(crop: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    // Writing to memory can't fail, and a picture of this kind always has a PNG.
    let _ = crop.write_to(&mut bytes, image::ImageFormat::Png);
    bytes.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(n: u64) -> Vec<Sample> {
        let sample = |frame_idx| Sample {
            pts_ns: i64::try_from(frame_idx).unwrap(),
            frame_idx,
            bbox: Rect::default(),
            confidence: 1.0,
            crop: RgbImage::new(1, 1),
            score: None,
        };
        (0..n).map(sample).collect()
    }

    #[test]
    fn fewer_crops_are_spread_evenly() {
        let kept = |n, n_kept| thin(samples(n), n_kept).iter().map(|s| s.frame_idx).collect::<Vec<_>>();
        assert_eq!(kept(15, 15), (0..15).collect::<Vec<_>>());
        assert_eq!(kept(15, 3), [0, 7, 14]);
        assert_eq!(kept(15, 1), [7]);
        assert_eq!(kept(15, 8), [0, 2, 4, 6, 8, 10, 12, 14]);
        assert_eq!(kept(4, 8), [0, 1, 2, 3]);
        for n_kept in 1..=15 {
            assert_eq!(kept(15, n_kept).len(), n_kept);
        }
    }
}
