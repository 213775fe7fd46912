//! The tracker against scripted scenes with ground truth: no id may ever cover two people, and one
//! person should keep one id.
//!
//! The ignored tests measure, on pictures and detections of the user's own:
//!
//!     CANDOR_DETECTIONS=FILE cargo test --test track -- --ignored --nocapture
//!
//! FILE holds the lines that `tests/reference/mtcnn.py` prints for pictures named
//! `CLIP@MILLISECONDS.jpg` (frames of a clip with one person) or otherwise (one person each).

#![allow(clippy::unwrap_used, reason = "a failed test is how these tests speak")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]
#![allow(clippy::cast_sign_loss, reason = "positive numbers")]

mod crowd;
mod looks;
mod photos;
mod roc;
mod scenes;

use std::collections::{BTreeMap, BTreeSet};

use candor::appearance::Appearance;
use candor::geom::{Detection, Point, Rect};
use candor::track::{Observation, Settings, Tracker};
use crowd::Person;
use scenes::{Dice, Script, Shot, Truth, play};

const LENGTH_S: f32 = 30.0;

const DETECTOR: Script = Script {
    name: "",
    n_people: 0,
    layouts_hz: 0.0,
    swaps_hz: 0.0,
    cuts_hz: 0.0,
    replacements_hz: 0.0,
    gaps_hz: 0.0,
    joins_hz: 0.0,
    is_crossing: false,
    missed: 0.03,
    false_finds: 0.02,
};

/// The scripts, for `n_people`.
fn scripts(n_people: usize) -> [Script; 9] {
    let base = Script { n_people, ..DETECTOR };
    [
        Script { name: "steady", ..base },
        Script { name: "layouts", layouts_hz: 0.4, ..base },
        Script { name: "swaps", swaps_hz: 0.4, ..base },
        Script { name: "cuts and returns", cuts_hz: 0.4, ..base },
        Script { name: "replacements", replacements_hz: 0.4, ..base },
        Script { name: "gaps", gaps_hz: 0.3, ..base },
        Script { name: "joins and leaves", joins_hz: 0.4, ..base },
        Script { name: "crossings", is_crossing: true, ..base },
        Script {
            name: "everything",
            layouts_hz: 0.15,
            swaps_hz: 0.15,
            cuts_hz: 0.1,
            replacements_hz: 0.15,
            gaps_hz: 0.15,
            joins_hz: 0.15,
            missed: 0.1,
            false_finds: 0.1,
            ..base
        },
    ]
}

/// How well ids and people agree over one or more scenes.
#[derive(Default, Debug)]
struct Tally {
    n_people: usize,
    n_ids: usize,
    n_mixed_ids: usize,
    n_faces: usize,
    /// Faces that got their person's commonest id.
    n_main: usize,
    /// Faces that got no id.
    n_open: usize,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.n_people += other.n_people;
        self.n_ids += other.n_ids;
        self.n_mixed_ids += other.n_mixed_ids;
        self.n_faces += other.n_faces;
        self.n_main += other.n_main;
        self.n_open += other.n_open;
    }

    fn print(&self, name: &str) {
        let share = |n: usize| 100.0 * n as f32 / self.n_faces.max(1) as f32;
        println!(
            "{name:24} {:5} people {:6.2} ids each {:7} faces {:6.2} % main id {:5.2} % open  {} mixed ids",
            self.n_people,
            self.n_ids as f32 / self.n_people.max(1) as f32,
            self.n_faces,
            share(self.n_main),
            share(self.n_open),
            self.n_mixed_ids,
        );
    }
}

