//! Where each sample of a track lies in the file and when it is decoded and shown, from the sample table or from
//! movie fragments (ISO/IEC 14496-12, 8.6 to 8.8).

use std::iter::repeat_n;

use mp4_atom::{Co64, Ctts, Stco, Stsc, Stss, Stsz, StszSamples, Stts, Tfdt, Tfhd, Trun};

use super::Broken;
use super::boxes::{Boxes, Defaults, one_based, take_u32};

/// Most samples of a track: 19 hours at 30 frames a second, some 60 MB of tables.
pub(super) const MAX_SAMPLES: usize = 1 << 21;

/// A coded sample. Times are ticks of the track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) offset: u64,
    pub(super) n_bytes: u32,
    /// Which entry of the sample description table describes it.
    pub(super) description_idx: u16,
    /// Decoding can start here.
    pub(super) is_sync: bool,
    pub(super) dts: i64,
    pub(super) pts: i64,
}

/// The samples of a track, in decoding order.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) list: Vec<Sample>,
    /// When decoding of the last one ends.
    pub(super) end_dts: i64,
    /// Samples that are listed and have no place in the file.
    pub(super) n_unplaced: u64,
}

fn too_many(n_samples: usize) -> Broken {
    Broken::new("sample table", format!("at most {MAX_SAMPLES} samples"), format!("{n_samples} or more"))
}

fn missing(kind: &'static str) -> Broken {
    Broken::new("sample table", format!("a readable {kind} box"), "none".to_owned())
}

/// Reads a sample table.
pub(super) fn from_table(stbl: &[u8]) -> Result<Samples, Broken> {
    let stbl = Boxes(stbl);
    let sizes = sizes(stbl)?;
    let n_samples = sizes.len();
    if n_samples == 0 {
        return Ok(Samples::default());
    }
    if n_samples > MAX_SAMPLES {
        return Err(too_many(n_samples));
    }
    let stts: Stts = stbl.read().ok_or_else(|| missing("stts"))?;
    let stsc: Stsc = stbl.read().ok_or_else(|| missing("stsc"))?;
    let chunk_offsets: Vec<u64> = match (stbl.read::<Co64>(), stbl.read::<Stco>()) {
        (Some(co64), _) => co64.entries,
        (None, Some(stco)) => stco.entries.into_iter().map(u64::from).collect(),
        (None, None) => return Err(missing("stco or co64")),
    };
    let ctts: Option<Ctts> = stbl.read();
    let stss: Option<Stss> = stbl.read();

    // a negative step is written by some muxers and means nothing that can be used
    let step = |delta: u32| i64::from(if i32::try_from(delta).is_ok() { delta } else { 1 });
    let last_step = stts.entries.last().map_or(0, |entry| step(entry.sample_delta));
    let mut steps = stts.entries.iter().flat_map(|e| repeat_n(step(e.sample_delta), e.sample_count as usize));
    let mut shifts = ctts.iter().flat_map(|ctts| {
        // version 0 is unsigned in the standard, and written signed all the same
        let signed = |shift: i64| if shift > i64::from(i32::MAX) { shift - (1 << 32) } else { shift };
        ctts.entries.iter().flat_map(move |e| repeat_n(signed(e.sample_offset), e.sample_count as usize))
    });
    let mut sync_samples = stss.as_ref().map(|stss| stss.entries.iter().map(|&n| one_based(n)).peekable());

    let mut samples = Vec::with_capacity(n_samples);
    let mut dts = 0i64;
    let mut runs = stsc.entries.iter().peekable();
    let mut run = None;
    for (chunk_idx, &chunk_offset) in chunk_offsets.iter().enumerate() {
        while let Some(next) = runs.next_if(|next| one_based(next.first_chunk) <= chunk_idx) {
            run = Some(next);
        }
        let Some(run) = run else { continue };
        let mut offset = chunk_offset;
        for _ in 0..run.samples_per_chunk {
            let sample_idx = samples.len();
            let Some(n_bytes) = sizes.get(sample_idx) else { break };
            let is_sync = match &mut sync_samples {
                None => true,
                Some(numbers) => {
                    while numbers.next_if(|&idx| idx < sample_idx).is_some() {}
                    numbers.next_if_eq(&sample_idx).is_some()
                }
            };
            samples.push(Sample {
                offset,
                n_bytes,
                description_idx: u16::try_from(one_based(run.sample_description_index)).unwrap_or(u16::MAX),
                is_sync,
                dts,
                pts: dts.saturating_add(shifts.next().unwrap_or(0)),
            });
            offset = offset.saturating_add(n_bytes.into());
            dts = dts.saturating_add(steps.next().unwrap_or(last_step));
        }
        if samples.len() == n_samples {
            break;
        }
    }
    let n_unplaced = (n_samples - samples.len()) as u64;
    Ok(Samples { list: samples, end_dts: dts, n_unplaced })
}

enum Sizes {
    Same { n_samples: usize, n_bytes: u32 },
    Each(Vec<u32>),
}

impl Sizes {
    fn len(&self) -> usize {
        match self {
            Sizes::Same { n_samples, .. } => *n_samples,
            Sizes::Each(sizes) => sizes.len(),
        }
    }

    fn get(&self, sample_idx: usize) -> Option<u32> {
        match self {
            Sizes::Same { n_samples, n_bytes } => (sample_idx < *n_samples).then_some(*n_bytes),
            Sizes::Each(sizes) => sizes.get(sample_idx).copied(),
        }
    }
}

