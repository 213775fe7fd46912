//! `candor slot` as a user runs it, and killed at any instant: what comes up is the old or the new.
//!
//! `CANDOR_KILLS` and `CANDOR_SEED` choose how many kills and which.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use candor::bundle::{Bundle, Digest, PublicKey};
use candor::classify::Classifier;
use candor::engine::Engine;
use candor::slot::{Folder, Name, Record, Slot, Store};
use serde_json::Value;

use crate::random::Random;
use crate::release::{Draft, key, key_list_file, lasting_list, noise, root, roots, signer};

/// Kills of an ordinary test run.
const N_KILLS: u64 = 24;

/// A bundle that doesn't expire.
fn draft(seed: u64) -> Draft {
    Draft::of_noise(seed, 300_000).lasting()
}

fn program(folder: &Path, step: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command.arg("slot").args(step).arg("--slots").arg(folder);
    command.args(["--root-key", &PublicKey::of(&root()).to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(folder: &Path, step: &[&str], input: &[u8]) -> Output {
    let mut child = program(folder, step).spawn().unwrap();
    // A program that refuses early doesn't read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The record, once every bundle that a slot holds has been found whole.
fn read(folder: &Path) -> Record {
    let store = Store::open(Folder::lock(folder).unwrap()).unwrap();
    for held in store.record().slots.held() {
        store.load(held, &roots()).unwrap();
    }
    store.key_list(&roots()).unwrap();
    store.record().clone()
}

fn next(record: &Record) -> Option<Digest> {
    record.slots.next_boot().held().map(|held| held.digest)
}

#[test]
fn a_bundle_goes_through_its_life() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    let clean = |output: Output| {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = |output: Output| {
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(clean(run(&folder, &["install", "-"], &draft(1).bytes())).contains("test 0.1.0 is installed"));
    let status: Value = serde_json::from_str(&clean(run(&folder, &["status", "--json"], b""))).unwrap();
    assert_eq!(status["next"], Digest::of(&draft(1).bytes()).to_string());
    assert_eq!(status["record"]["history"][0]["what"], "installed");
    assert!(refused(run(&folder, &["confirm"], b"")).contains("no run with it has ended well"));
    assert!(refused(run(&folder, &["install", "-"], b"nonsense")).contains("first bytes"));
    assert!(
        clean(run(&folder, &["keys", "-"], &key_list_file(&lasting_list(2, &[signer()]))))
            .contains("serial 2")
    );
    assert!(
        refused(run(&folder, &["keys", "-"], &key_list_file(&lasting_list(1, &[signer()]))))
            .contains("serial over 2")
    );
    assert!(clean(run(&folder, &["status"], b"")).contains("staged, the next scan tries it"));
    let rolled_back = clean(run(&folder, &["rollback", "--reason", "no good"], b""));
    assert!(rolled_back.contains("the next scan runs the built-in model"), "{rolled_back}");
    assert!(clean(run(&folder, &["status"], b"")).contains("bad: no good"));
    assert!(refused(run(&folder, &["rollback"], b"")).contains("nothing to roll back"));
}

#[test]
fn a_scan_tries_a_bundle_and_gives_it_up() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run(folder.path(), &["install", "-"], &draft(1).bytes()).status.success());
    let picture = folder.path().join("picture.png");
    image::RgbImage::new(64, 64).save(&picture).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["scan", "--json", "--root-key", &PublicKey::of(&root()).to_string(), "--slots"])
        .args([folder.path(), &picture])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bundle test 0.1.0 is given up: self-test: network test"), "{said}");
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    let built_in: Value = serde_json::from_str(include_str!("../../models/default/manifest.json")).unwrap();
    assert_eq!(line["model"]["id"], built_in["id"]);
}

/// What a sender says.
fn conversation(bytes: &[u8]) -> Vec<u8> {
    let head = format!("bundle {} {}\nfrom 0\n", Digest::of(bytes), bytes.len());
    [head.as_bytes(), bytes].concat()
}

#[test]
fn receiving_says_how_it_ended() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    let mut stranger = Draft::of_noise(1, 1000).lasting();
    stranger.signers = vec![key(9)];
    for (input, code, last) in [
        (conversation(&stranger.bytes()), 5, "refused bundle: manifest"),
        (conversation(&Draft::of_noise(1, 1000).bytes())[..200].to_vec(), 3, "have 0"),
        (b"status\n".to_vec(), 0, "status {"),
        (b"hello\n".to_vec(), 5, "refused protocol"),
    ] {
        let output = run(&folder, &["receive"], &input);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.lines().last().unwrap().starts_with(last), "{said}");
    }
}

