//! Bundles' files that are wrong, each in one way: refused with an error that says how, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use candor::bundle::{
    Head, KeyList, ListedKey, PublicKey, Purpose, Roots, Signed, UnverifiedBundle, write_bundle,
};
use candor::fuzzing;
use candor::slot::{Folder, Settings, Slots, Store};

use crate::random::Random;
use crate::release::{
    Draft, NOW_S, blob, key, key_list, key_list_file, listed, noise, root, roots, signed_list, signer,
};

/// Changes of a bundle that an ordinary test run tries.
const N_MUTATIONS: u64 = 2000;

fn sound() -> Draft {
    let mut draft = Draft::of_noise(5, 900);
    draft.release().security_epoch = 3;
    draft
}

/// A sound bundle with one change of its manifest, signed.
fn with(change: impl FnOnce(&mut Draft)) -> Vec<u8> {
    let mut draft = sound();
    change(&mut draft);
    draft.bytes()
}

/// The bytes of a bundle of these texts.
fn file(key_list: &Signed, manifest: &Signed, blobs: &[u8]) -> Vec<u8> {
    let head = Head { key_list: key_list.clone(), manifest: manifest.clone() };
    let mut bytes = Vec::new();
    write_bundle(&head, &mut &blobs[..], &mut bytes).unwrap();
    bytes
}

/// A sound bundle with another manifest text, signed.
fn with_text(text: &[u8]) -> Vec<u8> {
    let mut manifest = Signed::new(Purpose::Manifest, text.to_vec());
    manifest.sign(&signer());
    file(&sound().key_list, &manifest, &[])
}

fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = sound().bytes();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// Where the manifest's lengths stand.
fn manifest_at() -> usize {
    let list = sound().key_list;
    12 + 8 + list.text.len() + 80 * list.signatures.len()
}

