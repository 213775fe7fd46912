//! YUV4MPEG2: raw planes behind a line of text each (yuv4mpeg(5) of mjpegtools; ffmpeg's extensions).

use std::io::{self, BufRead, BufReader, Read};
use std::num::NonZeroU32;

use super::{Damage, FrameRate, FrameSource, SourceError, SourceInfo};
use super::{check_size_px, size_limit, unnamed_matrix};
use crate::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};

/// Longest stream or frame header; real ones stay under 100 bytes.
const MAX_HEADER_BYTES: u64 = 1024;
/// What is reserved for a plane before its bytes have shown up.
const FIRST_RESERVE_BYTES: usize = 1 << 20;
/// Rate of a stream that gives none (`F0:0` or no `F`).
const UNNAMED_RATE: FrameRate = FrameRate::whole(NonZeroU32::new(25).unwrap());

/// How samples lie in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    format: PixelFormat,
    /// 8 to 16; above 8 a sample is two bytes, little endian.
    depth_bits: u32,
    /// A fourth plane of the luma's size follows and is dropped.
    has_alpha: bool,
}

/// Frames of a YUV4MPEG2 stream, from a file or a pipe; needs no seeking.
///
/// Chroma 4:2:0, 4:2:2, 4:4:4 (with or without alpha) and grey; 9 to 16 bits are rounded to 8.
pub struct Y4mSource<R> {
    reader: BufReader<R>,
    path: String,
    info: SourceInfo,
    damage: Damage,
    width_px: u32,
    height_px: u32,
    layout: Layout,
    rate: FrameRate,
    matrix: ColorMatrix,
    range: ColorRange,
    frame_idx: u64,
    is_finished: bool,
}

impl<R: Read> Y4mSource<R> {
    /// Reads the stream header. `n_bytes` is the length of the whole stream where it is known;
    /// `path` is for messages.
    ///
    /// # Errors
    /// [`SourceError::Malformed`] for a header that is broken or over a limit,
    /// [`SourceError::UnsupportedCodec`] for a chroma layout that isn't built in.
    pub fn new(reader: R, path: &str, n_bytes: Option<u64>) -> Result<Self, SourceError> {
        let mut reader = BufReader::with_capacity(1 << 16, reader);
        let line = read_line(&mut reader).map_err(|cause| io_error(path, cause))?;
        let header = Header::parse(&line).map_err(|fault| fault.at(path))?;
        let Header { width_px, height_px, layout, rate, range } = header;
        let mut source = Y4mSource {
            reader,
            path: path.to_owned(),
            info: SourceInfo { description: header.describe(), width_px, height_px, ..Default::default() },
            damage: Damage::default(),
            width_px,
            height_px,
            layout,
            rate: rate.unwrap_or(UNNAMED_RATE),
            matrix: unnamed_matrix(width_px, height_px),
            range,
            frame_idx: 0,
            is_finished: false,
        };
        // A last frame that is cut short was promised too.
        let frame_bytes = source.frame_bytes() + b"FRAME\n".len() as u64;
        source.info.n_frames =
            n_bytes.map(|n_bytes| n_bytes.saturating_sub(line.len() as u64).div_ceil(frame_bytes));
        source.info.duration_ns = source.info.n_frames.map(|n_frames| source.rate.pts_ns(n_frames));
        Ok(source)
    }

    /// Samples of each plane in stream order: rows and samples a row.
    fn plane_sizes(&self) -> Vec<(usize, usize)> {
        let mut planes = self.layout.format.plane_sizes(self.width_px, self.height_px).to_vec();
        if self.layout.has_alpha {
            planes.extend_from_within(..1);
        }
        planes
    }

    fn sample_bytes(&self) -> usize {
        if self.layout.depth_bits > 8 { 2 } else { 1 }
    }

    fn frame_bytes(&self) -> u64 {
        let n_samples: usize = self.plane_sizes().iter().map(|(rows, row)| rows * row).sum();
        (n_samples * self.sample_bytes()) as u64
    }

