//! `trainer-bridge ingest`: the options, the progress and the summary.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use candor::bundle::Bundle;
use candor::engine::{self, Engine};
use candor::follow::{Follower, Look};
use candor::stopwatch::{Stage, Stopwatch};
use candor::verdict::WINDOW;
use candor::{detect, follow};
use indicatif::{ProgressBar, ProgressStyle};

use super::condition::Condition;
use super::duplicates::{self, Pair};
use super::ffmpeg::Ffmpeg;
use super::inputs::{self, PhotoGroup};
use super::merge::{self, Merged, RealPersons};
use super::plan::{Plan, Settings};
use super::run::{self, Options, Shard, Tally};
use crate::files;
use crate::manifest::{self, Split};
use crate::review::decisions;

/// Lines of a list that the summary shows.
const MAX_SHOWN: usize = 20;
/// Bytes of a PNG per pixel, for the estimate: between a sharp crop's and a soft one's.
const PNG_BYTES_PER_PIXEL: f64 = 1.8;

/// Turns labelled videos and photos into a dataset: face crops and manifest.csv.
///
/// Faces are found, followed and cut by the code that candor scans with. Each face gives as many crops as its
/// verdict would rest on, spread evenly over the time that it is seen: a video of one person gives 15, one of two
/// people 15 of each. Of a photo the largest face counts.
///
/// Killed at any moment and run again with the same options, it goes on where it was, and the result is the
/// same. Videos that candor doesn't read go through ffmpeg.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders with metadata.json (FILE -> label REAL or FAKE, split, original, method, group), or folders of
    /// such folders
    #[arg(value_name = "FOLDER", required_unless_present_any = ["photos", "merge"])]
    inputs: Vec<PathBuf>,

    /// The dataset's folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Photos of real people, each as a video of its own. RULE says which are of one person: file (each alone),
    /// folder (those of one folder), before:C (the same name before the last C)
    #[arg(long, value_name = "DIR[=RULE]")]
    photos: Vec<Photos>,

    /// Side of a crop, px
    #[arg(long, value_name = "PX", default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..=2048))]
    size: u32,

    /// What a crop shows about the face's box, as a share of its longer side
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    margin: f32,

    /// Most crops of a face (with --whole-frames: frames of a video)
    #[arg(long, value_name = "N", default_value_t = WINDOW as u64, value_parser = clap::value_parser!(u64).range(1..=WINDOW as u64))]
    per_face: u64,

    /// Most faces of a video: the ones that are longest in it
    #[arg(long, value_name = "N", default_value = "4")]
    max_faces: NonZeroUsize,

    /// Leave out a face of a video with fewer crops than this; candor calls such a face Uncertain
    #[arg(long, value_name = "N", default_value_t = 5)]
    min_looks: usize,

    /// Least longer side of a face, px; candor judges no smaller ones
    #[arg(long, value_name = "PX", default_value_t = 50.0)]
    min_face: f32,

    /// Whole frames instead of faces, each mirrored to a square: a baseline to compare with
    #[arg(long)]
    whole_frames: bool,

    /// Decides who learns and who is measured
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Share of the videos that is validation; people and sources are never torn apart
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    validation: f64,

    /// Take the metadata's split instead: train, and validation and test as validation
    #[arg(long, conflicts_with_all = ["seed", "validation", "photos"])]
    given_split: bool,

    /// Who would learn is measured, and who would be measured learns: the other half of a two-fold cross-validation
    #[arg(long)]
    swap_sides: bool,

    /// What validation is looked at in besides clean: crf28, 360p, crf40-360p... (H.264 by ffmpeg, down to so many
    /// lines first), then found, followed and cut again
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "clean")]
    conditions: Vec<Condition>,

    /// What is learnt from is looked at in besides clean, in the same way
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "clean")]
    train_conditions: Vec<Condition>,

    /// Do every n-th video, from the i-th; the shard that is done last writes the manifest. Shards may share the
    /// folder, or each have one that is copied into one afterwards
    #[arg(long, value_name = "i/n", default_value = "1/1")]
    shard: Shard,

    /// Videos at a time [default: one for each core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,

    /// The ffmpeg program
    #[arg(long, value_name = "PATH", default_value = "ffmpeg")]
    ffmpeg: PathBuf,

    /// Stop before the crops take more room than this: 500M, 50G; each shard has its part of it
    #[arg(long, value_name = "SIZE", default_value = "50G")]
    max_bytes: Size,

    /// Decisions of a review [default: decisions.csv in the dataset's folder]
    #[arg(long, value_name = "FILE")]
    decisions: Option<PathBuf>,

    /// What to do with a person in a fake whom a review calls real
    #[arg(long, value_name = "WHAT", default_value = "drop")]
    real_persons: RealPersons,

    /// Write the manifest without the videos that can't be read here
    #[arg(long)]
    skip_unread: bool,

    /// Only write the manifest anew, from what is done and decided; no inputs are needed
    #[arg(long, conflicts_with_all = ["inputs", "photos", "shard"])]
    merge: bool,
}

