//! `candor verify-log`: is an evidence log what was written?

use std::path::PathBuf;
use std::process::ExitCode;

use candor::bundle::{Bundle, Digest, PublicKey};
use candor::classify::Classifier;
use candor::engine::Engine;
use candor::evidence::entry::Model;
use candor::evidence::{Checked, verify};
use clap::Args;
use image::RgbImage;
use serde_json::json;

use crate::chosen;
use crate::cli::Networks;
use crate::scan::exit;

const EXAMPLES: &str = "\
Examples:
  candor verify-log /var/lib/candor/evidence --key 3b6a27bc...   signed by the device whose key this is
  candor verify-log evidence/ --head 9f86d081...                 and the entry with this SHA-256 is in it

Without --key the log's own word is taken for whose it is. Scores are checked by scoring the crops again, with the
built-in classifier and that of --bundle. A log whose newest entries were cut off is whole: only --head tells.

Exit codes:
  0  every entry and crop is what was written, and every score whose classifier is at hand
  2  the command line is wrong, or the log can't be read
  5  the log isn't what was written";

/// Arguments of `candor verify-log`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyLog {
    /// The log's folder.
    folder: PathBuf,
    /// The device's public key, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    key: Option<PublicKey>,
    /// SHA-256 of an entry that is known to have been written.
    #[arg(long, value_name = "HEX", value_parser = digest)]
    head: Option<Digest>,
    /// Print JSON (described in runtime/JSON.md).
    #[arg(long)]
    json: bool,
    /// Which classifier else, and what runs it.
    #[command(flatten)]
    networks: Networks,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::try_from(text.to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &VerifyLog) -> ExitCode {
    match checked(args) {
        Ok(checked) => {
            if args.json {
                println!("{}", as_json(&checked));
            } else {
                print(&checked, args.key.is_some());
            }
            ExitCode::from(if checked.n_findings == 0 { 0 } else { exit::REFUSED })
        }
        Err(message) => {
            eprintln!("candor: {message}");
            ExitCode::from(exit::USAGE)
        }
    }
}

fn checked(args: &VerifyLog) -> Result<Checked, String> {
    let config = args.networks.settings().map_err(|error| error.to_string())?;
    let engine = Engine::new(&config.engine).map_err(|error| error.to_string())?;
    let here = chosen::bundle_to_look_at(args.networks.bundle.as_deref(), &config.slots)?;
    for note in &here.notes {
        eprintln!("candor: {note}");
    }
    let mut bundles = vec![here.bundle, Bundle::embedded().map_err(|error| error.to_string())?];
    bundles.dedup_by_key(|bundle| bundle.manifest().clone());
    let mut classifiers: Vec<(Model, Classifier)> = Vec::new();
    for bundle in &bundles {
        let manifest = bundle.manifest();
        let classifier = Classifier::new(&engine, manifest, bundle.model());
        classifiers.push((Model::of(manifest), classifier.map_err(|error| error.to_string())?));
    }
    let mut rescore = |model: &Model, crop: &RgbImage| {
        let same =
            |known: &Model| known.sha256 == model.sha256 && known.calibration_bits == model.calibration_bits;
        let (_, classifier) = classifiers.iter_mut().find(|(known, _)| same(known))?;
        // A crop of another size than the network's has no score.
        Some(classifier.score(crop).unwrap_or(f32::NAN))
    };
    verify(&args.folder, args.key, args.head, &mut rescore).map_err(|error| error.to_string())
}

fn print(checked: &Checked, is_key_known: bool) {
    for finding in &checked.findings {
        println!("{finding}");
    }
    let more = checked.n_findings - checked.findings.len() as u64;
    if more > 0 {
        println!("and {more} more");
    }
    println!(
        "{} entries, {} verdicts, {} crops; {} scores are the same scored again, {} not tried for want of their classifier",
        checked.n_entries, checked.n_verdicts, checked.n_crops, checked.n_rescored, checked.n_not_rescored
    );
    for (n, what) in [
        (checked.n_dropped, "older entries went for their size"),
        (checked.n_lost, "verdicts could not be entered, as the device says itself"),
        (checked.n_unfinished_bytes, "bytes of an unfinished entry at the end"),
    ] {
        if n > 0 {
            println!("{n} {what}");
        }
    }
    if let Some(key) = &checked.key {
        println!("signed by {key}{}", if is_key_known { "" } else { ", by the log's own word" });
    }
    if let Some((n, head)) = checked.head {
        println!("entry {n} is the newest: {head}");
    }
    println!("=> {}", if checked.n_findings == 0 { "as it was written" } else { "NOT as it was written" });
}

fn as_json(checked: &Checked) -> serde_json::Value {
    json!({
        "schema": candor::report::json::SCHEMA,
        "is_as_written": checked.n_findings == 0,
        "n_entries": checked.n_entries,
        "n_verdicts": checked.n_verdicts,
        "n_crops": checked.n_crops,
        "n_rescored": checked.n_rescored,
        "n_not_rescored": checked.n_not_rescored,
        "n_dropped": checked.n_dropped,
        "n_lost": checked.n_lost,
        "n_unfinished_bytes": checked.n_unfinished_bytes,
        "head": checked.head.map(|(n, digest)| json!({ "n": n, "sha256": digest })),
        "key": checked.key,
        "n_findings": checked.n_findings,
        "findings": checked.findings,
    })
}