/// Runs a scene through a tracker; `look` gives each face's appearance, in order.
fn follow(shots: &[Shot], mut look: impl FnMut(&Shot, &Truth) -> Appearance) -> Tally {
    let mut tracker = Box::new(Tracker::new(Settings::default()));
    let mut seen: BTreeMap<(Option<usize>, Option<u32>), usize> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for shot in shots {
        let observations: Vec<Observation> = shot
            .faces
            .iter()
            .map(|face| Observation {
                detection: Detection { bbox: face.bbox, landmarks: [Point::default(); 5], confidence: 0.99 },
                appearance: look(shot, face),
            })
            .collect();
        let update = tracker.update(shot.pts_ns, &observations, shot.is_cut);
        assert_eq!(update.track_ids.len(), observations.len());
        for (face, id) in shot.faces.iter().zip(&update.track_ids) {
            assert!(id.is_none_or(|id| !ended.contains(&id)), "an ended id came back");
            *seen.entry((face.person, *id)).or_default() += 1;
        }
        for end in &update.ended {
            assert!(ended.insert(end.track_id), "an id ended twice");
        }
        let ids: BTreeSet<u32> = update.track_ids.iter().flatten().copied().collect();
        assert_eq!(ids.len(), update.track_ids.iter().flatten().count(), "an id twice in a frame");
    }
    for end in tracker.finish() {
        assert!(ended.insert(end.track_id), "an id ended twice");
    }
    let mut people_of: BTreeMap<u32, BTreeSet<Option<usize>>> = BTreeMap::new();
    let mut ids_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut tally = Tally::default();
    for ((person, id), n) in &seen {
        if let Some(id) = id {
            people_of.entry(*id).or_default().insert(*person);
            assert!(ended.contains(id), "an id that never ended");
        }
        let Some(person) = person else { continue };
        tally.n_faces += n;
        match id {
            Some(_) => ids_of.entry(*person).or_default().push(*n),
            None => tally.n_open += n,
        }
    }
    tally.n_mixed_ids = people_of.values().filter(|people| people.len() > 1).count();
    tally.n_people = ids_of.len();
    tally.n_ids = ids_of.values().map(Vec::len).sum();
    tally.n_main = ids_of.values().filter_map(|n| n.iter().max()).sum();
    tally
}

/// Runs a scene with made-up people.
fn follow_crowd(shots: &[Shot], n_people: usize, seed: u64) -> Tally {
    let mut dice = Dice(seed ^ 0x5eed);
    let mut people: Vec<Person> = (0..n_people).map(|_| Person::new(&mut dice)).collect();
    follow(shots, |shot, face| {
        let t_s = shot.pts_ns as f32 / 1e9;
        let Some(person) = face.person else { return crowd::no_face(&mut dice) };
        let mut seen = people[person].look(t_s, &mut dice);
        if let Some(other) = face.hidden_by {
            crowd::cover(&mut seen, &people[other].look(t_s, &mut dice), face.hidden);
        }
        seen
    })
}

/// The made-up people vary at least as much as those of the clips that were measured, whose tenths,
/// medians and hundredths these are (see `measure_looks`), and look no more different from each other.
#[test]
fn made_up_people_differ_as_real_ones_do() {
    let mut dice = Dice(1);
    let mut people: Vec<Person> = (0..300).map(|_| Person::new(&mut dice)).collect();
    let mut looks: Vec<Vec<Appearance>> = Vec::new();
    for step in 0..=20_u8 {
        let t_s = f32::from(step) * 0.2;
        looks.push(people.iter_mut().map(|p| p.look(t_s, &mut dice)).collect());
    }
    let quantiles = |mut distances: Vec<f32>| {
        distances.sort_by(f32::total_cmp);
        [0.1, 0.5, 0.9, 0.99].map(|q| distances[(distances.len() as f32 * q) as usize])
    };
    let is_about = |found: [f32; 4], measured: [f32; 4], slack: f32| {
        println!("found {found:.3?}, measured {measured:.3?}");
        found.iter().zip(measured).all(|(a, b)| (a - b).abs() < slack)
    };
    for (lag, measured) in [
        (1, [0.087, 0.162, 0.288, 0.473]),
        (5, [0.151, 0.272, 0.420, 0.588]),
        (20, [0.178, 0.316, 0.482, 0.637]),
    ] {
        let pairs = (0..=20 - lag).flat_map(|k| looks[k].iter().zip(&looks[k + lag]));
        let found = quantiles(pairs.map(|(a, b)| a.distance(b)).collect());
        assert!(is_about(found, measured, 0.1), "one person, lag {lag}");
    }
    let others = (0..300).flat_map(|a| (0..a).map(move |b| (a, b)));
    let found = quantiles(others.map(|(a, b)| looks[0][a].distance(&looks[0][b])).collect());
    assert!(is_about(found, [0.592, 0.693, 0.785, 0.831], 0.1), "two people");
}