/// The same as a user for whom the modes of files hold; for root they don't.
fn bound_by_modes(program: &Command) -> Command {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if is_root { OsStr::new("setpriv") } else { program.get_program() });
    if is_root {
        command.args(["--bounding-set=-dac_override", "--inh-caps=-dac_override"]).arg(program.get_program());
    }
    command.args(program.get_args());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn what_another_user_has_made_and_left_stops_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    assert!(run(&folder, &["install", "-"], &draft(1).bytes()).status.success());
    let bytes = draft(2).bytes();
    let digest = Digest::of(&bytes);
    for name in ["lock", "incoming", "receiving", &format!("{digest}.part")] {
        let path = folder.join(name);
        std::fs::write(&path, b"").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
    }
    let output = bound_by_modes(&program(&folder, &["rollback"])).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let mut child = bound_by_modes(&program(&folder, &["receive"])).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&conversation(&bytes)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(matches!(read(&folder).slots.slot(Name::A), Slot::Staged(held) if held.digest == digest));
}

fn scan(folder: &Path, input: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["scan", "--json", "--root-key", &PublicKey::of(&root()).to_string(), "--slots"])
        .arg(folder)
        .arg(input)
        .args(options)
        .output()
        .unwrap()
}

#[test]
fn where_nothing_was_ever_installed_the_built_in_model_runs() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, picture) = (scratch.path().join("slots"), scratch.path().join("picture.png"));
    image::RgbImage::new(64, 64).save(&picture).unwrap();
    let maps = scratch.path().join("maps");
    for step in [vec!["scan"], vec!["explain", "--crop", "--out", maps.to_str().unwrap()]] {
        let output = Command::new(env!("CARGO_BIN_EXE_candor"))
            .args(&step)
            .args(["--root-key", &PublicKey::of(&root()).to_string(), "--slots"])
            .args([&folder, &picture])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("slots"), "{output:?}");
        assert!(!folder.exists());
    }
}

/// A sound bundle of the built-in network; its goldens' outputs are the network's.
fn sound() -> Draft {
    let floor = Bundle::embedded().unwrap();
    let size_px = floor.manifest().input.size_px;
    let input = noise(1, 3 * size_px as usize * size_px as usize);
    let crop = image::RgbImage::from_raw(size_px, size_px, input.clone()).unwrap();
    let mut network = Classifier::new(&Engine::default(), floor.manifest(), floor.model()).unwrap();
    let logits = network.logits(&[&crop]).unwrap()[0].map(f32::to_bits);
    Draft::new(floor.model(), size_px, &[(input, logits)]).lasting()
}

/// The starts that the trial in slot A has left, and whether a run with it has ended well.
fn trial(folder: &Path) -> Option<(u8, bool)> {
    match read(folder).slots.slot(Name::A) {
        Slot::Trial { left, has_run, .. } => Some((*left, *has_run)),
        _ => None,
    }
}

#[test]
fn scans_that_score_nothing_show_nothing_and_cost_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    let config = scratch.path().join("candor.toml");
    // No clock decides.
    std::fs::write(&config, "[slots]\nmax_time_ratio = 1000000.0\n").unwrap();
    let config = config.to_str().unwrap();
    assert!(run(&folder, &["install", "-"], &sound().bytes()).status.success());
    let picture = scratch.path().join("picture.png");
    image::RgbImage::new(64, 64).save(&picture).unwrap();
    let annotate = ["--config", config, "--annotate", picture.to_str().unwrap()];
    assert_eq!(scan(&folder, &picture, &annotate).status.code(), Some(2), "a usage error");
    assert_eq!(trial(&folder), None, "it is staged still");
    for _ in 0..4 {
        let output = scan(&folder, &picture, &["--config", config]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(line["model"]["id"], "test");
        assert_eq!(trial(&folder), Some((3, false)));
    }
    // While another run makes the trial.
    let other = Folder::lock(&folder).unwrap().try_lock_trial().unwrap().unwrap();
    let output = scan(&folder, &picture, &["--config", config]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("another run makes a trial: no trial this time"), "{said}");
    drop(other);
    assert_eq!(trial(&folder), Some((3, false)));
}

