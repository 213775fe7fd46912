//! MP4 and QuickTime files with H.264.
//!
//! The movie header is read at once; samples are read from the file one by one. Timestamps are those that FFmpeg
//! gives: the presentation's, with the edit list applied. Pixels that aren't square are made so, since a squashed
//! face isn't the face that detector and classifier know; audio is ignored.

mod boxes;
mod samples;
mod schedule;
mod square;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use self::boxes::{MAX_HEADER_BYTES, SampleEntry, TopBox, Track};
use self::samples::{Fragments, Sample, Samples};
use self::schedule::Step;
use super::h264::{AccessUnitDecoder, AvccError, H264Decoder, Picture};
use super::{Damage, FrameSource, SourceError, SourceInfo};
use crate::frame::{ColorMatrix, ColorRange, Frame, Rotation};

/// Most bytes of a coded sample; raw 8K video has 50 MB a picture.
const MAX_SAMPLE_BYTES: u32 = 64 << 20;
/// How often a file's bytes may be read over: a table or an edit list can name the same sample again and again.
const MAX_READS: u64 = 16;
/// Most pictures that wait for an earlier one: H.264 allows a decoder 16 (ITU-T H.264, A.3.1).
const MAX_HELD: usize = 16;
/// Highest picture that is taken for standard definition, and BT.601, when nothing says which matrix it uses.
const MAX_SD_HEIGHT_PX: u32 = 576;

/// What is wrong with a file, before the file's name is known.
#[derive(Debug, PartialEq, Eq)]
struct Broken {
    what: &'static str,
    expected: String,
    found: String,
}

impl Broken {
    fn new(what: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Broken { what, expected: expected.into(), found: found.into() }
    }

    fn at(self, path: &str) -> SourceError {
        SourceError::Malformed {
            path: path.to_owned(),
            what: self.what,
            expected: self.expected,
            found: self.found,
        }
    }
}

/// The H.264 video of an MP4 or QuickTime file, in presentation order.
pub struct Mp4Source<R> {
    path: String,
    reader: R,
    n_file_bytes: u64,
    info: SourceInfo,
    damage: Damage,
    ticks_hz: u32,
    rotation: Rotation,
    entries: Vec<SampleEntry>,
    steps: Vec<Step>,
    next_step_idx: usize,
    /// Bytes that samples may still take.
    n_bytes_left: u64,
    decoder: H264Decoder,
    description_idx: u16,
    unit: Vec<u8>,
    decoded: Vec<Picture>,
    /// Pictures whose turn hasn't come, by time and step.
    held: BTreeMap<(i64, usize), Picture>,
    last_pts: i64,
    n_frames: u64,
}

impl Mp4Source<File> {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`SourceError`] when the file can't be read, has no usable movie header or no H.264 video.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|cause| io_error(&name, "open", cause))?;
        Self::from_reader(file, &name)
    }
}

