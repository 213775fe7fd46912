//! One picture of many: labelled rows of tiles.

use std::path::Path;

use image::{Rgb, RgbImage, imageops};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const GAP_PX: u32 = 4;
const LABEL_PX: u32 = 200;

/// Rows of tiles of one size.
pub(super) struct Sheet {
    tile_px: u32,
    width_px: u32,
    rows: Vec<RgbImage>,
}

impl Sheet {
    /// With room for `n_columns` tiles of `tile_px`.
    pub(super) fn new(tile_px: u32, n_columns: usize) -> Self {
        let n_columns = u32::try_from(n_columns).unwrap_or(u32::MAX / (tile_px + GAP_PX) - LABEL_PX);
        Sheet { tile_px, width_px: LABEL_PX + n_columns * (tile_px + GAP_PX), rows: Vec::new() }
    }

    /// Adds a row with its name on the left.
    pub(super) fn row(&mut self, name: &str, tiles: impl Iterator<Item = RgbImage>) {
        let mut row = RgbImage::from_pixel(self.width_px, self.tile_px + GAP_PX, Rgb([24; 3]));
        write(&mut row, (8, self.tile_px / 2), name);
        for (tile, column) in tiles.zip(0_i64..) {
            let left = i64::from(LABEL_PX) + column * i64::from(self.tile_px + GAP_PX);
            imageops::replace(&mut row, &tile, left, 0);
        }
        self.rows.push(row);
    }

    /// Writes the sheet.
    ///
    /// # Errors
    /// [`image::ImageError`].
    pub(super) fn save(&self, path: &Path) -> image::ImageResult<()> {
        let pitch_px = self.tile_px + GAP_PX;
        let n_rows = u32::try_from(self.rows.len()).unwrap_or(0);
        let mut sheet = RgbImage::new(self.width_px, n_rows * pitch_px);
        for (row, at) in self.rows.iter().zip(0_i64..) {
            imageops::replace(&mut sheet, row, 0, at * i64::from(pitch_px));
        }
        sheet.save(path)
    }
}

/// White text with its top left corner at `(x, y)`; a character that the typeface lacks is left out.
fn write(picture: &mut RgbImage, (x, y): (u32, u32), text: &str) {
    let advance = get_raster_width(FontWeight::Bold, RasterHeight::Size16);
    for (c, k) in text.chars().zip(0..) {
        let Some(glyph) = get_raster(c, FontWeight::Bold, RasterHeight::Size16) else { continue };
        for (row, dy) in glyph.rows().zip(0..) {
            for (cover, dx) in row.iter().zip(k * u32::try_from(advance).unwrap_or(0)..) {
                if let Some(pixel) = picture.get_pixel_mut_checked(x + dx, y + dy) {
                    pixel.0 = [*cover.max(&24); 3];
                }
            }
        }
    }
}
