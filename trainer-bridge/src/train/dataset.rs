//! Crops of one or several datasets, decoded once as far as memory allows, and the batches that are made of them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use candor::resample::Resampler;
use image::RgbImage;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

use super::config::{Config, Data};
use super::folder::sha256;
use super::loader::{Batch, LoadError};
use super::sampler::{Candidate, Fake, Pair, stream};
use crate::augment::pseudo::{self, Face};
use crate::augment::{Augmenter, SettingsError};
use crate::files::FileError;
use crate::landmarks::{self, LandmarkError, Landmarks};
use crate::manifest::{self, Label, Row, Split};
use crate::model::fitted;
use crate::table::TableError;

/// The epoch of validation's pseudo-fakes in [`stream`]; no training has that many.
const VALIDATION_EPOCH: u64 = 0xff_ffff;

/// Crops that are looked at for a swap's donor.
const N_DONORS: usize = 64;

/// Why datasets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// No dataset is named.
    #[error("no dataset: name one by --data DIR, or by [[data]] in the recipe")]
    None,
    /// A manifest can't be read.
    #[error(transparent)]
    Manifest(#[from] TableError),
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something that must stay on one side of the split is on both.
    #[error("{folder}: group {group:?} is in both splits: every measure would flatter the network")]
    Leak {
        /// The dataset.
        folder: PathBuf,
        /// The group.
        group: String,
    },
    /// Landmarks can't be had.
    #[error(transparent)]
    Landmarks(#[from] LandmarkError),
    /// Augmentations that can't be.
    #[error(transparent)]
    Augment(#[from] SettingsError),
    /// Nothing to validate with.
    #[error("no crop for validation in any dataset")]
    NoValidation,
    /// Nothing that tells a good network from one that always says the same.
    #[error(
        "validation: expected real and fake crops, found only {class} ones, whose loss is least where a network says \
         {class} to everything; where there are no fakes, sampler.pseudo_validation = true makes some of the real crops"
    )]
    OneClass {
        /// The class that is there.
        class: &'static str,
    },
}

/// One crop.
struct Crop {
    path: PathBuf,
    label: Label,
    /// With the dataset's index, as names of groups hold within one.
    group: (usize, String),
    dataset_idx: usize,
    source_idx: usize,
    condition_idx: usize,
    can_be_pseudo: bool,
    /// Where a mask or a pseudo-fake may need them.
    landmarks: Option<Landmarks>,
}

/// One validation picture.
#[derive(Clone, Copy)]
struct Look {
    crop_idx: usize,
    shown: Shown,
}

/// What a validation picture shows of its crop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    AsItIs,
    /// The real of the self-blended pair.
    Real,
    /// Its fake.
    Fake,
}

/// All crops, and what is made of them.
pub struct Dataset {
    crops: Vec<Crop>,
    manifests_sha256: Vec<String>,
    training: Vec<usize>,
    validation: Vec<Look>,
    size_px: u32,
    seed: u64,
    augmenter: Augmenter,
    cache: Cache,
}

