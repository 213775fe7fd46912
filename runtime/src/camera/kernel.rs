//! What a camera asks of the operating system, in plain types: the seam where tests put a system that fails.
//!
//! Each method is one system call, or one ioctl of Video4Linux ("Linux Media Infrastructure userspace API", part I).

use std::ops::Range;
use std::path::Path;

use heapless::Vec as FixedVec;
pub use rustix::io::Errno;

/// Most planes of memory that one picture lies in (`VIDEO_MAX_PLANES`).
pub const MAX_PLANES: usize = 8;

/// A system call, for messages and for tests that let it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `open`
    Open,
    /// `VIDIOC_QUERYCAP`
    QueryCapabilities,
    /// `VIDIOC_G_INPUT`
    GetInput,
    /// `VIDIOC_ENUMINPUT`
    DescribeInput,
    /// `VIDIOC_QUERY_DV_TIMINGS`
    QueryTimings,
    /// `VIDIOC_S_DV_TIMINGS`
    SetTimings,
    /// `VIDIOC_ENUM_FMT`
    ListFormats,
    /// `VIDIOC_ENUM_FRAMESIZES`
    ListSizes,
    /// `VIDIOC_ENUM_FRAMEINTERVALS`
    ListIntervals,
    /// `VIDIOC_S_FMT`
    SetFormat,
    /// `VIDIOC_S_PARM`
    SetInterval,
    /// `VIDIOC_QUERYCTRL`
    DescribeControl,
    /// `VIDIOC_S_CTRL`
    SetControl,
    /// `VIDIOC_SUBSCRIBE_EVENT`
    Subscribe,
    /// `VIDIOC_REQBUFS`
    RequestBuffers,
    /// `VIDIOC_QUERYBUF`
    DescribeBuffer,
    /// `mmap`
    Map,
    /// `VIDIOC_QBUF`
    Enqueue,
    /// `VIDIOC_STREAMON`
    StreamOn,
    /// `poll`
    Poll,
    /// `VIDIOC_DQEVENT`
    DequeueEvent,
    /// `VIDIOC_DQBUF`
    Dequeue,
    /// `VIDIOC_STREAMOFF`
    StreamOff,
}

impl Request {
    /// All, in the order in which a camera is opened, read and closed.
    pub const ALL: [Request; 23] = [
        Request::Open,
        Request::QueryCapabilities,
        Request::GetInput,
        Request::DescribeInput,
        Request::QueryTimings,
        Request::SetTimings,
        Request::ListFormats,
        Request::ListSizes,
        Request::ListIntervals,
        Request::SetFormat,
        Request::SetInterval,
        Request::DescribeControl,
        Request::SetControl,
        Request::Subscribe,
        Request::RequestBuffers,
        Request::DescribeBuffer,
        Request::Map,
        Request::Enqueue,
        Request::StreamOn,
        Request::Poll,
        Request::DequeueEvent,
        Request::Dequeue,
        Request::StreamOff,
    ];

    /// The system's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Request::Open => "open",
            Request::QueryCapabilities => "VIDIOC_QUERYCAP",
            Request::GetInput => "VIDIOC_G_INPUT",
            Request::DescribeInput => "VIDIOC_ENUMINPUT",
            Request::QueryTimings => "VIDIOC_QUERY_DV_TIMINGS",
            Request::SetTimings => "VIDIOC_S_DV_TIMINGS",
            Request::ListFormats => "VIDIOC_ENUM_FMT",
            Request::ListSizes => "VIDIOC_ENUM_FRAMESIZES",
            Request::ListIntervals => "VIDIOC_ENUM_FRAMEINTERVALS",
            Request::SetFormat => "VIDIOC_S_FMT",
            Request::SetInterval => "VIDIOC_S_PARM",
            Request::DescribeControl => "VIDIOC_QUERYCTRL",
            Request::SetControl => "VIDIOC_S_CTRL",
            Request::Subscribe => "VIDIOC_SUBSCRIBE_EVENT",
            Request::RequestBuffers => "VIDIOC_REQBUFS",
            Request::DescribeBuffer => "VIDIOC_QUERYBUF",
            Request::Map => "mmap",
            Request::Enqueue => "VIDIOC_QBUF",
            Request::StreamOn => "VIDIOC_STREAMON",
            Request::Poll => "poll",
            Request::DequeueEvent => "VIDIOC_DQEVENT",
            Request::Dequeue => "VIDIOC_DQBUF",
            Request::StreamOff => "VIDIOC_STREAMOFF",
        }
    }
}

