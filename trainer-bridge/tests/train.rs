//! The real program trains on a toy set: it learns, repeats itself, and resumes after being killed to the same weights.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod toy;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sha2::{Digest as _, Sha256};
use trainer_bridge::manifest::{self, Label};
use trainer_bridge::train::config::Config;
use trainer_bridge::train::folder::{EpochRow, StepRow};

/// Small and quick: many small steps, running statistics that keep up with them.
const SMALL: [&str; 6] = [
    // Landmarks of drawn faces are none.
    "augment.mask_radius_px.p=0",
    "model.hidden=32",
    "model.batch_norm_momentum=0.1",
    "model.drop_connect=0",
    "optimizer.batch_size=16",
    "loader.threads=1",
];

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"));
    // One thread adds up in one order.
    command.env("OMP_NUM_THREADS", "1").env("MKL_NUM_THREADS", "1").args(arguments);
    command
}

fn train(data: &Path, run: &Path, settings: &[&str]) -> Command {
    let mut command = program(&["train", "--set", "device=cpu", "--report-steps", "1", "--data"]);
    command.arg(data).arg("--run").arg(run);
    for setting in SMALL.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn rows<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    csv::Reader::from_path(path).unwrap().into_deserialize().map(|row| row.unwrap()).collect()
}

#[test]
fn a_tiny_run_learns() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, run) = (scratch.path().join("toy"), scratch.path().join("run"));
    toy::write(&data, 120, 64, 1);
    let settings = [
        "model.size_px=64",
        "optimizer.head_lr=0.003",
        "optimizer.base_lr=0.003",
        "optimizer.ema_decay=0.9",
        "schedule.epochs=4",
        "finetune.epochs=1",
    ];
    succeed(&mut train(&data, &run, &settings));
    let epochs: Vec<EpochRow> = rows(&run.join("epochs.csv"));
    assert_eq!(epochs.len(), 5);
    let (first, best) = (&epochs[0], epochs.iter().rev().find(|row| row.is_best).unwrap());
    println!("{epochs:#?}");
    let lowest = epochs.iter().map(|row| row.train_loss).fold(f64::INFINITY, f64::min);
    assert!(lowest < 0.6 * first.train_loss);
    assert!(best.auc > 0.9);
    for file in ["config.toml", "run.toml", "model.json", "best.safetensors", "ema.safetensors", "curves.svg"]
    {
        assert!(run.join(file).metadata().unwrap().len() > 0, "{file}");
    }
    assert_eq!(Config::load(Some(&run.join("config.toml")), &[]).unwrap().schedule.epochs, 4);
    let facts: toml::Table = fs::read_to_string(run.join("run.toml")).unwrap().parse().unwrap();
    for key in ["started", "command", "seed", "device", "program_sha256", "checkout_git_revision", "libtorch"]
    {
        assert!(facts.contains_key(key), "{key}");
    }
    let manifest = candor::bundle::to_hex(&Sha256::digest(fs::read(data.join(manifest::FILE)).unwrap()));
    assert_eq!(facts["manifests_sha256"].as_array().unwrap(), &[toml::Value::from(manifest)]);
    // Asked to go on, a run that is done says so and changes nothing.
    let before = fs::read(run.join("best.safetensors")).unwrap();
    succeed(program(&["train", "--resume"]).arg(&run));
    assert_eq!(fs::read(run.join("best.safetensors")).unwrap(), before);
    let facts: toml::Table = fs::read_to_string(run.join("run.toml")).unwrap().parse().unwrap();
    let resumed = facts["resumed"].as_array().unwrap();
    assert_eq!((resumed.len(), &resumed[0]["program_sha256"]), (1, &facts["program_sha256"]));
    // With other data it is another run.
    let mut rows = manifest::read(&data).unwrap();
    rows.pop();
    manifest::write(&data, &rows).unwrap();
    let refused = program(&["train", "--resume"]).arg(&run).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("toy: expected the run's data"), "{message}");
}

