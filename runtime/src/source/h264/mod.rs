//! H.264 access units in, pictures out, in decoding order.

mod headers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rust_h264::decoder::{ChromaFormat, Decoder, Frame as Decoded};
use rust_h264::error::DecodeError;
use rust_h264::nal::{NalUnit, NalUnitType, SpsInfo, parse_avcc, parse_avcc_config, parse_sps_info};

use self::headers::{SliceStart, Sps, pps_ids, slice_pps_id};
use super::Damage;
use crate::frame::{ColorMatrix, PixelFormat, Plane};

/// Most macroblocks that all reference pictures may take together: level 6.2's DPB (ITU-T H.264, table A-1).
/// It bounds the memory that a few bytes of parameter set can ask for.
const MAX_REFERENCE_MBS: u32 = 696_320;
/// Most macroblocks of one picture, level 6.2's.
const MAX_PICTURE_MBS: u32 = 139_264;

/// A decoded picture and the sample that it came from.
#[derive(Debug)]
pub(super) struct Picture {
    /// The sample that held the picture's first slice.
    pub(super) sample_idx: usize,
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) format: PixelFormat,
    pub(super) planes: Vec<Plane>,
    pub(super) color: Color,
}

/// What a stream says of its colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Color {
    /// `None` when the stream doesn't say.
    pub(super) matrix: Option<ColorMatrix>,
    pub(super) is_full_range: bool,
}

impl Color {
    /// Reads the code points of ITU-T H.273.
    pub(super) fn from_codes(matrix_coefficients: u16, is_full_range: bool) -> Self {
        let matrix = match matrix_coefficients {
            1 => Some(ColorMatrix::Bt709),
            5 | 6 => Some(ColorMatrix::Bt601),
            9 => Some(ColorMatrix::Bt2020),
            _ => None,
        };
        Color { matrix, is_full_range }
    }
}

/// The stream uses a part of its codec that isn't built in; in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported(pub(super) String);

/// A decoder of length-prefixed access units, so that another one can be put beside the built-in one.
pub(super) trait AccessUnitDecoder {
    /// Decodes `unit`, a whole access unit or one field of it, and appends what is ready to `pictures`.
    /// Losses are counted in `damage`. `is_sync` says that decoding can start at this unit.
    ///
    /// # Errors
    /// [`Unsupported`] when nothing of the stream can be decoded.
    fn decode(
        &mut self,
        unit: &[u8],
        sample_idx: usize,
        is_sync: bool,
        damage: &mut Damage,
        pictures: &mut Vec<Picture>,
    ) -> Result<(), Unsupported>;

    /// Says that an access unit is missing here.
    fn skip(&mut self);

    /// The sample whose picture is still being put together.
    fn pending(&self) -> Option<usize>;

    /// Ends the stream: appends the picture that is still being put together.
    fn flush(&mut self, damage: &mut Damage, pictures: &mut Vec<Picture>);
}

/// What an `avcC` record says before anything is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    pub(super) width_px: u32,
    pub(super) height_px: u32,
    pub(super) profile: &'static str,
}

/// [`AccessUnitDecoder`] over the `rust_h264` crate.
pub(super) struct H264Decoder {
    inner: Decoder,
    n_length_bytes: usize,
    /// Raw parameter sets by kind and id, to start again with after a panic.
    parameter_sets: BTreeMap<(bool, u32), Vec<u8>>,
    sps: BTreeMap<u32, (Sps, SpsInfo)>,
    sps_of_pps: BTreeMap<u32, u32>,
    building: Option<Building>,
    last_reference_frame_num: Option<u32>,
    /// A picture that later ones may refer to was lost since the last sync sample.
    lacks_reference: bool,
    /// The inner decoder was replaced and needs a sync sample.
    needs_sync: bool,
    has_decoded: bool,
}

/// The picture whose slices are being fed.
struct Building {
    sample_idx: usize,
    first: SliceStart,
    info: SpsInfo,
    is_whole: bool,
    has_both_fields: bool,
}

