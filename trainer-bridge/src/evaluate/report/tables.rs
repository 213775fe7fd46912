//! The report's tables.

use std::fmt::Write as _;

use super::super::breakdown::{Breakdown, By, FEW_GROUPS, PART_RECALL};
use super::super::calibrate::Chosen;
use super::super::evaluation::{Evaluation, LevelFigures};
use super::super::figure::{Estimate, Figure};
use super::super::level::Level;
use super::super::metrics::Measures;
use crate::plot::escape;

/// A table with a caption; the first cell of each row names it. Cells are HTML.
fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">");
    let _ = write!(html, "<table><caption>{caption}</caption><thead><tr>");
    for name in head {
        let _ = write!(html, "<th scope=\"col\">{name}</th>");
    }
    html += "</tr></thead><tbody>\n";
    for row in rows {
        html += "<tr>";
        for (idx, cell) in row.iter().enumerate() {
            let _ = match idx {
                0 => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html += "</tr>\n";
    }
    html + "</tbody></table></div>\n"
}

fn number(estimate: &Estimate) -> String {
    match (estimate.value, estimate.interval) {
        (Figure::Known(value), Some((low, high))) => {
            format!("{value:.3} <span class=\"interval\">[{low:.3}, {high:.3}]</span>")
        }
        (value, _) => format!("{value:.3}"),
    }
}

fn percent_of(figure: Figure) -> String {
    match figure {
        Figure::Known(share) => format!("{:.1} %", share * 100.0),
        Figure::Unknown(_) => figure.to_string(),
    }
}

fn percent(estimate: &Estimate) -> String {
    match (estimate.value, estimate.interval) {
        (Figure::Known(_), Some((low, high))) => {
            let (low, high) = (low * 100.0, high * 100.0);
            format!("{} <span class=\"interval\">[{low:.1}, {high:.1}]</span>", percent_of(estimate.value))
        }
        (value, _) => percent_of(value),
    }
}

/// Each level's readings that exist, with their names.
fn readings(figures: &LevelFigures) -> impl Iterator<Item = (&'static str, &Measures)> {
    let calibrated = figures.calibrated.as_ref().map(|measures| ("calibrated", measures));
    std::iter::once(("as trained", &figures.as_trained)).chain(calibrated)
}

pub(super) fn summary(evaluation: &Evaluation) -> String {
    let row = |figures: &LevelFigures, reading: &str, measures: &Measures| {
        vec![
            format!("{}, {reading}", figures.level.word()),
            measures.n_real.to_string(),
            measures.n_fake.to_string(),
            number(&measures.auc),
            percent(&measures.accuracy),
            number(&measures.log_loss),
            percent_of(measures.eer),
            format!("{:.3}", measures.calibration.ece),
            format!("{:.3}", measures.calibration_equal_count.ece),
            match figures.level {
                // Labels of one face's crops don't fall independently.
                Level::Image => String::new(),
                _ => format!("{:.3}", measures.calibration.ece_of_right_scores),
            },
        ]
    };
    let rows: Vec<_> = (evaluation.levels.iter())
        .flat_map(|figures| readings(figures).map(move |(reading, measures)| row(figures, reading, measures)))
        .collect();
    let head = [
        "Level",
        "Reals",
        "Fakes",
        "AUC",
        "Accuracy",
        "Log loss",
        "Equal error rate",
        "ECE",
        "ECE, equal count",
        "ECE if right",
    ];
    table("Figures of every level, with 95 % intervals by group", &head, &rows)
}

pub(super) fn folds(folds: &[Chosen]) -> String {
    let row = |(idx, fold): (usize, &Chosen)| {
        vec![
            format!("without fold {}", idx + 1),
            format!("{:.3}", fold.score.temperature),
            format!("{:.3}", fold.score.bias),
            format!("{:.3}", fold.thresholds.real_below),
            format!("{:.3}", fold.thresholds.fake_above),
            fold.n_real_groups.to_string(),
            fold.n_fake_groups.to_string(),
        ]
    };
    let rows: Vec<_> = folds.iter().enumerate().map(row).collect();
    let head = ["Chosen", "Temperature", "Bias", "Real below", "Fake above", "Groups, real", "Groups, fake"];
    table("What each fold is read with; how much it varies shows how firm the choice is", &head, &rows)
}

pub(super) fn verdicts(evaluation: &Evaluation) -> String {
    let mut rows = Vec::new();
    let mut head = vec!["Label"];
    for figures in &evaluation.levels {
        for verdicts in figures.verdicts.iter().flatten() {
            let label = if verdicts.is_fake { "fake" } else { "real" };
            let n: usize = verdicts.given.iter().map(|(_, n, _)| n).sum();
            let mut row = vec![format!("{label} {}s ({n})", figures.level.word())];
            row.extend(verdicts.given.iter().map(|(_, n, share)| format!("{n}: {}", percent(share))));
            rows.push(row);
            if head.len() == 1 {
                head.extend(verdicts.given.iter().map(|(verdict, _, _)| verdict.word()));
            }
        }
    }
    if rows.is_empty() { String::new() } else { table("Verdicts by the thresholds", &head, &rows) }
}

pub(super) fn fixed_points(evaluation: &Evaluation) -> String {
    let mut html = String::new();
    let kinds = [
        ("False alarms where so many of the fakes are found", "recall"),
        ("Fakes found where so many of the reals are false alarms", "false alarms"),
    ];
    for (caption, at) in kinds {
        let points = |measures: &Measures| match at {
            "recall" => measures.false_alarms_at_recall.clone(),
            _ => measures.recall_at_false_alarms.clone(),
        };
        let heads: Vec<String> = points(&evaluation.levels[0].as_trained)
            .iter()
            .map(|point| format!("{:.0} % {at}", point.at * 100.0))
            .collect();
        let head: Vec<&str> =
            ["Level", "Reals"].into_iter().chain(heads.iter().map(String::as_str)).collect();
        let row = |figures: &LevelFigures| {
            let name = [figures.level.word().to_owned(), figures.as_trained.n_real.to_string()];
            name.into_iter()
                .chain(points(&figures.as_trained).iter().map(|point| percent_of(point.value)))
                .collect()
        };
        let rows: Vec<Vec<String>> = evaluation.levels.iter().map(row).collect();
        html += &table(caption, &head, &rows);
    }
    html + "<p>n reals show no rate of false alarms under 1/n other than 0.</p>\n"
}

pub(super) fn confusion(evaluation: &Evaluation) -> String {
    let mut html = "<p>For comparison, the paper that this recipe comes from: 95 % of what was called fake and 78 % of what \
                    was called real was right, accuracy at most 95 %, 92 % of images with a loss under 1 and the largest near 14.</p>\n\
                    <div class=\"side small\">\n"
        .to_owned();
    for figures in &evaluation.levels {
        for (reading, measures) in readings(figures) {
            html += &matrix(figures.level, reading, measures);
        }
    }
    html += "</div>\n";
    let row = |figures: &LevelFigures, reading: &str, measures: &Measures| {
        let mut row = vec![format!("{}, {reading}", figures.level.word())];
        row.extend(measures.precision.iter().chain(&measures.recall).map(|figure| percent_of(*figure)));
        row.push(percent_of(measures.losses.share_under_1));
        row.push(format!("{:.2}", measures.losses.largest));
        row
    };
    let rows: Vec<_> = (evaluation.levels.iter())
        .flat_map(|figures| readings(figures).map(move |(reading, measures)| row(figures, reading, measures)))
        .collect();
    let head = [
        "Level",
        "Precision, real",
        "Precision, fake",
        "Recall, real",
        "Recall, fake",
        "Loss under 1",
        "Largest loss",
    ];
    html + &table("Per class, by score ≥ 0.5", &head, &rows)
}

fn matrix(level: Level, reading: &str, measures: &Measures) -> String {
    let caption = format!("{}s, {reading}", level.word());
    let mut html = format!(
        "<table class=\"confusion\"><caption>{caption}</caption><thead><tr><td></td>\
         <th scope=\"col\">said real</th><th scope=\"col\">said fake</th></tr></thead><tbody>\n"
    );
    for (label, said) in ["is real", "is fake"].into_iter().zip(0..) {
        let counts = measures.confusion[said];
        let total = counts.iter().sum::<usize>();
        let _ = write!(html, "<tr><th scope=\"row\">{label}</th>");
        for (column, n) in counts.into_iter().enumerate() {
            let class = if column == said { "right" } else { "wrong" };
            let share = n as f64 / total.max(1) as f64;
            let _ = write!(
                html,
                "<td class=\"{class}\" style=\"--share:{share:.3}\">{n} ({:.0} %)</td>",
                share * 100.0
            );
        }
        html += "</tr>\n";
    }
    html + "</tbody></table>\n"
}

pub(super) fn breakdown(breakdown: &Breakdown) -> String {
    let has_verdicts = breakdown.level != Level::Image;
    let row = |part: &super::super::breakdown::Part| {
        let groups = match part.n_groups {
            n if n < FEW_GROUPS => format!("<span class=\"few\">{n}, few</span>"),
            n => n.to_string(),
        };
        let mut row = vec![
            escape(&part.name),
            part.n_real.to_string(),
            part.n_fake.to_string(),
            groups,
            number(&part.auc),
            percent(&part.accuracy),
            number(&part.log_loss),
            percent_of(part.false_alarms_at_recall),
        ];
        if has_verdicts {
            row.extend([percent(&part.real_called_fake), percent(&part.fake_called_fake)]);
        }
        row
    };
    let at_recall = format!("False alarms at {:.0} % recall", PART_RECALL * 100.0);
    let mut head = vec!["Part", "Reals", "Fakes", "Groups", "AUC", "Accuracy", "Log loss", &at_recall];
    if has_verdicts {
        head.extend(["Reals called Fake", "Fakes called Fake"]);
    }
    let by = match breakdown.by {
        By::Sharpness => "sharpness, in quarters of all crops",
        other => other.words(),
    };
    let caption = format!("{}s by {by}", breakdown.level.word());
    table(&caption, &head, &breakdown.parts.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn runs(evaluation: &Evaluation) -> String {
    let mut html = String::new();
    for (idx, level) in Level::ALL.into_iter().enumerate() {
        let row = |run: &super::super::comparison::Comparison| {
            let standing = &run.levels[idx];
            vec![
                escape(&run.name),
                standing.n_real.to_string(),
                standing.n_fake.to_string(),
                number(&standing.auc),
                match standing.auc_behind.value {
                    Figure::Unknown("the first run") => "–".to_owned(),
                    _ => number(&standing.auc_behind),
                },
                percent_of(standing.eer),
                percent(&standing.accuracy),
                number(&standing.log_loss),
            ]
        };
        let rows: Vec<_> = evaluation.comparison.iter().map(row).collect();
        let head = [
            "Run",
            "Reals",
            "Fakes",
            "AUC",
            "Lead of the first run",
            "Equal error rate",
            "Accuracy",
            "Log loss",
        ];
        html += &table(&format!("Runs, by {}", level.word()), &head, &rows);
    }
    html
}
