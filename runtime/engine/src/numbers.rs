//! Functions whose bytes must not depend on the platform's mathematical library.

/// e^x to within 2 units of the last place of an f64, of basic operations only, which every platform
/// rounds the same.
///
/// x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series (Cody & Waite, "Software Manual for the
/// Elementary Functions", 1980, for the split of ln 2).
fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-700.0, 700.0);
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - k * LN2_HIGH) - k * LN2_LOW;
    let mut sum = 1.0;
    for n in (1..=14u32).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    #[expect(clippy::cast_possible_truncation, reason = "|k| <= 1010")]
    let power = f64::from_bits(((k as i64 + 1023) << 52).cast_unsigned());
    sum * power
}

/// 1 / (1 + e^-x), the same on every platform: what the tables of int8 networks are made of.
pub fn sigmoid(x: f32) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest f32")]
    let y = (1.0 / (1.0 + exp(-f64::from(x)))) as f32;
    y
}

/// e^x over their sum, in place.
pub(super) fn softmax(values: &mut [f32]) {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = values.iter().map(|v| exp(f64::from(v - most))).sum();
    for v in values {
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest f32")]
        let share = (exp(f64::from(*v - most)) / total) as f32;
        *v = share;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_standard_librarys() {
        for step in -14_000..14_000 {
            let x = f64::from(step) * 0.05;
            let ratio = exp(x) / x.exp();
            assert!((ratio - 1.0).abs() < 1e-15, "{x}: {ratio}");
        }
        assert!(exp(f64::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn softmax_adds_up_to_one() {
        let mut values = [1.0, -2.0, 100.0, 99.0];
        softmax(&mut values);
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{values:?}");
        assert!((values[2] - 0.731_058_6).abs() < 1e-6);
    }
}