impl H264Decoder {
    /// A decoder for the stream that `avcc`, an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3),
    /// describes. `None` for the information where the parameter sets come in the stream itself.
    ///
    /// # Errors
    /// What is wrong with the record, or the feature that isn't built in.
    pub(super) fn new(avcc: &[u8]) -> Result<(Self, Option<StreamInfo>), AvccError> {
        let config = parse_avcc_config(avcc).map_err(AvccError::Malformed)?;
        let mut decoder = H264Decoder {
            inner: Decoder::new(),
            n_length_bytes: config.length_size,
            parameter_sets: BTreeMap::new(),
            sps: BTreeMap::new(),
            sps_of_pps: BTreeMap::new(),
            building: None,
            last_reference_frame_num: None,
            lacks_reference: false,
            needs_sync: false,
            has_decoded: false,
        };
        // some files list other units there, such as a stereo view's parameter sets
        let is_known = |nal: &&NalUnit<'_>| matches!(nal.nal_unit_type, NalUnitType::Sps | NalUnitType::Pps);
        for nal in config.sps_nals.iter().chain(&config.pps_nals).filter(is_known) {
            decoder.take_parameter_set(nal).map_err(AvccError::Malformed)?;
        }
        let info = decoder.sps.values().next().map(|(_, info)| *info);
        if let Some(unsupported) = info.as_ref().and_then(unsupported_feature) {
            return Err(AvccError::Unsupported(unsupported));
        }
        let info = info.map(|info| StreamInfo {
            width_px: info.width,
            height_px: info.height,
            profile: profile_name(info.profile),
        });
        Ok((decoder, info))
    }

