//! Encodings that cameras give, and their pictures as frames.

use heapless::Vec as FixedVec;

use super::kernel::{MAX_PLANES, PictureFormat, PlaneFormat};
use crate::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};
use crate::source;

/// How a camera encodes pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Y and interleaved UV, chroma halved both ways; in one piece of memory or two.
    Nv12,
    /// Y, U and V, chroma halved both ways.
    I420,
    /// Y0 U Y1 V.
    Yuyv,
    /// U Y0 V Y1.
    Uyvy,
    /// R, G, B.
    Rgb24,
    /// B, G, R.
    Bgr24,
    /// A JPEG a picture.
    Mjpeg,
}

impl Encoding {
    /// All; those that cost less to read come first.
    pub const ALL: [Encoding; 7] = [
        Encoding::Nv12,
        Encoding::I420,
        Encoding::Yuyv,
        Encoding::Uyvy,
        Encoding::Rgb24,
        Encoding::Bgr24,
        Encoding::Mjpeg,
    ];

    /// The word that people and the configuration see.
    pub fn word(self) -> &'static str {
        match self {
            Encoding::Nv12 => "nv12",
            Encoding::I420 => "i420",
            Encoding::Yuyv => "yuyv",
            Encoding::Uyvy => "uyvy",
            Encoding::Rgb24 => "rgb24",
            Encoding::Bgr24 => "bgr24",
            Encoding::Mjpeg => "mjpeg",
        }
    }

    /// The kernel's codes of it.
    fn fourccs(self) -> &'static [&'static [u8; 4]] {
        match self {
            Encoding::Nv12 => &[b"NV12", b"NM12"],
            Encoding::I420 => &[b"YU12"],
            Encoding::Yuyv => &[b"YUYV"],
            Encoding::Uyvy => &[b"UYVY"],
            Encoding::Rgb24 => &[b"RGB3"],
            Encoding::Bgr24 => &[b"BGR3"],
            Encoding::Mjpeg => &[b"MJPG", b"JPEG"],
        }
    }

    /// The encoding that the kernel calls `fourcc`.
    pub fn of(fourcc: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.fourccs().iter().any(|code| u32::from_le_bytes(**code) == fourcc))
    }

    /// The kernel's first code of it.
    pub fn fourcc(self) -> u32 {
        u32::from_le_bytes(*self.fourccs()[0])
    }

    /// Rows and bytes a row of each plane, without padding. Empty for JPEG.
    fn plane_sizes(self, width: usize, height: usize) -> FixedVec<(usize, usize), 3> {
        let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
        let sizes: &[(usize, usize)] = match self {
            Encoding::Nv12 => &[(height, width), (half_h, 2 * half_w)],
            Encoding::I420 => &[(height, width), (half_h, half_w), (half_h, half_w)],
            Encoding::Yuyv | Encoding::Uyvy => &[(height, 4 * half_w)],
            Encoding::Rgb24 | Encoding::Bgr24 => &[(height, 3 * width)],
            Encoding::Mjpeg => &[],
        };
        sizes.iter().copied().collect()
    }
}

/// Why a camera's pictures can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct PictureError {
    /// The part that is wrong.
    pub what: &'static str,
    /// What it should hold.
    pub expected: String,
    /// What it holds.
    pub found: String,
}

impl PictureError {
    pub(super) fn new(what: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        PictureError { what, expected: expected.into(), found: found.into() }
    }
}

/// One plane of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rows {
    /// The piece of memory that it lies in.
    memory_idx: usize,
    /// Where in it the first row begins.
    start: usize,
    stride_bytes: usize,
    n_rows: usize,
    row_bytes: usize,
}

impl Rows {
    /// Where in the piece of memory the last row ends.
    fn end(&self) -> usize {
        self.start + self.stride_bytes * (self.n_rows - 1) + self.row_bytes
    }
}

