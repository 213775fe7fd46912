//! The evidence log: what is written holds, what was changed is found, what a cut leaves is mended.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candor::bundle::{Digest, PublicKey, to_hex};
use candor::evidence::entry::{Entry, Look, Model, What};
use candor::evidence::{About, Checked, EvidenceError, Log, Verdict, verify};
use ed25519_dalek::SigningKey;
use image::RgbImage;
use serde_json::{Value, json};
use sha2::Digest as _;

const PROGRAM: &str = env!("CARGO_BIN_EXE_candor");
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/astronaut.mp4");
const SETTINGS: &str = "[watch]\nwidth_px = 640\n";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn about() -> About {
    let model = Model {
        id: "m".into(),
        version: "1.0.0".into(),
        sha256: "a".repeat(64),
        calibration_bits: [1.0_f32.to_bits(), 0.0_f32.to_bits()],
        thresholds_bits: [0.25_f32.to_bits(), 0.75_f32.to_bits()],
        min_scores: 1,
    };
    About { model, settings: SETTINGS.to_owned() }
}

fn open(folder: &Path, max_bytes: u64) -> Log {
    Log::open(folder, key(), &about(), max_bytes).unwrap()
}

/// The made-up classifier: a crop's score is its first byte.
fn score(crop: &RgbImage) -> f32 {
    f32::from(crop.as_raw()[0]) / 255.0
}

fn png(crop: &RgbImage) -> (Digest, Vec<u8>) {
    let mut png = Vec::new();
    crop.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    (Digest::of(&png), png)
}

/// The `n`th verdict: two looks of one face, with their crops, which are noise, so that they take their bytes on the disk too.
fn verdict(n: u32) -> (Verdict, [(Digest, Vec<u8>); 2]) {
    let crops = [0, 1].map(|k| {
        let mut state = n * 2 + k + 1;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
        RgbImage::from_vec(16, 16, bytes.take(16 * 16 * 3).collect()).unwrap()
    });
    let scores = crops.each_ref().map(score);
    let mean = (scores[0] + scores[1]) / 2.0;
    let word = if mean > 0.75 {
        "Fake"
    } else if mean < 0.25 {
        "Real"
    } else {
        "Uncertain"
    };
    let packed = crops.each_ref().map(png);
    let looks = packed.iter().zip(scores).map(|((crop, _), score)| Look {
        crop: *crop,
        score_bits: score.to_bits(),
        pts_ns: i64::from(n),
        bbox: [1.5, 2.0, 30.0, 40.0],
    });
    let event = json!({ "event": "verdict", "track_id": n, "verdict": word });
    (Verdict { event, scores: scores.to_vec(), looks: looks.collect(), n_lost: 0 }, packed)
}

fn enter(log: &mut Log, n: u32) {
    let (verdict, crops) = verdict(n);
    log.enter(&about(), verdict, &crops).unwrap();
}

fn check(folder: &Path) -> Checked {
    check_with(folder, Some(PublicKey::of(&key())), None)
}

fn check_with(folder: &Path, key: Option<PublicKey>, head: Option<Digest>) -> Checked {
    verify(folder, key, head, &mut |_, crop| Some(score(crop))).unwrap()
}

/// A log of `n` verdicts in one segment.
fn log_of(n: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path(), 1 << 30);
    (0..n).for_each(|n| enter(&mut log, n));
    folder
}

fn entries(folder: &Path) -> PathBuf {
    folder.join("000001/entries.jsonl")
}

fn lines(folder: &Path) -> Vec<String> {
    fs::read_to_string(entries(folder)).unwrap().lines().map(str::to_owned).collect()
}

