//! What `evaluate` measures against scikit-learn, scipy and numpy; goldens by tests/reference/evaluate.py.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tch::Tensor;
use trainer_bridge::evaluate::calibrate::{Aim, Chosen, choose, fit, lower_limit, n_needed, upper_limit};
use trainer_bridge::evaluate::comparison::Run;
use trainer_bridge::evaluate::evaluation::{Calibrated, Evaluation, Settings, evaluate};
use trainer_bridge::evaluate::facts;
use trainer_bridge::evaluate::level::{Groups, Level, Levels};
use trainer_bridge::evaluate::linear::{Loss, solve};
use trainer_bridge::evaluate::metrics::Scored;
use trainer_bridge::evaluate::prediction::{self, Prediction};
use trainer_bridge::evaluate::roc::Ranking;
use trainer_bridge::manifest::Label;
use trainer_bridge::probe::{Family, FoldRanking, Item, cross_fitted, folds, probe};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(golden("evaluate.json")).unwrap()).unwrap()
}

fn made_up() -> Vec<Prediction> {
    prediction::read(&golden("predictions.csv")).unwrap()
}

fn settings() -> Settings {
    let aim = Aim { false_alarms: 0.1, min_scores: 5, min_face_px: 1.0 };
    Settings { aim, n_resamples: 2000, seed: 1, given: None }
}

fn measured(predictions: Vec<Prediction>) -> Evaluation {
    evaluate(&[Run { name: "made-up".into(), predictions }], &settings())
}

/// Every number of `expected` is in `found` at the same place, at most `tolerance` apart.
#[track_caller]
fn assert_close(found: &Value, expected: &Value, tolerance: f64, place: &str) {
    match expected {
        Value::Object(fields) => {
            for (name, expected) in fields {
                assert_close(&found[name], expected, tolerance, &format!("{place}.{name}"));
            }
        }
        Value::Array(items) => {
            assert_eq!(found.as_array().map(Vec::len), Some(items.len()), "{place}");
            for (idx, expected) in items.iter().enumerate() {
                assert_close(&found[idx], expected, tolerance, &format!("{place}[{idx}]"));
            }
        }
        // A figure with an interval holds its number in `value`.
        Value::Number(number) => {
            let found = found.as_f64().or(found["value"].as_f64());
            let gap = found.map(|found| (found - number.as_f64().unwrap()).abs());
            assert!(gap.is_some_and(|gap| gap <= tolerance), "{place}: expected {number}, found {found:?}");
        }
        other => panic!("{place}: {other} in the golden"),
    }
}

#[test]
fn figures_are_scikit_learns() {
    let evaluation = serde_json::to_value(measured(made_up())).unwrap();
    let expected = expected();
    for (idx, level) in ["image", "face", "video"].into_iter().enumerate() {
        let figures = &evaluation["levels"][idx];
        assert_eq!(figures["level"], level);
        let mut expected = expected["levels"][level].clone();
        let interval = expected.as_object_mut().unwrap().remove("auc_interval").unwrap();
        assert_close(&figures["as_trained"], &expected, 1e-6, level);
        // The draws differ from numpy's: 2,000 of them place an end of the interval to about 0.002.
        assert_close(&figures["as_trained"]["auc"]["interval"], &interval, 0.01, level);
    }
    assert_close(&evaluation["levels"][0]["as_trained"]["losses"], &expected["losses"], 1e-6, "losses");
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let json = |seed| {
        let run = Run { name: "made-up".into(), predictions: made_up() };
        serde_json::to_string(&evaluate(&[run], &Settings { seed, n_resamples: 50, ..settings() })).unwrap()
    };
    assert_eq!(json(3), json(3));
    assert_ne!(json(3), json(4));
}