/// A folder of photos and the rule by which they are of one person.
#[derive(Clone, Debug)]
struct Photos {
    folder: PathBuf,
    rule: PhotoGroup,
}

impl FromStr for Photos {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((folder, rule)) => Ok(Photos { folder: folder.into(), rule: rule.parse()? }),
            None => Ok(Photos { folder: text.into(), rule: PhotoGroup::File }),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" => Some(1),
            "K" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1 << 30),
            "T" => Some(1_u64 << 40),
            _ => None,
        };
        let bytes = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
        bytes
            .map(Size)
            .ok_or_else(|| format!("expected bytes, or a number with K, M, G or T, found {text:?}"))
    }
}

/// Runs the command.
///
/// # Errors
/// What went wrong, in words; what is done stays done.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (plan, tally, wall) = if args.merge {
        let plan = Plan::read(&args.out)?;
        let plan = plan.with_context(|| format!("{}: no dataset is here", args.out.display()))?;
        (plan, None, Duration::ZERO)
    } else {
        let started = Instant::now();
        let (plan, tally) = ingest(args)?;
        (plan, Some(tally), started.elapsed())
    };
    let decided = match &args.decisions {
        Some(path) => decisions::read(path)?,
        None => decisions::of_dataset(&args.out)?,
    };
    let merged = merge::merge(&args.out, &plan, &decided, args.real_persons)?;
    if let Some(tally) = &tally {
        print_rates(tally, wall);
    }
    print_list("can't be read at all, and count as done", &merged.refused);
    let not_read = tally.as_ref().map(|t| t.not_read.as_slice()).unwrap_or_default();
    if !not_read.is_empty() {
        print_list("are lost here", not_read);
        ensure!(
            args.skip_unread,
            "{} videos can't be read here; give --ffmpeg, or --skip-unread to leave them out",
            not_read.len()
        );
    }
    let is_whole = merged.missing.is_empty() || (args.skip_unread && args.shard.n_shards == 1);
    if !is_whole {
        println!(
            "{} of {} are not done, such as {}: the manifest is written when they are",
            merged.missing.len(),
            plan.units().len(),
            merged.missing[0]
        );
        if args.merge {
            bail!("the dataset isn't whole; --skip-unread takes what is there");
        }
        return Ok(());
    }
    manifest::write(&args.out, &merged.rows)?;
    let pairs = duplicates::find(&args.out, &merged.rows, &merged.hashes)?;
    write_pairs(&args.out, &pairs)?;
    print_summary(args, &plan, &merged, &pairs);
    Ok(())
}