/// Of a run that also ends an epoch early, freezes, averages and accumulates: 2 epochs of 6 steps, then 1 of 6.
const BUSY: [&str; 9] = [
    "model.size_px=32",
    "model.dropout=0.3",
    "optimizer.accumulate=2",
    "optimizer.batch_size=4",
    "optimizer.ema_decay=0.9",
    "optimizer.clip_norm=1.0",
    "schedule.epochs=2",
    "schedule.checkpoint_steps=4",
    "finetune.epochs=1",
];

#[test]
fn a_seed_repeats_with_any_number_of_threads() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("toy");
    toy::write(&data, 16, 40, 2);
    let losses = |name: &str, setting: &str| {
        let run = scratch.path().join(name);
        let more = ["optimizer.accumulate=1", "finetune.epochs=0", setting];
        succeed(&mut train(&data, &run, &[&BUSY[..], &more].concat()));
        let steps: Vec<StepRow> = rows(&run.join("steps.csv"));
        steps.iter().map(|row| row.loss.to_bits()).collect::<Vec<_>>()
    };
    let one = losses("one", "loader.threads=1");
    assert!(one.len() >= 20);
    assert_eq!(losses("three", "loader.threads=3"), one);
    assert_ne!(losses("other", "seed=2"), one);
}

#[test]
fn real_crops_alone_train_with_pseudo_fakes() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("toy");
    toy::write(&data, 12, 64, 7);
    let mut crops = manifest::read(&data).unwrap();
    crops.retain(|row| row.label == Label::Real);
    manifest::write(&data, &crops).unwrap();
    let (run, settings) =
        (scratch.path().join("run"), ["sampler.swap_share=0.5", "sampler.pseudo_validation=true"]);
    let refused = train(&data, &run, &[&BUSY[..], &settings].concat()).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no fake crop to train with"));
    // Of reals alone, the network that calls everything real would be the best.
    let one_class = [&BUSY[..], &["sampler.pseudo_share=1"]].concat();
    let refused = train(&data, &run, &one_class).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("only real ones") && message.contains("pseudo_validation"), "{message}");
    let epochs = |name: &str, threads: &str| {
        let run = scratch.path().join(name);
        let more = ["sampler.pseudo_share=1", "finetune.epochs=0", threads];
        succeed(&mut train(&data, &run, &[&BUSY[..], &settings, &more].concat()));
        fs::read(run.join("epochs.csv")).unwrap()
    };
    let one = epochs("one", "loader.threads=1");
    assert_eq!(epochs("three", "loader.threads=3"), one);
    // Validation has both classes: its AUC is a number.
    let last: EpochRow = rows(&scratch.path().join("one/epochs.csv")).pop().unwrap();
    assert!((0.0..=1.0).contains(&last.auc), "{last:?}");
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("toy");
    toy::write(&data, 16, 40, 3);
    let whole = scratch.path().join("whole");
    succeed(&mut train(&data, &whole, &BUSY));
    let n_steps = rows::<StepRow>(&whole.join("steps.csv")).len();
    assert_eq!(n_steps, 18);
    let mut n_kills = 0;
    // Before the first checkpoint within an epoch, after it, in the second epoch, and in the second phase.
    for n_killed in [1, 5, 10, 15] {
        let run = scratch.path().join(format!("killed-{n_killed}"));
        n_kills += usize::from(kill_after(&mut train(&data, &run, &BUSY), n_killed));
        let again = kill_after(program(&["train", "--report-steps", "1", "--resume"]).arg(&run), 2);
        n_kills += usize::from(again);
        succeed(program(&["train", "--resume"]).arg(&run));
        for file in
            ["last/state.safetensors", "best.safetensors", "ema.safetensors", "steps.csv", "epochs.csv"]
        {
            let (found, expected) = (fs::read(run.join(file)).unwrap(), fs::read(whole.join(file)).unwrap());
            assert!(found == expected, "{file} differs after a kill at step {n_killed}");
        }
    }
    println!("{n_kills} of 8 runs were killed");
    assert!(n_kills >= 4, "too few kills to show anything: {n_kills}");
}

