//! A bundle over a connection that breaks at any byte: what is kept, what is told, what is installed.
//!
//! No test here starts a program: until that runs, it would hold the locks that other tests have at that moment.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/random.rs"]
mod random;
#[path = "support/release.rs"]
mod release;

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use candor::bundle::Digest;
use candor::slot::{Ending, Folder, Name, Place, Settings, Slot, Store, receive};
use proptest::prelude::*;

use crate::release::{Draft, NOW_S, roots};

/// A device in a folder of its own.
struct Device {
    scratch: tempfile::TempDir,
    limits: Settings,
}

impl Device {
    fn new() -> Self {
        let limits = Settings { max_bundle_bytes: 100_000, ..Settings::default() };
        Device { scratch: tempfile::tempdir().unwrap(), limits }
    }

    fn slots(&self) -> PathBuf {
        self.scratch.path().join("slots")
    }

    /// One conversation: how it ended, and what the device said.
    fn talk(&self, input: impl Read) -> (Ending, Vec<String>) {
        let (folder, roots) = (self.slots(), roots());
        let place = Place { folder: &folder, roots: &roots, limits: &self.limits, now_unix_s: || NOW_S };
        let mut said = Vec::new();
        let ending = receive(&place, input, &mut said);
        let said = String::from_utf8(said).unwrap();
        assert!(said.is_empty() || said.ends_with('\n'), "{said}");
        (ending, said.lines().map(str::to_owned).collect())
    }

    fn store(&self) -> Store<Folder> {
        Store::open(Folder::lock(&self.slots()).unwrap()).unwrap()
    }

    fn names(&self, ending: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.slots()) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).collect()
    }

    fn expect_staged(&self, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        let store = self.store();
        assert!(matches!(store.record().slots.slot(Name::A), Slot::Staged(held) if held.digest == digest));
        assert!(fs::read(self.slots().join(format!("{digest}.bundle"))).unwrap() == bytes);
        assert_eq!(self.names(".part"), [""; 0]);
    }
}

/// What a sender says.
fn conversation(bytes: &[u8], from: usize) -> Vec<u8> {
    let head = format!("bundle {} {}\nfrom {from}\n", Digest::of(bytes), bytes.len());
    [head.as_bytes(), &bytes[from..]].concat()
}

/// Ends with an error instead of an end.
struct Breaking<'a>(&'a [u8]);

impl Read for Breaking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            n => Ok(n),
        }
    }
}

/// What the device says that it has, by asking it.
fn had(device: &Device, bytes: &[u8]) -> (usize, Digest) {
    let (ending, said) = device.talk(format!("bundle {} {}\n", Digest::of(bytes), bytes.len()).as_bytes());
    assert!(matches!(ending, Ending::Cut { .. }), "{ending:?}");
    let words: Vec<&str> = said[1].split(' ').collect();
    assert_eq!((words.len(), words[0]), (3, "have"), "{said:?}");
    (words[1].parse().unwrap(), Digest::try_from(words[2].to_owned()).unwrap())
}

#[test]
fn a_whole_conversation_installs() {
    let (device, bytes) = (Device::new(), Draft::of_noise(1, 90_000).bytes());
    let (ending, said) = device.talk(&conversation(&bytes, 0)[..]);
    assert!(matches!(ending, Ending::Installed(_)), "{ending:?}");
    let n = bytes.len();
    let first =
        [format!("candor-receive 1 {}", env!("CARGO_PKG_VERSION")), format!("have 0 {}", Digest::of(b""))];
    let last = [format!("got {n}"), "installed test 0.1.0".into()];
    assert!(said.starts_with(&first) && said.ends_with(&last), "{said:?}");
    let got = said.iter().filter_map(|line| line.strip_prefix("got ")).map(|n| n.parse::<usize>().unwrap());
    let got: Vec<usize> = got.collect();
    assert!(got.is_sorted() && got.windows(2).all(|pair| pair[1] - pair[0] <= 128 << 10), "{got:?}");
    assert_eq!(said.len(), 4 + got.len() - 1, "{said:?}");
    device.expect_staged(&bytes);
    let (_, said) = device.talk(&conversation(&bytes, 0)[..]);
    assert_eq!(said[1], "held staged test 0.1.0");
    device.store().boot(3, NOW_S).unwrap();
    assert_eq!(device.talk(&conversation(&bytes, 0)[..]).1[1], "held trial test 0.1.0");
    let other = Draft::of_noise(5, 1000).bytes();
    let (ending, _) = device.talk(&conversation(&other, 0)[..]);
    assert!(matches!(&ending, Ending::Refused(why) if why.contains("a trial is running")), "{ending:?}");
    let mut store = device.store();
    store.ran_well(Digest::of(&bytes), NOW_S).unwrap();
    store.confirm(&roots(), NOW_S).unwrap();
    drop(store);
    assert_eq!(device.talk(&conversation(&bytes, 0)[..]).1[1], "held confirmed test 0.1.0");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cut_anywhere_any_number_of_times_it_arrives(
        cuts in prop::collection::vec((0..1200usize, any::<bool>()), 0..8)
    ) {
        let (device, bytes) = (Device::new(), Draft::of_noise(1, 90_000).bytes());
        let mut kept = 0;
        for (at_permille, breaks) in cuts {
            let (n_had, digest) = had(&device, &bytes);
            prop_assert_eq!(n_had, kept);
            prop_assert_eq!(digest, Digest::of(&bytes[..kept]));
            let whole = conversation(&bytes, kept);
            let input = &whole[..(whole.len() * at_permille / 1000).min(whole.len())];
            let n_head = whole.len() - (bytes.len() - kept);
            let (ending, _) = if breaks { device.talk(Breaking(input)) } else { device.talk(input) };
            if input.len() == whole.len() {
                prop_assert!(matches!(ending, Ending::Installed(_)), "{:?}", ending);
                device.expect_staged(&bytes);
                return Ok(());
            }
            kept += input.len().saturating_sub(n_head);
            prop_assert!(matches!(ending, Ending::Cut { .. }), "{:?}", ending);
        }
        let (ending, _) = device.talk(&conversation(&bytes, kept)[..]);
        prop_assert!(matches!(ending, Ending::Installed(_)), "{:?}", ending);
        device.expect_staged(&bytes);
    }

    #[test]
    fn whatever_is_said_the_slots_stay_as_they_were(line in "[ -~]{0,300}", rest in any::<Vec<u8>>()) {
        let device = Device::new();
        let bytes = Draft::of_noise(1, 1000).bytes();
        device.talk(&conversation(&bytes, 0)[..]);
        let input = [line.as_bytes(), b"\n", &rest].concat();
        let (_, said) = device.talk(&input[..]);
        prop_assert!(said.len() <= 3);
        device.expect_staged(&bytes);
    }
}

