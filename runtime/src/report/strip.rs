//! The crops of one face side by side.

use image::{Rgb, RgbImage, imageops};

use super::text::Font;

const CELL_PX: u32 = 96;
const GAP_PX: u32 = 4;
const GROUND: Rgb<u8> = Rgb([24, 24, 24]);
const INK: Rgb<u8> = Rgb([240, 240, 240]);

/// The crops in one row at 96x96 px each, oldest first, every one with its score, 0..=1, written under it.
///
/// The row is `100 * n + 4` px wide and 120 px high; without a crop it is empty ground.
pub fn contact_strip<'a>(crops: impl IntoIterator<Item = (&'a RgbImage, f32)>) -> RgbImage {
    let cells: Vec<_> = crops.into_iter().filter(|(crop, _)| !crop.is_empty()).collect();
    let font = Font::for_picture(0);
    let n_cells = u32::try_from(cells.len()).unwrap_or(u32::MAX);
    let text_px = font.line_px().cast_unsigned() + GAP_PX;
    let width_px = n_cells.saturating_mul(CELL_PX + GAP_PX).saturating_add(GAP_PX);
    let mut strip = RgbImage::from_pixel(width_px, CELL_PX + text_px + GAP_PX, GROUND);
    let mut x = GAP_PX;
    for (crop, score) in cells {
        let cell = imageops::thumbnail(crop, CELL_PX, CELL_PX);
        imageops::replace(&mut strip, &cell, i64::from(x), i64::from(GAP_PX));
        let text = format!("{score:.2}");
        let left = x.cast_signed() + (CELL_PX.cast_signed() - font.width_px(&text)) / 2;
        font.write(&mut strip, (left, (CELL_PX + GAP_PX + GAP_PX / 2).cast_signed()), &text, INK);
        x += CELL_PX + GAP_PX;
    }
    strip
}
