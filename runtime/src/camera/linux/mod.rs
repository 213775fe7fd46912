//! The system calls of a camera on Linux, through the crate `v4l`'s types and its ioctl layer.
#![allow(unsafe_code, reason = "ioctl and mmap on the kernel's own structures")]

mod pictures;

use std::fs::OpenOptions;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr;

use heapless::Vec as FixedVec;
use rustix::event::{PollFd, PollFlags, Timespec};
use v4l::v4l_sys as sys;
use v4l::v4l2::{self, vidioc};

use super::kernel::{
    Capabilities, Control, Errno, Filled, FilledPlane, Input, Intervals, Kernel, MAX_PLANES, Memory,
    PictureFormat, Planarity, PlaneMemory, Ready, Sizes,
};
use pictures::{from_multi, from_single, to_multi, to_single};

/// `O_NONBLOCK` of the generic ABI, which x86 and ARM have: a driver then never lets the reader wait.
const NON_BLOCKING: i32 = 0o4000;
const READ: u64 = 2;
const WRITE: u64 = 1;
const S_NS: i64 = 1_000_000_000;

/// The running system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

/// A structure of the kernel that is valid as zeros.
///
/// # Safety
/// Plain old data of C, for which all zeros is a value.
unsafe trait Plain: Sized {
    fn zeroed() -> Self {
        // SAFETY: the trait's promise.
        unsafe { std::mem::zeroed() }
    }
}

macro_rules! plain {
    ($($name:ident),*) => {
        $(
            // SAFETY: numbers, arrays, unions and raw pointers of the kernel's header.
            unsafe impl Plain for sys::$name {}
        )*
    };
}
plain!(
    v4l2_buffer,
    v4l2_capability,
    v4l2_control,
    v4l2_dv_timings,
    v4l2_event,
    v4l2_event_subscription,
    v4l2_fmtdesc,
    v4l2_format,
    v4l2_frmivalenum,
    v4l2_frmsizeenum,
    v4l2_input,
    v4l2_plane,
    v4l2_queryctrl,
    v4l2_requestbuffers,
    v4l2_streamparm
);

/// The number of an ioctl together with its argument's type, whose size the number holds.
struct Code<T>(vidioc::_IOC_TYPE, PhantomData<T>);

impl<T> Code<T> {
    const fn new(number: vidioc::_IOC_TYPE) -> Self {
        assert!((number >> 16) & 0x3fff == size_of::<T>() as vidioc::_IOC_TYPE);
        Code(number, PhantomData)
    }

    /// One that the crate v4l doesn't list (`_IOC` of `asm-generic/ioctl.h`).
    const fn made(direction: u64, number: u64) -> Self {
        let code = direction << 30 | (size_of::<T>() as u64) << 16 | (b'V' as u64) << 8 | number;
        Self::new(code as vidioc::_IOC_TYPE)
    }

    fn call(&self, device: &OwnedFd, argument: &mut T) -> Result<(), Errno> {
        let argument: *mut T = argument;
        // SAFETY: the number says that the kernel reads and writes size_of::<T>() bytes there, and every pointer inside
        // is null or points to an array of the length that stands beside it, which outlives the call.
        let done = unsafe { v4l2::ioctl(device.as_raw_fd(), self.0, argument.cast()) };
        done.map_err(|cause| errno(&cause))
    }
}

const DQEVENT: Code<sys::v4l2_event> = Code::made(READ, 89);
const SUBSCRIBE_EVENT: Code<sys::v4l2_event_subscription> = Code::made(WRITE, 90);
const S_DV_TIMINGS: Code<sys::v4l2_dv_timings> = Code::made(READ | WRITE, 87);
const QUERY_DV_TIMINGS: Code<sys::v4l2_dv_timings> = Code::made(READ, 99);

