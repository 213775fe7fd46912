//! A camera whose system fails in every way that is documented, and in some that are not: no hang, no panic, no frame
//! that is old or broken, the right state, and recovery within a second. Time is the fake system's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use candor::camera::clock::Clock as _;
use candor::camera::kernel::{Errno, PictureFormat, PlaneFormat, Request};
use candor::camera::{Counts, Feed as _, Settings, Shot, State, Step, Supervisor, Wanted};
use fake::{Effect, FakeClock, FakeKernel, MS, Model, Rule};

/// When faults begin and end.
const FROM_NS: i64 = 2_000 * MS;
const TO_NS: i64 = 6_000 * MS;
const END_NS: i64 = 9_000 * MS;
/// A state is shown at the latest this long after its cause, and frames come again this long after it is gone.
const SHOWN_NS: i64 = 2_000 * MS;
const RECOVERED_NS: i64 = 1_000 * MS;

/// What happened, and when.
struct Trace {
    states: Vec<(i64, State)>,
    shots: Vec<i64>,
    counts: Counts,
}

impl Trace {
    fn state_at(&self, ns: i64) -> State {
        self.states.iter().rev().find(|(at_ns, _)| *at_ns <= ns).map_or(State::Opening, |(_, state)| *state)
    }
}

fn settings() -> Settings {
    Settings {
        path: PathBuf::from("/dev/fake"),
        wanted: Wanted { width_px: 1280, height_px: 720, rate_hz: 30, encoding: None },
        controls: BTreeMap::from([("white_balance_auto".to_owned(), 5)]),
        stall_ms: 1500,
        frozen_ms: 1500,
    }
}

/// The time that a frame was made at, if it was one to be passed on.
fn made_ns(shot: &Shot) -> Option<i64> {
    let Shot::Raw(raw, _) = shot else { return None };
    let bytes = raw.bytes.strip_prefix(&[0xff, 0xd8]).unwrap_or(&raw.bytes);
    (bytes[0] == 1).then(|| i64::from_le_bytes(bytes[1..9].try_into().unwrap()))
}

/// Runs a camera of `model` for nine seconds of its own time.
fn trace(model: Model, rules: &[Rule], event_ns: Option<i64>) -> Trace {
    let clock = FakeClock::default();
    let (kernel, held) = FakeKernel::new(model, rules.to_vec(), clock.clone(), event_ns);
    let mut camera = Supervisor::new(kernel, clock.clone(), settings());
    let (mut states, mut shots) = (Vec::new(), Vec::new());
    let mut state = State::Opening;
    let mut n_steps = 0;
    while clock.now_ns() < END_NS {
        let before_ns = clock.now_ns();
        let step = camera.step();
        let now_ns = clock.now_ns();
        n_steps += 1;
        assert!(n_steps < 5_000, "{model:?} {rules:?}: {n_steps} steps in {} ms", now_ns / MS);
        assert!(
            now_ns - before_ns <= 600 * MS,
            "{model:?} {rules:?}: a step of {} ms",
            (now_ns - before_ns) / MS
        );
        match step {
            Step::Changed(new, reason) => {
                assert!(new != state && !reason.is_empty(), "{model:?} {rules:?}: {new:?} twice, {reason:?}");
                state = new;
                states.push((now_ns, new));
            }
            Step::Shot(shot) => {
                assert_eq!(state, State::Streaming, "{model:?} {rules:?}: a frame in another state");
                let made_ns = made_ns(&shot).unwrap_or_else(|| panic!("{model:?} {rules:?}: a broken frame"));
                assert!(now_ns - made_ns < 1_000 * MS, "{model:?} {rules:?}: an old frame");
                assert!(
                    shots.last().is_none_or(|last| *last < made_ns),
                    "{model:?} {rules:?}: a frame twice"
                );
                shots.push(made_ns);
            }
            Step::Nothing => {}
        }
    }
    let counts = camera.counts();
    drop(camera);
    let left = [held.devices, held.memories].map(|n| n.load(Ordering::Relaxed));
    assert_eq!(left, [0, 0], "{model:?} {rules:?}: devices and mappings are left");
    Trace { states, shots, counts }
}

