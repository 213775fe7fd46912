//! The box structure of ISO/IEC 14496-12 and QuickTime: where boxes are, and what the movie header says of its
//! tracks. Each box is read on its own, so a broken one that isn't needed (another track's, a camera's own)
//! takes nothing down.

use std::io::{self, Read, Seek, SeekFrom};

use mp4_atom::{Atom, Buf, Colr, Decode, Elst, Mdhd, Mvhd, Pasp, Tkhd, Trex, Visual};

use super::Broken;
use crate::frame::Rotation;
use crate::source::h264::Color;

/// A four-character code.
pub(super) type Kind = [u8; 4];

/// Most bytes of a movie header or a movie fragment: about 100 hours of video at 30 frames a second.
pub(super) const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most boxes at the file's top level: an hour of fragments of 10 ms.
const MAX_TOP_BOXES: usize = 1 << 20;

/// A box at the top level of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopBox {
    pub(super) kind: Kind,
    /// Where its header starts.
    pub(super) start: u64,
    /// Where its payload starts.
    pub(super) payload_start: u64,
    /// Where it ends by its own account, at most [`i64::MAX`].
    pub(super) end: u64,
}

/// Finds the boxes at the top level. The last one may end behind `n_file_bytes`.
pub(super) fn top_boxes(reader: &mut (impl Read + Seek), n_file_bytes: u64) -> io::Result<Vec<TopBox>> {
    let mut boxes = Vec::new();
    let mut start = 0;
    while n_file_bytes.saturating_sub(start) >= 8 && boxes.len() < MAX_TOP_BOXES {
        reader.seek(SeekFrom::Start(start))?;
        let mut header = [0; 16];
        let n_header_bytes = 16.min(n_file_bytes - start);
        reader
            .by_ref()
            .take(n_header_bytes)
            .read_exact(&mut header[..if n_header_bytes < 16 { 8 } else { 16 }])?;
        let word = |at: usize| {
            u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
        };
        let (n_bytes, payload_start) = match word(0) {
            0 => (n_file_bytes - start, start + 8),
            1 if n_header_bytes == 16 => (word(8) << 32 | word(12), start + 16),
            n_bytes => (n_bytes, start + 8),
        };
        let end = start.saturating_add(n_bytes).min(i64::MAX.unsigned_abs());
        if end < payload_start {
            break;
        }
        boxes.push(TopBox { kind: [header[4], header[5], header[6], header[7]], start, payload_start, end });
        start = end;
    }
    Ok(boxes)
}

/// The boxes inside a payload, as kind and payload. Ends at the first that doesn't fit: what follows the last
/// box is padding in QuickTime and damage elsewhere.
#[derive(Clone, Copy)]
pub(super) struct Boxes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = (Kind, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (size, rest) = self.0.split_first_chunk::<4>()?;
        let (&kind, rest) = rest.split_first_chunk::<4>()?;
        let (n_payload_bytes, rest) = match u32::from_be_bytes(*size) {
            0 => (rest.len(), rest),
            1 => {
                let (size, rest) = rest.split_first_chunk::<8>()?;
                (usize::try_from(u64::from_be_bytes(*size).checked_sub(16)?).ok()?, rest)
            }
            size => (usize::try_from(size.checked_sub(8)?).ok()?, rest),
        };
        let payload = rest.get(..n_payload_bytes)?;
        self.0 = &rest[n_payload_bytes..];
        Some((kind, payload))
    }
}

impl<'a> Boxes<'a> {
    /// The payload of the first box of `kind`.
    pub(super) fn find(mut self, kind: &Kind) -> Option<&'a [u8]> {
        self.find_map(|(found, payload)| (found == *kind).then_some(payload))
    }

    /// The first box of type `T`; `None` when there is none or it is broken.
    pub(super) fn read<T: Atom>(self) -> Option<T> {
        read_payload(self.find(T::KIND.as_ref())?)
    }

    /// Every readable box of type `T`.
    pub(super) fn read_all<T: Atom>(self) -> impl Iterator<Item = T> + use<'a, T> {
        self.filter(|(kind, _)| kind == T::KIND.as_ref()).filter_map(|(_, payload)| read_payload(payload))
    }
}

