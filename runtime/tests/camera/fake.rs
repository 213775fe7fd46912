//! A system with one camera in it, whose time stands still unless somebody waits, and that fails as it is told to.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candor::camera::clock::Clock;
use candor::camera::kernel::{
    Capabilities, Control, Errno, Filled, FilledPlane, Input, Intervals, Kernel, MAX_PLANES, Memory,
    PictureFormat, Planarity, PlaneFormat, PlaneMemory, Ready, Request, Sizes,
};
use v4l::v4l_sys as sys;

pub(crate) const MS: i64 = 1_000_000;
const FRAME_NS: i64 = 33 * MS;
const N_BUFFERS: u32 = 4;
const SIDE_PX: u32 = 16;

/// Which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// YUYV.
    Webcam,
    /// Motion JPEG.
    JpegWebcam,
    /// NV12 in two planes of memory, with a digital signal.
    Bridge,
}

impl Model {
    pub(crate) const ALL: [Model; 3] = [Model::Webcam, Model::JpegWebcam, Model::Bridge];

    fn planarity(self) -> Planarity {
        if self == Model::Bridge { Planarity::Multi } else { Planarity::Single }
    }

    fn fourcc(self) -> u32 {
        u32::from_le_bytes(match self {
            Model::Webcam => *b"YUYV",
            Model::JpegWebcam => *b"MJPG",
            Model::Bridge => *b"NM12",
        })
    }

    /// Bytes of each plane.
    fn plane_bytes(self) -> &'static [u32] {
        match self {
            Model::Webcam => &[2 * SIDE_PX * SIDE_PX],
            Model::JpegWebcam => &[4096],
            Model::Bridge => &[SIDE_PX * SIDE_PX, SIDE_PX * SIDE_PX / 2],
        }
    }
}

/// What goes wrong while a rule holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// The call fails.
    Errno(Request, Errno),
    /// No frames come.
    Silence,
    /// The same, and the input says that there is no signal.
    NoSignal,
    /// Frames come, and the input says that there is no signal.
    Noise,
    /// `poll` says that there is something, and there is nothing.
    EmptyReady,
    /// The driver says that frames are broken.
    ErrorFlag,
    /// So many bytes of each plane are used, in parts of 1000 of what is needed.
    Used(u64),
    /// Frames name another buffer.
    Index(u32),
    /// Frames name the buffer that the driver has just given back.
    SameIndex,
    /// Frames have no planes.
    NoPlanes,
    /// Frames are this old.
    Old(i64),
    /// Frames are all the same.
    Same,
    /// So many buffers are given.
    Buffers(u32),
    /// A buffer's planes have this length.
    Length(u32),
    /// The format that is given.
    Format(PictureFormat),
}

/// Something that goes wrong for a while; with `every` above 1 only now and then.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) effect: Effect,
    pub(crate) from_ns: i64,
    pub(crate) to_ns: i64,
    pub(crate) every: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeClock(Arc<AtomicI64>);

impl Clock for FakeClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn sleep_ns(&self, ns: i64) {
        self.0.fetch_add(ns.max(0), Ordering::Relaxed);
    }
}

/// What is open and mapped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) devices: Arc<AtomicUsize>,
    pub(crate) memories: Arc<AtomicUsize>,
}

pub(crate) struct FakeDevice(Arc<AtomicUsize>);