impl Dataset {
    /// Reads the manifests of the recipe's datasets.
    ///
    /// # Errors
    /// [`DatasetError`].
    pub fn open(config: &Config) -> Result<Self, DatasetError> {
        if config.data.is_empty() {
            return Err(DatasetError::None);
        }
        let mut dataset = Dataset {
            crops: Vec::new(),
            manifests_sha256: Vec::new(),
            training: Vec::new(),
            validation: Vec::new(),
            size_px: config.model.size_px,
            seed: config.seed,
            augmenter: Augmenter::new(&config.augment)?,
            cache: Cache::new(config.loader.cache_mib.saturating_mul(1 << 20)),
        };
        let (mut sources, mut conditions) = (HashMap::new(), HashMap::new());
        for (dataset_idx, data) in config.data.iter().enumerate() {
            let rows = manifest::read(&data.folder)?;
            dataset.manifests_sha256.push(sha256(&data.folder.join(manifest::FILE))?);
            if let Some(group) = leak(&rows) {
                return Err(DatasetError::Leak { folder: data.folder.clone(), group });
            }
            let landmarks = landmarks_of(config, data, &rows)?;
            for (row, landmarks) in rows.iter().zip(landmarks) {
                let crop_idx = dataset.crops.len();
                let n_sources = sources.len();
                let source_idx = *sources.entry((dataset_idx, row.source.clone())).or_insert(n_sources);
                let n_conditions = conditions.len();
                let condition_idx = *conditions.entry(row.condition.clone()).or_insert(n_conditions);
                let can_be_pseudo = data.pseudo && row.label == Label::Real && landmarks.is_some();
                dataset.crops.push(Crop {
                    path: data.folder.join(&row.crop),
                    label: row.label,
                    group: (dataset_idx, row.group.clone()),
                    dataset_idx,
                    source_idx,
                    condition_idx,
                    can_be_pseudo,
                    landmarks,
                });
                match row.split {
                    Split::Train => dataset.training.push(crop_idx),
                    Split::Validation => {
                        let is_pair = config.sampler.pseudo_validation && can_be_pseudo;
                        let shown: &[Shown] =
                            if is_pair { &[Shown::Real, Shown::Fake] } else { &[Shown::AsItIs] };
                        dataset.validation.extend(shown.iter().map(|&shown| Look { crop_idx, shown }));
                    }
                }
            }
        }
        let is_fake =
            |look: &Look| look.shown == Shown::Fake || dataset.crops[look.crop_idx].label == Label::Fake;
        let has = |class: bool| dataset.validation.iter().any(|look| is_fake(look) == class);
        match (has(false), has(true)) {
            (true, true) => Ok(dataset),
            (true, false) => Err(DatasetError::OneClass { class: "real" }),
            (false, true) => Err(DatasetError::OneClass { class: "fake" }),
            (false, false) => Err(DatasetError::NoValidation),
        }
    }

    /// What a sampler draws from: the training crops, whose places here its pairs name.
    pub fn candidates(&self) -> Vec<Candidate> {
        let candidate = |&crop_idx: &usize| {
            let Crop { label, dataset_idx, source_idx, condition_idx, can_be_pseudo, .. } =
                self.crops[crop_idx];
            Candidate { label, dataset_idx, source_idx, condition_idx, can_be_pseudo }
        };
        self.training.iter().map(candidate).collect()
    }

    /// Training crops of (real, fake).
    pub fn n_training(&self) -> (usize, usize) {
        let n_fakes = self.training.iter().filter(|&&idx| self.crops[idx].label == Label::Fake).count();
        (self.training.len() - n_fakes, n_fakes)
    }

    /// SHA-256 of each dataset's manifest, in the recipe's order.
    pub fn manifests_sha256(&self) -> &[String] {
        &self.manifests_sha256
    }

    /// The groups of a pair's real and fake, each with its dataset's index.
    pub fn groups_of(&self, pair: Pair) -> [(usize, &str); 2] {
        let fake = match pair.fake {
            Fake::Crop(idx) => idx,
            Fake::SelfBlended | Fake::Swapped => pair.real,
        };
        [pair.real, fake].map(|idx| {
            let (dataset_idx, group) = &self.crops[self.training[idx]].group;
            (*dataset_idx, group.as_str())
        })
    }

    /// Pictures of a validation.
    pub fn n_validation(&self) -> usize {
        self.validation.len()
    }

    /// The pictures of `pairs`, augmented; real and fake in turn. `first_idx` is the first pair's number in `epoch`.
    ///
    /// # Errors
    /// [`LoadError::Crop`].
    pub fn training_batch(&self, pairs: &[Pair], epoch: u64, first_idx: usize) -> Result<Batch, LoadError> {
        let mut batch = Batch::default();
        for (pair_idx, pair) in (first_idx..).zip(pairs) {
            let streams = [0, 1].map(|side| stream(self.seed, epoch, pair_idx as u64 * 2 + side));
            for (class, picture) in (0..).zip(self.pair(*pair, streams)?) {
                batch.pictures.push(picture);
                batch.classes.push(class);
            }
        }
        Ok(batch)
    }

