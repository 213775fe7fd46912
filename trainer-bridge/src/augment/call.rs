//! What a video call does to a face: it is sent smaller, through H.264 with motion, and shown larger again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use rust_h264::decoder::{Decoder, Frame};
use rust_h264::nal::parse_annex_b;
use rusty_h264_common::YuvPlanes;
use rusty_h264_encoder::{Encoder, EncoderConfig, Preset};
use yuv::{
    YuvChromaSubsampling, YuvConversionMode, YuvPlanarImage, YuvPlanarImageMut, YuvRange, YuvStandardMatrix,
};

use super::geometry::warp;
use super::{CallSettings, drawn};

/// Filters that pictures are grown with; to shrink them there is a box too, which would show its pixels when it grows.
const GROWING: [FilterType; 4] =
    [FilterType::Bilinear, FilterType::CatmullRom, FilterType::Mitchell, FilterType::Lanczos3];
/// The quantizer of this encoder that loses what x264 (medium) does at a constant rate factor is a line over the factor,
/// slope and value at 0, within one step for 23..=40 on clips of faces (tests/reference/measure_crf.py).
const QP_OF_CRF: (f32, f32) = (0.78, 12.2);

/// What a picture goes through.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Call {
    /// Side that is sent, in parts of the picture's own, and the filters that shrink and grow it.
    pub rescale: Option<(f32, FilterType, FilterType)>,
    /// The video that is sent.
    pub video: Option<Video>,
}

/// A clip of the picture moving to its place; its last frame is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Video {
    /// H.264's quantizer, 0..=51.
    pub qp: u8,
    /// Frames: the first is intra, the others are predicted.
    pub n_frames: u8,
    /// Motion from frame to frame, px.
    pub motion_px: [f32; 2],
    /// How colours are coded.
    pub is_bt709: bool,
}

impl Call {
    /// Chooses by the settings.
    pub fn draw(settings: &CallSettings, rng: &mut ChaCha8Rng) -> Self {
        let rescale = drawn(&settings.rescale, rng).map(|part| {
            let (shrink, grow) = filters(rng);
            (part, shrink, grow)
        });
        let most = settings.most_motion_px;
        let video = drawn(&settings.crf, rng).map(|crf| Video {
            qp: quantizer_of_crf(crf),
            n_frames: rng.random_range(1..=settings.most_frames),
            motion_px: [0, 1].map(|_| rng.random_range(-most..=most)),
            is_bt709: rng.random_bool(0.5),
        });
        Call { rescale, video }
    }

    /// Does it. A picture that the codec refuses stays as it is.
    pub fn apply(&self, picture: &mut RgbImage) {
        let size_px = picture.dimensions();
        if let Some((part, shrink, _)) = self.rescale {
            let side = |px: u32| super::to_side(px as f32 * part);
            *picture = resized(picture, (side(size_px.0), side(size_px.1)), shrink);
        }
        if let Some(video) = self.video
            && let Some(last) = sent(picture, video)
        {
            *picture = last;
        }
        if let Some((_, _, grow)) = self.rescale {
            *picture = resized(picture, size_px, grow);
        }
    }
}

/// A filter to shrink a picture with and one to grow it again.
pub fn filters(rng: &mut ChaCha8Rng) -> (FilterType, FilterType) {
    let grow = |rng: &mut ChaCha8Rng| *GROWING.choose(rng).unwrap_or(&FilterType::Bilinear);
    (if rng.random_bool(0.2) { FilterType::Box } else { grow(rng) }, grow(rng))
}

/// The quantizer whose loss is like x264's at constant rate factor `crf`.
pub fn quantizer_of_crf(crf: f32) -> u8 {
    super::to_byte(QP_OF_CRF.0 * crf + QP_OF_CRF.1).min(51)
}

