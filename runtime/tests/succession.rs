//! A model that is installed while `candor watch` runs: tried beside the one in use, it takes over or is given up.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use candor::bundle::{Bundle, PublicKey};
use candor::classify::Classifier;
use candor::engine::Engine;
use candor::slot::{Boot, Store};
use image::RgbImage;
use serde_json::Value;

use crate::release::{Draft, key, key_list_file, lasting_list, noise, root};

const PROGRAM: &str = env!("CARGO_BIN_EXE_candor");
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/astronaut.mp4");
/// Ends a run that nothing else ends.
const MOST_FRAMES: &str = "9000";

/// The built-in model as a signed bundle of another version, its scores' log odds moved by `bias`.
fn bundle(version: &str, bias: f32) -> Vec<u8> {
    let built_in = Bundle::embedded().unwrap();
    let side = built_in.manifest().input.size_px;
    let mut classifier = Classifier::new(&Engine::default(), built_in.manifest(), built_in.model()).unwrap();
    let goldens: Vec<_> = (0..2)
        .map(|seed| {
            let input = noise(seed, (side * side * 3) as usize);
            let crop = RgbImage::from_vec(side, side, input.clone()).unwrap();
            let logits = classifier.logits(&[&crop]).unwrap()[0];
            (input, logits.map(f32::to_bits))
        })
        .collect();
    let mut draft = Draft::new(built_in.model(), side, &goldens).lasting();
    let release = draft.manifest.release.take();
    let model = draft.manifest.model.clone();
    draft.manifest = built_in.manifest().clone();
    (draft.manifest.release, draft.manifest.model) = (release, model);
    (draft.manifest.id, draft.manifest.version) = ("successor".into(), version.into());
    draft.manifest.score.bias += bias;
    draft.bytes()
}

/// A device's folder. A trial takes so many looks.
fn prepared(shadow_looks: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (slots, evidence) = (folder.path().join("slots"), folder.path().join("evidence"));
    let root = PublicKey::of(&root());
    let text = format!(
        "[slots]\nfolder = {slots:?}\nroot_keys = [\"{root}\"]\nshadow_looks = {shadow_looks}\n\
         max_time_ratio = 1000.0\n[watch]\nscore_interval_ms = 100\n[evidence]\nfolder = {evidence:?}\n"
    );
    fs::write(folder.path().join("candor.toml"), text).unwrap();
    folder
}

fn slot(folder: &Path, step: &[&str]) -> String {
    let config = folder.join("candor.toml");
    let output = Command::new(PROGRAM).arg("slot").args(step).arg("--config").arg(config).output().unwrap();
    assert!(output.status.success(), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn install(folder: &Path, bundle: &[u8]) {
    let path = folder.join("new.bundle");
    fs::write(&path, bundle).unwrap();
    slot(folder, &["install", path.to_str().unwrap()]);
}

fn status(folder: &Path) -> Value {
    serde_json::from_str(&slot(folder, &["status", "--json"])).unwrap()
}

/// A run that ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Device {
    // Ends before its folder goes.
    child: Running,
    folder: tempfile::TempDir,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Device {
    /// A run over the clip, again and again, at its own pace.
    fn watching(folder: tempfile::TempDir) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["watch", "--play", CLIP, "--repeat", "10000", "--frames", MOST_FRAMES])
            .args(["--interval-ms", "50", "--cpu-share", "1", "--config"])
            .arg(folder.path().join("candor.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Device { child: Running(child), folder, lines }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The next event of this kind, and those before it.
    fn next(&mut self, kind: &str) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        for line in self.lines.by_ref() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["event"] == kind {
                return (event, before);
            }
            before.push(event);
        }
        panic!("the run ended without {kind}: {before:?}");
    }

    fn expect_step(&mut self, step: &str, version: &str) -> (String, Vec<Value>) {
        let (event, before) = self.next("model");
        assert_eq!((&event["step"], &event["model"]["version"]), (&step.into(), &version.into()), "{event}");
        (event["reason"].as_str().unwrap_or_default().to_owned(), before)
    }

    /// Ends the run as a service manager does; everything that it said since.
    fn stop(mut self) -> (Option<i32>, Vec<Value>, tempfile::TempDir) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let rest = self.lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        (self.child.0.wait().unwrap().code(), rest, self.folder)
    }
}

fn verify_log(folder: &Path) -> Value {
    let out = Command::new(PROGRAM).args(["verify-log", "--json"]).arg(folder).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn a_good_model_takes_over_a_broken_one_is_given_up_and_a_person_may_go_back() {
    let mut device = Device::watching(prepared(12));
    device.next("score");
    install(device.path(), &bundle("9.0.0", 0.1));
    device.expect_step("trial-started", "9.0.0");
    let (reason, before) = device.expect_step("took-over", "9.0.0");
    assert!(reason.contains("looks beside the model before: 0.0 % contrary"), "{reason}");
    assert!(before.iter().any(|event| event["event"] == "verdict"), "faces are over with the model before");
    let status = status(device.path());
    let last = status["record"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["reason"]), (&"confirmed".into(), &reason.into()));

    install(device.path(), &bundle("9.1.0", 9.0));
    device.expect_step("trial-started", "9.1.0");
    let (reason, _) = device.expect_step("given-up", "9.1.0");
    assert!(reason.contains("contrary verdicts"), "{reason}");
    assert!(slot(device.path(), &["status"]).contains("bad: beside the model in use"));

    slot(device.path(), &["rollback"]);
    let built_in = Bundle::embedded().unwrap();
    device.expect_step("took-over", &built_in.manifest().version);
    device.next("score");
    let (code, rest, folder) = device.stop();
    assert_eq!(code, Some(130));
    let summary = rest.iter().find(|event| event["event"] == "summary").unwrap();
    assert_eq!(summary["model"]["id"], built_in.manifest().id.as_str());

    // The evidence log tells which model each verdict is of. Of those that took over only the built-in one is at hand here.
    let checked = verify_log(&folder.path().join("evidence"));
    assert_eq!(checked["findings"], Value::Array(Vec::new()), "{checked}");
    let entries = fs::read_to_string(folder.path().join("evidence/000001/entries.jsonl")).unwrap();
    let ids: Vec<Value> = entries
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|entry| entry["entry"] == "start")
        .map(|entry| entry["model"]["version"].clone())
        .collect();
    assert!(ids.contains(&"9.0.0".into()) && !ids.contains(&"9.1.0".into()), "{ids:?}");
}