#[test]
fn a_comparison_changes_nothing_of_the_first_run() {
    let ours = Run { name: "ours".into(), predictions: made_up() };
    let mut theirs = Run { name: "theirs".into(), predictions: made_up() };
    for prediction in &mut theirs.predictions {
        // Half of its groups are others, whose names come before and behind.
        let number = prediction.group[1..].parse::<u32>().unwrap();
        if number.is_multiple_of(2) {
            prediction.group = format!("{}{number}", if number < 12 { "a" } else { "z" });
        }
        prediction.logit_fake /= 2.0;
    }
    let given =
        choose(&Levels::new(&ours.predictions, &Groups::new(&ours.predictions)), &settings().aim, |_| true);
    let given = given.map(|chosen| (chosen.score, chosen.thresholds)).ok();
    for settings in [settings(), Settings { given, ..settings() }] {
        let settings = Settings { n_resamples: 100, ..settings };
        let alone = evaluate(std::slice::from_ref(&ours), &settings);
        let both = evaluate(&[ours.clone(), theirs.clone()], &settings);
        assert_eq!((&alone.levels, &alone.breakdowns), (&both.levels, &both.breakdowns));
        assert_eq!(alone.comparison[0], both.comparison[0]);
        for (standing, figures) in both.comparison[0].levels.iter().zip(&both.levels) {
            let calibrated = figures.calibrated.as_ref().unwrap();
            assert_eq!((standing.auc, standing.accuracy), (figures.as_trained.auc, calibrated.accuracy));
            assert_eq!(standing.log_loss, calibrated.log_loss);
        }
        for standing in &both.comparison[1].levels {
            assert!(
                standing.auc.interval.is_some() && standing.auc_behind.interval.is_some(),
                "{standing:?}"
            );
        }
    }
}

#[test]
fn a_weight_counts_as_so_many_items() {
    let predictions = made_up();
    let groups = Groups::new(&predictions);
    let levels = Levels::new(&predictions, &groups);
    let reading = settings().aim.as_trained();
    let judged = levels.judge(|_| &reading);
    let items: Vec<_> = levels.scored(&judged, Level::Image).into_iter().map(|(_, item)| item).collect();
    let weights: Vec<f64> = (0..items.len()).map(|idx| (idx * 7 % 4) as f64).collect();
    let auc = Ranking::new(&items).auc(&weights).value().unwrap();
    assert!((auc - expected()["weighted_auc"].as_f64().unwrap()).abs() < 1e-9, "{auc}");
}

#[test]
fn temperature_and_bias_are_scipys() {
    let predictions = made_up();
    let margins: Vec<_> = predictions.iter().map(|p| (p.margin(), p.is_fake())).collect();
    let found = serde_json::to_value(fit(&margins).unwrap()).unwrap();
    let expected = &expected()["platt"];
    assert_close(&found["temperature"], &expected["temperature"], 1e-5, "temperature");
    assert_close(&found["bias"], &expected["bias"], 1e-5, "bias");
}

#[test]
fn a_fit_of_classes_apart_is_finite_and_of_an_inverted_network_none() {
    let apart: Vec<_> = (0..20).map(|idx| (f64::from(idx) - 9.5, idx > 9)).collect();
    let found = fit(&apart).unwrap();
    assert!(found.temperature > 0.0 && found.bias.abs() < 1e-4, "{found:?}");
    let inverted: Vec<_> = apart.iter().map(|(margin, is_fake)| (-margin, *is_fake)).collect();
    assert_eq!(fit(&inverted), Err("fakes score no higher than reals"));
    assert_eq!(fit(&apart[..5]), Err("no fakes"));
    assert_eq!(fit(&[]), Err("nothing scored"));
    assert_eq!(fit(&[(0.0, true), (0.0, false)]), Err("all margins are 0"));
    // Far out, where 1 - sigmoid is 0.
    let large: Vec<_> = apart.iter().map(|(margin, is_fake)| (margin * 1e6, *is_fake)).collect();
    let ratio = fit(&large).unwrap().temperature / found.temperature;
    assert!((ratio / 1e6 - 1.0).abs() < 1e-4, "{ratio}");
}

#[test]
fn thresholds_are_the_written_quantiles() {
    let predictions = made_up();
    let groups = Groups::new(&predictions);
    let levels = Levels::new(&predictions, &groups);
    for share in [0.05, 0.1] {
        let aim = Aim { false_alarms: share, ..settings().aim };
        let chosen = serde_json::to_value(choose(&levels, &aim, |_| true).unwrap()).unwrap();
        assert_close(&chosen["thresholds"], &expected()["thresholds"][share.to_string()], 1e-5, "thresholds");
    }
}

