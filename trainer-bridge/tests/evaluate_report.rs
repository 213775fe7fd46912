//! `trainer-bridge evaluate` from end to end: a made-up dataset and an untrained network in, files and a page out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use roxmltree::{Document, ParsingOptions};
use serde_json::Value;
use tch::nn::VarStore;
use tch::{Device, Tensor, no_grad};
use trainer_bridge::evaluate::prediction;
use trainer_bridge::evaluate::report::SECTIONS;
use trainer_bridge::manifest::{self, Label, Row, Split};
use trainer_bridge::model::{Network, Spec, checkpoint, input};

const SIDE_PX: u32 = 64;
const N_GROUPS: u32 = 12;

fn evaluate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer-bridge"));
    command.arg("evaluate").args(arguments).env("OMP_NUM_THREADS", "1").output().unwrap()
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A crop of stripes, wide ones if it is real, of a brightness that says nothing.
fn crop(group: u32, is_fake: bool, frame: u32) -> RgbImage {
    let stripe_px = if is_fake { 1 } else { 4 };
    RgbImage::from_fn(SIDE_PX, SIDE_PX, |x, y| {
        let base = 60 + (group * 37 + frame * 11) % 90;
        let value = u8::try_from(base + 60 * ((x / stripe_px + y) % 2)).unwrap();
        Rgb([value, value / 2, 255 - value])
    })
}

/// A real and a fake video a group, six crops each; the second half of the groups is for validation.
fn make_dataset(folder: &Path) -> Vec<Row> {
    fs::create_dir_all(folder.join("crops")).unwrap();
    let mut rows = Vec::new();
    for group in 0..N_GROUPS {
        for label in [Label::Real, Label::Fake] {
            for frame in 0..6 {
                let is_fake = label == Label::Fake;
                let name = format!("crops/{group}-{is_fake}-{frame}.png");
                crop(group, is_fake, frame).save(folder.join(&name)).unwrap();
                rows.push(Row {
                    crop: name,
                    video: format!("clips & <b>more</b>/{group}-{is_fake}.mp4"),
                    source: format!("clips/{group}-false.mp4"),
                    group: format!("person {group}"),
                    method: if is_fake { "stripes \"fine\"".into() } else { String::new() },
                    condition: if group % 3 == 0 { "crf34".into() } else { "clean".into() },
                    track: 0,
                    frame: u64::from(frame),
                    pts_ns: 0,
                    x: 0.0,
                    y: 0.0,
                    w: 60.0 + 10.0 * group as f32,
                    h: 80.0,
                    confidence: 0.99,
                    label,
                    split: if group < N_GROUPS / 2 { Split::Train } else { Split::Validation },
                });
            }
        }
    }
    manifest::write(folder, &rows).unwrap();
    rows
}

