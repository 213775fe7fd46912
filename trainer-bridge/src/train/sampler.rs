//! Which crops an epoch shows, in which order: as many fakes as reals, whatever the datasets hold.

use std::collections::HashMap;

use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::manifest::Label;

/// The part of a stream's number that counts samples.
const INDEX_BITS: u32 = 40;
/// The sampler's own stream of an epoch; no epoch has that many samples.
const SAMPLER_INDEX: u64 = (1 << INDEX_BITS) - 1;

/// The random numbers of one sample, which depend on nothing else: not on threads, not on what came before.
pub fn stream(seed: u64, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((epoch << INDEX_BITS) | index);
    rng
}

/// What the sampler must know of a crop.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Real or fake.
    pub label: Label,
    /// Which dataset it is of.
    pub dataset_idx: usize,
    /// Which real video or photo it is of or was made from; counted over all datasets.
    pub source_idx: usize,
    /// Which compression it went through; counted over all datasets.
    pub condition_idx: usize,
    /// Whether pseudo-fakes may be made of it.
    pub can_be_pseudo: bool,
}

/// Where a pair's fake comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fake {
    /// A crop, by index.
    Crop(usize),
    /// The pair's real crop, blended with a changed copy of itself.
    SelfBlended,
    /// The pair's real crop with the face of another one.
    Swapped,
}

/// One real and one fake: what an epoch is made of, so that every batch holds as many of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The real crop, by index.
    pub real: usize,
    /// The fake.
    pub fake: Fake,
}

/// Shares of what is made rather than taken from a dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PseudoShare {
    /// Share of all fakes that are made from real crops, 0..=1.
    pub of_fakes: f64,
    /// Share of those that are face swaps; the others are self-blended, 0..=1.
    pub of_swaps: f64,
}

/// Why there is nothing to draw from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// A class has no crop for training.
    #[error("no {0} crop to train with: every dataset's weight or split leaves it out")]
    Empty(&'static str),
    /// Pseudo-fakes are wanted and can't be made.
    #[error("pseudo-fakes are wanted, and no real crop has landmarks in a dataset that may be used for them")]
    NoPseudo,
}

/// Draws pairs by (seed, epoch).
///
/// Each class is drawn without repetition until it is used up, then again: the rarer one is shown more often. A
/// dataset with weight w is drawn as if it had w times its crops. A fake crop is paired with a real one of its own source
/// where there is one, under the same compression rather than another, so that neither camera nor codec tells the two
/// apart; else with any.
pub struct Sampler {
    seed: u64,
    /// Real crops by source and compression, and by source alone.
    by_source: HashMap<(usize, Option<usize>), Vec<usize>>,
    /// Source and compression of each crop.
    source_of: Vec<(usize, usize)>,
    reals: Pool,
    fakes: Pool,
    /// Reals that pseudo-fakes are made of.
    pseudo: Pool,
    share: PseudoShare,
    n_pairs: usize,
}

impl Sampler {
    /// A sampler of `candidates`; `weights` are by dataset. `n_pairs` of 0 stands for the larger class's number of crops.
    ///
    /// # Errors
    /// [`SamplerError`] where a class that is needed has nothing to draw.
    pub fn new(
        seed: u64,
        candidates: &[Candidate],
        weights: &[f64],
        share: PseudoShare,
        n_pairs: usize,
    ) -> Result<Self, SamplerError> {
        let pool = |is_member: &dyn Fn(&Candidate) -> bool| Pool::new(candidates, weights, is_member);
        let reals = pool(&|candidate| candidate.label == Label::Real);
        let fakes = pool(&|candidate| candidate.label == Label::Fake);
        let pseudo = pool(&|candidate| candidate.label == Label::Real && candidate.can_be_pseudo);
        if reals.is_empty() {
            return Err(SamplerError::Empty("real"));
        }
        if share.of_fakes > 0.0 && pseudo.is_empty() {
            return Err(SamplerError::NoPseudo);
        }
        if share.of_fakes < 1.0 && fakes.is_empty() {
            return Err(SamplerError::Empty("fake"));
        }
        let larger = if share.of_fakes < 1.0 { reals.len().max(fakes.len()) } else { reals.len() };
        let n_pairs = if n_pairs == 0 { larger } else { n_pairs };
        let mut by_source = HashMap::<_, Vec<usize>>::new();
        for (idx, candidate) in candidates.iter().enumerate() {
            if candidate.label == Label::Real && weights[candidate.dataset_idx] > 0.0 {
                for condition_idx in [Some(candidate.condition_idx), None] {
                    by_source.entry((candidate.source_idx, condition_idx)).or_default().push(idx);
                }
            }
        }
        let source_of = candidates.iter().map(|c| (c.source_idx, c.condition_idx)).collect();
        Ok(Sampler { seed, by_source, source_of, reals, fakes, pseudo, share, n_pairs })
    }

    /// Pairs of an epoch.
    pub fn n_pairs(&self) -> usize {
        self.n_pairs
    }

