//! Which crops of a dataset a network is measured on, and how they are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candor::resample::Resampler;
use image::RgbImage;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use crate::manifest::{self, Label, Row, Split};
use crate::model::{Spec, fitted, input};
use crate::table::TableError;

/// Why a crop can't be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: reading: {cause}")]
pub struct CropError {
    path: PathBuf,
    cause: image::ImageError,
}

/// The rows of several datasets, in their order; `crop` is the crop's path, and groups of different datasets are
/// different ones.
///
/// # Errors
/// [`TableError`] for a manifest that can't be read.
pub fn rows_of(datasets: &[PathBuf]) -> Result<Vec<Row>, TableError> {
    let mut all = Vec::new();
    for (at, dataset) in datasets.iter().enumerate() {
        let rows = manifest::read(dataset)?;
        all.extend(rows.into_iter().map(|row| Row {
            crop: dataset.join(&row.crop).display().to_string(),
            group: format!("{at}/{}", row.group),
            ..row
        }));
    }
    Ok(all)
}

/// Chooses up to `n_crops` rows of `split`: labels in turn, the groups of a label in turn, a group's crops at random.
pub fn choose(rows: &[Row], split: Split, n_crops: usize, seed: u64) -> Vec<&Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut groups: BTreeMap<(Label, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.split == split) {
        groups.entry((row.label, &row.group)).or_default().push(row);
    }
    let mut by_label: BTreeMap<Label, Vec<Vec<&Row>>> = BTreeMap::new();
    for ((label, _), mut crops) in groups {
        crops.sort_by(|a, b| a.crop.cmp(&b.crop));
        crops.shuffle(&mut rng);
        by_label.entry(label).or_default().push(crops);
    }
    let mut queues: Vec<Vec<&Row>> = Vec::new();
    for (_, mut groups) in by_label {
        groups.shuffle(&mut rng);
        queues.push(in_turn(groups));
    }
    let mut chosen = in_turn(queues);
    chosen.truncate(n_crops);
    chosen
}

/// The first of each list, the second of each, and so on.
fn in_turn<T>(lists: Vec<Vec<T>>) -> Vec<T> {
    let mut lists: Vec<_> = lists.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let n_before = all.len();
        all.extend(lists.iter_mut().filter_map(Iterator::next));
        if all.len() == n_before {
            return all;
        }
    }
}

/// Reads a picture at the network's size, a frame that isn't square being squeezed.
///
/// # Errors
/// [`CropError`] for a file that is no picture.
pub fn read(path: &Path, size_px: u32) -> Result<RgbImage, CropError> {
    let picture = image::open(path).map_err(|cause| CropError { path: path.to_owned(), cause })?.to_rgb8();
    Ok(fitted(&picture, size_px, &mut Resampler::default()))
}

/// The normalised inputs [n,3,S,S] of the files in `paths`, `n_each` at a time.
///
/// # Errors
/// [`CropError`] for the first file that is no picture.
pub fn batches(paths: &[PathBuf], spec: &Spec, n_each: usize) -> Result<Vec<Tensor>, CropError> {
    let mut batches = Vec::new();
    for paths in paths.chunks(n_each) {
        let pictures = paths.iter().map(|path| read(path, spec.size_px())).collect::<Result<Vec<_>, _>>()?;
        batches.push(input(&pictures.iter().collect::<Vec<_>>(), spec, Device::Cpu).contiguous());
    }
    Ok(batches)
}