/// A slow dissolve from one person to another, both in the same place, must not carry the id along.
#[test]
fn dissolves_end_a_track() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let mut people = [Person::new(&mut dice), Person::new(&mut dice)];
        let length_s = dice.between(0.3, 2.5);
        let mut tracker = Box::new(Tracker::new(Settings::default()));
        let mut ids: [BTreeSet<u32>; 2] = Default::default();
        for step in 0..100_u8 {
            let t_s = f32::from(step) * 0.1;
            let blend = ((t_s - 4.0) / length_s).clamp(0.0, 1.0);
            let [from, to] = people.each_mut().map(|p| p.look(t_s, &mut dice));
            let seen = [Observation {
                detection: Detection {
                    bbox: Rect { x: 100.0, y: 100.0, w: 80.0, h: 100.0 },
                    landmarks: [Point::default(); 5],
                    confidence: 0.99,
                },
                appearance: crowd::blend(&from, &to, blend),
            }];
            let update = tracker.update(i64::from(step) * 100_000_000, &seen, false);
            if blend == 0.0 || blend == 1.0 {
                ids[usize::from(blend == 1.0)].extend(update.track_ids.iter().flatten());
            }
        }
        assert!(ids[0].is_disjoint(&ids[1]), "seed {seed}, {length_s} s: {ids:?}");
        assert!(!ids[1].is_empty(), "seed {seed}: the second person never got an id");
    }
}

#[test]
fn made_up_people_are_never_mixed() {
    let n_seeds: u64 = std::env::var("CANDOR_SEEDS").map_or(5, |n| n.parse().unwrap());
    let mut by_name: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut mixed = Vec::new();
    for seed in 0..n_seeds {
        for n_people in 1..=9 {
            for script in scripts(n_people) {
                let tally = follow_crowd(&play(&script, LENGTH_S, seed), n_people, seed);
                if tally.n_mixed_ids > 0 {
                    mixed.push((script.name, n_people, seed));
                }
                by_name.entry(script.name).or_default().add(&tally);
            }
        }
    }
    for (name, tally) in &by_name {
        tally.print(name);
    }
    assert!(mixed.is_empty(), "mixed ids in (script, people, seed): {mixed:?}");
    for (name, tally) in &by_name {
        let n_ids_limit = if *name == "crossings" { 7 } else { 4 };
        assert!(tally.n_ids <= n_ids_limit * tally.n_people, "{name}: people fall apart");
    }
}

fn detections() -> std::path::PathBuf {
    std::env::var_os("CANDOR_DETECTIONS").expect("CANDOR_DETECTIONS names the detections").into()
}

#[test]
#[ignore = "a measurement: needs pictures and their detections"]
fn measure_looks() {
    roc::print(&looks::read(&detections()));
}