fn read_payload<T: Atom>(mut payload: &[u8]) -> Option<T> {
    T::decode_body(&mut payload).ok()
}

/// One entry of the sample description table (`stsd`).
pub(super) struct SampleEntry {
    /// The codec's four-character code.
    pub(super) codec: Kind,
    /// Stored size; 0 by 0 where the entry is too short to say.
    pub(super) size_px: (u32, u32),
    /// AVCDecoderConfigurationRecord, for H.264.
    pub(super) avcc: Option<Vec<u8>>,
    pub(super) color: Color,
    /// Width of a pixel over its height, as two whole numbers.
    pub(super) pixel_aspect: Option<(u32, u32)>,
}

/// An edit: a part of the presentation, in ticks of the track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) n_ticks: i64,
    /// Where it starts in the track; `None` when it shows nothing.
    pub(super) media_start: Option<i64>,
}

/// What a fragment's samples have where the fragment itself doesn't say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    pub(super) description_idx: usize,
    pub(super) n_ticks: u32,
    pub(super) n_bytes: u32,
    pub(super) flags: u32,
}

/// A video track of a movie header.
pub(super) struct Track<'a> {
    pub(super) track_id: u32,
    pub(super) ticks_hz: u32,
    pub(super) rotation: Rotation,
    pub(super) entries: Vec<SampleEntry>,
    pub(super) edits: Vec<Edit>,
    /// Payload of the sample table.
    pub(super) stbl: &'a [u8],
    /// Present when the movie may have fragments.
    pub(super) defaults: Option<Defaults>,
}

/// Reads the video tracks of a movie header's payload, in the file's order. Tracks without what it takes to
/// read a sample are left out.
pub(super) fn video_tracks(moov: &[u8]) -> Result<Vec<Track<'_>>, Broken> {
    let boxes = Boxes(moov);
    let mvhd: Option<Mvhd> = boxes.read();
    let defaults: Vec<Trex> =
        boxes.find(b"mvex").map(|mvex| Boxes(mvex).read_all().collect()).unwrap_or_default();
    let mut n_tracks = 0;
    let mut tracks = Vec::new();
    for (_, trak) in boxes.filter(|(kind, _)| kind == b"trak") {
        n_tracks += 1;
        let Some(track) = video_track(trak, mvhd.as_ref(), &defaults) else { continue };
        tracks.push(track);
    }
    if tracks.is_empty() {
        return Err(Broken::new(
            "movie header",
            "a video track",
            format!("{n_tracks} tracks and no readable video"),
        ));
    }
    Ok(tracks)
}

fn video_track<'a>(trak: &'a [u8], mvhd: Option<&Mvhd>, defaults: &[Trex]) -> Option<Track<'a>> {
    let trak = Boxes(trak);
    let mdia = Boxes(trak.find(b"mdia")?);
    // version and flags, component type, then the handler's kind
    if mdia.find(b"hdlr")?.get(8..12)? != b"vide" {
        return None;
    }
    let tkhd: Tkhd = trak.read()?;
    let mdhd: Mdhd = mdia.read()?;
    let stbl = Boxes(mdia.find(b"minf")?).find(b"stbl")?;
    let entries = sample_entries(Boxes(stbl).find(b"stsd")?);
    let ticks_hz = mdhd.timescale;
    if ticks_hz == 0 || entries.is_empty() {
        return None;
    }
    let elst: Option<Elst> = trak.find(b"edts").and_then(|edts| Boxes(edts).read());
    let movie_hz = mvhd.map(|mvhd| mvhd.timescale).filter(|&hz| hz > 0);
    let edits = match (elst, movie_hz) {
        (Some(elst), Some(movie_hz)) => edits(&elst, ticks_hz, movie_hz),
        _ => Vec::new(),
    };
    let defaults = defaults.iter().find(|trex| trex.track_id == tkhd.track_id).map(|trex| Defaults {
        description_idx: one_based(trex.default_sample_description_index),
        n_ticks: trex.default_sample_duration,
        n_bytes: trex.default_sample_size,
        flags: trex.default_sample_flags,
    });
    let rotation = rotation(&tkhd, mvhd);
    Some(Track { track_id: tkhd.track_id, ticks_hz, rotation, entries, edits, stbl, defaults })
}

