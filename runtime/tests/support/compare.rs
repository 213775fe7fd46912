//! How far two arrays of 8-bit samples are apart.

/// Largest difference and PSNR in dB (infinite where they are equal).
pub(crate) fn distance(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len(), "arrays of different length");
    assert!(!a.is_empty(), "nothing to compare");
    let max = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
    (max, 10.0 * (255.0 * 255.0 * a.len() as f64 / squares).log10())
}