/// Runs the rules, and checks that `during` is shown while they hold and that frames come again afterwards.
fn check(model: Model, rules: &[Rule], event_ns: Option<i64>, during: State) {
    let trace = trace(model, rules, event_ns);
    let begins_ns = rules.iter().map(|r| r.from_ns).min().unwrap();
    let about = format!("{model:?} {rules:?}: {:?}", trace.states);
    for at_ns in [begins_ns + SHOWN_NS, TO_NS - 1] {
        assert_eq!(trace.state_at(at_ns), during, "{about} at {} ms", at_ns / MS);
    }
    assert_eq!(trace.state_at(TO_NS + RECOVERED_NS), State::Streaming, "{about}");
    assert_eq!(trace.state_at(END_NS), State::Streaming, "{about}");
    let n_after = trace.shots.iter().filter(|at_ns| **at_ns > TO_NS + RECOVERED_NS).count();
    assert!(n_after > 40, "{about}: {n_after} frames afterwards");
    // A device that can't be opened is left alone in between.
    assert!(trace.counts.n_opened < 40, "{about}: {} tries", trace.counts.n_opened);
}

fn rule(effect: Effect, from_ns: i64) -> Rule {
    Rule { effect, from_ns, to_ns: TO_NS, every: 1 }
}

/// "Generic Error Codes" of the userspace API, and what the pages of single calls add (open, mmap, poll, QBUF, DQBUF,
/// QUERY_DV_TIMINGS, STREAMON).
const ERRNOS: [Errno; 20] = [
    Errno::AGAIN,
    Errno::BADF,
    Errno::BUSY,
    Errno::FAULT,
    Errno::INVAL,
    Errno::NODEV,
    Errno::NOMEM,
    Errno::NOTTY,
    Errno::NOSPC,
    Errno::PERM,
    Errno::IO,
    Errno::NXIO,
    Errno::ACCESS,
    Errno::INTR,
    Errno::NOENT,
    Errno::PIPE,
    Errno::NOLINK,
    Errno::NOLCK,
    Errno::RANGE,
    Errno::NODATA,
];

/// What a call that fails with an error shows, written down from the pages of the calls and not from the program.
fn shown(model: Model, request: Request, errno: Errno) -> State {
    use Request::{
        DequeueEvent, DescribeControl, DescribeInput, GetInput, ListFormats, ListIntervals, ListSizes, Poll,
        QueryTimings, SetControl, SetFormat, SetInterval, SetTimings, StreamOff, Subscribe,
    };
    let is_gone = matches!(errno, Errno::NODEV | Errno::NXIO | Errno::NOENT);
    match (request, errno) {
        // Only a digital signal has timings, and a source that can't tell them is taken as it is.
        (QueryTimings | SetTimings, _) if model != Model::Bridge => State::Streaming,
        (QueryTimings, Errno::NODATA | Errno::NOTTY) => State::Streaming,
        (QueryTimings, Errno::RANGE) => State::NoSignal,
        // What a camera may lack, or can be guessed.
        (GetInput | ListFormats | ListSizes | ListIntervals | StreamOff, _) => State::Streaming,
        // Nothing is asked while there is no event; a queue of events without one is the same.
        (DequeueEvent, Errno::NODEV | Errno::NXIO) if model == Model::Bridge => State::Unplugged,
        (DequeueEvent, _) => State::Streaming,
        (DescribeInput | SetInterval | DescribeControl | SetControl | Subscribe, _) if !is_gone => {
            State::Streaming
        }
        (SetFormat, Errno::INVAL) => State::FormatLost,
        // Interrupted and empty waits go on until they count as a stall.
        (Request::Dequeue | Poll, Errno::AGAIN | Errno::INTR) => State::Stalled,
        (Request::Dequeue, Errno::IO | Errno::PIPE | Errno::INVAL) => State::Stalled,
        (_, Errno::BUSY) => State::Busy,
        (_, Errno::NOLINK | Errno::NOLCK) => State::NoSignal,
        _ if is_gone => State::Unplugged,
        _ => State::Failed,
    }
}

#[test]
fn every_call_may_fail_with_every_error() {
    let mut n_scenarios = 0;
    for model in Model::ALL {
        for request in Request::ALL {
            for errno in ERRNOS {
                // From the start on, and after two seconds: a change of the source, or one lost frame, makes a camera
                // that goes well open again.
                let effect = || Effect::Errno(request, errno);
                let during = shown(model, request, errno);
                // Only a digital signal has events.
                let event_ns = |at_ns| (model == Model::Bridge).then_some(at_ns);
                check(model, &[rule(effect(), 0)], event_ns(0), during);
                let again = Rule {
                    effect: Effect::Errno(Request::Dequeue, Errno::PIPE),
                    from_ns: FROM_NS,
                    to_ns: FROM_NS + 40 * MS,
                    every: 1,
                };
                check(model, &[rule(effect(), FROM_NS), again], event_ns(FROM_NS), during);
                n_scenarios += 2;
            }
        }
    }
    assert!(n_scenarios >= 500, "{n_scenarios}");
}

