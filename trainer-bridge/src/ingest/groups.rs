//! Who belongs together: the connected components of names.

use std::collections::BTreeMap;

/// Names that were linked to each other, directly or through others.
#[derive(Default)]
pub struct Groups {
    idx_of: BTreeMap<String, usize>,
    parents: Vec<usize>,
}

impl Groups {
    /// Makes `name` known, alone until it is linked.
    pub fn add(&mut self, name: &str) -> usize {
        if let Some(idx) = self.idx_of.get(name) {
            return *idx;
        }
        let idx = self.parents.len();
        self.idx_of.insert(name.to_owned(), idx);
        self.parents.push(idx);
        idx
    }

    /// Says that two names belong together.
    pub fn link(&mut self, a: &str, b: &str) {
        let (a, b) = (self.add(a), self.add(b));
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }

    /// A number that `name` shares with those that it belongs to and with nobody else.
    pub fn component(&mut self, name: &str) -> usize {
        let idx = self.add(name);
        self.root(idx)
    }

    fn root(&mut self, mut idx: usize) -> usize {
        while self.parents[idx] != idx {
            self.parents[idx] = self.parents[self.parents[idx]];
            idx = self.parents[idx];
        }
        idx
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reachability by definition: spreads until nothing changes.
    fn reachable(links: &[(u8, u8)], from: u8) -> Vec<u8> {
        let mut seen = vec![from];
        loop {
            let n_before = seen.len();
            for &(a, b) in links {
                for (a, b) in [(a, b), (b, a)] {
                    if seen.contains(&a) && !seen.contains(&b) {
                        seen.push(b);
                    }
                }
            }
            if seen.len() == n_before {
                return seen;
            }
        }
    }

    proptest! {
        #[test]
        fn components_are_what_is_reachable(links in proptest::collection::vec((0u8..20, 0u8..20), 0..25)) {
            let mut groups = Groups::default();
            for (a, b) in &links {
                groups.link(&a.to_string(), &b.to_string());
            }
            for a in 0..20 {
                let reached = reachable(&links, a);
                for b in 0..20 {
                    let together = groups.component(&a.to_string()) == groups.component(&b.to_string());
                    prop_assert_eq!(together, reached.contains(&b), "{} {}", a, b);
                }
            }
        }
    }
}
