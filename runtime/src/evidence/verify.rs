//! Checking a log: every link, every signature, every crop, and every score by scoring its crop again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::path::Path;

use image::{ImageFormat, ImageReader, Limits, RgbImage};

use super::EvidenceError;
use super::entry::{Entry, Model, What};
use super::log::{ENTRIES, crop_file, link, read_lines, segment, segments};
use crate::bundle::{Digest, PublicKey};
use crate::verdict::{Rules, judge_face};

/// Largest file and side of a crop; no network sees more.
const MAX_CROP_BYTES: u64 = 4 << 20;
const MAX_CROP_PX: u32 = 1024;
/// Most findings that are told one by one.
const MOST_FINDINGS: usize = 100;

/// Scores a crop again with the classifier of an entry; `None` where that one isn't at hand.
pub type Rescore<'a> = dyn FnMut(&Model, &RgbImage) -> Option<f32> + 'a;

/// What a log was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Entries.
    pub n_entries: u64,
    /// Of them verdicts.
    pub n_verdicts: u64,
    /// Crops whose digest is right.
    pub n_crops: u64,
    /// Scores that their crops gave again, to the bit.
    pub n_rescored: u64,
    /// Scores whose classifier isn't at hand.
    pub n_not_rescored: u64,
    /// Verdicts that the device could not enter, as it says itself.
    pub n_lost: u64,
    /// Entries before the first that is there; they went for their size, and a later entry says so.
    pub n_dropped: u64,
    /// Bytes of an unfinished entry at the end.
    pub n_unfinished_bytes: u64,
    /// Position and digest of the newest entry.
    pub head: Option<(u64, Digest)>,
    /// The key that all entries are signed with.
    pub key: Option<PublicKey>,
    /// What is wrong, for people; the first hundred.
    pub findings: Vec<String>,
    /// How many they are.
    pub n_findings: u64,
}

impl Checked {
    fn find(&mut self, finding: String) {
        self.n_findings += 1;
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }
}

/// What the entries since the last start say.
#[derive(Default)]
struct Context {
    model: Option<Model>,
    settings: Option<Digest>,
}

/// Checks the log in `folder`. Without `key` the log's own word is taken for who signs it. `head` is the digest of an entry
/// that is known to have been written.
///
/// # Errors
/// [`EvidenceError`] when the log can't be read. What is wrong with it is among the findings.
pub fn verify(
    folder: &Path,
    key: Option<PublicKey>,
    head: Option<Digest>,
    rescore: &mut Rescore<'_>,
) -> Result<Checked, EvidenceError> {
    let mut checked = Checked { key, ..Checked::default() };
    let (mut next, mut first, mut dropped): (Option<(u64, Digest)>, _, _) = (None, None, Vec::new());
    let mut is_head_seen = head.is_none();
    let numbers = segments(folder)?;
    for (idx, number) in numbers.iter().enumerate() {
        if idx > 0 && *number != numbers[idx - 1] + 1 {
            checked.find(format!("segment {} is missing", numbers[idx - 1] + 1));
        }
        let of = segment(folder, *number);
        let path = of.join(ENTRIES);
        let (mut context, mut named) = (Context::default(), BTreeSet::new());
        let mut line_no = 0;
        let read = read_lines(&path, |line| {
            line_no += 1;
            let at = format!("segment {number}, line {line_no}");
            if checked.key.is_none() {
                // A segment's first entry names the key that it is signed with.
                checked.key = match Entry::read(line, None).map(|entry| entry.what) {
                    Ok(What::Start { key, .. }) => Some(key),
                    _ => None,
                };
                if checked.key.is_none() {
                    checked.find(format!("{at}: no entry says yet who signs"));
                    return Ok(());
                }
            }
            let digest = link(line);
            let entry = match Entry::read(line, checked.key.as_ref()) {
                Ok(entry) => entry,
                Err(reason) => {
                    checked.find(format!("{at}: {reason}"));
                    next = next.map(|(n, _)| (n.saturating_add(1), digest));
                    return Ok(());
                }
            };
            checked.n_entries += 1;
            is_head_seen |= head == Some(digest);
            match next {
                None => first = Some((entry.n, entry.previous)),
                Some((n, previous)) if (n, previous) != (entry.n, entry.previous) => {
                    checked.find(format!("{at}: entry {}: it doesn't follow the one before", entry.n));
                }
                Some(_) => {}
            }
            next = Some((entry.n + 1, digest));
            checked.head = Some((entry.n, digest));
            if let What::Dropped { last_n, last_sha256, .. } = entry.what {
                dropped.push((last_n.saturating_add(1), last_sha256));
            }
            take(&entry, &at, &of, (&mut context, &mut named, rescore), &mut checked)
        });
        match read {
            Ok(0) => {}
            Ok(n_bytes) if idx + 1 == numbers.len() => checked.n_unfinished_bytes = n_bytes,
            Ok(n_bytes) => checked.find(format!("segment {number}: {n_bytes} bytes of an unfinished entry")),
            Err(EvidenceError::Entry { reason, .. }) => checked.find(format!("segment {number}: {reason}")),
            Err(error) => return Err(error),
        }
        for entry in fs::read_dir(&of).map_err(EvidenceError::io(&of))? {
            let path = entry.map_err(EvidenceError::io(&of))?.path();
            if !path.ends_with(ENTRIES) && !named.contains(&path) {
                checked.find(format!("{}: no entry names it", path.display()));
            }
        }
    }
    match first {
        None => checked.find("there is no entry".to_owned()),
        Some((0, previous)) if previous == Digest::of(b"") => {}
        Some(first) if dropped.contains(&first) => checked.n_dropped = first.0,
        Some((n, _)) => {
            checked.find(format!("entry {n} is the first: no entry says where those before it have gone"));
        }
    }
    if !is_head_seen {
        checked.find("the entry that is known to have been written isn't there".to_owned());
    }
    Ok(checked)
}

