//! What a video goes through before its faces are looked for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The CRF where only a size is named: x264's own.
const DEFAULT_CRF: u8 = 23;
/// x264's largest CRF for 8 bits.
const MAX_CRF: u8 = 51;

/// A compression, or none: `clean`, `crf28`, `360p`, `crf40-360p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    crf: Option<u8>,
    height_px: Option<u32>,
}

impl Condition {
    /// As it is.
    pub const CLEAN: Condition = Condition { crf: None, height_px: None };

    /// True where nothing is done.
    pub fn is_clean(self) -> bool {
        self == Self::CLEAN
    }

    /// x264's constant rate factor.
    pub fn crf(self) -> u8 {
        self.crf.unwrap_or(DEFAULT_CRF)
    }

    /// Lines that the picture is scaled down to first; a smaller one stays as it is.
    pub fn height_px(self) -> Option<u32> {
        self.height_px
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.crf, self.height_px) {
            (None, None) => f.write_str("clean"),
            (Some(crf), None) => write!(f, "crf{crf}"),
            (None, Some(height_px)) => write!(f, "{height_px}p"),
            (Some(crf), Some(height_px)) => write!(f, "crf{crf}-{height_px}p"),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "expected clean, crf0 to crf{MAX_CRF}, 16p to 4320p or both as crf40-360p, found {text:?}"
            )
        };
        if text == "clean" {
            return Ok(Self::CLEAN);
        }
        let mut condition = Self::CLEAN;
        for part in text.split('-') {
            if let Some(crf) = part.strip_prefix("crf").filter(|_| condition == Self::CLEAN) {
                let crf = crf.parse().ok().filter(|crf| *crf <= MAX_CRF).ok_or_else(fault)?;
                condition.crf = Some(crf);
            } else if let Some(lines) = part.strip_suffix('p').filter(|_| condition.height_px.is_none()) {
                let height_px = lines.parse().ok().filter(|h| (16..=4320).contains(h)).ok_or_else(fault)?;
                condition.height_px = Some(height_px);
            } else {
                return Err(fault());
            }
        }
        // One name for each: crf028 would be another folder.
        if condition.to_string() == text { Ok(condition) } else { Err(fault()) }
    }
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> String {
        condition.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for name in ["clean", "crf28", "crf0", "360p", "crf40-360p"] {
            assert_eq!(name.parse::<Condition>().unwrap().to_string(), name);
        }
        let both: Condition = "crf40-360p".parse().unwrap();
        assert_eq!((both.crf(), both.height_px()), (40, Some(360)));
        assert_eq!("360p".parse::<Condition>().unwrap().crf(), 23);
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "crf", "crf52", "crf028", "360p-crf40", "crf1-crf2", "15p", "clean-crf2", "p", "-"] {
            assert!(name.parse::<Condition>().unwrap_err().contains("expected"), "{name}");
        }
    }
}