    /// The pairs of `epoch`, always the same ones.
    pub fn epoch(&self, epoch: u64) -> Vec<Pair> {
        let mut rng = stream(self.seed, epoch, SAMPLER_INDEX);
        let n_pseudo = quota(self.n_pairs, self.share.of_fakes);
        let n_swaps = quota(n_pseudo, self.share.of_swaps);
        let n_crops = self.n_pairs - n_pseudo;
        let mut pairs = Vec::with_capacity(self.n_pairs);
        for (pseudo_idx, real) in self.pseudo.draw(n_pseudo, &mut rng).into_iter().enumerate() {
            let fake = if pseudo_idx < n_swaps { Fake::Swapped } else { Fake::SelfBlended };
            pairs.push(Pair { real, fake });
        }
        let any = self.reals.draw(n_crops, &mut rng);
        for (fake, any) in self.fakes.draw(n_crops, &mut rng).into_iter().zip(any) {
            let (source_idx, condition_idx) = self.source_of[fake];
            let of_source = |condition_idx| self.by_source.get(&(source_idx, condition_idx));
            let own = of_source(Some(condition_idx)).or_else(|| of_source(None));
            let real = own.and_then(|reals| reals.choose(&mut rng)).copied().unwrap_or(any);
            pairs.push(Pair { real, fake: Fake::Crop(fake) });
        }
        pairs.shuffle(&mut rng);
        pairs
    }
}

/// `share` of `n`, rounded.
fn quota(n: usize, share: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=n")]
    let quota = (n as f64 * share).round() as usize;
    quota.min(n)
}

/// The crops of a class by dataset, and each dataset's share of what is drawn.
struct Pool {
    datasets: Vec<(f64, Vec<usize>)>,
}

impl Pool {
    fn new(candidates: &[Candidate], weights: &[f64], is_member: &dyn Fn(&Candidate) -> bool) -> Self {
        let members = |dataset_idx: usize| {
            let all = candidates.iter().enumerate();
            let chosen = all.filter(|(_, c)| c.dataset_idx == dataset_idx && is_member(c));
            chosen.map(|(idx, _)| idx).collect::<Vec<_>>()
        };
        let datasets = weights.iter().enumerate().map(|(idx, &weight)| (weight, members(idx)));
        let mut datasets: Vec<_> =
            datasets.filter(|(weight, members)| *weight > 0.0 && !members.is_empty()).collect();
        let total: f64 = datasets.iter().map(|(weight, members)| weight * members.len() as f64).sum();
        for (share, members) in &mut datasets {
            *share *= members.len() as f64 / total;
        }
        Pool { datasets }
    }

    fn is_empty(&self) -> bool {
        self.datasets.is_empty()
    }

    fn len(&self) -> usize {
        self.datasets.iter().map(|(_, members)| members.len()).sum()
    }

