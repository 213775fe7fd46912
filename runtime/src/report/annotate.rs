//! The video with the faces, their ids and their running scores drawn on it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rusty_h264_common::YuvPlanes;
use rusty_h264_encoder::{EncodeError, Encoder, EncoderConfig};
use yuv::{
    YuvChromaSubsampling, YuvConversionMode, YuvPlanarImageMut, YuvRange, YuvStandardMatrix, rgb_to_yuv420,
};

use super::avc;
use super::draw::{FaceMark, draw_marks};
use super::movie::{Movie, TICKS_HZ, TrackHeader};
use crate::geom::Rect;
use crate::resample::{Filter, Resampler};

/// Longest side of the written video; larger pictures are scaled down.
pub const LONGEST_SIDE_PX: u32 = 1920;
/// Where seeking lands: at most this far apart.
const KEYFRAME_NS: i64 = 2_000_000_000;
/// Quantizer: text edges stay clean, and a talking head at 640x360 takes 1 to 2 Mbit/s.
const QP: u8 = 24;
/// Levels (H.264, table A-1) as frame sizes in macroblocks that they decode at 60 Hz.
const LEVELS_60_HZ: [(usize, u8); 4] = [(675, 30), (1800, 31), (3600, 32), (8704, 42)];
/// Level for anything larger, which the encoder raises further where the size asks for it.
const LARGEST_LEVEL: u8 = 51;

/// Why an annotated video can't be written.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// The file system refused.
    #[error("{operation} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A picture without pixels has no video.
    #[error("annotate {path}: pictures are {width_px}x{height_px}, expected at least 1x1", path = path.display())]
    NoPixels {
        /// The video.
        path: PathBuf,
        /// Found width.
        width_px: u32,
        /// Found height.
        height_px: u32,
    },
    /// A picture of another size than the video was made for.
    #[error("annotate {path}: frame {frame_idx} is {found:?} px, expected {expected:?}", path = path.display())]
    SizeChanged {
        /// The video.
        path: PathBuf,
        /// The frame, counted from 0 as they were pushed.
        frame_idx: usize,
        /// Width and height of this picture.
        found: (u32, u32),
        /// Width and height that the video was created for.
        expected: (u32, u32),
    },
    /// The encoder refused.
    #[error("annotate {path}: encode frame {frame_idx}: {reason}", path = path.display())]
    Encode {
        /// The video.
        path: PathBuf,
        /// The frame, counted from 0 as they were pushed.
        frame_idx: usize,
        /// What the encoder said.
        reason: String,
    },
}

/// An MP4 being written: H.264 Constrained Baseline, BT.709 at limited range.
///
/// It grows as `NAME.part.mp4` beside its target and takes the target's name when it is finished. Until
/// then, and after a kill, the part file plays up to its last two seconds. One canvas, one converted
/// picture and the encoder's two are all the memory it holds beside two seconds of encoded video.
pub struct AnnotatedVideo {
    path: PathBuf,
    part: PathBuf,
    banner: Option<String>,
    picture_px: (u32, u32),
    canvas: RgbImage,
    planes: YuvPlanarImageMut<'static, u8>,
    resampler: Resampler,
    encoder: Encoder,
    /// `file` until the first frame gives the parameter sets that `movie` starts with.
    file: Option<File>,
    movie: Option<Movie>,
    n_frames: usize,
    first_pts_ns: i64,
    keyframe_pts_ns: i64,
}

impl AnnotatedVideo {
    /// Starts a video of pictures of `width_px` x `height_px`, each with `banner` along its lower edge.
    ///
    /// The video is no longer than [`LONGEST_SIDE_PX`] on a side; an odd side, which 4:2:0 H.264 can't
    /// hold, gets its last line twice. An existing file at `path` stays until [`Self::finish`].
    ///
    /// # Errors
    /// [`AnnotateError::NoPixels`], or [`AnnotateError::File`] when the part file can't be created.
    pub fn create(
        path: &Path,
        width_px: u32,
        height_px: u32,
        banner: Option<&str>,
    ) -> Result<Self, AnnotateError> {
        let path = path.to_owned();
        if width_px == 0 || height_px == 0 {
            return Err(AnnotateError::NoPixels { path, width_px, height_px });
        }
        let (width, height) = video_size_px(width_px, height_px);
        let encoder = Encoder::new(encoder_config(width, height)).map_err(|source| {
            AnnotateError::Encode { path: path.clone(), frame_idx: 0, reason: source.to_string() }
        })?;
        let part = path.with_extension("part.mp4");
        let file = File::create(&part).map_err(file_error("create", &part))?;
        Ok(AnnotatedVideo {
            path,
            part,
            banner: banner.map(str::to_owned),
            picture_px: (width_px, height_px),
            canvas: RgbImage::new(width, height),
            planes: YuvPlanarImageMut::alloc(width, height, YuvChromaSubsampling::Yuv420),
            resampler: Resampler::default(),
            encoder,
            file: Some(file),
            movie: None,
            n_frames: 0,
            first_pts_ns: 0,
            keyframe_pts_ns: 0,
        })
    }