    /// Each picture goes through augmentations of its own, but for a self-blended pair: there both go through the same,
    /// so that nothing but the blending tells them apart.
    fn pair(
        &self,
        pair: Pair,
        [mut real_rng, mut fake_rng]: [ChaCha8Rng; 2],
    ) -> Result<[RgbImage; 2], LoadError> {
        let real = &self.crops[self.training[pair.real]];
        let real_picture = self.picture(self.training[pair.real])?;
        let (real_plan, fake_plan) = (self.augmenter.draw(&mut real_rng), self.augmenter.draw(&mut fake_rng));
        let landmarks = real.landmarks.as_ref();
        let finish = |picture: &RgbImage| real_plan.apply(picture, landmarks, self.size_px);
        let fake = match (pair.fake, landmarks) {
            (Fake::Crop(idx), _) => {
                let crop_idx = self.training[idx];
                let landmarks = self.crops[crop_idx].landmarks.as_ref();
                fake_plan.apply(&*self.picture(crop_idx)?, landmarks, self.size_px)
            }
            (Fake::SelfBlended, Some(landmarks)) => {
                let face = Face { picture: &real_picture, landmarks };
                let pair = pseudo::self_blended(face, &mut fake_rng);
                return Ok([finish(&pair.real), finish(&pair.fake)]);
            }
            (Fake::Swapped, Some(landmarks)) => {
                let target = Face { picture: &real_picture, landmarks };
                let Some((crop_idx, donor)) = self.donor(real, landmarks, &mut fake_rng) else {
                    let pair = pseudo::self_blended(target, &mut fake_rng);
                    return Ok([finish(&pair.real), finish(&pair.fake)]);
                };
                let donor_picture = self.picture(crop_idx)?;
                let donor = Face { picture: &donor_picture, landmarks: donor };
                let swapped = pseudo::swapped(target, donor, &mut fake_rng);
                fake_plan.apply(&swapped.fake, Some(landmarks), self.size_px)
            }
            (_, None) => unreachable!("only crops with landmarks become pseudo-fakes"),
        };
        Ok([finish(&real_picture), fake])
    }

    /// The face most like `landmarks` among some real training crops of other groups; `None` where there is none.
    fn donor(
        &self,
        target: &Crop,
        landmarks: &Landmarks,
        rng: &mut ChaCha8Rng,
    ) -> Option<(usize, &Landmarks)> {
        let drawn = (0..N_DONORS).filter_map(|_| self.training.choose(rng));
        let drawn = drawn.map(|&crop_idx| (crop_idx, &self.crops[crop_idx]));
        let others = drawn.filter(|(_, crop)| crop.can_be_pseudo && crop.group != target.group);
        let faces = others.filter_map(|(crop_idx, crop)| Some((crop_idx, crop.landmarks.as_ref()?)));
        let unlikeness = |donor: &Landmarks| pseudo::unlikeness(landmarks, donor);
        faces.min_by(|(_, a), (_, b)| unlikeness(a).total_cmp(&unlikeness(b)))
    }

    /// Validation pictures `looks`, resized and nothing else.
    ///
    /// # Errors
    /// [`LoadError::Crop`].
    pub fn validation_batch(&self, looks: Range<usize>) -> Result<Batch, LoadError> {
        let mut batch = Batch::default();
        for look in &self.validation[looks] {
            let (picture, crop) = (self.picture(look.crop_idx)?, &self.crops[look.crop_idx]);
            let (picture, label) = match &crop.landmarks {
                Some(landmarks) if look.shown != Shown::AsItIs => {
                    let mut rng = stream(self.seed, VALIDATION_EPOCH, look.crop_idx as u64);
                    let face = Face { picture: &picture, landmarks };
                    let pair = pseudo::self_blended(face, &mut rng);
                    let (picture, label) = match look.shown {
                        Shown::Fake => (&pair.fake, Label::Fake),
                        _ => (&pair.real, Label::Real),
                    };
                    (fitted(picture, self.size_px, &mut Resampler::default()), label)
                }
                _ => (fitted(&picture, self.size_px, &mut Resampler::default()), crop.label),
            };
            batch.pictures.push(picture);
            batch.classes.push(i64::from(label == Label::Fake));
        }
        Ok(batch)
    }