fn write(folder: &Path, lines: &[String]) {
    fs::write(entries(folder), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn the_format_is_what_its_description_says() {
    let folder = log_of(3);
    let mut previous = sha2::Sha256::digest(b"");
    for (n, line) in lines(folder.path()).iter().enumerate() {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["n"], n);
        assert_eq!(value["previous"], to_hex(&previous));
        for look in value["looks"].as_array().unwrap_or(&Vec::new()) {
            let name = look["crop"].as_str().unwrap();
            let png = fs::read(folder.path().join("000001").join(format!("{name}.png"))).unwrap();
            assert_eq!(to_hex(&sha2::Sha256::digest(&png)), name);
        }
        let signed_at = line.rfind(",\"signature\"").unwrap();
        let text = format!("candor evidence entry 1\n{}}}", &line[..signed_at]);
        let hex = value["signature"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..128).step_by(2).map(|k| u8::from_str_radix(&hex[k..k + 2], 16).unwrap()).collect();
        let signature = ed25519_dalek::Signature::from_slice(&bytes).unwrap();
        key().verifying_key().verify_strict(text.as_bytes(), &signature).unwrap();
        previous = sha2::Sha256::digest(line.as_bytes());
    }
    let checked = check(folder.path());
    assert_eq!(checked.findings, [""; 0]);
    assert_eq!((checked.n_entries, checked.n_verdicts, checked.n_crops, checked.n_rescored), (4, 3, 6, 6));
}

#[test]
fn what_was_changed_is_found() {
    type Change = fn(&Path);
    fn first_crop(folder: &Path) -> PathBuf {
        let files = fs::read_dir(folder.join("000001")).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|ext| ext == "png")).min().unwrap()
    }
    fn edit(folder: &Path, change: impl FnOnce(&mut Vec<String>)) {
        let mut all = lines(folder);
        change(&mut all);
        write(folder, &all);
    }
    /// An entry changed and signed again, by whoever has `key`.
    fn forge(folder: &Path, at: usize, key: &SigningKey, change: impl FnOnce(&mut Entry)) {
        edit(folder, |lines| {
            let mut entry = Entry::read(&lines[at], None).unwrap();
            change(&mut entry);
            lines[at] = entry.line(key).unwrap();
        });
    }
    let cases: [(&str, Change, &str); 13] = [
        (
            "a verdict's word",
            |f| edit(f, |l| l[2] = l[2].replace("\"track_id\":1", "\"track_id\":9")),
            "signature",
        ),
        ("an entry left out", |f| edit(f, |l| drop(l.remove(2))), "doesn't follow"),
        ("two entries swapped", |f| edit(f, |l| l.swap(2, 3)), "doesn't follow"),
        ("an entry twice", |f| edit(f, |l| l.insert(2, l[2].clone())), "doesn't follow"),
        ("the first entries gone", |f| edit(f, |l| drop(l.drain(..2))), "where those before it have gone"),
        ("a line that is no entry", |f| edit(f, |l| l[2] = "{}".into()), "no signature"),
        (
            "a crop's pixels",
            |f| fs::write(first_crop(f), png(&RgbImage::new(16, 16)).1).unwrap(),
            "was changed",
        ),
        ("a crop gone", |f| fs::remove_file(first_crop(f)).unwrap(), "is missing"),
        ("a crop more", |f| fs::write(f.join("000001/x.png"), b"x").unwrap(), "no entry names it"),
        (
            "another's entry",
            |f| forge(f, 4, &SigningKey::from_bytes(&[9; 32]), |entry| entry.unix_ms += 1),
            "its signature doesn't hold",
        ),
        (
            "a score, by who has the key",
            |f| {
                forge(f, 4, &key(), |entry| {
                    let What::Verdict { scores_bits, looks, .. } = &mut entry.what else { panic!() };
                    scores_bits[0] ^= 1;
                    looks[0].score_bits ^= 1;
                });
            },
            "but scored again it is",
        ),
        (
            "a verdict, by who has the key",
            |f| {
                forge(f, 4, &key(), |entry| {
                    let What::Verdict { event, .. } = &mut entry.what else { panic!() };
                    event["verdict"] = json!("NoFace");
                });
            },
            "its scores come to",
        ),
        (
            "the settings, by who has the key",
            |f| {
                forge(f, 4, &key(), |entry| {
                    let What::Verdict { settings_sha256, .. } = &mut entry.what else { panic!() };
                    *settings_sha256 = Digest::of(b"others");
                });
            },
            "its settings aren't",
        ),
    ];
    for (name, change, expected) in cases {
        let folder = log_of(4);
        assert_eq!(check(folder.path()).n_findings, 0, "{name}");
        change(folder.path());
        let checked = check(folder.path());
        assert!(
            checked.findings.iter().any(|found| found.contains(expected)),
            "{name}: {:?}",
            checked.findings
        );
    }
}

