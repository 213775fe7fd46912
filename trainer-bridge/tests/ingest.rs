//! `trainer-bridge ingest` as people run it, on folders made from the project's own clip.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../runtime/tests/support/ffmpeg.rs"]
mod ffmpeg;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;

use candor::bundle::Bundle;
use candor::engine::Engine;
use candor::frame::Frame;
use candor::pipeline::{Face, Observer, ScanError, Scanner, Settings, Sighting};
use candor::{detect, source};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use trainer_bridge::ingest::IngestError;
use trainer_bridge::ingest::merge::check_no_leak;
use trainer_bridge::manifest::{self, Label, Row, Split};
use trainer_bridge::probe::facts::{self, OF_CROPS, Reader};

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4")
}

/// A folder `dfdc` of six videos: three reals and their fakes, two of the pairs of one person.
fn dfdc() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let videos = folder.path().join("dfdc");
    fs::create_dir(&videos).unwrap();
    let mut entries = Vec::new();
    for (pair, group) in [("a", "p"), ("b", "p"), ("c", "q")] {
        fs::copy(clip(), videos.join(format!("{pair}.mp4"))).unwrap();
        fs::copy(clip(), videos.join(format!("{pair}_fake.mp4"))).unwrap();
        entries.push(format!(r#""{pair}.mp4": {{"label": "REAL", "group": "{group}", "split": "train"}}"#));
        entries.push(format!(
            r#""{pair}_fake.mp4": {{"label": "FAKE", "original": "{pair}.mp4", "method": "copy", "split": "train"}}"#
        ));
    }
    fs::write(videos.join("metadata.json"), format!("{{{}}}", entries.join(","))).unwrap();
    folder
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"));
    command.arg("ingest").args(args).stdin(Stdio::null()).env("OMP_NUM_THREADS", "1");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn succeed(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

fn fail(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output));
    text(&output)
}

/// The SHA-256 of every file below a folder, by path.
fn digests(folder: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(base: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(base, &path, found);
            } else {
                let digest = Sha256::digest(fs::read(&path).unwrap());
                let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                found.insert(path.strip_prefix(base).unwrap().to_owned(), digest);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

#[test]
fn threads_shards_and_kills_change_nothing() {
    let folder = dfdc();
    let (videos, whole) = (path(&folder, "dfdc"), path(&folder, "whole"));
    let small = ["--size", "64", "--seed", "3"];
    let summary = succeed(&[&[&videos, "--out", &whole, "--jobs", "1"], &small[..]].concat());
    assert!(summary.contains("6 videos and photos in 2 groups: 2 (33.3 %)"), "{summary}");
    // The clip shows one face all the time.
    assert!(summary.contains("90 crops of 6 faces"), "{summary}");
    let expected = digests(Path::new(&whole));
    assert_eq!(expected.keys().filter(|p| p.extension().is_some_and(|e| e == "png")).count(), 90);

    let threads = path(&folder, "threads");
    succeed(&[&[&videos, "--out", &threads, "--jobs", "4"], &small[..]].concat());
    assert_eq!(digests(Path::new(&threads)), expected, "4 jobs");

    let shards = path(&folder, "shards");
    for (shard, n_missing) in [("3/3", 4), ("1/3", 2), ("2/3", 0)] {
        let said =
            succeed(&[&[&videos, "--out", &shards, "--jobs", "2", "--shard", shard], &small[..]].concat());
        assert_eq!(said.contains(&format!("{n_missing} of 6 are not done")), n_missing > 0, "{said}");
        assert_eq!(Path::new(&shards).join("manifest.csv").exists(), n_missing == 0);
    }
    assert_eq!(digests(Path::new(&shards)), expected, "3 shards");

    let killed = path(&folder, "killed");
    let arguments = [&[&videos, "--out", &killed, "--jobs", "1"], &small[..]].concat();
    let mut child = command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = Path::new(&killed).join("records/dfdc/a.mp4/clean.json");
    while !first.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first video was done");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What a kill may leave: crops without a record, files half written.
    let orphan = Path::new(&killed).join("crops/dfdc/c_fake.mp4/clean");
    fs::create_dir_all(&orphan).unwrap();
    fs::write(orphan.join("9-000009.png"), "half").unwrap();
    let half = Path::new(&killed).join("work-1-of-1/0/crops");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("9-000009.png"), "half").unwrap();
    let said = succeed(&arguments);
    let n_before: usize =
        said.split(" videos done now, ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..6).contains(&n_before), "{said}");
    assert_eq!(digests(Path::new(&killed)), expected, "killed and run again");

    // A crop that is lost makes its video undone.
    let lost = expected.keys().find(|p| p.starts_with("crops")).unwrap();
    fs::remove_file(Path::new(&killed).join(lost)).unwrap();
    let merged = fail(&["--merge", "--out", &killed]);
    assert!(merged.contains("1 of 6 are not done"), "{merged}");
    assert!(succeed(&arguments).contains("1 videos done now, 5 before"));
    assert_eq!(digests(Path::new(&killed)), expected, "a crop was lost");

    let other = fail(&[&videos, "--out", &killed, "--size", "65", "--seed", "3"]);
    assert!(other.contains("another dataset") && other.contains("size_px: 65"), "{other}");
}

#[test]
fn no_person_source_or_video_is_on_both_sides() {
    let folder = dfdc();
    let out = path(&folder, "out");
    for seed in ["0", "1", "2"] {
        let _ = fs::remove_dir_all(&out);
        succeed(&[&path(&folder, "dfdc"), "--out", &out, "--size", "32", "--per-face", "2", "--seed", seed]);
        let rows = manifest::read(Path::new(&out)).unwrap();
        check_no_leak(&rows).unwrap();
        let people = |split| rows.iter().filter(|r| r.split == split).map(|r| r.group.clone()).collect();
        let (train, validation): (BTreeSet<String>, BTreeSet<String>) =
            (people(Split::Train), people(Split::Validation));
        assert_eq!(train.len() + validation.len(), 2, "seed {seed}");
        let swapped = path(&folder, &format!("swapped-{seed}"));
        let options = ["--out", &swapped, "--size", "32", "--per-face", "2", "--seed", seed, "--swap-sides"];
        succeed(&[&[path(&folder, "dfdc").as_str()][..], &options].concat());
        let rows_swapped = manifest::read(Path::new(&swapped)).unwrap();
        for row in &rows_swapped {
            let is_train = row.split == Split::Train;
            assert!(if is_train { &validation } else { &train }.contains(&row.group), "seed {seed}: {row:?}");
        }
        assert_eq!(rows_swapped.len(), rows.len());
        assert!(rows.iter().all(|r| r.source == r.video || r.source == r.video.replace("_fake", "")));

        let mut torn: Vec<Row> = rows.clone();
        let last = torn.last_mut().unwrap();
        last.split = if last.split == Split::Train { Split::Validation } else { Split::Train };
        assert!(matches!(check_no_leak(&torn), Err(IngestError::Leak { .. })));
    }
    // The metadata may not tear a person apart either.
    let metadata = folder.path().join("dfdc/metadata.json");
    let text = fs::read_to_string(&metadata).unwrap();
    let at = text.rfind("\"train\"").unwrap();
    fs::write(&metadata, format!("{}\"test\"{}", &text[..at], &text[at + 7..])).unwrap();
    let error = fail(&[&path(&folder, "dfdc"), "--out", &path(&folder, "torn"), "--given-split"]);
    assert!(error.contains("group q") && error.contains("c_fake.mp4 in Validation"), "{error}");
}

/// Keeps the faces of a scan.
#[derive(Default)]
struct Witness(Vec<Face>);

impl Observer for Witness {
    fn frame(&mut self, _: &Frame, _: Option<&[Sighting]>) -> Result<(), ScanError> {
        Ok(())
    }

    fn face(&mut self, face: &Face) -> Result<(), ScanError> {
        self.0.push(face.clone());
        Ok(())
    }
}

#[test]
fn training_sees_what_a_scan_scores() {
    let bundle = Bundle::embedded().unwrap();
    let mut scanner =
        Scanner::new(&Engine::default(), detect::Settings::default(), Settings::default(), &bundle).unwrap();
    let mut witness = Witness::default();
    let mut source = source::open(&clip()).unwrap();
    scanner.scan(source.as_mut(), &mut witness, &AtomicBool::new(false)).unwrap();
    let [face] = witness.0.as_slice() else { panic!("{} faces", witness.0.len()) };

    let folder = dfdc();
    let out = path(&folder, "out");
    succeed(&[&path(&folder, "dfdc"), "--out", &out]);
    let rows = manifest::read(Path::new(&out)).unwrap();
    let rows: Vec<&Row> = rows.iter().filter(|r| r.video == "dfdc/a.mp4").collect();
    assert_eq!(rows.len(), face.samples.len());
    for (row, sample) in rows.iter().zip(&face.samples) {
        assert_eq!((row.pts_ns, row.frame, row.bbox()), (sample.pts_ns, sample.frame_idx, sample.bbox));
        let crop = image::open(Path::new(&out).join(&row.crop)).unwrap().to_rgb8();
        assert!(crop == sample.crop, "{}", row.crop);
    }
}

#[test]
fn the_limit_of_bytes_holds() {
    let folder = dfdc();
    let (videos, out, whole) = (path(&folder, "dfdc"), path(&folder, "out"), path(&folder, "whole"));
    let small = ["--size", "64", "--jobs", "2"];
    let error = fail(&[&[&videos, "--out", &out, "--max-bytes", "250K"], &small[..]].concat());
    assert!(error.contains("256000 bytes are allowed"), "{error}");
    let n_bytes: u64 = digests(&Path::new(&out).join("crops"))
        .keys()
        .map(|p| fs::metadata(Path::new(&out).join("crops").join(p)).unwrap().len())
        .sum();
    assert!(n_bytes > 0 && n_bytes <= 256_000, "{n_bytes}");
    let said = succeed(&[&[&videos, "--out", &out], &small[..]].concat());
    assert!(!said.contains(" 0 before"), "{said}");
    succeed(&[&[&videos, "--out", &whole], &small[..]].concat());
    assert_eq!(digests(Path::new(&out)), digests(Path::new(&whole)));
}

#[test]
fn decisions_count() {
    let folder = dfdc();
    let (videos, out) = (path(&folder, "dfdc"), path(&folder, "out"));
    succeed(&[&videos, "--out", &out, "--size", "64"]);
    let before = manifest::read(Path::new(&out)).unwrap();
    let track = |video: &str| before.iter().find(|r| r.video == video).unwrap().track;
    let frame = before.iter().find(|r| r.video == "dfdc/b.mp4").unwrap().frame;
    let text = format!(
        "video,condition,track,frame,verdict\ndfdc/a.mp4,clean,{},,wrong-face\ndfdc/b.mp4,clean,{},{frame},wrong-face\n\
         dfdc/c_fake.mp4,clean,{},,real-person\n",
        track("dfdc/a.mp4"),
        track("dfdc/b.mp4"),
        track("dfdc/c_fake.mp4")
    );
    fs::write(Path::new(&out).join("decisions.csv"), text).unwrap();
    let said = succeed(&["--merge", "--out", &out]);
    assert!(said.contains("31 crops left out, 0 now real"), "{said}");
    let count = |rows: &[Row], video: &str| rows.iter().filter(|r| r.video == video).count();
    let rows = manifest::read(Path::new(&out)).unwrap();
    let counts = ["dfdc/a.mp4", "dfdc/b.mp4", "dfdc/c.mp4", "dfdc/c_fake.mp4"].map(|v| count(&rows, v));
    assert_eq!(counts, [0, 14, 15, 0]);

    // The same by a whole run, with the real person kept.
    let said = succeed(&[&videos, "--out", &out, "--size", "64", "--real-persons", "keep"]);
    assert!(said.contains("0 videos done now, 6 before"), "{said}");
    let rows = manifest::read(Path::new(&out)).unwrap();
    let kept: Vec<&Row> = rows.iter().filter(|r| r.video == "dfdc/c_fake.mp4").collect();
    assert_eq!(kept.len(), 15);
    assert!(kept.iter().all(|r| r.label == Label::Real && r.method.is_empty()));
}

#[test]
fn what_candor_refuses_comes_through_ffmpeg_and_each_split_is_compressed_its_own_way() {
    let Some(program) = ffmpeg::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let videos = folder.path().join("set");
    fs::create_dir(&videos).unwrap();
    for name in ["a.mp4", "b.mp4"] {
        let clip = clip();
        // 4:4:4 is a form of H.264 that candor refuses.
        let args = ["-i", clip.to_str().unwrap(), "-t", "2", "-pix_fmt", "yuv444p", "-c:v", "libx264"];
        ffmpeg::run(&program, args.iter().copied().chain([videos.join(name).to_str().unwrap()]));
    }
    fs::write(videos.join("metadata.json"), r#"{"a.mp4":{"label":"REAL"},"b.mp4":{"label":"REAL"}}"#)
        .unwrap();
    let (videos, out) = (path(&folder, "set"), path(&folder, "out"));
    let conditions = ["--conditions", "crf40-240p", "--train-conditions", "crf34"];
    let common = [&[&videos, "--out", &out, "--size", "64"][..], &conditions].concat();

    let lost = fail(&[&common[..], &["--ffmpeg", "/nonexistent/ffmpeg"]].concat());
    assert!(lost.contains("4 videos are lost here") && lost.contains("set/a.mp4 (clean)"), "{lost}");
    assert!(lost.contains("no ffmpeg here"), "{lost}");
    assert!(!Path::new(&out).join("manifest.csv").exists());

    let said = succeed(&[&common[..], &["--ffmpeg", program.to_str().unwrap()]].concat());
    assert!(said.contains("2 read through ffmpeg"), "{said}");
    let rows = manifest::read(Path::new(&out)).unwrap();
    let of = |condition: &str| rows.iter().filter(|r| r.condition == condition).collect::<Vec<_>>();
    let (clean, compressed) = (of("clean"), of("crf40-240p"));
    assert_eq!((clean.len(), compressed.len()), (30, 15));
    assert!(compressed.iter().all(|r| r.split == Split::Validation));
    let learnt = of("crf34");
    assert!(learnt.len() == 15 && learnt.iter().all(|r| r.split == Split::Train), "{learnt:?}");
    // Half the lines, half the face: 480 to 240.
    let width = |rows: &[&Row]| rows.iter().map(|r| r.w).sum::<f32>() / rows.len() as f32;
    let ratio = width(&compressed) / width(&clean);
    assert!((0.45..0.55).contains(&ratio), "{ratio}");

    // A decision about the clean face holds for the same face after compression.
    let face = clean.iter().find(|r| r.split == Split::Validation).unwrap();
    let text =
        format!("video,condition,track,frame,verdict\n{},clean,{},,wrong-face\n", face.video, face.track);
    fs::write(Path::new(&out).join("decisions.csv"), text).unwrap();
    let said = succeed(&["--merge", "--out", &out]);
    assert!(said.contains("30 crops left out"), "{said}");
}

/// A folder with `people`, the clip's first picture under each of these names, and with `out`, the dataset of them, whose
/// rows are these.
fn photos(names: [&str; 2]) -> (TempDir, Vec<Row>) {
    let folder = tempfile::tempdir().unwrap();
    let frame = source::open(&clip()).unwrap().next_frame().unwrap().unwrap();
    let mut picture = image::RgbImage::default();
    candor::preprocess::color::to_rgb_into(&frame, &mut picture).unwrap();
    for name in names {
        let file = folder.path().join("people").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        picture.save(file).unwrap();
    }
    succeed(&["--photos", &path(&folder, "people"), "--out", &path(&folder, "out"), "--size", "64"]);
    let rows = manifest::read(&folder.path().join("out")).unwrap();
    let videos: Vec<&str> = rows.iter().map(|r| r.video.as_str()).collect();
    assert_eq!(videos, names.map(|name| format!("people/{name}")));
    (folder, rows)
}

#[test]
fn photos_are_reals_with_one_face_each() {
    let (folder, rows) = photos(["ann/x.png", "ann/y.png"]);
    assert!(rows.iter().all(|r| r.label == Label::Real && r.frame == 0 && r.confidence > 0.9));
    // They are alike, and each is a person of its own here: the report must say so.
    let pairs = fs::read_to_string(folder.path().join("out/duplicates.csv")).unwrap();
    assert_eq!(pairs.lines().count(), 2, "{pairs}");

    let by_folder = format!("{}=folder", path(&folder, "people"));
    let said = succeed(&["--photos", &by_folder, "--out", &path(&folder, "one"), "--size", "64"]);
    assert!(said.contains("in 1 groups: 0 (0.0 %)"), "{said}");
}

#[test]
fn probe_sees_the_quantization_tables_of_a_jpeg() {
    let (folder, rows) = photos(["x.jpg", "y.png"]);
    let out = folder.path().join("out");
    let mut reader = Reader::default();
    let of_row = |row| facts::item(&mut reader, (0, out.as_path()), row).unwrap().facts;
    let [jpeg, png] = <[Vec<f32>; 2]>::try_from(rows.iter().map(of_row).collect::<Vec<_>>()).unwrap();
    let mut first = 0;
    for family in OF_CROPS {
        let places = first..first + family.n_facts;
        if family.name == "JPEG tables" {
            assert!(jpeg[places.clone()].iter().all(|&fact| fact > 0.0), "{:?}", &jpeg[places]);
            assert!(png[places.clone()].iter().all(|&fact| fact == 0.0), "{:?}", &png[places]);
        }
        first += family.n_facts;
    }
    assert_eq!((jpeg.len(), png.len()), (first, first));
}

#[test]
fn whole_frames_are_squares_of_the_whole_picture() {
    let folder = dfdc();
    let out = path(&folder, "out");
    succeed(&[&path(&folder, "dfdc"), "--out", &out, "--size", "64", "--whole-frames", "--per-face", "3"]);
    let rows = manifest::read(Path::new(&out)).unwrap();
    assert_eq!(rows.len(), 18);
    for row in &rows {
        assert_eq!((row.x, row.y, row.w, row.h), (0.0, 0.0, 640.0, 480.0));
        let picture = image::open(Path::new(&out).join(&row.crop)).unwrap();
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
    let frames: Vec<u64> = rows.iter().take(3).map(|r| r.frame).collect();
    assert!(frames[0] < 20 && (60..90).contains(&frames[1]) && frames[2] > 130, "{frames:?}");
}