#[test]
fn buffers_that_make_no_sense_are_not_passed_on() {
    for model in Model::ALL {
        for (effect, during) in [
            (Effect::Silence, State::Stalled),
            (Effect::NoSignal, State::NoSignal),
            (Effect::Noise, State::NoSignal),
            (Effect::EmptyReady, State::Stalled),
            (Effect::ErrorFlag, State::Stalled),
            (Effect::Used(0), State::Stalled),
            (Effect::Used(2_000), State::Stalled),
            (Effect::Used(u64::MAX / 8192), State::Stalled),
            (Effect::Index(99), State::Failed),
            (Effect::Index(u32::MAX), State::Failed),
            (Effect::SameIndex, State::Failed),
            (Effect::NoPlanes, State::Stalled),
            (Effect::Old(1_500 * MS), State::Stalled),
            (Effect::Old(i64::MAX / 2), State::Stalled),
            (Effect::Same, State::Frozen),
        ] {
            check(model, &[rule(effect.clone(), 0)], None, during);
            check(model, &[rule(effect, FROM_NS)], None, during);
        }
        if model != Model::JpegWebcam {
            // A JPEG has no length that it should have.
            check(model, &[rule(Effect::Used(999), FROM_NS)], None, State::Stalled);
        }
    }
}

#[test]
fn one_broken_buffer_among_good_ones_is_only_counted() {
    for model in Model::ALL {
        for effect in [Effect::ErrorFlag, Effect::Used(0), Effect::NoPlanes, Effect::Used(5_000)] {
            let rule = Rule { effect, from_ns: FROM_NS, to_ns: TO_NS, every: 7 };
            let trace = trace(model, std::slice::from_ref(&rule), None);
            let about = format!("{model:?} {rule:?} {:?}", trace.counts);
            assert_eq!(trace.states.len(), 1, "{about}: {:?}", trace.states);
            assert!((5..100).contains(&trace.counts.n_bad), "{about}");
            assert!(trace.shots.len() > 150, "{about}: {}", trace.shots.len());
        }
    }
}

#[test]
fn what_a_driver_offers_is_checked_before_it_is_used() {
    for model in Model::ALL {
        for n in [0, 33, u32::MAX] {
            check(model, &[rule(Effect::Buffers(n), 0)], None, State::Failed);
        }
        for n_bytes in [0, u32::MAX] {
            check(model, &[rule(Effect::Length(n_bytes), 0)], None, State::Failed);
        }
        // Too short for a picture: frames claim more than there is.
        check(model, &[rule(Effect::Length(8), 0)], None, State::Stalled);
        let format = |fourcc: &[u8; 4], width_px, height_px, strides: &[u32]| {
            let plane =
                |stride_bytes: &u32| PlaneFormat { stride_bytes: *stride_bytes, size_bytes: u32::MAX };
            let planes = strides.iter().map(plane).collect();
            PictureFormat {
                width_px,
                height_px,
                fourcc: u32::from_le_bytes(*fourcc),
                planes,
                ..Default::default()
            }
        };
        for bad in [
            format(b"H264", 640, 480, &[0]),
            format(b"\0\0\0\0", 640, 480, &[0]),
            format(b"YUYV", 0, 480, &[0]),
            format(b"YUYV", u32::MAX, u32::MAX, &[u32::MAX]),
            format(b"YUYV", 640, 480, &[100]),
            format(b"NV12", 640, 480, &[]),
            format(b"NM12", 640, 480, &[640, 640, 640]),
            format(b"NV12", 16_384, 7_000, &[98_304]),
        ] {
            check(model, &[rule(Effect::Format(bad), 0)], None, State::FormatLost);
        }
    }
}

#[test]
fn another_source_is_agreed_on_anew_without_a_pause() {
    let trace = trace(Model::Bridge, &[], Some(FROM_NS));
    assert_eq!(trace.counts.n_opened, 2);
    let gap = trace.shots.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(gap < 300 * MS, "{} ms without a frame", gap / MS);
}

#[test]
fn a_camera_that_goes_well_is_left_alone() {
    for model in Model::ALL {
        let trace = trace(model, &[], None);
        assert_eq!((trace.counts.n_opened, trace.states.len()), (1, 1));
        let Counts { n_frames, n_dropped, n_bad, n_stale, n_repeated, .. } = trace.counts;
        assert_eq!((n_dropped, n_bad, n_stale, n_repeated), (0, 0, 0, 0));
        assert_eq!(trace.shots.len() as u64 + 1, n_frames, "all but the first, which is the proof");
        assert!(n_frames > 260);
    }
}
