//! What a face looks like in one frame, in a form small enough to keep and quick to compare.

/// Cells across and down the head.
pub const HEAD_SIDE: usize = 8;
/// Cells across the head and shoulders.
pub const BODY_COLUMNS: usize = 4;
/// Cells down the head and shoulders.
pub const BODY_ROWS: usize = 6;

/// Mean Y', Cb, Cr of a patch of the picture (BT.601, full range, chroma centred on 128).
pub type Cell = [u8; 3];

/// A mosaic of a head, turned upright, and a coarser one of the head, shoulders and what is beside them.
///
/// It tells people apart within one recording: by skin, hair, clothes, light and background. It is no
/// biometric template: it forgets who somebody is as soon as they change their shirt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appearance {
    /// Rows of cells from the crown to the chin, aligned with the face's landmarks.
    pub head: [Cell; HEAD_SIDE * HEAD_SIDE],
    /// Rows of cells from above the head to the chest, aligned with the picture's axes.
    pub body: [Cell; BODY_COLUMNS * BODY_ROWS],
}

/// What a luma step counts, in tenths of a chroma step: light changes more than colour.
const LUMA_TENTHS: u16 = 3;
/// The same where neither mosaic has any colour to speak of.
const GRAY_LUMA_TENTHS: u16 = 10;
/// Mean distance of chroma from grey, below which a mosaic counts as grey.
const GRAY_CHROMA: u32 = 3;
/// Share of the cells that counts, the most alike ones: the others may be a hand, a blink, a tile's edge.
const KEPT_TENTHS: usize = 7;
/// Difference that counts half as much as any difference can, in chroma steps.
const HALF_STEP: f32 = 8.0;
/// The same for the pattern of light and dark, in units of 1 - correlation.
const HALF_PATTERN: f32 = 0.3;
/// Shares of the head's cells, the body's cells and the head's pattern in the distance. These, like
/// the constants above, were chosen by measurement: see `measure_looks` in tests/track.
const SHARES: [f32; 3] = [0.64, 0.24, 0.12];

impl Appearance {
    /// How much two looks differ: 0 for the same picture, below 1 for any.
    pub fn distance(&self, other: &Appearance) -> f32 {
        let luma_tenths = if self.is_gray() && other.is_gray() { GRAY_LUMA_TENTHS } else { LUMA_TENTHS };
        let head = trimmed_difference(&self.head, &other.head, luma_tenths);
        let body = trimmed_difference(&self.body, &other.body, luma_tenths);
        let pattern = 1.0 - correlation(&self.head, &other.head);
        SHARES[0] * (head / (head + HALF_STEP))
            + SHARES[1] * (body / (body + HALF_STEP))
            + SHARES[2] * (pattern / (pattern + HALF_PATTERN))
    }

    fn is_gray(&self) -> bool {
        let chroma = |c: &Cell| u32::from(c[1].abs_diff(128)) + u32::from(c[2].abs_diff(128));
        let total: u32 = self.head.iter().map(chroma).sum();
        total < GRAY_CHROMA * 64
    }
}

/// Mean difference of the most alike cells, in chroma steps.
fn trimmed_difference<const N: usize>(a: &[Cell; N], b: &[Cell; N], luma_tenths: u16) -> f32 {
    let mut differences = [0_u16; N];
    for (difference, (a, b)) in differences.iter_mut().zip(a.iter().zip(b)) {
        let step = |k: usize| u16::from(a[k].abs_diff(b[k]));
        *difference = luma_tenths * step(0) + 10 * (step(1) + step(2));
    }
    let n_kept = (N * KEPT_TENTHS / 10).max(1);
    let (kept, last, _) = differences.select_nth_unstable(n_kept - 1);
    let sum = kept.iter().map(|&d| f32::from(d)).sum::<f32>() + f32::from(*last);
    sum / 10.0 / kept.len().saturating_add(1) as f32
}

/// Correlation of the cells' luma, -1..=1; 0 where a side is flat.
fn correlation<const N: usize>(a: &[Cell; N], b: &[Cell; N]) -> f32 {
    let mean = |cells: &[Cell; N]| cells.iter().map(|c| f32::from(c[0])).sum::<f32>() / N as f32;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f32::from(a[0]) - mean_a, f32::from(b[0]) - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    let norm = (aa * bb).sqrt();
    if norm > f32::from(u8::MAX) { ab / norm } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mosaic(cell: impl Fn(usize) -> Cell) -> Appearance {
        Appearance { head: std::array::from_fn(&cell), body: std::array::from_fn(&cell) }
    }

    fn ramp(step: usize, chroma: u8) -> Appearance {
        mosaic(|i| [u8::try_from(i * step % 256).unwrap(), chroma, 128])
    }

    #[test]
    fn the_same_look_has_no_distance() {
        let a = ramp(3, 110);
        assert!(a.distance(&a).abs() < 1e-6);
    }

    #[test]
    fn distance_is_symmetric_and_below_one() {
        let (a, b) = (ramp(3, 0), ramp(7, 255));
        assert!((a.distance(&b) - b.distance(&a)).abs() < 1e-6);
        assert!(a.distance(&b) > 0.8 && a.distance(&b) < 1.0);
    }

    #[test]
    fn a_hand_before_a_quarter_of_the_face_hardly_counts() {
        let a = ramp(2, 110);
        let mut b = a.clone();
        for cell in &mut b.head[..16] {
            *cell = [200, 100, 180];
        }
        let mut shifted = a.clone();
        for cell in &mut shifted.head {
            cell[1] += 20;
        }
        assert!(a.distance(&b) < 0.2, "{}", a.distance(&b));
        assert!(a.distance(&shifted) > 0.4, "{}", a.distance(&shifted));
    }

    #[test]
    fn flat_mosaics_compare() {
        let flat = mosaic(|_| [128; 3]);
        assert!(flat.distance(&flat).is_finite());
    }
}
