//! What runs for months takes no memory from the heap once it has seen the largest of its kind: networks, and what is ours of the way
//! of a camera's raw pictures to lines of JSON. Counted by the allocator itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one passes everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use candor::bundle::Bundle;
use candor::camera::clock::Clock;
use candor::camera::{Encoding, Layout as Pixels, RawPipe};
use candor::engine::{Engine, Model, Normalisation, Picture, Settings};
use candor::frame::{Frame, PixelFormat};
use candor::geom::Rect;
use candor::preprocess::crop::Cropper;
use candor::watch::hub::Hub;
use candor::watch::live::{Parts, Surroundings, run};
use candor::watch::models::Fixed;
use candor::watch::notify::Notifier;
use candor::watch::witness::{Looked, Witness};
use candor::watch::{self, Watcher, lines};
use candor::{detect, source};
use image::RgbImage;

/// The system's allocator, counting while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static N_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::SeqCst) {
            N_ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

/// How often `work` allocates, on any thread.
fn n_allocations(work: impl FnOnce()) -> usize {
    N_ALLOCATIONS.store(0, Ordering::SeqCst);
    IS_COUNTING.store(true, Ordering::SeqCst);
    work();
    IS_COUNTING.store(false, Ordering::SeqCst);
    N_ALLOCATIONS.load(Ordering::SeqCst)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn model(engine: &Engine, file: &str, side: usize) -> Model {
    let path = root().join("models").join(file);
    let model = engine.load(file, &*fs::read(path).unwrap(), &[1, 3, side, side]).unwrap();
    model.with_pixels(Normalisation { mean: [127.5; 3], std: [128.0; 3] }).unwrap()
}

// One test, so that no other thread of this binary allocates meanwhile.
#[test]
fn what_has_run_allocates_nothing() {
    assert!(n_allocations(|| drop(std::hint::black_box(vec![1u8]))) > 0, "the allocator doesn't count");
    networks_after_their_first_runs();
    watching_while_nobody_comes_or_goes();
}

fn networks_after_their_first_runs() {
    let networks = [
        ("default/model.onnx", 224),
        ("mtcnn/pnet.onnx", 128),
        ("mtcnn/rnet.onnx", 24),
        ("mtcnn/onet.onnx", 48),
    ];
    for n_threads in [1, 2] {
        let engine = Engine::new(&Settings { threads: n_threads, ..Settings::default() }).unwrap();
        for (file, side) in networks {
            let mut model = model(&engine, file, side);
            let floats = vec![0.5; 3 * side * side];
            let pixels = vec![100; 3 * side * side];
            // More than there are threads, and not a multiple of them.
            let pictures = [Picture::Pixels(&pixels); 3];
            let mut total = 0.0;
            let mut work = |model: &mut Model| {
                total += model.run(&floats).unwrap()[0][0];
                model.run_each(&pictures, |_, outputs| total += outputs[0][0]).unwrap();
                model.run_each(&pictures[..1], |_, outputs| total += outputs[0][0]).unwrap();
            };
            work(&mut model);
            work(&mut model);
            let n = n_allocations(|| work(&mut model));
            assert_eq!(n, 0, "{file} with {n_threads} threads");
            assert!(total.is_finite());
        }
    }
}

/// The clip that ships, over and over, as raw pictures.
struct Endless(File);

impl Endless {
    /// The pictures and their size. The face moves a little and never leaves.
    fn new() -> (Self, Pixels) {
        /// So few that each is seen before anything is counted.
        const N_PICTURES: usize = 40;
        let path = root().join("tests/fixtures/astronaut.mp4");
        let mut clip = source::open(&path).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let mut size = (0, 0);
        for _ in 0..N_PICTURES {
            let frame = clip.next_frame().unwrap().unwrap();
            size = (frame.width_px, frame.height_px);
            write_i420(&frame, &mut file);
        }
        file.rewind().unwrap();
        (Endless(file), Pixels::packed(Encoding::I420, size.0, size.1).unwrap())
    }
}

fn write_i420(frame: &Frame, to: &mut File) {
    assert_eq!(frame.format, PixelFormat::I420);
    let sizes = frame.format.plane_sizes(frame.width_px, frame.height_px);
    for (plane, (n_rows, row_bytes)) in frame.planes.iter().zip(sizes) {
        for row in plane.samples.chunks(plane.stride_bytes).take(n_rows) {
            to.write_all(&row[..row_bytes]).unwrap();
        }
    }
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(into)?;
        if n > 0 {
            return Ok(n);
        }
        self.0.rewind()?;
        self.0.read(into)
    }
}

