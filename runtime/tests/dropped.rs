//! Bundles in a drop folder: each is taken once at most, whatever else lies there.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candor::bundle::{Digest, PublicKey};
use candor::slot::{Folder, Found, Looker, Name, Place, Settings, Slot, Store};

use crate::release::{Draft, NOW_S, key, root, roots};

/// Ends a run that nothing else ends.
const MOST_FRAMES: &str = "9000";

struct Device {
    scratch: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        let device = Device { scratch: tempfile::tempdir().unwrap() };
        fs::create_dir(device.drop()).unwrap();
        device
    }

    fn drop(&self) -> PathBuf {
        self.scratch.path().join("drop")
    }

    fn slots(&self) -> PathBuf {
        self.scratch.path().join("slots")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.drop().join(name), bytes).unwrap();
    }

    /// What a look says of each file, by its name.
    fn look(&self, looker: &mut Looker) -> Vec<(String, String)> {
        self.look_at(looker, || NOW_S, 20_000)
    }

    /// The same by another clock and another limit.
    fn look_at(
        &self,
        looker: &mut Looker,
        now_unix_s: fn() -> u64,
        max_bundle_bytes: u64,
    ) -> Vec<(String, String)> {
        let limits = Settings { max_bundle_bytes, ..Settings::default() };
        let (folder, roots) = (self.slots(), roots());
        let place = Place { folder: &folder, roots: &roots, limits: &limits, now_unix_s };
        let found = looker.look(&place, &[self.drop(), self.scratch.path().join("no stick")]).unwrap();
        let name = |found: &Found| found.file.file_name().unwrap().to_str().unwrap().to_owned();
        found.iter().map(|found| (name(found), found.outcome.text())).collect()
    }

    fn expect(&self, looker: &mut Looker, expected: &[(&str, &str)]) {
        let found = self.look(looker);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((name, text), (expected_name, expected_text)) in found.iter().zip(expected) {
            assert!(name == expected_name && text.contains(expected_text), "{expected_text}: {name}: {text}");
        }
    }

    fn result(&self, name: &str) -> String {
        fs::read_to_string(self.drop().join(format!("{name}.result.txt"))).unwrap()
    }

    fn store(&self) -> Store<Folder> {
        Store::open(Folder::lock(&self.slots()).unwrap()).unwrap()
    }
}

#[test]
fn what_is_good_is_installed_once_and_what_is_bad_is_refused_once() {
    let device = Device::new();
    let mut stranger = Draft::of_noise(7, 1000);
    stranger.signers = vec![key(9)];
    let first = Draft::of_noise(1, 1000).bytes();
    device.put("a.bundle", b"nonsense");
    device.put("b.bundle", &first);
    device.put("c.bundle", &stranger.bytes());
    device.put("d.bundle", &Draft::of_noise(2, 1000).bytes());
    device.put("readme.txt", b"no bundle");
    device.put("._b.bundle", b"what some systems leave");
    let mut once = Looker::once();
    device.expect(
        &mut once,
        &[
            ("a.bundle", "refused: bundle first bytes"),
            ("b.bundle", "installed: test 0.1.0; the next start tries it"),
            ("c.bundle", "waits: slot A: test 0.1.0 is to be tried first"),
            ("d.bundle", "waits: slot A: test 0.1.0 is to be tried first"),
        ],
    );
    assert!(device.result("a.bundle").starts_with("refused: bundle first bytes"));
    assert!(device.result("b.bundle").starts_with("installed: test 0.1.0"));
    assert!(!device.drop().join("c.bundle.result.txt").exists());
    let event = device.store().record().history.last().unwrap().clone();
    assert_eq!(event.reason.as_deref(), Some("dropped as b.bundle"));
    assert_eq!(event.bundle.digest, Digest::of(&first));

    // Given up: neither it nor a copy of it comes back, and the next one has its turn.
    device.store().roll_back("no good", NOW_S).unwrap();
    device.put("0.bundle", &first);
    fs::remove_file(device.drop().join("b.bundle.result.txt")).unwrap();
    device.expect(
        &mut Looker::once(),
        &[
            ("0.bundle", "installed: test"),
            ("a.bundle", "refused: bundle first bytes"),
            ("b.bundle", "installed: test"),
            ("c.bundle", "refused: bundle"),
            ("d.bundle", "installed: test"),
        ],
    );
    assert!(device.result("b.bundle").starts_with("installed: test 0.1.0"), "it is told again");
    assert_eq!(device.store().record().history.len(), 3, "installed, rolled back, installed");
    let slots = device.store().record().slots.clone();
    let fourth = Digest::of(&Draft::of_noise(2, 1000).bytes());
    assert!(matches!(slots.slot(Name::A), Slot::Staged(held) if held.digest == fourth), "{slots:?}");
}

