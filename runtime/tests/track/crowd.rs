//! Made-up people whose looks vary over time and from each other as those of real ones do.

use candor::appearance::{Appearance, BODY_COLUMNS, Cell, HEAD_SIDE};

use crate::scenes::Dice;

/// Control points of a smooth field: 4 x 4, in Y, Cb, Cr.
type Field = [[f32; 3]; 16];

/// Spread of fields (Y, Cb, Cr).
const SPREAD: [f32; 3] = [40.0, 6.5, 6.5];
/// Share of the spread between people that all of a mosaic's points have in common.
const COMMON: f32 = 0.95;
/// Spread of one person's looks over time, relative to [`SPREAD`]; some people move more than others.
const MOVES: f32 = 0.25;
const MOVES_LOG_SPREAD: f32 = 0.55;
/// Time over which a look is forgotten.
const MOVE_S: f32 = 1.3;
/// Noise of one cell in one frame, relative to [`SPREAD`]: landmarks' jitter, compression.
const NOISE: f32 = 0.04;

/// One made-up person.
pub(crate) struct Person {
    base: [Field; 2],
    moved: [Field; 2],
    liveliness: f32,
    at_s: f32,
}

fn field(dice: &mut Dice) -> Field {
    std::array::from_fn(|_| std::array::from_fn(|c| SPREAD[c] * dice.normal()))
}

fn person_field(dice: &mut Dice) -> Field {
    let common: [f32; 3] = std::array::from_fn(|c| SPREAD[c] * dice.normal());
    let own = (1.0 - COMMON * COMMON).sqrt();
    field(dice).map(|point| std::array::from_fn(|c| COMMON * common[c] + own * point[c]))
}

impl Person {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        Person {
            base: [person_field(dice), person_field(dice)],
            moved: [field(dice), field(dice)],
            liveliness: MOVES * (MOVES_LOG_SPREAD * dice.normal()).exp(),
            at_s: 0.0,
        }
    }

    /// The look at `t_s`, which must not fall.
    pub(crate) fn look(&mut self, t_s: f32, dice: &mut Dice) -> Appearance {
        let kept = (-(t_s - self.at_s).max(0.0) / MOVE_S).exp();
        self.at_s = t_s;
        for part in &mut self.moved {
            let news = field(dice);
            for (old, new) in part.iter_mut().flatten().zip(news.iter().flatten()) {
                *old = kept * *old + (1.0 - kept * kept).sqrt() * new;
            }
        }
        Appearance {
            head: self.mosaic::<HEAD_SIDE, _>(0, dice),
            body: self.mosaic::<BODY_COLUMNS, _>(1, dice),
        }
    }

    fn mosaic<const COLUMNS: usize, const N: usize>(&self, part: usize, dice: &mut Dice) -> [Cell; N] {
        let n_rows = N / COLUMNS;
        std::array::from_fn(|cell| {
            let x = (cell % COLUMNS) as f32 / (COLUMNS - 1) as f32 * 2.999;
            let y = (cell / COLUMNS) as f32 / (n_rows - 1) as f32 * 2.999;
            std::array::from_fn(|c| {
                let base = smooth(&self.base[part], x, y, c);
                let moved = smooth(&self.moved[part], x, y, c) * self.liveliness;
                (120.0 + base + moved + NOISE * SPREAD[c] * dice.normal()).clamp(0.0, 255.0) as u8
            })
        })
    }
}

fn smooth(field: &Field, x: f32, y: f32, channel: usize) -> f32 {
    let (column, row) = (x as usize, y as usize);
    let (tx, ty) = (x.fract(), y.fract());
    let at = |r: usize, c: usize| field[r * 4 + c][channel];
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    let top = mix(at(row, column), at(row, column + 1), tx);
    let bottom = mix(at(row + 1, column), at(row + 1, column + 1), tx);
    mix(top, bottom, ty)
}

/// Lays `other` over `share` of `seen`, from the left.
pub(crate) fn cover(seen: &mut Appearance, other: &Appearance, share: f32) {
    cover_columns::<HEAD_SIDE>(&mut seen.head, &other.head, share);
    cover_columns::<BODY_COLUMNS>(&mut seen.body, &other.body, share);
}

fn cover_columns<const COLUMNS: usize>(seen: &mut [Cell], other: &[Cell], share: f32) {
    let n_covered = (share * COLUMNS as f32).round() as usize;
    for (idx, cell) in seen.iter_mut().enumerate() {
        if idx % COLUMNS < n_covered {
            *cell = other[idx];
        }
    }
}

/// Something that is no face: anything at all.
pub(crate) fn no_face(dice: &mut Dice) -> Appearance {
    Person::new(dice).look(0.0, dice)
}

/// `share` of `to` over `from`.
pub(crate) fn blend(from: &Appearance, to: &Appearance, share: f32) -> Appearance {
    let cell = |a: &Cell, b: &Cell| -> Cell {
        std::array::from_fn(|c| (f32::from(a[c]) * (1.0 - share) + f32::from(b[c]) * share).round() as u8)
    };
    Appearance {
        head: std::array::from_fn(|k| cell(&from.head[k], &to.head[k])),
        body: std::array::from_fn(|k| cell(&from.body[k], &to.body[k])),
    }
}
