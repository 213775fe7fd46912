//! One JPEG picture (ITU-T T.81), the way cameras really write it: Motion JPEG often leaves out the
//! Huffman tables or pads its headers.

use std::borrow::Cow;

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::contain::contain;
use super::{MAX_SIDE_PX, check_size_px, size_limit};
use crate::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};

/// Most pixels that a byte of JPEG can stand for: a block of 8 x 8 costs at least one bit, and chroma
/// costs too. A header that claims more is a lie, and would cost memory and time.
const MAX_PIXELS_PER_BYTE: u64 = 512;
/// Scans of a progressive picture; encoders write about ten.
const MAX_SCANS: usize = 64;
/// The comment that ffmpeg's encoder puts into pictures of limited range.
const LIMITED_RANGE_COMMENT: &[u8] = b"CS=ITU601";

/// Why a picture can't be decoded at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub(super) struct JpegError {
    pub(super) expected: String,
    pub(super) found: String,
}

impl JpegError {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Self {
        JpegError { expected: expected.into(), found: found.into() }
    }
}

/// A decoded picture; time and index are 0.
pub(super) struct Picture {
    /// As stored, before `orientation`.
    pub(super) frame: Frame,
    /// From Exif.
    pub(super) orientation: Orientation,
    /// What is wrong with its bytes, when some of the pixels are guesses.
    pub(super) damage: Option<String>,
}

/// What the segments before the first scan say.
pub(super) struct Header<'a> {
    /// The segments with their markers, without what stands between them.
    segments: Vec<&'a [u8]>,
    /// From the first SOS marker to the end.
    scans: &'a [u8],
    /// Bytes that belong to no segment were found.
    has_padding: bool,
    has_huffman_tables: bool,
    /// The frame header's marker and components (T.81, B.2.2).
    sof: u8,
    n_components: u8,
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    is_limited_range: bool,
    /// From the AVI1 segment (OpenDML, 6.1.5): 1 the upper field, 2 the lower field, 0 unknown or both.
    pub(super) field: u8,
}

impl<'a> Header<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, JpegError> {
        let cut_short = || JpegError::new("a whole header", "one that is cut short");
        let mut rest =
            bytes.strip_prefix(&[0xff, 0xd8]).ok_or_else(|| JpegError::new("a JPEG", "other bytes"))?;
        let mut header = Header {
            segments: vec![],
            scans: &[],
            has_padding: false,
            has_huffman_tables: false,
            sof: 0,
            n_components: 0,
            width_px: 0,
            height_px: 0,
            is_limited_range: false,
            field: 0,
        };
        loop {
            let [first, marker, after @ ..] = rest else { return Err(cut_short()) };
            match (*first, *marker) {
                (0xff, 0xda) => break,
                (0xff, 0xd9) => return Err(JpegError::new("a scan", "the end of the picture before any")),
                // Fill bytes, stuffing, parameterless markers and junk.
                (0xff, 0x00 | 0x01 | 0xd0..=0xd8 | 0xff) | (0x00..=0xfe, _) => {
                    header.has_padding = true;
                    rest = &rest[1..];
                    continue;
                }
                _ => {}
            }
            let [high, low, ..] = after else { return Err(cut_short()) };
            let n_bytes = usize::from(u16::from_be_bytes([*high, *low]));
            if n_bytes < 2 {
                return Err(JpegError::new("a segment of at least 2 bytes", format!("{n_bytes}")));
            }
            let (segment, next) = rest.split_at_checked(2 + n_bytes).ok_or_else(cut_short)?;
            header.note_segment(*marker, &segment[4..])?;
            header.segments.push(segment);
            rest = next;
        }
        header.scans = rest;
        header.check(bytes.len())?;
        Ok(header)
    }

    fn note_segment(&mut self, marker: u8, body: &[u8]) -> Result<(), JpegError> {
        match marker {
            0xc4 => self.has_huffman_tables = true,
            0xc0..=0xcf if marker != 0xc8 && marker != 0xcc => {
                let [_, h1, h0, w1, w0, n_components, ..] = body else {
                    return Err(JpegError::new("a frame header", "one that is cut short"));
                };
                self.sof = marker;
                self.height_px = u32::from(u16::from_be_bytes([*h1, *h0]));
                self.width_px = u32::from(u16::from_be_bytes([*w1, *w0]));
                self.n_components = *n_components;
            }
            0xe0 if body.starts_with(b"AVI1") => self.field = body.get(4).copied().unwrap_or(0),
            0xfe if body.starts_with(LIMITED_RANGE_COMMENT) => self.is_limited_range = true,
            _ => {}
        }
        Ok(())
    }

    fn check(&self, n_bytes: usize) -> Result<(), JpegError> {
        if !matches!(self.sof, 0xc0..=0xc2) {
            let found = match self.sof {
                0 => "no frame header",
                0xc3 => "lossless JPEG",
                0xc9..=0xcb => "arithmetic coding",
                _ => "hierarchical or lossless JPEG",
            };
            return Err(JpegError::new("baseline or progressive JPEG with Huffman coding", found));
        }
        if !matches!(self.n_components, 1 | 3 | 4) {
            return Err(JpegError::new("1, 3 or 4 components", self.n_components.to_string()));
        }
        check_size_px(self.width_px, self.height_px).map_err(|found| JpegError::new(size_limit(), found))?;
        let n_pixels = u64::from(self.width_px) * u64::from(self.height_px);
        if n_pixels > MAX_PIXELS_PER_BYTE * n_bytes as u64 {
            let expected = format!("at least a byte for every {MAX_PIXELS_PER_BYTE} pixels");
            let found = format!("{n_bytes} bytes for {}x{}", self.width_px, self.height_px);
            return Err(JpegError::new(expected, found));
        }
        Ok(())
    }

    /// A stream that a strict decoder takes: no padding between segments, Huffman tables there.
    fn canonical(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        // Only baseline has standard tables (T.81, K.3); progressive streams always carry their own.
        let lacks_tables = !self.has_huffman_tables && self.sof == 0xc0;
        if !self.has_padding && !lacks_tables {
            return Cow::Borrowed(bytes);
        }
        let mut stream = vec![0xff, 0xd8];
        self.segments.iter().for_each(|segment| stream.extend_from_slice(segment));
        if lacks_tables {
            stream.extend_from_slice(&standard_huffman_segment());
        }
        stream.extend_from_slice(self.scans);
        Cow::Owned(stream)
    }
}