    /// Stores a parameter set here and in the inner decoder, if its ids and sizes are within the standard's.
    fn take_parameter_set(&mut self, nal: &NalUnit<'_>) -> Result<(), &'static str> {
        let is_sps = nal.nal_unit_type == NalUnitType::Sps;
        let id = if is_sps {
            let sps = Sps::parse(&nal.rbsp).ok_or("sequence parameter set cut short or out of range")?;
            let info = parse_sps_info(nal).map_err(|_| "sequence parameter set cut short or out of range")?;
            let n_mbs = (info.coded_width / 16).saturating_mul(info.coded_height / 16);
            if n_mbs > MAX_PICTURE_MBS || n_mbs.saturating_mul(info.reference_frames) > MAX_REFERENCE_MBS {
                return Err("picture or its references larger than level 6.2 allows");
            }
            self.sps.insert(sps.sps_id, (sps, info));
            sps.sps_id
        } else {
            let (pps_id, sps_id) =
                pps_ids(&nal.rbsp).ok_or("picture parameter set cut short or out of range")?;
            self.sps_of_pps.insert(pps_id, sps_id);
            pps_id
        };
        self.parameter_sets.insert((is_sps, id), nal.rbsp.to_vec());
        match self.guarded(|inner| inner.decode_nal(nal)) {
            Some(Ok(_)) => Ok(()),
            _ => Err("parameter set that doesn't parse"),
        }
    }

    /// Runs the inner decoder. It is young and reads hostile bytes, so a panic in it costs pictures and not
    /// the program: `None`, and a new decoder waits for the next sync sample.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Decoder) -> T) -> Option<T> {
        let inner = &mut self.inner;
        if let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| run(inner))) {
            return Some(outcome);
        }
        self.inner = Decoder::new();
        self.needs_sync = true;
        for is_sps in [true, false] {
            for (_, rbsp) in self.parameter_sets.range((is_sps, 0)..=(is_sps, u32::MAX)) {
                let nal_unit_type = if is_sps { NalUnitType::Sps } else { NalUnitType::Pps };
                let nal = NalUnit { nal_ref_idc: 1, nal_unit_type, rbsp: rbsp.as_slice().into() };
                let fresh = &mut self.inner;
                // a set that makes it panic again is left out
                let _ = catch_unwind(AssertUnwindSafe(|| fresh.decode_nal(&nal)));
            }
        }
        None
    }

    /// Feeds one slice.
    fn take_slice(
        &mut self,
        nal: &NalUnit<'_>,
        sample_idx: usize,
        damage: &mut Damage,
        pictures: &mut Vec<Picture>,
    ) -> Result<(), Unsupported> {
        let Some((sps, info)) = slice_pps_id(&nal.rbsp)
            .and_then(|pps_id| self.sps_of_pps.get(&pps_id))
            .and_then(|sps_id| self.sps.get(sps_id))
            .copied()
        else {
            damage.note("slice without its parameter sets");
            return Ok(());
        };
        let Some(start) = SliceStart::parse(nal, &sps) else {
            damage.note("slice header cut short");
            return Ok(());
        };
        let is_second_field = start.starts_picture
            && self.building.as_ref().is_some_and(|b| !b.has_both_fields && start.completes(&b.first));
        if start.starts_picture && !is_second_field {
            self.finish(damage, pictures);
            self.check_frame_num(&start, &sps, damage);
        }
        let building = self.building.get_or_insert(Building {
            sample_idx,
            first: start,
            info,
            is_whole: start.starts_picture,
            has_both_fields: false,
        });
        building.has_both_fields |= is_second_field;

        match self.guarded(|inner| inner.decode_nal(nal)) {
            Some(Ok(None)) => {}
            Some(Ok(Some(decoded))) => self.emit(decoded, damage, pictures),
            Some(Err(DecodeError::Unsupported(feature))) if !self.has_decoded => {
                return Err(Unsupported(feature.to_owned()));
            }
            Some(Err(error)) => {
                damage.note(format!("slice that doesn't decode: {error}"));
                if let Some(building) = &mut self.building {
                    building.is_whole = false;
                }
            }
            None => {
                damage.note("slice that the decoder failed on");
                if let Some(building) = &mut self.building {
                    building.is_whole = false;
                }
            }
        }
        Ok(())
    }

    /// A step in frame numbers that the encoder didn't allow means a lost reference (7.4.3). Numbers 0 and
    /// 1 may also follow a reset in the picture before (memory management operation 5), so they pass.
    fn check_frame_num(&mut self, start: &SliceStart, sps: &Sps, damage: &mut Damage) {
        if start.is_idr {
            self.last_reference_frame_num = None;
        }
        if let Some(last) = self.last_reference_frame_num
            && !sps.allows_frame_num_gaps
            && start.frame_num > 1
            && start.frame_num != last
            && start.frame_num != (last + 1) % sps.frame_num_end()
        {
            damage.note("reference frames missing from the stream");
            self.lacks_reference = true;
        }
        if start.is_reference {
            self.last_reference_frame_num = Some(start.frame_num);
        }
    }

    /// Ends the picture that is being put together, if there is one.
    fn finish(&mut self, damage: &mut Damage, pictures: &mut Vec<Picture>) {
        if self.building.is_none() {
            return;
        }
        if let Some(Some(decoded)) = self.guarded(Decoder::flush) {
            self.emit(decoded, damage, pictures);
        }
        if let Some(building) = self.building.take() {
            self.lacks_reference |= building.first.is_reference;
            damage.n_frames_lost += 1;
        }
    }

    /// Hands out the picture that was being put together, or counts it as lost when a part is missing.
    fn emit(&mut self, decoded: Decoded, damage: &mut Damage, pictures: &mut Vec<Picture>) {
        let Some(building) = self.building.take() else { return };
        // a field whose other half never came has half the rows
        if !building.is_whole || decoded.height != building.info.height {
            damage.n_frames_lost += 1;
            self.lacks_reference |= building.first.is_reference;
            return;
        }
        if self.lacks_reference {
            damage.n_frames_lost += 1;
            damage.note("frames predicted from lost ones");
        }
        self.has_decoded = true;
        pictures.push(picture(decoded, &building));
    }
}

