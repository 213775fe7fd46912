//! `candor scan` as a user runs it, on the clip that ships.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4")
}

fn candor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candor")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn scan(args: &[&str]) -> Output {
    candor(&[&["scan", "--no-progress"], args].concat())
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The built-in bundle's manifest.
fn default_manifest() -> Value {
    serde_json::from_str(include_str!("../../models/default/manifest.json")).unwrap()
}

/// A bundle that says of itself that it has learnt nothing.
fn untrained() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = default_manifest();
    manifest["status"] = "untrained".into();
    std::fs::write(folder.path().join("manifest.json"), manifest.to_string()).unwrap();
    let model = include_bytes!("../../models/default/model.onnx");
    std::fs::write(folder.path().join("model.onnx"), model).unwrap();
    folder
}

fn is_clean(output: &Output) -> bool {
    output.status.code() == Some(0)
}

#[test]
fn one_face_gives_one_verdict_and_a_summary() {
    let path = clip().display().to_string();
    let output = scan(&["--json", &path]);
    assert!(is_clean(&output), "{output:?}");
    let lines = lines(&output);
    let verdicts: Vec<_> = lines.iter().filter(|l| l["event"] == "verdict").collect();
    assert_eq!((lines.len(), verdicts.len()), (2, 1), "{lines:?}");
    let (face, file) = (verdicts[0], &lines[1]);
    assert_eq!(face["file"], path.as_str());
    assert_eq!(face["track_id"], 1);
    assert_eq!(face["n_scores"], 15);
    let scores: Vec<f64> = face["scores"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(scores.len(), 15);
    assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)));
    let mean = scores.iter().sum::<f64>() / 15.0;
    assert!((face["mean_score"].as_f64().unwrap() - mean).abs() < 1e-5);
    let [start, end] = ["start_s", "end_s"].map(|k| face[k].as_f64().unwrap());
    assert!(start < 0.3 && end > 5.7 && end < 6.0, "{start} {end}");
    assert_eq!(face["bbox"].as_array().unwrap().len(), 4);

    assert_eq!(file["event"], "summary");
    assert_eq!((&file["n_frames"], &file["n_faces"]), (&Value::from(150), &Value::from(1)));
    assert_eq!((&file["verdict"], &file["mean_score"]), (&face["verdict"], &face["mean_score"]));
    let manifest = default_manifest();
    for field in ["id", "version", "status"] {
        assert_eq!(file["model"][field], manifest[field]);
    }
    assert_eq!(file["damage"]["n_frames_lost"], 0);
}

#[test]
fn every_output_says_that_the_model_is_untrained() {
    let path = clip().display().to_string();
    let bundle = untrained();
    let output = scan(&["--bundle", bundle.path().to_str().unwrap(), &path]);
    assert!(is_clean(&output), "{output:?}");
    let told = "untrained model: verdicts mean nothing";
    assert!(String::from_utf8_lossy(&output.stdout).contains(told));
    assert!(String::from_utf8_lossy(&output.stderr).contains(told));
}

#[test]
fn the_same_file_gives_the_same_bytes_whatever_the_number_of_jobs() {
    let path = clip().display().to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&path, folder.path().join("a.mp4")).unwrap();
    std::fs::copy(&path, folder.path().join("b.mp4")).unwrap();
    let sorted = |jobs: &str| {
        let output = scan(&["--json", "-j", jobs, &folder.path().display().to_string()]);
        assert!(is_clean(&output), "{output:?}");
        let mut text: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        text.sort();
        text
    };
    let alone = sorted("1");
    assert_eq!(alone.len(), 4);
    assert_eq!(alone, sorted("2"));
}

#[test]
fn faces_and_annotated_video_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let (faces, video) = (folder.path().join("faces"), folder.path().join("out.mp4"));
    let path = clip().display().to_string();
    let (faces_arg, video_arg) = (faces.display().to_string(), video.display().to_string());
    let plain = scan(&["--json", &path]);
    let output = scan(&["--json", "--faces", &faces_arg, "--annotate", &video_arg, &path]);
    assert!(is_clean(&output), "{output:?}");
    assert_eq!(lines(&plain)[1], lines(&output)[1], "drawing must not change the verdict");

    let of_file = std::fs::read_dir(&faces).unwrap().next().unwrap().unwrap().path();
    let crops: Vec<_> = std::fs::read_dir(of_file.join("face-1")).unwrap().collect();
    assert_eq!(crops.len(), 15);
    for crop in crops {
        assert_eq!(image::open(crop.unwrap().path()).unwrap().to_rgb8().dimensions(), (224, 224));
    }
    assert!(of_file.join("face-1.png").is_file());

    let mut drawn = candor::source::open(&video).unwrap();
    let mut n_frames = 0;
    while drawn.next_frame().unwrap().is_some() {
        n_frames += 1;
    }
    assert_eq!(n_frames, 150);
}

