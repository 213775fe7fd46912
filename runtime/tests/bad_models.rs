//! Models that are signed and wrong: refused at install, or given up at the first start for the one before. And sound
//! ones in every form, which must be taken.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::path::Path;

use candor::bundle::{Bundle, Manifest, PublicKey, Roots, to_hex};
use candor::classify::Classifier;
use candor::engine::Engine;
use candor::slot::{Folder, Name, Settings, Slot, Store, start};
use image::RgbImage;

use crate::release::{
    Draft, NOW_S, blob, key, key_list, key_list_file, listed, noise, root, roots, signed_list, signer,
};

fn golden(folder: &str, name: &str) -> Vec<u8> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read(package.join(folder).join(format!("{name}.onnx"))).unwrap()
}

fn classifier(name: &str) -> Vec<u8> {
    golden("tests/golden/classifiers", name)
}

/// What a network gives for an input.
fn logits(manifest: &Manifest, model: &[u8], input: &[u8]) -> [u32; 2] {
    let side = manifest.input.size_px;
    let crop = RgbImage::from_raw(side, side, input.to_vec()).unwrap();
    let mut classifier = Classifier::new(&Engine::default(), manifest, model).unwrap();
    classifier.logits(&[&crop]).unwrap()[0].map(f32::to_bits)
}

/// A bundle of a network with `n_goldens` inputs of noise, and what it gives for them after `change`.
fn changed(model: &[u8], size_px: u32, n_goldens: u64, change: impl FnOnce(&mut Draft)) -> Draft {
    let n_bytes = 3 * size_px as usize * size_px as usize;
    let inputs: Vec<_> = (0..n_goldens).map(|seed| (noise(seed, n_bytes), [0, 0])).collect();
    let mut draft = Draft::new(model, size_px, &inputs);
    draft.release().expires_unix_s = u64::MAX;
    change(&mut draft);
    for (idx, (input, _)) in inputs.iter().enumerate() {
        let bits = logits(&draft.manifest, model, input);
        draft.release().goldens[idx].logits_bits = bits;
    }
    draft
}

fn sound(name: &str, size_px: u32) -> Draft {
    changed(&classifier(name), size_px, 2, |_| ())
}

/// A bundle that says what it must give without having been run.
fn claiming(model: &[u8], size_px: u32, logits: [f32; 2]) -> Draft {
    let n_bytes = 3 * size_px as usize * size_px as usize;
    let bits = logits.map(f32::to_bits);
    Draft::new(model, size_px, &[(noise(0, n_bytes), bits), (noise(1, n_bytes), bits)])
}

/// Everything fits, and no clock decides.
fn roomy() -> Settings {
    Settings { max_time_ratio: f32::MAX, ..Settings::default() }
}

/// What a device does with a bundle: refuses it, gives it up at the first start, or tries it.
#[derive(Debug)]
enum Outcome {
    Refused(String),
    GivenUp(String),
    Tried,
}

fn outcome(bytes: &[u8], roots: &Roots, limits: &Settings) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(Folder::lock(folder.path()).unwrap()).unwrap();
    let held = match store.install(bytes, roots, limits, NOW_S) {
        Ok(held) => held,
        Err(error) => return Outcome::Refused(error.to_string()),
    };
    let started = start(&mut store, &Engine::default(), roots, limits, NOW_S).unwrap();
    if started.trial == Some(held.digest) {
        return Outcome::Tried;
    }
    let floor = Bundle::embedded().unwrap();
    assert_eq!(started.bundle.manifest(), floor.manifest(), "the model before runs");
    match store.record().slots.slot(Name::A) {
        Slot::Bad { reason, .. } => {
            let event = store.record().history.last().unwrap();
            assert_eq!(event.reason.as_ref(), Some(reason), "the history says why");
            Outcome::GivenUp(reason.clone())
        }
        other => panic!("{other:?}"),
    }
}

