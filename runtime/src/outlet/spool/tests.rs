use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

const ROOM: u64 = 1 << 20;

fn open(folder: &Path, max_bytes: u64) -> Spool {
    Spool::open(folder, max_bytes, Instant::now()).unwrap()
}

fn text(n: usize) -> String {
    format!("event {n}{}", "!".repeat(n % 7))
}

/// A spool of events `0..n`.
fn filled(folder: &Path, max_bytes: u64, n: usize) -> Spool {
    let mut spool = open(folder, max_bytes);
    (0..n).for_each(|n| spool.append(text(n).as_bytes()).unwrap());
    spool
}

/// All that comes, acknowledged one by one.
fn drain(spool: &mut Spool) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((number, bytes)) = spool.first().unwrap() {
        all.push(String::from_utf8(bytes).unwrap());
        spool.acknowledge(number).unwrap();
    }
    all
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(text).collect()
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == ENDING)).collect();
    found.sort();
    found
}

/// A copy of a spool's files, as a cut would leave them.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn what_is_not_acknowledged_comes_again_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(folder.path(), ROOM, 10);
    for n in 0..4 {
        let (number, bytes) = spool.first().unwrap().unwrap();
        assert_eq!(bytes, text(n).as_bytes());
        // Asked again it is the same, and another's number changes nothing.
        assert_eq!(spool.first().unwrap().unwrap().0, number);
        spool.acknowledge(number + 1).unwrap();
        spool.acknowledge(number).unwrap();
        spool.acknowledge(number).unwrap();
    }
    assert!(matches!(Spool::open(folder.path(), ROOM, Instant::now()), Err(SpoolError::InUse(_))));
    drop(spool);
    let mut spool = open(folder.path(), ROOM);
    assert_eq!(spool.counts(), Counts { n_waiting: 6, ..Counts::default() });
    spool.append(text(10).as_bytes()).unwrap();
    assert_eq!(drain(&mut spool), texts(4..11));
    drop(spool);
    assert_eq!(drain(&mut open(folder.path(), ROOM)), texts(0..0));
}

#[test]
fn a_cut_at_any_byte_of_a_segment_costs_only_what_is_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), ROOM, 8));
    let whole = fs::read(&segments(folder.path())[0]).unwrap();
    let ends: Vec<usize> = (0..8)
        .scan(0, |at, n| {
            *at += usize::try_from(record::stored_bytes(text(n).len())).unwrap();
            Some(*at)
        })
        .collect();
    assert_eq!(ends[7], whole.len());
    for n_bytes in 0..=whole.len() {
        // Cut short, or filled with zeros or with what the disk held before.
        for rest in [None, Some(0), Some(0xa5)] {
            let cut = copy(folder.path());
            let mut bytes = whole[..n_bytes].to_vec();
            if let Some(rest) = rest {
                bytes.resize(whole.len() + 5, rest);
            }
            fs::write(&segments(cut.path())[0], bytes).unwrap();
            let n_whole = ends.iter().filter(|end| **end <= n_bytes).count();
            let mut spool = open(cut.path(), ROOM);
            // What is put after the cut comes after what is left.
            spool.append(b"later").unwrap();
            let mut expected = texts(0..n_whole);
            expected.push("later".into());
            assert_eq!(drain(&mut spool), expected, "{n_bytes} bytes, {rest:?}");
        }
    }
}

#[test]
fn a_lost_or_torn_cursor_repeats_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(folder.path(), ROOM, 9);
    for _ in 0..5 {
        let (number, _) = spool.first().unwrap().unwrap();
        spool.acknowledge(number).unwrap();
    }
    drop(spool);
    let cursor = fs::read(folder.path().join("cursor")).unwrap();
    for n_bytes in 0..=cursor.len() {
        for byte in [0, 0xff] {
            let cut = copy(folder.path());
            let mut torn = cursor[..n_bytes].to_vec();
            torn.resize(cursor.len(), byte);
            fs::write(cut.path().join("cursor"), &torn).unwrap();
            let came = drain(&mut open(cut.path(), ROOM));
            // Each whole entry is one that had arrived; the first entry was there from the start.
            let n_acknowledged = (n_bytes / 16).saturating_sub(1);
            assert_eq!(came, texts(n_acknowledged..9), "{n_bytes} bytes");
        }
    }
    let lost = copy(folder.path());
    fs::remove_file(lost.path().join("cursor")).unwrap();
    let mut spool = open(lost.path(), ROOM);
    assert_eq!(drain(&mut spool), texts(0..9));
}