impl AsFd for Endless {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Time passes when it is asked for.
struct Asked(AtomicI64);

impl Clock for Asked {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(10_000_000, Ordering::Relaxed)
    }

    fn sleep_ns(&self, _: i64) {}
}

/// Looks before some are counted: a full window of scores, and a face's first crops thinned out.
const N_BEFORE: usize = 140;
const N_COUNTED: usize = 80;
/// Looks before the first event is written: more events than the hub uses again, so that a writer who falls behind later is nothing new.
const N_UNWRITTEN: usize = 130;

/// Has allocations counted from the end of one look to the end of another.
struct Counter {
    n_looks: usize,
    may_write: Sender<()>,
}

impl Witness for Counter {
    fn wants_pictures(&self) -> bool {
        true
    }

    fn looked(&mut self, _: &Looked<'_>) {
        self.n_looks += 1;
        if self.n_looks == N_UNWRITTEN {
            self.may_write.send(()).unwrap();
        }
        if self.n_looks == N_BEFORE {
            N_ALLOCATIONS.store(0, Ordering::SeqCst);
        }
        IS_COUNTING.store((N_BEFORE..N_BEFORE + N_COUNTED).contains(&self.n_looks), Ordering::SeqCst);
    }
}

/// How often the library that resizes allocates for one crop, whatever it shows: it makes its coefficients anew.
fn n_allocations_of_a_crop(size_px: u32, margin: f32) -> usize {
    let picture = RgbImage::from_pixel(480, 360, image::Rgb([120, 90, 60]));
    let (mut cropper, mut crop) = (Cropper::default(), RgbImage::default());
    let mut cut = |x: f32, side: f32| {
        let bbox = Rect { x, y: 100.0, w: side, h: 1.2 * side };
        cropper.crop_into(&picture, &bbox, margin, size_px, &mut crop);
    };
    // The largest first, partly outside; then its memory is there.
    cut(-40.5, 200.0);
    let found =
        [(-40.5, 199.0), (100.2, 60.3), (211.7, 150.1)].map(|(x, side)| n_allocations(|| cut(x, side)));
    assert!(found.iter().all(|n| *n == found[0]), "{found:?}");
    found[0]
}

/// Each frame is looked at and scored, and what comes of it is told.
fn watching_while_nobody_comes_or_goes() {
    let engine = Engine::new(&Settings { threads: 2, ..Settings::default() }).unwrap();
    let settings = watch::Settings {
        interval_ms: 1,
        score_interval_ms: 1,
        health_s: 3600,
        ..watch::Settings::default()
    };
    let bundle = Bundle::embedded().unwrap();
    let watcher = Watcher::new(&engine, detect::Settings::default(), &settings, &bundle).unwrap();
    let input = &bundle.manifest().input;
    let n_of_library = N_COUNTED * n_allocations_of_a_crop(input.size_px, input.margin);
    let mut hub = Hub::new(true);
    let (may_write, is_time) = channel();
    hub.attend(Box::new(Counter { n_looks: 0, may_write }));
    let events = hub.subscribe();
    let writer = std::thread::spawn(move || {
        is_time.recv().unwrap();
        let mut text = Vec::with_capacity(1 << 20);
        lines::write_all(&events, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    });
    let parts = Parts {
        watcher,
        feed: Box::new(|| {
            let (pictures, layout) = Endless::new();
            Ok(Box::new(RawPipe::new(pictures, Asked(AtomicI64::new(0)), layout, 60_000)))
        }),
        settings,
        file: "steady".into(),
        text: String::new(),
        is_paced: false,
    };
    let (stop, reload) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut around = Surroundings {
        hub: &hub,
        stop: &stop,
        reload: &reload,
        notifier: &Notifier::from_environment(),
        max_frames: Some((N_BEFORE + N_COUNTED + 2) as u64),
        first: None,
        remake: &mut || Err("there is nothing to read again".into()),
        models: &mut Fixed,
    };
    let outcome = run(parts, &mut around).unwrap();
    drop(hub);
    let text = writer.join().unwrap();
    let n_of = |event: &str| text.matches(&format!(r#""event":"{event}""#)).count();
    assert_eq!((n_of("face-appeared"), n_of("verdict")), (1, 1), "{text}");
    assert_eq!(n_of("score"), N_BEFORE + N_COUNTED + 2, "{outcome:?}");
    let found = N_ALLOCATIONS.load(Ordering::SeqCst);
    assert_eq!(found, n_of_library, "in {N_COUNTED} frames, against those of the library that resizes");
}