fn bad_models() -> Vec<(&'static str, Draft, Settings, &'static str)> {
    let sixteen = || sound("int8-16", 16);
    let with = |change: fn(&mut Draft)| {
        let mut draft = sixteen();
        change(&mut draft);
        draft
    };
    let of = |model: &[u8]| claiming(model, 16, [0.25, -0.25]);
    let whole = classifier("int8-16");
    let network = |name: &str| golden("engine/tests/golden/networks", name);
    let other = |name: &str| {
        let mut draft = sound("float-16", 16);
        let model = classifier(name);
        draft.manifest.model = blob("model.onnx", &model);
        draft.blobs[0] = model;
        draft
    };
    let tiny = Settings { max_memory_bytes: 100, ..roomy() };
    let hasty = Settings { max_time_ratio: 1e-9, ..roomy() };
    let small = Settings { max_bundle_bytes: 2000, ..roomy() };
    vec![
        ("no network", of(b"no network at all"), roomy(), "self-test: network"),
        ("an empty file", of(b""), roomy(), "self-test: network"),
        ("a file cut short", of(&whole[..whole.len() / 2]), roomy(), "self-test: network"),
        ("noise", of(&noise(3, 4000)), roomy(), "self-test: network"),
        ("another input size", claiming(&whole, 24, [0.25; 2]), roomy(), "golden input 0: logits"),
        ("an input of integers", of(&network("integer-input")), roomy(), "self-test: network"),
        ("an output of integers", of(&network("integer-output")), roomy(), "self-test: network"),
        ("three logits", of(&classifier("three-logits")), roomy(), "expected shape [1, 2], found [1, 3]"),
        ("an operator that isn't known", of(&network("unknown-operator")), roomy(), "self-test: network"),
        ("a graph in a ring", of(&network("ring")), roomy(), "self-test: network"),
        ("a vast tensor", of(&network("vast")), roomy(), "self-test: network"),
        ("a second input", of(&network("second-input")), roomy(), "self-test: network"),
        ("no output", of(&network("no-output")), roomy(), "self-test: network"),
        ("NaN", claiming(&classifier("nan"), 16, [0.5, f32::NAN]), roomy(), "expected numbers"),
        (
            "infinity",
            claiming(&classifier("infinite"), 16, [f32::INFINITY, 0.0]),
            roomy(),
            "expected numbers",
        ),
        ("saturated", changed(&classifier("constant"), 16, 2, |_| ()), roomy(), "the same for all 2"),
        ("swapped labels", other("swapped"), roomy(), "golden input 0: logits"),
        ("other weights", other("constant"), roomy(), "golden input 0: logits"),
        (
            "a logit that is off by one bit",
            with(|d| d.release().goldens[1].logits_bits[0] ^= 1),
            roomy(),
            "golden input 1",
        ),
        ("another mean", with(|d| d.manifest.input.mean = [0.0; 3]), roomy(), "golden input 0"),
        ("another deviation", with(|d| d.manifest.input.std = [255.0; 3]), roomy(), "golden input 0"),
        ("goldens swapped", with(|d| d.release().goldens.swap(0, 1)), roomy(), "SHA-256"),
        ("too much memory", sixteen(), tiny, "memory: expected at most 100 bytes"),
        ("too slow", sixteen(), hasty, "time: expected at most"),
        ("too large a file", sixteen(), small, "size: expected at most 2000"),
        (
            "a newer program",
            with(|d| d.release().minimum_runtime = "0.99.0".to_owned().try_into().unwrap()),
            roomy(),
            "minimum runtime",
        ),
        ("no golden", with(|d| d.release().goldens.clear()), roomy(), "release.goldens"),
        ("a deviation of zero", with(|d| d.manifest.input.std[1] = 0.0), roomy(), "input.std"),
        (
            "a threshold of NaN",
            with(|d| d.manifest.thresholds.fake_above = f32::NAN),
            roomy(),
            "invalid type: null",
        ),
    ]
}

#[test]
fn bad_models_are_refused_or_given_up() {
    let (mut n_refused, mut n_given_up) = (0, 0);
    for (name, draft, limits, named) in bad_models() {
        let reason = match outcome(&draft.bytes(), &roots(), &limits) {
            Outcome::Refused(reason) => {
                n_refused += 1;
                reason
            }
            Outcome::GivenUp(reason) => {
                n_given_up += 1;
                reason
            }
            Outcome::Tried => panic!("{name}: it was tried"),
        };
        assert!(reason.contains(named), "{name}: {reason}");
    }
    println!("{n_refused} classes refused, {n_given_up} given up at the first start");
}

