//! Which of a camera's formats to ask for.

use heapless::Vec as FixedVec;

use super::kernel::{Kernel, PictureFormat, Planarity, Sizes};
use super::picture::Encoding;

/// Entries of a list that are looked at: a driver that never ends its list must end somewhere.
const MAX_ENTRIES: u32 = 256;

/// What is asked of a camera; it gives what comes nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Width.
    pub width_px: u32,
    /// Height.
    pub height_px: u32,
    /// Frames a second.
    pub rate_hz: u32,
    /// Only this encoding.
    pub encoding: Option<Encoding>,
}

/// An encoding at a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    fourcc: u32,
    size_px: (u32, u32),
    /// Frames a second, or `None` where the driver doesn't say.
    rate_hz: Option<u32>,
    /// Place in [`Encoding::ALL`].
    cost: usize,
}

impl Offer {
    /// Smaller is better: the nearest size first, then enough frames, then what costs least to read.
    fn rank(&self, wanted: &Wanted) -> (u64, u32, usize) {
        let (width, height) = self.size_px;
        let away = u64::from(width.abs_diff(wanted.width_px)) + u64::from(height.abs_diff(wanted.height_px));
        let too_slow = self.rate_hz.map_or(0, |rate| wanted.rate_hz.saturating_sub(rate));
        (away, too_slow, self.cost)
    }
}

/// The format to ask for: of what the driver lists, the nearest to what is wanted. A driver that lists nothing is asked
/// for what is wanted as it is.
///
/// `is_size_given` says that the signal decides the size.
pub(super) fn choose<K: Kernel>(
    kernel: &mut K,
    device: &K::Device,
    of: Planarity,
    wanted: &Wanted,
    is_size_given: bool,
) -> PictureFormat {
    let is_wanted = |encoding: &Encoding| wanted.encoding.is_none_or(|only| only == *encoding);
    let mut best: Option<Offer> = None;
    for index in 0..MAX_ENTRIES {
        let Ok(fourcc) = kernel.list_formats(device, of, index) else { break };
        let Some(encoding) = Encoding::of(fourcc).filter(is_wanted) else { continue };
        let cost = Encoding::ALL.iter().position(|e| *e == encoding).unwrap_or(Encoding::ALL.len());
        let size_px = if is_size_given {
            (wanted.width_px, wanted.height_px)
        } else {
            nearest_size(kernel, device, fourcc, wanted)
        };
        let offer = Offer { fourcc, size_px, rate_hz: rate(kernel, device, fourcc, size_px, wanted), cost };
        if best.is_none_or(|best| offer.rank(wanted) < best.rank(wanted)) {
            best = Some(offer);
        }
    }
    let (fourcc, (width_px, height_px)) = match best {
        Some(offer) => (offer.fourcc, offer.size_px),
        None => {
            let encoding = wanted.encoding.unwrap_or(Encoding::Yuyv);
            (encoding.fourcc(), (wanted.width_px, wanted.height_px))
        }
    };
    // Distances and lengths of 0: those of before would bind the driver.
    PictureFormat { width_px, height_px, fourcc, planes: FixedVec::new(), ..Default::default() }
}

fn nearest_size<K: Kernel>(kernel: &mut K, device: &K::Device, fourcc: u32, wanted: &Wanted) -> (u32, u32) {
    let goal = (wanted.width_px, wanted.height_px);
    let mut best: Option<(u32, u32)> = None;
    let away = |(w, h): (u32, u32)| u64::from(w.abs_diff(goal.0)) + u64::from(h.abs_diff(goal.1));
    for index in 0..MAX_ENTRIES {
        let Ok(sizes) = kernel.list_sizes(device, fourcc, index) else { break };
        let size_px = within(&sizes, goal);
        if best.is_none_or(|best| away(size_px) < away(best)) {
            best = Some(size_px);
        }
        if sizes.is_range {
            break;
        }
    }
    best.unwrap_or(goal)
}

/// The size of a range that comes nearest to `goal`.
fn within(sizes: &Sizes, goal: (u32, u32)) -> (u32, u32) {
    let nearest = |least: u32, most: u32, step: u32, goal: u32| {
        let inside = goal.clamp(least, most.max(least));
        inside - (inside - least).checked_rem(step).unwrap_or(0)
    };
    (
        nearest(sizes.least_px.0, sizes.most_px.0, sizes.step_px.0, goal.0),
        nearest(sizes.least_px.1, sizes.most_px.1, sizes.step_px.1, goal.1),
    )
}

/// The most frames a second up to what is wanted, or the nearest to it.
fn rate<K: Kernel>(
    kernel: &mut K,
    device: &K::Device,
    fourcc: u32,
    size_px: (u32, u32),
    wanted: &Wanted,
) -> Option<u32> {
    let mut best: Option<u32> = None;
    for index in 0..MAX_ENTRIES {
        let Ok(intervals) = kernel.list_intervals(device, fourcc, size_px, index) else { break };
        // Rounded up: 30000/1001 frames a second are as good as 30.
        let frames =
            |(seconds, parts): (u32, u32)| parts.checked_add(seconds.saturating_sub(1))?.checked_div(seconds);
        let (fast, slow) = (frames(intervals.shortest_s), frames(intervals.longest_s));
        let here = if intervals.is_range {
            fast.map(|f| wanted.rate_hz.clamp(slow.unwrap_or(1).min(f), f))
        } else {
            fast
        };
        let away = |rate: u32| (wanted.rate_hz.saturating_sub(rate), rate.saturating_sub(wanted.rate_hz));
        if let Some(here) = here
            && best.is_none_or(|best| away(here) < away(best))
        {
            best = Some(here);
        }
        if intervals.is_range {
            break;
        }
    }
    best
}
