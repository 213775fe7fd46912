//! One opened device, from its format to its frames. Any fault ends the session; who holds it opens another.

use std::collections::BTreeMap;
use std::path::Path;

use heapless::Vec as FixedVec;
use v4l::buffer::Flags as BufferFlags;
use v4l::capability::Flags as CapabilityFlags;
use v4l::v4l_sys as sys;

use super::kernel::{Errno, Filled, Kernel, MAX_PLANES, Memory, Planarity, Request};
use super::negotiate::{self, Wanted};
use super::picture::{Layout, MAX_BYTES, Raw};
use super::state::{Fault, State};

/// Buffers that are asked for: one that the driver fills, one that is read, and two for what comes meanwhile.
const N_BUFFERS: u32 = 4;
/// Most that a driver may make of it.
const MAX_BUFFERS: u32 = 32;
/// Events taken from one wait.
const MAX_EVENTS: usize = 16;
/// Controls looked at.
const MAX_CONTROLS: usize = 512;
/// What is wrong with an input that gives no picture.
const NO_SIGNAL: u32 = sys::V4L2_IN_ST_NO_POWER
    | sys::V4L2_IN_ST_NO_SIGNAL
    | sys::V4L2_IN_ST_NO_H_LOCK
    | sys::V4L2_IN_ST_NO_SYNC
    | sys::V4L2_IN_ST_NO_CARRIER;

/// A buffer's planes of memory, and whether the driver has it.
struct Buffer<M> {
    planes: FixedVec<M, MAX_PLANES>,
    is_queued: bool,
}

/// An opened and streaming device.
pub(super) struct Session<K: Kernel> {
    device: K::Device,
    of: Planarity,
    buffers: Vec<Buffer<K::Memory>>,
    layout: Layout,
    /// The device's name.
    pub(super) card: String,
    input: Option<u32>,
}

/// What a wait brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// A picture was put into the raw frame; its sequence number and time of capture by the monotonic clock, where known.
    Frame { sequence: u32, taken_ns: Option<i64> },
    /// A buffer without a whole picture.
    BadFrame(&'static str),
    /// Nothing in that time.
    Nothing,
}

impl<K: Kernel> Session<K> {
    /// Opens `path`, agrees on a format, and starts to stream.
    pub(super) fn open(
        kernel: &mut K,
        path: &Path,
        wanted: &Wanted,
        controls: &BTreeMap<String, i32>,
    ) -> Result<Self, Fault> {
        let fault = |request| move |errno| Fault::of(request, errno);
        let device = kernel.open(path).map_err(fault(Request::Open))?;
        let about = kernel.query_capabilities(&device).map_err(fault(Request::QueryCapabilities))?;
        let of = planarity(about.flags)
            .ok_or_else(|| Fault::new(State::Failed, format!("{}: gives no video", path.display())))?;
        let mut wanted = *wanted;
        let input = kernel.get_input(&device).ok();
        let is_size_given = adopt_signal(kernel, &device, input, &mut wanted)?;
        let asked = negotiate::choose(kernel, &device, of, &wanted, is_size_given);
        let given = kernel.set_format(&device, of, &asked).map_err(fault(Request::SetFormat))?;
        let layout = Layout::new(&given)?;
        // Some drivers have one rate and say so by an error.
        if let Err(errno) = kernel.set_interval(&device, of, wanted.rate_hz) {
            log::debug!("{}: {errno}", Request::SetInterval.name());
            gone(Request::SetInterval, errno)?;
        }
        set_controls(kernel, &device, controls)?;
        // Webcams have no such event.
        if let Err(errno) = kernel.subscribe(&device) {
            gone(Request::Subscribe, errno)?;
        }
        let mut session = Session { device, of, buffers: Vec::new(), layout, card: about.card, input };
        let started = session.start(kernel);
        if let Err(fault) = started {
            session.close(kernel);
            return Err(fault);
        }
        Ok(session)
    }