/// Decodes a picture. Broken entropy-coded bytes give what could be decoded and `damage`.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, JpegError> {
    let header = Header::parse(bytes)?;
    let stream = header.canonical(bytes);
    let space = match header.n_components {
        1 => ColorSpace::Luma,
        3 if header.is_limited_range => ColorSpace::YCbCr,
        _ => ColorSpace::RGB,
    };
    let (samples, orientation, damage) = match contain(|| decode_samples(&stream, &header, space, true)) {
        Ok((samples, orientation)) => (samples, orientation, None),
        Err(cause) => {
            let (samples, orientation) = contain(|| decode_samples(&stream, &header, space, false))
                .map_err(|cause| JpegError::new("JPEG that can be decoded", cause))?;
            (samples, orientation, Some(cause))
        }
    };
    let (format, planes) = match space {
        ColorSpace::Luma => (PixelFormat::Gray, vec![samples]),
        ColorSpace::YCbCr => (PixelFormat::I444, split_planes(&samples)),
        _ => (PixelFormat::Rgb24, vec![samples]),
    };
    let bytes_per_sample = if format == PixelFormat::Rgb24 { 3 } else { 1 };
    let stride_bytes = header.width_px as usize * bytes_per_sample;
    let frame = Frame {
        width_px: header.width_px,
        height_px: header.height_px,
        format,
        planes: planes.into_iter().map(|samples| Plane { samples, stride_bytes }).collect(),
        matrix: ColorMatrix::Bt601,
        range: if header.is_limited_range { ColorRange::Limited } else { ColorRange::Full },
        rotation: Rotation::None,
        pts_ns: 0,
        frame_idx: 0,
    };
    Ok(Picture { frame, orientation, damage })
}

fn decode_samples(
    stream: &[u8],
    header: &Header,
    space: ColorSpace,
    is_strict: bool,
) -> Result<(Vec<u8>, Orientation), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(is_strict)
        .set_max_width(MAX_SIDE_PX as usize)
        .set_max_height(MAX_SIDE_PX as usize)
        .jpeg_set_max_scans(MAX_SCANS)
        .jpeg_set_out_colorspace(space);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(stream), options);
    decoder.decode_headers().map_err(|cause| cause.to_string())?;
    // Streams with several frame headers exist; only what was checked may be decoded.
    let seen = decoder.info().map(|info| (info.width.into(), info.height.into(), info.components));
    if seen != Some((header.width_px, header.height_px, header.n_components)) {
        return Err("frame headers that contradict each other".to_owned());
    }
    let samples = decoder.decode().map_err(|cause| cause.to_string())?;
    let exif = decoder.exif().map(Vec::as_slice).unwrap_or_default();
    Ok((samples, Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms)))
}

fn split_planes(interleaved: &[u8]) -> Vec<Vec<u8>> {
    (0..3).map(|i| interleaved.chunks_exact(3).map(|sample| sample[i]).collect()).collect()
}

/// The tables of T.81, K.3.3, as one DHT segment with its marker.
fn standard_huffman_segment() -> Vec<u8> {
    const LUMA_DC: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    const CHROMA_DC: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
    const LUMA_AC: [u8; 16] = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d];
    const CHROMA_AC: [u8; 16] = [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77];
    let dc_symbols: Vec<u8> = (0..12).collect();
    let mut body = vec![];
    for (class_and_id, lengths, symbols) in [
        (0x00, LUMA_DC, &dc_symbols[..]),
        (0x10, LUMA_AC, &LUMA_AC_SYMBOLS),
        (0x01, CHROMA_DC, &dc_symbols),
        (0x11, CHROMA_AC, &CHROMA_AC_SYMBOLS),
    ] {
        body.push(class_and_id);
        body.extend_from_slice(&lengths);
        body.extend_from_slice(symbols);
    }
    let mut segment = vec![0xff, 0xc4];
    segment.extend_from_slice(&u16::try_from(body.len() + 2).unwrap_or(u16::MAX).to_be_bytes());
    segment.extend_from_slice(&body);
    segment
}

/// T.81, Table K.5: run length and size of each code.
#[rustfmt::skip]
const LUMA_AC_SYMBOLS: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
    0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
    0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
    0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3,
    0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
];

/// T.81, Table K.6: run length and size of each code.
#[rustfmt::skip]
const CHROMA_AC_SYMBOLS: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13, 0x22,
    0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1,
    0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36,
    0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58,
    0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
    0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a,
    0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba,
    0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
];
