//! Anti-aliased text on a picture.

use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// A monospaced bold typeface at one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Font {
    raster: RasterHeight,
    /// Every raster pixel becomes a square of this side, for pictures beyond the largest raster.
    scale: u32,
}

impl Font {
    /// The size that reads well on a picture whose shorter side is `short_side_px`.
    pub(crate) fn for_picture(short_side_px: u32) -> Self {
        let raster = match short_side_px {
            0..420 => RasterHeight::Size16,
            420..660 => RasterHeight::Size20,
            660..900 => RasterHeight::Size24,
            _ => RasterHeight::Size32,
        };
        Font { raster, scale: (short_side_px / 1080).max(1) }
    }

    /// Height of a line.
    pub(crate) fn line_px(self) -> i32 {
        px(self.raster.val()) * self.scale.cast_signed()
    }

    /// Width of `text`.
    pub(crate) fn width_px(self, text: &str) -> i32 {
        px(text.chars().count()) * self.advance_px()
    }

    /// Breaks `text` between words into lines no wider than `width_px`; a longer word stays whole.
    pub(crate) fn wrap(self, text: &str, width_px: i32) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width_px(line) + self.advance_px() + self.width_px(word) <= width_px => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
        lines
    }

    /// Writes `text` with its top left corner at `(x, y)`; what leaves the picture is cut off, and a
    /// character that the typeface lacks shows as `?`.
    pub(crate) fn write(self, picture: &mut RgbImage, (x, y): (i32, i32), text: &str, color: Rgb<u8>) {
        let mut left = x;
        for c in text.chars() {
            let glyph = get_raster(c, FontWeight::Bold, self.raster)
                .or_else(|| get_raster('?', FontWeight::Bold, self.raster));
            if let Some(glyph) = glyph {
                self.write_glyph(picture, (left, y), glyph.rows(), color);
            }
            left += self.advance_px();
        }
    }

    fn write_glyph<'a>(
        self,
        picture: &mut RgbImage,
        (x, y): (i32, i32),
        rows: impl Iterator<Item = &'a [u8]>,
        color: Rgb<u8>,
    ) {
        let scale = self.scale.cast_signed();
        for (row, dy) in rows.zip(0..) {
            for (&cover, dx) in row.iter().zip(0..) {
                for i in 0..scale * scale {
                    let (sx, sy) = (x + dx * scale + i % scale, y + dy * scale + i / scale);
                    let (Ok(sx), Ok(sy)) = (u32::try_from(sx), u32::try_from(sy)) else { continue };
                    if let Some(pixel) = picture.get_pixel_mut_checked(sx, sy) {
                        *pixel = mix(*pixel, color, cover);
                    }
                }
            }
        }
    }

    fn advance_px(self) -> i32 {
        px(get_raster_width(FontWeight::Bold, self.raster)) * self.scale.cast_signed()
    }
}

/// `cover` / 255 of `over` on `under`, rounded to nearest.
pub(crate) fn mix(under: Rgb<u8>, over: Rgb<u8>, cover: u8) -> Rgb<u8> {
    let channel = |c: usize| {
        let (a, b, t) = (u32::from(under.0[c]), u32::from(over.0[c]), u32::from(cover));
        #[expect(clippy::cast_possible_truncation, reason = "a weighted mean of bytes is a byte")]
        let mixed = ((a * (255 - t) + b * t + 127) / 255) as u8;
        mixed
    };
    Rgb([channel(0), channel(1), channel(2)])
}

fn px(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrap_keeps_words_whole() {
        let font = Font::for_picture(240);
        let wide = font.width_px("untrained model:");
        assert_eq!(
            font.wrap("untrained model: verdicts mean nothing", wide),
            ["untrained model:", "verdicts mean", "nothing"]
        );
        assert_eq!(font.wrap("  ", 100), Vec::<String>::new());
        assert_eq!(font.wrap("immeasurable", 1), ["immeasurable"]);
    }

    #[test]
    fn mix_is_exact_at_its_ends() {
        let (a, b) = (Rgb([0, 100, 255]), Rgb([255, 7, 0]));
        assert_eq!(mix(a, b, 0), a);
        assert_eq!(mix(a, b, 255), b);
        assert_eq!(mix(a, b, 51), Rgb([51, 81, 204]));
    }

    #[test]
    fn text_off_the_picture_is_cut() {
        let mut picture = RgbImage::new(10, 10);
        let font = Font::for_picture(4000);
        font.write(&mut picture, (-20, -20), "héllo 漢", Rgb([255; 3]));
        font.write(&mut picture, (i32::MAX - 5000, 3), "x", Rgb([255; 3]));
        assert_eq!(picture.dimensions(), (10, 10));
    }
}
