//! The power is cut at every operation of every step with slots, and again while it recovers: what comes up is the
//! old or the new, whole.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod disk;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/release.rs"]
mod release;

use std::collections::BTreeSet;
use std::io::Write as _;

use candor::bundle::{Digest, KeyList};
use candor::slot::{Record, Settings, SlotError, Store};

use crate::disk::Disk;
use crate::random::Random;
use crate::release::{Draft, NOW_S, key, key_list, key_list_file, roots, signer};

/// Starts of a trial that may fail.
const TRIAL_BOOTS: u8 = 2;

type Step = fn(&mut Store<Disk>) -> Result<(), SlotError>;

/// A step from a state of the slots.
struct Scenario {
    name: &'static str,
    /// How the state comes about.
    before: &'static [Step],
    /// What the power is cut in.
    step: Step,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "install, first", before: &[], step: install_a },
    Scenario { name: "install beside a confirmed one", before: &[confirmed_a], step: install_b },
    Scenario { name: "install over a staged one", before: &[confirmed_a, install_b], step: install_c },
    Scenario { name: "install over the one before", before: &[confirmed_a, confirmed_b], step: install_c },
    Scenario { name: "install with a newer key list", before: &[confirmed_a], step: install_rotated },
    Scenario { name: "install what is cut short", before: &[confirmed_a], step: install_short },
    Scenario { name: "first start of a trial", before: &[confirmed_a, install_b], step: boot },
    Scenario { name: "second start of a trial", before: &[confirmed_a, install_b, boot], step: boot },
    Scenario { name: "a trial's last start", before: &[confirmed_a, install_b, boot, boot], step: boot },
    Scenario { name: "a run ends well", before: &[confirmed_a, install_b, boot], step: ran_well_b },
    Scenario { name: "confirm, first", before: &[install_a, boot, ran_well_a], step: confirm },
    Scenario { name: "confirm", before: &[confirmed_a, install_b, boot, ran_well_b], step: confirm },
    Scenario { name: "roll back a trial", before: &[confirmed_a, install_b, boot], step: roll_back },
    Scenario { name: "roll back a staged one", before: &[confirmed_a, install_b], step: roll_back },
    Scenario { name: "roll back a confirmed one", before: &[confirmed_a, confirmed_b], step: roll_back },
    Scenario { name: "roll back to the built-in one", before: &[confirmed_a], step: roll_back },
    Scenario { name: "self-test fails", before: &[confirmed_a, install_b, boot], step: fail_b },
    Scenario { name: "first key list", before: &[], step: rotate },
    Scenario { name: "next key list", before: &[confirmed_a], step: rotate },
];

fn a() -> Draft {
    Draft::of_noise(10, 1500)
}

fn b() -> Draft {
    Draft::of_noise(20, 1700)
}

fn install(store: &mut Store<Disk>, bytes: &[u8]) -> Result<(), SlotError> {
    store.install(bytes, &roots(), &Settings::default(), NOW_S).map(|_| ())
}

fn install_a(store: &mut Store<Disk>) -> Result<(), SlotError> {
    install(store, &a().bytes())
}

fn install_b(store: &mut Store<Disk>) -> Result<(), SlotError> {
    install(store, &b().bytes())
}

fn install_c(store: &mut Store<Disk>) -> Result<(), SlotError> {
    install(store, &Draft::of_noise(30, 1600).bytes())
}

fn install_rotated(store: &mut Store<Disk>) -> Result<(), SlotError> {
    let mut draft = b();
    draft.key_list = key_list(2, &[signer(), key(7)]);
    install(store, &draft.bytes())
}

fn install_short(store: &mut Store<Disk>) -> Result<(), SlotError> {
    let bytes = b().bytes();
    match install(store, &bytes[..bytes.len() - 1]) {
        Err(SlotError::Bundle(candor::bundle::BundleError::Read { .. })) => Ok(()),
        Err(other) => Err(other),
        Ok(()) => panic!("a bundle that is cut short was installed"),
    }
}

