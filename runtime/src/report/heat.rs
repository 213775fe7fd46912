//! A crop beside the map of where it looks fake, as a picture and as JSON.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage, imageops};
use serde_json::{Value, json};

use super::draw::Tone;
use super::faces::folder_name;
use super::json::rounded;
use super::text::{Font, mix};
use crate::classify::HeatMap;
use crate::gallery::Sample;
use crate::pipeline::Face;

/// Version of the JSON; grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// The scale reaches at least so many log odds, so that a map that says next to nothing looks like it.
const LEAST_REACH: f32 = 1.0;
/// Crops are shown at least this large.
const LEAST_SIDE_PX: u32 = 224;
const GAP_PX: u32 = 6;
const BAR_PX: u32 = 14;
/// Room for the numbers beside the scale.
const NUMBERS_PX: u32 = 56;
const GROUND: Rgb<u8> = Rgb([24, 24, 24]);
const INK: Rgb<u8> = Rgb([240, 240, 240]);
/// How much of the map covers the crop's grey, of 255.
const COVER: u8 = 150;
/// Oklab's lightness where nothing speaks for either side.
const MIDDLE_LIGHTNESS: f32 = 0.3;

/// A colour of the scale: `part` is -1 for what speaks most for real (blue), 1 for fake (orange). Straight lines in
/// Oklab (Ottosson, 2020) from a dark grey at 0, so that equal steps look equal; blue, orange and lightness are told
/// apart with every common colour blindness.
pub fn color(part: f32) -> Rgb<u8> {
    let end = oklab(if part < 0.0 { Tone::Real.color() } else { Tone::Fake.color() });
    let reach = if part.is_nan() { 0.0 } else { part.abs().min(1.0) };
    let middle = [MIDDLE_LIGHTNESS, 0.0, 0.0];
    let [l, a, b] = [0, 1, 2].map(|k| middle[k] + reach * (end[k] - middle[k]));
    let cone = |a_part: f32, b_part: f32| (l + a_part * a + b_part * b).powi(3);
    let (long, medium, short) = (
        cone(0.396_337_78, 0.215_803_76),
        cone(-0.105_561_346, -0.063_854_17),
        cone(-0.089_484_18, -1.291_485_5),
    );
    let channel = |row: [f32; 3]| encoded(row[0] * long + row[1] * medium + row[2] * short);
    Rgb([
        channel([4.076_741_7, -3.307_711_6, 0.230_969_94]),
        channel([-1.268_438, 2.609_757_4, -0.341_319_38]),
        channel([-0.004_196_086_3, -0.703_418_6, 1.707_614_7]),
    ])
}

