//! What a network has to beat: a support vector machine on an untrained embedding, and probes of shortcuts.

use std::collections::BTreeSet;

use tch::{Kind, Tensor};

use super::linear::{Linear, LinearError, Loss};
use super::metrics::Scored;
use super::network::Crop;
use super::prediction::Prediction;
use super::roc::Ranking;
use crate::probe;

/// The C that the support vector machine chooses from.
const CS: [f64; 6] = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
/// Folds by which it chooses.
const N_FOLDS: usize = 3;

/// What probes guess the label from.
type FactOf = fn(&Prediction) -> f32;
const FACTS: [(&str, FactOf); 4] = [
    ("face size", |prediction| prediction.face_px),
    ("sharpness", |prediction| prediction.sharpness),
    ("brightness", |prediction| prediction.brightness),
    ("PNG size", |prediction| prediction.png_bytes as f32),
];

/// Probes: logistic regressions that guess the label from facts that say nothing of fakes, one for each fact and one for
/// all, trained on `train`. Where one does well, a network may have learnt as much. Returns `measured` with the probes'
/// logits, by name.
///
/// # Errors
/// [`LinearError`], for example where `train` has one class.
pub fn probes(
    train: &[Prediction],
    measured: &[Prediction],
) -> Result<Vec<(String, Vec<Prediction>)>, LinearError> {
    let mut probes: Vec<(String, Vec<FactOf>)> =
        FACTS.iter().map(|(name, fact)| (format!("probe: {name}"), vec![*fact])).collect();
    probes.push(("probe: all four".to_owned(), FACTS.iter().map(|(_, fact)| *fact).collect()));
    let is_fake: Vec<bool> = train.iter().map(Prediction::is_fake).collect();
    let fit = |(name, facts): (String, Vec<FactOf>)| {
        let rows = |predictions: &[Prediction]| -> Vec<Vec<f32>> {
            predictions.iter().map(|prediction| facts.iter().map(|fact| fact(prediction)).collect()).collect()
        };
        let (of_train, of_measured) = (rows(train), rows(measured));
        let decisions = probe::guess(&of_train, &is_fake, &of_measured)?;
        Ok((name, decided(measured, &decisions)))
    };
    probes.into_iter().map(fit).collect()
}

/// A linear support vector machine on the features of a network that never saw a fake: trained on `train`, f32 [N, F] of
/// its crops; C by the mean AUC over folds by group. Returns `measured` with its logits, and C.
///
/// # Errors
/// [`LinearError`].
pub fn support_vector_machine(
    train: (&[Crop], &Tensor),
    measured: (&[Prediction], &Tensor),
) -> Result<(Vec<Prediction>, f64), LinearError> {
    let (crops, features) = train;
    let is_fake: Vec<bool> = crops.iter().map(|crop| crop.row.label.class() == 1).collect();
    let c = choose_c(crops, features, &is_fake)?;
    let machine = Linear::fit(features, &is_fake, Loss::SquaredHinge, c)?;
    Ok((decided(measured.0, &machine.decide(measured.1)?), c))
}

fn choose_c(crops: &[Crop], features: &Tensor, is_fake: &[bool]) -> Result<f64, LinearError> {
    let groups: Vec<&str> =
        crops.iter().map(|crop| crop.row.group.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    let fold = |crop: &Crop| groups.binary_search(&crop.row.group.as_str()).unwrap_or_default() % N_FOLDS;
    let fold_of: Vec<usize> = crops.iter().map(fold).collect();
    let mut best = (f64::NEG_INFINITY, CS[CS.len() / 2]);
    for c in CS {
        let mut aucs = Vec::new();
        for fold in 0..N_FOLDS {
            let part = |is_held_out: bool| -> Result<(Tensor, Vec<bool>), LinearError> {
                let places = (0..crops.len()).filter(|&idx| (fold_of[idx] == fold) == is_held_out);
                let places: Vec<i64> = places.map(|idx| i64::try_from(idx).unwrap_or(i64::MAX)).collect();
                let labels = (0..crops.len()).filter(|&idx| (fold_of[idx] == fold) == is_held_out);
                let rows = features.f_index_select(0, &Tensor::f_from_slice(&places)?)?;
                Ok((rows, labels.map(|idx| is_fake[idx]).collect()))
            };
            let ((fit_on, fit_labels), (held_out, labels)) = (part(false)?, part(true)?);
            let is_both = |labels: &[bool]| labels.contains(&true) && labels.contains(&false);
            if !is_both(&fit_labels) || !is_both(&labels) {
                continue;
            }
            let machine = Linear::fit(&fit_on, &fit_labels, Loss::SquaredHinge, c)?;
            aucs.extend(auc(&machine.decide(&held_out)?, &labels));
        }
        let mean = aucs.iter().sum::<f64>() / aucs.len().max(1) as f64;
        if !aucs.is_empty() && mean > best.0 {
            best = (mean, c);
        }
    }
    Ok(best.1)
}

fn auc(decisions: &[f64], is_fake: &[bool]) -> Option<f64> {
    let item = |(&rank, &is_fake)| Scored { score: 0.5, rank, loss: 0.0, is_fake, group: 0 };
    let items: Vec<Scored> = decisions.iter().zip(is_fake).map(item).collect();
    Ranking::new(&items).auc(&vec![1.0; items.len()]).value()
}

/// The predictions with decisions as their log odds.
#[expect(clippy::cast_possible_truncation, reason = "logits are f32")]
fn decided(predictions: &[Prediction], decisions: &[f64]) -> Vec<Prediction> {
    let decide = |(prediction, decision): (&Prediction, &f64)| Prediction {
        logit_real: 0.0,
        logit_fake: *decision as f32,
        ..prediction.clone()
    };
    predictions.iter().zip(decisions).map(decide).collect()
}

/// The two logits of each row of f32 [N, 2].
///
/// # Errors
/// [`tch::TchError`] when the shape is another.
pub fn logits(outputs: &Tensor) -> Result<Vec<[f32; 2]>, tch::TchError> {
    let flat: Vec<f32> = outputs.f_to_kind(Kind::Float)?.f_reshape([-1])?.try_into()?;
    Ok(flat.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}