fn boot(store: &mut Store<Disk>) -> Result<(), SlotError> {
    store.boot(TRIAL_BOOTS, NOW_S).map(|_| ())
}

fn ran_well_a(store: &mut Store<Disk>) -> Result<(), SlotError> {
    store.ran_well(Digest::of(&a().bytes()), NOW_S)
}

fn ran_well_b(store: &mut Store<Disk>) -> Result<(), SlotError> {
    store.ran_well(Digest::of(&b().bytes()), NOW_S)
}

fn confirm(store: &mut Store<Disk>) -> Result<(), SlotError> {
    store.confirm(&roots(), NOW_S).map(|_| ())
}

fn confirmed_a(store: &mut Store<Disk>) -> Result<(), SlotError> {
    install_a(store)?;
    boot(store)?;
    ran_well_a(store)?;
    confirm(store)
}

fn confirmed_b(store: &mut Store<Disk>) -> Result<(), SlotError> {
    install_b(store)?;
    boot(store)?;
    ran_well_b(store)?;
    confirm(store)
}

fn roll_back(store: &mut Store<Disk>) -> Result<(), SlotError> {
    store.roll_back("test", NOW_S).map(|_| ())
}

fn fail_b(store: &mut Store<Disk>) -> Result<(), SlotError> {
    let held = store.record().slots.held().find(|held| held.digest == Digest::of(&b().bytes()));
    let held = held.unwrap().clone();
    store.fail(&held, "test", NOW_S)
}

fn rotate(store: &mut Store<Disk>) -> Result<(), SlotError> {
    let list = key_list_file(&key_list(9, &[key(8)]));
    store.rotate_keys(&list[..], &roots()).map(|_| ())
}

/// What is kept on a disk, once all of it has been found whole.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    record: Record,
    key_list: Option<KeyList>,
}

/// Reads everything as a start does: the record, the key list, every bundle that a slot holds, by its digest.
fn read(disk: &Disk) -> Result<Kept, String> {
    let store = Store::open(disk.clone()).map_err(|error| error.to_string())?;
    for held in store.record().slots.held() {
        store.load(held, &roots()).map_err(|error| format!("{}: {error}", held.digest))?;
    }
    let key_list = store.key_list(&roots()).map_err(|error| error.to_string())?;
    Ok(Kept { record: store.record().clone(), key_list })
}

/// The bundle that comes up: none for the built-in one.
fn comes_up(kept: &Kept) -> Option<Digest> {
    kept.record.slots.next_boot().held().map(|held| held.digest)
}

/// What was tried.
#[derive(Default)]
struct Tried {
    n_states: usize,
    n_twice_cut: usize,
    seen: BTreeSet<Digest>,
}

/// Cuts a scenario's power everywhere.
///
/// # Errors
/// The first state in which something else than the old or the new comes up.
fn explore(scenario: &Scenario, idle_sync: Option<usize>, with_second_cut: bool) -> Result<Tried, String> {
    let mut random = Random(20_261_125);
    let first = Disk::default();
    let mut store = Store::open(first.clone()).unwrap();
    for step in scenario.before {
        step(&mut store).unwrap();
    }
    let first = first.settled();
    let old = read(&first).unwrap();

    // Without a cut: the number of operations, and the new state.
    let whole = first.settled();
    (scenario.step)(&mut Store::open(whole.clone()).unwrap()).unwrap();
    let (n_operations, _) = whole.counts();
    let new = read(&whole.settled()).unwrap();

    let mut tried = Tried::default();
    for cut_at in 1..=n_operations + 1 {
        let disk = first.settled();
        disk.set(Some(cut_at), idle_sync);
        let done = (scenario.step)(&mut Store::open(disk.clone()).unwrap()).is_ok();
        if done != (cut_at > n_operations) {
            return Err(format!(
                "cut at operation {cut_at} of {n_operations}: the step says that it is done"
            ));
        }
        for left in disk.after_cut(&mut random) {
            tried.n_states += 1;
            let at = || format!("cut at operation {cut_at} of {n_operations}");
            let found = read(&left).map_err(|why| format!("{}: {why}", at()))?;
            if done && found != new {
                return Err(format!("{}: what was done is not durable", at()));
            }
            if found.record != old.record && found.record != new.record {
                return Err(format!("{}: neither the old nor the new record", at()));
            }
            if found.key_list != old.key_list && found.key_list != new.key_list {
                return Err(format!("{}: neither the old nor the new key list", at()));
            }
            if found.record != old.record && found.key_list != new.key_list {
                return Err(format!("{}: the new bundle without its key list", at()));
            }
            if with_second_cut && tried.seen.insert(left.digest()) {
                recover(&left, &found, &mut random, &mut tried).map_err(|why| format!("{}, {why}", at()))?;
            }
        }
    }
    Ok(tried)
}