#[test]
fn entries_cut_off_at_the_end_are_found_by_a_digest_that_was_kept() {
    let folder = log_of(4);
    let head = check(folder.path()).head.unwrap();
    assert_eq!(head.0, 4);
    let mut all = lines(folder.path());
    all.pop();
    let files = fs::read_dir(folder.path().join("000001")).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|ext| ext == "png")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        if !all.iter().any(|line| line.contains(name)) {
            fs::remove_file(path).unwrap();
        }
    }
    write(folder.path(), &all);
    assert_eq!(check(folder.path()).n_findings, 0, "nothing in the log itself says that there was more");
    let checked = check_with(folder.path(), None, Some(head.1));
    assert!(checked.findings[0].contains("isn't there"), "{:?}", checked.findings);
}

#[test]
fn a_cut_at_any_byte_leaves_a_log_that_goes_on() {
    let folder = log_of(2);
    let whole = fs::read(entries(folder.path())).unwrap();
    let second_line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    // Places all over the two newest entries, the ends of lines and their neighbours, and a file of no byte.
    let is_near_end = |n: usize| whole[n.saturating_sub(2)..(n + 1).min(whole.len())].contains(&b'\n');
    let places = (second_line..=whole.len()).filter(|n| n % 41 == 0 || is_near_end(*n));
    for n_bytes in std::iter::once(0).chain(places) {
        let cut = tempfile::tempdir().unwrap();
        fs::create_dir(cut.path().join("000001")).unwrap();
        for file in fs::read_dir(folder.path().join("000001")).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), cut.path().join("000001").join(file.file_name())).unwrap();
        }
        fs::write(entries(cut.path()), &whole[..n_bytes]).unwrap();
        let n_whole = whole[..n_bytes].iter().filter(|byte| **byte == b'\n').count() as u64;
        let mut log = open(cut.path(), 1 << 30);
        enter(&mut log, 77);
        let checked = check(cut.path());
        assert_eq!(checked.findings, [""; 0], "cut to {n_bytes} bytes");
        let is_torn = n_bytes > 0 && whole[n_bytes - 1] != b'\n';
        assert_eq!(checked.n_entries, n_whole + 2 + u64::from(is_torn), "cut to {n_bytes} bytes");
    }
}

#[test]
fn a_segment_that_is_damaged_holds_up_nothing_and_is_found() {
    let folder = log_of(3);
    let mut bytes = fs::read(entries(folder.path())).unwrap();
    let at = bytes.len() * 2 / 3;
    bytes[at] = 0xff;
    fs::write(entries(folder.path()), bytes).unwrap();
    let mut log = open(folder.path(), 1 << 30);
    enter(&mut log, 50);
    let checked = check(folder.path());
    assert!(folder.path().join("000002").is_dir());
    assert!(checked.findings[0].starts_with("segment 1"), "{:?}", checked.findings);
}

