//! `trainer-bridge flash` to a `candor` behind a real sshd, over wires that break.
//!
//! `candor` is taken from beside `trainer-bridge`: `cargo test --workspace` builds both. `CANDOR_SEED` and `CANDOR_CUTS`
//! choose where wires are cut and how often.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../../runtime/tests/support/random.rs"]
mod random;
#[path = "../../../runtime/tests/support/release.rs"]
mod release;
mod sshd;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candor::bundle::{Digest, PublicKey};
use candor::slot::{Folder, Name, Slot, Store};

use crate::random::Random;
use crate::release::{Draft, key, root, roots};
use crate::sshd::{Sshd, Wire};

/// Cuts of an ordinary test run.
const N_CUTS: usize = 50;

/// A bundle that doesn't expire, to be moved about.
fn draft(seed: u64, n_bytes: usize) -> Draft {
    Draft::of_noise(seed, n_bytes).lasting()
}

/// A device's files: its configuration, its slots, and candor under a name that a shell must not touch.
struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    /// Nothing, with a printed reason, where candor isn't built.
    fn new(max_bundle_bytes: u64) -> Option<Self> {
        let candor = Path::new(env!("CARGO_BIN_EXE_trainer-bridge")).with_file_name("candor");
        if !candor.is_file() {
            let is_required = std::env::var("CANDOR_REQUIRE_FIXTURES").is_ok_and(|v| v == "1");
            assert!(!is_required, "{} is missing: cargo build --workspace", candor.display());
            println!("skipped: {} is missing, run cargo build --workspace", candor.display());
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let device = Device { folder };
        std::os::unix::fs::symlink(candor, device.candor()).unwrap();
        device.configure(max_bundle_bytes);
        Some(device)
    }

    fn candor(&self) -> PathBuf {
        self.folder.path().join("my $(candor)'s")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("candor.toml")
    }

    fn slots(&self) -> PathBuf {
        self.folder.path().join("slots")
    }

    fn configure(&self, max_bundle_bytes: u64) {
        let (folder, root) = (self.slots(), PublicKey::of(&root()));
        let text = format!(
            "[slots]\nfolder = {folder:?}\nroot_keys = [\"{root}\"]\nmax_bundle_bytes = {max_bundle_bytes}\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn store(&self) -> Store<Folder> {
        Store::open(Folder::lock(&self.slots()).unwrap()).unwrap()
    }

    /// Expects one staged bundle and no rest of a transfer.
    fn expect_staged(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        let store = self.store();
        let Slot::Staged(held) = store.record().slots.slot(Name::A) else { panic!("{:?}", store.record()) };
        assert_eq!(held.digest, digest);
        assert!(fs::read(self.slots().join(format!("{digest}.bundle"))).unwrap() == bytes);
        self.expect_no_part();
    }

    fn expect_no_part(&self) {
        let names =
            fs::read_dir(self.slots()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let parts: Vec<String> = names.filter(|name| name.ends_with(".part")).collect();
        assert!(parts.is_empty(), "{parts:?}");
    }

    /// `trainer-bridge flash` of this file over an ssh with this configuration.
    fn flash(&self, ssh_config: &Path, bundle: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"));
        command.args(["flash", "device"]).arg(bundle).arg("--ssh-config").arg(ssh_config);
        for (option, usual) in [("--candor", self.candor()), ("--config", self.config())] {
            if !options.contains(&option) {
                command.arg(option).arg(usual);
            }
        }
        command.args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// What a command ended with and everything that it said.
fn ended(output: &Output) -> (Option<i32>, String) {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// Runs it; its exit code and everything that it said.
fn run(mut command: Command) -> (Option<i32>, String) {
    ended(&command.output().unwrap())
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A bundle's file.
fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join(format!("{}.bundle", Digest::of(bytes)));
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_wire_that_is_cut_anywhere_costs_no_more_than_a_little() {
    let Some(sshd) = Sshd::start() else { return };
    let bytes = draft(1, 400_000).bytes();
    let scratch = tempfile::tempdir().unwrap();
    let bundle = write(scratch.path(), &bytes);
    // What a whole conversation takes.
    let Some(device) = Device::new(1 << 20) else { return };
    let wire = Wire::new(sshd.port(), Vec::new());
    let (code, said) = run(device.flash(&sshd.client_config(wire.port(), "user"), &bundle, &[]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("test 0.1.0 is installed"), "{said}");
    device.expect_staged(&bytes);
    let whole_bytes = wire.n_bytes();
    assert!(whole_bytes > bytes.len() as u64);

    assert_eq!(wire.n_connections(), 1);
    let (seed, n_cuts) = (env("CANDOR_SEED", 1), env("CANDOR_CUTS", N_CUTS as u64));
    println!("seed {seed}, {n_cuts} cuts");
    let mut random = Random(seed);
    let (mut n_held, mut n_saved) = (0, 0);
    for _ in 0..n_cuts {
        let cut = random.below(usize::try_from(whole_bytes).unwrap()) as u64;
        let device = Device::new(1 << 20).unwrap();
        let wire = Wire::new(sshd.port(), vec![cut]);
        let (code, said) = run(device.flash(&sshd.client_config(wire.port(), "user"), &bundle, &[]));
        assert_eq!(code, Some(0), "cut after {cut} of {whole_bytes} bytes: {said}");
        assert!(said.contains("trying again") && wire.n_connections() >= 2, "cut after {cut}: {said}");
        device.expect_staged(&bytes);
        n_held += u64::from(said.contains("has it already"));
        // The second conversation was shorter than a whole one.
        n_saved += u64::from(wire.n_bytes() - cut < whole_bytes - bytes.len() as u64 / 10);
    }
    println!("in {n_saved} the next connection went on where the first had ended, in {n_held} all had come");
    assert!(n_cuts < 20 || n_saved > n_cuts / 2, "{n_saved} of {n_cuts} went on");
}

#[test]
fn a_wire_that_is_cut_again_and_again_gets_there() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(1 << 20) else { return };
    let bytes = draft(3, 600_000).bytes();
    let scratch = tempfile::tempdir().unwrap();
    let wire = Wire::new(sshd.port(), vec![100_000; 50]);
    let config = sshd.client_config(wire.port(), "user");
    let (code, said) = run(device.flash(&config, &write(scratch.path(), &bytes), &[]));
    assert_eq!(code, Some(0), "{said}");
    assert!((7..50).contains(&wire.n_connections()), "{} connections", wire.n_connections());
    device.expect_staged(&bytes);
}

#[test]
fn who_is_not_the_device_or_not_its_friend_gets_nothing() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(1 << 20) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let bundle = write(scratch.path(), &draft(1, 1000).bytes());
    let (code, said) = run(device.flash(&sshd.client_config(sshd.port(), "other"), &bundle, &[]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Permission denied") && !said.contains("trying again"), "{said}");
    let good = sshd.client_config(sshd.port(), "user");
    sshd.know_other_host();
    let (code, said) = run(device.flash(&good, &bundle, &[]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("Host key verification failed") && !said.contains("trying again"), "{said}");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, said) = run(device.flash(&sshd.client_config(port, "user"), &bundle, &["--patience", "1"]));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("trying again"), "a device may be starting: {said}");
    assert!(!device.slots().exists());
}

#[test]
fn what_a_device_refuses_it_says_in_its_own_words() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(20_000) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let config = sshd.client_config(sshd.port(), "user");
    let flash =
        |bytes: &[u8], options: &[&str]| run(device.flash(&config, &write(scratch.path(), bytes), options));
    let first = draft(1, 10_000).bytes();
    assert_eq!(flash(&first, &[]).0, Some(0));
    device.expect_staged(&first);

    let mut stranger = draft(2, 10_000);
    stranger.signers = vec![key(9)];
    let changed = {
        let mut bytes = draft(3, 10_000).bytes();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    for (bytes, code, reason) in [
        // Over the limit with any head, and only with its own.
        (draft(4, 2_000_000).bytes(), 5, "size: expected 1 to "),
        (draft(5, 30_000).bytes(), 5, "size: expected at most 20000 bytes, found 30768"),
        (stranger.bytes(), 5, "is not in the key list with serial 1"),
        (changed, 5, "SHA-256: expected"),
        (b"no bundle at all".to_vec(), 1, "a Candor bundle"),
    ] {
        let (found, said) = flash(&bytes, &[]);
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(reason), "{reason}: {said}");
        device.expect_staged(&first);
    }
    let (code, said) = flash(&first, &[]);
    assert_eq!(code, Some(0));
    assert!(said.contains("has it already, test 0.1.0: staged"), "{said}");

    let second = draft(6, 10_000).bytes();
    device.store().boot(3, 0).unwrap();
    let (code, said) = flash(&second, &[]);
    assert_eq!(code, Some(5));
    assert!(said.contains("a trial is running: confirm it or roll it back first"), "{said}");
    device.expect_no_part();
    let (code, said) = flash(&second, &["--config", "/nonexistent/candor.toml"]);
    assert_eq!((code, said.contains("/nonexistent/candor.toml")), (Some(4), true), "{said}");
    let (code, said) = flash(&second, &["--candor", "/nonexistent/candor"]);
    assert_eq!((code, said.contains("ended with 127")), (Some(4), true), "{said}");
    assert_eq!(flash(&second, &["--candor", "-x"]).0, Some(2));
}

#[test]
fn two_at_once_come_one_after_the_other() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(1 << 24) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let config = sshd.client_config(sshd.port(), "user");
    let both = [draft(1, 3_000_000).bytes(), draft(2, 3_000_000).bytes()];
    let running: Vec<_> =
        both.iter().map(|b| device.flash(&config, &write(scratch.path(), b), &[]).spawn().unwrap()).collect();
    for child in running {
        let (code, said) = ended(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(0), "{said}");
    }
    let store = device.store();
    let held: Vec<Digest> = store.record().slots.held().map(|held| held.digest).collect();
    let last = both.iter().find(|bytes| held == [Digest::of(bytes)]).unwrap();
    assert_eq!(store.record().history.len(), 2, "each was installed once");
    drop(store);
    device.expect_staged(last);
}

#[test]
fn a_device_that_stays_busy_is_not_out_of_reach() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(1 << 20) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let bundle = write(scratch.path(), &draft(1, 1000).bytes());
    drop(device.store());
    let other = fs::File::create(device.slots().join("receiving")).unwrap();
    other.lock().unwrap();
    let config = sshd.client_config(sshd.port(), "user");
    let (code, said) = run(device.flash(&config, &bundle, &["--patience", "1"]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("another transfer is under way"), "{said}");
    drop(other);
    assert_eq!(run(device.flash(&config, &bundle, &[])).0, Some(0));
}

#[test]
fn a_key_for_nothing_else_will_do_whatever_its_shell_says_first() {
    let Some(sshd) = Sshd::start() else { return };
    let Some(device) = Device::new(1 << 20) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let bytes = draft(1, 1000).bytes();
    let plain = scratch.path().join("candor");
    std::os::unix::fs::symlink(device.candor().canonicalize().unwrap(), &plain).unwrap();
    let (candor, slots) = (plain.display(), device.config());
    sshd.force(&format!("echo Welcome; exec {candor} slot receive --config {}", slots.display()));
    let config = sshd.client_config(sshd.port(), "user");
    let nowhere = ["--candor", "/nonexistent", "--wait", "0"];
    let (code, said) = run(device.flash(&config, &write(scratch.path(), &bytes), &nowhere));
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("not confirmed after 0 s: staged"), "{said}");
    device.expect_staged(&bytes);
}

#[test]
fn waiting_ends_with_what_the_device_makes_of_it() {
    let Some(sshd) = Sshd::start() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let config = sshd.client_config(sshd.port(), "user");
    let bytes = draft(1, 1000).bytes();
    let bundle = write(scratch.path(), &bytes);
    for is_good in [true, false] {
        let Some(device) = Device::new(1 << 20) else { return };
        let mut child = device.flash(&config, &bundle, &["--wait", "300", "--poll", "1"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("staged; the next start of candor tries it")));
        device.store().boot(3, 0).unwrap();
        assert!(lines.any(|line| line.ends_with("in trial")));
        let mut store = device.store();
        if is_good {
            store.ran_well(Digest::of(&bytes), 0).unwrap();
            store.confirm(&roots(), 0).unwrap();
        } else {
            store.roll_back("faces look odd", 0).unwrap();
        }
        drop(store);
        let rest: Vec<String> = lines.collect();
        let (code, said) = ended(&child.wait_with_output().unwrap());
        if is_good {
            assert_eq!(code, Some(0), "{said}");
            assert_eq!(rest.last().unwrap(), "device: confirmed");
        } else {
            assert_eq!(code, Some(6), "{said}");
            assert!(said.contains("gave the bundle up: faces look odd"), "{said}");
        }
    }
}