fn bad_heads() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let manifest = sound().signed();
    let list = sound().key_list;
    let blobs = sound().blobs.concat();
    let unsigned = Signed::new(Purpose::Manifest, manifest.text.clone());
    let garbage = Signed::new(Purpose::Manifest, b"{ no JSON".to_vec());
    let mut twice = manifest.clone();
    twice.signatures.push(twice.signatures[0]);
    let two = KeyList::new(1, 2, vec![listed(&signer()), listed(&key(3))]).unwrap();
    // A list's text, signed as a manifest by the root key, in the place of the list.
    let mut as_manifest = Signed::new(Purpose::Manifest, list.text.clone());
    as_manifest.sign(&root());
    let crossed = Signed { purpose: Purpose::KeyList, ..as_manifest };
    let by = |keys: &[_]| {
        let mut draft = sound();
        draft.signers = keys.to_vec();
        draft.bytes()
    };
    let expired = ListedKey { expires_unix_s: NOW_S, ..listed(&signer()) };
    let expired = signed_list(&KeyList::new(1, 1, vec![expired]).unwrap(), &[root()]);
    let weak = String::from_utf8(list.text.clone()).unwrap();
    let weak = weak.replace(&PublicKey::of(&signer()).to_string(), &format!("01{}", "0".repeat(62)));
    let mut weak = Signed::new(Purpose::KeyList, weak.into_bytes());
    weak.sign(&root());
    let list_of = |text: &[u8]| {
        let mut list = Signed::new(Purpose::KeyList, text.to_vec());
        list.sign(&root());
        file(&list, &manifest, &blobs)
    };
    let at = manifest_at();
    vec![
        ("nothing", Vec::new(), "first bytes"),
        ("another file", b"\x89PNG\r\n\x1a\n and more".to_vec(), "a Candor bundle"),
        ("a key list", key_list_file(&list), "a Candor bundle"),
        ("a newer format", patched(8, &2u32.to_le_bytes()), "format: expected 1, found 2"),
        ("an empty key list", patched(12, &0u32.to_le_bytes()), "length of the key list"),
        ("a vast key list", patched(12, &u32::MAX.to_le_bytes()), "length of the key list"),
        ("a crowd of signatures", patched(16, &17u32.to_le_bytes()), "signatures of the key list"),
        ("a vast manifest", patched(at, &u32::MAX.to_le_bytes()), "length of the manifest"),
        ("many signatures", patched(at + 4, &u32::MAX.to_le_bytes()), "signatures of the manifest"),
        ("cut within the head", sound().bytes()[..200].to_vec(), "key list"),
        ("another root key", file(&signed_list(&two, &[key(9)]), &manifest, &blobs), "is no root key"),
        ("an unsigned key list", file(&signed_list(&two, &[]), &manifest, &blobs), "trusted keys, found 0"),
        ("a manifest's signature on a key list", file(&crossed, &manifest, &blobs), "is wrong"),
        ("another signing key", by(&[key(9)]), "is not in the key list"),
        ("the root key as signing key", by(&[root()]), "is not in the key list"),
        ("an unsigned manifest", file(&list, &unsigned, &blobs), "trusted keys, found 0"),
        ("an unsigned manifest of garbage", file(&list, &garbage, &blobs), "trusted keys, found 0"),
        ("a changed manifest", patched(at + 8 + 40, b"?"), "signature of key"),
        ("a changed signature", patched(at + 8 + manifest.text.len() + 30, b"?"), "signature of key"),
        ("one key of two", file(&signed_list(&two, &[root()]), &manifest, &blobs), "of 2 trusted keys"),
        ("one key twice", file(&signed_list(&two, &[root()]), &twice, &blobs), "of 2 trusted keys"),
        ("an expired key", file(&expired, &manifest, &blobs), "expired at"),
        ("a weak key", file(&weak, &manifest, &blobs), "Ed25519 point"),
        ("a key list of garbage", list_of(b"[[[["), "key list"),
        ("a key list without keys", list_of(br#"{"format":1,"serial":1,"threshold":1,"keys":[]}"#), "keys"),
        (
            "another list with the same serial",
            with(|d| d.key_list = key_list(4, &[signer(), key(3)])),
            "serial",
        ),
    ]
}

fn bad_manifests() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let file_name = |name: &str| {
        let name = name.to_owned();
        with(|d| d.manifest.model.file = name)
    };
    vec![
        ("a manifest of garbage", with_text(b"{ no JSON"), "manifest"),
        ("a deep manifest", with_text("[".repeat(100_000).as_bytes()), "manifest"),
        ("no release", with(|d| d.manifest.release = None), "release"),
        ("expired", with(|d| d.release().expires_unix_s = NOW_S), "expired at"),
        ("an older epoch", with(|d| d.release().security_epoch = 2), "expected 3 or more, found 2"),
        (
            "a newer program",
            with(|d| d.release().minimum_runtime = "99.0.0".to_owned().try_into().unwrap()),
            "99.0.0",
        ),
        (
            "a key that didn't sign",
            with(|d| d.release().key_id = PublicKey::of(&root()).id()),
            "release.key_id",
        ),
        ("a folder above", file_name("../model.onnx"), "a file name without a folder"),
        ("a folder", file_name("a/model.onnx"), "a file name without a folder"),
        ("a folder of Windows", file_name("..\\model.onnx"), "a file name without a folder"),
        ("the folder itself", file_name(".."), "a file name without a folder"),
        ("an absolute name", file_name("/etc/passwd"), "a file name without a folder"),
        ("a name with a zero", file_name("model\0.onnx"), "a file name without a folder"),
        ("no name", file_name(""), "a file name without a folder"),
        ("a long name", file_name(&"m".repeat(256)), "a file name without a folder"),
        ("a name twice", file_name("golden-0.rgb"), "twice"),
        ("a size bomb", with(|d| d.manifest.model.size_bytes = 1 << 60), "model.size_bytes"),
        ("more than the device takes", with(|d| d.manifest.model.size_bytes = 300 << 20), "expected at most"),
        ("no golden", with(|d| d.release().goldens.clear()), "release.goldens"),
        (
            "many goldens",
            with(|d| d.release().goldens = vec![d.release().goldens[0].clone(); 17]),
            "release.goldens",
        ),
        ("a golden of another size", with(|d| d.manifest.input.size_px = 17), "crop of the input's size"),
        (
            "a vast document",
            with(|d| d.release().documents.push(blob("CARD.md", &noise(1, (1 << 20) + 1)))),
            "documents",
        ),
        ("thresholds out of order", with(|d| d.manifest.thresholds.real_below = 0.9), "thresholds"),
        ("no temperature", with(|d| d.manifest.score.temperature = 0.0), "score.temperature"),
        ("no deviation", with(|d| d.manifest.input.std = [0.0; 3]), "input.std"),
    ]
}