    fn picture(&self, crop_idx: usize) -> Result<Arc<RgbImage>, LoadError> {
        self.cache.get(crop_idx, || {
            let path = &self.crops[crop_idx].path;
            let decoded = image::open(path).map_err(|cause| LoadError::Crop { path: path.clone(), cause })?;
            Ok(decoded.into_rgb8())
        })
    }
}

/// Landmarks of `rows` as far as the recipe needs them: masks are drawn round all training crops, pseudo-fakes made of
/// real ones.
fn landmarks_of(config: &Config, data: &Data, rows: &[Row]) -> Result<Vec<Option<Landmarks>>, LandmarkError> {
    let has_masks = config.augment.mask_radius_px.p > 0.0;
    let has_pseudo = data.pseudo && config.sampler.pseudo_share > 0.0;
    let is_needed = |row: &Row| match row.split {
        Split::Train => data.weight > 0.0 && (has_masks || has_pseudo && row.label == Label::Real),
        Split::Validation => data.pseudo && config.sampler.pseudo_validation && row.label == Label::Real,
    };
    let needed: Vec<Row> = rows.iter().filter(|row| is_needed(row)).cloned().collect();
    let mut found = landmarks::of_dataset(&data.folder, &needed)?.into_iter();
    Ok(rows.iter().map(|row| if is_needed(row) { found.next() } else { None }).collect())
}

/// A group that is in both splits.
fn leak(rows: &[Row]) -> Option<String> {
    let mut split_of = HashMap::new();
    let mut groups = rows.iter().map(|row| (&row.group, row.split));
    groups
        .find(|&(group, split)| *split_of.entry(group).or_insert(split) != split)
        .map(|(group, _)| group.clone())
}

/// Decoded pictures up to a number of bytes. Nothing is ever thrown out: an epoch visits every crop once, so that what
/// came first is as good to keep as anything else.
struct Cache {
    max_bytes: usize,
    kept: Mutex<(usize, HashMap<usize, Arc<RgbImage>>)>,
}

impl Cache {
    fn new(max_bytes: usize) -> Self {
        Cache { max_bytes, kept: Mutex::default() }
    }

    fn get<E>(&self, key: usize, decode: impl FnOnce() -> Result<RgbImage, E>) -> Result<Arc<RgbImage>, E> {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(picture) = lock().1.get(&key) {
            return Ok(Arc::clone(picture));
        }
        let picture = Arc::new(decode()?);
        let mut kept = lock();
        let n_bytes = kept.0 + picture.as_raw().len();
        if n_bytes <= self.max_bytes && kept.1.insert(key, Arc::clone(&picture)).is_none() {
            kept.0 = n_bytes;
        }
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_fits_and_no_more() {
        // Three pictures of 12 bytes fit in 40.
        let cache = Cache::new(40);
        let mut n_decoded = 0;
        for key in [0, 1, 2, 3, 4, 0, 1, 2, 3, 4] {
            let picture = cache.get(key, || {
                n_decoded += 1;
                Ok::<_, ()>(RgbImage::from_pixel(2, 2, image::Rgb([u8::try_from(key).unwrap(); 3])))
            });
            assert_eq!(usize::from(picture.unwrap().as_raw()[0]), key);
        }
        assert_eq!(n_decoded, 5 + 2);
        assert_eq!(cache.get(9, || Err("no")).err(), Some("no"));
    }
}