impl Drop for FakeDevice {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct FakeMemory {
    n_bytes: usize,
    /// What every byte of the newest frame is drawn from: its time, and whether it may be passed on.
    content: Arc<Mutex<(i64, bool)>>,
    is_jpeg: bool,
    held: Arc<AtomicUsize>,
}

impl Memory for FakeMemory {
    fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    fn append_to(&self, range: Range<usize>, out: &mut Vec<u8>) {
        assert!(range.end <= self.n_bytes && range.start <= range.end, "{range:?} of {}", self.n_bytes);
        let (time_ns, is_good) = *self.content.lock().unwrap();
        let mut bytes = vec![0xff, 0xd8];
        if !self.is_jpeg {
            bytes.clear();
        }
        bytes.push(u8::from(is_good));
        bytes.extend_from_slice(&time_ns.to_le_bytes());
        bytes.resize(self.n_bytes, 0);
        out.extend_from_slice(&bytes[range]);
    }
}

impl Drop for FakeMemory {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct FakeKernel {
    model: Model,
    rules: Vec<Rule>,
    clock: FakeClock,
    held: Held,
    content: Arc<Mutex<(i64, bool)>>,
    queued: HashSet<u32>,
    order: Vec<u32>,
    is_streaming: bool,
    next_ns: i64,
    sequence: u32,
    last_index: u32,
    n_calls: u64,
    event_ns: Option<i64>,
}

impl FakeKernel {
    pub(crate) fn new(
        model: Model,
        rules: Vec<Rule>,
        clock: FakeClock,
        event_ns: Option<i64>,
    ) -> (Self, Held) {
        let held = Held::default();
        let kernel = FakeKernel {
            model,
            rules,
            clock,
            held: held.clone(),
            content: Arc::default(),
            queued: HashSet::new(),
            order: Vec::new(),
            is_streaming: false,
            next_ns: 0,
            sequence: 0,
            last_index: N_BUFFERS - 1,
            n_calls: 0,
            event_ns,
        };
        (kernel, held)
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.n_calls += 1;
        let (now_ns, n) = (self.clock.now_ns(), self.n_calls);
        let holds = |r: &&Rule| (r.from_ns..r.to_ns).contains(&now_ns) && n.is_multiple_of(r.every);
        self.rules.iter().filter(holds).map(|r| r.effect.clone()).collect()
    }

    fn call(&mut self, request: Request) -> Result<(), Errno> {
        for effect in self.effects() {
            if let Effect::Errno(failing, errno) = effect
                && failing == request
            {
                return Err(errno);
            }
        }
        Ok(())
    }

    fn has_event(&self) -> bool {
        self.event_ns.is_some_and(|at_ns| self.clock.now_ns() >= at_ns)
    }
}

impl Kernel for FakeKernel {
    type Device = FakeDevice;
    type Memory = FakeMemory;
    type Timings = ();

    fn open(&mut self, _: &Path) -> Result<FakeDevice, Errno> {
        self.call(Request::Open)?;
        assert_eq!(self.held.devices.fetch_add(1, Ordering::Relaxed), 0, "opened twice");
        assert_eq!(self.held.memories.load(Ordering::Relaxed), 0, "mappings are left");
        self.is_streaming = false;
        self.last_index = N_BUFFERS - 1;
        self.queued.clear();
        self.order.clear();
        Ok(FakeDevice(Arc::clone(&self.held.devices)))
    }

    fn query_capabilities(&mut self, _: &FakeDevice) -> Result<Capabilities, Errno> {
        self.call(Request::QueryCapabilities)?;
        let how = if self.model == Model::Bridge { 0x1000 } else { 1 };
        Ok(Capabilities { driver: "fake".into(), card: "Fake".into(), flags: how | sys::V4L2_CAP_STREAMING })
    }

    fn get_input(&mut self, _: &FakeDevice) -> Result<u32, Errno> {
        self.call(Request::GetInput)?;
        Ok(0)
    }

    fn describe_input(&mut self, _: &FakeDevice, _: u32) -> Result<Input, Errno> {
        self.call(Request::DescribeInput)?;
        let lacks = self.effects().iter().any(|e| matches!(e, Effect::NoSignal | Effect::Noise));
        let capabilities = if self.model == Model::Bridge { sys::V4L2_IN_CAP_DV_TIMINGS } else { 0 };
        Ok(Input { status: if lacks { sys::V4L2_IN_ST_NO_SIGNAL } else { 0 }, capabilities })
    }

    fn query_timings(&mut self, _: &FakeDevice) -> Result<((), (u32, u32)), Errno> {
        self.call(Request::QueryTimings)?;
        Ok(((), (SIDE_PX, SIDE_PX)))
    }

    fn set_timings(&mut self, _: &FakeDevice, (): &()) -> Result<(), Errno> {
        self.call(Request::SetTimings)
    }