    fn start(&mut self, kernel: &mut K) -> Result<(), Fault> {
        let fault = |request| move |errno| Fault::of(request, errno);
        let (device, of) = (&self.device, self.of);
        let n = kernel.request_buffers(device, of, N_BUFFERS).map_err(fault(Request::RequestBuffers))?;
        if !(1..=MAX_BUFFERS).contains(&n) {
            return Err(Fault::new(State::Failed, format!("expected 1..={MAX_BUFFERS} buffers, found {n}")));
        }
        let needed = self.layout.n_bytes_needed();
        for index in 0..n {
            let described =
                kernel.describe_buffer(device, of, index).map_err(fault(Request::DescribeBuffer))?;
            let fits = described.len() == needed.len()
                && described.iter().all(|plane| (1..=MAX_BYTES).contains(&(plane.n_bytes as usize)));
            if !fits {
                let found: Vec<_> = described.iter().map(|plane| plane.n_bytes).collect();
                let reason = format!("buffer {index}: expected {} planes, found {found:?}", needed.len());
                return Err(Fault::new(State::Failed, reason));
            }
            let mut planes = FixedVec::new();
            for plane in described {
                let memory = kernel.map(device, plane).map_err(fault(Request::Map))?;
                // As many as were described.
                let _ = planes.push(memory);
            }
            self.buffers.push(Buffer { planes, is_queued: false });
        }
        for index in 0..n {
            self.enqueue(kernel, index)?;
        }
        kernel.stream_on(&self.device, self.of).map_err(fault(Request::StreamOn))
    }

    fn enqueue(&mut self, kernel: &mut K, index: u32) -> Result<(), Fault> {
        let Some(buffer) = self.buffers.get_mut(index as usize) else { return Ok(()) };
        kernel
            .enqueue(&self.device, self.of, index, buffer.planes.len())
            .map_err(|errno| Fault::of(Request::Enqueue, errno))?;
        buffer.is_queued = true;
        Ok(())
    }