/// Index of the entry that a file numbers from 1; 0 for a file that numbers from 0 against the standard.
pub(super) fn one_based(number: u32) -> usize {
    number.saturating_sub(1) as usize
}

fn edits(elst: &Elst, ticks_hz: u32, movie_hz: u32) -> Vec<Edit> {
    let to_ticks = |duration: u64| {
        let (hz, movie_hz) = (u128::from(ticks_hz), u128::from(movie_hz));
        i64::try_from((u128::from(duration) * hz + movie_hz / 2) / movie_hz).unwrap_or(i64::MAX)
    };
    let edit = |entry: &mp4_atom::ElstEntry| Edit {
        n_ticks: to_ticks(entry.segment_duration),
        media_start: entry.media_time.map(|ticks| i64::try_from(ticks).unwrap_or(i64::MAX)),
    };
    elst.entries.iter().map(edit).collect()
}

/// The turn in the track's matrix, after the movie's, to the nearest right angle. Mirroring is left as it is.
fn rotation(tkhd: &Tkhd, mvhd: Option<&Mvhd>) -> Rotation {
    let (track, movie) = (&tkhd.matrix, mvhd.map(|mvhd| &mvhd.matrix));
    let (ma, mb, mc, md) = movie.map_or((1 << 16, 0, 0, 1 << 16), |m| (m.a, m.b, m.c, m.d));
    // where the picture's x axis points on the screen, y down
    let product = |p: i32, q: i32| i128::from(p) * i128::from(q);
    let x = product(track.a, ma) + product(track.b, mc);
    let y = product(track.a, mb) + product(track.b, md);
    if x.abs() >= y.abs() {
        if x < 0 { Rotation::Cw180 } else { Rotation::None }
    } else if y > 0 {
        Rotation::Cw90
    } else {
        Rotation::Cw270
    }
}

fn sample_entries(stsd: &[u8]) -> Vec<SampleEntry> {
    // version and flags, number of entries
    let Some(entries) = stsd.get(8..) else { return Vec::new() };
    Boxes(entries).map(|(codec, payload)| sample_entry(codec, payload)).collect()
}

fn sample_entry(codec: Kind, payload: &[u8]) -> SampleEntry {
    let mut rest = payload;
    let visual = Visual::decode(&mut rest).ok();
    let boxes = Boxes(if visual.is_some() { rest } else { &[] });
    let pasp: Option<Pasp> = boxes.read();
    let color = match boxes.read() {
        Some(Colr::Nclx { matrix_coefficients, full_range_flag, .. }) => {
            Color::from_codes(matrix_coefficients, full_range_flag)
        }
        Some(Colr::Nclc { matrix_coefficients, .. }) => Color::from_codes(matrix_coefficients, false),
        _ => Color::default(),
    };
    SampleEntry {
        codec,
        size_px: visual.map_or((0, 0), |visual| (visual.width.into(), visual.height.into())),
        avcc: boxes.find(b"avcC").map(<[u8]>::to_vec),
        color,
        pixel_aspect: pasp.map(|pasp| (pasp.h_spacing, pasp.v_spacing)),
    }
}

/// Reads the next big-endian number of `payload`.
pub(super) fn take_u32(payload: &mut &[u8]) -> Option<u32> {
    (payload.remaining() >= 4).then(|| u32::decode(payload).ok()).flatten()
}