/// Kills the program when it has told of `n_steps` steps; false where it was at its end before that.
fn kill_after(command: &mut Command, n_steps: usize) -> bool {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.by_ref().filter(|line| line.contains("  step ")).take(n_steps).count();
    child.kill().unwrap();
    let status = child.wait().unwrap();
    // A program may be faster than who reads what it tells; then there was nothing to kill.
    assert!(status.success() || status.signal().is_some(), "{status}: told of {told} steps");
    !status.success()
}

#[test]
fn an_interrupted_run_saves_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, run) = (scratch.path().join("toy"), scratch.path().join("run"));
    toy::write(&data, 16, 40, 4);
    let endless = [&BUSY[..], &["schedule.epochs=100000", "schedule.patience=0"]].concat();
    let mut child = train(&data, &run, &endless).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("  step 2/")));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let last = lines.last().unwrap();
    assert!(last.contains("interrupted at step") && last.contains("--resume"), "{last}");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let n_steps = rows::<StepRow>(&run.join("steps.csv")).len();
    assert!(last.contains(&format!("at step {n_steps};")), "{last}, {n_steps} rows");
}

#[test]
fn a_loss_that_blows_up_keeps_the_checkpoint() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, run) = (scratch.path().join("toy"), scratch.path().join("run"));
    toy::write(&data, 16, 40, 5);
    let wild = [
        "optimizer.head_lr=100",
        "optimizer.base_lr=100",
        "optimizer.clip_norm=0",
        "schedule.cycle.start_divisor=1",
    ];
    let huge = ["optimizer.adam.weight_decay=100", "schedule.epochs=50", "schedule.patience=0"];
    let output = train(&data, &run, &[&BUSY[..], &wild, &huge].concat()).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("lr-find") || message.contains("smaller learning rate"), "{message}");
    let (tensors, _) = trainer_bridge::train::folder::load_state(&run).unwrap();
    assert!(tensors.values().all(|tensor| bool::try_from(tensor.isfinite().all()).unwrap()));
}

#[test]
fn what_is_wrong_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, run) = (scratch.path().join("toy"), scratch.path().join("run"));
    toy::write(&data, 8, 40, 6);
    let message = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let missing = message(&mut train(&scratch.path().join("none"), &run, &BUSY));
    assert!(missing.contains("none/manifest.csv"), "{missing}");
    // Where there is a GPU, the hundredth is still missing.
    let device = message(train(&data, &run, &BUSY).args(["--set", "device=cuda:99"]));
    assert!(device.contains("cuda:99") && device.contains("expected a CUDA device"), "{device}");
    fs::create_dir(&run).unwrap();
    fs::write(run.join("notes.txt"), "mine").unwrap();
    let occupied = message(&mut train(&data, &run, &BUSY));
    assert!(occupied.contains("expected an empty folder"), "{occupied}");
}

#[test]
fn cudas_library_is_loaded_from_where_it_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let library = scratch.path().join("libtorch_cuda.so");
    let source = ["-shared", "-x", "c", "/dev/null", "-o"];
    assert!(Command::new("cc").args(source).arg(&library).status().unwrap().success());
    let error = |folder: &Path| {
        let mut command = program(&["train", "--device", "cuda:99", "--run", "none"]);
        let output = command.env("LD_LIBRARY_PATH", folder).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let found = error(scratch.path());
    assert!(found.contains(&format!("{} is loaded", library.display())), "{found}");
    fs::write(&library, "not a library").unwrap();
    let broken = error(scratch.path());
    assert!(broken.contains("can't be loaded"), "{broken}");
}
