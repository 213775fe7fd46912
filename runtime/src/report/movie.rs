//! An MP4 file with one H.264 track that is playable however the writing ends.
//!
//! While it is written the file is fragmented (ISO/IEC 14496-12, 8.8): what reached the disk before a
//! kill or a power cut plays. [`Movie::finish`] appends the ordinary sample tables and turns a 16-byte
//! placeholder before the fragments into the header of one `mdat` around them all, so that the finished
//! file is an ordinary MP4 that every player seeks in.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use mp4_atom::{
    Avc1, Avcc, Co64, Codec, Colr, Dinf, DrefEntry, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Mdhd, Mdia, Mfhd,
    Minf, Moof, Moov, Mvex, Mvhd, Stbl, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples, Stts, SttsEntry,
    Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry, TrunSamples, Url, Visual, Vmhd,
};

/// Ticks of a second: whole for milliseconds and for 24, 25, 30, 50 and 60 Hz and their 1000/1001 kin.
pub(crate) const TICKS_HZ: u32 = 360_000;
/// A fragment is written when it has grown to this, or before the next keyframe.
const FRAGMENT_BYTES: usize = 4 << 20;
const TRACK_ID: u32 = 1;
/// Shown for this long when the movie is one frame.
const LONE_FRAME_TICKS: u32 = TICKS_HZ / 25;
/// `sample_is_non_sync_sample`, and depends on others (ISO/IEC 14496-12, 8.8.3.1).
const DELTA_FLAGS: u32 = 0x0101_0000;
/// Depends on no other sample.
const KEY_FLAGS: u32 = 0x0200_0000;

/// What a track says of itself.
pub(crate) struct TrackHeader {
    /// Width to show, in pixels.
    pub(crate) width_px: u16,
    /// Height to show, in pixels.
    pub(crate) height_px: u16,
    /// Sequence parameter set, a NAL unit.
    pub(crate) sps: Vec<u8>,
    /// Picture parameter set, a NAL unit.
    pub(crate) pps: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Sample {
    size_bytes: u32,
    duration_ticks: u32,
    is_key: bool,
}

/// The file being written. Holds one fragment and nine bytes or so per sample in memory.
pub(crate) struct Movie {
    file: File,
    header: TrackHeader,
    /// Where the placeholder stands that becomes the `mdat` header.
    placeholder_at: u64,
    end_at: u64,
    /// Every sample so far; the last one's duration is a guess until the next comes.
    samples: Vec<Sample>,
    /// Samples per written fragment, and where its bytes begin.
    chunks: Vec<(u32, u64)>,
    /// Bytes and first sample of the fragment that is not written yet.
    pending: Vec<u8>,
    pending_from: usize,
    /// Start of the pending fragment and of the last sample, on the track's clock.
    pending_ticks: u64,
    last_ticks: u64,
}

impl Movie {
    /// Starts the movie in `file`, which is empty.
    ///
    /// # Errors
    /// What writing the file gives.
    pub(crate) fn start(file: File, header: TrackHeader) -> io::Result<Self> {
        let mut head = Vec::new();
        let brands: Vec<FourCC> = [b"isom", b"iso5", b"avc1", b"mp41"].into_iter().map(FourCC::new).collect();
        append(&mut head, &Ftyp { major_brand: brands[0], minor_version: 512, compatible_brands: brands })?;
        let placeholder_at = head.len() as u64;
        head.extend_from_slice(b"\0\0\0\x10free\0\0\0\0\0\0\0\0");
        let mut movie = Movie {
            file,
            header,
            placeholder_at,
            end_at: 0,
            samples: Vec::new(),
            chunks: Vec::new(),
            pending: Vec::new(),
            pending_from: 0,
            pending_ticks: 0,
            last_ticks: 0,
        };
        append(&mut head, &movie.tables(0, Stbl { stsd: movie.sample_entry()?, ..Stbl::default() }, true))?;
        movie.write(&head)?;
        Ok(movie)
    }

