use super::*;
use crate::geom::Point;

const SECOND_NS: i64 = 1_000_000_000;

/// Somebody, told apart by colour, at `x`.
fn somebody(person: u8, x: f32) -> Observation {
    let cell = [person % 2 * 200, person % 10 * 25, person / 10 * 25];
    Observation {
        detection: Detection {
            bbox: Rect { x, y: 50.0, w: 80.0, h: 100.0 },
            landmarks: [Point::default(); 5],
            confidence: 0.99,
        },
        appearance: Appearance { head: [cell; 64], body: [cell; 24] },
    }
}

fn tracker() -> Box<Tracker> {
    Box::new(Tracker::new(Settings::default()))
}

#[test]
fn two_who_change_places_keep_their_ids() {
    let mut tracker = tracker();
    let first = tracker.update(0, &[somebody(1, 0.0), somebody(38, 500.0)], false);
    assert_eq!(first.track_ids[..], [Some(1), Some(2)]);
    let swapped = [somebody(38, 0.0), somebody(1, 500.0)];
    let second = tracker.update(SECOND_NS / 10, &swapped, false);
    assert_eq!(second.track_ids[..], [Some(2), Some(1)]);
    assert!(second.ended.is_empty());
}

#[test]
fn look_alikes_keep_their_ids_in_place_and_lose_them_at_a_cut() {
    let mut tracker = tracker();
    let twins = [somebody(1, 0.0), somebody(1, 500.0)];
    for step in 0..5 {
        let update = tracker.update(step * SECOND_NS / 10, &twins, false);
        assert_eq!(update.track_ids[..], [Some(1), Some(2)]);
    }
    let after_cut = tracker.update(SECOND_NS, &twins, true);
    assert_eq!(after_cut.track_ids[..], [None, None]);
    let later = tracker.update(3 * SECOND_NS, &twins, false);
    assert_eq!(later.track_ids[..], [Some(3), Some(4)]);
}

#[test]
fn a_face_found_twice_gets_one_id() {
    let update = tracker().update(0, &[somebody(1, 0.0), somebody(1, 5.0)], false);
    assert_eq!(update.track_ids[..], [Some(1), None]);
}

#[test]
fn tracks_end_once_after_their_time() {
    let mut tracker = tracker();
    for step in 0..4 {
        tracker.update(step * SECOND_NS / 10, &[somebody(1, 0.0)], false);
    }
    assert!(tracker.update(60 * SECOND_NS, &[], false).ended.is_empty());
    let ended = tracker.update(61 * SECOND_NS, &[], false).ended;
    let expected = Ended { track_id: 1, first_ns: 0, last_ns: 3 * SECOND_NS / 10, n_observations: 4 };
    assert_eq!(ended[..], [expected]);
    assert!(tracker.finish().is_empty());
}

#[test]
fn the_oldest_makes_room() {
    let mut tracker = tracker();
    let mut ended = std::vec::Vec::new();
    for n in 0..100_u8 {
        let stranger = somebody(n, f32::from(n) * 200.0);
        let update = tracker.update(i64::from(n) * SECOND_NS / 100, &[stranger], true);
        assert_eq!(update.track_ids[..], [Some(u32::from(n) + 1)]);
        ended.extend(update.ended.iter().map(|e| e.track_id));
    }
    assert_eq!(ended, std::vec::Vec::from_iter(1..=36));
    ended.extend(tracker.finish().iter().map(|e| e.track_id));
    ended.sort_unstable();
    assert_eq!(ended, std::vec::Vec::from_iter(1..=100));
}

#[test]
fn a_crowd_beyond_capacity_is_cut_short() {
    let crowd: std::vec::Vec<Observation> = (0..40).map(|n| somebody(n, f32::from(n) * 200.0)).collect();
    let mut tracker = tracker();
    assert_eq!(tracker.update(0, &crowd, false).track_ids.len(), MAX_FACES);
    let again = tracker.update(SECOND_NS / 10, &crowd, false);
    assert_eq!(again.track_ids[31], Some(32));
}

#[test]
fn broken_boxes_and_times_do_no_harm() {
    let mut tracker = tracker();
    for (pts_ns, x, w) in [
        (0, f32::NAN, 80.0),
        (i64::MAX, 0.0, f32::INFINITY),
        (i64::MIN, f32::MAX, 80.0),
        (0, f32::MIN, 0.0),
        (i64::MAX, 0.0, 80.0),
    ] {
        let mut seen = somebody(1, x);
        seen.detection.bbox.w = w;
        let update = tracker.update(pts_ns, &[seen], false);
        assert_eq!(update.track_ids[0].is_none(), !(x + w).is_finite());
        assert!(tracker.predict(pts_ns).len() <= MAX_TRACKS);
    }
}

#[test]
fn only_faces_in_the_picture_are_expected() {
    let mut tracker = tracker();
    tracker.update(0, &[somebody(1, 0.0)], false);
    let expected = tracker.predict(SECOND_NS / 10);
    assert_eq!(expected[..], [Expected { track_id: 1, bbox: somebody(1, 0.0).detection.bbox }]);
    assert!(tracker.predict(SECOND_NS).is_empty());
    tracker.update(SECOND_NS / 10, &[], true);
    assert!(tracker.predict(SECOND_NS / 10).is_empty());
}
