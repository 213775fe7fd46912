//! One picture: JPEG or PNG.

use std::io::{Cursor, Read};

use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, Limits, RgbImage, RgbaImage};

use super::contain::contain;
use super::sniff::{self, Kind};
use super::{Damage, FrameSource, SourceError, SourceInfo, jpeg};
use super::{MAX_SIDE_PX, check_size_px, size_limit};
use crate::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};

/// Largest picture file that is read.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Largest PNG once unpacked; 120 million pixels of 8-bit RGBA.
const MAX_UNPACKED_BYTES: u64 = 480 << 20;

/// A photo as a source of one frame.
///
/// Exif orientation, mirrored ones too, is applied to the pixels. Transparent pixels lie over black;
/// 16-bit samples are rounded to 8. Colour profiles are ignored.
pub struct StillSource {
    info: SourceInfo,
    damage: Damage,
    frame: Option<Frame>,
}

impl StillSource {
    /// Decodes the picture; `path` is for messages.
    ///
    /// # Errors
    /// [`SourceError`] when nothing of the picture can be decoded. One that is cut short or partly broken
    /// is a frame with [`Damage`].
    pub fn new(reader: impl Read, path: &str) -> Result<Self, SourceError> {
        let bytes = read_bounded(reader, path)?;
        let picture = decode(&bytes).map_err(|fault| fault.at(path))?;
        let mut damage = Damage::default();
        if let Some(why) = picture.damage {
            damage.lose_frame(why);
        }
        let (width_px, height_px) = picture.frame.upright_size_px();
        let info = SourceInfo {
            description: picture.kind.to_owned(),
            width_px,
            height_px,
            n_frames: Some(1),
            duration_ns: None,
            is_still: true,
        };
        Ok(StillSource { info, damage, frame: Some(picture.frame) })
    }
}

impl FrameSource for StillSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        Ok(self.frame.take())
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

/// A decoded picture, upright.
pub(super) struct Still {
    pub(super) frame: Frame,
    /// What is wrong with its bytes, when some of the pixels are guesses.
    pub(super) damage: Option<String>,
    /// "JPEG" or "PNG".
    pub(super) kind: &'static str,
}

/// Why a picture can't be decoded.
pub(super) struct StillFault {
    what: &'static str,
    expected: String,
    found: String,
}

impl StillFault {
    pub(super) fn at(self, path: &str) -> SourceError {
        let StillFault { what, expected, found } = self;
        SourceError::Malformed { path: path.to_owned(), what, expected, found }
    }
}

/// Reads a whole picture file, up to [`MAX_FILE_BYTES`].
pub(super) fn read_bounded(reader: impl Read, path: &str) -> Result<Vec<u8>, SourceError> {
    let mut bytes = vec![];
    let n_read = reader
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|cause| SourceError::Io { path: path.to_owned(), operation: "read", cause })?;
    if n_read as u64 > MAX_FILE_BYTES {
        let expected = format!("at most {} MiB", MAX_FILE_BYTES >> 20);
        return Err(StillFault { what: "picture file", expected, found: "more".to_owned() }.at(path));
    }
    Ok(bytes)
}

/// Decodes a JPEG or PNG.
pub(super) fn decode(bytes: &[u8]) -> Result<Still, StillFault> {
    let head = &bytes[..bytes.len().min(sniff::HEAD_BYTES)];
    match sniff::identify(head) {
        Kind::Jpeg => {
            let jpeg::Picture { frame, orientation, damage } = jpeg::decode(bytes)
                .map_err(|cause| StillFault { what: "JPEG", expected: cause.expected, found: cause.found })?;
            Ok(Still { frame: upright(frame, orientation), damage, kind: "JPEG" })
        }
        Kind::Png => decode_png(bytes),
        _ => {
            let found = sniff::describe_unknown(head);
            Err(StillFault { what: "picture", expected: "JPEG or PNG".to_owned(), found })
        }
    }
}