fn errno(cause: &io::Error) -> Errno {
    cause.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

fn buffer_type(of: Planarity) -> u32 {
    match of {
        Planarity::Single => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE,
        Planarity::Multi => sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE,
    }
}

/// Text that ends at a zero; other bytes than UTF-8 are replaced.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A mapped plane.
#[derive(Debug)]
pub struct Mapping {
    start: ptr::NonNull<u8>,
    n_bytes: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and is only read through `self`.
unsafe impl Send for Mapping {}

impl Memory for Mapping {
    fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    fn append_to(&self, range: Range<usize>, out: &mut Vec<u8>) {
        let start = range.start.min(self.n_bytes);
        let length = range.end.min(self.n_bytes).saturating_sub(start);
        out.reserve(length);
        let at = out.len();
        // SAFETY: `start` is within the mapping.
        let from = unsafe { self.start.as_ptr().add(start) };
        // SAFETY: `out` has room for `length` more bytes after its first `at`.
        let to = unsafe { out.as_mut_ptr().add(at) };
        // SAFETY: both hold `length` bytes and don't overlap; a driver that still writes changes values, not addresses.
        unsafe { ptr::copy_nonoverlapping(from, to, length) };
        // SAFETY: the bytes up to there were just written.
        unsafe { out.set_len(at + length) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nothing refers to it any more.
        let unmapped = unsafe { v4l2::munmap(self.start.as_ptr().cast(), self.n_bytes) };
        if let Err(error) = unmapped {
            log::warn!("munmap: {error}");
        }
    }
}

impl Kernel for Linux {
    type Device = OwnedFd;
    type Memory = Mapping;
    type Timings = sys::v4l2_dv_timings;

    fn open(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(NON_BLOCKING).open(path);
        file.map(OwnedFd::from).map_err(|cause| errno(&cause))
    }

    fn query_capabilities(&mut self, device: &OwnedFd) -> Result<Capabilities, Errno> {
        let mut found = sys::v4l2_capability::zeroed();
        const { Code::new(vidioc::VIDIOC_QUERYCAP) }.call(device, &mut found)?;
        let is_of_node = found.capabilities & sys::V4L2_CAP_DEVICE_CAPS != 0;
        let flags = if is_of_node { found.device_caps } else { found.capabilities };
        Ok(Capabilities { driver: text(&found.driver), card: text(&found.card), flags })
    }

    fn get_input(&mut self, device: &OwnedFd) -> Result<u32, Errno> {
        let mut index: i32 = 0;
        const { Code::new(vidioc::VIDIOC_G_INPUT) }.call(device, &mut index)?;
        u32::try_from(index).map_err(|_| Errno::INVAL)
    }

    fn describe_input(&mut self, device: &OwnedFd, index: u32) -> Result<Input, Errno> {
        let mut found = sys::v4l2_input { index, ..sys::v4l2_input::zeroed() };
        const { Code::new(vidioc::VIDIOC_ENUMINPUT) }.call(device, &mut found)?;
        Ok(Input { status: found.status, capabilities: found.capabilities })
    }

    fn query_timings(&mut self, device: &OwnedFd) -> Result<(sys::v4l2_dv_timings, (u32, u32)), Errno> {
        let mut found = sys::v4l2_dv_timings::zeroed();
        QUERY_DV_TIMINGS.call(device, &mut found)?;
        // SAFETY: numbers alone; the whole union was zeroed and may have been written since.
        let bt = unsafe { found.__bindgen_anon_1.bt };
        let size_px = (bt.width, bt.height);
        Ok((found, size_px))
    }

    fn set_timings(&mut self, device: &OwnedFd, timings: &sys::v4l2_dv_timings) -> Result<(), Errno> {
        S_DV_TIMINGS.call(device, &mut timings.clone())
    }

    fn list_formats(&mut self, device: &OwnedFd, of: Planarity, index: u32) -> Result<u32, Errno> {
        let mut found = sys::v4l2_fmtdesc { index, type_: buffer_type(of), ..sys::v4l2_fmtdesc::zeroed() };
        const { Code::new(vidioc::VIDIOC_ENUM_FMT) }.call(device, &mut found)?;
        Ok(found.pixelformat)
    }

    fn list_sizes(&mut self, device: &OwnedFd, fourcc: u32, index: u32) -> Result<Sizes, Errno> {
        let mut found =
            sys::v4l2_frmsizeenum { index, pixel_format: fourcc, ..sys::v4l2_frmsizeenum::zeroed() };
        const { Code::new(vidioc::VIDIOC_ENUM_FRAMESIZES) }.call(device, &mut found)?;
        match v4l::framesize::FrameSizeEnum::try_from(found).map_err(|_| Errno::INVAL)? {
            v4l::framesize::FrameSizeEnum::Discrete(size) => {
                let px = (size.width, size.height);
                Ok(Sizes { least_px: px, most_px: px, step_px: (0, 0), is_range: false })
            }
            v4l::framesize::FrameSizeEnum::Stepwise(range) => Ok(Sizes {
                least_px: (range.min_width, range.min_height),
                most_px: (range.max_width, range.max_height),
                step_px: (range.step_width, range.step_height),
                is_range: true,
            }),
        }
    }

    fn list_intervals(
        &mut self,
        device: &OwnedFd,
        fourcc: u32,
        (width, height): (u32, u32),
        index: u32,
    ) -> Result<Intervals, Errno> {
        let zeroed = sys::v4l2_frmivalenum::zeroed();
        let mut found = sys::v4l2_frmivalenum { index, pixel_format: fourcc, width, height, ..zeroed };
        const { Code::new(vidioc::VIDIOC_ENUM_FRAMEINTERVALS) }.call(device, &mut found)?;
        let seconds = |f: v4l::Fraction| (f.numerator, f.denominator);
        match v4l::frameinterval::FrameIntervalEnum::try_from(found).map_err(|_| Errno::INVAL)? {
            v4l::frameinterval::FrameIntervalEnum::Discrete(one) => {
                Ok(Intervals { shortest_s: seconds(one), longest_s: seconds(one), is_range: false })
            }
            v4l::frameinterval::FrameIntervalEnum::Stepwise(range) => Ok(Intervals {
                shortest_s: seconds(range.min),
                longest_s: seconds(range.max),
                is_range: true,
            }),
        }
    }

    fn set_format(
        &mut self,
        device: &OwnedFd,
        of: Planarity,
        wanted: &PictureFormat,
    ) -> Result<PictureFormat, Errno> {
        let mut format = sys::v4l2_format { type_: buffer_type(of), ..sys::v4l2_format::zeroed() };
        match of {
            Planarity::Single => format.fmt.pix = to_single(wanted),
            Planarity::Multi => format.fmt.pix_mp = to_multi(wanted),
        }
        const { Code::new(vidioc::VIDIOC_S_FMT) }.call(device, &mut format)?;
        Ok(match of {
            // SAFETY: the member that `type_` names; numbers alone.
            Planarity::Single => from_single(unsafe { &format.fmt.pix }),
            // SAFETY: as above.
            Planarity::Multi => from_multi(unsafe { &format.fmt.pix_mp }),
        })
    }

    fn set_interval(&mut self, device: &OwnedFd, of: Planarity, rate_hz: u32) -> Result<(), Errno> {
        let mut wanted = sys::v4l2_streamparm { type_: buffer_type(of), ..sys::v4l2_streamparm::zeroed() };
        wanted.parm.capture.timeperframe = v4l::Fraction::new(1, rate_hz).into();
        const { Code::new(vidioc::VIDIOC_S_PARM) }.call(device, &mut wanted)
    }

    fn describe_control(&mut self, device: &OwnedFd, after_id: u32) -> Result<Control, Errno> {
        let id = after_id | sys::V4L2_CTRL_FLAG_NEXT_CTRL;
        let mut found = sys::v4l2_queryctrl { id, ..sys::v4l2_queryctrl::zeroed() };
        const { Code::new(vidioc::VIDIOC_QUERYCTRL) }.call(device, &mut found)?;
        let sys::v4l2_queryctrl { id, flags, minimum: least, maximum: most, .. } = found;
        Ok(Control { id, name: text(&found.name), flags, least, most })
    }

    fn set_control(&mut self, device: &OwnedFd, id: u32, value: i32) -> Result<(), Errno> {
        const { Code::new(vidioc::VIDIOC_S_CTRL) }.call(device, &mut sys::v4l2_control { id, value })
    }

    fn subscribe(&mut self, device: &OwnedFd) -> Result<(), Errno> {
        let zeroed = sys::v4l2_event_subscription::zeroed();
        let mut wanted = sys::v4l2_event_subscription { type_: sys::V4L2_EVENT_SOURCE_CHANGE, ..zeroed };
        SUBSCRIBE_EVENT.call(device, &mut wanted)
    }

    fn request_buffers(&mut self, device: &OwnedFd, of: Planarity, n: u32) -> Result<u32, Errno> {
        let mut wanted = sys::v4l2_requestbuffers {
            count: n,
            type_: buffer_type(of),
            memory: sys::v4l2_memory_V4L2_MEMORY_MMAP,
            ..sys::v4l2_requestbuffers::zeroed()
        };
        const { Code::new(vidioc::VIDIOC_REQBUFS) }.call(device, &mut wanted)?;
        Ok(wanted.count)
    }

    fn describe_buffer(
        &mut self,
        device: &OwnedFd,
        of: Planarity,
        index: u32,
    ) -> Result<FixedVec<PlaneMemory, MAX_PLANES>, Errno> {
        let mut found = FixedVec::new();
        with_buffer(of, index, MAX_PLANES, |buffer, planes| {
            const { Code::new(vidioc::VIDIOC_QUERYBUF) }.call(device, buffer)?;
            if of == Planarity::Single {
                // SAFETY: the kernel has filled in the offset of memory that is to be mapped.
                let offset = unsafe { buffer.m.offset };
                let _ = found.push(PlaneMemory { offset, n_bytes: buffer.length });
                return Ok(());
            }
            for plane in planes.iter().take(n_planes(buffer.length)) {
                // SAFETY: as above.
                let offset = unsafe { plane.m.mem_offset };
                let _ = found.push(PlaneMemory { offset, n_bytes: plane.length });
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn map(&mut self, device: &OwnedFd, plane: PlaneMemory) -> Result<Mapping, Errno> {
        const READ_AND_WRITE: i32 = 3;
        const SHARED: i32 = 1;
        let n_bytes = usize::try_from(plane.n_bytes).map_err(|_| Errno::NOMEM)?;
        #[allow(clippy::unnecessary_fallible_conversions, reason = "off_t is shorter on 32-bit machines")]
        let offset = plane.offset.try_into().map_err(|_| Errno::INVAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice, which no one else knows.
        let start = unsafe {
            v4l2::mmap(ptr::null_mut(), n_bytes, READ_AND_WRITE, SHARED, device.as_raw_fd(), offset)
        };
        let start = start.map_err(|cause| errno(&cause))?;
        let start = ptr::NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Mapping { start, n_bytes })
    }

    fn enqueue(&mut self, device: &OwnedFd, of: Planarity, index: u32, n_planes: usize) -> Result<(), Errno> {
        with_buffer(of, index, n_planes, |buffer, _| {
            const { Code::new(vidioc::VIDIOC_QBUF) }.call(device, buffer)
        })
    }

    fn stream_on(&mut self, device: &OwnedFd, of: Planarity) -> Result<(), Errno> {
        const { Code::new(vidioc::VIDIOC_STREAMON) }.call(device, &mut buffer_type(of).cast_signed())
    }

    fn poll(&mut self, device: &OwnedFd, timeout_ms: u32) -> Result<Ready, Errno> {
        let mut fds = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN | PollFlags::PRI)];
        let timeout =
            Timespec { tv_sec: (timeout_ms / 1000).into(), tv_nsec: (timeout_ms % 1000 * 1_000_000).into() };
        rustix::event::poll(&mut fds, Some(&timeout))?;
        let found = fds[0].revents();
        Ok(Ready {
            has_frame: found.contains(PollFlags::IN),
            has_event: found.contains(PollFlags::PRI),
            has_error: found.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL),
        })
    }

    fn dequeue_event(&mut self, device: &OwnedFd) -> Result<bool, Errno> {
        let mut event = sys::v4l2_event::zeroed();
        DQEVENT.call(device, &mut event)?;
        Ok(event.type_ == sys::V4L2_EVENT_SOURCE_CHANGE)
    }

    fn dequeue(&mut self, device: &OwnedFd, of: Planarity) -> Result<Filled, Errno> {
        let mut filled = Filled::default();
        with_buffer(of, 0, MAX_PLANES, |buffer, planes| {
            const { Code::new(vidioc::VIDIOC_DQBUF) }.call(device, buffer)?;
            filled.index = buffer.index;
            filled.flags = buffer.flags;
            filled.sequence = buffer.sequence;
            #[allow(clippy::useless_conversion, reason = "time_t is shorter on 32-bit machines")]
            let (seconds, micros) = (i64::from(buffer.timestamp.tv_sec), i64::from(buffer.timestamp.tv_usec));
            filled.taken_ns = seconds.saturating_mul(S_NS).saturating_add(micros.saturating_mul(1000));
            if of == Planarity::Single {
                let _ = filled.planes.push(FilledPlane { n_bytes_used: buffer.bytesused, offset_bytes: 0 });
                return Ok(());
            }
            for plane in planes.iter().take(n_planes(buffer.length)) {
                let (n_bytes_used, offset_bytes) = (plane.bytesused, plane.data_offset);
                let _ = filled.planes.push(FilledPlane { n_bytes_used, offset_bytes });
            }
            Ok(())
        })?;
        Ok(filled)
    }

    fn stream_off(&mut self, device: &OwnedFd, of: Planarity) -> Result<(), Errno> {
        const { Code::new(vidioc::VIDIOC_STREAMOFF) }.call(device, &mut buffer_type(of).cast_signed())
    }
}

fn n_planes(length: u32) -> usize {
    usize::try_from(length).unwrap_or(MAX_PLANES).min(MAX_PLANES)
}

/// Lends `work` a buffer of the interface, whose planes are `n_planes` of the array beside it.
fn with_buffer(
    of: Planarity,
    index: u32,
    n_planes: usize,
    work: impl FnOnce(&mut sys::v4l2_buffer, &mut [sys::v4l2_plane; MAX_PLANES]) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut planes = [sys::v4l2_plane::zeroed(); MAX_PLANES];
    let mut buffer = sys::v4l2_buffer {
        index,
        type_: buffer_type(of),
        memory: sys::v4l2_memory_V4L2_MEMORY_MMAP,
        ..sys::v4l2_buffer::zeroed()
    };
    if of == Planarity::Multi {
        buffer.m.planes = planes.as_mut_ptr();
        buffer.length = u32::try_from(n_planes.min(MAX_PLANES)).unwrap_or(0);
    }
    work(&mut buffer, &mut planes)
}