#[test]
fn a_changed_byte_anywhere_invents_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // Several segments: 64 KiB in 16 parts.
    let long = |n: usize| format!("{n:04}{}", "x".repeat(1300));
    let mut spool = open(folder.path(), 1 << 16);
    (0..9).for_each(|n| spool.append(long(n).as_bytes()).unwrap());
    drop(spool);
    let files = segments(folder.path());
    assert_eq!(files.len(), 3);
    let all: Vec<String> = (0..9).map(long).collect();
    for (idx, file) in files.iter().enumerate() {
        let whole = fs::read(file).unwrap();
        let heads = (0..3).flat_map(|n| (0..24).map(move |at| n * 1324 + at));
        for at in heads.chain([100, 1400, 3000, whole.len() - 1]) {
            let cut = copy(folder.path());
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&segments(cut.path())[idx], bytes).unwrap();
            let mut spool = open(cut.path(), 1 << 16);
            let came = drain(&mut spool);
            let expected: Vec<String> =
                (0..9).filter(|n| n / 3 != idx || n % 3 < at / 1324).map(|n| all[n].clone()).collect();
            assert_eq!(came, expected, "byte {at} of segment {idx}");
            assert_eq!(spool.counts().n_damaged, 1);
        }
        // The same while it is in use.
        let cut = copy(folder.path());
        let mut spool = open(cut.path(), 1 << 16);
        let mut bytes = whole.clone();
        bytes[50] ^= 1;
        fs::write(&segments(cut.path())[idx], bytes).unwrap();
        let expected: Vec<String> = (0..9).filter(|n| n / 3 != idx).map(|n| all[n].clone()).collect();
        assert_eq!(drain(&mut spool), expected);
        assert_eq!((spool.counts().n_damaged, spool.counts().n_dropped), (1, 3));
        spool.append(b"goes on").unwrap();
        assert_eq!(drain(&mut spool), ["goes on"]);
    }
}

#[test]
fn a_disk_that_does_not_give_a_record_holds_up_nothing_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    // Three segments of three.
    let long = |n: usize| format!("{n:04}{}", "x".repeat(1300));
    let mut spool = open(folder.path(), 1 << 16);
    (0..9).for_each(|n| spool.append(long(n).as_bytes()).unwrap());
    assert_eq!(segments(folder.path()).len(), 3);
    let readable = std::mem::replace(
        &mut spool.segments[0].file,
        // A file to write only: every reading fails.
        OpenOptions::new().write(true).open(&segments(folder.path())[0]).unwrap(),
    );
    // What passes costs nothing.
    assert!(spool.first().is_err());
    let worn = std::mem::replace(&mut spool.segments[0].file, readable);
    let (number, bytes) = spool.first().unwrap().unwrap();
    assert_eq!(bytes, long(0).as_bytes());
    spool.acknowledge(number).unwrap();
    // What stays costs this segment.
    spool.segments[0].file = worn;
    for _ in 1..MAX_TRIES {
        assert!(spool.first().is_err());
    }
    assert_eq!(drain(&mut spool), (3..9).map(long).collect::<Vec<_>>());
    assert_eq!(spool.counts(), Counts { n_waiting: 0, n_dropped: 2, n_damaged: 1 });
    spool.append(b"goes on").unwrap();
    assert_eq!(drain(&mut spool), ["goes on"]);
}

#[test]
fn the_disk_is_bounded_and_what_goes_is_the_oldest_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let max_bytes = 1 << 16;
    let mut spool = open(folder.path(), max_bytes);
    let n_all = 20_000;
    for n in 0..n_all {
        spool.append(text(n).as_bytes()).unwrap();
        assert!(spool.n_bytes() <= max_bytes);
        if n % 1000 == 0 {
            let on_disk: u64 = segments(folder.path()).iter().map(|p| p.metadata().unwrap().len()).sum();
            assert!(on_disk <= max_bytes, "{on_disk}");
            assert!(segments(folder.path()).len() <= 18);
        }
    }
    // A share of a sixteenth goes at a time; the rest is full.
    assert!(spool.n_bytes() >= max_bytes * 14 / 16, "{}", spool.n_bytes());
    let counts = spool.counts();
    assert_eq!(counts.n_dropped + counts.n_waiting, n_all as u64);
    assert!(matches!(spool.append(&[b'x'; 1 << 17]), Err(SpoolError::TooLong { .. })));
    drop(spool);
    let mut spool = open(folder.path(), max_bytes);
    let n_kept = usize::try_from(counts.n_waiting).unwrap();
    assert_eq!(drain(&mut spool), texts(n_all - n_kept..n_all));
    // A smaller limit is kept from the start.
    drop(spool);
    drop(filled(folder.path(), 1 << 17, 3000));
    let spool = open(folder.path(), 1 << 16);
    assert!(spool.n_bytes() <= 1 << 16);
    assert_eq!(spool.counts().n_waiting + spool.counts().n_dropped, 3000);
}

