//! When each sample is shown: the edit list (ISO/IEC 14496-12, 8.6.6) applied to the samples of a track, with
//! the choices that FFmpeg's demuxer makes where the standard and the files that exist differ.

use super::boxes::Edit;
use super::samples::{MAX_SAMPLES, Sample};

/// A sample in its place in the presentation. Times are ticks of the track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) offset: u64,
    pub(super) n_bytes: u32,
    pub(super) description_idx: u16,
    pub(super) is_sync: bool,
    /// False for a sample that is decoded only because others refer to it.
    pub(super) is_shown: bool,
    /// When it is shown, from the start of the presentation.
    pub(super) pts: i64,
    /// The earliest time at which this step or a later one shows something: pictures of before are due.
    pub(super) floor: i64,
}

impl Step {
    fn new(sample: &Sample, pts: i64, is_shown: bool) -> Self {
        Step {
            offset: sample.offset,
            n_bytes: sample.n_bytes,
            description_idx: sample.description_idx,
            is_sync: sample.is_sync,
            is_shown,
            pts,
            floor: i64::MAX,
        }
    }
}

/// Applies `edits` to the samples of a sample table.
///
/// Each edit starts decoding at the last sync sample that it needs; what is outside of it is decoded and not
/// shown. The first sample that an edit shows starts it, even where the edit begins between two samples.
pub(super) fn of_table(samples: &[Sample], edits: &[Edit]) -> Vec<Step> {
    if edits.iter().all(|edit| edit.media_start.is_none()) {
        return with_floors(samples.iter().map(|sample| Step::new(sample, sample.pts, true)).collect());
    }
    let mut steps: Vec<Step> = Vec::with_capacity(samples.len());
    let mut edit_start = 0i64;
    for edit in edits {
        if let Some(media_start) = edit.media_start {
            let first_idx = decoding_start(samples, media_start);
            // an edit can repeat a part, so the number of edits must not multiply the samples without bound
            if steps.len() + (samples.len() - first_idx) > MAX_SAMPLES {
                break;
            }
            append_edit(&samples[first_idx..], media_start, edit.n_ticks, edit_start, &mut steps);
        }
        edit_start = edit_start.saturating_add(edit.n_ticks);
    }
    with_floors(steps)
}

/// The last sync sample that is decoded and shown at `media_start` or before; the first sample where none is.
fn decoding_start(samples: &[Sample], media_start: i64) -> usize {
    samples
        .iter()
        .rposition(|sample| sample.is_sync && sample.dts <= media_start && sample.pts <= media_start)
        .unwrap_or(0)
}

/// Appends the samples that one edit needs. An edit without a length goes on to the end of the track.
fn append_edit(samples: &[Sample], media_start: i64, n_ticks: i64, edit_start: i64, steps: &mut Vec<Step>) {
    let media_end = if n_ticks == 0 { i64::MAX } else { media_start.saturating_add(n_ticks) };
    let is_shown = |sample: &Sample| (media_start..media_end).contains(&sample.pts);
    // nothing refers to a sample that is decoded later
    let n_needed = samples.iter().rposition(is_shown).map_or(0, |last_idx| last_idx + 1);
    let needed = &samples[..n_needed];
    let first_pts =
        needed.iter().filter(|sample| is_shown(sample)).map(|sample| sample.pts).min().unwrap_or(0);
    let step = |sample: &Sample| {
        let pts = edit_start.saturating_add(sample.pts.saturating_sub(first_pts));
        Step::new(sample, pts, is_shown(sample))
    };
    steps.extend(needed.iter().map(step));
}

/// Applies `edits` to the samples of a movie with fragments: they can shift it and cut its start.
pub(super) fn of_fragments(samples: &[Sample], edits: &[Edit]) -> Vec<Step> {
    let n_empty_ticks = match edits.first() {
        Some(Edit { media_start: None, n_ticks }) => *n_ticks,
        _ => 0,
    };
    let media_start = edits.iter().find_map(|edit| edit.media_start).unwrap_or(0);
    let shift = n_empty_ticks.saturating_sub(media_start);
    let step =
        |sample: &Sample| Step::new(sample, sample.pts.saturating_add(shift), sample.pts >= media_start);
    with_floors(samples.iter().map(step).collect())
}

fn with_floors(mut steps: Vec<Step>) -> Vec<Step> {
    let mut floor = i64::MAX;
    for step in steps.iter_mut().rev() {
        if step.is_shown {
            floor = floor.min(step.pts);
        }
        step.floor = floor;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of 10 ticks in decoding order, by the time that they are shown at; the first is a sync sample.
    fn samples(shown_at: &[i64]) -> Vec<Sample> {
        let sample = |(idx, &pts): (usize, &i64)| Sample {
            offset: idx as u64,
            n_bytes: 1,
            description_idx: 0,
            is_sync: idx == 0,
            dts: 10 * idx as i64,
            pts,
        };
        shown_at.iter().enumerate().map(sample).collect()
    }

    fn shown(steps: &[Step]) -> Vec<(u64, i64)> {
        steps.iter().filter(|step| step.is_shown).map(|step| (step.offset, step.pts)).collect()
    }

    fn part(media_start: i64, n_ticks: i64) -> Edit {
        Edit { n_ticks, media_start: Some(media_start) }
    }

    const PAUSE: Edit = Edit { n_ticks: 7, media_start: None };

    #[test]
    fn without_an_edit_list_times_are_the_samples() {
        let steps = of_table(&samples(&[20, 40, 30, 50]), &[]);
        assert_eq!(shown(&steps), [(0, 20), (1, 40), (2, 30), (3, 50)]);
        // the third is due when nothing earlier can come
        assert_eq!(steps.iter().map(|step| step.floor).collect::<Vec<_>>(), [20, 30, 30, 50]);
    }

    #[test]
    fn an_edit_shifts_cuts_and_ends() {
        let samples = samples(&[20, 40, 30, 60, 50]);
        assert_eq!(shown(&of_table(&samples, &[part(20, 50)])), [(0, 0), (1, 20), (2, 10), (3, 40), (4, 30)]);
        // the first is decoded for the others; the fourth is behind the end, and decoded for the fifth
        let steps = of_table(&samples, &[PAUSE, part(30, 30)]);
        assert_eq!(shown(&steps), [(1, 17), (2, 7), (4, 27)]);
        assert_eq!(steps.len(), 5);
        assert_eq!(shown(&of_table(&samples, &[part(40, 0)])), [(1, 0), (3, 20), (4, 10)]);
    }

    #[test]
    fn parts_follow_one_another() {
        let samples = samples(&[0, 10, 20, 30]);
        assert_eq!(shown(&of_table(&samples, &[part(20, 20), part(10, 10)])), [(2, 0), (3, 10), (1, 20)]);
        assert_eq!(shown(&of_table(&samples, &[part(1000, 10)])), []);
    }

    #[test]
    fn times_at_the_ends_of_their_range_saturate() {
        let samples = samples(&[i64::MIN, i64::MAX, 0]);
        for edits in
            [vec![part(i64::MAX, i64::MAX); 3], vec![Edit { n_ticks: i64::MAX, media_start: None }; 3]]
        {
            of_table(&samples, &edits);
            of_fragments(&samples, &edits);
        }
    }

    #[test]
    fn fragments_are_shifted_and_lose_their_start() {
        let steps = of_fragments(&samples(&[20, 30, 40]), &[PAUSE, part(30, 0)]);
        assert_eq!(shown(&steps), [(1, 7), (2, 17)]);
    }
}
