//! `trainer-bridge probe`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::facts::{self, OF_CROPS, OF_PICTURES, Reader};
use super::{Guess, Item, probe};
use crate::evaluate::bootstrap::N_RESAMPLES;
use crate::evaluate::figure::Figure;
use crate::manifest::{self, Split};
use crate::train::command::Recipe;
use crate::train::config::Config;
use crate::train::dataset::Dataset;
use crate::train::setup;

/// Looks for shortcuts: how well facts that say nothing of fakes tell the labels of training crops.
///
/// First by the facts of the crops as they lie on the disk; there a collection of photos beside one of videos may well give
/// itself away. Then by those of the very pictures that training shows, pairs of a real and a fake after a recipe's
/// augmentations: there nothing should do better than chance. Logistic regression, cross-fitted by group.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: Recipe,
    /// Pairs of pictures as training shows them.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(20..))]
    pairs: u32,
    /// Fail where a family of facts tells the labels of the pictures that training shows with a larger AUC.
    #[arg(long, value_name = "AUC")]
    at_most: Option<f64>,
    /// The same of the crops on the disk.
    #[arg(long, value_name = "AUC")]
    files_at_most: Option<f64>,
    /// Also write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Resamples of an interval.
    #[arg(long, value_name = "N", default_value_t = N_RESAMPLES)]
    resamples: usize,
    /// Of folds and resamples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What was found.
#[derive(Serialize)]
struct Found {
    n_crops: usize,
    files: Vec<Guess>,
    n_pictures: usize,
    as_trained: Vec<Guess>,
}

/// Runs the command.
///
/// # Errors
/// Whatever can't be read, and a family that tells too much.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.recipe.load()?;
    let of_files = of_files(&config)?;
    let files = probe(&of_files, &OF_CROPS, args.resamples, args.seed)?;
    show(&format!("{} training crops on the disk", of_files.len()), &files);
    let of_pictures = of_pictures(&config, args.pairs as usize)?;
    let as_trained = probe(&of_pictures, &OF_PICTURES, args.resamples, args.seed)?;
    show(&format!("{} pictures as training shows them", of_pictures.len()), &as_trained);
    if let Some(path) = &args.out {
        let found = Found {
            n_crops: of_files.len(),
            files: files.clone(),
            n_pictures: of_pictures.len(),
            as_trained: as_trained.clone(),
        };
        fs::write(path, serde_json::to_string_pretty(&found)? + "\n")
            .with_context(|| format!("{}: writing", path.display()))?;
    }
    expect("--files-at-most", args.files_at_most, &files)?;
    expect("--at-most", args.at_most, &as_trained)
}

fn show(title: &str, guesses: &[Guess]) {
    println!("{title}: AUC with 95 % interval; 0.5 is chance");
    for guess in guesses {
        println!("  {:18} {:3} facts  {:.3}", guess.family, guess.n_facts, guess.auc);
    }
}

fn expect(option: &str, most: Option<f64>, guesses: &[Guess]) -> anyhow::Result<()> {
    let Some(most) = most else { return Ok(()) };
    for guess in guesses {
        let is_within = matches!(guess.auc.value, Figure::Known(auc) if auc <= most);
        ensure!(is_within, "{option} {most}: {} tells the label with AUC {:.3}", guess.family, guess.auc);
    }
    Ok(())
}

/// The crops that the recipe trains with, by their files.
fn of_files(config: &Config) -> anyhow::Result<Vec<Item>> {
    let mut items = Vec::new();
    for (dataset_idx, data) in config.data.iter().enumerate().filter(|(_, data)| data.weight > 0.0) {
        let mut reader = Reader::default();
        for row in manifest::read(&data.folder)?.iter().filter(|row| row.split == Split::Train) {
            items.push(facts::item(&mut reader, (dataset_idx, &data.folder), row)?);
        }
    }
    Ok(items)
}

/// The pictures of `n_pairs` pairs, from the first epoch on.
fn of_pictures(config: &Config, n_pairs: usize) -> anyhow::Result<Vec<Item>> {
    let dataset = Dataset::open(config)?;
    let sampler = setup::sampler(config, &dataset)?;
    let mut items = Vec::with_capacity(2 * n_pairs);
    for epoch in 0.. {
        for (idx, pair) in sampler.epoch(epoch).iter().enumerate() {
            if items.len() == 2 * n_pairs {
                return Ok(items);
            }
            let batch = dataset.training_batch(&[*pair], epoch, idx)?;
            let groups = dataset.groups_of(*pair);
            for ((picture, class), (dataset_idx, group)) in
                batch.pictures.iter().zip(&batch.classes).zip(groups)
            {
                items.push(Item {
                    is_fake: *class == 1,
                    group: format!("{dataset_idx} {group}"),
                    facts: facts::of_picture(picture)?,
                });
            }
        }
    }
    Ok(items)
}