/// Which of the two interfaces for buffers a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planarity {
    /// One piece of memory a picture.
    Single,
    /// Up to [`MAX_PLANES`] pieces, as bridges of CSI cameras have it.
    Multi,
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: String,
    /// The device's name, for people.
    pub card: String,
    /// `V4L2_CAP_*` of this node.
    pub flags: u32,
}

/// An input of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// `V4L2_IN_ST_*`: what is wrong with its signal.
    pub status: u32,
    /// `V4L2_IN_CAP_*`.
    pub capabilities: u32,
}

/// Sizes of pictures, from least to most in steps; one size where they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Least width and height.
    pub least_px: (u32, u32),
    /// Most width and height.
    pub most_px: (u32, u32),
    /// Steps of width and height; 0 where there is but one size.
    pub step_px: (u32, u32),
    /// There are no other entries.
    pub is_range: bool,
}

/// Times between two frames, in seconds as fractions, from the shortest to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// Numerator and denominator of the shortest.
    pub shortest_s: (u32, u32),
    /// Numerator and denominator of the longest.
    pub longest_s: (u32, u32),
    /// There are no other entries.
    pub is_range: bool,
}

/// Rows of one plane of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaneFormat {
    /// Distance from row to row; 0 where the driver chooses, or where pictures are compressed.
    pub stride_bytes: u32,
    /// Bytes of memory for a picture.
    pub size_bytes: u32,
}

/// How pictures lie in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PictureFormat {
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
    /// `V4L2_PIX_FMT_*`.
    pub fourcc: u32,
    /// `enum v4l2_colorspace`.
    pub colorspace: u32,
    /// `enum v4l2_ycbcr_encoding`.
    pub ycbcr_encoding: u32,
    /// `enum v4l2_quantization`.
    pub quantization: u32,
    /// One for each plane of memory.
    pub planes: FixedVec<PlaneFormat, MAX_PLANES>,
}

/// A control such as brightness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// `V4L2_CID_*`.
    pub id: u32,
    /// The driver's name of it.
    pub name: String,
    /// `V4L2_CTRL_FLAG_*`.
    pub flags: u32,
    /// Least value.
    pub least: i32,
    /// Most value.
    pub most: i32,
}

/// Where a plane of a buffer can be mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaneMemory {
    /// Offset for `mmap`.
    pub offset: u32,
    /// Its length.
    pub n_bytes: u32,
}

/// What a driver put into one plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilledPlane {
    /// Bytes from the plane's start that were written.
    pub n_bytes_used: u32,
    /// Where the picture begins.
    pub offset_bytes: u32,
}

/// A buffer that a driver gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Which.
    pub index: u32,
    /// `V4L2_BUF_FLAG_*`.
    pub flags: u32,
    /// The driver's count of frames, also of those that were lost.
    pub sequence: u32,
    /// When the frame was taken, on the clock that `flags` name.
    pub taken_ns: i64,
    /// What is in it.
    pub planes: FixedVec<FilledPlane, MAX_PLANES>,
}

/// What a device has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// A buffer is filled.
    pub has_frame: bool,
    /// An event waits.
    pub has_event: bool,
    /// The device is in a state that gives no frames; the next call says why.
    pub has_error: bool,
}