    /// How its pictures are to be read.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Waits for a frame, `timeout_ms` at most, and copies it into `raw`.
    pub(super) fn next(&mut self, kernel: &mut K, timeout_ms: u32, raw: &mut Raw) -> Result<Got, Fault> {
        let ready = match kernel.poll(&self.device, timeout_ms) {
            Ok(ready) => ready,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Got::Nothing),
            Err(errno) => return Err(Fault::of(Request::Poll, errno)),
        };
        if ready.has_event {
            self.take_events(kernel)?;
        }
        if !ready.has_frame && !ready.has_error {
            return Ok(Got::Nothing);
        }
        let filled = match kernel.dequeue(&self.device, self.of) {
            Ok(filled) => filled,
            Err(Errno::AGAIN | Errno::INTR) if !ready.has_error => return Ok(Got::Nothing),
            Err(errno) => return Err(Fault::of(Request::Dequeue, errno)),
        };
        let found = self.copy(&filled, raw)?;
        self.enqueue(kernel, filled.index)?;
        Ok(found)
    }

    /// A source that changed needs another format.
    fn take_events(&mut self, kernel: &mut K) -> Result<(), Fault> {
        for _ in 0..MAX_EVENTS {
            match kernel.dequeue_event(&self.device) {
                Ok(true) => return Err(Fault::new(State::Opening, "the source has changed")),
                Ok(false) => {}
                Err(Errno::NODEV | Errno::NXIO) => {
                    return Err(Fault::of(Request::DequeueEvent, Errno::NODEV));
                }
                // None left.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn copy(&mut self, filled: &Filled, raw: &mut Raw) -> Result<Got, Fault> {
        let n_buffers = self.buffers.len();
        let buffer = self.buffers.get_mut(filled.index as usize).filter(|buffer| buffer.is_queued);
        let Some(buffer) = buffer else {
            let reason = format!("buffer {} of {n_buffers}, which the driver doesn't have", filled.index);
            return Err(Fault::new(State::Failed, reason));
        };
        buffer.is_queued = false;
        let flags = BufferFlags::from(filled.flags);
        if flags.contains(BufferFlags::ERROR) {
            return Ok(Got::BadFrame("the driver says that it is broken"));
        }
        let needed = self.layout.n_bytes_needed();
        if filled.planes.len() != needed.len() {
            return Ok(Got::BadFrame("planes are missing"));
        }
        raw.bytes.clear();
        raw.ends.clear();
        for ((memory, plane), needed) in buffer.planes.iter().zip(&filled.planes).zip(needed) {
            let (start, end) = (plane.offset_bytes as usize, plane.n_bytes_used as usize);
            if end > memory.n_bytes() {
                return Ok(Got::BadFrame("more bytes than the buffer holds"));
            }
            if end.saturating_sub(start) < needed {
                return Ok(Got::BadFrame("bytes are missing"));
            }
            memory.append_to(start..end, &mut raw.bytes);
            let _ = raw.ends.push(raw.bytes.len());
        }
        if self.layout.encoding == super::picture::Encoding::Mjpeg && !raw.bytes.starts_with(&[0xff, 0xd8]) {
            return Ok(Got::BadFrame("no JPEG"));
        }
        let is_monotonic =
            filled.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        Ok(Got::Frame { sequence: filled.sequence, taken_ns: is_monotonic.then_some(filled.taken_ns) })
    }

    /// Whether the input says that nothing comes in; drivers go on to send frames then.
    pub(super) fn lacks_signal(&self, kernel: &mut K) -> Result<bool, Fault> {
        let Some(input) = self.input else { return Ok(false) };
        match kernel.describe_input(&self.device, input) {
            Ok(found) => Ok(found.status & NO_SIGNAL != 0),
            Err(errno) => gone(Request::DescribeInput, errno).map(|()| false),
        }
    }

    /// Gives everything back. What the system refuses now is of no use to anybody.
    pub(super) fn close(mut self, kernel: &mut K) {
        if let Err(errno) = kernel.stream_off(&self.device, self.of) {
            log::debug!("{}: {errno}", Request::StreamOff.name());
        }
        self.buffers.clear();
        if let Err(errno) = kernel.request_buffers(&self.device, self.of, 0) {
            log::debug!("{}: {errno}", Request::RequestBuffers.name());
        }
    }
}

/// How a device captures, if it does.
pub(super) fn planarity(flags: u32) -> Option<Planarity> {
    let flags = CapabilityFlags::from(flags);
    if !flags.contains(CapabilityFlags::STREAMING) {
        return None;
    }
    if flags.contains(CapabilityFlags::VIDEO_CAPTURE) {
        return Some(Planarity::Single);
    }
    flags.contains(CapabilityFlags::VIDEO_CAPTURE_MPLANE).then_some(Planarity::Multi)
}

/// An error of something that a camera may well lack, unless it says that the camera has gone.
fn gone(request: Request, errno: Errno) -> Result<(), Fault> {
    let fault = Fault::of(request, errno);
    if fault.state == State::Unplugged { Err(fault) } else { Ok(()) }
}

/// Takes over the timings of a digital signal, whose size is then the picture's. True where there are such.
fn adopt_signal<K: Kernel>(
    kernel: &mut K,
    device: &K::Device,
    input: Option<u32>,
    wanted: &mut Wanted,
) -> Result<bool, Fault> {
    let Some(input) = input else { return Ok(false) };
    let about = match kernel.describe_input(device, input) {
        Ok(about) => about,
        Err(errno) => return gone(Request::DescribeInput, errno).map(|()| false),
    };
    if about.status & NO_SIGNAL != 0 {
        return Err(Fault::new(State::NoSignal, format!("input {input}: status {:#x}", about.status)));
    }
    if about.capabilities & sys::V4L2_IN_CAP_DV_TIMINGS == 0 {
        return Ok(false);
    }
    let (timings, size_px) = match kernel.query_timings(device) {
        Ok(found) => found,
        Err(Errno::NODATA | Errno::NOTTY) => return Ok(false),
        Err(errno) => return Err(Fault::of(Request::QueryTimings, errno)),
    };
    kernel.set_timings(device, &timings).map_err(|errno| Fault::of(Request::SetTimings, errno))?;
    (wanted.width_px, wanted.height_px) = size_px;
    Ok(true)
}

/// Sets the controls that are named, by the driver's names with `_` for what is no letter or digit.
fn set_controls<K: Kernel>(
    kernel: &mut K,
    device: &K::Device,
    wanted: &BTreeMap<String, i32>,
) -> Result<(), Fault> {
    if wanted.is_empty() {
        return Ok(());
    }
    let (mut id, mut n_set) = (0, 0);
    for _ in 0..MAX_CONTROLS {
        let found = match kernel.describe_control(device, id) {
            // A driver that doesn't go on would go round for ever.
            Ok(found) if found.id > id => found,
            Ok(_) => break,
            Err(errno) => {
                gone(Request::DescribeControl, errno)?;
                break;
            }
        };
        id = found.id;
        let Some(value) = wanted.get(&key(&found.name)) else { continue };
        n_set += 1;
        let value = (*value).clamp(found.least, found.most.max(found.least));
        if let Err(errno) = kernel.set_control(device, id, value) {
            gone(Request::SetControl, errno)?;
            log::warn!("control {}: {errno}", key(&found.name));
        }
    }
    if n_set < wanted.len() {
        log::warn!("{} of {} controls are there", n_set, wanted.len());
    }
    Ok(())
}

/// A control's name as `v4l2-ctl` writes it: "White Balance, Auto" is `white_balance_auto`.
pub(super) fn key(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
}
