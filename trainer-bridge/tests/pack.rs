//! From new keys to a bundle that a device takes, with the program that people use.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use candor::bundle::{Bundle, Digest, PublicKey, Roots, UnverifiedBundle, UnverifiedChannel};
use candor::engine::Engine;
use candor::slot::{Settings, try_out};
use trainer_bridge::pack::key_file;

const PASSPHRASE: &str = "correct horse battery";

/// Runs the program in `folder`; what it says on standard error where it fails.
fn trainer_bridge(folder: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"))
        .args(args)
        .current_dir(folder)
        .env("CANDOR_PASSPHRASE", PASSPHRASE)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn public(folder: &Path, name: &str) -> PublicKey {
    fs::read_to_string(folder.join(name)).unwrap().trim().parse().unwrap()
}

fn default_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default")
}

#[test]
fn a_folder_becomes_a_bundle_that_a_device_takes() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let run = |args: &[&str]| trainer_bridge(folder, args).unwrap();
    for name in ["root-1", "root-2", "release"] {
        run(&["keygen", name]);
    }
    run(&["key-list", "release.pub", "--serial", "3", "--out", "keys.list"]);
    run(&["sign", "keys.list", "--key", "root-1.key"]);
    run(&["sign", "keys.list", "--key", "root-2.key"]);
    let source = default_bundle().display().to_string();
    run(&["pack", &source, "--key-list", "keys.list", "--signer", "release.pub", "--out", "m.bundle"]);
    let open = || UnverifiedBundle::read(File::open(folder.join("m.bundle")).unwrap()).unwrap();
    let roots = Roots::new(vec![public(folder, "root-1.pub"), public(folder, "root-2.pub")], 2).unwrap();
    assert!(open().verify(&roots, None, None).is_err(), "nobody has signed it");
    run(&["sign", "m.bundle", "--key", "release.key"]);
    let verified = open().verify(&roots, None, None).unwrap();
    assert_eq!((verified.key_list().0.serial, verified.signers()[0].name.as_str()), (3, "release"));
    assert_eq!(verified.release().documents.len(), 2, "card and licence go along");
    let (bundle, _) = verified.load().unwrap();
    let floor = Bundle::embedded().unwrap();
    assert!(bundle.model() == floor.model());
    assert_eq!(bundle.goldens().count(), 4);
    let limits = Settings { max_time_ratio: f32::MAX, ..Settings::default() };
    try_out(&Engine::default(), &bundle, &floor, &limits).unwrap();

    let before = fs::read(folder.join("m.bundle")).unwrap();
    run(&["sign", "m.bundle", "--key", "release.key"]);
    assert!(fs::read(folder.join("m.bundle")).unwrap() == before, "signing again changes nothing");
}