impl<R: Read + Seek> Mp4Source<R> {
    /// Reads the movie header from `reader`; `path` is only for messages.
    ///
    /// # Errors
    /// As [`Mp4Source::open`].
    pub fn from_reader(mut reader: R, path: &str) -> Result<Self, SourceError> {
        let io = |operation| move |cause| io_error(path, operation, cause);
        let broken = |broken: Broken| broken.at(path);
        let unsupported = |codec| SourceError::UnsupportedCodec { path: path.to_owned(), codec };

        let n_file_bytes = reader.seek(SeekFrom::End(0)).map_err(io("find the end"))?;
        let top = boxes::top_boxes(&mut reader, n_file_bytes).map_err(io("read the box structure"))?;
        let moov = movie_header(&top, n_file_bytes).map_err(broken)?;
        let moov = read_payload(&mut reader, moov).map_err(io("read the movie header"))?;

        let mut tracks = boxes::video_tracks(&moov).map_err(broken)?;
        // a cover or a chapter's pictures may come before the video
        let is_h264 = |entry: &SampleEntry| H264_CODECS.contains(&&entry.codec);
        let Some(track_idx) = tracks.iter().position(|track| track.entries.iter().any(is_h264)) else {
            return Err(unsupported(codec_name(tracks[0].entries[0].codec)));
        };
        let track = tracks.swap_remove(track_idx);
        let description_idx = track.entries.iter().position(is_h264).unwrap_or(0);
        let entry = &track.entries[description_idx];
        let no_avcc = || Broken::new("sample description", "an avcC record", "none");
        let avcc = entry.avcc.as_ref().ok_or_else(no_avcc).map_err(broken)?;
        let (decoder, stream) = H264Decoder::new(avcc).map_err(|error| match error {
            AvccError::Unsupported(feature) => unsupported(format!("H.264 {feature}")),
            AvccError::Malformed(found) => Broken::new("avcC record", "parameter sets", found).at(path),
        })?;

        let mut damage = Damage::default();
        let (samples, has_fragments) =
            read_samples(&mut reader, path, &top, n_file_bytes, &track, &mut damage)?;
        count_missing_bytes(&top, &samples.list, n_file_bytes, &mut damage);
        let steps = if has_fragments {
            schedule::of_fragments(&samples.list, &track.edits)
        } else {
            schedule::of_table(&samples.list, &track.edits)
        };
        let is_mov = is_quicktime(&mut reader, &top).map_err(io("read the file type"))?;
        let container = if is_mov { "MOV" } else { "MP4" };
        let profile = stream.as_ref().map_or("", |stream| stream.profile);
        let (width_px, height_px) =
            stream.map_or(entry.size_px, |stream| (stream.width_px, stream.height_px));
        let (width_px, height_px) = square::size_px(width_px, height_px, entry.pixel_aspect);
        let (width_px, height_px) =
            if track.rotation.swaps_sides() { (height_px, width_px) } else { (width_px, height_px) };
        let info = SourceInfo {
            description: format!("{container}, H.264 {profile}").trim_end().to_owned(),
            width_px,
            height_px,
            n_frames: Some(steps.iter().filter(|step| step.is_shown).count() as u64),
            duration_ns: Some(duration_ns(&steps, &samples, track.ticks_hz)),
            is_still: false,
        };
        Ok(Mp4Source {
            path: path.to_owned(),
            reader,
            n_file_bytes,
            info,
            damage,
            ticks_hz: track.ticks_hz,
            rotation: track.rotation,
            description_idx: u16::try_from(description_idx).unwrap_or(u16::MAX),
            entries: track.entries,
            steps,
            next_step_idx: 0,
            n_bytes_left: n_file_bytes.saturating_mul(MAX_READS),
            decoder,
            unit: Vec::new(),
            decoded: Vec::new(),
            held: BTreeMap::new(),
            last_pts: i64::MIN,
            n_frames: 0,
        })
    }

    /// Decodes the next step and holds what comes out.
    fn decode_step(&mut self) -> Result<(), SourceError> {
        let Some(&step) = self.steps.get(self.next_step_idx) else {
            self.decoder.flush(&mut self.damage, &mut self.decoded);
            self.hold_decoded();
            return Ok(());
        };
        let step_idx = self.next_step_idx;
        self.next_step_idx += 1;
        // nothing is coded: the picture before stays
        if step.n_bytes == 0 {
            return Ok(());
        }
        if !self.select_description(step.description_idx) || !self.read_unit(&step)? {
            self.damage.n_frames_lost += u64::from(step.is_shown);
            self.decoder.skip();
            return Ok(());
        }
        self.decoder
            .decode(&self.unit, step_idx, step.is_sync, &mut self.damage, &mut self.decoded)
            .map_err(|feature| SourceError::UnsupportedCodec {
                path: self.path.clone(),
                codec: format!("H.264, {}", feature.0),
            })?;
        self.hold_decoded();
        Ok(())
    }

    /// Moves what was decoded to the pictures that wait for their turn.
    fn hold_decoded(&mut self) {
        for picture in self.decoded.drain(..) {
            let step_idx = picture.sample_idx;
            if let Some(step) = self.steps.get(step_idx).filter(|step| step.is_shown) {
                self.held.insert((step.pts, step_idx), picture);
            }
        }
    }

    /// Starts a decoder for another sample description; false when it isn't H.264 that can be decoded.
    fn select_description(&mut self, description_idx: u16) -> bool {
        if description_idx == self.description_idx {
            return true;
        }
        let avcc = self.entries.get(usize::from(description_idx)).and_then(|entry| entry.avcc.as_ref());
        let Some(Ok((decoder, _))) = avcc.map(|avcc| H264Decoder::new(avcc)) else {
            self.damage.note("samples with a description that can't be used");
            return false;
        };
        self.decoder.flush(&mut self.damage, &mut self.decoded);
        self.hold_decoded();
        self.decoder = decoder;
        self.description_idx = description_idx;
        true
    }

    /// Reads the sample of `step` to `self.unit`; false when it isn't there as a whole.
    fn read_unit(&mut self, step: &Step) -> Result<bool, SourceError> {
        let n_bytes = u64::from(step.n_bytes);
        let end = step.offset.saturating_add(n_bytes);
        if end > self.n_file_bytes {
            self.damage.note("samples behind the end of the file");
            return Ok(false);
        }
        if step.n_bytes > MAX_SAMPLE_BYTES || n_bytes > self.n_bytes_left {
            self.damage.note("samples larger than a picture can be, or read over and over");
            return Ok(false);
        }
        self.n_bytes_left -= n_bytes;
        self.unit.clear();
        let read = self.reader.seek(SeekFrom::Start(step.offset));
        let read = read.and_then(|_| self.reader.by_ref().take(n_bytes).read_to_end(&mut self.unit));
        let n_read = read.map_err(|cause| io_error(&self.path, "read a sample", cause))?;
        Ok(n_read as u64 == n_bytes)
    }