#[test]
fn a_photo_and_a_sequence_of_photos_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = candor::source::open(&clip()).unwrap();
    for i in 0..20 {
        let frame = source.next_frame().unwrap().unwrap();
        let picture = candor::preprocess::color::to_rgb(&frame).unwrap();
        picture.save(folder.path().join(format!("frame{i}.png"))).unwrap();
    }
    let photo = folder.path().join("frame0.png").display().to_string();
    let output = scan(&["--json", &photo]);
    assert!(is_clean(&output), "{output:?}");
    assert_eq!(lines(&output)[0]["n_scores"], 1);
    assert_eq!(lines(&output)[1]["n_frames"], 1);

    let output = scan(&["--json", "--sequence", "25", &folder.path().display().to_string()]);
    assert!(is_clean(&output), "{output:?}");
    let lines = lines(&output);
    assert_eq!((lines.len(), &lines[1]["n_frames"]), (2, &Value::from(20)));
    assert_eq!(lines[0]["n_scores"], 15);
}

#[test]
fn y4m_comes_through_a_pipe() {
    let mut y4m = b"YUV4MPEG2 W64 H48 F25:1 Ip C420jpeg\n".to_vec();
    for _ in 0..3 {
        y4m.extend_from_slice(b"FRAME\n");
        y4m.extend(std::iter::repeat_n(128u8, 64 * 48 * 3 / 2));
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["scan", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&y4m).unwrap();
    let output = child.wait_with_output().unwrap();
    let lines = lines(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["verdict"], &lines[0]["mean_score"]), (&Value::from("NoFace"), &Value::Null));
    assert_eq!(lines[0]["n_frames"], 3);
}

#[test]
fn a_small_face_is_too_small_and_never_real() {
    let path = clip().display().to_string();
    let mut source = candor::source::open(Path::new(&path)).unwrap();
    let frame = source.next_frame().unwrap().unwrap();
    let picture = candor::preprocess::color::to_rgb(&frame).unwrap();
    let small = image::imageops::thumbnail(&picture, 80, 60);
    let folder = tempfile::tempdir().unwrap();
    let photo = folder.path().join("small.png");
    small.save(&photo).unwrap();
    let output = scan(&["--json", "--min-face-px", "12", &photo.display().to_string()]);
    let lines = lines(&output);
    assert_eq!(lines[0]["verdict"], "FaceTooSmall", "{lines:?}");
    assert_eq!((&lines[0]["n_scores"], &lines[0]["mean_score"]), (&Value::from(0), &Value::Null));
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let path = clip().display().to_string();
    let code = |args: &[&str]| scan(args).status.code();
    assert_eq!(code(&["/does/not/exist.mp4"]), Some(3));
    assert_eq!(code(&["--min-face-px", "1", &path]), Some(2));
    assert_eq!(code(&["--bundle", "/does/not/exist", &path]), Some(2));
    assert_eq!(code(&["--annotate", "/tmp/x.mp4", &path, &path]), Some(2));
    assert_eq!(code(&["--annotate", &path, &path]), Some(2));
    assert_eq!(code(&["--faces", "/proc/nowhere", &path]), Some(4));
    assert_eq!(candor(&["scan"]).status.code(), Some(2));
    let found = lines(&scan(&["--json", &path]))[1]["verdict"].as_str().unwrap().to_owned();
    let fails = matches!(found.as_str(), "Fake" | "Uncertain");
    assert_eq!(code(&["--fail-on", "uncertain", &path]), Some(i32::from(fails)));
}

#[test]
fn what_can_be_scanned_is_scanned_beside_what_cannot() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.mp4"), b"not a video").unwrap();
    std::fs::copy(clip(), folder.path().join("good.mp4")).unwrap();
    let output = scan(&["--json", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(3));
    let events: Vec<_> = lines(&output).iter().map(|l| l["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["error", "verdict", "summary"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("ffmpeg -i") && message.contains("broken.mp4"), "{message}");
}

#[test]
fn a_truncated_file_gives_what_is_there_and_says_what_was_lost() {
    let whole = std::fs::read(clip()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.mp4");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let output = scan(&["--json", &cut.display().to_string()]);
    assert!(is_clean(&output), "{output:?}");
    let lines = lines(&output);
    let summary = &lines[lines.len() - 1];
    assert!(summary["n_frames"].as_u64().unwrap() > 30, "{summary}");
    assert!(summary["damage"]["n_bytes_missing"].as_u64().unwrap() > 0, "{summary}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_complete_output() {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    let bundle = untrained();
    let mut child = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["scan", "--json", "--bundle", bundle.path().to_str().unwrap(), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The note about the untrained model comes after the signal handlers are in place.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut note = String::new();
    stderr.read_line(&mut note).unwrap();
    assert!(note.contains("untrained"), "{note}");
    stdin.write_all(b"YUV4MPEG2 W64 H48 F25:1 Ip C420jpeg\n").unwrap();
    let frame = [b"FRAME\n".as_slice(), &[128; 64 * 48 * 3 / 2]].concat();
    // More than a pipe holds: when all are written, the scan has begun.
    for _ in 0..30 {
        stdin.write_all(&frame).unwrap();
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    // The next frames find the flag set; the pipe may close before all are taken.
    for _ in 0..100 {
        if stdin.write_all(&frame).is_err() {
            break;
        }
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), None, "{output:?}");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let lines = lines(&output);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["event"], &lines[0]["interrupted"]), (&Value::from("summary"), &Value::from(true)));
}