#[test]
fn the_oldest_segments_go_and_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let max_bytes = 1 << 20;
    let taken = |folder: &Path| -> u64 {
        let segments =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let files =
            segments.flat_map(|of| fs::read_dir(of).unwrap().map(|entry| entry.unwrap().metadata().unwrap()));
        files.map(|metadata| metadata.len().div_ceil(4096) * 4096).sum()
    };
    let mut n = 0;
    for _ in 0..4 {
        let mut log = open(folder.path(), max_bytes);
        for _ in 0..120 {
            enter(&mut log, n);
            n += 1;
            assert!(taken(folder.path()) <= max_bytes + 16 * 4096, "after {n} verdicts");
        }
        drop(log);
        let checked = check(folder.path());
        assert_eq!(checked.findings, [""; 0]);
        assert_eq!(checked.head.unwrap().0 + 1, checked.n_entries + checked.n_dropped);
    }
    assert!(check(folder.path()).n_dropped > 100);
    // Without the key known, whoever begins with a later segment's first entry finds it there.
    assert_eq!(check_with(folder.path(), None, None).key, Some(PublicKey::of(&key())));
    // A segment in the middle.
    let oldest = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).min();
    let middle = oldest.unwrap().file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap() + 2;
    fs::remove_dir_all(folder.path().join(format!("{middle:06}"))).unwrap();
    assert!(
        check(folder.path()).findings.iter().any(|found| found.contains(&format!("{middle} is missing")))
    );
}

#[test]
fn what_is_kept_already_is_not_written_again() {
    let folder = log_of(1);
    let crop = fs::read_dir(folder.path().join("000001")).unwrap().map(|entry| entry.unwrap().path());
    let crop = crop.filter(|path| path.extension().is_some_and(|ext| ext == "png")).min().unwrap();
    let before = fs::metadata(&crop).unwrap();
    let mut log = open(folder.path(), 1 << 30);
    enter(&mut log, 0);
    let after = fs::metadata(&crop).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    let checked = check(folder.path());
    assert_eq!((checked.n_findings, checked.n_verdicts, checked.n_crops), (0, 2, 4));
}

#[test]
fn a_verdict_that_could_not_be_written_leaves_a_log_as_it_was_written() {
    let folder = log_of(2);
    let mut log = open(folder.path(), 1 << 30);
    // Where the second crop should go, something else is: as a full disk would, this ends the writing half-way.
    let (lost, crops) = verdict(7);
    let taken = folder.path().join("000001").join(format!("{}.png", crops[1].0));
    fs::create_dir(&taken).unwrap();
    assert!(log.enter(&about(), lost.clone(), &crops).is_err());
    fs::remove_dir(&taken).unwrap();
    assert_eq!(check(folder.path()).findings, [""; 0], "not even a crop is left");
    // What can't be an entry changes nothing either, other settings included.
    let others = About { settings: "x".repeat(1 << 17), ..about() };
    assert!(log.enter(&others, lost.clone(), &crops).is_err());
    log.enter(&about(), lost, &crops).unwrap();
    let checked = check(folder.path());
    assert_eq!((checked.findings, checked.n_verdicts), (Vec::new(), 3));
}

#[test]
fn other_settings_and_another_model_are_told_before_the_verdict_that_rests_on_them() {
    let folder = log_of(1);
    let mut log = open(folder.path(), 1 << 30);
    let model = Model { version: "2.0.0".into(), ..about().model };
    for about in [About { settings: "[watch]\n".into(), ..about() }, About { model, ..about() }] {
        let (verdict, crops) = verdict(3);
        log.enter(&about, verdict, &crops).unwrap();
    }
    let checked = check(folder.path());
    assert_eq!((checked.findings, checked.n_verdicts), (Vec::new(), 3));
    let starts = lines(folder.path()).iter().filter(|line| line.contains("\"entry\":\"start\"")).count();
    assert_eq!(starts, 4, "two programs, other settings, another model");
}

#[test]
fn folders_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["251126", "x.dropped", "abcdef"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("recording"), b"theirs").unwrap();
    }
    fs::write(folder.path().join("y.dropped"), b"theirs").unwrap();
    enter(&mut open(folder.path(), 1 << 30), 0);
    for name in ["251126/recording", "x.dropped/recording", "abcdef/recording", "y.dropped"] {
        assert!(folder.path().join(name).exists(), "{name}");
    }
    assert_eq!(check(folder.path()).findings, [""; 0]);
}

