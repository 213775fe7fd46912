//! `trainer-bridge channel`: the small file that says which bundle the devices that follow it should have.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use candor::bundle::{
    Channel, Digest, KeyList, Offer, Purpose, Signed, Signs, UnverifiedBundle, UnverifiedChannel,
    read_key_list,
};
use clap::Args;

use super::command::{in_days, now_unix_s};
use super::replace;

/// Write a channel (models/CHANNEL.md): which bundle devices should have; to be signed with `sign`.
#[derive(Debug, Args)]
pub struct MakeChannel {
    /// The signed bundle.
    bundle: PathBuf,
    /// The channel; one that is there is followed by one with the next serial.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The key list, signed by root keys, with a key that signs channels.
    #[arg(long, value_name = "FILE")]
    key_list: PathBuf,
    /// The channel's name, as devices' configurations have it.
    #[arg(long, default_value = "stable")]
    name: String,
    /// Where the bundle will lie: an https address, or a path relative to the channel's own [default: its file name].
    #[arg(long)]
    url: Option<String>,
    /// Share of the devices that take it now, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
    rollout: f64,
    /// How long devices believe it; sign a new one before.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    valid_days: u64,
    /// Higher than every one before it [default: one more than that of the file in --out].
    #[arg(long, value_name = "N")]
    serial: Option<u64>,
}

/// Runs `channel`.
///
/// # Errors
/// When the bundle isn't signed, the list has no key for channels, or a value makes no sense.
pub fn make_channel(args: &MakeChannel) -> anyhow::Result<()> {
    let list = File::open(&args.key_list).with_context(|| args.key_list.display().to_string())?;
    let key_list = read_key_list(list).with_context(|| args.key_list.display().to_string())?;
    let listed: KeyList = serde_json::from_slice(&key_list.text).context("key list")?;
    ensure!(
        listed.keys.iter().any(|key| key.signs == Signs::Channels),
        "{}: expected a key that signs channels (key-list --channel-key), found none",
        args.key_list.display()
    );
    let channel = Channel {
        format: 1,
        name: args.name.clone(),
        serial: args.serial.map_or_else(|| next_serial(&args.out), Ok)?,
        made_unix_s: now_unix_s()?,
        expires_unix_s: in_days(args.valid_days)?,
        rollout_percent: args.rollout,
        bundle: offer(&args.bundle, args.url.clone())?,
    };
    let text = serde_json::to_vec(&channel)?;
    // What a device would refuse is better refused here.
    let channel = Channel::from_json(&text)?;
    let file = UnverifiedChannel { key_list, channel: Signed::new(Purpose::Channel, text) };
    replace(&args.out, |out| file.write(out))?;
    let (out, name, serial, percent) =
        (args.out.display(), &channel.name, channel.serial, channel.rollout_percent);
    println!(
        "{out}: {name}, serial {serial}, {percent} % of devices, {}, not signed yet",
        channel.bundle.url
    );
    Ok(())
}

fn offer(path: &Path, url: Option<String>) -> anyhow::Result<Offer> {
    let named = || path.display().to_string();
    let head = UnverifiedBundle::read(File::open(path).with_context(named)?)?;
    let is_signed = !head.head().manifest.signatures.is_empty();
    ensure!(is_signed, "{}: expected a signed bundle, found none: signing changes its SHA-256", named());
    let url = match (url, path.file_name().and_then(|name| name.to_str())) {
        (Some(url), _) => url,
        (None, Some(name)) => name.to_owned(),
        (None, None) => bail!("{}: expected a name that is UTF-8, or --url", named()),
    };
    let size_bytes = fs::metadata(path).with_context(named)?.len();
    let sha256 = Digest::of_reader(File::open(path).with_context(named)?).with_context(named)?;
    Ok(Offer { url, size_bytes, sha256 })
}

/// One more than that of the channel in `path`; 1 where there is none.
fn next_serial(path: &Path) -> anyhow::Result<u64> {
    if !path.exists() {
        return Ok(1);
    }
    let named = || path.display().to_string();
    let before = UnverifiedChannel::read(File::open(path).with_context(named)?).with_context(named)?;
    Ok(Channel::from_json(&before.channel.text).with_context(named)?.serial.saturating_add(1))
}