/// `picture` resized by a filter; a copy when a side is 0.
pub fn resized(picture: &RgbImage, (width, height): (u32, u32), filter: FilterType) -> RgbImage {
    let resize = || {
        let from =
            ImageRef::new(picture.width(), picture.height(), picture.as_raw(), PixelType::U8x3).ok()?;
        let mut to = Image::new(width, height, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        Resizer::new().resize(&from, &mut to, Some(&options)).ok()?;
        RgbImage::from_raw(width, height, to.into_vec())
    };
    resize().unwrap_or_else(|| picture.clone())
}

/// The last frame of the clip after encoding and decoding; `None` when the codec refuses it.
pub fn sent(picture: &RgbImage, video: Video) -> Option<RgbImage> {
    let stream = encode(picture, video)?;
    // The decoder is young: a panic in it costs this augmentation and not the training.
    let last = catch_unwind(AssertUnwindSafe(|| decode_last(&stream))).ok()??;
    let (width, height) = picture.dimensions();
    let planar = YuvPlanarImage {
        y_plane: &last.y,
        y_stride: last.width,
        u_plane: &last.u,
        u_stride: last.width / 2,
        v_plane: &last.v,
        v_stride: last.width / 2,
        width: last.width,
        height: last.height,
    };
    let mut rgb = RgbImage::new(last.width, last.height);
    yuv::yuv420_to_rgb(&planar, rgb.as_mut(), last.width * 3, YuvRange::Limited, matrix(video)).ok()?;
    Some(image::imageops::crop_imm(&rgb, 0, 0, width, height).to_image())
}

/// The clip as an H.264 byte stream with start codes (annex B); `None` when the encoder refuses it.
pub fn encode(picture: &RgbImage, video: Video) -> Option<Vec<u8>> {
    let (width, height) = picture.dimensions();
    let even = [width, height].map(|side| side.next_multiple_of(2));
    let mut config = EncoderConfig::new(even[0] as usize, even[1] as usize);
    config.preset = Preset::Balanced;
    config.qp = video.qp;
    config.bitrate = 0;
    config.gop_size = u32::MAX;
    config.scenecut = 0;
    config.bframes = 0;
    let mut encoder = Encoder::new(config).ok()?;
    let mut stream = Vec::new();
    for left in (0..video.n_frames).rev().map(f32::from) {
        let [dx, dy] = video.motion_px.map(|motion| motion * left);
        let frame = frame(picture, even, [dx, dy]);
        let mut planes = YuvPlanarImageMut::alloc(even[0], even[1], YuvChromaSubsampling::Yuv420);
        yuv::rgb_to_yuv420(
            &mut planes,
            frame.as_raw(),
            even[0] * 3,
            YuvRange::Limited,
            matrix(video),
            YuvConversionMode::Balanced,
        )
        .ok()?;
        let planes = YuvPlanes::new(
            even[0] as usize,
            even[1] as usize,
            planes.y_plane.borrow(),
            planes.u_plane.borrow(),
            planes.v_plane.borrow(),
            planes.y_stride as usize,
            planes.u_stride as usize,
        )?;
        stream.extend(encoder.encode_planes(&planes).ok()?);
    }
    stream.extend(encoder.try_flush().ok()?);
    Some(stream)
}

/// `picture` moved, at even sides, mirrored where it ends.
fn frame(picture: &RgbImage, [width, height]: [u32; 2], [dx, dy]: [f32; 2]) -> RgbImage {
    if (dx, dy) == (0.0, 0.0) && picture.dimensions() == (width, height) {
        return picture.clone();
    }
    warp(picture, (width, height), |x, y| [x + dx, y + dy])
}

fn decode_last(stream: &[u8]) -> Option<Frame> {
    let mut decoder = Decoder::new();
    let mut last = None;
    for unit in &parse_annex_b(stream) {
        last = decoder.decode_nal(unit).ok()?.or(last);
    }
    decoder.flush().or(last)
}

fn matrix(video: Video) -> YuvStandardMatrix {
    if video.is_bt709 { YuvStandardMatrix::Bt709 } else { YuvStandardMatrix::Bt601 }
}
