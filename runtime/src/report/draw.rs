//! Faces, their verdicts and a banner, drawn on a picture.
//!
//! Every size follows the picture's shorter side, so that a label reads alike at 320x240 and 1920x1080.

use image::{Rgb, RgbImage};

use super::text::{Font, mix};
use crate::geom::Rect;

/// What a mark's colour says. The word beside it says it too, so nobody needs the colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Blue.
    Real,
    /// Orange-red.
    Fake,
    /// Yellow.
    Uncertain,
    /// Grey: nothing to say yet.
    Pending,
}

impl Tone {
    /// Colours told apart with every common colour blindness and all readable under black text
    /// (Okabe and Ito, "Color Universal Design", 2008).
    pub fn color(self) -> Rgb<u8> {
        match self {
            Tone::Real => Rgb([86, 180, 233]),
            Tone::Fake => Rgb([230, 106, 20]),
            Tone::Uncertain => Rgb([240, 228, 66]),
            Tone::Pending => Rgb([200, 200, 200]),
        }
    }
}

/// One face to draw.
#[derive(Clone, Copy, Debug)]
pub struct FaceMark<'a> {
    /// The face's box, in pixels of the picture; may reach outside.
    pub bbox: Rect,
    /// The track's id.
    pub track_id: u32,
    /// The verdict so far, in a word.
    pub word: &'a str,
    /// Colour group of `word`.
    pub tone: Tone,
    /// Mean of the scores so far, 0..=1.
    pub mean_score: Option<f32>,
    /// The scores so far, oldest first, 0..=1; the last [`MAX_BARS`] are drawn.
    pub scores: &'a [f32],
}

/// Most bars of a label.
pub const MAX_BARS: usize = 15;

const INK: Rgb<u8> = Rgb([0, 0, 0]);
const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Cover of the dark grounds, of 255: the picture still shows through.
const GROUND_COVER: u8 = 190;

/// Draws every mark's box and label, then `banner` along the lower edge, on `picture`.
///
/// A label stays inside the picture where it fits, and covers another face, label or the banner only
/// where every place beside its own box does.
pub fn draw_marks(picture: &mut RgbImage, marks: &[FaceMark], banner: Option<&str>) {
    let style = Style::for_picture(picture);
    let banner = banner.map(|text| Banner::layout(picture, &style, text));
    for mark in marks {
        outline(picture, &style, &Area::around(&mark.bbox), mark.tone.color());
    }
    let mut taken: Vec<Area> = banner.iter().map(|b| b.area).collect();
    for (idx, mark) in marks.iter().enumerate() {
        let (label, area) = place(picture, &style, marks, idx, &taken);
        label.draw(picture, &style, mark, area);
        taken.push(area);
    }
    if let Some(banner) = banner {
        banner.draw(picture, &style);
    }
}

/// Sizes that follow the picture's.
struct Style {
    font: Font,
    line_px: i32,
    halo_px: i32,
    pad_px: i32,
    bar_px: i32,
}

impl Style {
    fn for_picture(picture: &RgbImage) -> Self {
        let short_side_px = picture.width().min(picture.height());
        let font = Font::for_picture(short_side_px);
        let line_px = (short_side_px / 270).max(2).cast_signed();
        Style {
            font,
            line_px,
            halo_px: (line_px / 2).max(1),
            pad_px: font.line_px() / 6,
            bar_px: font.line_px() / 6,
        }
    }
}

/// A rectangle of whole pixels; may reach outside the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    x: i32,
    y: i32,
    w: i32,
    h: i32,
}

impl Area {
    /// The whole pixels nearest to `rect`.
    fn around(rect: &Rect) -> Self {
        let (x, y) = (pixel(rect.x), pixel(rect.y));
        Area { x, y, w: pixel(rect.right()) - x, h: pixel(rect.bottom()) - y }
    }

    fn grown(self, by: i32) -> Self {
        Area { x: self.x - by, y: self.y - by, w: self.w + 2 * by, h: self.h + 2 * by }
    }

    /// Pixels that both cover.
    fn shared_px(&self, other: &Area) -> i64 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        i64::from(w.max(0)) * i64::from(h.max(0))
    }
}

/// Nearest whole pixel; far outside stays far outside, and no number is 0.
fn pixel(v: f32) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped")]
    let nearest = v.round().clamp(-1e6, 1e6) as i32;
    nearest
}

/// Lays `cover` / 255 of `color` on the part of `area` inside the picture.
fn fill(picture: &mut RgbImage, area: Area, color: Rgb<u8>, cover: u8) {
    let inside = |from: i32, length: i32, limit: u32| {
        let end = from.saturating_add(length).clamp(0, limit.cast_signed());
        from.clamp(0, limit.cast_signed()).cast_unsigned()..end.cast_unsigned()
    };
    for y in inside(area.y, area.h, picture.height()) {
        for x in inside(area.x, area.w, picture.width()) {
            let pixel = picture.get_pixel_mut(x, y);
            *pixel = mix(*pixel, color, cover);
        }
    }
}