    /// The planes of one frame, or how many bytes of them are missing.
    fn read_planes(&mut self) -> io::Result<Result<Vec<Plane>, u64>> {
        let mut n_bytes_read = 0u64;
        let mut planes = Vec::with_capacity(4);
        for (n_rows, row) in self.plane_sizes() {
            let n_bytes = n_rows * row * self.sample_bytes();
            // The first frame proves that such frames really come; until then memory follows the bytes.
            let reserve_bytes = if self.frame_idx > 0 { n_bytes } else { n_bytes.min(FIRST_RESERVE_BYTES) };
            let mut samples = Vec::with_capacity(reserve_bytes);
            self.reader.by_ref().take(n_bytes as u64).read_to_end(&mut samples)?;
            n_bytes_read += samples.len() as u64;
            if samples.len() < n_bytes {
                return Ok(Err(self.frame_bytes() - n_bytes_read));
            }
            if self.layout.depth_bits > 8 {
                samples = round_to_8_bits(&samples, self.layout.depth_bits);
            }
            planes.push(Plane { samples, stride_bytes: row });
        }
        planes.truncate(if self.layout.format == PixelFormat::Gray { 1 } else { 3 });
        Ok(Ok(planes))
    }

    fn end_early(&mut self, why: String) {
        let n_left = self.info.n_frames.map_or(1, |n_frames| n_frames.saturating_sub(self.frame_idx).max(1));
        self.damage.n_frames_lost += n_left;
        self.damage.note(why);
        self.is_finished = true;
    }
}

impl<R: Read> FrameSource for Y4mSource<R> {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        if self.is_finished {
            return Ok(None);
        }
        let line = read_line(&mut self.reader).map_err(|cause| io_error(&self.path, cause))?;
        if line.is_empty() {
            self.is_finished = true;
            return Ok(None);
        }
        let is_header =
            line.ends_with(b"\n") && (line.starts_with(b"FRAME\n") || line.starts_with(b"FRAME "));
        if !is_header {
            let found = String::from_utf8_lossy(&line[..line.len().min(16)]).into_owned();
            self.end_early(format!("frame {}: expected a line FRAME, found {found:?}", self.frame_idx));
            return Ok(None);
        }
        let planes = match self.read_planes().map_err(|cause| io_error(&self.path, cause))? {
            Ok(planes) => planes,
            Err(n_bytes_missing) => {
                self.damage.n_bytes_missing += n_bytes_missing;
                self.end_early(format!("frame {}: the stream ends inside it", self.frame_idx));
                return Ok(None);
            }
        };
        let frame_idx = self.frame_idx;
        self.frame_idx += 1;
        Ok(Some(Frame {
            width_px: self.width_px,
            height_px: self.height_px,
            format: self.layout.format,
            planes,
            matrix: self.matrix,
            range: self.range,
            rotation: Rotation::None,
            pts_ns: self.rate.pts_ns(frame_idx),
            frame_idx,
        }))
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// What the first line says.
#[derive(Debug)]
struct Header {
    width_px: u32,
    height_px: u32,
    layout: Layout,
    /// `None` where the stream leaves it open.
    rate: Option<FrameRate>,
    range: ColorRange,
}

/// Why a header can't be used.
#[derive(Debug)]
enum HeaderFault {
    Malformed { expected: String, found: String },
    Unsupported { chroma: String },
}

impl HeaderFault {
    fn at(self, path: &str) -> SourceError {
        let path = path.to_owned();
        match self {
            HeaderFault::Malformed { expected, found } => {
                SourceError::Malformed { path, what: "Y4M header", expected, found }
            }
            HeaderFault::Unsupported { chroma } => {
                SourceError::UnsupportedCodec { path, codec: format!("Y4M chroma {chroma}") }
            }
        }
    }
}

impl Header {
    fn parse(line: &[u8]) -> Result<Self, HeaderFault> {
        let malformed = |expected: &str, found: &str| {
            let found = found.chars().take(40).collect();
            HeaderFault::Malformed { expected: expected.to_owned(), found }
        };
        let text = String::from_utf8_lossy(line);
        let Some(fields) = text.strip_suffix('\n').and_then(|text| text.strip_prefix("YUV4MPEG2")) else {
            return Err(malformed("a line that begins YUV4MPEG2", &text));
        };
        let (mut width_px, mut height_px) = (0, 0);
        let mut layout = Layout { format: PixelFormat::I420, depth_bits: 8, has_alpha: false };
        let mut rate = None;
        let mut range = ColorRange::Limited;
        for field in fields.split_ascii_whitespace() {
            let (tag, value) = field.split_at_checked(1).unwrap_or((field, ""));
            let number = || value.parse::<u32>().map_err(|_| malformed("a number", field));
            match tag {
                "W" => width_px = number()?,
                "H" => height_px = number()?,
                "F" => rate = parse_rate(value).ok_or_else(|| malformed("a ratio such as F30:1", field))?,
                "C" => {
                    layout = parse_chroma(value).ok_or_else(|| HeaderFault::Unsupported {
                        chroma: value.chars().take(40).collect(),
                    })?;
                }
                "X" if value.eq_ignore_ascii_case("COLORRANGE=FULL") => range = ColorRange::Full,
                // Interlacing (I), pixel aspect (A) and comments (X) don't change how samples lie.
                _ => {}
            }
        }
        check_size_px(width_px, height_px).map_err(|found| malformed(&size_limit(), &found))?;
        Ok(Header { width_px, height_px, layout, rate, range })
    }

