//! AVI with Motion JPEG: RIFF chunks, read forward only (Microsoft's AVI RIFF reference; OpenDML AVI
//! file format extensions 1.02).
//!
//! Lists only group chunks, so the walk goes straight through them: `movi`, `rec ` and the further
//! `AVIX` RIFFs of files over 1 GB need no code of their own, nor does the index.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::num::NonZeroU32;

use super::{Damage, FrameRate, FrameSource, SourceError, SourceInfo, mjpeg};
use crate::frame::Frame;

/// Largest chunk that is taken for a frame.
const MAX_FRAME_BYTES: u64 = 64 << 20;
/// Bytes of a header chunk that are read; the ones that matter come first.
const MAX_HEADER_BYTES: usize = 64;
/// Rate of a file whose header gives none.
const UNNAMED_RATE: FrameRate = FrameRate::whole(NonZeroU32::new(25).unwrap());

/// Frames of the first video stream of an AVI file.
pub struct AviSource<R> {
    chunks: Chunks<R>,
    path: String,
    info: SourceInfo,
    damage: Damage,
    stream: VideoStream,
    rate: FrameRate,
    frame_idx: u64,
    is_finished: bool,
}

impl<R: Read + Seek> AviSource<R> {
    /// Reads the headers up to the first frame; `path` is for messages.
    ///
    /// # Errors
    /// [`SourceError::UnsupportedCodec`] for anything but Motion JPEG, [`SourceError::Malformed`] for a
    /// file without a video stream, [`SourceError::Io`] when the system refuses.
    pub fn new(reader: R, path: &str) -> Result<Self, SourceError> {
        let malformed = |what, expected: &str, found: String| SourceError::Malformed {
            path: path.to_owned(),
            what,
            expected: expected.to_owned(),
            found,
        };
        let mut chunks = Chunks::new(reader).map_err(|cause| io_error(path, cause))?;
        let headers = Headers::read(&mut chunks).map_err(|cause| io_error(path, cause))?;
        let Some(stream) = headers.video else {
            let found = format!("{} other streams", headers.n_streams);
            return Err(malformed("AVI streams", "a video stream", found));
        };
        if !stream.is_mjpeg() {
            return Err(SourceError::UnsupportedCodec {
                path: path.to_owned(),
                codec: codec_name(stream.fourcc),
            });
        }
        if !headers.has_frames {
            return Err(malformed("AVI", "a list of frames (movi)", "none".to_owned()));
        }
        let rate = FrameRate::new(stream.rate, stream.scale)
            .or_else(|| FrameRate::new(1_000_000, headers.us_per_frame))
            .unwrap_or(UNNAMED_RATE);
        // A recorder that was cut off leaves 0.
        let n_frames = Some(stream.n_frames.max(headers.n_frames_opendml)).filter(|n| *n > 0).map(u64::from);
        let info = SourceInfo {
            description: "AVI, Motion JPEG".to_owned(),
            width_px: stream.width_px,
            height_px: stream.height_px,
            n_frames,
            duration_ns: n_frames.map(|n_frames| rate.pts_ns(n_frames)),
            is_still: false,
        };
        Ok(AviSource {
            chunks,
            path: path.to_owned(),
            info,
            damage: Damage::default(),
            stream,
            rate,
            frame_idx: 0,
            is_finished: false,
        })
    }

    /// The next chunk of the video stream, or `None` at the end of the file.
    fn next_packet(&mut self) -> io::Result<Option<Vec<u8>>> {
        while let Some(chunk) = self.chunks.next()? {
            if !chunk.is_plausible() {
                self.damage.note(format!("byte {}: expected a chunk, found {:02x?}", chunk.at, chunk.id));
                self.chunks.resync(chunk.at + 1, self.stream.idx)?;
                continue;
            }
            if chunk.is_list() {
                continue;
            }
            if !is_frame_id(&chunk.id, self.stream.idx) {
                self.chunks.skip(&chunk)?;
                continue;
            }
            let n_left = self.chunks.n_bytes_left();
            if chunk.n_bytes > n_left || chunk.n_bytes > MAX_FRAME_BYTES {
                // Either the file ends here, or the size is wrong and more frames follow.
                let (frame_idx, n_bytes) = (self.frame_idx, chunk.n_bytes);
                self.damage
                    .lose_frame(format!("frame {frame_idx}: {n_bytes} bytes announced, {n_left} left"));
                self.frame_idx += 1;
                self.chunks.resync(chunk.at + 8, self.stream.idx)?;
                continue;
            }
            return self.chunks.read(&chunk).map(Some);
        }
        Ok(None)
    }

    fn finish(&mut self) {
        self.is_finished = true;
        self.damage.n_bytes_missing = self.chunks.n_bytes_missing();
        let n_promised = self.info.n_frames.unwrap_or(0);
        if self.damage.n_bytes_missing > 0 && n_promised > self.frame_idx {
            self.damage.n_frames_lost += n_promised - self.frame_idx;
            self.damage.note(format!("the file ends after {} of {n_promised} frames", self.frame_idx));
        }
    }
}

