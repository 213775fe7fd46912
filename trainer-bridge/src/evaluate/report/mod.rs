//! The report: one HTML page that needs nothing beside itself.

mod maps;
mod mistakes;
mod plots;
mod tables;

use std::fmt::Write as _;

use super::calibrate::n_needed;
use super::evaluation::{Calibrated, Evaluation};
use super::level::CLIP;
use super::metrics::{LOSS_BIN, N_CALIBRATION_BINS};
use crate::plot::escape;

pub use maps::Maps;
pub use mistakes::{Mistake, Mistakes};

/// The page's name in a report's folder.
pub const FILE: &str = "report.html";
/// What the page and `metrics.json` call the digest of the measured network's file.
pub const WEIGHTS: &str = "Weights, SHA-256";
/// What [`About`] calls the datasets that were measured, each with its number of crops.
pub const DATA: &str = "Data";
/// What [`About`] calls the file of a second network's predictions, and its SHA-256.
pub const OTHER_HALF: &str = "Predictions of the other half";

const STYLE: &str = include_str!("style.css");

/// The page's sections, in order: the id and the heading.
pub const SECTIONS: [(&str, &str); 10] = [
    ("summary", "Summary"),
    ("calibration", "Calibration and thresholds"),
    ("ranking", "Ranking"),
    ("scores", "Scores and losses"),
    ("confusion", "Right and wrong"),
    ("parts", "By set, method, compression, size and sharpness"),
    ("runs", "Runs and baselines"),
    ("mistakes", "Worst mistakes"),
    ("maps", "Heat maps"),
    ("definitions", "Definitions"),
];

/// What was evaluated, for the head of the page: name and text.
pub type About = Vec<(String, String)>;

/// The whole page.
pub fn page(evaluation: &Evaluation, about: &About, mistakes: &Mistakes, maps: &Maps) -> String {
    let name = escape(&evaluation.name);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>Evaluation: {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<h1>Evaluation: {name}</h1>\n"
    );
    html += "<dl class=\"facts\">\n";
    for (name, text) in about {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(text));
    }
    let [n_groups, n_with_reals, n_with_fakes] = evaluation.n_groups;
    let [images, faces, videos] = [0, 1, 2].map(|level| evaluation.levels[level].n);
    let _ = writeln!(
        html,
        "<dt>Size</dt><dd>{images} crops of {faces} faces in {videos} videos and photos; {n_groups} groups \
         ({n_with_reals} with reals, {n_with_fakes} with fakes)</dd>\n</dl>"
    );
    html += &warnings(&evaluation.warnings);
    html += "<nav aria-label=\"Sections\"><ul>";
    for (id, heading) in SECTIONS {
        let _ = write!(html, "<li><a href=\"#{id}\">{heading}</a></li>");
    }
    html += "</ul></nav>\n</header>\n<main>\n";
    for (id, heading) in SECTIONS {
        let _ = writeln!(html, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>");
        html += &match id {
            "summary" => tables::summary(evaluation),
            "calibration" => calibration(evaluation),
            "ranking" => plots::ranking(evaluation) + &tables::fixed_points(evaluation),
            "scores" => plots::scores(evaluation),
            "confusion" => tables::confusion(evaluation),
            "parts" => parts(evaluation),
            "runs" => runs(evaluation),
            "mistakes" => mistakes.html(),
            "maps" => maps.html(),
            _ => definitions(evaluation),
        };
        html += "</section>\n";
    }
    html + "</main>\n</body>\n</html>\n"
}

fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mut html = "<aside class=\"warnings\" aria-labelledby=\"warnings\"><h2 id=\"warnings\">Read this first</h2>\n<ul>".to_owned();
    for warning in warnings {
        let _ = write!(html, "<li>{}</li>", escape(warning));
    }
    html + "</ul></aside>\n"
}