/// A sound bundle with one thing that is otherwise than usual.
fn good_variants() -> Vec<(&'static str, Draft)> {
    let with = |change: fn(&mut Draft)| changed(&classifier("int8-16"), 16, 2, change);
    let floor = Bundle::embedded().unwrap();
    let size_px = floor.manifest().input.size_px;
    let documents = |d: &mut Draft| {
        let texts: [(&str, &[u8]); 2] = [("CARD.md", b"# Card"), ("LICENSE", b"")];
        for (name, text) in texts {
            d.release().documents.push(blob(name, text));
            d.blobs.push(text.to_vec());
        }
    };
    vec![
        ("int8, 16 px", with(|_| ())),
        ("other weights", sound("int8-16-other", 16)),
        ("int8, 24 px", sound("int8-24", 24)),
        ("int8, 32 px", sound("int8-32", 32)),
        ("float", sound("float-16", 16)),
        ("swapped on purpose, goldens too", sound("swapped", 16)),
        ("the built-in network", changed(floor.model(), size_px, 1, |_| ())),
        ("one golden", changed(&classifier("int8-16"), 16, 1, |_| ())),
        ("sixteen goldens", changed(&classifier("int8-16"), 16, 16, |_| ())),
        ("another normalisation", with(|d| d.manifest.input.mean = [103.5, 116.3, 123.7])),
        ("another deviation", with(|d| d.manifest.input.std = [58.4, 57.1, 57.4])),
        ("no margin", with(|d| d.manifest.input.margin = 0.0)),
        ("a temperature", with(|d| d.manifest.score.temperature = 3.5)),
        ("a bias", with(|d| d.manifest.score.bias = -0.75)),
        (
            "thresholds that meet",
            with(|d| (d.manifest.thresholds.real_below, d.manifest.thresholds.fake_above) = (0.5, 0.5)),
        ),
        ("fifteen scores", with(|d| d.manifest.min_scores = 15)),
        ("small faces", with(|d| d.manifest.min_face_px = 12.0)),
        ("documents", changed(&classifier("int8-16"), 16, 2, documents)),
        ("a high epoch", with(|d| d.release().security_epoch = u32::MAX)),
        ("an old program", with(|d| d.release().minimum_runtime = "0.0.1".to_owned().try_into().unwrap())),
        ("the last second", with(|d| d.release().expires_unix_s = NOW_S + 1)),
        ("a high serial", with(|d| d.key_list = key_list(u64::MAX, &[signer()]))),
        ("many keys", with(|d| d.key_list = key_list(1, &[key(5), key(6), signer(), key(7)]))),
        ("a second signature that isn't known", with(|d| d.signers.push(key(9)))),
        (
            "two keys of two",
            with(|d| {
                let keys = vec![listed(&signer()), listed(&key(3))];
                d.key_list = signed_list(&candor::bundle::KeyList::new(1, 2, keys).unwrap(), &[root()]);
                d.signers.push(key(3));
            }),
        ),
        ("a foreign signature on the list", with(|d| d.key_list.sign(&key(9)))),
        ("odd names", with(|d| (d.manifest.id, d.manifest.version) = ("ä b\n".into(), "v 1/2".into()))),
    ]
}

#[test]
fn good_variants_are_tried() {
    let mut n_tried = 0;
    for (name, draft) in good_variants() {
        let found = outcome(&draft.bytes(), &roots(), &roomy());
        assert!(matches!(found, Outcome::Tried), "{name}: {found:?}");
        n_tried += 1;
    }
    println!("{n_tried} good variants tried");
}

#[test]
fn a_bad_model_gives_way_to_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, limits) = (Engine::default(), roomy());
    let mut store = Store::open(Folder::lock(folder.path()).unwrap()).unwrap();
    let good = store.install(&sound("int8-16", 16).bytes()[..], &roots(), &limits, NOW_S).unwrap();
    assert_eq!(start(&mut store, &engine, &roots(), &limits, NOW_S).unwrap().trial, Some(good.digest));
    assert!(store.confirm(&roots(), NOW_S).is_err(), "no run has ended well");
    store.ran_well(good.digest, NOW_S).unwrap();
    store.confirm(&roots(), NOW_S).unwrap();

    let bad = claiming(&classifier("nan"), 16, [0.5, 0.5]).bytes();
    store.install(&bad[..], &roots(), &limits, NOW_S).unwrap();
    let started = start(&mut store, &engine, &roots(), &limits, NOW_S).unwrap();
    assert_eq!((started.trial, started.bundle.manifest().id.as_str()), (None, "test"));
    assert_eq!(started.notes.len(), 1, "{:?}", started.notes);

    // Damage of the file on the disk.
    let path = folder.path().join(format!("{}.bundle", good.digest));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let started = start(&mut store, &engine, &roots(), &limits, NOW_S).unwrap();
    assert_eq!(started.bundle.manifest(), Bundle::embedded().unwrap().manifest());
    assert_eq!(store.record().slots.current(), None);
}