/// Does a shard's work.
fn ingest(args: &Args) -> anyhow::Result<(Plan, Tally)> {
    let settings = settings(args)?;
    let mut found = Vec::new();
    for folder in &args.inputs {
        found.extend(inputs::videos(folder)?);
    }
    for photos in &args.photos {
        found.extend(inputs::photos(&photos.folder, &photos.rule)?);
    }
    let plan = Plan::new(found, settings)?;
    let lock = run::lock(&args.out, args.shard)?;
    let scratch = run::scratch(&args.out, args.shard);
    plan.settle(&args.out, &scratch.join("plan.json"))?;
    let ffmpeg = Ffmpeg::new(&args.ffmpeg).inspect_err(|reason| log::info!("{reason}")).ok();
    warn_of_size(&plan, args.max_bytes);

    // Videos side by side fill the cores by themselves.
    let engine = Engine::new(&engine::Settings { threads: 1, ..engine::Settings::default() })?;
    let look = Look { size_px: args.size, margin: args.margin, min_face_px: args.min_face };
    let follower = Follower::new(&engine, detect::Settings::default(), follow::Settings::default(), look)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let options = Options {
        folder: &args.out,
        shard: args.shard,
        jobs: args.jobs.map_or(cores, NonZeroUsize::get),
        ffmpeg: ffmpeg.as_ref(),
        max_bytes: args.max_bytes.0,
    };
    let progress = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("[{wide_bar}] {pos}/{len} videos, {msg}, {per_sec}, left {eta}")
    {
        progress.set_style(style);
    }
    let tally = run::run(&plan, &follower, &options, &progress);
    progress.finish_and_clear();
    let tally = tally?;
    drop(lock);
    std::fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    Ok((plan, tally))
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let in_range = |name: &str, value: f64, range: std::ops::RangeInclusive<f64>| {
        let (least, most) = (range.start(), range.end());
        ensure!(range.contains(&value), "--{name}: expected {least} to {most}, found {value}");
        Ok(())
    };
    in_range("margin", args.margin.into(), 0.0..=2.0)?;
    in_range("validation", args.validation, 0.0..=0.9)?;
    in_range("min-face", args.min_face.into(), 0.0..=10_000.0)?;
    // The device's rules are the bundle's; the options' defaults must not drift from them unseen.
    let rules = Bundle::embedded()?.manifest().rules();
    if (args.min_looks, args.min_face) != (rules.min_scores, rules.min_face_px) {
        log::info!(
            "the built-in bundle judges {} looks of {} px and more",
            rules.min_scores,
            rules.min_face_px
        );
    }
    Ok(Settings {
        size_px: args.size,
        margin: if args.whole_frames { 0.0 } else { args.margin },
        per_face: usize::try_from(args.per_face)?,
        max_faces: args.max_faces.get(),
        min_looks: args.min_looks,
        min_face_px: args.min_face,
        whole_frames: args.whole_frames,
        seed: args.seed,
        validation: args.validation,
        given_split: args.given_split,
        swapped: args.swap_sides,
        conditions: clean_first(&args.conditions),
        train_conditions: clean_first(&args.train_conditions),
    })
}

/// Clean, then the others of `listed` in order, each once.
fn clean_first(listed: &[Condition]) -> Vec<Condition> {
    let mut conditions = vec![Condition::CLEAN];
    conditions.extend(listed.iter().filter(|condition| !condition.is_clean()));
    conditions[1..].sort();
    conditions.dedup();
    conditions
}

/// Says how much room a face a video would take, where that is more than there may be.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn warn_of_size(plan: &Plan, max_bytes: Size) {
    let crops: usize =
        plan.units().iter().map(|(video, _)| if video.is_photo { 1 } else { plan.settings.per_face }).sum();
    let bytes = crops as f64 * f64::from(plan.settings.size_px).powi(2) * PNG_BYTES_PER_PIXEL;
    if bytes > max_bytes.0 as f64 {
        eprintln!(
            "trainer-bridge: about {} of crops are to come, and --max-bytes allows {}",
            gibibytes(bytes),
            gibibytes(max_bytes.0 as f64)
        );
    }
}

fn gibibytes(bytes: f64) -> String {
    format!("{:.2} GiB", bytes / f64::from(1 << 30))
}