    fn list_formats(&mut self, _: &FakeDevice, of: Planarity, index: u32) -> Result<u32, Errno> {
        self.call(Request::ListFormats)?;
        assert_eq!(of, self.model.planarity());
        if index == 0 { Ok(self.model.fourcc()) } else { Err(Errno::INVAL) }
    }

    fn list_sizes(&mut self, _: &FakeDevice, _: u32, _: u32) -> Result<Sizes, Errno> {
        self.call(Request::ListSizes)?;
        let px = (SIDE_PX, SIDE_PX);
        // A list without an end.
        Ok(Sizes { least_px: px, most_px: px, step_px: (0, 0), is_range: false })
    }

    fn list_intervals(&mut self, _: &FakeDevice, _: u32, _: (u32, u32), _: u32) -> Result<Intervals, Errno> {
        self.call(Request::ListIntervals)?;
        Ok(Intervals { shortest_s: (0, 30), longest_s: (1, 0), is_range: false })
    }

    fn set_format(
        &mut self,
        _: &FakeDevice,
        of: Planarity,
        _: &PictureFormat,
    ) -> Result<PictureFormat, Errno> {
        self.call(Request::SetFormat)?;
        assert_eq!(of, self.model.planarity());
        for effect in self.effects() {
            if let Effect::Format(format) = effect {
                return Ok(format);
            }
        }
        let plane = |n: &u32| PlaneFormat { stride_bytes: 0, size_bytes: *n };
        Ok(PictureFormat {
            width_px: SIDE_PX,
            height_px: SIDE_PX,
            fourcc: self.model.fourcc(),
            planes: self.model.plane_bytes().iter().map(plane).collect(),
            ..Default::default()
        })
    }

    fn set_interval(&mut self, _: &FakeDevice, _: Planarity, _: u32) -> Result<(), Errno> {
        self.call(Request::SetInterval)
    }

    fn describe_control(&mut self, _: &FakeDevice, after_id: u32) -> Result<Control, Errno> {
        self.call(Request::DescribeControl)?;
        if after_id > 0 {
            return Err(Errno::INVAL);
        }
        Ok(Control { id: 7, name: "White Balance, Auto".into(), flags: 0, least: 0, most: 1 })
    }

    fn set_control(&mut self, _: &FakeDevice, id: u32, value: i32) -> Result<(), Errno> {
        assert_eq!((id, value), (7, 1), "clamped to what the control takes");
        self.call(Request::SetControl)
    }

    fn subscribe(&mut self, _: &FakeDevice) -> Result<(), Errno> {
        self.call(Request::Subscribe)?;
        if self.model == Model::Bridge { Ok(()) } else { Err(Errno::NOTTY) }
    }

    fn request_buffers(&mut self, _: &FakeDevice, _: Planarity, n: u32) -> Result<u32, Errno> {
        self.call(Request::RequestBuffers)?;
        let other = self.effects().into_iter().find_map(|e| match e {
            Effect::Buffers(n) => Some(n),
            _ => None,
        });
        if n > 0 {
            self.queued.clear();
        }
        Ok(other.unwrap_or(n.min(N_BUFFERS)))
    }

    fn describe_buffer(
        &mut self,
        _: &FakeDevice,
        _: Planarity,
        index: u32,
    ) -> Result<heapless::Vec<PlaneMemory, MAX_PLANES>, Errno> {
        self.call(Request::DescribeBuffer)?;
        assert!(index < 32);
        let other = self.effects().into_iter().find_map(|e| match e {
            Effect::Length(n) => Some(n),
            _ => None,
        });
        let plane = |n: &u32| PlaneMemory { offset: index, n_bytes: other.unwrap_or(*n) };
        Ok(self.model.plane_bytes().iter().map(plane).collect())
    }

    fn map(&mut self, _: &FakeDevice, plane: PlaneMemory) -> Result<FakeMemory, Errno> {
        self.call(Request::Map)?;
        self.held.memories.fetch_add(1, Ordering::Relaxed);
        Ok(FakeMemory {
            n_bytes: plane.n_bytes as usize,
            content: Arc::clone(&self.content),
            is_jpeg: self.model == Model::JpegWebcam,
            held: Arc::clone(&self.held.memories),
        })
    }