/// Kills the program at some instant: after a number of looks, or a little after a file has come; `false` when it
/// ended before.
fn kill(mut child: Child, folder: &Path, coming: &str, random: &mut Random) -> bool {
    let inode = |name: &str| folder.join(name).metadata().ok().map(|m| m.ino());
    let record = inode("record");
    let most = 2 << random.below(12);
    let n_looks = random.below(most);
    let event = random.below(4);
    for look in 0.. {
        let has_come = match event {
            0 => look >= n_looks,
            1 => inode("incoming").is_some(),
            2 => inode(coming).is_some(),
            _ => inode("record") != record,
        };
        if has_come || child.try_wait().unwrap().is_some() {
            break;
        }
    }
    let most = 2 << random.below(16);
    (0..random.below(most)).for_each(|_| std::hint::spin_loop());
    if let Some(status) = child.try_wait().unwrap() {
        assert!(matches!(status.code(), Some(0 | 5)), "{status}");
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn killed_at_any_instant_the_old_or_the_new_comes_up() {
    let env = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (n_kills, seed) = (env("CANDOR_KILLS", N_KILLS), env("CANDOR_SEED", 1));
    let mut random = Random(seed);
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    let (mut n_killed, mut n_old, mut n_new, mut n_runs) = (0, 0, 0, 0);
    while n_killed < n_kills {
        n_runs += 1;
        assert!(n_runs < 100 * n_kills, "the program always ends before it is killed");
        let old = if folder.is_dir() { read(&folder) } else { Record::default() };
        let mut after = old.slots.clone();
        let (step, input): (&[&str], Vec<u8>) = match random.below(4) {
            0 if old.slots.held().count() > 0 => {
                // A trial that has run well, or nothing to confirm.
                let mut store = Store::open(Folder::lock(&folder).unwrap()).unwrap();
                if let Some(held) = store.boot(3, 0).unwrap().held() {
                    store.ran_well(held.digest, 0).unwrap();
                }
                after = store.record().slots.clone();
                let _ = after.confirm();
                (&["confirm"], Vec::new())
            }
            1 if old.slots.held().count() > 0 => {
                let _ = after.roll_back("test");
                (&["rollback"], Vec::new())
            }
            _ => {
                if old.slots.can_stage().is_err() {
                    Store::open(Folder::lock(&folder).unwrap()).unwrap().roll_back("test", 0).unwrap();
                    continue;
                }
                (&["install", "-"], draft(1000 + n_runs).bytes())
            }
        };
        let old = if folder.is_dir() { read(&folder) } else { old };
        let allowed = match step[0] {
            "install" => [next(&old), Some(Digest::of(&input))],
            _ => [next(&old), after.next_boot().held().map(|held| held.digest)],
        };
        let coming =
            if step[0] == "install" { format!("{}.bundle", Digest::of(&input)) } else { "keys".into() };
        let mut child = program(&folder, step).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let n_given = if random.below(4) > 0 { input.len() } else { random.below(input.len() + 1) };
        // A program that refuses early doesn't read all of it.
        let _ = stdin.write_all(&input[..n_given]);
        // What waits for the rest never comes to an end by itself.
        let is_killed = if n_given == input.len() {
            drop(stdin);
            kill(child, &folder, &coming, &mut random)
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            true
        };
        if !is_killed {
            continue;
        }
        n_killed += 1;
        if !folder.is_dir() {
            continue;
        }
        let found = next(&read(&folder));
        assert!(
            allowed.contains(&found),
            "seed {seed}, run {n_runs}, {step:?}: {found:?}, not of {allowed:?}"
        );
        if found == allowed[0] { n_old += 1 } else { n_new += 1 }
    }
    assert!(
        n_kills < 100 || (n_old > 0 && n_new > 0),
        "the kills come too early or too late: {n_old}, {n_new}"
    );
    let held: Vec<Slot> = Name::ALL.map(|name| read(&folder).slots.slot(name).clone()).to_vec();
    println!("{n_killed} kills in {n_runs} runs, seed {seed}: {n_old} old, {n_new} new; in the end {held:?}");
}