#[test]
fn one_process_keeps_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let _log = open(folder.path(), 1 << 30);
    let second = Log::open(folder.path(), key(), &about(), 1 << 30);
    assert!(matches!(second, Err(EvidenceError::Busy(_))));
}

#[test]
fn watching_keeps_a_log_whose_scores_come_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("evidence");
    let config = folder.path().join("candor.toml");
    fs::write(&config, format!("[evidence]\nfolder = {log:?}\n")).unwrap();
    for _ in 0..2 {
        let watched = Command::new(PROGRAM)
            .args(["watch", "--unpaced", "--play", CLIP, "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(watched.status.success(), "{}", String::from_utf8_lossy(&watched.stderr));
        let verdicts = String::from_utf8(watched.stdout).unwrap();
        let n_told = verdicts.lines().filter(|line| line.contains("verdict\",")).count();
        assert!(n_told > 1, "{verdicts}");
    }
    let verified = Command::new(PROGRAM).args(["verify-log", "--json"]).arg(&log).output().unwrap();
    let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((verified.status.code(), &found["is_as_written"]), (Some(0), &json!(true)), "{found}");
    assert_eq!(found["n_rescored"], found["n_crops"]);
    assert!(found["n_crops"].as_u64().unwrap() >= 30, "{found}");
    assert_eq!((&found["n_not_rescored"], &found["n_lost"]), (&json!(0), &json!(0)));

    let key = found["key"].as_str().unwrap();
    for (arg, value, code) in [
        ("--key", key.to_owned(), 0),
        ("--head", found["head"]["sha256"].as_str().unwrap().to_owned(), 0),
        ("--head", "0".repeat(64), 5),
        ("--key", PublicKey::of(&SigningKey::from_bytes(&[1; 32])).to_string(), 5),
    ] {
        let out = Command::new(PROGRAM).arg("verify-log").arg(&log).args([arg, &value]).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{arg}: {}", String::from_utf8_lossy(&out.stdout));
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(log.join("device.key")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn verdicts_at_a_reload_are_of_the_settings_they_were_made_under() {
    let folder = tempfile::tempdir().unwrap();
    let (log, config) = (folder.path().join("evidence"), folder.path().join("candor.toml"));
    let settings = |interval_ms: u32| {
        format!("[evidence]\nfolder = {log:?}\n[watch]\nscore_interval_ms = {interval_ms}\n")
    };
    fs::write(&config, settings(1000)).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["watch", "--repeat", "1000", "--frames", "3000", "--play", CLIP, "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let kill = |signal: &str| {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    };
    let mut wait_for = |event: &str| {
        let event = format!("\"event\":\"{event}\"");
        assert!(lines.any(|line| line.contains(&event)), "the run ended without {event}");
    };
    wait_for("score");
    fs::write(&config, settings(2000)).unwrap();
    kill("-HUP");
    wait_for("reloaded");
    wait_for("score");
    kill("-TERM");
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let entries = fs::read_to_string(log.join("000001/entries.jsonl")).unwrap();
    let entries: Vec<Value> = entries.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let digest = |settings: &Value| to_hex(&sha2::Sha256::digest(settings.as_str().unwrap()));
    let starts: Vec<usize> = (0..entries.len()).filter(|n| entries[*n]["entry"] == "start").collect();
    assert_eq!(starts.len(), 2, "{entries:?}");
    for (from, to) in [(starts[0], starts[1]), (starts[1], entries.len())] {
        let of: Vec<&Value> = entries[from..to].iter().filter(|entry| entry["entry"] == "verdict").collect();
        // The face that was in view is over with each run.
        assert_eq!(of.last().unwrap()["event"]["event"], "verdict");
        assert!(of.iter().all(|entry| entry["settings_sha256"] == digest(&entries[from]["settings"])));
    }
    let verified = Command::new(PROGRAM).arg("verify-log").arg(&log).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