#[test]
fn a_bundle_found_bad_by_other_ways_is_known() {
    let device = Device::new();
    let bytes = Draft::of_noise(1, 1000).bytes();
    let mut store = device.store();
    store.install(&bytes[..], &roots(), &Settings::default(), NOW_S).unwrap();
    drop(store);
    device.put("a.bundle", &bytes);
    device.expect(&mut Looker::once(), &[("a.bundle", "slot A holds it")]);
    device.store().roll_back("too many alarms", NOW_S).unwrap();
    device.expect(&mut Looker::once(), &[("a.bundle", "slot A: found bad: too many alarms")]);
}

#[test]
fn a_file_that_is_still_copied_is_let_alone() {
    let (device, mut looker) = (Device::new(), Looker::patient());
    let bytes = Draft::of_noise(1, 1000).bytes();
    for n in [100, 500, bytes.len()] {
        device.put("a.bundle", &bytes[..n]);
        device.expect(&mut looker, &[("a.bundle", "waits: it was changed since the last look")]);
    }
    device.expect(&mut looker, &[("a.bundle", "installed: test")]);
    device.expect(&mut looker, &[("a.bundle", "installed: test")]);
    assert_eq!(device.store().record().history.len(), 1);
}

#[test]
fn no_name_makes_a_device_open_or_write_anything_else() {
    let device = Device::new();
    let good = device.scratch.path().join("outside");
    fs::write(&good, Draft::of_noise(1, 1000).bytes()).unwrap();
    symlink(&good, device.drop().join("link.bundle")).unwrap();
    symlink("/dev/zero", device.drop().join("zero.bundle")).unwrap();
    fs::create_dir(device.drop().join("folder.bundle")).unwrap();
    // Nobody ever writes into it.
    let made = Command::new("mkfifo").arg(device.drop().join("pipe.bundle")).status().unwrap();
    assert!(made.success());
    fs::File::create(device.drop().join("vast.bundle")).unwrap().set_len(1 << 40).unwrap();
    device.put("empty.bundle", b"");
    let precious = device.scratch.path().join("precious");
    fs::write(&precious, b"as it was").unwrap();
    symlink(&precious, device.drop().join("empty.bundle.result.txt")).unwrap();
    let expected = [("empty.bundle", "refused: size: expected 1 to "), ("vast.bundle", "refused: size")];
    device.expect(&mut Looker::once(), &expected);
    assert_eq!(fs::read(&precious).unwrap(), b"as it was");
    assert!(device.result("empty.bundle").starts_with("refused: size"));
    assert!(device.store().record().history.is_empty());
}

#[test]
fn what_the_device_refused_for_its_own_sake_is_tried_again() {
    for mut looker in [Looker::once(), Looker::patient()] {
        let device = Device::new();
        device.put("a.bundle", &Draft::of_noise(1, 1000).bytes());
        device.look(&mut Looker::once());
        device.store().roll_back("test", NOW_S).unwrap();
        device.put("b.bundle", &Draft::of_noise(2, 1000).bytes());
        // A patient one lets it rest first.
        device.look_at(&mut looker, || NOW_S + 7200, 20_000);
        let refused = device.look_at(&mut looker, || NOW_S + 7200, 20_000);
        assert!(refused[1].1.contains("expiry: the bundle expired"), "{refused:?}");
        // For the same reason: told once, or a stick would be written at each look.
        assert_eq!(device.look_at(&mut looker, || NOW_S + 9000, 20_000), refused);
        assert_eq!(device.result("b.bundle"), format!("{}\n", refused[1].1));
        let refused = device.look_at(&mut looker, || NOW_S, 500);
        assert!(refused[1].1.contains("size: expected at most 500 bytes"), "{refused:?}");
        device.expect(&mut looker, &[("a.bundle", "installed: test"), ("b.bundle", "installed: test")]);
        let slots = device.store().record().slots.clone();
        assert!(matches!(slots.slot(Name::A), Slot::Staged(_)), "{slots:?}");
    }
}