/// The four sides just outside of `area`, `thickness` wide.
fn frame(picture: &mut RgbImage, area: Area, thickness: i32, color: Rgb<u8>) {
    let outer = area.grown(thickness);
    let (right, bottom) = (area.x + area.w, area.y + area.h);
    fill(picture, Area { h: thickness, ..outer }, color, 255);
    fill(picture, Area { y: bottom, h: thickness, ..outer }, color, 255);
    fill(picture, Area { x: outer.x, w: thickness, ..area }, color, 255);
    fill(picture, Area { x: right, w: thickness, ..area }, color, 255);
}

/// A coloured line around a face between two dark ones, visible on any ground.
fn outline(picture: &mut RgbImage, style: &Style, area: &Area, color: Rgb<u8>) {
    frame(picture, area.grown(-style.halo_px), style.halo_px, INK);
    frame(picture, *area, style.line_px, color);
    frame(picture, area.grown(style.line_px), style.halo_px, INK);
}

/// A mark's label: a text plate, and beside it the scores as bars.
struct Label {
    text: String,
    n_bars: i32,
}

impl Label {
    fn new(mark: &FaceMark, with_bars: bool) -> Self {
        let score = mark.mean_score.filter(|s| s.is_finite()).map(|s| format!(" {s:.2}")).unwrap_or_default();
        let n_bars = if with_bars { mark.scores.len().min(MAX_BARS) } else { 0 };
        Label {
            text: format!("#{} {}{score}", mark.track_id, mark.word),
            n_bars: i32::try_from(n_bars).unwrap_or(0),
        }
    }

    fn plate_px(&self, style: &Style) -> i32 {
        style.font.width_px(&self.text) + 2 * style.pad_px
    }

    fn size_px(&self, style: &Style) -> (i32, i32) {
        let bars = if self.n_bars > 0 { self.n_bars * (style.bar_px + 1) + 2 * style.pad_px } else { 0 };
        (self.plate_px(style) + bars, style.font.line_px() + style.pad_px)
    }

    fn draw(&self, picture: &mut RgbImage, style: &Style, mark: &FaceMark, area: Area) {
        let plate = Area { w: self.plate_px(style), ..area };
        fill(picture, plate, mark.tone.color(), 255);
        style.font.write(picture, (area.x + style.pad_px, area.y + style.pad_px / 2), &self.text, INK);
        if self.n_bars == 0 {
            return;
        }
        fill(picture, Area { x: area.x + plate.w, w: area.w - plate.w, ..area }, INK, GROUND_COVER);
        let tallest_px = area.h - 2 * style.pad_px;
        let newest = mark.scores.len().saturating_sub(MAX_BARS);
        for (&score, i) in mark.scores[newest..].iter().zip(0..) {
            let height = bar_height_px(score, tallest_px);
            let bar = Area {
                x: area.x + plate.w + style.pad_px + i * (style.bar_px + 1),
                y: area.y + style.pad_px + tallest_px - height,
                w: style.bar_px,
                h: height,
            };
            fill(picture, bar, PAPER, 255);
        }
    }
}

/// Height of a score's bar, `1..=tallest_px`: even a zero shows that there is a score.
fn bar_height_px(score: f32, tallest_px: i32) -> i32 {
    #[expect(clippy::cast_precision_loss, reason = "a label is far below 2^24 px high")]
    let height = pixel(score.clamp(0.0, 1.0) * tallest_px as f32);
    height.max(1)
}

/// The label of `marks[idx]` and where it goes: the first place that covers least of what matters;
/// without its bars when only then it covers nothing.
fn place(picture: &RgbImage, style: &Style, marks: &[FaceMark], idx: usize, taken: &[Area]) -> (Label, Area) {
    let faces: Vec<Area> = marks.iter().map(|m| Area::around(&m.bbox)).collect();
    let best_of = |label: &Label| {
        let candidates = spots(picture, style, faces[idx], label.size_px(style));
        let harm = |spot: &Area| {
            let faces_px: i64 = faces.iter().map(|face| spot.shared_px(face)).sum();
            let taken_px: i64 = taken.iter().map(|other| spot.shared_px(other)).sum();
            // Two labels on each other read as neither; half a label on its own face still reads.
            2 * faces_px - spot.shared_px(&faces[idx]) + 4 * taken_px
        };
        let mut best = (i64::MAX, faces[idx]);
        for spot in candidates {
            let harm = harm(&spot);
            if harm < best.0 {
                best = (harm, spot);
            }
        }
        best
    };
    let (full, bare) = (Label::new(&marks[idx], true), Label::new(&marks[idx], false));
    let (full_best, bare_best) = (best_of(&full), best_of(&bare));
    if full_best.0 > 0 && bare_best.0 == 0 { (bare, bare_best.1) } else { (full, full_best.1) }
}

