//! Which groups learn and which are measured.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use crate::manifest::Split;

/// Random orders that are tried; the one whose validation is most like the whole is taken.
const N_ORDERS: usize = 256;

/// How many videos of each kind a group has; a kind is what must be alike on both sides, e.g. "FAKE FaceSwap".
pub type Kinds = BTreeMap<String, usize>;

/// A side for each group, by name. `share` of all videos, 0..1, goes to validation as nearly as whole groups
/// allow, and likewise of each kind. With two groups or more, no side is empty.
///
/// The same groups, share and seed give the same sides.
pub fn split(groups: &BTreeMap<String, Kinds>, share: f64, seed: u64) -> BTreeMap<String, Split> {
    let mut totals = Kinds::new();
    for kinds in groups.values() {
        add(&mut totals, kinds);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<(&String, &Kinds)> = groups.iter().collect();
    let mut best: Option<(f64, Vec<&String>)> = None;
    for _ in 0..N_ORDERS {
        order.shuffle(&mut rng);
        let (chosen, kinds) = fill(&order, &totals, share);
        let cost = cost(&kinds, &totals, share);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, chosen));
        }
    }
    let validation = best.map(|(_, chosen)| chosen).unwrap_or_default();
    let side = |name| if validation.contains(&name) { Split::Validation } else { Split::Train };
    groups.keys().map(|name| (name.clone(), side(name))).collect()
}

/// Takes groups in order as long as each brings validation nearer to its share.
fn fill<'a>(order: &[(&'a String, &Kinds)], totals: &Kinds, share: f64) -> (Vec<&'a String>, Kinds) {
    let wanted = share * count(totals);
    let (mut chosen, mut kinds) = (Vec::new(), Kinds::new());
    for (name, more) in order {
        let now = count(&kinds);
        if (now + count(more) - wanted).abs() < (now - wanted).abs() && chosen.len() + 1 < order.len() {
            add(&mut kinds, more);
            chosen.push(*name);
        }
    }
    if chosen.is_empty()
        && wanted > 0.0
        && order.len() > 1
        && let Some((name, more)) = order.iter().min_by(|a, b| count(a.1).total_cmp(&count(b.1)))
    {
        add(&mut kinds, more);
        chosen.push(*name);
    }
    (chosen, kinds)
}

/// How far validation is from its share: of all, and of each kind.
fn cost(kinds: &Kinds, totals: &Kinds, share: f64) -> f64 {
    let off = |has: f64, of: f64| (has - share * of).abs() / count(totals);
    let by_kind =
        totals.iter().map(|(kind, &n)| off(number(kinds.get(kind).copied().unwrap_or(0)), number(n)));
    off(count(kinds), count(totals)) + by_kind.sum::<f64>()
}

fn add(sum: &mut Kinds, more: &Kinds) {
    for (kind, n) in more {
        *sum.entry(kind.clone()).or_default() += n;
    }
}

fn count(kinds: &Kinds) -> f64 {
    number(kinds.values().sum())
}

#[expect(clippy::cast_precision_loss, reason = "a count of videos")]
fn number(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(sizes: &[(usize, usize)]) -> BTreeMap<String, Kinds> {
        let kinds = |&(real, fake)| Kinds::from([("REAL".into(), real), ("FAKE".into(), fake)]);
        sizes.iter().enumerate().map(|(idx, sizes)| (format!("g{idx:03}"), kinds(sizes))).collect()
    }

    fn counts(groups: &BTreeMap<String, Kinds>, sides: &BTreeMap<String, Split>) -> Kinds {
        let mut sum = Kinds::new();
        for (name, kinds) in groups {
            if sides[name] == Split::Validation {
                add(&mut sum, kinds);
            }
        }
        sum
    }

    #[test]
    fn a_fifth_of_each_kind_is_validation() {
        // 90 videos of 30 groups, and a group of 10 fakes.
        let mut sizes = vec![(1, 2); 30];
        sizes.push((0, 10));
        let groups = groups(&sizes);
        let found = counts(&groups, &split(&groups, 0.2, 7));
        assert_eq!(found["REAL"], 6);
        assert!((12..=15).contains(&found["FAKE"]), "{found:?}");
    }

    #[test]
    fn the_seed_decides() {
        let groups = groups(&[(1, 1); 40]);
        assert_eq!(split(&groups, 0.2, 1), split(&groups, 0.2, 1));
        assert_ne!(split(&groups, 0.2, 1), split(&groups, 0.2, 2));
    }

    #[test]
    fn no_side_is_empty() {
        for sizes in [vec![(5, 5), (3, 3)], vec![(1, 0), (90, 90)], vec![(1, 1); 3]] {
            let groups = groups(&sizes);
            let sides = split(&groups, 0.2, 3);
            assert!(sides.values().any(|s| *s == Split::Validation), "{sizes:?}");
            assert!(sides.values().any(|s| *s == Split::Train), "{sizes:?}");
        }
        let one = groups(&[(5, 5)]);
        assert!(split(&one, 0.2, 3).values().all(|s| *s == Split::Train));
    }
}
