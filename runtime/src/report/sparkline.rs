//! Scores as a line of block characters.

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One block character per score, 0..=1 on a fixed scale; `?` for a score that isn't finite.
///
/// The scale never stretches to the scores, so two faces' lines can be compared.
pub fn sparkline(scores: &[f32]) -> String {
    scores.iter().map(|&score| block(score)).collect()
}

fn block(score: f32) -> char {
    if !score.is_finite() {
        return '?';
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=8 after the clamp")]
    let step = (score.clamp(0.0, 1.0) * 8.0) as usize;
    BLOCKS[step.min(7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_is_fixed_and_total() {
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&[0.5, 0.5]), "▅▅");
        assert_eq!(sparkline(&[0.0, 0.13, 0.26, 0.38, 0.51, 0.63, 0.76, 0.88, 1.0]), "▁▂▃▄▅▆▇██");
        assert_eq!(sparkline(&[-3.0, 7.0, f32::NAN, f32::INFINITY]), "▁█??");
    }
}