impl AccessUnitDecoder for H264Decoder {
    fn decode(
        &mut self,
        unit: &[u8],
        sample_idx: usize,
        is_sync: bool,
        damage: &mut Damage,
        pictures: &mut Vec<Picture>,
    ) -> Result<(), Unsupported> {
        if is_sync {
            self.lacks_reference = false;
            self.needs_sync = false;
        }
        let n_lost_before = damage.n_frames_lost;
        let n_pictures_before = pictures.len();
        for nal in parse_avcc(unit, self.n_length_bytes) {
            match nal.nal_unit_type {
                NalUnitType::Sps | NalUnitType::Pps => {
                    if let Err(what) = self.take_parameter_set(&nal) {
                        damage.note(what);
                    }
                }
                NalUnitType::Slice | NalUnitType::SliceIdr => {
                    if nal.nal_unit_type == NalUnitType::SliceIdr {
                        self.lacks_reference = false;
                        self.needs_sync = false;
                    }
                    if self.needs_sync {
                        continue;
                    }
                    self.take_slice(&nal, sample_idx, damage, pictures)?;
                }
                _ => {}
            }
        }
        let is_cut = n_covered_bytes(unit, self.n_length_bytes) < unit.len();
        if is_cut {
            damage.note("sample that ends inside a NAL unit");
        }
        match &mut self.building {
            Some(building) => {
                building.is_whole &= !is_cut;
                if building.first.field.is_none() || building.has_both_fields {
                    self.finish(damage, pictures);
                }
            }
            // the picture before may have ended here, and says nothing of this one
            None if damage.n_frames_lost == n_lost_before && pictures.len() == n_pictures_before => {
                damage.note("samples that gave no picture");
                damage.n_frames_lost += 1;
                self.lacks_reference = true;
            }
            None => {}
        }
        Ok(())
    }

    fn skip(&mut self) {
        self.lacks_reference = true;
    }

    fn pending(&self) -> Option<usize> {
        self.building.as_ref().map(|building| building.sample_idx)
    }

    fn flush(&mut self, damage: &mut Damage, pictures: &mut Vec<Picture>) {
        self.finish(damage, pictures);
    }
}

/// Why an `avcC` record can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AvccError {
    /// What is wrong with it.
    Malformed(&'static str),
    /// The feature that isn't built in.
    Unsupported(String),
}

/// Bytes of `unit` that whole NAL units with their length prefixes cover.
fn n_covered_bytes(unit: &[u8], n_length_bytes: usize) -> usize {
    let mut n_covered = 0;
    while let Some(prefix) = unit.get(n_covered..n_covered + n_length_bytes) {
        let n_nal_bytes = prefix.iter().fold(0usize, |length, &byte| length << 8 | usize::from(byte));
        match (n_covered + n_length_bytes).checked_add(n_nal_bytes) {
            Some(end) if end <= unit.len() => n_covered = end,
            _ => break,
        }
    }
    n_covered
}

fn unsupported_feature(info: &SpsInfo) -> Option<String> {
    let feature = match info {
        SpsInfo { chroma_format: 3, .. } => "4:4:4 chroma".to_owned(),
        SpsInfo { bit_depth_luma: depth, .. } if !matches!(depth, 8 | 10) => format!("{depth} bits a sample"),
        SpsInfo { chroma_format: 1.., bit_depth_luma, bit_depth_chroma, .. }
            if bit_depth_luma != bit_depth_chroma =>
        {
            format!("{bit_depth_luma} bits of luma with {bit_depth_chroma} of chroma")
        }
        _ => return None,
    };
    Some(format!("{}, {feature}", profile_name(info.profile)))
}

fn profile_name(profile_idc: u8) -> &'static str {
    match profile_idc {
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High 10",
        122 => "High 4:2:2",
        244 => "High 4:4:4 Predictive",
        44 => "CAVLC 4:4:4 Intra",
        _ => "of another profile",
    }
}