fn write_pairs(folder: &Path, pairs: &[Pair]) -> anyhow::Result<()> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(["train_crop", "validation_crop", "n_bits", "difference"])?;
    for pair in pairs {
        writer.serialize(pair)?;
    }
    Ok(files::replace(&folder.join(duplicates::FILE), &writer.into_inner()?)?)
}

fn print_list(what: &str, list: &[(String, String)]) {
    if list.is_empty() {
        return;
    }
    println!("{} videos {what}:", list.len());
    for (name, reason) in list.iter().take(MAX_SHOWN) {
        println!("  {name}: {reason}");
    }
    if list.len() > MAX_SHOWN {
        println!("  and {} more", list.len() - MAX_SHOWN);
    }
}

/// Speed, and where the time went.
#[expect(clippy::cast_precision_loss, reason = "counts")]
fn print_rates(tally: &Tally, wall: Duration) {
    println!("{} videos done now, {} before", tally.n_done, tally.n_done_before);
    if tally.n_done == 0 {
        return;
    }
    let wall_s = wall.as_secs_f64();
    println!(
        "{} crops of {} frames in {wall_s:.1} s: {:.1} crops/s, {:.0} frames/s",
        tally.n_crops,
        tally.n_frames,
        tally.n_crops as f64 / wall_s,
        tally.n_frames as f64 / wall_s
    );
    let mut all = Stopwatch::default();
    for watch in &tally.watches {
        all.add(watch);
    }
    let mut parts: Vec<(&str, f64)> = Stage::ALL
        .iter()
        .map(|stage| {
            (if *stage == Stage::Report { "png" } else { stage.word() }, all.spent(*stage).0.as_secs_f64())
        })
        .filter(|(_, spent_s)| *spent_s > 0.0)
        .collect();
    if let Some(spent_s) = children_cpu_s() {
        parts.push(("ffmpeg", spent_s));
    }
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let text: Vec<String> = parts.iter().map(|(word, spent_s)| format!("{word} {spent_s:.1} s")).collect();
    println!("CPU time: {} (bound by {})", text.join(", "), parts.first().map_or("nothing", |p| p.0));
}

/// CPU time of the programs that this one has waited for, where Linux tells.
#[expect(clippy::cast_precision_loss, reason = "hundredths of a second")]
fn children_cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; cutime and cstime are fields 16 and 17 (proc(5)).
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> = rest.split_whitespace().skip(13).take(2).filter_map(|t| t.parse().ok()).collect();
    Some(ticks.iter().sum::<u64>() as f64 / 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
fn print_summary(args: &Args, plan: &Plan, merged: &Merged, pairs: &[Pair]) {
    let n_validation = plan.videos.iter().filter(|v| v.split == Split::Validation).count();
    let share = 100.0 * n_validation as f64 / plan.videos.len().max(1) as f64;
    let groups = |split: Split| {
        let of_split = plan.videos.iter().filter(|v| v.split == split).map(|v| v.group.as_str());
        of_split.collect::<std::collections::BTreeSet<_>>().len()
    };
    println!(
        "{} videos and photos in {} groups: {n_validation} ({share:.1} %) in {} groups are validation",
        plan.videos.len(),
        groups(Split::Train) + groups(Split::Validation),
        groups(Split::Validation)
    );
    println!(
        "{} crops of {} faces, {}; {} videos without a face, {} unreadable, {} read through ffmpeg",
        merged.rows.len(),
        merged.n_faces,
        gibibytes(merged.n_bytes as f64),
        merged.n_without_face,
        merged.refused.len(),
        merged.n_through_ffmpeg
    );
    if merged.n_dropped + merged.n_relabelled > 0 {
        println!("decisions: {} crops left out, {} now real", merged.n_dropped, merged.n_relabelled);
    }
    match pairs.first() {
        Some(pair) => println!(
            "{} pairs of videos look alike across the split ({}), most of all {} and {}",
            pairs.len(),
            duplicates::FILE,
            pair.train_crop,
            pair.validation_crop
        ),
        None => println!("no two pictures look alike across the split"),
    }
    println!("{}", args.out.join(manifest::FILE).display());
}
