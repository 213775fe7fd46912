//! The quantization tables of a JPEG (ITU-T T.81, B.2.4.1): they tell its encoder and quality, and nothing of a face.

use img_parts::Bytes;
use img_parts::jpeg::{Jpeg, markers};

/// Steps of a table.
pub const N_STEPS: usize = 64;

/// Table 0 and table 1, which encoders use for luma and chroma.
pub type Tables = [Vec<u16>; 2];

/// A file's tables, [`N_STEPS`] each in zigzag order; an empty one where there is none. What is no JPEG, or ends before its
/// picture begins, has none.
pub fn quantization_tables(file: Vec<u8>) -> Tables {
    let mut tables = Tables::default();
    let Ok(jpeg) = Jpeg::from_bytes(Bytes::from(file)) else { return tables };
    for segment in jpeg.segments_by_marker(markers::DQT) {
        let mut rest: &[u8] = segment.contents();
        while let [head, body @ ..] = rest {
            let n_bytes = if head >> 4 == 0 { N_STEPS } else { 2 * N_STEPS };
            let Some((table, next)) = body.split_at_checked(n_bytes) else { break };
            if let Some(steps) = tables.get_mut(usize::from(head & 15)) {
                *steps = match n_bytes {
                    N_STEPS => table.iter().copied().map(u16::from).collect(),
                    _ => table.as_chunks().0.iter().copied().map(u16::from_be_bytes).collect(),
                };
            }
            rest = next;
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use jpeg_encoder::{ColorType, Encoder, QuantizationTableType};

    use super::*;

    fn encoded(tables: [[u16; N_STEPS]; 2]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 100);
        let [luma, chroma] = tables.map(|table| QuantizationTableType::Custom(Box::new(table)));
        encoder.set_quantization_tables(luma, chroma);
        encoder.encode(&[90; 8 * 8 * 3], 8, 8, ColorType::Rgb).unwrap();
        file
    }

    #[test]
    fn an_encoders_tables_are_found() {
        // Encoders are told their tables row by row; the file has them in zigzag order (T.81, figure A.6).
        let luma = std::array::from_fn(|at| u16::try_from(at).unwrap() + 1);
        let [first, second] = quantization_tables(encoded([luma, [7; N_STEPS]]));
        assert_eq!(first[..6], [1, 2, 9, 17, 10, 3]);
        assert_eq!((first.len(), first[63]), (N_STEPS, 64));
        assert_eq!(second, [7; N_STEPS]);
    }

    #[test]
    fn broken_and_other_files_have_none() {
        let whole = encoded([[5; N_STEPS]; 2]);
        let first_table = whole.windows(2).position(|bytes| bytes == [0xff, markers::DQT]).unwrap();
        let half = whole[..first_table + 40].to_vec();
        for file in [Vec::new(), b"\x89PNG\r\n\x1a\n".to_vec(), half] {
            assert_eq!(quantization_tables(file), Tables::default());
        }
        // Table 1 of 16-bit steps, then one that ends before its time.
        let mut file = vec![0xff, 0xd8, 0xff, 0xdb, 0, 2 + 1 + 128 + 3, 0x11];
        file.extend([1, 2].repeat(N_STEPS));
        file.extend([0, 9, 9, 0xff, 0xd9]);
        assert_eq!(quantization_tables(file), [vec![], vec![258; N_STEPS]]);
    }
}