/// Checks what one entry says.
fn take(
    entry: &Entry,
    at: &str,
    of: &Path,
    (context, named, rescore): (&mut Context, &mut BTreeSet<std::path::PathBuf>, &mut Rescore<'_>),
    checked: &mut Checked,
) -> Result<(), EvidenceError> {
    match &entry.what {
        What::Start { key, model, settings, .. } => {
            if checked.key.as_ref() != Some(key) {
                checked.find(format!("{at}: it names another key than the one it is signed with"));
            }
            context.model = Some(model.clone());
            context.settings = Some(Digest::of(settings.as_bytes()));
        }
        What::Verdict { event, settings_sha256, model_sha256, scores_bits, looks, n_lost } => {
            checked.n_verdicts += 1;
            checked.n_lost = checked.n_lost.saturating_add(*n_lost);
            if context.settings != Some(*settings_sha256) {
                checked.find(format!("{at}: its settings aren't those of the entries before"));
            }
            let model = context.model.as_ref().filter(|model| model.sha256 == *model_sha256);
            let Some(model) = model else {
                checked.find(format!("{at}: its classifier isn't that of the entries before"));
                return Ok(());
            };
            let scores: Vec<f32> = scores_bits.iter().map(|bits| f32::from_bits(*bits)).collect();
            let told = event.get("verdict").and_then(|verdict| verdict.as_str());
            let judged = judge_face(&scores, false, &rules(model)).verdict;
            if told != Some(judged.word()) {
                let told = told.unwrap_or("no verdict");
                checked.find(format!("{at}: it says {told}, but its scores come to {}", judged.word()));
            }
            for look in looks {
                let path = crop_file(of, look.crop);
                named.insert(path.clone());
                let Some(png) = crop_bytes(&path) else {
                    checked.find(format!("{at}: {} is missing, or no crop", path.display()));
                    continue;
                };
                if Digest::of(&png) != look.crop {
                    checked.find(format!("{at}: {} was changed", path.display()));
                    continue;
                }
                checked.n_crops += 1;
                if !scores_bits.contains(&look.score_bits) {
                    checked.find(format!("{at}: a look's score isn't among the verdict's"));
                }
                let Some(crop) = picture(&png) else {
                    checked.find(format!("{at}: {} is no picture", path.display()));
                    continue;
                };
                match rescore(model, &crop) {
                    None => checked.n_not_rescored += 1,
                    Some(score) if score.to_bits() == look.score_bits => checked.n_rescored += 1,
                    Some(score) => checked.find(format!(
                        "{at}: {}: it says {}, but scored again it is {score}",
                        path.display(),
                        f32::from_bits(look.score_bits)
                    )),
                }
            }
        }
        What::Stop { n_lost } => checked.n_lost = checked.n_lost.saturating_add(*n_lost),
        What::Dropped { .. } | What::Mended { .. } | What::Damaged { .. } => {}
    }
    Ok(())
}

/// The bytes of a crop's file: a plain one of a crop's size.
fn crop_bytes(path: &Path) -> Option<Vec<u8>> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_CROP_BYTES {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_CROP_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The picture of a PNG file, which may claim any size.
fn picture(png: &[u8]) -> Option<RgbImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_CROP_PX);
    limits.max_image_height = Some(MAX_CROP_PX);
    let mut reader = ImageReader::with_format(Cursor::new(png), ImageFormat::Png);
    reader.limits(limits);
    Some(reader.decode().ok()?.into_rgb8())
}

fn rules(model: &Model) -> Rules {
    let [real_below, fake_above] = model.thresholds_bits.map(f32::from_bits);
    Rules { real_below, fake_above, min_scores: model.min_scores, min_face_px: 0.0 }
}
