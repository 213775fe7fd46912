//! Running a network of bytes allocates nothing once it has run: counted by the allocator itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one passes everything on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candor::engine::{Engine, Model, Normalisation, Picture, Settings};

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

fn model(engine: &Engine, file: &str, side: usize) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(file);
    let model = engine.load(file, &*fs::read(path).unwrap(), &[1, 3, side, side]).unwrap();
    model.with_pixels(Normalisation { mean: [127.5; 3], std: [128.0; 3] }).unwrap()
}

// One test, so that no other thread of this binary allocates meanwhile.
#[test]
fn networks_allocate_nothing_after_their_first_runs() {
    assert!(n_allocations(|| drop(std::hint::black_box(vec![1u8]))) > 0, "the allocator doesn't count");
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