impl<R: Read + Seek> FrameSource for AviSource<R> {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        while !self.is_finished {
            let Some(packet) = self.next_packet().map_err(|cause| io_error(&self.path, cause))? else {
                self.finish();
                break;
            };
            let frame_idx = self.frame_idx;
            self.frame_idx += 1;
            if packet.is_empty() {
                // The writer's way to say that the picture before stays on; its time passes, as in ffmpeg.
                continue;
            }
            match mjpeg::decode(&packet, self.stream.height_px) {
                Ok(frame) => {
                    return Ok(Some(Frame { pts_ns: self.rate.pts_ns(frame_idx), frame_idx, ..frame }));
                }
                Err(cause) => self.damage.lose_frame(format!("frame {frame_idx}: {cause}")),
            }
        }
        Ok(None)
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// What the header list says about the stream that is read.
#[derive(Clone, Debug, Default)]
struct VideoStream {
    /// Position among the streams; the first two letters of its chunks.
    idx: u32,
    /// Frames per `scale` seconds.
    rate: u32,
    scale: u32,
    n_frames: u32,
    width_px: u32,
    height_px: u32,
    fourcc: [u8; 4],
}

impl VideoStream {
    fn is_mjpeg(&self) -> bool {
        matches!(&self.fourcc.map(|b| b.to_ascii_uppercase()), b"MJPG" | b"JPEG" | b"DMB1")
    }
}

#[derive(Debug, Default)]
struct Headers {
    us_per_frame: u32,
    n_frames_opendml: u32,
    n_streams: u32,
    video: Option<VideoStream>,
    /// The walk stands at the first chunk of a `movi` list.
    has_frames: bool,
}

impl Headers {
    fn read<R: Read + Seek>(chunks: &mut Chunks<R>) -> io::Result<Self> {
        let mut headers = Headers::default();
        let mut is_in_video = false;
        while let Some(chunk) = chunks.next()? {
            match (&chunk.id, &chunk.list) {
                (b"LIST", b"movi") => {
                    headers.has_frames = true;
                    break;
                }
                (b"LIST" | b"RIFF", _) => {}
                (b"avih", _) => headers.us_per_frame = le_u32(&chunks.read_header(&chunk)?, 0),
                (b"dmlh", _) => headers.n_frames_opendml = le_u32(&chunks.read_header(&chunk)?, 0),
                (b"strh", _) => {
                    let body = chunks.read_header(&chunk)?;
                    is_in_video = body.starts_with(b"vids") && headers.video.is_none();
                    if is_in_video {
                        headers.video = Some(VideoStream {
                            idx: headers.n_streams,
                            scale: le_u32(&body, 20),
                            rate: le_u32(&body, 24),
                            n_frames: le_u32(&body, 32),
                            ..Default::default()
                        });
                    }
                    headers.n_streams = headers.n_streams.saturating_add(1);
                }
                (b"strf", _) => {
                    let body = chunks.read_header(&chunk)?;
                    if let Some(video) = headers.video.as_mut().filter(|_| is_in_video) {
                        video.width_px = le_u32(&body, 4);
                        // A negative height means rows from top to bottom; Motion JPEG always has them so.
                        video.height_px = le_u32(&body, 8).cast_signed().unsigned_abs();
                        video.fourcc.copy_from_slice(body.get(16..20).unwrap_or(&[0; 4]));
                        is_in_video = false;
                    }
                }
                _ if chunk.is_plausible() => chunks.skip(&chunk)?,
                _ => break,
            }
        }
        Ok(headers)
    }
}

/// One chunk's header.
#[derive(Debug)]
struct Chunk {
    at: u64,
    id: [u8; 4],
    n_bytes: u64,
    /// The type of a RIFF or LIST; zeros for others.
    list: [u8; 4],
}

impl Chunk {
    fn is_list(&self) -> bool {
        matches!(&self.id, b"RIFF" | b"LIST")
    }

    /// Real four-character codes are printable.
    fn is_plausible(&self) -> bool {
        self.id.iter().all(|b| (b' '..=b'~').contains(b))
    }
}

/// Walks the chunks of a RIFF file in order, through lists.
struct Chunks<R> {
    reader: BufReader<R>,
    at: u64,
    file_bytes: u64,
    /// The furthest end that a RIFF header declared.
    declared_bytes: u64,
}

impl<R: Read + Seek> Chunks<R> {
    fn new(mut reader: R) -> io::Result<Self> {
        let file_bytes = reader.seek(SeekFrom::End(0))?;
        reader.rewind()?;
        let reader = BufReader::with_capacity(1 << 16, reader);
        Ok(Chunks { reader, at: 0, file_bytes, declared_bytes: 0 })
    }

    fn n_bytes_left(&self) -> u64 {
        self.file_bytes.saturating_sub(self.at)
    }