#[test]
fn many_files_cost_no_more_than_a_few_at_a_time_and_keep_none_out() {
    let device = Device::new();
    let is_installed = || matches!(device.store().record().slots.slot(Name::A), Slot::Staged(_));
    for idx in 0..40 {
        device.put(&format!("{idx:02}.bundle"), format!("nonsense {idx}").as_bytes());
    }
    device.put("good.bundle", &Draft::of_noise(1, 1000).bytes());
    let found = device.look(&mut Looker::once());
    assert_eq!((found.len(), found[15].0.as_str()), (16, "15.bundle"));
    // A damaged journal costs another try, and nothing else.
    fs::write(device.slots().join("drops"), b"[{]").unwrap();
    assert_eq!(device.look(&mut Looker::once()), found);
    device.look(&mut Looker::once());
    assert!(!is_installed());
    device.look(&mut Looker::once());
    assert!(is_installed());
}

#[test]
fn more_files_than_are_remembered_keep_none_out() {
    let (device, mut looker) = (Device::new(), Looker::patient());
    for idx in 0..300 {
        device.put(&format!("{idx:03}.bundle"), format!("nonsense {idx}").as_bytes());
    }
    device.put("good.bundle", &Draft::of_noise(1, 1000).bytes());
    assert_eq!(device.look(&mut looker).len(), 301, "they rest");
    for _ in 0..19 {
        device.look(&mut looker);
    }
    let slots = device.store().record().slots.clone();
    assert!(matches!(slots.slot(Name::A), Slot::Staged(_)), "{slots:?}");
}

fn configured(device: &Device) -> PathBuf {
    let path = device.scratch.path().join("candor.toml");
    let (slots, drop, root) = (device.slots(), device.drop(), PublicKey::of(&root()));
    let text = format!(
        "[slots]\nfolder = {slots:?}\nroot_keys = [\"{root}\"]\ndrop = {drop:?}\ndrop_interval_s = 1\n"
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn by_hand_the_exit_code_says_whether_anything_was_refused() {
    let device = Device::new();
    let config = configured(&device);
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
        let output = command.args(["slot", "check-drop", "--config"]).arg(&config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = check();
    assert!(code == Some(0) && said.starts_with("no bundle in "), "{said}");
    device.put("a.bundle", &Draft::of_noise(1, 1000).lasting().bytes());
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("a.bundle: installed: test 0.1.0"), "{said}");
    device.put("b.bundle", b"nonsense");
    device.store().roll_back("test", 0).unwrap();
    let (code, said) = check();
    assert!(code == Some(5) && said.contains("b.bundle: refused: "), "{said}");
    assert_eq!(check().0, Some(0), "what was refused before is known");
}

#[test]
fn a_running_watch_takes_what_is_dropped() {
    let device = Device::new();
    device.put("a.bundle", &Draft::of_noise(1, 1000).lasting().bytes());
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4");
    let mut child = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["watch", "--play"])
        .arg(clip)
        .args(["--repeat", "1000", "--frames", MOST_FRAMES, "--config"])
        .arg(configured(&device))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.into_iter().find(|line| line.contains("a.bundle: "));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(told.is_some_and(|line| line.contains("installed: test 0.1.0; the next start tries it")));
    let record = device.store().record().clone();
    assert!(matches!(record.slots.slot(Name::A), Slot::Staged(_)), "{record:?}");
    assert!(device.result("a.bundle").starts_with("installed: "));
}