#[test]
fn copies_of_a_face_count_once() {
    let chosen = |predictions: &[Prediction], false_alarms| {
        let groups = Groups::new(predictions);
        let aim = Aim { false_alarms, ..settings().aim };
        choose(&Levels::new(predictions, &groups), &aim, |_| true).unwrap()
    };
    let once: Vec<Prediction> = made_up().into_iter().filter(|p| p.condition == "clean").collect();
    let alone = chosen(&once, 0.1);
    let mut copied = once.clone();
    for condition in ["crf28", "crf34", "360p"] {
        copied.extend(once.iter().map(|p| Prediction { condition: condition.into(), ..p.clone() }));
    }
    let with_copies = chosen(&copied, 0.1);
    assert_eq!(with_copies.n_crops, 4 * alone.n_crops);
    let n = |chosen: &Chosen| (chosen.n_real_groups, chosen.n_fake_groups);
    assert_eq!(n(&with_copies), n(&alone));
    // Platt's targets come nearer to 0 and 1 with more crops, and nothing else changes.
    let gap = |of: fn(&Chosen) -> f32| (of(&alone) - of(&with_copies)).abs();
    assert!(gap(|c| c.thresholds.fake_above).max(gap(|c| c.thresholds.real_below)) < 0.01);
    // 40 faces of 10 groups don't make a promise that takes 19.
    copied.retain(|p| p.group.as_str() < "g10");
    let few = chosen(&copied, 0.05);
    assert!(few.n_real_groups <= 10 && few.n_fake_groups <= 10, "{few:?}");
    assert_eq!((few.thresholds.real_below, few.thresholds.fake_above), (0.0, 1.0));
    assert!(few.notes[0].contains("too few"), "{:?}", few.notes);
}

#[test]
fn a_limit_is_the_order_statistic_that_keeps_the_promise() {
    let sorted: Vec<f32> = (1..=19u8).map(f32::from).collect();
    assert_eq!(upper_limit(&sorted, 0.05), Some(19.0));
    assert_eq!(upper_limit(&sorted[..18], 0.05), None);
    assert_eq!(upper_limit(&sorted, 0.1), Some(18.0));
    assert_eq!(lower_limit(&sorted, 0.05), Some(1.0));
    assert_eq!(lower_limit(&sorted, 0.1), Some(2.0));
    assert_eq!(upper_limit(&[], 0.5), None);
    assert_eq!((n_needed(0.05), n_needed(0.1), n_needed(0.01)), (19, 9, 99));
    // Of n + 1 exchangeable numbers each is as likely the last one: count those above the limit of the others.
    for (n, share) in [(19usize, 0.05), (50, 0.1), (101, 0.07)] {
        let all: Vec<f32> = (0..=n).map(|idx| idx as f32).collect();
        let is_above = |left_out: &usize| {
            let others: Vec<f32> =
                all.iter().enumerate().filter(|(idx, _)| idx != left_out).map(|(_, x)| *x).collect();
            all[*left_out] > upper_limit(&others, share).unwrap()
        };
        let n_above = (0..=n).filter(is_above).count();
        assert!(n_above as f64 <= share * (n + 1) as f64 && n_above > 0, "{n} {share} {n_above}");
    }
}

#[test]
fn linear_classifiers_are_liblinears() {
    let golden = &expected()["linear"];
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let rows: Vec<f64> = golden["x"].as_array().unwrap().iter().flat_map(numbers).collect();
    let is_fake: Vec<bool> = numbers(&golden["y"]).into_iter().map(|y| y > 0.5).collect();
    let x = Tensor::from_slice(&rows).view([is_fake.len() as i64, -1]);
    for (loss, name) in [(Loss::SquaredHinge, "svm"), (Loss::Logistic, "logistic")] {
        let weights = solve(&x, &is_fake, loss, golden["c"].as_f64().unwrap()).unwrap();
        let found = Value::from(Vec::<f64>::try_from(weights).unwrap());
        assert_close(&found, &golden[name], 1e-5, name);
    }
    assert!(solve(&x, &vec![true; is_fake.len()], Loss::Logistic, 1.0).is_err());
    // Each feature 40 times at a 40th of its square: the same problem with more weights than rows.
    let wide = (&x / 40f64.sqrt()).repeat([1, 40]);
    for loss in [Loss::SquaredHinge, Loss::Logistic] {
        let decided = |x: &Tensor| {
            let weights = solve(x, &is_fake, loss, 0.1).unwrap();
            let n_features = x.size()[1];
            x.mv(&weights.narrow(0, 0, n_features)) + weights.get(n_features)
        };
        assert!(decided(&x).allclose(&decided(&wide), 1e-6, 1e-6, false), "{loss:?}");
    }
}

