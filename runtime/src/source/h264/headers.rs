//! The few header fields of H.264 that tell one picture from the next and show a lost reference
//! (ITU-T H.264, 7.3.2.1.1, 7.3.2.2 and 7.3.3). The decoder crate reads them too and keeps them to itself.

use rust_h264::nal::{NalUnit, NalUnitType};

/// Most sequence parameter sets that a stream may hold (7.4.2.1.1).
const MAX_SPS: u32 = 32;
/// Most picture parameter sets that a stream may hold (7.4.2.2).
const MAX_PPS: u32 = 256;

/// Reads a payload bit by bit, first bit first.
struct Bits<'a> {
    bytes: &'a [u8],
    bit_idx: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Bits { bytes, bit_idx: 0 }
    }

    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.bit_idx / 8)?;
        let bit = byte >> (7 - self.bit_idx % 8) & 1;
        self.bit_idx += 1;
        Some(bit == 1)
    }

    /// The next `n_bits`, at most 32.
    fn uint(&mut self, n_bits: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..n_bits {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }

    /// Unsigned Exp-Golomb code, ue(v).
    fn ue(&mut self) -> Option<u32> {
        let mut n_zeros = 0;
        while !self.bit()? {
            n_zeros += 1;
            if n_zeros > 31 {
                return None;
            }
        }
        Some(((1u32 << n_zeros) - 1).wrapping_add(self.uint(n_zeros)?))
    }

    /// Signed Exp-Golomb code, se(v).
    fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 })
    }
}

/// Sequence parameter set: what a slice header can't be read without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sps {
    pub(super) sps_id: u32,
    has_separate_planes: bool,
    n_frame_num_bits: u32,
    /// The encoder may leave out frame numbers on purpose.
    pub(super) allows_frame_num_gaps: bool,
    is_progressive: bool,
}

impl Sps {
    /// Reads the payload of a sequence parameter set; `None` when it is cut short or out of range.
    pub(super) fn parse(rbsp: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(rbsp);
        let profile_idc = bits.uint(8)?;
        bits.uint(16)?; // constraint flags, level
        let sps_id = bits.ue().filter(|&id| id < MAX_SPS)?;
        let mut has_separate_planes = false;
        if matches!(profile_idc, 44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244) {
            let chroma_format = bits.ue()?;
            if chroma_format == 3 {
                has_separate_planes = bits.bit()?;
            }
            bits.ue()?; // luma depth
            bits.ue()?; // chroma depth
            bits.bit()?; // transform bypass
            if bits.bit()? {
                for list_idx in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.bit()? {
                        skip_scaling_list(&mut bits, if list_idx < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let n_frame_num_bits = bits.ue().filter(|&n| n <= 12)? + 4;
        match bits.ue()? {
            0 => {
                bits.ue()?;
            }
            1 => {
                bits.bit()?;
                bits.se()?;
                bits.se()?;
                for _ in 0..bits.ue().filter(|&n| n <= 255)? {
                    bits.se()?;
                }
            }
            _ => {}
        }
        bits.ue()?; // reference frames
        let allows_frame_num_gaps = bits.bit()?;
        bits.ue()?; // width
        bits.ue()?; // height
        let is_progressive = bits.bit()?;
        Some(Sps { sps_id, has_separate_planes, n_frame_num_bits, allows_frame_num_gaps, is_progressive })
    }

    /// One more than the highest frame number.
    pub(super) fn frame_num_end(&self) -> u32 {
        1 << self.n_frame_num_bits
    }
}

fn skip_scaling_list(bits: &mut Bits<'_>, n_entries: usize) -> Option<()> {
    let mut last = 8i64;
    for _ in 0..n_entries {
        last = (last + bits.se()?).rem_euclid(256);
        if last == 0 {
            break; // the rest repeats and isn't coded
        }
    }
    Some(())
}

/// Ids of a picture parameter set: its own, and its sequence parameter set's.
pub(super) fn pps_ids(rbsp: &[u8]) -> Option<(u32, u32)> {
    let mut bits = Bits::new(rbsp);
    Some((bits.ue().filter(|&id| id < MAX_PPS)?, bits.ue().filter(|&id| id < MAX_SPS)?))
}

/// The picture parameter set that a slice names.
pub(super) fn slice_pps_id(rbsp: &[u8]) -> Option<u32> {
    let mut bits = Bits::new(rbsp);
    bits.ue()?;
    bits.ue()?;
    bits.ue()
}

/// Which field of a frame a coded picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Top,
    Bottom,
}

/// The beginning of a slice header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SliceStart {
    /// True for the slice that a picture begins with.
    pub(super) starts_picture: bool,
    pub(super) is_idr: bool,
    pub(super) is_reference: bool,
    pub(super) frame_num: u32,
    /// `None` for a whole frame.
    pub(super) field: Option<Field>,
}

impl SliceStart {
    /// Reads the beginning of a slice; `None` when it is cut short.
    pub(super) fn parse(nal: &NalUnit<'_>, sps: &Sps) -> Option<Self> {
        let mut bits = Bits::new(&nal.rbsp);
        let first_mb = bits.ue()?;
        bits.ue()?; // slice type
        bits.ue()?; // picture parameter set
        if sps.has_separate_planes {
            bits.uint(2)?;
        }
        let frame_num = bits.uint(sps.n_frame_num_bits)?;
        let field = if !sps.is_progressive && bits.bit()? {
            Some(if bits.bit()? { Field::Bottom } else { Field::Top })
        } else {
            None
        };
        Some(SliceStart {
            starts_picture: first_mb == 0,
            is_idr: nal.nal_unit_type == NalUnitType::SliceIdr,
            is_reference: nal.nal_ref_idc != 0,
            frame_num,
            field,
        })
    }

    /// True when `self` is the second field of the frame that `first` began.
    pub(super) fn completes(&self, first: &SliceStart) -> bool {
        matches!((first.field, self.field), (Some(a), Some(b)) if a != b) && self.frame_num == first.frame_num
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_follow_the_table_of_the_standard() {
        // 1, 010, 011, 00100, 00101 and 0001000: codes 0, 1, 2, 3, 4, 7
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_1000]);
        assert_eq!(
            [bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue()].map(Option::unwrap),
            [0, 1, 2, 3, 4, 7]
        );
        // the same codes, signed: 0, 1, -1, 2, -2, 4
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_1000]);
        assert_eq!(
            [bits.se(), bits.se(), bits.se(), bits.se(), bits.se(), bits.se()].map(Option::unwrap),
            [0, 1, -1, 2, -2, 4]
        );
        assert_eq!(Bits::new(&[0; 8]).ue(), None);
        assert_eq!(Bits::new(&[]).ue(), None);
    }

    #[test]
    fn truncated_parameter_sets_are_refused() {
        // Baseline, level 1.0, sps 0, 4-bit frame numbers, order type 2, no references, 1x1 macroblocks
        let rbsp = [66, 0xC0, 10, 0b1101_1100 | 0b11, 0b1111_1000];
        assert!(Sps::parse(&rbsp).is_some());
        for n_bytes in 0..4 {
            assert_eq!(Sps::parse(&rbsp[..n_bytes]), None, "{n_bytes} bytes");
        }
    }
}