/// How the pictures of a camera are to be read; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The encoding.
    pub encoding: Encoding,
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
    planes: FixedVec<Rows, 3>,
    n_memories: usize,
    matrix: ColorMatrix,
    range: ColorRange,
}

impl Layout {
    /// The layout that a driver promises.
    ///
    /// # Errors
    /// [`PictureError`] for an encoding that isn't built in, a size over the limits, or rows that don't fit.
    pub fn new(format: &PictureFormat) -> Result<Self, PictureError> {
        let PictureFormat { width_px, height_px, fourcc, .. } = *format;
        let found = || String::from_utf8_lossy(&fourcc.to_le_bytes()).into_owned();
        let names = || Encoding::ALL.map(Encoding::word).join(", ");
        let encoding = Encoding::of(fourcc).ok_or_else(|| PictureError::new("encoding", names(), found()))?;
        source::check_size_px(width_px, height_px)
            .map_err(|found| PictureError::new("picture", source::size_limit(), found))?;
        let (width, height) = (width_px as usize, height_px as usize);
        let n_memories = format.planes.len();
        let sizes = encoding.plane_sizes(width, height);
        if n_memories == 0 || (n_memories != 1 && n_memories != sizes.len()) {
            let expected = format!("1 or {}", sizes.len());
            return Err(PictureError::new("pieces of memory", expected, n_memories.to_string()));
        }
        let mut planes = FixedVec::new();
        let mut start = 0;
        for (idx, (n_rows, row_bytes)) in sizes.iter().copied().enumerate() {
            let memory_idx = if n_memories == 1 { 0 } else { idx };
            let given = format.planes[memory_idx].stride_bytes as usize;
            // In one piece of memory the driver names the first plane's rows; those of halved chroma are half as far.
            let is_halved = n_memories == 1 && idx > 0 && encoding == Encoding::I420;
            let stride_bytes = match given {
                0 => row_bytes,
                n if is_halved => n.div_ceil(2),
                n => n,
            };
            if stride_bytes < row_bytes || stride_bytes > MAX_STRIDE_BYTES {
                let expected = format!("{row_bytes}..={MAX_STRIDE_BYTES} bytes");
                return Err(PictureError::new("distance of rows", expected, stride_bytes.to_string()));
            }
            let first = if n_memories == 1 { start } else { 0 };
            // Sizes are within the limits of a picture: there is one slot for each of the three planes.
            let _ = planes.push(Rows { memory_idx, start: first, stride_bytes, n_rows, row_bytes });
            start += stride_bytes * n_rows;
            if start > MAX_BYTES {
                let expected = format!("at most {MAX_BYTES} bytes");
                return Err(PictureError::new("picture", expected, format!("{start} bytes")));
            }
        }
        let (matrix, range) = colours(format, encoding);
        Ok(Layout { encoding, width_px, height_px, planes, n_memories, matrix, range })
    }

