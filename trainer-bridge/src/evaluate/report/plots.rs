//! The report's plots.

use super::super::breakdown::{By, FEW_GROUPS, Part};
use super::super::evaluation::{Evaluation, LevelFigures};
use super::super::figure::{Estimate, Figure};
use super::super::level::Level;
use super::super::metrics::{LOSS_BIN, Measures, Reliability};
use crate::plot::{Axis, Interval, Plot, Scale, Tone, Unit, escape, intervals};

const TONES: [Tone; 3] = [Tone::First, Tone::Second, Tone::Third];

fn figure(title: &str, note: &str, svg: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<span>{}</span>", escape(note)) };
    format!("<figure><figcaption>{}{note}</figcaption>{svg}</figure>\n", escape(title))
}

fn side(figures: &[String]) -> String {
    format!("<div class=\"side\">\n{}</div>\n", figures.concat())
}

fn auc_of(figures: &LevelFigures) -> String {
    format!("{} AUC {}", figures.level.word(), figures.as_trained.auc)
}

pub(super) fn ranking(evaluation: &Evaluation) -> String {
    let with_roc: Vec<(Tone, &LevelFigures)> =
        TONES.into_iter().zip(&evaluation.levels).filter(|(_, figures)| !figures.roc.is_empty()).collect();
    if with_roc.is_empty() {
        return format!("<p>No ROC: {:.3}.</p>\n", evaluation.levels[0].as_trained.eer);
    }
    let described: Vec<String> = with_roc.iter().map(|(_, figures)| auc_of(figures)).collect();
    let diagonal = vec![(0.0, 0.0), (1.0, 1.0)];
    let mut roc = Plot::new(
        &format!("ROC: recall over false alarms. {}.", described.join("; ")),
        Axis::share("false alarms (reals that count as fake)"),
        Axis::share("recall (fakes that count as fake)"),
    )
    .dashed(Tone::Quiet, "chance", diagonal);
    // 1 in 1,000 is further out than any of these data sets can show.
    let rare = Axis::new("false alarms, logarithmic", 1e-3, 1.0, Scale::Log, Unit::Percent);
    let missed = Axis::new("misses (fakes that count as real)", 1e-3, 1.0, Scale::Log, Unit::Percent);
    let mut det =
        Plot::new("Misses over false alarms, both logarithmic: the same points as the ROC.", rare, missed);
    for (tone, figures) in with_roc {
        let points = |y: fn(f64) -> f64| -> Vec<(f64, f64)> {
            figures.roc.iter().map(|point| (point.false_alarms, y(point.recall))).collect()
        };
        roc = roc.line(tone, figures.level.word(), points(|recall| recall));
        det = det.line(tone, figures.level.word(), points(|recall| 1.0 - recall));
    }
    side(&[
        figure("ROC", &described.join("; "), &roc.svg()),
        figure("Misses against false alarms", "rare errors enlarged; down and left is better", &det.svg()),
    ])
}

pub(super) fn reliability(evaluation: &Evaluation) -> String {
    let figures = evaluation.levels.iter().map(|level| {
        let curve = |reliability: &Reliability| -> Vec<(f64, f64)> {
            reliability.bins.iter().map(|bin| (bin.mean_score, bin.share_fake)).collect()
        };
        let ece = |measures: &Measures| format!("{:.3}", measures.calibration.ece);
        let mut plot = Plot::new(
            &format!(
                "Share of fakes over mean score of {}s, in bins of equal width; the diagonal is perfect.",
                level.level.word()
            ),
            Axis::share("mean score, P(fake)"),
            Axis::share("share of fakes"),
        )
        .dashed(Tone::Quiet, "perfect", vec![(0.0, 0.0), (1.0, 1.0)]);
        let mut note = format!("ECE as trained {}", ece(&level.as_trained));
        let readings = [
            (Tone::Second, "as trained", Some(&level.as_trained)),
            (Tone::First, "calibrated", level.calibrated.as_ref()),
        ];
        for (tone, name, measures) in readings {
            if let Some(measures) = measures {
                let points = curve(&measures.calibration);
                plot = plot.line(tone, name, points.clone()).dots(tone, "", points);
            }
        }
        if let Some(calibrated) = &level.calibrated {
            note += &format!(", calibrated {}", ece(calibrated));
        }
        figure(&format!("Calibration curve, {}s", level.level.word()), &note, &plot.svg())
    });
    side(&figures.collect::<Vec<_>>())
}

pub(super) fn scores(evaluation: &Evaluation) -> String {
    let is_calibrated = evaluation.levels[0].calibrated.is_some();
    let reading = if is_calibrated { "calibrated" } else { "as trained" };
    let mut figures: Vec<String> = (evaluation.levels.iter())
        .map(|level| {
            let title = format!("Scores of {}s", level.level.word());
            figure(&title, reading, &score_histogram(level))
        })
        .collect();
    figures.push(losses(&evaluation.levels[0]));
    side(&figures)
}