    /// Adds a frame's slices at `ticks` after the first frame, at least one tick after the one before.
    ///
    /// # Errors
    /// What writing the file gives; everything of earlier fragments stays playable.
    pub(crate) fn push(&mut self, slices: &[&[u8]], is_key: bool, ticks: u64) -> io::Result<()> {
        let ticks = match self.samples.last_mut() {
            Some(last) => {
                let duration = ticks.saturating_sub(self.last_ticks);
                last.duration_ticks = u32::try_from(duration).unwrap_or(u32::MAX).max(1);
                self.last_ticks + u64::from(last.duration_ticks)
            }
            None => 0,
        };
        if !self.pending.is_empty() && (is_key || self.pending.len() >= FRAGMENT_BYTES) {
            self.write_fragment()?;
            self.pending_ticks = ticks;
        }
        let before = self.pending.len();
        for slice in slices {
            self.pending.extend_from_slice(&length_of(slice)?.to_be_bytes());
            self.pending.extend_from_slice(slice);
        }
        let size_bytes = length_of(&self.pending[before..])?;
        let duration_ticks = self.samples.last().map_or(LONE_FRAME_TICKS, |last| last.duration_ticks);
        self.samples.push(Sample { size_bytes, duration_ticks, is_key });
        self.last_ticks = ticks;
        Ok(())
    }

    /// Completes the file; the last frame shows as long as the one before it.
    ///
    /// # Errors
    /// What writing the file gives.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.write_fragment()?;
        let duration = self.samples.last().map_or(0, |last| self.last_ticks + u64::from(last.duration_ticks));
        let mut tail = Vec::new();
        append(&mut tail, &self.tables(duration, self.sample_tables()?, false))?;
        let mdat_bytes = self.end_at - self.placeholder_at;
        self.write(&tail)?;
        // From here on the file is complete either way: one write of 16 bytes changes what it is.
        self.file.sync_all()?;
        self.file.seek(SeekFrom::Start(self.placeholder_at))?;
        let mut mdat = *b"\0\0\0\x01mdat\0\0\0\0\0\0\0\0"; // size 1: the 64-bit size follows the name
        mdat[8..].copy_from_slice(&mdat_bytes.to_be_bytes());
        self.file.write_all(&mdat)?;
        self.file.sync_all()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.end_at += bytes.len() as u64;
        Ok(())
    }

    fn write_fragment(&mut self) -> io::Result<()> {
        let samples = &self.samples[self.pending_from..];
        if samples.is_empty() {
            return Ok(());
        }
        let entry = |s: &Sample| TrunEntry {
            duration: Some(s.duration_ticks),
            size: Some(s.size_bytes),
            flags: Some(if s.is_key { KEY_FLAGS } else { DELTA_FLAGS }),
            cts: None,
        };
        let entries = TrunSamples::Explicit(samples.iter().map(entry).collect());
        let moof = |data_offset| Moof {
            mfhd: Mfhd { sequence_number: u32::try_from(self.chunks.len() + 1).unwrap_or(u32::MAX) },
            traf: vec![Traf {
                tfhd: Tfhd { track_id: TRACK_ID, default_base_is_moof: true, ..Tfhd::default() },
                tfdt: Some(Tfdt { base_media_decode_time: self.pending_ticks }),
                trun: vec![Trun { data_offset: Some(data_offset), samples: entries.clone() }],
                ..Traf::default()
            }],
        };
        let mut head = Vec::new();
        append(&mut head, &moof(0))?;
        // The samples start after this box, whose size the offset doesn't change, and the mdat header.
        let data_offset = i32::try_from(head.len() + 8).map_err(io::Error::other)?;
        head.clear();
        append(&mut head, &moof(data_offset))?;
        let mdat_bytes = u32::try_from(self.pending.len() + 8).map_err(io::Error::other)?;
        head.extend_from_slice(&mdat_bytes.to_be_bytes());
        head.extend_from_slice(b"mdat");

        let n_samples = u32::try_from(samples.len()).map_err(io::Error::other)?;
        self.chunks.push((n_samples, self.end_at + head.len() as u64));
        self.write(&head)?;
        let pending = std::mem::take(&mut self.pending);
        self.write(&pending)?;
        self.pending = pending;
        self.pending.clear();
        self.pending_from = self.samples.len();
        Ok(())
    }