/// A device with a trial of another network beside a confirmed model.
fn with_trial(folder: &Path) -> Store<Folder> {
    let mut store = Store::open(Folder::lock(folder).unwrap()).unwrap();
    for name in ["int8-16", "int8-16-other"] {
        let held = store.install(&sound(name, 16).bytes()[..], &roots(), &roomy(), NOW_S).unwrap();
        start(&mut store, &Engine::default(), &roots(), &roomy(), NOW_S).unwrap();
        store.ran_well(held.digest, NOW_S).unwrap();
        if name == "int8-16" {
            store.confirm(&roots(), NOW_S).unwrap();
        }
    }
    store
}

#[test]
fn another_root_key_costs_no_model_anything() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = with_trial(folder.path());
    let before = store.record().slots.clone();
    let others = Roots::new(vec![PublicKey::of(&key(9))], 1).unwrap();
    for _ in 0..5 {
        let started = start(&mut store, &Engine::default(), &others, &roomy(), NOW_S).unwrap();
        assert_eq!(started.bundle.manifest(), Bundle::embedded().unwrap().manifest());
        assert!(started.notes.iter().any(|note| note.contains("root key")), "{:?}", started.notes);
    }
    assert_eq!(store.record().slots, before);
    let started = start(&mut store, &Engine::default(), &roots(), &roomy(), NOW_S).unwrap();
    assert!(started.trial.is_some(), "{:?}", started.notes);
}

#[test]
fn a_key_that_is_left_out_signs_no_trial_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = with_trial(folder.path());
    let before = store.record().slots.clone();
    store.rotate_keys(&key_list_file(&key_list(2, &[key(8)]))[..], &roots()).unwrap();
    let refused = store.confirm(&roots(), NOW_S).unwrap_err().to_string();
    assert!(refused.contains("is not in the key list with serial 2"), "{refused}");
    let started = start(&mut store, &Engine::default(), &roots(), &roomy(), NOW_S).unwrap();
    assert_eq!((started.trial, started.bundle.manifest().id.as_str()), (None, "test"));
    assert!(started.notes[0].contains("no trial this time"), "{:?}", started.notes);
    assert_eq!(store.record().slots, before, "what was confirmed goes on, and no start is used up");
}

#[test]
fn a_trial_is_made_by_one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let alone = Folder::lock(folder.path()).unwrap();
    let trial = alone.try_lock_trial().unwrap().unwrap();
    drop(alone);
    let next = Folder::try_lock(folder.path()).unwrap().unwrap();
    assert!(next.try_lock_trial().unwrap().is_none());
    drop(trial);
    assert!(next.try_lock_trial().unwrap().is_some());
}

#[test]
fn starts_that_never_end_use_a_trial_up() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, limits) = (Engine::default(), roomy());
    let mut store = Store::open(Folder::lock(folder.path()).unwrap()).unwrap();
    let held = store.install(&sound("int8-16", 16).bytes()[..], &roots(), &limits, NOW_S).unwrap();
    for _ in 0..limits.trial_boots {
        assert_eq!(start(&mut store, &engine, &roots(), &limits, NOW_S).unwrap().trial, Some(held.digest));
    }
    let started = start(&mut store, &engine, &roots(), &limits, NOW_S).unwrap();
    assert_eq!(started.trial, None);
    assert!(started.notes[0].contains("is given up: no start is left"), "{:?}", started.notes);
    assert!(
        matches!(store.record().slots.slot(Name::A), Slot::Bad { reason, .. } if reason.contains("no start"))
    );
}

#[test]
fn public_keys_are_shown_as_they_are_read() {
    let key = PublicKey::of(&root());
    assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
    assert!(to_hex(&[0; 32]).parse::<PublicKey>().is_err(), "a weak key");
}