    fn describe(&self) -> String {
        let chroma = match self.layout.format {
            PixelFormat::I420 => "4:2:0",
            PixelFormat::I422 => "4:2:2",
            PixelFormat::I444 => "4:4:4",
            PixelFormat::Gray | PixelFormat::Rgb24 => "grey",
        };
        let rate = match self.rate {
            Some(rate) => format!("{rate}/s"),
            None => format!("no frame rate given, {UNNAMED_RATE}/s assumed"),
        };
        format!("Y4M, {chroma}, {} bits, {rate}", self.layout.depth_bits)
    }
}

/// "30000:1001"; `Some(None)` for 0:0, which leaves the rate open.
#[expect(clippy::option_option, reason = "broken, open and given are three different things")]
fn parse_rate(value: &str) -> Option<Option<FrameRate>> {
    let (n_frames, per_s) = value.split_once(':')?;
    let (n_frames, per_s) = (n_frames.parse().ok()?, per_s.parse().ok()?);
    match (n_frames, per_s) {
        (0, 0) => Some(None),
        _ => FrameRate::new(n_frames, per_s).map(Some),
    }
}

/// The value of the `C` field, as mjpegtools and ffmpeg write it.
fn parse_chroma(value: &str) -> Option<Layout> {
    let layout = |format, depth_bits| Layout { format, depth_bits, has_alpha: false };
    match value {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => return Some(layout(PixelFormat::I420, 8)),
        "422" => return Some(layout(PixelFormat::I422, 8)),
        "444" => return Some(layout(PixelFormat::I444, 8)),
        "444alpha" => return Some(Layout { has_alpha: true, ..layout(PixelFormat::I444, 8) }),
        "mono" => return Some(layout(PixelFormat::Gray, 8)),
        _ => {}
    }
    let (format, depth) = [
        ("420p", PixelFormat::I420),
        ("422p", PixelFormat::I422),
        ("444p", PixelFormat::I444),
        ("mono", PixelFormat::Gray),
    ]
    .into_iter()
    .find_map(|(prefix, format)| Some((format, value.strip_prefix(prefix)?)))?;
    let depth_bits = ["9", "10", "12", "14", "16"].contains(&depth).then(|| depth.parse().ok())??;
    Some(layout(format, depth_bits))
}

/// Little-endian samples of `depth_bits` to 8 bits, rounded to nearest.
fn round_to_8_bits(samples: &[u8], depth_bits: u32) -> Vec<u8> {
    let shift = depth_bits - 8;
    let half = 1u32 << (shift - 1);
    let to_8_bits = |pair: &[u8]| {
        let sample = u32::from(pair[0]) | u32::from(pair[1]) << 8;
        u8::try_from((sample + half) >> shift).unwrap_or(u8::MAX)
    };
    samples.chunks_exact(2).map(to_8_bits).collect()
}

fn read_line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(MAX_HEADER_BYTES).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn io_error(path: &str, cause: io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), operation: "read", cause }
}
