//! A constant frame rate as an exact ratio.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// Frames per second as a ratio, so that a frame's time has no rounding that adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    n_frames: NonZeroU32,
    per_s: NonZeroU32,
}

impl FrameRate {
    /// `n_frames` in `per_s` seconds; `None` when either is 0.
    pub fn new(n_frames: u32, per_s: u32) -> Option<Self> {
        Some(FrameRate { n_frames: NonZeroU32::new(n_frames)?, per_s: NonZeroU32::new(per_s)? })
    }

    /// `n_frames` in one second.
    pub(super) const fn whole(n_frames: NonZeroU32) -> Self {
        FrameRate { n_frames, per_s: NonZeroU32::MIN }
    }

    /// Time from the first frame to frame `frame_idx`, rounded to the nearest nanosecond.
    pub fn pts_ns(self, frame_idx: u64) -> i64 {
        let n_frames = u128::from(self.n_frames.get());
        let ns =
            (u128::from(frame_idx) * u128::from(self.per_s.get()) * 1_000_000_000 + n_frames / 2) / n_frames;
        i64::try_from(ns).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per_s.get() {
            1 => write!(f, "{}", self.n_frames),
            per_s => write!(f, "{}/{per_s}", self.n_frames),
        }
    }
}

/// Text that is no frame rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame rate: expected a number above 0 such as 25, 29.97 or 30000/1001, found {found:?}")]
pub struct FrameRateError {
    found: String,
}

impl FromStr for FrameRate {
    type Err = FrameRateError;

    /// Reads "25", "29.97" (up to six decimals) or "30000/1001".
    fn from_str(text: &str) -> Result<Self, FrameRateError> {
        parse(text).ok_or_else(|| FrameRateError { found: text.chars().take(40).collect() })
    }
}

fn parse(text: &str) -> Option<FrameRate> {
    if let Some((n_frames, per_s)) = text.split_once('/') {
        return FrameRate::new(digits(n_frames)?, digits(per_s)?);
    }
    let Some((whole, decimals)) = text.split_once('.') else {
        return FrameRate::new(digits(text)?, 1);
    };
    let per_s = 10u32.checked_pow(u32::try_from(decimals.len()).ok().filter(|n| *n <= 6)?)?;
    FrameRate::new(digits(whole)?.checked_mul(per_s)?.checked_add(digits(decimals)?)?, per_s)
}

/// Digits and nothing else: `u32::from_str` alone would take "+25".
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_far_into_a_recording() {
        let ntsc = FrameRate::new(30_000, 1001).unwrap();
        assert_eq!(ntsc.pts_ns(1), 33_366_667);
        assert_eq!(ntsc.pts_ns(30_000), 1_001_000_000_000);
        assert_eq!(ntsc.pts_ns(u64::MAX), i64::MAX);
    }

    #[test]
    fn text_forms() {
        for (text, n_frames, per_s) in
            [("25", 25, 1), ("29.97", 2997, 100), ("30000/1001", 30_000, 1001), ("0.5", 5, 10)]
        {
            assert_eq!(text.parse(), Ok(FrameRate::new(n_frames, per_s).unwrap()), "{text}");
        }
        for text in ["", "0", "25/0", "-1", "+25", "1e3", "1.2345678", "nan", "25/", ".", "99999999999"] {
            assert!(text.parse::<FrameRate>().is_err(), "{text}");
        }
    }
}