    /// `n` crops in random order; no crop of a dataset comes k + 1 times before all of them came k times.
    fn draw(&self, n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut drawn = Vec::with_capacity(n);
        let mut cumulated = 0.0;
        for (share, members) in &self.datasets {
            cumulated += share;
            let end = quota(n, cumulated);
            while drawn.len() < end {
                let mut round = members.clone();
                round.shuffle(rng);
                round.truncate(end - drawn.len());
                drawn.append(&mut round);
            }
        }
        drawn.shuffle(rng);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::Rng as _;

    use super::*;

    fn candidates(n_reals: usize, n_fakes: usize, dataset_idx: usize) -> Vec<Candidate> {
        let labels =
            std::iter::repeat_n(Label::Real, n_reals).chain(std::iter::repeat_n(Label::Fake, n_fakes));
        let candidate = |(source_idx, label)| Candidate {
            label,
            dataset_idx,
            source_idx,
            condition_idx: 0,
            can_be_pseudo: true,
        };
        (dataset_idx * 1000..).zip(labels).map(candidate).collect()
    }

    fn counts(indices: impl Iterator<Item = usize>) -> HashMap<usize, usize> {
        let mut counts = HashMap::new();
        indices.for_each(|idx| *counts.entry(idx).or_default() += 1);
        counts
    }

    fn crops(pairs: &[Pair]) -> impl Iterator<Item = usize> {
        pairs.iter().filter_map(|pair| if let Fake::Crop(idx) = pair.fake { Some(idx) } else { None })
    }

    #[test]
    fn the_rarer_class_is_shown_evenly_and_as_often() {
        let sampler = Sampler::new(1, &candidates(7, 30, 0), &[1.0], PseudoShare::default(), 0).unwrap();
        let pairs = sampler.epoch(3);
        assert_eq!(pairs.len(), 30);
        let (reals, fakes) = (counts(pairs.iter().map(|p| p.real)), counts(crops(&pairs)));
        assert!((0..7).all(|idx| [4, 5].contains(&reals[&idx])), "{reals:?}");
        assert!((7..37).all(|idx| fakes[&idx] == 1), "{fakes:?}");
    }

    #[test]
    fn a_fake_comes_with_a_real_of_its_source() {
        let mut all = candidates(12, 30, 0);
        // Sources 0 to 3 have three reals each; of the fakes' ones, 4 has none.
        (0..12).for_each(|idx| all[idx].source_idx = idx / 3);
        (12..42).for_each(|idx| all[idx].source_idx = idx % 5);
        let pairs = Sampler::new(1, &all, &[1.0], PseudoShare::default(), 300).unwrap().epoch(0);
        let mut seen = std::collections::HashSet::new();
        for pair in &pairs {
            let Fake::Crop(fake) = pair.fake else { panic!("{pair:?}") };
            let source_idx = all[fake].source_idx;
            assert!(source_idx == 4 || all[pair.real].source_idx == source_idx, "{pair:?}");
            seen.insert((source_idx.min(4), pair.real));
        }
        assert_eq!(seen.iter().filter(|(source_idx, _)| *source_idx < 4).count(), 12);
        assert!(seen.iter().filter(|(source_idx, _)| *source_idx == 4).count() > 6, "{seen:?}");
    }

    #[test]
    fn a_fake_comes_with_a_real_that_was_compressed_like_it() {
        let mut all = candidates(8, 12, 0);
        // One source's crops in two compressions; fakes are in a third as well, which the reals lack.
        all.iter_mut().for_each(|candidate| candidate.source_idx = 0);
        (0..8).for_each(|idx| all[idx].condition_idx = idx % 2);
        (8..20).for_each(|idx| all[idx].condition_idx = idx % 3);
        let pairs = Sampler::new(1, &all, &[1.0], PseudoShare::default(), 300).unwrap().epoch(0);
        let mut seen = std::collections::HashSet::new();
        for pair in &pairs {
            let Fake::Crop(fake) = pair.fake else { panic!("{pair:?}") };
            let [real, fake] = [pair.real, fake].map(|idx| all[idx].condition_idx);
            assert!(real == fake || fake == 2, "{pair:?}");
            seen.insert((real, fake));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn epochs_differ_and_repeat_by_seed() {
        let sampler =
            |seed| Sampler::new(seed, &candidates(20, 20, 0), &[1.0], PseudoShare::default(), 0).unwrap();
        assert_eq!(sampler(1).epoch(5), sampler(1).epoch(5));
        assert_ne!(sampler(1).epoch(5), sampler(1).epoch(6));
        assert_ne!(sampler(1).epoch(5), sampler(2).epoch(5));
    }

    #[test]
    fn weights_multiply_a_datasets_crops() {
        // 10 reals with weight 3 beside 30 with weight 1, and 20 that are left out.
        let all = [candidates(10, 10, 0), candidates(30, 30, 1), candidates(20, 20, 2)].concat();
        let sampler = Sampler::new(1, &all, &[3.0, 1.0, 0.0], PseudoShare::default(), 60).unwrap();
        let mut n_by_dataset = [0; 3];
        for pair in sampler.epoch(0) {
            n_by_dataset[all[pair.real].dataset_idx] += 1;
        }
        assert_eq!(n_by_dataset, [30, 30, 0]);
    }

    #[test]
    fn pseudo_fakes_take_their_share() {
        let share = PseudoShare { of_fakes: 0.5, of_swaps: 0.4 };
        let pairs = Sampler::new(1, &candidates(40, 10, 0), &[1.0], share, 40).unwrap().epoch(0);
        assert_eq!(crops(&pairs).count(), 20);
        assert_eq!(pairs.iter().filter(|pair| pair.fake == Fake::Swapped).count(), 8);
        assert!(pairs.iter().all(|pair| pair.real < 40));
    }

    #[test]
    fn real_photos_alone_are_enough_for_pseudo_fakes() {
        let only = PseudoShare { of_fakes: 1.0, of_swaps: 0.0 };
        let sampler = Sampler::new(1, &candidates(5, 0, 0), &[1.0], only, 0).unwrap();
        assert!(sampler.epoch(0).iter().all(|pair| pair.fake == Fake::SelfBlended));
        let failed = |candidates: &[Candidate], share| {
            Sampler::new(1, candidates, &[1.0], share, 0).err().expect("nothing to draw")
        };
        assert_eq!(failed(&candidates(5, 0, 0), PseudoShare::default()), SamplerError::Empty("fake"));
        assert_eq!(failed(&candidates(0, 5, 0), PseudoShare::default()), SamplerError::Empty("real"));
        let mut blind = candidates(5, 5, 0);
        blind.iter_mut().for_each(|candidate| candidate.can_be_pseudo = false);
        assert_eq!(failed(&blind, only), SamplerError::NoPseudo);
    }

    #[test]
    fn streams_of_samples_differ() {
        let first = |epoch, index| stream(9, epoch, index).random::<u64>();
        let all = [first(0, 0), first(0, 1), first(1, 0), first(1, 1), first(0, SAMPLER_INDEX)];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert_eq!(first(1, 1), all[3]);
    }
}
