//! A captured picture: planes, pixel format, colour description, orientation and time.

/// How the samples of a [`Frame`] lie in its planes. All samples are 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Y, U, V planes; chroma halved both ways, rounded up.
    I420,
    /// Y, U, V planes; chroma halved across, rounded up.
    I422,
    /// Y, U, V planes of the same size.
    I444,
    /// One plane of luma.
    Gray,
    /// One plane of interleaved R, G, B.
    Rgb24,
}

impl PixelFormat {
    /// Rows and bytes a row of each plane, without padding, of a picture of `width_px` x `height_px`.
    pub fn plane_sizes(self, width_px: u32, height_px: u32) -> heapless::Vec<(usize, usize), 3> {
        let (w, h) = (width_px as usize, height_px as usize);
        let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
        let sizes: &[(usize, usize)] = match self {
            PixelFormat::I420 => &[(h, w), (half_h, half_w), (half_h, half_w)],
            PixelFormat::I422 => &[(h, w), (h, half_w), (h, half_w)],
            PixelFormat::I444 => &[(h, w), (h, w), (h, w)],
            PixelFormat::Gray => &[(h, w)],
            PixelFormat::Rgb24 => &[(h, w * 3)],
        };
        sizes.iter().copied().collect()
    }
}

/// The matrix that turns R'G'B' into Y'CbCr (ITU-T H.273, MatrixCoefficients).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorMatrix {
    /// ITU-R BT.601.
    Bt601,
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

/// The span of codes that luma and chroma use (ITU-T H.273, VideoFullRangeFlag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColorRange {
    /// 16..=235 luma, 16..=240 chroma.
    Limited,
    /// 0..=255.
    Full,
}

/// Clockwise turn that makes the stored picture upright.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// Already upright.
    #[default]
    None,
    /// Turn by 90 degrees clockwise.
    Cw90,
    /// Turn by 180 degrees.
    Cw180,
    /// Turn by 270 degrees clockwise.
    Cw270,
}

impl Rotation {
    /// True when width and height change places.
    pub fn swaps_sides(self) -> bool {
        matches!(self, Rotation::Cw90 | Rotation::Cw270)
    }
}

/// One plane of 8-bit samples, row-major.
#[derive(Debug, Default)]
pub struct Plane {
    /// Samples; at least `stride_bytes * (rows - 1) + row_bytes` of them.
    pub samples: Vec<u8>,
    /// Distance from the start of one row to the start of the next.
    pub stride_bytes: usize,
}

impl Plane {
    /// The rows, with their padding.
    pub fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        self.samples.chunks_exact_mut(self.stride_bytes.max(1))
    }
}

impl Clone for Plane {
    fn clone(&self) -> Self {
        Plane { samples: self.samples.clone(), stride_bytes: self.stride_bytes }
    }

    /// Uses the memory of `self` again.
    fn clone_from(&mut self, source: &Self) {
        self.samples.clone_from(&source.samples);
        self.stride_bytes = source.stride_bytes;
    }
}

/// A picture as its source gave it, before colour conversion and rotation.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Stored width, before [`Frame::rotation`].
    pub width_px: u32,
    /// Stored height, before [`Frame::rotation`].
    pub height_px: u32,
    /// Layout of `planes`.
    pub format: PixelFormat,
    /// The planes that `format` names: one or three.
    pub planes: Vec<Plane>,
    /// Meaning of Y'CbCr samples; unused for RGB.
    pub matrix: ColorMatrix,
    /// Span of Y'CbCr samples; unused for RGB.
    pub range: ColorRange,
    /// The turn that makes the picture upright.
    pub rotation: Rotation,
    /// Presentation time from the start of the source.
    pub pts_ns: i64,
    /// Position in presentation order, from 0.
    pub frame_idx: u64,
}

impl Default for Frame {
    /// No picture; memory that one can be put into.
    fn default() -> Self {
        Frame {
            width_px: 0,
            height_px: 0,
            format: PixelFormat::Gray,
            planes: Vec::new(),
            matrix: ColorMatrix::Bt601,
            range: ColorRange::Limited,
            rotation: Rotation::None,
            pts_ns: 0,
            frame_idx: 0,
        }
    }
}

impl Frame {
    /// Width and height of the upright picture.
    pub fn upright_size_px(&self) -> (u32, u32) {
        if self.rotation.swaps_sides() {
            (self.height_px, self.width_px)
        } else {
            (self.width_px, self.height_px)
        }
    }
}