/// Memory that a driver shares.
pub trait Memory {
    /// Its length.
    fn n_bytes(&self) -> usize;

    /// Appends a copy of `range`, which must lie within it; what doesn't is left out.
    fn append_to(&self, range: Range<usize>, out: &mut Vec<u8>);
}

/// The system calls of a camera. Nothing here waits longer than [`Kernel::poll`] is told to.
///
/// # Errors
/// Each call gives the system's own number.
#[allow(missing_docs, reason = "each method is named by its variant of Request")]
pub trait Kernel {
    /// An open device; closed when dropped.
    type Device;
    /// A mapped plane; unmapped when dropped.
    type Memory: Memory;
    /// Timings of a digital video signal.
    type Timings;

    fn open(&mut self, path: &Path) -> Result<Self::Device, Errno>;
    fn query_capabilities(&mut self, device: &Self::Device) -> Result<Capabilities, Errno>;
    fn get_input(&mut self, device: &Self::Device) -> Result<u32, Errno>;
    fn describe_input(&mut self, device: &Self::Device, index: u32) -> Result<Input, Errno>;
    /// With width and height of the signal.
    fn query_timings(&mut self, device: &Self::Device) -> Result<(Self::Timings, (u32, u32)), Errno>;
    fn set_timings(&mut self, device: &Self::Device, timings: &Self::Timings) -> Result<(), Errno>;
    /// The fourcc; `EINVAL` after the last.
    fn list_formats(&mut self, device: &Self::Device, of: Planarity, index: u32) -> Result<u32, Errno>;
    fn list_sizes(&mut self, device: &Self::Device, fourcc: u32, index: u32) -> Result<Sizes, Errno>;
    fn list_intervals(
        &mut self,
        device: &Self::Device,
        fourcc: u32,
        size_px: (u32, u32),
        index: u32,
    ) -> Result<Intervals, Errno>;
    /// What the driver made of it.
    fn set_format(
        &mut self,
        device: &Self::Device,
        of: Planarity,
        wanted: &PictureFormat,
    ) -> Result<PictureFormat, Errno>;
    /// Frames a second.
    fn set_interval(&mut self, device: &Self::Device, of: Planarity, rate_hz: u32) -> Result<(), Errno>;
    /// The first control after `id`; `EINVAL` after the last.
    fn describe_control(&mut self, device: &Self::Device, after_id: u32) -> Result<Control, Errno>;
    fn set_control(&mut self, device: &Self::Device, id: u32, value: i32) -> Result<(), Errno>;
    /// Asks to be told when the source changes.
    fn subscribe(&mut self, device: &Self::Device) -> Result<(), Errno>;
    /// How many there are.
    fn request_buffers(&mut self, device: &Self::Device, of: Planarity, n: u32) -> Result<u32, Errno>;
    fn describe_buffer(
        &mut self,
        device: &Self::Device,
        of: Planarity,
        index: u32,
    ) -> Result<FixedVec<PlaneMemory, MAX_PLANES>, Errno>;
    fn map(&mut self, device: &Self::Device, plane: PlaneMemory) -> Result<Self::Memory, Errno>;
    fn enqueue(
        &mut self,
        device: &Self::Device,
        of: Planarity,
        index: u32,
        n_planes: usize,
    ) -> Result<(), Errno>;
    fn stream_on(&mut self, device: &Self::Device, of: Planarity) -> Result<(), Errno>;
    /// Waits for a frame or an event, `timeout_ms` at most.
    fn poll(&mut self, device: &Self::Device, timeout_ms: u32) -> Result<Ready, Errno>;
    /// Whether the event says that the source has changed.
    fn dequeue_event(&mut self, device: &Self::Device) -> Result<bool, Errno>;
    fn dequeue(&mut self, device: &Self::Device, of: Planarity) -> Result<Filled, Errno>;
    fn stream_off(&mut self, device: &Self::Device, of: Planarity) -> Result<(), Errno>;
}