    fn sample_entry(&self) -> io::Result<Stsd> {
        let avc1 = Avc1 {
            visual: Visual {
                data_reference_index: 1,
                width: self.header.width_px,
                height: self.header.height_px,
                ..Visual::default()
            },
            avcc: Avcc::new(&self.header.sps, &self.header.pps).map_err(io::Error::other)?,
            // The same as the sequence parameter set says: BT.709, limited range.
            colr: Some(Colr::new(1, 1, 1, false).map_err(io::Error::other)?),
            ..Avc1::default()
        };
        Ok(Stsd { codecs: vec![Codec::Avc1(avc1)] })
    }

    fn sample_tables(&self) -> io::Result<Stbl> {
        let mut stts = Stts::default();
        for sample in &self.samples {
            match stts.entries.last_mut() {
                Some(run) if run.sample_delta == sample.duration_ticks => run.sample_count += 1,
                _ => stts.entries.push(SttsEntry { sample_count: 1, sample_delta: sample.duration_ticks }),
            }
        }
        let mut stsc = Stsc::default();
        for (&(n_samples, _), chunk) in self.chunks.iter().zip(1..) {
            if stsc.entries.last().is_none_or(|run| run.samples_per_chunk != n_samples) {
                stsc.entries.push(StscEntry {
                    first_chunk: chunk,
                    samples_per_chunk: n_samples,
                    sample_description_index: 1,
                });
            }
        }
        let numbered = self.samples.iter().zip(1..);
        Ok(Stbl {
            stsd: self.sample_entry()?,
            stts,
            stss: Some(Stss {
                entries: numbered.filter(|(s, _)| s.is_key).map(|(_, number)| number).collect(),
            }),
            stsc,
            stsz: Stsz {
                samples: StszSamples::Different {
                    sizes: self.samples.iter().map(|s| s.size_bytes).collect(),
                },
            },
            co64: Some(Co64 { entries: self.chunks.iter().map(|&(_, at)| at).collect() }),
            ..Stbl::default()
        })
    }

    fn tables(&self, duration: u64, stbl: Stbl, is_fragmented: bool) -> Moov {
        let trex = Trex { track_id: TRACK_ID, default_sample_description_index: 1, ..Trex::default() };
        let minf = Minf {
            vmhd: Some(Vmhd::default()),
            dinf: Dinf { dref: mp4_atom::Dref { entries: vec![DrefEntry::Url(Url::default())] } },
            stbl,
            ..Minf::default()
        };
        let trak = Trak {
            tkhd: Tkhd {
                track_id: TRACK_ID,
                duration,
                enabled: true,
                in_movie: true,
                width: FixedPoint::from(self.header.width_px),
                height: FixedPoint::from(self.header.height_px),
                ..Tkhd::default()
            },
            mdia: Mdia {
                mdhd: Mdhd { timescale: TICKS_HZ, duration, language: "und".into(), ..Mdhd::default() },
                hdlr: Hdlr { handler: FourCC::new(b"vide"), name: "candor".into() },
                minf,
            },
            ..Trak::default()
        };
        Moov {
            mvhd: Mvhd {
                timescale: TICKS_HZ,
                duration,
                rate: 1.into(),
                volume: 1.into(),
                next_track_id: TRACK_ID + 1,
                ..Mvhd::default()
            },
            mvex: is_fragmented.then(|| Mvex { mehd: None, trex: vec![trex] }),
            trak: vec![trak],
            ..Moov::default()
        }
    }
}

fn append(bytes: &mut Vec<u8>, atom: &impl Encode) -> io::Result<()> {
    atom.encode(bytes).map_err(io::Error::other)
}

fn length_of(bytes: &[u8]) -> io::Result<u32> {
    u32::try_from(bytes.len()).map_err(io::Error::other)
}