fn bad_blobs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let whole = sound().bytes();
    let other = Draft::of_noise(6, 900);
    let mix = file(&sound().key_list, &sound().signed(), &other.blobs.concat());
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut swapped = sound();
    swapped.blobs.swap(0, 1);
    vec![
        ("another bundle's files", mix, "SHA-256"),
        ("a flipped bit", flipped, "file golden-0.rgb: SHA-256"),
        ("files in another order", swapped.bytes(), "SHA-256"),
        ("an extra byte", [&whole[..], b"!"].concat(), "nothing behind the last file"),
        ("an extra bundle", [&whole[..], &whole].concat(), "nothing behind the last file"),
        ("cut by a byte", whole[..whole.len() - 1].to_vec(), "file golden-0.rgb"),
        ("no files", whole[..whole.len() - 900 - 768].to_vec(), "file model.onnx"),
        ("a longer model", with(|d| d.manifest.model.size_bytes += 1), "SHA-256"),
        ("a shorter model", with(|d| d.manifest.model.size_bytes -= 1), "SHA-256"),
        ("an empty model", with(|d| d.manifest.model.size_bytes = 0), "SHA-256"),
        (
            "a document that isn't there",
            with(|d| d.release().documents.push(blob("CARD.md", b"card"))),
            "file CARD.md",
        ),
        ("a digest that is none", with(|d| d.manifest.model.sha256 = "x".repeat(64)), "SHA-256"),
    ]
}

/// A device whose least epoch is 3 and whose key list has the serial 4.
fn device(folder: &Path) -> Store<Folder> {
    let mut store = Store::open(Folder::lock(folder).unwrap()).unwrap();
    let mut first = Draft::of_noise(1, 700);
    first.release().security_epoch = 3;
    let held = store.install(&first.bytes()[..], &roots(), &Settings::default(), NOW_S).unwrap();
    store.boot(3, NOW_S).unwrap();
    store.ran_well(held.digest, NOW_S).unwrap();
    store.confirm(&roots(), NOW_S).unwrap();
    store.rotate_keys(&key_list_file(&key_list(4, &[signer()]))[..], &roots()).unwrap();
    store
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bad_files_are_refused_and_leave_nothing() {
    let mut n_refused = 0;
    for (name, bytes, named) in bad_heads().into_iter().chain(bad_manifests()).chain(bad_blobs()) {
        let folder = tempfile::tempdir().unwrap();
        // The heads' device has no key list that would count instead of theirs, but for one case.
        let is_head = bad_heads().iter().any(|(n, ..)| *n == name) && !name.contains("serial");
        let mut store = if is_head {
            Store::open(Folder::lock(folder.path()).unwrap()).unwrap()
        } else {
            device(folder.path())
        };
        let (before, names) = (store.record().clone(), files(folder.path()));
        let refused = store.install(&bytes[..], &roots(), &Settings::default(), NOW_S);
        let error = refused.expect_err(name).to_string();
        assert!(error.contains(named), "{name}: {error}");
        assert_eq!(store.record(), &before, "{name}");
        assert_eq!(files(folder.path()), names, "{name}");
        n_refused += 1;
    }
    println!("{n_refused} bad files refused");
}

#[test]
fn what_an_older_device_took_is_refused_once_its_key_is_rotated_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = device(folder.path());
    store.rotate_keys(&key_list_file(&key_list(5, &[key(8)]))[..], &roots()).unwrap();
    let error = store.install(&sound().bytes()[..], &roots(), &Settings::default(), NOW_S);
    assert!(error.unwrap_err().to_string().contains("is not in the key list with serial 5"));
    let old = store.rotate_keys(&key_list_file(&key_list(4, &[signer()]))[..], &roots());
    assert!(old.unwrap_err().to_string().contains("serial over 5"));
    // What was confirmed goes on.
    let held = store.record().slots.held().next().unwrap().clone();
    store.load(&held, &roots()).unwrap();
}

