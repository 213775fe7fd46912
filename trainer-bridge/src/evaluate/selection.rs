//! Which crops are measured.

use std::path::Path;

use anyhow::ensure;
use clap::{Args, ValueEnum};

use super::prediction::{self, Prediction};
use crate::manifest::{Label, Split};

/// The side of the split, and of it only some compressions and some fakes.
#[derive(Debug, Args)]
pub struct Selection {
    /// Which crops are measured
    #[arg(long, value_enum, default_value_t = Part::Validation)]
    pub(super) split: Part,
    /// Only what went through these compressions: clean, crf40-360p...
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    conditions: Vec<String>,
    /// Only the fakes made in these ways, by the metadata's names, beside all reals
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    methods: Vec<String>,
}

/// The side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// What thresholds and reports are for.
    Validation,
    /// What weights learnt from: figures flatter the network.
    Train,
    /// Both.
    All,
}

impl Part {
    /// Whether a crop of this side is one of the part's.
    pub(super) fn holds(self, split: Split) -> bool {
        match self {
            Part::Validation => split == Split::Validation,
            Part::Train => split == Split::Train,
            Part::All => true,
        }
    }
}

impl Selection {
    /// Whether a crop is measured.
    pub(super) fn holds(&self, split: Split, label: Label, condition: &str, method: &str) -> bool {
        let is_listed = |list: &[String], name: &str| list.is_empty() || list.iter().any(|it| it == name);
        self.split.holds(split)
            && is_listed(&self.conditions, condition)
            && (label == Label::Real || is_listed(&self.methods, method))
    }

    /// What it is, for a report.
    pub(super) fn words(&self) -> String {
        let mut words = match self.split {
            Part::Validation => "validation",
            Part::Train => "train (the network learnt from it: figures flatter it)",
            Part::All => "train and validation (the network learnt from a part: figures flatter it)",
        }
        .to_owned();
        for (name, list) in [("conditions", &self.conditions), ("methods", &self.methods)] {
            if !list.is_empty() {
                words += &format!("; only {name} {}", list.join(", "));
            }
        }
        words
    }

    /// What is measured of a file of predictions.
    ///
    /// # Errors
    /// Where it can't be read, or holds nothing that is measured.
    pub(super) fn read(&self, file: &Path) -> anyhow::Result<Vec<Prediction>> {
        let mut predictions = prediction::read(file)?;
        predictions.retain(|p| self.holds(p.split, p.label, &p.condition, &p.method));
        ensure!(
            !predictions.is_empty(),
            "{}: expected crops of {}, found none",
            file.display(),
            self.words()
        );
        Ok(predictions)
    }
}
