//! The other half of a two-fold cross-validation: what a second network says of the groups that the first one learnt from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::bail;

use super::prediction::Prediction;
use super::report::{About, OTHER_HALF};
use crate::train::folder::sha256;

/// Predictions of the second network, and their file.
pub(super) struct Beside<'a> {
    /// Where they are from.
    pub(super) file: &'a Path,
    /// Of groups that the first network isn't measured on.
    pub(super) predictions: Vec<Prediction>,
}

impl Beside<'_> {
    /// Adds them to the first network's, and to what the report says of itself.
    ///
    /// # Errors
    /// Where both judge a group, since one of them has learnt from it; where the file can't be read again.
    pub(super) fn join(self, own: &mut Vec<Prediction>, about: &mut About) -> anyhow::Result<()> {
        let Beside { file, predictions } = self;
        let groups: BTreeSet<&str> = own.iter().map(|prediction| prediction.group.as_str()).collect();
        if let Some(both) = predictions.iter().find(|other| groups.contains(other.group.as_str())) {
            bail!(
                "{}: expected predictions of groups that the run isn't measured on, found group {}",
                file.display(),
                both.group
            );
        }
        own.extend(predictions);
        let found = format!("{}, SHA-256 {}", folder_and_file(file), sha256(file)?);
        about.push((OTHER_HALF.to_owned(), found));
        Ok(())
    }
}

/// The last two names of a path, which say enough without naming a machine's folders.
fn folder_and_file(path: &Path) -> String {
    let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
    names[names.len().saturating_sub(2)..].join("/")
}

/// Datasets and their numbers of crops.
pub(super) fn data_in_words(predictions: &[Prediction]) -> String {
    let mut n_of = BTreeMap::<&str, usize>::new();
    for prediction in predictions {
        *n_of.entry(&prediction.dataset).or_default() += 1;
    }
    n_of.iter().map(|(name, n)| format!("{name} ({n} crops)")).collect::<Vec<_>>().join(", ")
}