/// A start on what a cut has left, whose power is cut everywhere, too: the same bundle comes up after it, or, where
/// the start was the last one of a trial, the one before.
fn recover(left: &Disk, found: &Kept, random: &mut Random, tried: &mut Tried) -> Result<(), String> {
    let whole = left.settled();
    boot(&mut Store::open(whole.clone()).unwrap()).unwrap();
    let (n_operations, _) = whole.counts();
    let after = read(&whole.settled())?;
    let allowed = [comes_up(found), comes_up(&after)];
    for cut_at in 1..=n_operations + 1 {
        let disk = left.settled();
        disk.set(Some(cut_at), None);
        let _ = boot(&mut Store::open(disk.clone()).unwrap());
        for again in disk.after_cut(random) {
            tried.n_states += 1;
            tried.n_twice_cut += 1;
            let at = || format!("cut again at operation {cut_at} of {n_operations} of the start");
            let kept = read(&again).map_err(|why| format!("{}: {why}", at()))?;
            if !allowed.contains(&comes_up(&kept)) {
                return Err(format!("{}: {:?} comes up, not one of {allowed:?}", at(), comes_up(&kept)));
            }
            if kept.record != found.record && kept.record != after.record {
                return Err(format!("{}: neither the old nor the new record", at()));
            }
        }
    }
    Ok(())
}

/// Prints past the test harness, which keeps what passing tests print.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn power_cuts_leave_the_old_or_the_new() {
    let (mut n_states, mut n_twice_cut) = (0, 0);
    for scenario in SCENARIOS {
        let tried = explore(scenario, None, true).unwrap_or_else(|why| panic!("{}: {why}", scenario.name));
        say(&format!("{}: {} states", scenario.name, tried.n_states));
        n_states += tried.n_states;
        n_twice_cut += tried.n_twice_cut;
    }
    say(&format!("{n_states} states, {n_twice_cut} of them with a second cut: the old or the new in all"));
    assert!(n_states >= 10_000, "only {n_states} states");
}

#[test]
fn power_cuts_show_every_sync_that_is_left_out() {
    let mut n_found = 0;
    for scenario in SCENARIOS {
        let disk = Disk::default();
        let mut store = Store::open(disk.clone()).unwrap();
        for step in scenario.before {
            step(&mut store).unwrap();
        }
        let disk = disk.settled();
        (scenario.step)(&mut Store::open(disk.clone()).unwrap()).unwrap();
        let (_, n_syncs) = disk.counts();
        for sync in 1..=n_syncs {
            match explore(scenario, Some(sync), false) {
                Ok(_) => panic!("{}: sync {sync} of {n_syncs} may be left out unseen", scenario.name),
                Err(why) => say(&format!("{}, without sync {sync} of {n_syncs}: {why}", scenario.name)),
            }
            n_found += 1;
        }
    }
    assert!(n_found > 0, "no step syncs anything");
}