/// Takes over the planes, at 8 bits a sample.
fn picture(decoded: Decoded, building: &Building) -> Picture {
    let chroma_width = decoded.chroma_width() as usize;
    let plane = |samples: Vec<u8>, stride_bytes: usize| Plane {
        samples: if decoded.bit_depth > 8 { round_to_8_bits(&samples) } else { samples },
        stride_bytes,
    };
    let luma = plane(decoded.y, decoded.width as usize);
    // the decoder fills up monochrome with grey chroma, at a size that is rounded down
    let (format, planes) = if building.info.chroma_format == 0 {
        (PixelFormat::Gray, vec![luma])
    } else {
        let format = match decoded.chroma_format {
            ChromaFormat::Yuv420 => PixelFormat::I420,
            ChromaFormat::Yuv422 => PixelFormat::I422,
        };
        (format, vec![luma, plane(decoded.u, chroma_width), plane(decoded.v, chroma_width)])
    };
    Picture {
        sample_idx: building.sample_idx,
        width_px: decoded.width,
        height_px: decoded.height,
        format,
        planes,
        color: Color::from_codes(building.info.matrix.into(), building.info.full_range),
    }
}

/// Little-endian 10-bit samples to bytes: (v + 2) / 4, at most 255.
fn round_to_8_bits(samples: &[u8]) -> Vec<u8> {
    let round = |pair: &[u8]| {
        let wide = u16::from_le_bytes([pair[0], pair[1]]);
        u8::try_from((wide + 2) >> 2).unwrap_or(u8::MAX)
    };
    samples.chunks_exact(2).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record without parameter sets: version 1, Baseline 1.0, 4-byte lengths.
    const NO_SETS: [u8; 7] = [1, 66, 0, 10, 0xFF, 0xE0, 0];

    #[test]
    fn ten_bits_are_rounded_and_clipped() {
        let wide: Vec<u8> =
            [0u16, 1, 2, 5, 6, 1019, 1021, 1022, 1023].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(round_to_8_bits(&wide), [0, 0, 1, 1, 2, 255, 255, 255, 255]);
    }

    #[test]
    fn a_unit_that_ends_inside_a_nal_is_noticed() {
        assert_eq!(n_covered_bytes(&[0, 0, 0, 2, 9, 9, 0, 0, 0, 1, 9], 4), 11);
        assert_eq!(n_covered_bytes(&[0, 0, 0, 2, 9, 9, 0, 0, 0, 2, 9], 4), 6);
        assert_eq!(n_covered_bytes(&[0xFF; 4], 4), 0);
        assert_eq!(n_covered_bytes(&[1, 9, 0], 1), 3);
    }

    #[test]
    fn records_of_any_length_are_read_or_refused() {
        for n_bytes in 0..NO_SETS.len() {
            assert!(H264Decoder::new(&NO_SETS[..n_bytes]).is_err(), "{n_bytes} bytes");
        }
        assert!(matches!(H264Decoder::new(&NO_SETS), Ok((_, None))));
    }

    #[test]
    fn a_panic_inside_the_decoder_costs_pictures_only() {
        let (mut decoder, _) = H264Decoder::new(&NO_SETS).unwrap();
        assert_eq!(decoder.guarded(|_| -> () { panic!("meant to be caught") }), None);
        assert!(decoder.needs_sync);
        assert!(matches!(decoder.guarded(Decoder::flush), Some(None)));
    }

    #[test]
    fn a_slice_without_parameter_sets_is_counted() {
        let (mut decoder, _) = H264Decoder::new(&NO_SETS).unwrap();
        let (mut damage, mut pictures) = (Damage::default(), Vec::new());
        let unit = [0, 0, 0, 3, 0x65, 0x88, 0x80];
        decoder.decode(&unit, 0, true, &mut damage, &mut pictures).unwrap();
        decoder.flush(&mut damage, &mut pictures);
        assert!(pictures.is_empty());
        assert_eq!(damage.n_frames_lost, 1, "{damage:?}");
    }
}