/// L, a, b of Oklab.
fn oklab(color: Rgb<u8>) -> [f32; 3] {
    let [r, g, b] = color.0.map(|v| {
        let v = f32::from(v) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let cone = |row: [f32; 3]| (row[0] * r + row[1] * g + row[2] * b).cbrt();
    let long = cone([0.412_221_46, 0.536_332_55, 0.051_445_995]);
    let medium = cone([0.211_903_5, 0.680_699_5, 0.107_396_96]);
    let short = cone([0.088_302_46, 0.281_718_85, 0.629_978_7]);
    [
        0.210_454_26 * long + 0.793_617_8 * medium - 0.004_072_047 * short,
        1.977_998_5 * long - 2.428_592_2 * medium + 0.450_593_7 * short,
        0.025_904_037 * long + 0.782_771_77 * medium - 0.808_675_77 * short,
    ]
}

/// sRGB of a linear value.
fn encoded(v: f32) -> u8 {
    let v = v.clamp(0.0, 1.0);
    let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
    let byte = (v * 255.0).round() as u8;
    byte
}

/// Log odds at the ends of a map's scale.
pub fn reach(map: &HeatMap) -> f32 {
    let finite = map.log_odds.iter().filter(|v| v.is_finite());
    finite.fold(LEAST_REACH, |most, v| most.max(v.abs()))
}

/// `crop` in grey under the colours of `map`, with [`reach`] as the scale's end.
pub fn overlay(crop: &RgbImage, map: &HeatMap) -> RgbImage {
    let reach = reach(map);
    let (width, height) = crop.dimensions();
    #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
    let part = |at: u32, side: u32| (at as f32 + 0.5) / side as f32;
    let grey = imageops::grayscale(crop);
    RgbImage::from_fn(width, height, |x, y| {
        let value = map.at(part(x, width), part(y, height));
        mix(Rgb([grey.get_pixel(x, y).0[0]; 3]), color(value / reach), COVER)
    })
}

/// The crop, beside it the map on it, and the scale with its numbers in log odds; `caption` under them.
pub fn panel(crop: &RgbImage, map: &HeatMap, caption: &str) -> RgbImage {
    let times = LEAST_SIDE_PX.div_ceil(crop.width().max(1)).max(1);
    let (width, height) = (crop.width() * times, crop.height() * times);
    let shown = imageops::resize(crop, width, height, imageops::FilterType::Triangle);
    let font = Font::for_picture(0);
    let text_px = font.line_px().cast_unsigned() + GAP_PX;
    let size = (2 * width + 4 * GAP_PX + BAR_PX + NUMBERS_PX, height + 2 * GAP_PX + text_px);
    let mut panel = RgbImage::from_pixel(size.0, size.1, GROUND);
    let (second, bar) = (2 * GAP_PX + width, 3 * GAP_PX + 2 * width);
    imageops::replace(&mut panel, &shown, GAP_PX.into(), GAP_PX.into());
    imageops::replace(&mut panel, &overlay(&shown, map), second.into(), GAP_PX.into());
    for y in 0..height {
        #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
        let part = 1.0 - 2.0 * (y as f32 + 0.5) / height as f32;
        for x in 0..BAR_PX {
            panel.put_pixel(bar + x, GAP_PX + y, color(part));
        }
    }
    let reach = reach(map);
    let left = (bar + BAR_PX + GAP_PX).cast_signed();
    let (top, line) = (GAP_PX.cast_signed(), font.line_px());
    let bottom = (GAP_PX + height).cast_signed() - line;
    for (y, text) in [
        (top, format!("{reach:+.1}")),
        ((top + bottom) / 2, "0".to_owned()),
        (bottom, format!("{:+.1}", -reach)),
    ] {
        font.write(&mut panel, (left, y), &text, INK);
    }
    font.write(&mut panel, (top, bottom + line + top), caption, INK);
    panel
}

/// The look that stands for a face: the one with the median score, the lower one of two. `None` without a score.
pub fn typical(samples: &[Sample]) -> Option<&Sample> {
    let mut scored: Vec<&Sample> = samples.iter().filter(|s| s.score.is_some_and(f32::is_finite)).collect();
    scored.sort_by(|a, b| a.score.unwrap_or_default().total_cmp(&b.score.unwrap_or_default()));
    scored.get(scored.len().saturating_sub(1) / 2).copied()
}

/// What is known of a map: `file`, the crop's score, the grid, and where its largest value stands.
pub fn values(file: &str, score: Option<f32>, map: &HeatMap) -> Value {
    let (most, place) = map.peak();
    let rows: Vec<Vec<Option<f64>>> = map
        .log_odds
        .chunks_exact(map.n_points)
        .map(|row| row.iter().map(|v| rounded(*v, 4)).collect())
        .collect();
    json!({
        "schema": SCHEMA,
        "file": file,
        "score": score.and_then(|v| rounded(v, 6)),
        "n_points": map.n_points,
        "log_odds": rows,
        "peak": { "log_odds": rounded(most, 4), "x": rounded(place[0], 4), "y": rounded(place[1], 4) },
        "scale_log_odds": rounded(reach(map), 4),
    })
}

/// Writes `STEM/face-ID-heat.png` and `STEM/face-ID-heat.json` below `folder`, for the look of `face` that
/// [`typical`] chose; gives the picture's path.
///
/// # Errors
/// When the file system refuses.
pub fn write(folder: &Path, file: &str, face: &Face, sample: &Sample, map: &HeatMap) -> io::Result<PathBuf> {
    let mut values = values(file, sample.score, map);
    #[expect(clippy::cast_precision_loss, reason = "exact to a microsecond for centuries")]
    let time_s = sample.pts_ns as f64 / 1e9;
    values["track_id"] = face.track_id.into();
    values["verdict"] = face.judgement.verdict.word().into();
    values["time_s"] = time_s.into();
    let score = sample.score.unwrap_or(f32::NAN);
    let caption = format!("face {} at {time_s:.1} s, score {score:.3}; log odds", face.track_id);
    save(
        &folder.join(folder_name(file)),
        &format!("face-{}-heat", face.track_id),
        &sample.crop,
        map,
        &caption,
        &values,
    )
}

/// Writes the panel and the values of one crop that is a file of its own: `STEM/heat.png` and `STEM/heat.json`.
///
/// # Errors
/// When the file system refuses.
pub fn write_crop(
    folder: &Path,
    file: &str,
    score: f32,
    crop: &RgbImage,
    map: &HeatMap,
) -> io::Result<PathBuf> {
    let values = values(file, Some(score), map);
    save(&folder.join(folder_name(file)), "heat", crop, map, &format!("score {score:.3}; log odds"), &values)
}

fn save(
    folder: &Path,
    name: &str,
    crop: &RgbImage,
    map: &HeatMap,
    caption: &str,
    values: &Value,
) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(format!("{name}.json")), format!("{values}\n"))?;
    let picture = folder.join(format!("{name}.png"));
    panel(crop, map, caption).save(&picture).map_err(io::Error::other)?;
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geom::Rect;

    #[test]
    fn the_scale_runs_in_equal_steps_between_its_colours() {
        assert_eq!(color(-1.0), Tone::Real.color());
        assert_eq!(color(1.0), Tone::Fake.color());
        assert_eq!(color(9.0), Tone::Fake.color());
        assert_eq!(color(f32::NAN), color(0.0));
        let distance = |a: f32, b: f32| {
            let (a, b) = (oklab(color(a)), oklab(color(b)));
            a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
        };
        for side in [-1.0, 1.0] {
            let step = distance(0.0, side) / 10.0;
            for i in 0u8..10 {
                let at = |i: u8| side * f32::from(i) / 10.0;
                // Bytes round colours by about 1 / 255.
                assert!((distance(at(i), at(i + 1)) - step).abs() < 0.006, "{side} {i}");
            }
        }
    }

    #[test]
    fn white_and_black_in_oklab() {
        for (color, lightness) in [(Rgb([255; 3]), 1.0), (Rgb([0; 3]), 0.0)] {
            let found = oklab(color);
            assert!((found[0] - lightness).abs() < 1e-3 && found[1].abs() < 1e-3 && found[2].abs() < 1e-3);
        }
        // Ottosson's own example of linear sRGB red: L .628, a .225, b .126.
        let red = oklab(Rgb([255, 0, 0]));
        for (found, expected) in red.iter().zip([0.628, 0.225, 0.126]) {
            assert!((found - expected).abs() < 1e-3, "{red:?}");
        }
    }

    #[test]
    fn the_median_look_is_typical() {
        let sample = |score| Sample {
            pts_ns: 0,
            frame_idx: 0,
            bbox: Rect { x: 0.0, y: 0.0, w: 1.0, h: 1.0 },
            confidence: 1.0,
            crop: RgbImage::new(1, 1),
            score,
        };
        let of = |scores: &[Option<f32>]| {
            let samples: Vec<Sample> = scores.iter().map(|s| sample(*s)).collect();
            typical(&samples).and_then(|s| s.score)
        };
        assert_eq!(of(&[Some(0.9), Some(0.1), None, Some(0.4)]), Some(0.4));
        assert_eq!(of(&[Some(0.9), Some(0.1), Some(0.4), Some(0.5)]), Some(0.4));
        assert_eq!(of(&[Some(f32::NAN), Some(0.2)]), Some(0.2));
        assert_eq!(of(&[None]), None);
    }

    #[test]
    fn a_panel_shows_the_crop_beside_the_map() {
        let crop = RgbImage::from_pixel(32, 32, Rgb([90, 90, 90]));
        let map = HeatMap { n_points: 2, log_odds: vec![-2.0, 2.0, -2.0, 2.0] };
        let panel = panel(&crop, &map, "score 0.500");
        assert_eq!(panel.dimensions(), (2 * 224 + 4 * 6 + 14 + 56, 224 + 12 + 22));
        assert_eq!(panel.get_pixel(100, 100), &Rgb([90; 3]));
        // Left of the map blue, right of it orange.
        let (left, right) = (panel.get_pixel(12 + 224 + 2, 100).0, panel.get_pixel(12 + 448 - 3, 100).0);
        assert!(left[2] > left[0] && right[0] > right[2], "{left:?} {right:?}");
        assert_eq!(values("a", Some(0.5), &map)["peak"]["x"], 1.0);
    }
}
