//! `trainer-bridge explain-check`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use candor::engine::{Engine, KernelSet, Settings};
use candor::report::heat;
use candor::resample::Resampler;
use image::{RgbImage, imageops};
use rand_chacha::ChaCha8Rng;

use super::Subject;
use super::pointing::{Line, Try, lines};
use crate::augment::pseudo::{Face, Pseudo, self_blended, swapped, unlikeness};
use crate::evaluate::bootstrap::N_RESAMPLES;
use crate::evaluate::figure::Figure;
use crate::landmarks::{self, Landmarks};
use crate::manifest::{self, Label, Row, Split};
use crate::model::fitted;
use crate::quantize::crops::choose;
use crate::train::sampler::stream;

/// Examples of a sheet.
const N_SHOWN: usize = 16;
/// Side of a sheet's pictures.
const SHOWN_PX: u32 = 224;

/// Plays the pointing game: makes fakes with known masks of validation crops of real faces, and counts how often the
/// largest value of the heat map lies inside the mask.
///
/// Beside it stand what a random point hits, and what the best fixed point hits: masks lie in the middle of crops, and
/// so a point on the nose is hard to beat. Only of fakes that the network calls fake can a map say why.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An ONNX file of `export` or `quantize`, or a bundle's folder.
    model: PathBuf,
    /// Datasets, of which clean real validation crops are taken.
    #[arg(long, value_name = "DATASET", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// At most so many crops of each dataset, groups in turn; each becomes a self-blended and a swapped fake.
    #[arg(long, value_name = "N", default_value_t = 200)]
    crops: usize,
    /// Fail where fewer of all fakes are hit.
    #[arg(long, value_name = "SHARE")]
    at_least: Option<f64>,
    /// Also write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also draw some of the fakes with their masks and maps.
    #[arg(long, value_name = "PNG")]
    sheet: Option<PathBuf>,
    /// Threads of the network; 0 for as many as there are cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u8,
    /// Of the crops, the fakes and the intervals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A real face that fakes are made of.
struct Crop {
    row: Row,
    picture: RgbImage,
    landmarks: Landmarks,
}

impl Crop {
    fn face(&self) -> Face<'_> {
        Face { picture: &self.picture, landmarks: &self.landmarks }
    }
}

/// Runs the command.
///
/// # Errors
/// Whatever can't be read, run or written, and too few hits.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let engine = Engine::new(&Settings { threads: args.threads, kernels: KernelSet::Auto })?;
    let mut subject = Subject::open(&args.model, &engine)?;
    let (mut tries, mut shown) = (Vec::new(), Vec::new());
    for (dataset_idx, folder) in args.data.iter().enumerate() {
        let crops = crops(folder, args.crops, args.seed)?;
        let n_every = (crops.len() * args.data.len() / N_SHOWN).max(1);
        for (idx, crop) in crops.iter().enumerate() {
            let rng =
                |kind: u64| -> ChaCha8Rng { stream(args.seed, kind, ((dataset_idx << 20) | idx) as u64) };
            let mut fakes = vec![("self-blended", self_blended(crop.face(), &mut rng(0)))];
            if let Some(donor) = donor(&crops, crop) {
                fakes.push(("swapped", swapped(crop.face(), donor.face(), &mut rng(1))));
            }
            for (kind, Pseudo { fake, mask, .. }) in fakes {
                let (score, map) = subject.look(&fake)?;
                let group = format!("{dataset_idx} {}", crop.row.group);
                tries.push(Try::new(kind, group, score, &map, &mask));
                if args.sheet.is_some() && idx % n_every == 0 {
                    let whole = fitted(&fake, SHOWN_PX, &mut Resampler::default());
                    let mut masked = RgbImage::new(fake.width(), fake.height());
                    for (pixel, part) in masked.pixels_mut().zip(&mask.values) {
                        pixel.0 = [byte(*part); 3];
                    }
                    let caption = format!("{kind}, score {score:.3}; log odds");
                    let panel = heat::panel(&whole, &map, &caption);
                    shown.push((fitted(&masked, SHOWN_PX, &mut Resampler::default()), panel));
                }
            }
        }
    }
    let lines = lines(&tries, N_RESAMPLES, args.seed);
    for Line { fakes, n, hits, chance, best_point } in &lines {
        println!(
            "{fakes:13} {n:5} fakes  hits {hits:.3}  chance {chance:.3}  best fixed point {best_point:.3}"
        );
    }
    if let Some(path) = &args.out {
        fs::write(path, serde_json::to_string_pretty(&lines)? + "\n")
            .with_context(|| format!("{}: writing", path.display()))?;
    }
    if let Some(path) = &args.sheet {
        sheet(&shown).save(path).with_context(|| format!("{}: writing", path.display()))?;
    }
    if let Some(least) = args.at_least {
        let hits = lines[0].hits;
        let is_enough = matches!(hits.value, Figure::Known(share) if share >= least);
        ensure!(is_enough, "--at-least {least}: maps point at {hits:.3} of {} fakes", tries.len());
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a mask is 0..=1")]
fn byte(part: f32) -> u8 {
    (part * 255.0).round() as u8
}

/// Real validation crops of a dataset as they were found, not compressed again.
fn crops(folder: &Path, n_crops: usize, seed: u64) -> anyhow::Result<Vec<Crop>> {
    let mut rows = manifest::read(folder)?;
    rows.retain(|row| row.label == Label::Real && row.condition == "clean");
    let rows: Vec<Row> = choose(&rows, Split::Validation, n_crops, seed).into_iter().cloned().collect();
    ensure!(!rows.is_empty(), "{}: expected clean real validation crops, found none", folder.display());
    let landmarks = landmarks::of_dataset(folder, &rows)?;
    let read = |(row, landmarks): (Row, Landmarks)| {
        let path = folder.join(&row.crop);
        let picture = image::open(&path).with_context(|| format!("{}: reading", path.display()))?.into_rgb8();
        Ok(Crop { row, picture, landmarks })
    };
    rows.into_iter().zip(landmarks).map(read).collect()
}

/// The face of another group that is most like `crop`'s.
fn donor<'a>(crops: &'a [Crop], crop: &Crop) -> Option<&'a Crop> {
    let others = crops.iter().filter(|other| other.row.group != crop.row.group);
    let key = |other: &&Crop| unlikeness(&crop.landmarks, &other.landmarks);
    others.min_by(|a, b| key(a).total_cmp(&key(b)))
}

/// Masks beside panels, in two columns.
fn sheet(shown: &[(RgbImage, RgbImage)]) -> RgbImage {
    let Some((mask, panel)) = shown.first() else { return RgbImage::new(1, 1) };
    let (width, height) = (mask.width() + panel.width(), panel.height());
    let n_rows = u32::try_from(shown.len().div_ceil(2)).unwrap_or(u32::MAX);
    let mut sheet = RgbImage::new(2 * width, n_rows * height);
    for ((mask, panel), idx) in shown.iter().zip(0_i64..) {
        let (left, top) = (idx % 2 * i64::from(width), idx / 2 * i64::from(height));
        imageops::replace(&mut sheet, mask, left, top);
        imageops::replace(&mut sheet, panel, left + i64::from(mask.width()), top);
    }
    sheet
}