    /// Takes the earliest picture if no step to come can show an earlier one.
    fn take_due(&mut self) -> Option<((i64, usize), Picture)> {
        let undecoded_idx = self.decoder.pending().unwrap_or(self.next_step_idx);
        let floor = self.steps.get(undecoded_idx).map_or(i64::MAX, |step| step.floor);
        let &(pts, _) = self.held.keys().next()?;
        (pts <= floor || self.held.len() > MAX_HELD).then(|| self.held.pop_first()).flatten()
    }

    fn frame(&mut self, pts: i64, picture: Picture) -> Frame {
        if pts < self.last_pts {
            self.damage.note("timestamps that run backwards");
        }
        self.last_pts = self.last_pts.max(pts);
        let entry = &self.entries[usize::from(self.description_idx).min(self.entries.len() - 1)];
        let picture = square::make_square(picture, entry.pixel_aspect);
        let is_sd = picture.height_px <= MAX_SD_HEIGHT_PX;
        let by_size = if is_sd { ColorMatrix::Bt601 } else { ColorMatrix::Bt709 };
        let is_full_range = picture.color.is_full_range || entry.color.is_full_range;
        let frame = Frame {
            width_px: picture.width_px,
            height_px: picture.height_px,
            format: picture.format,
            planes: picture.planes,
            matrix: picture.color.matrix.or(entry.color.matrix).unwrap_or(by_size),
            range: if is_full_range { ColorRange::Full } else { ColorRange::Limited },
            rotation: self.rotation,
            pts_ns: to_ns(self.last_pts, self.ticks_hz),
            frame_idx: self.n_frames,
        };
        self.n_frames += 1;
        frame
    }
}

impl<R: Read + Seek> FrameSource for Mp4Source<R> {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        loop {
            if let Some(((pts, _), picture)) = self.take_due() {
                return Ok(Some(self.frame(pts, picture)));
            }
            let is_done = self.next_step_idx >= self.steps.len() && self.decoder.pending().is_none();
            if is_done {
                return Ok(None);
            }
            self.decode_step()?;
        }
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

fn io_error(path: &str, operation: &'static str, cause: io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), operation, cause }
}

/// Finds the movie header, if it is whole and of a size that can be held.
fn movie_header(top: &[TopBox], n_file_bytes: u64) -> Result<TopBox, Broken> {
    let Some(&moov) = top.iter().find(|b| b.kind == *b"moov") else {
        let kinds: Vec<String> = top.iter().take(8).map(|b| b.kind.escape_ascii().to_string()).collect();
        let is_cut = top.last().is_some_and(|last| last.end > n_file_bytes);
        let found =
            format!("{}{}", kinds.join(", "), if is_cut { ", and then the file is cut short" } else { "" });
        return Err(Broken::new("box structure", "a movie header (moov)", found));
    };
    if moov.end > n_file_bytes {
        let found = format!("{} of them, and then the file is cut short", n_file_bytes - moov.start);
        return Err(Broken::new("movie header", format!("{} bytes", moov.end - moov.start), found));
    }
    let n_bytes = moov.end - moov.payload_start;
    if n_bytes > MAX_HEADER_BYTES {
        return Err(Broken::new(
            "movie header",
            format!("at most {MAX_HEADER_BYTES} bytes"),
            format!("{n_bytes}"),
        ));
    }
    Ok(moov)
}

/// Reads the payload of a box that is known to be in the file.
fn read_payload(reader: &mut (impl Read + Seek), which: TopBox) -> io::Result<Vec<u8>> {
    reader.seek(SeekFrom::Start(which.payload_start))?;
    let mut payload = Vec::new();
    reader.by_ref().take(which.end - which.payload_start).read_to_end(&mut payload)?;
    Ok(payload)
}

/// True for a file of the brand "qt  " and for one from before there were brands.
fn is_quicktime(reader: &mut (impl Read + Seek), top: &[TopBox]) -> io::Result<bool> {
    let Some(ftyp) = top.iter().find(|b| b.kind == *b"ftyp") else { return Ok(true) };
    reader.seek(SeekFrom::Start(ftyp.payload_start))?;
    let mut brand = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut brand)?;
    Ok(brand == b"qt  ")
}