#[test]
fn only_what_was_announced_is_installed() {
    let (device, bytes) = (Device::new(), Draft::of_noise(1, 50_000).bytes());
    // Other bytes than announced: forgotten.
    let mut other = conversation(&bytes, 0);
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(device.talk(&other[..]).0, Ending::Again(_)));
    assert_eq!(had(&device, &bytes).0, 0);
    // A part that the disk has changed: the sender sees it by its digest, and starts anew.
    let cut = &conversation(&bytes, 0)[..20_000];
    assert!(matches!(device.talk(cut).0, Ending::Cut { kept_bytes: 19_000.. }));
    let path = device.slots().join(format!("{}.part", Digest::of(&bytes)));
    let mut part = fs::read(&path).unwrap();
    part[7] ^= 1;
    fs::write(&path, &part).unwrap();
    assert_eq!(had(&device, &bytes), (part.len(), Digest::of(&part)));
    assert!(matches!(device.talk(&conversation(&bytes, 0)[..]).0, Ending::Installed(_)));
    device.expect_staged(&bytes);
}

#[test]
fn a_part_never_outgrows_its_bundle_and_is_alone() {
    let (device, bytes) = (Device::new(), Draft::of_noise(1, 50_000).bytes());
    let other = Draft::of_noise(2, 50_000).bytes();
    device.talk(&conversation(&bytes, 0)[..20_000]);
    let path = device.slots().join(format!("{}.part", Digest::of(&bytes)));
    fs::write(&path, vec![0; bytes.len() + 1]).unwrap();
    assert_eq!(had(&device, &bytes).0, 0, "it can't be of this bundle");
    device.talk(&conversation(&bytes, 0)[..20_000]);
    device.talk(&conversation(&other, 0)[..20_000]);
    assert_eq!(device.names(".part"), [format!("{}.part", Digest::of(&other))]);
    // While one is received, no other is, and an installation leaves it alone.
    let held = fs::File::options().write(true).open(device.slots().join("receiving")).unwrap();
    held.lock().unwrap();
    assert!(matches!(device.talk(&conversation(&bytes, 0)[..]).0, Ending::Busy));
    candor::slot::forget_part(&device.slots()).unwrap();
    assert_eq!(device.names(".part").len(), 1);
    drop(held);
    candor::slot::forget_part(&device.slots()).unwrap();
    assert_eq!(device.names(".part").len(), 0);
    // Bytes behind the last are not the bundle's.
    let longer = [conversation(&bytes, 0), b"and more".to_vec()].concat();
    assert!(matches!(device.talk(&longer[..]).0, Ending::Installed(_)));
    device.expect_staged(&bytes);
}

#[test]
fn what_cannot_be_is_refused_before_a_byte_is_taken() {
    let device = Device::new();
    let digest = Digest::of(b"");
    for (line, why) in [
        (format!("bundle {digest} 0\n"), "size: expected 1 to "),
        (format!("bundle {digest} 9999999\n"), "size: expected 1 to "),
        (format!("bundle {digest} 99999999999999999999\n"), "protocol: expected status or bundle"),
        (format!("bundle {digest} +5\n"), "protocol"),
        (format!("bundle {digest} 5 5\n"), "protocol"),
        (format!("bundle {}0 5\n", &digest.to_string()[1..].to_uppercase()), "protocol"),
        ("\u{1b}[2J\n".into(), "protocol"),
        (format!("bundle {digest} 5\nfrom 3\n"), "protocol: expected from 0 or from 0"),
        (format!("bundle {digest} 5{}\n", " ".repeat(1000)), "protocol"),
    ] {
        let (ending, said) = device.talk(line.as_bytes());
        assert!(matches!(&ending, Ending::Refused(found) if found.contains(why)), "{line:?}: {ending:?}");
        assert!(
            said.last().unwrap().starts_with("refused ") && !said.concat().contains('\u{1b}'),
            "{said:?}"
        );
    }
    assert!(device.store().record().history.is_empty());
}