    /// Adds `picture` with `marks`, whose boxes are in its pixels, shown `pts_ns` after the source's start.
    ///
    /// The first frame is the video's time 0; the others keep their distance from it. A time that isn't
    /// later than the one before becomes just later.
    ///
    /// # Errors
    /// [`AnnotateError::SizeChanged`], [`AnnotateError::Encode`] or [`AnnotateError::File`]; what was
    /// pushed before stays and can be finished.
    pub fn push(&mut self, picture: &RgbImage, marks: &[FaceMark], pts_ns: i64) -> Result<(), AnnotateError> {
        if picture.dimensions() != self.picture_px {
            return Err(AnnotateError::SizeChanged {
                path: self.path.clone(),
                frame_idx: self.n_frames,
                found: picture.dimensions(),
                expected: self.picture_px,
            });
        }
        self.paint(picture, marks).map_err(|reason| self.encode_error(reason))?;
        if self.n_frames == 0 {
            self.first_pts_ns = pts_ns;
        }
        if self.n_frames == 0 || pts_ns.saturating_sub(self.keyframe_pts_ns) >= KEYFRAME_NS {
            self.encoder.request_keyframe();
            self.keyframe_pts_ns = pts_ns;
        }
        let access_unit = self.encode().map_err(|reason| self.encode_error(reason))?;
        self.store(&access_unit, ticks(pts_ns.saturating_sub(self.first_pts_ns)))?;
        self.n_frames += 1;
        Ok(())
    }

    /// Completes the file under its own name and says how many frames it has; without any there is no
    /// file.
    ///
    /// # Errors
    /// [`AnnotateError::File`].
    pub fn finish(self) -> Result<usize, AnnotateError> {
        match self.movie {
            Some(movie) => {
                movie.finish().map_err(file_error("write", &self.part))?;
                fs::rename(&self.part, &self.path).map_err(file_error("rename to", &self.path))?;
            }
            None => fs::remove_file(&self.part).map_err(file_error("remove", &self.part))?,
        }
        Ok(self.n_frames)
    }

    /// Width and height of the video, both even.
    pub fn size_px(&self) -> (u32, u32) {
        self.canvas.dimensions()
    }

    /// Puts `picture` on the canvas and draws on it.
    fn paint(&mut self, picture: &RgbImage, marks: &[FaceMark]) -> Result<(), String> {
        let (width, height) = self.canvas.dimensions();
        let is_scaled = picture.width() > width || picture.height() > height;
        if is_scaled {
            let resized = self.resampler.whole_into(picture, Filter::Triangle, &mut self.canvas);
            resized.ok_or("a picture without pixels")?;
        } else {
            copy_padded(picture, &mut self.canvas);
        }
        let (scale_x, scale_y) = if is_scaled { scale(picture, &self.canvas) } else { (1.0, 1.0) };
        let marks: Vec<FaceMark> = marks
            .iter()
            .map(|mark| {
                let Rect { x, y, w, h } = mark.bbox;
                let bbox = Rect { x: x * scale_x, y: y * scale_y, w: w * scale_x, h: h * scale_y };
                FaceMark { bbox, ..*mark }
            })
            .collect();
        draw_marks(&mut self.canvas, &marks, self.banner.as_deref());
        Ok(())
    }

    /// The canvas as an access unit with start codes.
    fn encode(&mut self) -> Result<Vec<u8>, String> {
        let (width, height) = self.canvas.dimensions();
        rgb_to_yuv420(
            &mut self.planes,
            self.canvas.as_raw(),
            width * 3,
            YuvRange::Limited,
            YuvStandardMatrix::Bt709,
            YuvConversionMode::Balanced,
        )
        .map_err(|e| e.to_string())?;
        let planes = YuvPlanes::new(
            width as usize,
            height as usize,
            self.planes.y_plane.borrow(),
            self.planes.u_plane.borrow(),
            self.planes.v_plane.borrow(),
            self.planes.y_stride as usize,
            self.planes.u_stride as usize,
        )
        .ok_or("planes of another size than the canvas")?;
        self.encoder.encode_planes(&planes).map_err(|e: EncodeError| e.to_string())
    }

