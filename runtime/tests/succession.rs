//! A model that is installed while `candor watch` runs: tried beside the one in use, it takes over or is given up.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use candor::bundle::{Bundle, PublicKey};
use candor::classify::Classifier;
use candor::engine::Engine;
use image::RgbImage;
use serde_json::Value;

use crate::release::{Draft, noise, root};

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

struct Device {
    folder: tempfile::TempDir,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Device {
    /// A run over the clip, again and again, at its own pace.
    fn watching() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (slots, evidence) = (folder.path().join("slots"), folder.path().join("evidence"));
        let root = PublicKey::of(&root());
        let text = format!(
            "[slots]\nfolder = {slots:?}\nroot_keys = [\"{root}\"]\nshadow_looks = 12\nmax_time_ratio = 1000.0\n\
             [evidence]\nfolder = {evidence:?}\n"
        );
        fs::write(folder.path().join("candor.toml"), text).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["watch", "--play", CLIP, "--repeat", "10000", "--frames", MOST_FRAMES])
            .args(["--interval-ms", "50", "--cpu-share", "1", "--config"])
            .arg(folder.path().join("candor.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Device { folder, child, lines }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("candor.toml")
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

    fn slot(&self, step: &[&str]) -> String {
        let output = Command::new(PROGRAM).arg("slot").args(step).arg("--config").arg(self.config()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn install(&self, bundle: &[u8]) {
        let path = self.folder.path().join("new.bundle");
        fs::write(&path, bundle).unwrap();
        self.slot(&["install", path.to_str().unwrap()]);
    }

    fn expect_step(&mut self, step: &str, version: &str) -> (String, Vec<Value>) {
        let (event, before) = self.next("model");
        assert_eq!((&event["step"], &event["model"]["version"]), (&step.into(), &version.into()), "{event}");
        (event["reason"].as_str().unwrap_or_default().to_owned(), before)
    }

    /// Ends the run as a service manager does; everything that it said since.
    fn stop(mut self) -> (Option<i32>, Vec<Value>, tempfile::TempDir) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let rest = self.lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        (self.child.wait().unwrap().code(), rest, self.folder)
    }
}

fn verify_log(folder: &Path) -> Value {
    let out = Command::new(PROGRAM).args(["verify-log", "--json"]).arg(folder).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn a_good_model_takes_over_a_broken_one_is_given_up_and_a_person_may_go_back() {
    let mut device = Device::watching();
    device.next("score");
    device.install(&bundle("9.0.0", 0.1));
    device.expect_step("trial-started", "9.0.0");
    let (reason, before) = device.expect_step("took-over", "9.0.0");
    assert!(reason.contains("looks beside the model before: 0.0 % contrary"), "{reason}");
    assert!(before.iter().any(|event| event["event"] == "verdict"), "faces are over with the model before");
    let status: Value = serde_json::from_str(&device.slot(&["status", "--json"])).unwrap();
    let last = status["record"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["reason"]), (&"confirmed".into(), &reason.into()));

    device.install(&bundle("9.1.0", 9.0));
    device.expect_step("trial-started", "9.1.0");
    let (reason, _) = device.expect_step("given-up", "9.1.0");
    assert!(reason.contains("contrary verdicts"), "{reason}");
    assert!(device.slot(&["status"]).contains("bad: beside the model in use"));

    device.slot(&["rollback"]);
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
    let mut device = Device::watching();
    device.next("score");
    let text = fs::read_to_string(device.config()).unwrap();
    let (code, _, folder) = device.stop();
    assert_eq!(code, Some(130));
    // The same device, with a trial that takes long.
    fs::write(folder.path().join("candor.toml"), text.replace("shadow_looks = 12", "shadow_looks = 100000"))
        .unwrap();
    let mut device = restarted(folder);
    device.install(&bundle("9.0.0", 0.1));
    device.expect_step("trial-started", "9.0.0");
    device.next("score");
    let (_, _, folder) = device.stop();
    let device = restarted(folder);
    let status: Value = serde_json::from_str(&device.slot(&["status", "--json"])).unwrap();
    let trial = &status["record"]["slots"]["a"]["trial"];
    assert!(trial["left"].as_u64().unwrap() >= 2, "{status}");
    device.stop();
}

fn restarted(folder: tempfile::TempDir) -> Device {
    let mut child = Command::new(PROGRAM)
        .args(["watch", "--play", CLIP, "--repeat", "10000", "--frames", MOST_FRAMES, "--config"])
        .arg(folder.path().join("candor.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Device { folder, child, lines }
}