fn decode_png(bytes: &[u8]) -> Result<Still, StillFault> {
    let fault =
        |expected: &str, found: String| StillFault { what: "PNG", expected: expected.to_owned(), found };
    let broken = |cause: image::ImageError| fault("PNG that can be decoded", cause.to_string());
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE_PX);
    limits.max_image_height = Some(MAX_SIDE_PX);
    limits.max_alloc = Some(MAX_UNPACKED_BYTES);
    let mut decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(broken)?;
    let (width_px, height_px) = decoder.dimensions();
    check_size_px(width_px, height_px).map_err(|found| fault(&size_limit(), found))?;
    if decoder.total_bytes() > MAX_UNPACKED_BYTES {
        let expected = format!("at most {} MiB unpacked", MAX_UNPACKED_BYTES >> 20);
        return Err(fault(&expected, format!("{} MiB", decoder.total_bytes() >> 20)));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let n_channels = color.channel_count();
    let n_bytes = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
    let mut samples = vec![0; n_bytes];
    // Rows that came before the fault stay in the buffer.
    let damage = contain(|| decoder.read_image(&mut samples).map_err(|cause| cause.to_string())).err();
    if let Some(found) = damage.clone().filter(|_| samples.iter().all(|sample| *sample == 0)) {
        return Err(fault("PNG that can be decoded", found));
    }
    if color.bytes_per_pixel() > n_channels {
        let (deep, _) = samples.as_chunks::<2>();
        samples = deep.iter().map(|sample| to_8_bits(u16::from_ne_bytes(*sample))).collect();
    }
    let pixels: Option<DynamicImage> = match n_channels {
        1 => GrayImage::from_raw(width_px, height_px, samples).map(Into::into),
        2 => GrayAlphaImage::from_raw(width_px, height_px, samples).map(Into::into),
        3 => RgbImage::from_raw(width_px, height_px, samples).map(Into::into),
        _ => RgbaImage::from_raw(width_px, height_px, samples).map(Into::into),
    };
    let mut pixels = pixels.ok_or_else(|| fault("samples for every pixel", format!("{color:?}")))?;
    pixels.apply_orientation(orientation);
    let frame = match pixels {
        DynamicImage::ImageLuma8(gray) => gray_frame(gray),
        DynamicImage::ImageRgb8(rgb) => rgb_frame(rgb),
        _ => rgb_frame(over_black(pixels)),
    };
    Ok(Still { frame, damage, kind: "PNG" })
}

/// 0..=65535 to 0..=255, rounded to nearest.
fn to_8_bits(sample: u16) -> u8 {
    u8::try_from((u32::from(sample) + 128) / 257).unwrap_or(u8::MAX)
}

fn over_black(pixels: DynamicImage) -> RgbImage {
    let rgba = pixels.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        // At most 255 * 255 / 255.
        let lit = |v: u8| u8::try_from((u32::from(v) * u32::from(a) + 127) / 255).unwrap_or(u8::MAX);
        image::Rgb([lit(r), lit(g), lit(b)])
    })
}

/// Applies `orientation` to the pixels: mirrored pictures are too rare to burden every frame with.
fn upright(mut frame: Frame, orientation: Orientation) -> Frame {
    if orientation == Orientation::NoTransforms || frame.planes.is_empty() {
        return frame;
    }
    let (width_px, height_px) = (frame.width_px, frame.height_px);
    for plane in std::mem::take(&mut frame.planes) {
        let pixels: Option<DynamicImage> = match frame.format {
            PixelFormat::Rgb24 => RgbImage::from_raw(width_px, height_px, plane.samples).map(Into::into),
            _ => GrayImage::from_raw(width_px, height_px, plane.samples).map(Into::into),
        };
        let Some(mut pixels) = pixels else { continue };
        pixels.apply_orientation(orientation);
        let stride_bytes = pixels.width() as usize * usize::from(pixels.color().bytes_per_pixel());
        (frame.width_px, frame.height_px) = (pixels.width(), pixels.height());
        frame.planes.push(Plane { samples: pixels.into_bytes(), stride_bytes });
    }
    frame
}

fn gray_frame(gray: GrayImage) -> Frame {
    let (width_px, height_px) = gray.dimensions();
    still_frame(width_px, height_px, PixelFormat::Gray, gray.into_raw())
}

fn rgb_frame(rgb: RgbImage) -> Frame {
    let (width_px, height_px) = rgb.dimensions();
    still_frame(width_px, height_px, PixelFormat::Rgb24, rgb.into_raw())
}

fn still_frame(width_px: u32, height_px: u32, format: PixelFormat, samples: Vec<u8>) -> Frame {
    let bytes_per_pixel = if format == PixelFormat::Rgb24 { 3 } else { 1 };
    Frame {
        width_px,
        height_px,
        format,
        planes: vec![Plane { samples, stride_bytes: width_px as usize * bytes_per_pixel }],
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Full,
        rotation: Rotation::None,
        pts_ns: 0,
        frame_idx: 0,
    }
}