    fn store(&mut self, access_unit: &[u8], ticks: u64) -> Result<(), AnnotateError> {
        let (mut slices, mut sps, mut pps) = (Vec::new(), None, None);
        for unit in avc::nal_units(access_unit) {
            match avc::nal_type(unit) {
                avc::SPS => sps = Some(unit),
                avc::PPS => pps = Some(unit),
                _ => slices.push(unit),
            }
        }
        let is_key = slices.first().is_some_and(|slice| avc::nal_type(slice) == avc::IDR_SLICE);
        if let Some(file) = self.file.take() {
            let sps = sps.and_then(avc::with_usability);
            let (Some(sps), Some(pps)) = (sps, pps.map(<[u8]>::to_vec)) else {
                return Err(self.encode_error("no parameter sets in the first access unit".into()));
            };
            let (width, height) = self.canvas.dimensions();
            // Sides are at most LONGEST_SIDE_PX.
            let side = |px: u32| u16::try_from(px).unwrap_or(u16::MAX);
            let header = TrackHeader { width_px: side(width), height_px: side(height), sps, pps };
            self.movie = Some(Movie::start(file, header).map_err(file_error("write", &self.part))?);
        }
        if let Some(movie) = &mut self.movie {
            movie.push(&slices, is_key, ticks).map_err(file_error("write", &self.part))?;
        }
        Ok(())
    }

    fn encode_error(&self, reason: String) -> AnnotateError {
        AnnotateError::Encode { path: self.path.clone(), frame_idx: self.n_frames, reason }
    }
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AnnotateError {
    let path = path.to_owned();
    move |source| AnnotateError::File { operation, path, source }
}

/// One access unit out per frame in, nothing held back, the least memory and time: the text and the
/// lines must stay sharp, the file need not be the smallest.
fn encoder_config(width_px: u32, height_px: u32) -> EncoderConfig {
    let mut config = EncoderConfig::baseline(width_px as usize, height_px as usize);
    let n_macroblocks = config.mb_width() * config.mb_height();
    let level = LEVELS_60_HZ.iter().find(|(most, _)| n_macroblocks <= *most);
    config.level_idc = level.map_or(LARGEST_LEVEL, |&(_, level)| level);
    config.qp = QP;
    // Keyframes are asked for by time; the encoder's own count only has to stay out of the way.
    config.gop_size = u32::MAX;
    config
}

/// Width and height of the video for pictures of this size: no longer than [`LONGEST_SIDE_PX`], even.
fn video_size_px(width_px: u32, height_px: u32) -> (u32, u32) {
    let longest = width_px.max(height_px);
    let side = |px: u32| {
        let scaled = if longest <= LONGEST_SIDE_PX {
            u64::from(px)
        } else {
            (u64::from(px) * u64::from(LONGEST_SIDE_PX) + u64::from(longest) / 2) / u64::from(longest)
        };
        u32::try_from(scaled).unwrap_or(LONGEST_SIDE_PX).max(1).next_multiple_of(2)
    };
    (side(width_px), side(height_px))
}

/// Copies `picture` to the top left of the canvas, which is at most one line larger each way, and
/// repeats its last column and row there.
fn copy_padded(picture: &RgbImage, canvas: &mut RgbImage) {
    let row_bytes = picture.width() as usize * 3;
    let canvas_row_bytes = canvas.width() as usize * 3;
    let canvas: &mut [u8] = canvas.as_mut();
    let rows = picture.as_raw().chunks_exact(row_bytes);
    for (to, from) in canvas.chunks_exact_mut(canvas_row_bytes).zip(rows.clone().chain(rows.last())) {
        to[..row_bytes].copy_from_slice(from);
        if canvas_row_bytes > row_bytes {
            to[row_bytes..].copy_from_slice(&from[row_bytes - 3..]);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "sides are far below 2^24")]
fn scale(from: &RgbImage, to: &RgbImage) -> (f32, f32) {
    (to.width() as f32 / from.width() as f32, to.height() as f32 / from.height() as f32)
}

/// Nanoseconds as ticks, to the nearest; 0 for a time before the first frame.
fn ticks(ns: i64) -> u64 {
    let ticks = (i128::from(ns.max(0)) * i128::from(TICKS_HZ) + 500_000_000) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn video_sizes_are_even_and_bounded() {
        assert_eq!(video_size_px(1, 1), (2, 2));
        assert_eq!(video_size_px(641, 359), (642, 360));
        assert_eq!(video_size_px(1920, 1080), (1920, 1080));
        assert_eq!(video_size_px(3840, 2160), (1920, 1080));
        assert_eq!(video_size_px(2160, 3840), (1080, 1920));
        assert_eq!(video_size_px(u32::MAX, 1), (1920, 2));
    }

    #[test]
    fn ticks_of_common_rates_are_whole() {
        for (n, d) in
            [(24, 1), (25, 1), (30, 1), (50, 1), (60, 1), (24_000, 1001), (30_000, 1001), (60_000, 1001)]
        {
            let frame = i64::from(TICKS_HZ) * d;
            assert_eq!(frame % n, 0, "{n}/{d} Hz");
            for idx in [1, 2, 1000, 1_000_001] {
                assert_eq!(ticks((idx * d * 1_000_000_000 + n / 2) / n), (idx * frame / n).unsigned_abs());
            }
        }
        assert_eq!(ticks(-5), 0);
        assert_eq!(ticks(i64::MAX), 3_320_413_933_267_719);
    }
}
