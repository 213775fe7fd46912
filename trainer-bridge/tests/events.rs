//! Event files, read by `reference/events.py`, which knows the formats and not this project.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use trainer_bridge::train::events::Events;

fn read(file: &Path) -> Vec<Value> {
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/events.py");
    let output = Command::new("python3").arg(reader).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn files_say_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = Events::create(folder.path(), 0).unwrap();
    // Steps and texts of one and of several bytes, and a zero, which protobuf leaves out.
    events.scalars(1, &[("loss/train", 0.5), ("grad", -3.0)]).unwrap();
    events.scalars(300, &[("loss/train", 0.0), (&"long ".repeat(60), 1e30)]).unwrap();
    // A resumed run takes back what comes after its checkpoint.
    let mut resumed = Events::create(folder.path(), 200).unwrap();
    resumed.scalars(201, &[("loss/train", 0.25)]).unwrap();
    let mut files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    let version = json!({"step": 0, "scalars": {}, "file_version": "brain.Event:2"});
    let large = f64::from(1e30f32);
    assert_eq!(
        read(&files[0]),
        [
            version.clone(),
            json!({"step": 1, "scalars": {"loss/train": 0.5, "grad": -3.0}}),
            json!({"step": 300, "scalars": {"loss/train": 0.0, "long ".repeat(60): large}}),
        ]
    );
    assert_eq!(
        read(&files[1]),
        [
            version,
            json!({"step": 200, "scalars": {}, "session_status": 1}),
            json!({"step": 201, "scalars": {"loss/train": 0.25}}),
        ]
    );
}
