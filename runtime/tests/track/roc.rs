//! How well looks tell people apart: the figures behind the thresholds of `track::Settings`.

use std::collections::BTreeMap;

use candor::appearance::Appearance;

use crate::looks::Look;

const SHARES: [f64; 9] = [0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999];
const LIMITS: [f32; 8] = [0.25, 0.3, 0.33, 0.36, 0.40, 0.46, 0.5, 0.55];

fn print_quantiles(name: &str, mut distances: Vec<f32>) {
    if distances.is_empty() {
        return;
    }
    distances.sort_by(f32::total_cmp);
    print!("{name:26} n {:7} |", distances.len());
    for share in SHARES {
        let at = (distances.len() as f64 * share) as usize;
        print!(" q{share} {:.3}", distances[at]);
    }
    print!(" | share within");
    for limit in LIMITS {
        let n = distances.partition_point(|d| *d <= limit);
        print!(" {limit}: {:.5}", n as f64 / distances.len() as f64);
    }
    println!();
}

/// Prints quantiles of the distance between looks of one person over a lag, and of different people.
pub(crate) fn print(people: &[Vec<Look>]) {
    let mut same: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
    for clip in people {
        for (idx, b) in clip.iter().enumerate() {
            for a in &clip[..idx] {
                let (Some(from_ms), Some(to_ms)) = (a.pts_ms, b.pts_ms) else { continue };
                // Clips have cuts; a face that is elsewhere may be somebody else's.
                let (p, q) = (a.bbox.center(), b.bbox.center());
                if (p.x - q.x).hypot(p.y - q.y) < a.bbox.w {
                    let lag = (to_ms - from_ms + 50) / 100;
                    same.entry(lag).or_default().push(a.appearance.distance(&b.appearance));
                }
            }
        }
    }
    for lag in [2, 4, 10, 20, 40, 100, 200] {
        let name = format!("one person, {:.1} s apart", lag as f64 / 10.0);
        print_quantiles(&name, same.remove(&lag).unwrap_or_default());
    }
    let (mut clips, mut photos, mut gray) = (Vec::new(), Vec::new(), Vec::new());
    let is_gray = |a: &Appearance| a.head.iter().all(|c| c[1].abs_diff(128) + c[2].abs_diff(128) < 6);
    for (idx, p) in people.iter().enumerate() {
        for (a, b) in people[..idx].iter().flatten().flat_map(|a| p.iter().map(move |b| (a, b))) {
            let distance = a.appearance.distance(&b.appearance);
            match (is_gray(&a.appearance) && is_gray(&b.appearance), a.pts_ms, b.pts_ms) {
                (true, ..) => gray.push(distance),
                (_, Some(_), Some(_)) => clips.push(distance),
                (_, None, None) => photos.push(distance),
                _ => {}
            }
        }
    }
    print_quantiles("two people, clips", clips);
    print_quantiles("two people, photos", photos);
    print_quantiles("two people, both grey", gray);
}
