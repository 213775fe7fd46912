//! Scripted scenes with ground truth: who is where in each frame of a made-up call or film.

use candor::geom::Rect;

/// SplitMix64 (Steele, Lea and Flood, 2014): the same numbers everywhere for a seed.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// Uniform between two numbers.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, share: f32) -> bool {
        self.uniform() < share
    }

    /// About normal with deviation 1: a sum of three.
    pub(crate) fn normal(&mut self) -> f32 {
        ((0..3).map(|_| self.uniform()).sum::<f32>() - 1.5) * 2.0
    }
}

/// One face that a detector found, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    /// `None`: no face at all.
    pub(crate) person: Option<usize>,
    pub(crate) bbox: Rect,
    /// Share of the face that others hide; may count a part twice.
    pub(crate) hidden: f32,
    /// Who hides most of it.
    pub(crate) hidden_by: Option<usize>,
}

/// What a detector gave for one frame.
#[derive(Clone, Debug)]
pub(crate) struct Shot {
    pub(crate) pts_ns: i64,
    /// The cut detector spoke up.
    pub(crate) is_cut: bool,
    pub(crate) faces: Vec<Truth>,
}

/// What happens in a scene, in events per second, and how good the detector is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) n_people: usize,
    /// Speaker view and grid change places; the order of tiles changes as well.
    pub(crate) layouts_hz: f32,
    /// Two tiles change places.
    pub(crate) swaps_hz: f32,
    /// The film cuts to other people and back.
    pub(crate) cuts_hz: f32,
    /// Somebody sits down exactly where somebody else was.
    pub(crate) replacements_hz: f32,
    /// One face, or all, goes unseen for 0.3 to 3 s.
    pub(crate) gaps_hz: f32,
    /// Somebody joins or leaves and the grid makes room.
    pub(crate) joins_hz: f32,
    /// All walk through the picture and through each other.
    pub(crate) is_crossing: bool,
    /// Share of faces missed, per frame.
    pub(crate) missed: f32,
    /// Share of frames with something that is no face.
    pub(crate) false_finds: f32,
}

const SECOND_NS: f32 = 1e9;
pub(crate) const WIDTH_PX: f32 = 1280.0;
pub(crate) const HEIGHT_PX: f32 = 720.0;
/// A face hidden more than this isn't found.
const HIDDEN_LIMIT: f32 = 0.45;

/// Everyone's place at one moment.
struct Stage {
    /// Who is in the picture, in the order of tiles.
    present: Vec<usize>,
    is_speaker_view: bool,
    /// Where each person's face lies in their tile, and how large: shares of the tile's height.
    pose: Vec<[f32; 3]>,
    unseen_until_s: Vec<f32>,
}

impl Stage {
    /// The tile of the `k`th of `n`.
    fn tile(&self, k: usize, n: usize) -> Rect {
        if self.is_speaker_view && n > 1 {
            if k == 0 {
                return Rect { x: 0.0, y: 0.0, w: WIDTH_PX * 0.8, h: HEIGHT_PX };
            }
            let h = HEIGHT_PX / (n - 1).max(4) as f32;
            let y = (k - 1) as f32 * h;
            return Rect { x: WIDTH_PX * 0.8, y, w: WIDTH_PX * 0.2, h };
        }
        let side = (1..).find(|s| s * s >= n).unwrap();
        let (w, h) = (WIDTH_PX / side as f32, HEIGHT_PX / side as f32);
        Rect { x: (k % side) as f32 * w, y: (k / side) as f32 * h, w, h }
    }

    fn face(&self, person: usize, k: usize) -> Rect {
        let tile = self.tile(k, self.present.len());
        let [x, y, size] = self.pose[person];
        let h = tile.h * size;
        let w = h * 0.8;
        Rect {
            x: tile.x + tile.w / 2.0 + tile.h * x - w / 2.0,
            y: tile.y + tile.h * (0.45 + y) - h / 2.0,
            w,
            h,
        }
    }
}