fn make_run(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    tch::manual_seed(5);
    let spec = Spec::named("lite0", SIDE_PX).unwrap();
    let variables = VarStore::new(Device::Cpu);
    Network::new(&variables.root(), &spec);
    checkpoint::save_spec(&spec, folder).unwrap();
    checkpoint::save_weights(&variables, &folder.join(checkpoint::BEST_FILE)).unwrap();
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails unless the page is well-formed, complete and needs nothing from outside.
#[track_caller]
fn assert_whole(page: &str) {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(page, options).unwrap();
    let all = || document.descendants().filter(|node| node.is_element());
    let ids: Vec<&str> = all().filter_map(|node| node.attribute("id")).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "an id twice: {ids:?}");
    let headings: Vec<_> = all()
        .filter(|node| node.has_tag_name("h2") && node.attribute("id") != Some("warnings"))
        .map(|node| (node.attribute("id").unwrap(), node.text().unwrap()))
        .collect();
    assert_eq!(headings, SECTIONS);
    for section in all().filter(|node| node.has_tag_name("section")) {
        assert!(section.children().filter(|node| node.is_element()).count() > 1, "{section:?} is empty");
    }
    for node in all() {
        let name = node.tag_name().name();
        assert!(!["script", "link", "iframe", "object"].contains(&name), "{name}");
        match name {
            "table" => assert!(node.children().any(|child| child.has_tag_name("caption")), "{node:?}"),
            "svg" => {
                assert!(node.attribute("aria-label").is_some_and(|label| !label.is_empty()), "{node:?}");
                let drawn = node.descendants().filter(|node| node.attribute("class") == Some("dot")).count()
                    + node.descendants().filter(|node| node.has_tag_name("path")).count()
                    + node.descendants().filter(|node| node.has_tag_name("rect")).count();
                assert!(drawn > 0, "an empty plot: {:?}", node.attribute("aria-label"));
            }
            "img" => {
                assert!(node.attribute("src").unwrap().starts_with("data:image/jpeg;base64,"));
                assert!(!node.attribute("alt").unwrap().is_empty());
            }
            "a" => {
                let target = node.attribute("href").unwrap().strip_prefix('#').unwrap();
                assert!(ids.contains(&target), "no {target}");
            }
            _ => {}
        }
        for attribute in node.attributes() {
            let is_number = !attribute.value().contains("NaN") && !attribute.value().contains("inf");
            assert!(is_number || attribute.name() == "aria-label", "{attribute:?}");
        }
    }
    for outside in ["http:", "https:", "url(", "@import", "//cdn"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_becomes_a_report() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { scratch.path().join(name) };
    let (data, run, out) = (path("made up"), path("run"), path("out"));
    let rows = make_dataset(&data);
    make_run(&run);
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let weights = text(&run.join(checkpoint::BEST_FILE));
    let arguments = ["--threads", "2", "--device", "cpu", "--resamples", "200", "--terms", "made by a test"];
    let mut all = vec![text(&run), "--data".into(), text(&data), "--out".into(), text(&out)];
    all.extend(["--batch".into(), "7".into(), "--baselines".into(), "--imagenet".into(), weights]);
    let all: Vec<&str> = all.iter().map(String::as_str).chain(arguments).collect();
    assert_done(&evaluate(&all));

    let predictions = prediction::read(&out.join(prediction::FILE)).unwrap();
    let measured: Vec<&Row> = rows.iter().filter(|row| row.split == Split::Validation).collect();
    assert_eq!(predictions.len(), measured.len());
    let (_variables, network) = checkpoint::load(&run, Device::Cpu).unwrap();
    for (prediction, row) in predictions.iter().zip(&measured).step_by(5) {
        assert_eq!((&prediction.crop, prediction.label), (&row.crop, row.label));
        let crop = image::open(data.join(&row.crop)).unwrap().into_rgb8();
        let logits =
            no_grad(|| network.forward_t(&input(&[&crop], network.spec(), Device::Cpu), false)).view([-1]);
        let found = Tensor::from_slice(&prediction.logits());
        assert!(found.allclose(&logits, 1e-4, 1e-4, false), "{} {logits:?}", prediction.crop);
    }

    let metrics = json(&out.join("metrics.json"));
    let row = |name: &str| {
        let rows = metrics["comparison"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"))["levels"][0]
            .clone()
    };
    // Stripes of one pixel are sharper: that probe sees everything, and the one of brightness nothing.
    assert_eq!(row("probe: sharpness")["auc"]["value"], 1.0);
    assert_eq!(row("probe: face size")["auc"]["value"], 0.5);
    // Any convolutions tell these stripes apart.
    assert!(row("ImageNet embedding + linear SVM")["auc"]["value"].as_f64().unwrap() > 0.9);
    assert_eq!(metrics["about"]["Terms"], "made by a test");

    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_whole(&page);
    assert!(page.contains("<img "), "no mistake has a picture");
    assert!(page.contains("clips &amp; &lt;b&gt;more&lt;/b&gt;"));

    // The same from the predictions, without a network.
    let again = path("again");
    let file = text(&out.join(prediction::FILE));
    let mut all = vec!["--predictions", &file, "--name", "run", "--out", again.to_str().unwrap()];
    all.extend(&arguments[4..]);
    assert_done(&evaluate(&all));
    let metrics_again = json(&again.join("metrics.json"));
    for part in ["levels", "breakdowns", "calibration", "warnings"] {
        assert_eq!(metrics_again[part], metrics[part], "{part}");
    }
    assert_whole(&fs::read_to_string(again.join("report.html")).unwrap());
}

fn golden() -> String {
    format!("{}/tests/golden/predictions.csv", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_calibration_is_written_and_read_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (golden, out) = (golden(), scratch.path().join("out"));
    let out_text = out.to_str().unwrap();
    assert_done(&evaluate(&["--predictions", &golden, "--name", "a <b>", "--out", out_text]));
    assert_whole(&fs::read_to_string(out.join("report.html")).unwrap());
    let file = out.join("calibration.json");
    let chosen = json(&file);
    // The sections are those of a bundle's manifest.
    let score: candor::bundle::Calibration = serde_json::from_value(chosen["score"].clone()).unwrap();
    let limits: candor::bundle::Thresholds = serde_json::from_value(chosen["thresholds"].clone()).unwrap();
    assert!(score.temperature > 0.0 && limits.real_below < limits.fake_above, "{chosen}");

    let given = scratch.path().join("given");
    let file = file.to_str().unwrap();
    let arguments = [
        "--predictions",
        &golden,
        "--calibration",
        file,
        "--out",
        given.to_str().unwrap(),
        "--resamples",
        "100",
    ];
    assert_done(&evaluate(&arguments));
    let metrics = json(&given.join("metrics.json"));
    assert_eq!(metrics["calibration"]["how"], "given");
    assert_eq!(metrics["calibration"]["score"], chosen["score"]);
    assert!(!given.join("calibration.json").exists(), "nothing was chosen");
    // Thresholds on the very faces that chose them keep the promise exactly: at most 5 % of 48 are 2.
    let verdicts = &metrics["levels"][1]["verdicts"][0];
    assert_eq!(verdicts["is_fake"], false);
    let n_fake =
        verdicts["given"].as_array().unwrap().iter().find(|given| given[0] == "Fake").unwrap()[1].clone();
    assert!(n_fake.as_u64().unwrap() <= 2, "{verdicts}");
}

#[test]
fn conditions_and_methods_are_all_that_is_measured() {
    let scratch = tempfile::tempdir().unwrap();
    let rows = prediction::read(Path::new(&golden())).unwrap();
    let fake = rows.iter().find(|row| row.is_fake()).unwrap();
    let (condition, method) = (fake.condition.clone(), fake.method.clone());
    let kept = |row: &&prediction::Prediction| {
        row.split == Split::Validation
            && row.condition == condition
            && (!row.is_fake() || row.method == method)
    };
    let [n_real, n_fake] =
        [false, true].map(|is_fake| rows.iter().filter(kept).filter(|row| row.is_fake() == is_fake).count());
    let n_all = rows.iter().filter(|row| row.split == Split::Validation && row.is_fake()).count();
    assert!(n_real > 0 && n_fake > 0 && n_fake < n_all, "the golden has other conditions or methods");
    let out = scratch.path().join("out");
    let golden = golden();
    let only =
        ["--predictions", &golden, "--conditions", &condition, "--methods", &method, "--resamples", "100"];
    assert_done(&evaluate(&[&only[..], &["--out", out.to_str().unwrap()]].concat()));
    let metrics = json(&out.join("metrics.json"));
    let figures = &metrics["levels"][0]["as_trained"];
    assert_eq!([&figures["n_real"], &figures["n_fake"]], [n_real, n_fake], "{figures}");
    assert!(
        metrics["about"]["Split"].as_str().unwrap().ends_with(&format!("only methods {method}")),
        "{metrics}"
    );
}

#[test]
fn two_halves_choose_what_the_whole_does() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let rows = prediction::read(Path::new(&golden())).unwrap();
    let groups: BTreeSet<_> = rows.iter().map(|row| row.group.clone()).collect();
    let first: BTreeSet<_> = groups.into_iter().step_by(2).collect();
    let (one, other): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| first.contains(&row.group));
    assert!(!one.is_empty() && !other.is_empty());
    prediction::write(Path::new(&path("one.csv")), &one).unwrap();
    prediction::write(Path::new(&path("other.csv")), &other).unwrap();
    let chosen = |arguments: &[&str], out: &str| {
        assert_done(&evaluate(&[arguments, &["--resamples", "100", "--out", out]].concat()));
        json(&Path::new(out).join("calibration.json"))
    };
    let whole = chosen(&["--predictions", &golden()], &path("whole"));
    let halves =
        chosen(&["--predictions", &path("one.csv"), "--beside", &path("other.csv")], &path("halves"));
    assert_eq!(halves["chosen_on"]["n_real_groups"], whole["chosen_on"]["n_real_groups"]);
    for key in ["real_below", "fake_above"] {
        let of = |chosen: &Value| chosen["thresholds"][key].as_f64().unwrap();
        assert!((of(&halves) - of(&whole)).abs() < 1e-5, "{key}: {halves}, {whole}");
    }
    // Where both judge a group, one of them has learnt from it.
    let output =
        evaluate(&["--predictions", &golden(), "--beside", &path("other.csv"), "--out", &path("no")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("other.csv: expected predictions of groups"),
        "{error}"
    );
}

#[test]
fn one_class_gives_a_page_that_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let mut rows = prediction::read(Path::new(&golden())).unwrap();
    rows.retain(|row| !row.is_fake());
    rows[0].logit_real = f32::NAN;
    let file = scratch.path().join("reals.csv");
    prediction::write(&file, &rows).unwrap();
    // An earlier report's choice would pass for this one's.
    fs::create_dir(&out).unwrap();
    fs::write(out.join("calibration.json"), "{}").unwrap();
    assert_done(&evaluate(&["--predictions", file.to_str().unwrap(), "--out", out.to_str().unwrap()]));
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_whole(&page);
    for said in
        ["n/a: no fakes", "There are no fakes", "For 1 crops the network gave no number", "No calibration"]
    {
        assert!(page.contains(said), "{said}");
    }
    assert!(!out.join("calibration.json").exists());
}

#[test]
fn what_is_wrong_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    let out = out.to_str().unwrap();
    let golden = golden();
    let refused = |arguments: &[&str], named: &[&str]| {
        let output = evaluate(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !error.contains("panicked"), "{arguments:?}: {error}");
        assert!(named.iter().all(|name| error.contains(name)), "{arguments:?}: {error}");
    };
    refused(&["--predictions", "none.csv", "--out", out], &["none.csv", "opening"]);
    refused(&["--predictions", &golden, "--split", "train", "--out", out], &["train (", "found none"]);
    refused(&["none", "--data", "none", "--out", out], &["none", "opening"]);
    refused(&["--predictions", &golden, "--false-alarms", "2", "--out", out], &["0.000001 to 0.5"]);
    refused(&["--predictions", &golden, "--compare", "other", "--out", out], &["NAME=FILE"]);
    refused(&["--out", out], &["<RUN>", "--data"]);
    let bad = scratch.path().join("bad.json");
    let thresholds =
        r#""thresholds": {"real_below": 0.9, "fake_above": 0.1}, "min_scores": 5, "min_face_px": 50"#;
    fs::write(&bad, format!(r#"{{"score": {{"temperature": 1.0, "bias": 0.0}}, {thresholds}}}"#)).unwrap();
    let bad = bad.to_str().unwrap();
    refused(
        &["--predictions", &golden, "--calibration", bad, "--out", out],
        &["bad.json", "real_below <= fake_above"],
    );
}