#[test]
fn probes_are_scikit_learns_cross_fit() {
    let golden = &expected()["cross_fitted"];
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let items: Vec<Item> = golden["x"]
        .as_array()
        .unwrap()
        .iter()
        .zip(numbers(&golden["y"]))
        .map(|(x, y)| Item {
            is_fake: y > 0.5,
            group: String::new(),
            facts: serde_json::from_value(x.clone()).unwrap(),
        })
        .collect();
    let fold_of: Vec<usize> = serde_json::from_value(golden["fold"].clone()).unwrap();
    let decisions = cross_fitted(&items, &fold_of, 0..3).unwrap();
    assert_close(&Value::from(decisions.clone()), &golden["decisions"], 1e-4, "decisions");
    let scored: Vec<Scored> = items
        .iter()
        .zip(decisions)
        .map(|(item, rank)| Scored { score: 0.5, rank, loss: 0.0, is_fake: item.is_fake, group: 0 })
        .collect();
    let auc = FoldRanking::new(&scored, &fold_of).auc(&vec![1.0; scored.len()]).value().unwrap();
    assert!((auc - golden["auc"].as_f64().unwrap()).abs() < 1e-9, "{auc}");
}

/// Made of noise, labels are told by chance; a fact that is the label tells it, and groups are never parted.
#[test]
fn probes_find_what_is_there_and_nothing_else() {
    let seed = 4;
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let item = |idx: usize| {
        let is_fake = idx % 2 == 1;
        let noise: f32 = rng.random_range(-1.0..1.0);
        Item {
            is_fake,
            group: format!("{}", idx / 4),
            facts: vec![noise, f32::from(u8::from(is_fake)) + 3.0],
        }
    };
    let items: Vec<Item> = (0..400).map(item).collect();
    let fold_of = folds(&items, seed);
    for pair in items.iter().zip(&fold_of).collect::<Vec<_>>().windows(2) {
        assert!(pair[0].0.group != pair[1].0.group || pair[0].1 == pair[1].1);
    }
    let families = [Family { name: "noise", n_facts: 1 }, Family { name: "label", n_facts: 1 }];
    let guesses = probe(&items, &families, 200, seed).unwrap();
    let auc = |idx: usize| guesses[idx].auc.value.value().unwrap();
    assert_eq!(guesses.iter().map(|guess| guess.family).collect::<Vec<_>>(), ["noise", "label", "all"]);
    assert!((auc(0) - 0.5).abs() < 0.1, "{guesses:?}");
    let (low, high) = guesses[0].auc.interval.unwrap();
    assert!(low < 0.5 && high > auc(0), "{guesses:?}");
    assert_eq!((auc(1), auc(2)), (1.0, 1.0));
}

#[test]
fn facts_of_a_crop_are_scipys() {
    let crop = RgbImage::from_fn(12, 9, |x, y| {
        image::Rgb([x * x + 3 * y, 5 * x * y, x + y * y].map(|value| u8::try_from(value % 256).unwrap()))
    });
    let golden = &expected()["facts"];
    let close = |found: f32, name: &str| {
        let expected = golden[name].as_f64().unwrap();
        assert!(
            (f64::from(found) / expected - 1.0).abs() < 1e-6,
            "{name}: expected {expected}, found {found}"
        );
    };
    close(facts::sharpness(&crop), "sharpness");
    close(facts::brightness(&crop), "brightness");
    assert_eq!(facts::sharpness(&RgbImage::new(2, 9)), 0.0);
}

#[test]
fn no_group_is_read_by_what_it_chose() {
    let predictions = made_up();
    let of_others = |evaluation: &Evaluation| match &evaluation.calibration {
        Calibrated::CrossFitted { folds, .. } => folds.clone(),
        other => panic!("{other:?}"),
    };
    let before = of_others(&measured(predictions.clone()));
    assert_eq!(before.len(), 5);
    // A group's own logits may change every fold's choice but the one that reads it.
    let mut changed = predictions;
    for prediction in changed.iter_mut().filter(|prediction| prediction.group == "g04") {
        (prediction.logit_real, prediction.logit_fake) = (prediction.logit_fake, prediction.logit_real - 5.0);
    }
    let after = of_others(&measured(changed));
    assert_eq!(before.iter().zip(&after).filter(|(before, after)| before == after).count(), 1);
}