/// Reads a track's sample table and then, where the movie has them, its fragments. The second value says whether
/// there were any.
fn read_samples(
    reader: &mut (impl Read + Seek),
    path: &str,
    top: &[TopBox],
    n_file_bytes: u64,
    track: &Track<'_>,
    damage: &mut Damage,
) -> Result<(Samples, bool), SourceError> {
    let moofs = || top.iter().filter(|b| b.kind == *b"moof");
    let has_fragments = moofs().next().is_some();
    let samples = match samples::from_table(track.stbl) {
        // a movie of fragments has a sample table without samples, and some leave parts of it out
        Err(_) if has_fragments => Samples::default(),
        table => table.map_err(|broken| broken.at(path))?,
    };
    if samples.n_unplaced > 0 {
        damage.n_frames_lost += samples.n_unplaced;
        damage.note("samples that the movie header lists and gives no place");
    }
    let mut fragments = Fragments::new(track.track_id, track.defaults.unwrap_or_default(), samples);
    for &moof in moofs() {
        if moof.end > n_file_bytes || moof.end - moof.payload_start > MAX_HEADER_BYTES {
            damage.note("movie fragments that are cut short or too large");
            continue;
        }
        let payload =
            read_payload(reader, moof).map_err(|cause| io_error(path, "read a movie fragment", cause))?;
        fragments.append(&payload, moof.start).map_err(|broken| broken.at(path))?;
    }
    Ok((fragments.into_samples(), has_fragments))
}

/// Counts what the boxes and the samples promise behind the end of the file.
fn count_missing_bytes(top: &[TopBox], samples: &[Sample], n_file_bytes: u64, damage: &mut Damage) {
    let behind = |start: u64, end: u64| end.saturating_sub(start.max(n_file_bytes));
    let holds_media = |b: &&TopBox| [*b"mdat", *b"moof"].contains(&b.kind);
    let n_box_bytes = top.iter().filter(holds_media).map(|b| behind(b.start, b.end)).max().unwrap_or(0);
    let n_sample_bytes = samples
        .iter()
        .map(|sample| behind(sample.offset, sample.offset.saturating_add(sample.n_bytes.into())))
        .fold(0, u64::saturating_add);
    damage.n_bytes_missing = n_box_bytes.max(n_sample_bytes);
    if damage.n_bytes_missing > 0 {
        damage.note("the file is cut short");
    }
}

/// Ticks to nanoseconds, to the nearest.
fn to_ns(ticks: i64, ticks_hz: u32) -> i64 {
    let hz = i128::from(ticks_hz);
    let ns = (i128::from(ticks) * 1_000_000_000 + hz / 2).div_euclid(hz);
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// From the first frame shown to the end of the last.
fn duration_ns(steps: &[Step], samples: &Samples, ticks_hz: u32) -> i64 {
    let shown = || steps.iter().filter(|step| step.is_shown).map(|step| step.pts);
    let (Some(first), Some(last)) = (shown().min(), shown().max()) else { return 0 };
    let n_last_ticks = samples.list.last().map_or(0, |sample| samples.end_dts.saturating_sub(sample.dts));
    to_ns(last.saturating_sub(first).saturating_add(n_last_ticks), ticks_hz)
}

/// Four-character codes of H.264; the last two are Dolby Vision, whose base layer plays by itself.
const H264_CODECS: [&boxes::Kind; 4] = [b"avc1", b"avc3", b"dva1", b"dvav"];

/// A four-character code with a name that people know.
fn codec_name(codec: boxes::Kind) -> String {
    let name = match &codec {
        b"hvc1" | b"hev1" => "HEVC (H.265)",
        b"dvh1" | b"dvhe" => "Dolby Vision over HEVC",
        b"vvc1" | b"vvi1" => "VVC (H.266)",
        b"av01" => "AV1",
        b"vp08" => "VP8",
        b"vp09" => "VP9",
        b"mp4v" => "MPEG-4 Part 2",
        b"mp1v" | b"mp2v" | b"m2v1" => "MPEG video",
        b"s263" | b"h263" => "H.263",
        b"jpeg" | b"mjpa" | b"mjpb" => "Motion JPEG",
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "ProRes",
        b"AVdn" | b"AVdh" => "DNxHD",
        b"CFHD" => "CineForm",
        b"cvid" => "Cinepak",
        b"SVQ1" | b"SVQ3" => "Sorenson Video",
        b"dvc " | b"dvcp" | b"dvpp" => "DV",
        b"png " => "PNG",
        b"raw " | b"2vuy" | b"v210" | b"uncv" => "uncompressed video",
        b"encv" => "encrypted video",
        _ => return codec.escape_ascii().to_string(),
    };
    format!("{} ({name})", codec.escape_ascii())
}