fn calibration(evaluation: &Evaluation) -> String {
    let mut html = String::new();
    let rate = evaluation.aim.false_alarms * 100.0;
    match &evaluation.calibration {
        Calibrated::Not { why } => {
            let _ = writeln!(
                html,
                "<p>No calibration and no thresholds: {why}. Everything below is as trained.</p>"
            );
        }
        Calibrated::Given { score, thresholds } => {
            let _ = writeln!(
                html,
                "<p>Temperature {:.3}, bias {:.3}, Real below {:.3}, Fake above {:.3}: given, chosen on other data. Nothing \
                 of it rests on the data of this report, provided that the data are others.</p>",
                score.temperature, score.bias, thresholds.real_below, thresholds.fake_above,
            );
        }
        Calibrated::CrossFitted { chosen, folds } => {
            let (score, thresholds) = (&chosen.score, &chosen.thresholds);
            let _ = writeln!(
                html,
                "<p>For use elsewhere (<code>calibration.json</code>), chosen on everything here: temperature {:.3}, bias \
                 {:.3}, Real below {:.3}, Fake above {:.3}; by {} crops ({:.0} % fake), {} groups with real and {} with fake faces.</p>\n\
                 <p>Every figure called <em>calibrated</em>, and every verdict, is <strong>cross-fitted</strong>: groups are \
                 dealt out to {} folds, and each fold is read with what was chosen on the others, so that no threshold is \
                 measured on the groups that chose it.</p>",
                score.temperature,
                score.bias,
                thresholds.real_below,
                thresholds.fake_above,
                chosen.n_crops,
                chosen.share_fake * 100.0,
                chosen.n_real_groups,
                chosen.n_fake_groups,
                folds.len(),
            );
            html += &tables::folds(folds);
        }
    }
    let needed = n_needed(evaluation.aim.false_alarms);
    let _ = writeln!(
        html,
        "<h3>What the thresholds promise</h3>\n<p>Declared: at most {rate} % of real faces are called Fake, and at most {rate} % of fake faces \
         Real. A group counts once, since faces of one person, and one face under several compressions, say much the same: by its highest \
         real and its lowest fake mean. <em>Fake above</em> is the k-th smallest of n groups' highest real means, k = ⌈(n + 1)(1 − rate)⌉; \
         <em>Real below</em> is the k-th largest of the lowest fake ones. Of a new group like these, any real face is then called Fake with a \
         chance of at most {rate} %, averaged over draws of the n groups; one set of n may turn out better or worse. It takes {needed} groups \
         with a class; with fewer, that verdict is never given. Where the two would cross, both are the middle.</p>\n\
         <p>The promise is for groups that come like those here, with as many faces and these compressions. It does not hold for other cameras, \
         compressions, people or methods of forgery. Only faces with at least {} scores (photos: one) choose thresholds, since with \
         fewer a verdict is Uncertain whatever the mean; faces narrower than {} px are not scored.</p>",
        evaluation.aim.min_scores, evaluation.aim.min_face_px,
    );
    html += &tables::verdicts(evaluation);
    if !matches!(evaluation.calibration, Calibrated::Not { .. }) {
        html += "<p>Temperature and bias are fitted on crops, and calibrate crops. The mean over a face's crops is less extreme than \
             the chance that the face is fake, and a video's highest face is higher than a single one: their curves leave the \
             diagonal, and the thresholds, which are chosen on means, make up for it.</p>\n";
    }
    html + &plots::reliability(evaluation)
}

fn parts(evaluation: &Evaluation) -> String {
    let score = match evaluation.calibration {
        Calibrated::Not { .. } => "as trained",
        _ => "calibrated",
    };
    let mut html = format!(
        "<p>AUC and false alarms are as trained, accuracy and log loss {score}. A method's fakes are measured against all reals. Figures of few groups are grey. A part of one class \
         has no AUC; its verdicts still tell.</p>\n"
    );
    html += &plots::parts(evaluation);
    for breakdown in &evaluation.breakdowns {
        html += &tables::breakdown(breakdown);
    }
    html
}

fn runs(evaluation: &Evaluation) -> String {
    let mut html = String::new();
    if evaluation.comparison.len() == 1 {
        html += "<p>Nothing else was measured beside this run.</p>\n";
    } else {
        html += "<p>Accuracy and log loss are calibrated, each run by its own cross-fit (as trained where none is possible), the first by the given calibration where there is one. <em>Lead</em> is how much higher the \
                 first run's AUC is, on the same resamples of groups: an interval above 0 is a difference that these groups \
                 show. Runs may find faces in other videos than the first one.</p>\n";
        html += &plots::runs(evaluation);
    }
    html + &tables::runs(evaluation)
}

fn definitions(evaluation: &Evaluation) -> String {
    format!(
        "<ul>\n\
         <li>A <em>crop</em> is judged by its score, P(fake); a <em>face</em> by the mean score of its crops; a <em>video</em> by its \
         highest face, as on the device. <em>As trained</em>: temperature 1, no bias.</li>\n\
         <li>Right and wrong, accuracy, precision and recall: score ≥ 0.5 says fake.</li>\n\
         <li>Log loss is −ln of the probability that the label has; of crops by the logits themselves, of faces and videos with means \
         kept {CLIP:e} away from 0 and 1.</li>\n\
         <li>AUC counts ties as halves. Crops are ranked by log odds, faces and videos by mean scores. Equal error rate: where the ROC, \
         points joined by lines, has as many false alarms as misses.</li>\n\
         <li>Intervals hold 95 % of {} resamples of whole groups (percentile bootstrap, seed {}). Resamples without one of the \
         classes are left out; where that is most of them, and where all resamples give the same, there is no interval. For a share of 0 or 100 % it is \
         Clopper and Pearson's, with a group counted as one trial.</li>\n\
         <li>Calibration curves and ECE: {N_CALIBRATION_BINS} bins of equal width, and as many of equal count; the ECE is the mean \
         over items of |mean score − share of fakes| of their bin.</li>\n\
         <li>Histogram of losses: bins of {LOSS_BIN}, the last one with all that is larger.</li>\n\
         <li>Face size: width of the face's box in the frame. Sharpness: variance of the Laplacian of the crop's luma; a small face is \
         enlarged and so less sharp.</li>\n\
         </ul>\n",
        evaluation.n_resamples, evaluation.seed,
    )
}