#[test]
fn the_longest_record_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(Folder::lock(folder.path()).unwrap()).unwrap();
    // Each byte takes six in JSON.
    let long = "\u{1}".repeat(128);
    let keys: Vec<_> = (2..18).map(key).collect();
    let listed = keys.iter().map(|key| ListedKey { name: long.clone(), ..listed(key) }).collect();
    let list = signed_list(&KeyList::new(1, 16, listed).unwrap(), &[root()]);
    for seed in 0..20 {
        let mut draft = Draft::of_noise(seed, 100);
        (draft.manifest.id, draft.manifest.version) = (long.clone(), long.clone());
        (draft.key_list, draft.signers) = (list.clone(), keys.clone());
        store.install(&draft.bytes()[..], &roots(), &Settings::default(), NOW_S).unwrap();
        store.roll_back(&"\u{1}".repeat(1 << 21), NOW_S).unwrap();
    }
    let record = store.record().clone();
    assert_eq!(record.history.len(), candor::slot::MAX_EVENTS);
    drop(store);
    assert_eq!(*Store::open(Folder::lock(folder.path()).unwrap()).unwrap().record(), record);
    let too_long = ListedKey { name: "x".repeat(129), ..crate::release::listed(&signer()) };
    let refused = KeyList::new(1, 1, vec![too_long]).unwrap_err().to_string();
    assert!(refused.contains("keys.name: expected at most 128 bytes, found 129"), "{refused}");
}

#[test]
fn a_clock_that_is_set_back_revives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = device(folder.path());
    store.roll_back("later", NOW_S + 3600).unwrap();
    let late = sound().bytes();
    let error = store.install(&late[..], &roots(), &Settings::default(), 0).unwrap_err().to_string();
    assert!(error.contains("expired at"), "{error}");
}

#[test]
fn a_reader_without_an_end_is_left_early() {
    for byte in [0, 1, 0xff] {
        let magic = &sound().bytes()[..12];
        let endless = magic.chain(std::io::repeat(byte));
        assert!(UnverifiedBundle::read(endless).is_err());
    }
}

#[test]
fn two_of_three_roots_are_enough_and_one_is_not() {
    let keys = [key(21), key(22), key(23)];
    let roots = Roots::new(keys.iter().map(PublicKey::of).collect(), 2).unwrap();
    let list = KeyList::new(1, 1, vec![listed(&signer())]).unwrap();
    assert_eq!(roots.check(&signed_list(&list, &[keys[2].clone(), keys[0].clone()])).unwrap(), list);
    assert!(roots.check(&signed_list(&list, &keys[..1])).is_err());
    assert!(Roots::new(keys.iter().map(PublicKey::of).collect(), 4).is_err());
    assert!(Roots::new(Vec::new(), 1).is_err());
    assert!(Roots::new(vec![PublicKey::of(&keys[0]); 2], 1).is_err());
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn changed_bundles_are_refused() {
    let (n_mutations, seed) = (env("CANDOR_MUTATIONS", N_MUTATIONS), env("CANDOR_SEED", 1));
    println!("{n_mutations} mutations, seed {seed}");
    let mut random = Random(seed);
    let whole = sound().bytes();
    for n in 0..n_mutations {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(6) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.next().to_le_bytes()[0],
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, random.next().to_le_bytes()[0]),
                4 => drop(bytes.remove(at).to_le_bytes()),
                _ => {
                    let end = (at + random.below(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = random.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        fuzzing::bundle(&bytes);
        if bytes != whole {
            let taken = UnverifiedBundle::read(&bytes[..])
                .and_then(|bundle| bundle.verify(&roots(), None, Some(NOW_S)))
                .and_then(|bundle| bundle.copy(&mut std::io::sink()));
            assert!(taken.is_err(), "mutation {n} of seed {seed} was taken");
        }
    }
}

#[test]
fn the_fuzz_seed_is_a_sound_bundle() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/bundle/sound");
    if std::env::var_os("CANDOR_WRITE_SEEDS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, sound().bytes()).unwrap();
    }
    assert!(fs::read(&path).unwrap() == sound().bytes(), "run with CANDOR_WRITE_SEEDS=1 once");
    assert_eq!(fuzzing::BUNDLE_ROOT, PublicKey::of(&root()).to_string());
}

#[test]
fn slots_are_empty_at_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Folder::lock(folder.path()).unwrap()).unwrap();
    assert_eq!(store.record().slots, Slots::default());
}
