//! H.264 access units as MP4 wants them (ITU-T H.264; ISO/IEC 14496-15).

/// NAL unit type of a slice of an IDR picture (H.264, table 7-1).
pub(crate) const IDR_SLICE: u8 = 5;
/// NAL unit type of a sequence parameter set.
pub(crate) const SPS: u8 = 7;
/// NAL unit type of a picture parameter set.
pub(crate) const PPS: u8 = 8;

/// The NAL units of a byte stream with start codes (H.264, annex B), start codes and padding left out.
pub(crate) fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream);
    std::iter::from_fn(move || {
        let unit = rest?;
        let end = start_code(unit);
        rest = end.map(|at| &unit[at + 3..]);
        let unit = &unit[..end.unwrap_or(unit.len())];
        let n_padding = unit.iter().rev().take_while(|&&byte| byte == 0).count();
        Some(&unit[..unit.len() - n_padding])
    })
    .filter(|unit| !unit.is_empty())
}

/// The type of a NAL unit that is not empty.
pub(crate) fn nal_type(unit: &[u8]) -> u8 {
    unit[0] & 0x1f
}

fn start_code(bytes: &[u8]) -> Option<usize> {
    bytes.windows(3).position(|w| w == [0, 0, 1])
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    start_code(bytes).map(|at| &bytes[at + 3..])
}

/// `sps` with video usability information added: BT.709 at limited range, chroma sited between its
/// four pixels, and no picture reordered, so that a player shows each one as soon as it is decoded.
///
/// `sps` is a NAL unit with its header whose last field, `vui_parameters_present_flag`, is 0
/// (H.264, 7.3.2.1.1); `None` when it can't be.
pub(crate) fn with_usability(sps: &[u8]) -> Option<Vec<u8>> {
    let mut bits = unescaped_bits(sps);
    while bits.pop()? == 0 {} // the stop bit and the zeros after it
    if bits.pop()? != 0 {
        return None;
    }
    let mut bits = BitString(bits);
    bits.fixed(1, 1); // vui_parameters_present_flag
    bits.fixed(0, 2); // aspect_ratio_info_present_flag, overscan_info_present_flag
    bits.fixed(1, 1); // video_signal_type_present_flag
    bits.fixed(5, 3); // video_format: unspecified
    bits.fixed(0, 1); // video_full_range_flag
    bits.fixed(1, 1); // colour_description_present_flag
    for _ in 0..3 {
        bits.fixed(1, 8); // primaries, transfer, matrix: BT.709
    }
    bits.fixed(1, 1); // chroma_loc_info_present_flag
    bits.exp_golomb(1); // top field: centred
    bits.exp_golomb(1); // bottom field
    bits.fixed(0, 4); // no timing, no HRD twice, no picture structure
    bits.fixed(1, 1); // bitstream_restriction_flag
    bits.fixed(1, 1); // motion_vectors_over_pic_boundaries_flag
    for limit in [0, 0, 15, 15] {
        bits.exp_golomb(limit); // bytes per picture, bits per macroblock, vector lengths: not limited
    }
    bits.exp_golomb(0); // max_num_reorder_frames
    bits.exp_golomb(1); // max_dec_frame_buffering
    bits.fixed(1, 1); // stop bit
    Some(escaped_bytes(&bits.0))
}

/// Bits, one a byte, most significant first.
struct BitString(Vec<u8>);

impl BitString {
    fn fixed(&mut self, value: u32, n_bits: u32) {
        self.0.extend((0..n_bits).rev().map(|i| u8::from(value >> i & 1 == 1)));
    }

    /// Unsigned Exp-Golomb code (H.264, 9.1).
    fn exp_golomb(&mut self, value: u32) {
        let code = value + 1;
        let n_bits = 32 - code.leading_zeros();
        self.fixed(0, n_bits - 1);
        self.fixed(code, n_bits);
    }
}

/// The bits of a NAL unit without its emulation prevention bytes.
fn unescaped_bits(unit: &[u8]) -> Vec<u8> {
    let mut bits = BitString(Vec::with_capacity(unit.len() * 8));
    let mut n_zeros = 0;
    for &byte in unit {
        if n_zeros >= 2 && byte == 3 {
            n_zeros = 0;
            continue;
        }
        n_zeros = if byte == 0 { n_zeros + 1 } else { 0 };
        bits.fixed(u32::from(byte), 8);
    }
    bits.0
}

/// The bits as bytes, the last filled with zeros, with emulation prevention (H.264, 7.4.1).
fn escaped_bytes(bits: &[u8]) -> Vec<u8> {
    let mut unit = Vec::with_capacity(bits.len() / 8 + 4);
    let mut n_zeros = 0;
    for chunk in bits.chunks(8) {
        let byte = chunk.iter().zip((0..8).rev()).fold(0, |byte, (&bit, shift)| byte | bit << shift);
        if n_zeros == 2 && byte <= 3 {
            unit.push(3);
            n_zeros = 0;
        }
        n_zeros = if byte == 0 { n_zeros + 1 } else { 0 };
        unit.push(byte);
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nal_units_of_both_start_codes() {
        let stream = [9, 0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 0, 0, 3, 1, 0, 0, 1];
        let units: Vec<_> = nal_units(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x65, 0, 0, 3, 1]]);
        assert_eq!(units.iter().map(|u| nal_type(u)).collect::<Vec<_>>(), [SPS, PPS, IDR_SLICE]);
        assert_eq!(nal_units(&[1, 2, 3]).count(), 0);
        assert_eq!(nal_units(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn escaping_round_trips() {
        let unit = [0x67, 0, 0, 3, 0, 0, 3, 1, 0, 0, 3, 3, 0x80];
        assert_eq!(escaped_bytes(&unescaped_bits(&unit)), unit);
    }

    #[test]
    fn usability_refuses_what_has_some() {
        assert_eq!(with_usability(&[]), None);
        assert_eq!(with_usability(&[0, 0]), None);
        assert_eq!(with_usability(&[0x67, 0b1100_0000]), None);
    }
}