#[test]
fn a_record_that_was_dropped_while_it_was_sent_takes_no_other_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = filled(folder.path(), 1 << 16, 10);
    let (number, _) = spool.first().unwrap().unwrap();
    (10..5000).for_each(|n| spool.append(text(n).as_bytes()).unwrap());
    spool.acknowledge(number).unwrap();
    let counts = spool.counts();
    assert_eq!(counts.n_waiting + counts.n_dropped, 5000);
    let n_kept = usize::try_from(counts.n_waiting).unwrap();
    assert_eq!(drain(&mut spool), texts(5000 - n_kept..5000));
}

#[test]
fn the_cursor_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 1 << 16);
    for n in 0..10_000 {
        spool.append(text(n).as_bytes()).unwrap();
        assert_eq!(drain(&mut spool), texts(n..n + 1));
    }
    assert!(fs::metadata(folder.path().join("cursor")).unwrap().len() <= 4096 * 16);
    assert!(spool.n_bytes() <= (1 << 16) / 8, "what has arrived goes: {}", spool.n_bytes());
}

/// What may happen to a spool.
#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Send,
    Reopen,
    /// The end of the newest segment is gone with a cut.
    Cut(u16),
    LoseCursor,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u8>().prop_map(Step::Append),
        5 => Just(Step::Send),
        1 => Just(Step::Reopen),
        1 => (0..400_u16).prop_map(Step::Cut),
        1 => Just(Step::LoseCursor),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A queue in memory says what must come; events that were sent may come again only after the cursor was lost.
    #[test]
    fn whatever_happens_all_that_waits_comes_in_order(steps in prop::collection::vec(step(), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path(), ROOM);
        // Number of an event, and its bytes in the segment.
        let mut waiting: VecDeque<(usize, u64)> = VecDeque::new();
        let mut sent = Vec::new();
        let mut n_made = 0;
        for step in steps {
            match step {
                Step::Append(length) => {
                    let event = format!("{n_made:06}{}", "x".repeat(usize::from(length)));
                    spool.append(event.as_bytes()).unwrap();
                    waiting.push_back((n_made, record::stored_bytes(event.len())));
                    n_made += 1;
                }
                Step::Send => match spool.first().unwrap() {
                    None => prop_assert!(waiting.is_empty()),
                    Some((number, bytes)) => {
                        let n: usize = std::str::from_utf8(&bytes[..6]).unwrap().parse().unwrap();
                        if waiting.front().is_some_and(|(first, _)| *first == n) {
                            waiting.pop_front();
                        } else {
                            prop_assert!(sent.contains(&n), "{n} was never there, or is out of order");
                        }
                        sent.push(n);
                        spool.acknowledge(number).unwrap();
                    }
                },
                Step::Reopen => {
                    drop(spool);
                    spool = open(folder.path(), ROOM);
                }
                Step::Cut(n_bytes) => {
                    drop(spool);
                    if let Some(last) = segments(folder.path()).last() {
                        let file = OpenOptions::new().write(true).open(last).unwrap();
                        let length = file.metadata().unwrap().len();
                        file.set_len(length.saturating_sub(u64::from(n_bytes))).unwrap();
                        // One segment holds all of it, since there is room for that.
                        let mut n_left = u64::from(n_bytes);
                        while let Some((_, stored)) = waiting.back().copied().filter(|_| n_left > 0) {
                            waiting.pop_back();
                            n_left = n_left.saturating_sub(stored);
                        }
                    }
                    spool = open(folder.path(), ROOM);
                }
                Step::LoseCursor => {
                    drop(spool);
                    fs::remove_file(folder.path().join("cursor")).unwrap();
                    spool = open(folder.path(), ROOM);
                }
            }
        }
        let came: Vec<usize> = drain(&mut spool).iter().map(|event| event[..6].parse().unwrap()).collect();
        let n_waiting = waiting.len();
        prop_assert!(came.len() >= n_waiting);
        let (again, rest) = came.split_at(came.len() - n_waiting);
        prop_assert!(rest.iter().eq(waiting.iter().map(|(n, _)| n)), "{came:?} {waiting:?}");
        prop_assert!(again.iter().all(|n| sent.contains(n)), "{again:?}");
        prop_assert!(came.is_sorted(), "{came:?}");
    }
}