    fn n_bytes_missing(&self) -> u64 {
        self.declared_bytes.saturating_sub(self.file_bytes)
    }

    /// The next header; stands at its payload then, for a list at its first chunk.
    fn next(&mut self) -> io::Result<Option<Chunk>> {
        let at = self.at;
        let mut header = [0; 12];
        if !self.fill(&mut header[..8])? {
            return Ok(None);
        }
        let [i0, i1, i2, i3, n0, n1, n2, n3, ..] = header;
        let id = [i0, i1, i2, i3];
        let n_bytes = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
        let mut chunk = Chunk { at, id, n_bytes, list: [0; 4] };
        if chunk.is_list() && !self.fill(&mut chunk.list)? {
            return Ok(None);
        }
        if &chunk.id == b"RIFF" {
            self.declared_bytes = self.declared_bytes.max(at + 8 + n_bytes);
        }
        Ok(Some(chunk))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.reader.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(true)
            }
            Err(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
                self.at = self.file_bytes;
                Ok(false)
            }
            Err(cause) => Err(cause),
        }
    }

    /// Goes past a chunk's payload and its padding to an even length.
    fn skip(&mut self, chunk: &Chunk) -> io::Result<()> {
        self.seek_to(self.at + chunk.n_bytes + chunk.n_bytes % 2)
    }

    fn seek_to(&mut self, at: u64) -> io::Result<()> {
        let at = at.min(self.file_bytes);
        self.reader.seek_relative(at.cast_signed().saturating_sub(self.at.cast_signed()))?;
        self.at = at;
        Ok(())
    }

    /// A chunk's payload; the caller has checked its size.
    fn read(&mut self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let mut payload = vec![];
        self.reader.by_ref().take(chunk.n_bytes).read_to_end(&mut payload)?;
        self.at += payload.len() as u64;
        self.seek_to(self.at + chunk.n_bytes % 2)?;
        Ok(payload)
    }

    /// The first [`MAX_HEADER_BYTES`] of a chunk's payload.
    fn read_header(&mut self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        let end = self.at + chunk.n_bytes + chunk.n_bytes % 2;
        let mut payload = vec![];
        self.reader.by_ref().take(chunk.n_bytes.min(MAX_HEADER_BYTES as u64)).read_to_end(&mut payload)?;
        self.at += payload.len() as u64;
        self.seek_to(end)?;
        Ok(payload)
    }

    /// Goes to the next thing at or after `from` that looks like a frame of stream `stream_idx`.
    fn resync(&mut self, from: u64, stream_idx: u32) -> io::Result<()> {
        self.seek_to(from)?;
        let mut last = [0u8; 4];
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                self.at = self.file_bytes;
                return Ok(());
            }
            let n_buffered = buffer.len();
            for (i, byte) in buffer.iter().enumerate() {
                last = [last[1], last[2], last[3], *byte];
                if is_frame_id(&last, stream_idx) {
                    self.reader.consume(i + 1);
                    self.at += i as u64 + 1;
                    return self.seek_to(self.at - 4);
                }
            }
            self.reader.consume(n_buffered);
            self.at += n_buffered as u64;
        }
    }
}

/// True for `NNdc` and `NNdb` of stream NN.
fn is_frame_id(id: &[u8; 4], stream_idx: u32) -> bool {
    let [tens, ones, b'd', b'b' | b'c'] = id else { return false };
    let digit = |b: &u8| char::from(*b).to_digit(10);
    digit(tens).zip(digit(ones)).is_some_and(|(tens, ones)| tens * 10 + ones == stream_idx)
}

/// The little-endian number at `at`; 0 where the bytes end before.
fn le_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// The four-character code, with the codec's name where it is well known.
fn codec_name(fourcc: [u8; 4]) -> String {
    let name = match &fourcc.map(|b| b.to_ascii_uppercase()) {
        [0, 0, 0, 0] => return "uncompressed RGB".to_owned(),
        b"FMP4" | b"XVID" | b"DIVX" | b"DX50" | b"MP4V" | b"MP4S" => " (MPEG-4 Part 2)",
        b"DIV3" | b"DIV4" | b"MP41" | b"MP42" | b"MP43" | b"MPG4" => " (Microsoft MPEG-4)",
        b"CVID" => " (Cinepak)",
        b"H264" | b"X264" | b"AVC1" | b"DAVC" => " (H.264 in AVI)",
        b"HEVC" | b"H265" | b"HVC1" | b"HEV1" => " (H.265)",
        b"DVSD" | b"DV25" | b"DVHD" => " (DV)",
        b"YUY2" | b"UYVY" | b"YV12" | b"I420" | b"IYUV" | b"NV12" | b"Y800" => " (uncompressed)",
        b"HFYU" | b"FFVH" => " (HuffYUV)",
        _ => "",
    };
    format!("{}{name}", fourcc.escape_ascii())
}

fn io_error(path: &str, cause: io::Error) -> SourceError {
    SourceError::Io { path: path.to_owned(), operation: "read", cause }
}