/// The scripts with real people, whose looks are those of a clip's frames, played to and fro.
#[test]
#[ignore = "a measurement: needs clips' frames and their detections"]
fn measure_scenes_of_real_people() {
    let mut clips = looks::read(&detections());
    clips.retain(|clip| clip.len() > 20);
    let n_seeds: u64 = std::env::var("CANDOR_SEEDS").map_or(5, |n| n.parse().unwrap());
    let mut by_name: BTreeMap<&str, Tally> = BTreeMap::new();
    for seed in 0..n_seeds {
        for n_people in 1..=9.min(clips.len()) {
            let mut dice = Dice(seed ^ 0xc11b);
            let mut cast: Vec<usize> = (0..clips.len()).collect();
            let cast: Vec<usize> = (0..n_people).map(|_| cast.swap_remove(dice.below(cast.len()))).collect();
            for script in scripts(n_people) {
                let shots = play(&script, LENGTH_S, seed);
                let tally = follow(&shots, |shot, face| {
                    let Some(person) = face.person else { return crowd::no_face(&mut dice) };
                    let clip = &clips[cast[person]];
                    let step = (shot.pts_ns / 200_000_000) as usize % (2 * clip.len());
                    clip[step.min(2 * clip.len() - 1 - step)].appearance.clone()
                });
                by_name.entry(script.name).or_default().add(&tally);
            }
        }
    }
    for (name, tally) in &by_name {
        tally.print(name);
    }
}

/// Photos of 20 women, several to a photo and so in the same light, as tiles of a call.
#[test]
fn people_of_photos_are_never_mixed() {
    let Some(photos) = photos::read() else { return };
    let mut by_name: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut mixed = Vec::new();
    for n_people in 1..=9 {
        for script in scripts(n_people) {
            let seed = n_people as u64;
            let mut dice = Dice(seed ^ 0xf0f0);
            let mut cast: Vec<usize> = (0..photos.len()).collect();
            let cast: Vec<usize> = (0..n_people).map(|_| cast.swap_remove(dice.below(cast.len()))).collect();
            let mut canvas = photos::Canvas::new(script.is_crossing);
            let shots = play(&script, LENGTH_S / 3.0, seed);
            let tally = follow(&shots, |shot, face| {
                canvas.appearance(shot, face, |person| &photos[cast[person]], &mut dice)
            });
            if tally.n_mixed_ids > 0 {
                mixed.push((script.name, n_people));
            }
            by_name.entry(script.name).or_default().add(&tally);
        }
    }
    for (name, tally) in &by_name {
        tally.print(name);
    }
    assert!(mixed.is_empty(), "mixed ids in (script, people): {mixed:?}");
    for (name, tally) in &by_name {
        let n_ids_limit = if *name == "crossings" { 6 } else { 2 };
        assert!(tally.n_ids <= n_ids_limit * tally.n_people, "{name}: people fall apart");
    }
}

#[test]
#[ignore = "a measurement: for a release build"]
fn measure_update_time() {
    for script in scripts(9) {
        let shots = play(&script, LENGTH_S, 1);
        let mut dice = Dice(1);
        let mut people: Vec<Person> = (0..9).map(|_| Person::new(&mut dice)).collect();
        let mut tracker = Box::new(Tracker::new(Settings::default()));
        let mut spent_us: Vec<f64> = Vec::new();
        for shot in &shots {
            let seen: Vec<Observation> = shot
                .faces
                .iter()
                .map(|face| Observation {
                    detection: Detection {
                        bbox: face.bbox,
                        landmarks: [Point::default(); 5],
                        confidence: 0.99,
                    },
                    appearance: match face.person {
                        Some(person) => people[person].look(shot.pts_ns as f32 / 1e9, &mut dice),
                        None => crowd::no_face(&mut dice),
                    },
                })
                .collect();
            let start = std::time::Instant::now();
            std::hint::black_box(tracker.update(shot.pts_ns, &seen, shot.is_cut));
            spent_us.push(start.elapsed().as_secs_f64() * 1e6);
        }
        spent_us.sort_by(f64::total_cmp);
        let (median, last) = (spent_us[spent_us.len() / 2], spent_us[spent_us.len() - 1]);
        println!("{:20} update: median {median:.0} us, slowest {last:.0} us", script.name);
    }
    println!("a tracker takes {} bytes", size_of::<Tracker>());
}