fn score_histogram(level: &LevelFigures) -> String {
    let shares = |counts: &[usize]| -> Vec<f64> {
        let total = counts.iter().sum::<usize>().max(1) as f64;
        counts.iter().map(|n| *n as f64 / total).collect()
    };
    let of_class = level.scores.each_ref().map(|counts| shares(counts));
    let highest = of_class.iter().flatten().copied().fold(0.05, f64::max);
    let mut plot = Plot::new(
        &format!(
            "Histogram of the scores of real and of fake {}s, each class by its own share.",
            level.level.word()
        ),
        Axis::share("score, P(fake)"),
        Axis::new("share of the class", 0.0, highest, Scale::Linear, Unit::Percent),
    );
    let classes = [(Tone::Real, "real"), (Tone::Fake, "fake")];
    for (((tone, name), shares), counts) in classes.into_iter().zip(&of_class).zip(&level.scores) {
        let width = 1.0 / shares.len() as f64;
        // Each class takes half of a bin's width: side by side, nothing hides anything.
        let shift = if tone == Tone::Real { 0.0 } else { 0.5 };
        let bar = |(idx, share): (usize, &f64)| {
            let left = (idx as f64 + shift) * width;
            (left, left + width / 2.0, *share)
        };
        let label = format!("{name} ({})", counts.iter().sum::<usize>());
        plot = plot.bars(tone, &label, shares.iter().enumerate().map(bar).collect());
    }
    plot.svg()
}

fn losses(images: &LevelFigures) -> String {
    let readings = [
        (Tone::Second, "as trained", Some(&images.as_trained)),
        (Tone::First, "calibrated", images.calibrated.as_ref()),
    ];
    let known: Vec<(Tone, &str, &Measures)> =
        readings.into_iter().filter_map(|(tone, name, measures)| Some((tone, name, measures?))).collect();
    let counts = known.iter().flat_map(|(_, _, measures)| &measures.losses.counts);
    let most = counts.copied().max().unwrap_or(0).max(10) as f64;
    let n_bins = images.as_trained.losses.counts.len() as f64;
    let mut plot = Plot::new(
        "Histogram of the crops' losses, counts on a logarithmic axis.",
        Axis::new("loss, -ln P(label)", 0.0, n_bins * LOSS_BIN, Scale::Linear, Unit::Plain),
        Axis::new("crops, logarithmic", 0.8, most * 1.2, Scale::Log, Unit::Plain),
    );
    for (place, (tone, name, measures)) in known.iter().enumerate() {
        let width = LOSS_BIN / known.len() as f64;
        let bar = |(idx, n): (usize, &usize)| {
            let left = idx as f64 * LOSS_BIN + place as f64 * width;
            (*n > 0).then_some((left, left + width, *n as f64))
        };
        plot = plot.bars(*tone, name, measures.losses.counts.iter().enumerate().filter_map(bar).collect());
    }
    let trained = &images.as_trained.losses;
    let note = match (trained.share_under_1, trained.largest) {
        (Figure::Known(share), Figure::Known(largest)) => {
            format!("as trained, {:.1} % are under 1 and the largest is {largest:.1}", share * 100.0)
        }
        (other, _) => other.to_string(),
    };
    figure("Losses of crops", &note, &plot.svg())
}

/// An axis for numbers of which most are in its upper part.
fn auc_axis<'a>(estimates: impl Iterator<Item = &'a Estimate>) -> Axis {
    let lowest = estimates
        .filter_map(|estimate| Some(estimate.interval.map_or(estimate.value.value()?, |(low, _)| low)))
        .fold(0.5, f64::min);
    Axis::new("AUC", (lowest * 10.0).floor() / 10.0, 1.0, Scale::Linear, Unit::Plain)
}

fn interval(tone: Tone, estimate: &Estimate) -> Interval {
    let number = match estimate.value {
        Figure::Known(value) => Ok((value, estimate.interval)),
        Figure::Unknown(_) => Err(estimate.value.to_string()),
    };
    Interval { tone, number }
}

pub(super) fn parts(evaluation: &Evaluation) -> String {
    let of = |by: By, level: Level| {
        evaluation.breakdowns.iter().find(|breakdown| (breakdown.by, breakdown.level) == (by, level))
    };
    let axis = auc_axis(evaluation.breakdowns.iter().flat_map(|all| all.parts.iter().map(|part| &part.auc)));
    let mut figures = Vec::new();
    for by in By::ALL {
        let (Some(faces), Some(images)) = (of(by, Level::Face), of(by, Level::Image)) else { continue };
        let row = |part: &Part| {
            let few = if part.n_groups < FEW_GROUPS { " (few)" } else { "" };
            let face = faces.parts.iter().find(|face| face.name == part.name);
            let mut numbers: Vec<Interval> =
                face.iter().map(|face| interval(Tone::First, &face.auc)).collect();
            numbers.push(interval(Tone::Second, &part.auc));
            (format!("{}{few}", part.name), numbers)
        };
        let rows: Vec<_> = images.parts.iter().map(row).collect();
        if rows.is_empty() {
            continue;
        }
        let description = format!(
            "AUC of faces and of crops by {}, with 95 % intervals; the tables below hold the numbers.",
            by.words()
        );
        let svg = intervals(&description, &axis, &[(Tone::First, "face"), (Tone::Second, "image")], &rows);
        figures.push(figure(&format!("AUC by {}", by.words()), "", &svg));
    }
    side(&figures)
}

pub(super) fn runs(evaluation: &Evaluation) -> String {
    let standings = evaluation.comparison.iter().flat_map(|run| run.levels.iter().map(|level| &level.auc));
    let axis = auc_axis(standings);
    let row = |run: &super::super::comparison::Comparison| {
        let numbers = TONES.into_iter().zip(&run.levels).map(|(tone, level)| interval(tone, &level.auc));
        (run.name.clone(), numbers.collect())
    };
    let rows: Vec<(String, Vec<Interval>)> = evaluation.comparison.iter().map(row).collect();
    let series: Vec<(Tone, &str)> = TONES.into_iter().zip(Level::ALL.map(Level::word)).collect();
    let description =
        "AUC of every run by image, face and video, with 95 % intervals; the tables below hold the numbers.";
    figure("AUC of runs and baselines", "", &intervals(description, &axis, &series, &rows))
}