#[test]
fn a_channel_offers_a_signed_bundle() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let run = |args: &[&str]| trainer_bridge(folder, args).unwrap();
    for name in ["root", "release", "herald"] {
        run(&["keygen", name]);
    }
    let list = |args: &[&str]| {
        run(&[&["key-list", "release.pub", "--serial", "1", "--out", "keys.list"], args].concat());
        run(&["sign", "keys.list", "--key", "root.key"]);
    };
    let channel = |args: &[&str]| {
        let fixed = ["channel", "m.bundle", "--key-list", "keys.list", "--out", "stable.channel"];
        trainer_bridge(folder, &[&fixed, args].concat())
    };
    list(&[]);
    let source = default_bundle().display().to_string();
    run(&["pack", &source, "--key-list", "keys.list", "--signer", "release.pub", "--out", "m.bundle"]);
    assert!(channel(&[]).unwrap_err().contains("expected a key that signs channels"));
    list(&["--channel-key", "herald.pub"]);
    assert!(channel(&[]).unwrap_err().contains("expected a signed bundle"));
    run(&["sign", "m.bundle", "--key", "release.key"]);
    channel(&["--rollout", "10"]).unwrap();

    let roots = Roots::new(vec![public(folder, "root.pub")], 1).unwrap();
    let read = || {
        let file = UnverifiedChannel::read(File::open(folder.join("stable.channel")).unwrap()).unwrap();
        file.check_list(&roots, None).unwrap()
    };
    assert!(read().verify(0).is_err(), "nobody has signed it");
    run(&["sign", "stable.channel", "--key", "release.key"]);
    let error = read().verify(0).unwrap_err().to_string();
    assert!(error.contains("(release) signs bundles"), "{error}");
    run(&["sign", "stable.channel", "--key", "herald.key"]);
    let said = read().verify(0).unwrap().channel;
    let bundle = fs::read(folder.join("m.bundle")).unwrap();
    assert_eq!((said.name.as_str(), said.serial, said.rollout_percent), ("stable", 1, 10.0));
    assert_eq!(said.bundle.url, "m.bundle");
    assert_eq!((said.bundle.size_bytes, said.bundle.sha256), (bundle.len() as u64, Digest::of(&bundle)));

    // The next one has the next serial, and has to be signed again.
    channel(&["--url", "https://cdn.example/m.bundle"]).unwrap();
    assert!(read().file.channel.signatures.is_empty());
    run(&["sign", "stable.channel", "--key", "herald.key"]);
    let said = read().verify(0).unwrap().channel;
    assert_eq!((said.serial, said.rollout_percent), (2, 100.0));
    for (args, named) in [
        (["--rollout", "101"], "rollout_percent"),
        (["--url", "http://cdn.example/m"], "bundle.url"),
        (["--name", "a\nb"], "name"),
    ] {
        assert!(channel(&args).unwrap_err().contains(named), "{named}");
    }
    assert_eq!(read().verify(0).unwrap().channel.serial, 2, "a refused one is not written");
}

#[test]
fn what_cannot_be_packed_or_signed_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    trainer_bridge(folder, &["keygen", "k"]).unwrap();
    assert!(trainer_bridge(folder, &["keygen", "k"]).unwrap_err().contains("k.key"));
    fs::write(folder.join("picture"), b"no bundle, no list").unwrap();
    let error = trainer_bridge(folder, &["sign", "picture", "--key", "k.key"]).unwrap_err();
    assert!(error.contains("a Candor bundle"), "{error}");
    fs::write(folder.join("wrong"), "another passphrase\n").unwrap();
    let wrong = &["sign", "picture", "--key", "k.key", "--passphrase-file", "wrong"];
    assert!(trainer_bridge(folder, wrong).unwrap_err().contains("the passphrase is wrong"));
    fs::write(folder.join("short"), "short\n").unwrap();
    let short = trainer_bridge(folder, &["keygen", "other", "--passphrase-file", "short"]).unwrap_err();
    assert!(short.contains("at least 8 bytes"), "{short}");
    assert!(!folder.join("other.key").exists());
}

#[test]
fn a_private_key_is_encrypted_and_its_owners() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("k.key");
    let public = key_file::create(&path, PASSPHRASE).unwrap();
    let key = key_file::open(&path, PASSPHRASE).unwrap();
    assert_eq!(PublicKey::of(&key), public);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&candor::bundle::to_hex(&key.to_bytes())));
    assert!(key_file::create(&path, PASSPHRASE).is_err(), "no key is written over");
    // Each field is covered by the tag or checked.
    let other = key_file::create(&scratch.path().join("other.key"), PASSPHRASE).unwrap();
    for (from, to) in [
        (public.to_string(), other.to_string()),
        ("\"passes\": 3".into(), "\"passes\": 2".into()),
        ("\"memory_kib\": 65536".into(), "\"memory_kib\": 4294967295".into()),
        ("\"format\": 1".into(), "\"format\": 2".into()),
    ] {
        let changed = text.replacen(&from, &to, 1);
        assert_ne!(changed, text, "{from}");
        fs::write(&path, changed).unwrap();
        assert!(key_file::open(&path, PASSPHRASE).is_err(), "{from}");
    }
}