/// Plays a script for `length_s`; the same seed gives the same scene.
pub(crate) fn play(script: &Script, length_s: f32, seed: u64) -> Vec<Shot> {
    let mut dice = Dice(seed);
    let n = script.n_people;
    let mut stage = Stage {
        present: (0..n).collect(),
        is_speaker_view: dice.chance(0.3),
        pose: (0..n)
            .map(|_| [dice.between(-0.3, 0.3), dice.between(-0.05, 0.1), dice.between(0.35, 0.55)])
            .collect(),
        unseen_until_s: vec![0.0; n],
    };
    let walks: Vec<[f32; 3]> =
        (0..n).map(|_| [dice.between(0.0, 6.3), dice.between(0.5, 1.4), dice.between(-0.1, 0.1)]).collect();
    let mut shots = Vec::new();
    let mut t_s = 0.0;
    while t_s < length_s {
        let dt_s = dice.between(0.08, 0.3);
        t_s += dt_s;
        let changed = happen(script, &mut stage, &mut dice, t_s, dt_s);
        let mut faces = Vec::new();
        for (k, &person) in stage.present.iter().enumerate() {
            let mut bbox = stage.face(person, k);
            if script.is_crossing {
                let [phase, speed, lift] = walks[person];
                let side = 150.0 + 10.0 * person as f32;
                bbox = Rect {
                    x: WIDTH_PX / 2.0 + (phase + speed * t_s).sin() * 450.0 - side / 2.0,
                    y: HEIGHT_PX * (0.4 + lift) - side / 2.0,
                    w: side,
                    h: side,
                };
            }
            faces.push(Truth { person: Some(person), bbox, hidden: 0.0, hidden_by: None });
        }
        for idx in 0..faces.len() {
            // Those who come later stand in front.
            let cover = |f: &Truth| f.bbox.intersect(&faces[idx].bbox).area();
            let in_front = &faces[idx + 1..];
            let hidden = in_front.iter().map(cover).sum::<f32>() / faces[idx].bbox.area();
            let most = in_front.iter().max_by(|a, b| cover(a).total_cmp(&cover(b)));
            let hidden_by = most.filter(|f| cover(f) > 0.0).and_then(|f| f.person);
            faces[idx].hidden = hidden;
            faces[idx].hidden_by = hidden_by;
        }
        faces.retain(|f| {
            f.hidden < HIDDEN_LIMIT
                && f.person.is_none_or(|p| stage.unseen_until_s[p] <= t_s)
                && !dice.chance(script.missed)
        });
        for face in &mut faces {
            let side = face.bbox.w;
            face.bbox.x += side * 0.03 * dice.normal();
            face.bbox.y += side * 0.03 * dice.normal();
            face.bbox.w *= 1.0 + 0.03 * dice.normal();
            face.bbox.h *= 1.0 + 0.03 * dice.normal();
        }
        if dice.chance(script.false_finds) {
            let side = dice.between(30.0, 200.0);
            let bbox = Rect {
                x: dice.between(0.0, WIDTH_PX - side),
                y: dice.between(0.0, HEIGHT_PX - side),
                w: side,
                h: side,
            };
            faces.push(Truth { person: None, bbox, hidden: 0.0, hidden_by: None });
        }
        let pts_ns = i64::try_from((f64::from(t_s) * f64::from(SECOND_NS)) as u64).unwrap();
        shots.push(Shot { pts_ns, is_cut: changed && dice.chance(0.5), faces });
    }
    shots
}

/// Lets the script's events happen; true when the picture changed at once.
fn happen(script: &Script, stage: &mut Stage, dice: &mut Dice, t_s: f32, dt_s: f32) -> bool {
    let n = script.n_people;
    let mut changed = false;
    if dice.chance(script.layouts_hz * dt_s) {
        stage.is_speaker_view ^= true;
        let n_present = stage.present.len();
        stage.present.swap(0, dice.below(n_present));
        changed = true;
    }
    if dice.chance(script.swaps_hz * dt_s) {
        let n_present = stage.present.len();
        stage.present.swap(dice.below(n_present), dice.below(n_present));
    }
    if dice.chance(script.cuts_hz * dt_s) {
        let n_shown = 1 + dice.below(n.min(3));
        let mut people: Vec<usize> = (0..n).collect();
        stage.present = (0..n_shown).map(|_| people.swap_remove(dice.below(people.len()))).collect();
        changed = true;
    }
    let absent: Vec<usize> = (0..n).filter(|p| !stage.present.contains(p)).collect();
    if dice.chance(script.replacements_hz * dt_s) {
        // With nobody to come in, the newcomer changes places with another.
        let k = dice.below(stage.present.len());
        let old = stage.present[k];
        let new = if absent.is_empty() { dice.below(n) } else { absent[dice.below(absent.len())] };
        stage.pose[new] = stage.pose[old];
        match stage.present.iter().position(|p| *p == new) {
            Some(other) => stage.present.swap(k, other),
            None => stage.present[k] = new,
        }
    }
    if dice.chance(script.joins_hz * dt_s) {
        if absent.is_empty() || (stage.present.len() > 1 && dice.chance(0.5)) {
            if stage.present.len() > 1 {
                stage.present.remove(dice.below(stage.present.len()));
            }
        } else {
            stage.present.push(absent[dice.below(absent.len())]);
        }
        changed = true;
    }
    if dice.chance(script.gaps_hz * dt_s) {
        let until_s = t_s + dice.between(0.3, 3.0);
        if dice.chance(0.5) {
            stage.unseen_until_s[dice.below(n)] = until_s;
        } else {
            stage.unseen_until_s.fill(until_s);
        }
    }
    changed
}