/// Places for a label of `(w, h)` beside `face`, the preferred first, each moved inside the picture.
fn spots(picture: &RgbImage, style: &Style, face: Area, (w, h): (i32, i32)) -> [Area; 8] {
    let rim = style.line_px + style.halo_px;
    let outer = face.grown(rim);
    let (left, right_aligned) = (outer.x, outer.x + outer.w - w);
    let (above, below) = (outer.y - h, outer.y + outer.h);
    let (inside_top, inside_bottom) = (face.y, face.y + face.h - h);
    let places = [
        (left, above),
        (left, below),
        (right_aligned, above),
        (right_aligned, below),
        (outer.x + outer.w, outer.y),
        (outer.x - w, outer.y),
        (face.x, inside_top),
        (face.x, inside_bottom),
    ];
    let limit = |at: i32, length: i32, side: u32| at.min(side.cast_signed() - length).max(0);
    places.map(|(x, y)| Area { x: limit(x, w, picture.width()), y: limit(y, h, picture.height()), w, h })
}

/// A line of text along the picture's lower edge, in as many rows as it needs.
struct Banner {
    area: Area,
    rows: Vec<String>,
}

impl Banner {
    fn layout(picture: &RgbImage, style: &Style, text: &str) -> Self {
        let (width, height) = (picture.width().cast_signed(), picture.height().cast_signed());
        let rows = style.font.wrap(text, width - 2 * style.pad_px);
        let n_rows = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let h = if rows.is_empty() { 0 } else { n_rows.saturating_mul(style.font.line_px()) + style.pad_px };
        Banner { area: Area { x: 0, y: height - h, w: width, h }, rows }
    }

    fn draw(&self, picture: &mut RgbImage, style: &Style) {
        fill(picture, self.area, INK, GROUND_COVER);
        let mut y = self.area.y + style.pad_px / 2;
        for row in &self.rows {
            let x = (self.area.w - style.font.width_px(row)).max(0) / 2;
            style.font.write(picture, (x, y), row, PAPER);
            y += style.font.line_px();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(bbox: Rect) -> FaceMark<'static> {
        const SCORES: [f32; 20] = [0.5; 20];
        let (word, tone) = ("Uncertain", Tone::Uncertain);
        FaceMark { bbox, track_id: 12, word, tone, mean_score: Some(0.5), scores: &SCORES }
    }

    /// Every pixel against the definition: how far it is from the box's edge decides its colour.
    #[test]
    fn outline_is_three_nested_frames() {
        let ground = Rgb([10, 20, 30]);
        let mut picture = RgbImage::from_pixel(64, 48, ground);
        let style = Style { line_px: 3, halo_px: 2, ..Style::for_picture(&picture) };
        let area = Area { x: 20, y: -4, w: 15, h: 30 };
        outline(&mut picture, &style, &area, Tone::Real.color());
        let expected = RgbImage::from_fn(64, 48, |x, y| {
            let (x, y) = (x.cast_signed(), y.cast_signed());
            let beyond = |at: i32, from: i32, length: i32| (from - at).max(at - (from + length - 1));
            match beyond(x, area.x, area.w).max(beyond(y, area.y, area.h)) {
                -1..=0 | 4..=5 => INK,
                1..=3 => Tone::Real.color(),
                _ => ground,
            }
        });
        assert_eq!(picture, expected);
    }

    #[test]
    fn labels_of_a_grid_cover_no_face() {
        for (width, height) in [(640, 360), (1280, 720), (1920, 1080)] {
            let picture = RgbImage::new(width, height);
            let style = Style::for_picture(&picture);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let (tile_w, tile_h) = (width as f32 / 3.0, height as f32 / 3.0);
            let marks: Vec<_> = (0u8..9)
                .map(|i| {
                    let (col, row) = (f32::from(i % 3), f32::from(i / 3));
                    let (x, y) = ((col + 0.3) * tile_w, (row + 0.25) * tile_h);
                    mark(Rect { x, y, w: tile_w * 0.35, h: tile_h * 0.5 })
                })
                .collect();
            let banner = Banner::layout(&picture, &style, "untrained model: verdicts mean nothing");
            let mut taken = vec![banner.area];
            for idx in 0..marks.len() {
                let (_, area) = place(&picture, &style, &marks, idx, &taken);
                for other in marks.iter().map(|m| Area::around(&m.bbox)).chain(taken.iter().copied()) {
                    assert_eq!(
                        area.shared_px(&other),
                        0,
                        "{width}x{height}: label {idx} {area:?} on {other:?}"
                    );
                }
                taken.push(area);
            }
        }
    }

    proptest! {
        #[test]
        fn any_marks_on_any_picture(
            (width, height) in (1u32..400, 1u32..300),
            boxes in prop::collection::vec(prop::array::uniform4(prop::num::f32::ANY), 0..4),
            near in prop::array::uniform4(-50.0f32..450.0),
            text in ".{0,60}",
        ) {
            let mut picture = RgbImage::new(width, height);
            let style = Style::for_picture(&picture);
            let marks: Vec<_> =
                boxes.into_iter().chain([near]).map(|[x, y, w, h]| mark(Rect { x, y, w, h })).collect();
            draw_marks(&mut picture, &marks, Some(&text));
            for idx in 0..marks.len() {
                let (_, area) = place(&picture, &style, &marks, idx, &[]);
                let fits = |at: i32, length: i32, side: u32| at == 0 || at > 0 && at + length <= side.cast_signed();
                prop_assert!(fits(area.x, area.w, width) && fits(area.y, area.h, height), "{:?}", area);
            }
        }
    }
}