    fn enqueue(&mut self, _: &FakeDevice, _: Planarity, index: u32, n_planes: usize) -> Result<(), Errno> {
        self.call(Request::Enqueue)?;
        assert_eq!(n_planes, self.model.plane_bytes().len());
        if !self.queued.insert(index) {
            return Err(Errno::INVAL);
        }
        self.order.push(index);
        Ok(())
    }

    fn stream_on(&mut self, _: &FakeDevice, _: Planarity) -> Result<(), Errno> {
        self.call(Request::StreamOn)?;
        self.is_streaming = true;
        self.sequence = 0;
        self.next_ns = self.clock.now_ns() + FRAME_NS;
        Ok(())
    }

    fn poll(&mut self, _: &FakeDevice, timeout_ms: u32) -> Result<Ready, Errno> {
        self.call(Request::Poll)?;
        let effects = self.effects();
        if effects.contains(&Effect::EmptyReady) {
            return Ok(Ready { has_frame: true, ..Ready::default() });
        }
        let (now_ns, end_ns) = (self.clock.now_ns(), self.clock.now_ns() + i64::from(timeout_ms) * MS);
        let is_silent = effects.iter().any(|e| matches!(e, Effect::Silence | Effect::NoSignal));
        if is_silent || !self.is_streaming || self.order.is_empty() {
            self.clock.sleep_ns(end_ns - now_ns);
            self.next_ns = self.clock.now_ns() + FRAME_NS;
            return Ok(Ready { has_event: self.has_event(), ..Ready::default() });
        }
        self.clock.sleep_ns((self.next_ns.min(end_ns) - now_ns).max(0));
        let has_frame = self.clock.now_ns() >= self.next_ns;
        Ok(Ready { has_frame, has_event: self.has_event(), has_error: false })
    }

    fn dequeue_event(&mut self, _: &FakeDevice) -> Result<bool, Errno> {
        self.call(Request::DequeueEvent)?;
        if !self.has_event() {
            return Err(Errno::NOENT);
        }
        self.event_ns = None;
        Ok(true)
    }

    fn dequeue(&mut self, _: &FakeDevice, _: Planarity) -> Result<Filled, Errno> {
        self.call(Request::Dequeue)?;
        let effects = self.effects();
        if effects.contains(&Effect::EmptyReady) {
            return Err(Errno::AGAIN);
        }
        let now_ns = self.clock.now_ns();
        let index = self.order.remove(0);
        self.queued.remove(&index);
        self.next_ns = now_ns + FRAME_NS;
        self.sequence += 1;
        let used = |part: u64| {
            move |n: &u32| FilledPlane {
                n_bytes_used: u32::try_from(u64::from(*n) * part / 1000).unwrap_or(u32::MAX),
                offset_bytes: 0,
            }
        };
        let mut filled = Filled {
            index,
            flags: sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC,
            sequence: self.sequence,
            taken_ns: now_ns,
            planes: self.model.plane_bytes().iter().map(used(1000)).collect(),
        };
        let (mut time_ns, mut is_good) = (now_ns, true);
        for effect in effects {
            match effect {
                Effect::ErrorFlag => filled.flags |= sys::V4L2_BUF_FLAG_ERROR,
                Effect::Used(part) => {
                    filled.planes = self.model.plane_bytes().iter().map(used(part)).collect();
                }
                Effect::Index(other) => filled.index = other,
                Effect::SameIndex => filled.index = self.last_index,
                Effect::NoPlanes => filled.planes.clear(),
                Effect::Old(ns) => filled.taken_ns -= ns,
                Effect::Same => {
                    time_ns = self.content.lock().unwrap().0;
                    continue;
                }
                _ => continue,
            }
            is_good = false;
        }
        self.last_index = index;
        *self.content.lock().unwrap() = (time_ns, is_good);
        Ok(filled)
    }

    fn stream_off(&mut self, _: &FakeDevice, _: Planarity) -> Result<(), Errno> {
        self.is_streaming = false;
        self.call(Request::StreamOff)
    }
}