#[test]
fn a_trial_that_is_not_over_costs_no_start() {
    let folder = prepared(100_000);
    install(folder.path(), &bundle("9.0.0", 0.1));
    let mut device = Device::watching(folder);
    device.expect_step("trial-started", "9.0.0");
    assert_eq!(status(device.path())["record"]["slots"]["a"]["trial"]["left"], 2);
    device.next("score");
    let (code, _, folder) = device.stop();
    assert_eq!(code, Some(130));
    let status = status(folder.path());
    let trial = &status["record"]["slots"]["a"]["trial"];
    assert_eq!((&trial["left"], &trial["has_run"]), (&3.into(), &false.into()), "{status}");
}

#[test]
fn a_device_without_its_key_list_condemns_nothing() {
    let folder = prepared(100_000);
    install(folder.path(), &bundle("9.0.0", 0.1));
    let list = folder.path().join("slots/keys");
    let whole = fs::read(&list).unwrap();
    fs::write(&list, &whole[..whole.len() - 1]).unwrap();
    let mut device = Device::watching(folder);
    // Longer than two looks at the slots.
    loop {
        let (score, before) = device.next("score");
        assert!(before.iter().all(|event| event["event"] != "model"), "{before:?}");
        if score["at_s"].as_f64().unwrap() > 6.0 {
            break;
        }
    }
    fs::write(&list, whole).unwrap();
    device.expect_step("trial-started", "9.0.0");
    device.stop();
}

#[test]
fn what_somebody_else_makes_of_a_trial_is_told() {
    let folder = prepared(100_000);
    let store = || Store::locked(&folder.path().join("slots")).unwrap();
    install(folder.path(), &bundle("9.0.0", 0.1));
    // A scan with it has ended well before.
    let Boot::Trial(held) = store().boot(3, 0).unwrap() else { panic!("no trial") };
    store().ran_well(held.digest, 0).unwrap();
    let mut device = Device::watching(folder);
    device.expect_step("trial-started", "9.0.0");
    slot(device.path(), &["confirm"]);
    assert_eq!(device.expect_step("took-over", "9.0.0").0, "it was confirmed meanwhile");
    device.next("score");

    install(device.path(), &bundle("9.1.0", 0.1));
    device.expect_step("trial-started", "9.1.0");
    slot(device.path(), &["rollback", "--reason", "no good"]);
    assert_eq!(device.expect_step("given-up", "9.1.0").0, "its trial was ended meanwhile: no good");
    let (_, rest, folder) = device.stop();
    let summary = rest.iter().find(|event| event["event"] == "summary").unwrap();
    assert_eq!(summary["model"]["version"], "9.0.0");

    // Runs that didn't end have used up its starts.
    install(folder.path(), &bundle("9.2.0", 0.1));
    for _ in 0..3 {
        Store::locked(&folder.path().join("slots")).unwrap().boot(3, 0).unwrap();
    }
    let mut device = Device::watching(folder);
    let (reason, _) = device.expect_step("given-up", "9.2.0");
    assert!(reason.starts_with("no start is left"), "{reason}");
    let status = status(device.path());
    let last = status["record"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["reason"]), (&"failed".into(), &reason.into()));
    device.stop();
}

#[test]
fn a_trial_goes_on_until_its_end_is_written_down() {
    let mut device = Device::watching(prepared(60));
    device.next("score");
    install(device.path(), &bundle("9.0.0", 0.1));
    device.expect_step("trial-started", "9.0.0");
    // Where the record is to be written stands something else.
    let incoming = device.path().join("slots/incoming");
    fs::create_dir(&incoming).unwrap();
    for _ in 0..80 {
        let (_, before) = device.next("score");
        assert!(before.iter().all(|event| event["event"] != "model"), "{before:?}");
    }
    assert_eq!(status(device.path())["record"]["slots"]["a"]["trial"]["has_run"], false);
    fs::remove_dir(&incoming).unwrap();
    let (reason, _) = device.expect_step("took-over", "9.0.0");
    assert!(reason.contains("looks beside the model before"), "{reason}");

    // A key that is revoked while its model is tried.
    install(device.path(), &bundle("9.1.0", 0.1));
    device.expect_step("trial-started", "9.1.0");
    let keys = device.path().join("keys.list");
    fs::write(&keys, key_list_file(&lasting_list(2, &[key(9)]))).unwrap();
    slot(device.path(), &["keys", keys.to_str().unwrap()]);
    let (reason, _) = device.expect_step("given-up", "9.1.0");
    assert!(reason.contains("is not in the key list with serial 2"), "{reason}");
    assert!(slot(device.path(), &["status"]).contains(&format!("bad: {reason}")));
    device.stop();
}