    /// That of pictures without padding in one piece, as a pipe carries them.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn packed(encoding: Encoding, width_px: u32, height_px: u32) -> Result<Self, PictureError> {
        let planes = std::iter::once(PlaneFormat::default()).collect();
        let format =
            PictureFormat { width_px, height_px, fourcc: encoding.fourcc(), planes, ..Default::default() };
        Layout::new(&format)
    }

    /// Least bytes that each piece of memory must hold for a whole picture.
    pub fn n_bytes_needed(&self) -> FixedVec<usize, MAX_PLANES> {
        let end_of = |memory_idx| {
            let planes = self.planes.iter().filter(|p| p.memory_idx == memory_idx);
            // A JPEG has at least its markers.
            planes.map(Rows::end).max().unwrap_or(4)
        };
        (0..self.n_memories).map(end_of).collect()
    }

    /// Puts the picture in `raw` into `frame`, whose memory is used again. Time and index are `raw`'s.
    ///
    /// # Errors
    /// [`PictureError`] when bytes are missing or are no JPEG; `frame` is then of no use.
    pub fn read(&self, raw: &Raw, frame: &mut Frame) -> Result<(), PictureError> {
        if self.encoding == Encoding::Mjpeg {
            *frame = source::decode_motion_jpeg(&raw.bytes, self.height_px)
                .map_err(|(expected, found)| PictureError::new("JPEG", expected, found))?;
        } else {
            self.read_planes(raw, frame)?;
        }
        frame.pts_ns = raw.taken_ns;
        frame.frame_idx = raw.frame_idx;
        Ok(())
    }

    fn read_planes(&self, raw: &Raw, frame: &mut Frame) -> Result<(), PictureError> {
        let (width, height) = (self.width_px as usize, self.height_px as usize);
        frame.format = match self.encoding {
            Encoding::Nv12 | Encoding::I420 => PixelFormat::I420,
            Encoding::Yuyv | Encoding::Uyvy => PixelFormat::I422,
            Encoding::Rgb24 | Encoding::Bgr24 | Encoding::Mjpeg => PixelFormat::Rgb24,
        };
        (frame.width_px, frame.height_px) = (self.width_px, self.height_px);
        (frame.matrix, frame.range, frame.rotation) = (self.matrix, self.range, Rotation::None);
        let n_planes = if frame.format == PixelFormat::Rgb24 { 1 } else { 3 };
        frame.planes.resize_with(n_planes, Plane::default);
        let sizes = match self.encoding {
            Encoding::Yuyv | Encoding::Uyvy => {
                [(height, width), (height, width.div_ceil(2)), (height, width.div_ceil(2))]
            }
            Encoding::Nv12 | Encoding::I420 => {
                let chroma = (height.div_ceil(2), width.div_ceil(2));
                [(height, width), chroma, chroma]
            }
            _ => [(height, 3 * width), (0, 0), (0, 0)],
        };
        for (plane, (n_rows, row_bytes)) in frame.planes.iter_mut().zip(sizes) {
            plane.samples.resize(n_rows * row_bytes, 0);
            plane.stride_bytes = row_bytes;
        }
        for (idx, rows) in self.planes.iter().enumerate() {
            let memory = raw.memory(rows.memory_idx);
            let Some(from) = memory.get(rows.start..rows.end()) else {
                let expected = format!("{} bytes", rows.end());
                return Err(PictureError::new("picture", expected, format!("{} bytes", memory.len())));
            };
            let from = from.chunks(rows.stride_bytes).map(|row| &row[..rows.row_bytes]);
            match (self.encoding, idx, &mut frame.planes[..]) {
                (Encoding::Nv12, 1, [_, u, v]) => {
                    for ((from, u), v) in from.zip(u.rows_mut()).zip(v.rows_mut()) {
                        for ((pair, u), v) in from.as_chunks::<2>().0.iter().zip(u).zip(v) {
                            [*u, *v] = *pair;
                        }
                    }
                }
                (Encoding::Yuyv, _, [y, u, v]) => split(from, (y, u, v), |[y0, u, y1, v]| [y0, y1, u, v]),
                (Encoding::Uyvy, _, [y, u, v]) => split(from, (y, u, v), |[u, y0, v, y1]| [y0, y1, u, v]),
                (Encoding::Bgr24, _, [rgb]) => {
                    for (from, to) in from.zip(rgb.rows_mut()) {
                        for ([b, g, r], to) in from.as_chunks::<3>().0.iter().zip(to.as_chunks_mut::<3>().0) {
                            *to = [*r, *g, *b];
                        }
                    }
                }
                (_, idx, planes) => {
                    for (from, to) in from.zip(planes[idx].rows_mut()) {
                        to.copy_from_slice(from);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Longest row that is believed: one of the widest picture, padded to twice its length.
const MAX_STRIDE_BYTES: usize = 2 * 3 * source::MAX_SIDE_PX as usize;
/// Most memory of a picture.
pub(super) const MAX_BYTES: usize = 1 << 29;

/// Rows of two pixels in four bytes to planes; the last pixel of an odd width has a partner that is dropped.
fn split<'a>(
    rows: impl Iterator<Item = &'a [u8]>,
    (y, u, v): (&mut Plane, &mut Plane, &mut Plane),
    order: impl Fn([u8; 4]) -> [u8; 4],
) {
    for (((from, y), u), v) in rows.zip(y.rows_mut()).zip(u.rows_mut()).zip(v.rows_mut()) {
        let pairs = from.as_chunks::<4>().0.iter().zip(y.chunks_mut(2)).zip(u).zip(v);
        for (((from, y), u), v) in pairs {
            let [y0, y1, blue, red] = order(*from);
            (*u, *v) = (blue, red);
            y[0] = y0;
            if let Some(second) = y.get_mut(1) {
                *second = y1;
            }
        }
    }
}

/// The kernel's defaults for what a driver leaves open (`V4L2_MAP_YCBCR_ENC_DEFAULT`,
/// `V4L2_MAP_QUANTIZATION_DEFAULT`).
fn colours(format: &PictureFormat, encoding: Encoding) -> (ColorMatrix, ColorRange) {
    use v4l::v4l_sys as sys;
    let matrix = match (format.ycbcr_encoding, format.colorspace) {
        (sys::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_709 | sys::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_XV709, _)
        | (0, sys::v4l2_colorspace_V4L2_COLORSPACE_REC709 | sys::v4l2_colorspace_V4L2_COLORSPACE_DCI_P3) => {
            ColorMatrix::Bt709
        }
        (sys::v4l2_ycbcr_encoding_V4L2_YCBCR_ENC_BT2020, _)
        | (0, sys::v4l2_colorspace_V4L2_COLORSPACE_BT2020) => ColorMatrix::Bt2020,
        // A pipe names nothing: the size says which, as for a file.
        (0, sys::v4l2_colorspace_V4L2_COLORSPACE_DEFAULT) => {
            source::unnamed_matrix(format.width_px, format.height_px)
        }
        _ => ColorMatrix::Bt601,
    };
    let is_full = match format.quantization {
        sys::v4l2_quantization_V4L2_QUANTIZATION_FULL_RANGE => true,
        sys::v4l2_quantization_V4L2_QUANTIZATION_LIM_RANGE => false,
        _ => {
            matches!(encoding, Encoding::Rgb24 | Encoding::Bgr24)
                || format.colorspace == sys::v4l2_colorspace_V4L2_COLORSPACE_JPEG
        }
    };
    (matrix, if is_full { ColorRange::Full } else { ColorRange::Limited })
}

/// A picture as a camera gave it.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// The pieces of memory one after the other, without what the driver left unused at their ends.
    pub bytes: Vec<u8>,
    /// Where in `bytes` each piece ends.
    pub ends: FixedVec<usize, MAX_PLANES>,
    /// When it was taken, on the clock of whoever captures.
    pub taken_ns: i64,
    /// Its number among the frames that were taken, from 0.
    pub frame_idx: u64,
}

impl Raw {
    fn memory(&self, idx: usize) -> &[u8] {
        let start = idx.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(idx).copied().unwrap_or(0);
        self.bytes.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(memories: &[&[u8]]) -> Raw {
        let mut raw = Raw::default();
        for memory in memories {
            raw.bytes.extend_from_slice(memory);
            raw.ends.push(raw.bytes.len()).unwrap();
        }
        raw
    }

    fn format(fourcc: &[u8; 4], (width_px, height_px): (u32, u32), strides: &[u32]) -> PictureFormat {
        let planes = strides.iter().map(|s| PlaneFormat { stride_bytes: *s, size_bytes: 0 }).collect();
        let fourcc = u32::from_le_bytes(*fourcc);
        PictureFormat { width_px, height_px, fourcc, planes, ..Default::default() }
    }

    fn read(format: &PictureFormat, raw: &Raw) -> Result<Frame, PictureError> {
        let mut frame = Frame::default();
        Layout::new(format)?.read(raw, &mut frame).map(|()| frame)
    }

    fn samples(frame: &Frame) -> Vec<Vec<u8>> {
        frame.planes.iter().map(|p| p.samples.clone()).collect()
    }

    #[test]
    fn packed_pairs_are_split_and_padding_is_dropped() {
        // Three pixels a row in two pairs, with two bytes of padding.
        let bytes = [1, 101, 2, 201, 3, 102, 99, 202, 0, 0, 4, 103, 5, 203, 6, 104, 99, 204, 0, 0];
        let frame = read(&format(b"YUYV", (3, 2), &[10]), &raw(&[&bytes])).unwrap();
        assert_eq!(frame.format, PixelFormat::I422);
        assert_eq!(
            samples(&frame),
            [vec![1, 2, 3, 4, 5, 6], vec![101, 102, 103, 104], vec![201, 202, 203, 204]]
        );
        let swapped: Vec<u8> = bytes.as_chunks::<2>().0.iter().flat_map(|[a, b]| [*b, *a]).collect();
        let same = read(&format(b"UYVY", (3, 2), &[10]), &raw(&[&swapped])).unwrap();
        assert_eq!(samples(&same), samples(&frame));
    }

    #[test]
    fn chroma_follows_luma_in_one_piece_or_lies_in_its_own() {
        let (luma, chroma) = ([1, 2, 0, 0, 3, 4, 0, 0], [5, 6, 0, 0]);
        let one = read(&format(b"NV12", (2, 2), &[4]), &raw(&[&[&luma[..], &chroma].concat()])).unwrap();
        let two = read(&format(b"NM12", (2, 2), &[4, 4]), &raw(&[&luma, &chroma])).unwrap();
        assert_eq!(samples(&one), [vec![1, 2, 3, 4], vec![5], vec![6]]);
        assert_eq!(samples(&two), samples(&one));
        // Rows of chroma are half as far apart.
        let planar = read(&format(b"YU12", (2, 2), &[4]), &raw(&[&[&luma[..], &[5, 0, 6, 0]].concat()]));
        assert_eq!(samples(&planar.unwrap()), samples(&one));
    }

    #[test]
    fn blue_first_becomes_red_first() {
        let rgb = read(&format(b"BGR3", (2, 1), &[0]), &raw(&[&[3, 2, 1, 6, 5, 4]])).unwrap();
        assert_eq!(samples(&rgb), [[1, 2, 3, 4, 5, 6]]);
        assert_eq!((rgb.format, rgb.range), (PixelFormat::Rgb24, ColorRange::Full));
    }

    #[test]
    fn what_is_short_or_makes_no_sense_is_refused() {
        let ok = format(b"NV12", (640, 480), &[640]);
        assert_eq!(Layout::new(&ok).unwrap().n_bytes_needed()[..], [640 * 480 * 3 / 2]);
        assert!(read(&ok, &raw(&[&[0; 640 * 480]])).is_err());
        assert!(read(&ok, &Raw::default()).is_err());
        assert!(read(&format(b"MJPG", (640, 480), &[0]), &raw(&[b"no JPEG"])).is_err());
        for bad in [
            format(b"H264", (640, 480), &[0]),
            format(b"NV12", (0, 480), &[640]),
            format(b"NV12", (640, 100_000), &[640]),
            format(b"NV12", (640, 480), &[639]),
            format(b"NV12", (640, 480), &[u32::MAX]),
            format(b"NV12", (640, 480), &[]),
            format(b"YUYV", (640, 480), &[1280, 1280]),
        ] {
            assert!(Layout::new(&bad).is_err(), "{bad:?}");
        }
    }
}
