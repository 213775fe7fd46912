//! A measured number, or why there is none.

use std::fmt;

use serde::{Serialize, Serializer};

/// A measure that may not exist; JSON holds the number or the text `n/a: why`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// The number.
    Known(f64),
    /// Why there is none.
    Unknown(&'static str),
}

impl Figure {
    /// The number, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Figure::Known(value) => Some(value),
            Figure::Unknown(_) => None,
        }
    }

    /// `part` of `whole`, or why not.
    pub(crate) fn share(part: f64, whole: f64, why_not: &'static str) -> Figure {
        if whole > 0.0 { Figure::Known(part / whole) } else { Figure::Unknown(why_not) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Figure::Known(value) => write!(f, "{value:.*}", f.precision().unwrap_or(3)),
            Figure::Unknown(why) => write!(f, "n/a: {why}"),
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Figure::Known(value) => serializer.serialize_f64(*value),
            Figure::Unknown(_) => serializer.collect_str(self),
        }
    }
}

/// A figure with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure of all items.
    pub value: Figure,
    /// The 2.5 % and the 97.5 % quantile of the resamples; `None` where too few resamples have the figure.
    pub interval: Option<(f64, f64)>,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)?;
        match (self.value, self.interval) {
            (Figure::Known(_), Some((low, high))) => {
                let digits = f.precision().unwrap_or(3);
                write!(f, " [{low:.digits$}, {high:.digits$}]")
            }
            _ => Ok(()),
        }
    }
}