#[test]
fn one_class_and_no_number_are_said() {
    let fakes: Vec<Prediction> = made_up().into_iter().filter(Prediction::is_fake).collect();
    let evaluation = measured(fakes);
    let json = serde_json::to_value(&evaluation).unwrap();
    let figures = &json["levels"][0]["as_trained"];
    for name in ["auc", "log_loss"] {
        let is_known = figures[name]["value"].is_number();
        assert_eq!(is_known, name == "log_loss", "{figures}");
    }
    assert_eq!(figures["auc"]["value"], "n/a: no reals");
    assert_eq!(figures["eer"], "n/a: no reals");
    assert_eq!(json["calibration"]["how"], "not");
    assert!(evaluation.warnings.iter().any(|w| w.contains("no reals")), "{:?}", evaluation.warnings);

    let mut predictions = made_up();
    predictions[0].logit_fake = f32::NAN;
    predictions[40].logit_real = f32::INFINITY;
    let evaluation = measured(predictions.clone());
    assert_eq!(evaluation.n_without_number, 2);
    assert_eq!(evaluation.levels[1].n_without_score, 2);
    let n_verdicts: usize =
        evaluation.levels[1].verdicts.iter().flatten().flat_map(|v| &v.given).map(|(_, n, _)| n).sum();
    assert_eq!(n_verdicts, evaluation.levels[1].n, "every face has a verdict");
    assert!(evaluation.warnings.iter().any(|w| w.contains("gave no number")), "{:?}", evaluation.warnings);
    let json = serde_json::to_string(&evaluation).unwrap();
    // JSON has no NaN: a figure that is none would stand there as null, which only an absent interval may.
    no_null(&serde_json::from_str(&json).unwrap(), "evaluation");

    let alone: Vec<Prediction> = predictions.into_iter().filter(|p| p.group == "g05").collect();
    assert!(alone.iter().any(|p| p.label == Label::Real) && alone.iter().any(|p| p.label == Label::Fake));
    let evaluation = measured(alone);
    assert_eq!(evaluation.levels[0].as_trained.auc.interval, None, "one group has no interval");
}

#[test]
fn no_error_seen_is_no_certainty() {
    let mut predictions = made_up();
    for prediction in &mut predictions {
        (prediction.logit_real, prediction.logit_fake) =
            if prediction.is_fake() { (0.0, 3.0) } else { (3.0, 0.0) };
    }
    let evaluation = measured(predictions);
    let measures = &evaluation.levels[1].as_trained;
    assert_eq!((measures.auc.value.value(), measures.auc.interval), (Some(1.0), None));
    // scipy.stats.binomtest(24, 24).proportion_ci(method="exact").low
    let (low, high) = measures.accuracy.interval.unwrap();
    assert!((low - 0.857_526_402_277_4).abs() < 1e-9 && high == 1.0, "{low} {high}");
    let chosen = match evaluation.calibration {
        Calibrated::CrossFitted { chosen, .. } => chosen,
        other => panic!("{other:?}"),
    };
    assert_eq!(chosen.thresholds.real_below, chosen.thresholds.fake_above);
    assert!(chosen.notes[0].contains("both thresholds are one"), "{:?}", chosen.notes);
}

#[test]
fn predictions_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(prediction::FILE);
    let mut rows = made_up();
    rows[3].video = "a, \"b\".mp4".into();
    prediction::write(&path, &rows).unwrap();
    assert_eq!(prediction::read(&path).unwrap(), rows);
    rows[0].logit_fake = f32::NAN;
    prediction::write(&path, &rows).unwrap();
    assert!(prediction::read(&path).unwrap()[0].logit_fake.is_nan());
    prediction::write(&path, &[]).unwrap();
    assert!(prediction::read(&path).unwrap_err().to_string().contains("at least one row"));
}

/// Fails where a figure is null; what may be absent is named.
fn no_null(value: &Value, place: &str) {
    match value {
        Value::Null => panic!("{place} is no number"),
        Value::Array(items) => items.iter().for_each(|item| no_null(item, place)),
        Value::Object(fields) => {
            let absent = ["interval", "calibrated", "verdicts"];
            let there =
                fields.iter().filter(|(name, value)| !(value.is_null() && absent.contains(&name.as_str())));
            there.for_each(|(name, value)| no_null(value, &format!("{place}.{name}")));
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