fn sizes(stbl: Boxes<'_>) -> Result<Sizes, Broken> {
    if let Some(stsz) = stbl.read::<Stsz>() {
        return Ok(match stsz.samples {
            StszSamples::Identical { count, size } => {
                Sizes::Same { n_samples: count as usize, n_bytes: size }
            }
            StszSamples::Different { sizes } => Sizes::Each(sizes),
        });
    }
    stbl.find(b"stz2").and_then(compact_sizes).map(Sizes::Each).ok_or_else(|| missing("stsz or stz2"))
}

/// Reads a CompactSampleSizeBox (8.7.3.3): sizes of 4, 8 or 16 bits.
fn compact_sizes(mut stz2: &[u8]) -> Option<Vec<u32>> {
    take_u32(&mut stz2)?; // version and flags
    let n_bits = take_u32(&mut stz2)? & 0xFF;
    let n_samples = take_u32(&mut stz2)? as usize;
    let byte = |idx: usize| stz2.get(idx).map(|&byte| u32::from(byte));
    let size = |idx: usize| match n_bits {
        4 => byte(idx / 2).map(|pair| if idx.is_multiple_of(2) { pair >> 4 } else { pair & 0xF }),
        8 => byte(idx),
        16 => Some(byte(idx * 2)? << 8 | byte(idx * 2 + 1)?),
        _ => None,
    };
    // what isn't there can't be reserved: the box is at most a movie header long
    (0..n_samples).map(size).collect()
}

/// Puts the samples of movie fragments behind one another.
pub(super) struct Fragments {
    track_id: u32,
    defaults: Defaults,
    samples: Samples,
}

impl Fragments {
    /// Continues `samples`, those of the movie header itself.
    pub(super) fn new(track_id: u32, defaults: Defaults, samples: Samples) -> Self {
        Fragments { track_id, defaults, samples }
    }

    /// All samples.
    pub(super) fn into_samples(self) -> Samples {
        self.samples
    }

    /// Appends the samples of one fragment: `moof` is its payload, `moof_start` where its header starts.
    pub(super) fn append(&mut self, moof: &[u8], moof_start: u64) -> Result<(), Broken> {
        // where the track fragment before ended; the next one continues there unless it says otherwise
        let mut data_end = moof_start;
        for (_, traf) in Boxes(moof).filter(|(kind, _)| kind == b"traf") {
            let traf = Boxes(traf);
            let Some(tfhd) = traf.read::<Tfhd>() else { continue };
            let base = match tfhd.base_data_offset {
                Some(offset) => offset,
                None if tfhd.default_base_is_moof => moof_start,
                None => data_end,
            };
            data_end = base;
            if tfhd.track_id == self.track_id {
                if let Some(tfdt) = traf.read::<Tfdt>() {
                    self.samples.end_dts = i64::try_from(tfdt.base_media_decode_time).unwrap_or(i64::MAX);
                }
                for trun in traf.read_all::<Trun>() {
                    data_end = self.append_run(&tfhd, &trun, base, data_end)?;
                }
            } else {
                for trun in traf.read_all::<Trun>() {
                    data_end = run_start(&trun, base, data_end).saturating_add(n_run_bytes(&tfhd, &trun));
                }
            }
        }
        Ok(())
    }

    fn append_run(&mut self, tfhd: &Tfhd, trun: &Trun, base: u64, data_end: u64) -> Result<u64, Broken> {
        let n_bytes_default = tfhd.default_sample_size.unwrap_or(self.defaults.n_bytes);
        let n_ticks_default = tfhd.default_sample_duration.unwrap_or(self.defaults.n_ticks);
        let flags_default = tfhd.default_sample_flags.unwrap_or(self.defaults.flags);
        let description_idx = tfhd.sample_description_index.map_or(self.defaults.description_idx, one_based);
        if self.samples.list.len() + trun.samples.len() > MAX_SAMPLES {
            return Err(too_many(self.samples.list.len() + trun.samples.len()));
        }
        let mut offset = run_start(trun, base, data_end);
        for entry in &trun.samples {
            let n_bytes = entry.size.unwrap_or(n_bytes_default);
            let flags = entry.flags.unwrap_or(flags_default);
            self.samples.list.push(Sample {
                offset,
                n_bytes,
                description_idx: u16::try_from(description_idx).unwrap_or(u16::MAX),
                is_sync: flags & NON_SYNC == 0,
                dts: self.samples.end_dts,
                pts: self.samples.end_dts.saturating_add(entry.cts.unwrap_or(0)),
            });
            offset = offset.saturating_add(n_bytes.into());
            self.samples.end_dts =
                self.samples.end_dts.saturating_add(entry.duration.unwrap_or(n_ticks_default).into());
        }
        Ok(offset)
    }
}

/// `sample_is_non_sync_sample` of a sample's flags (8.8.3.1).
const NON_SYNC: u32 = 1 << 16;

fn run_start(trun: &Trun, base: u64, data_end: u64) -> u64 {
    trun.data_offset.map_or(data_end, |offset| base.saturating_add_signed(offset.into()))
}

fn n_run_bytes(tfhd: &Tfhd, trun: &Trun) -> u64 {
    let n_bytes_default = u64::from(tfhd.default_sample_size.unwrap_or(0));
    match &trun.samples {
        mp4_atom::TrunSamples::Inherited { count, .. } => n_bytes_default.saturating_mul((*count).into()),
        mp4_atom::TrunSamples::Explicit(entries) => {
            entries.iter().map(|entry| entry.size.map_or(n_bytes_default, u64::from)).sum()
        }
    }
}
