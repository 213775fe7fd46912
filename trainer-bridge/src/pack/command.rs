//! `trainer-bridge keygen`, `key-list`, `pack` and `sign`; `channel` has a file of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use candor::bundle::{
    Bundle, KeyList, ListedKey, PublicKey, Purpose, Signed, Signs, Version, read_key_list, write_key_list,
};
use clap::Args;
use zeroize::Zeroizing;

use super::{Terms, key_file, pack, patterns, pictures, sign};

const DAY_S: u64 = 86_400;

/// How a private key's passphrase is given: a file, else `CANDOR_PASSPHRASE`, else the terminal.
#[derive(Debug, Args)]
pub struct Passphrase {
    /// A file whose first line is the passphrase; without it CANDOR_PASSPHRASE, else the terminal is asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    fn read(&self, prompt: &str) -> anyhow::Result<Zeroizing<String>> {
        let text = match &self.passphrase_file {
            Some(path) => fs::read_to_string(path).with_context(|| path.display().to_string())?,
            None => match std::env::var("CANDOR_PASSPHRASE") {
                Ok(text) => text,
                Err(_) => rpassword::prompt_password(prompt).context("passphrase: the terminal")?,
            },
        };
        let text = Zeroizing::new(text);
        Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
    }
}

/// Make a key pair: NAME.key, encrypted, and NAME.pub.
#[derive(Debug, Args)]
pub struct Keygen {
    /// Where to: NAME.key and NAME.pub are written, and never over others.
    name: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Write the list of keys that may sign bundles and channels; root keys sign it with `sign`.
#[derive(Debug, Args)]
pub struct MakeKeyList {
    /// The .pub files of the signing keys.
    #[arg(required = true)]
    keys: Vec<PathBuf>,
    /// The .pub file of a key that signs channels instead; may be given several times.
    #[arg(long, value_name = "PUB")]
    channel_key: Vec<PathBuf>,
    /// The list.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Higher than every list before it.
    #[arg(long, value_name = "N")]
    serial: u64,
    /// How many of the keys must sign a bundle.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    /// How long the keys may sign from now.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    valid_days: u64,
}

/// Pack a bundle's folder into one file, to be signed with `sign`.
#[derive(Debug, Args)]
pub struct Pack {
    /// manifest.json and the model that it names; CARD.md and LICENSE go along.
    folder: PathBuf,
    /// The bundle.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The key list, signed by root keys.
    #[arg(long, value_name = "FILE")]
    key_list: PathBuf,
    /// The .pub file of the key that is to sign.
    #[arg(long, value_name = "FILE")]
    signer: PathBuf,
    /// Devices that have confirmed this bundle take none with a lower number.
    #[arg(long, value_name = "N", default_value_t = 0)]
    security_epoch: u32,
    /// How long it may be installed from now.
    #[arg(long, value_name = "DAYS", default_value_t = 180)]
    valid_days: u64,
    /// The oldest candor that runs it; this one's version by default.
    #[arg(long, value_name = "VERSION")]
    minimum_runtime: Option<String>,
    /// A crop of the input's size whose logits are kept; four patterns of nobody's face by default.
    #[arg(long, value_name = "PNG")]
    golden: Vec<PathBuf>,
}

/// Add a signature to a bundle, a key list or a channel.
#[derive(Debug, Args)]
pub struct Sign {
    /// The file; it is replaced.
    file: PathBuf,
    /// The private key: a signing key for a bundle or a channel, a root key for a list.
    #[arg(long, value_name = "NAME.key")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut file = name.as_os_str().to_owned();
    file.push(ending);
    file.into()
}

fn public_key(path: &Path) -> anyhow::Result<PublicKey> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.trim().parse().with_context(|| path.display().to_string())
}

pub(super) fn now_unix_s() -> anyhow::Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_secs())
}

pub(super) fn in_days(days: u64) -> anyhow::Result<u64> {
    Ok(now_unix_s()?.saturating_add(days.saturating_mul(DAY_S)))
}

/// Runs `keygen`.
///
/// # Errors
/// When a file is there already or can't be written, or the passphrase is too short.
pub fn keygen(args: &Keygen) -> anyhow::Result<()> {
    let (private, public) = (with_ending(&args.name, ".key"), with_ending(&args.name, ".pub"));
    for path in [&private, &public] {
        ensure!(!path.exists(), "{}: expected no file, found one", path.display());
    }
    let passphrase = args.passphrase.read(&format!("Passphrase of {}: ", private.display()))?;
    let key = key_file::create(&private, &passphrase)?;
    fs::write(&public, format!("{key}\n")).with_context(|| public.display().to_string())?;
    println!("{}: key {}, public {key}", private.display(), key.id());
    Ok(())
}

/// Runs `key-list`.
///
/// # Errors
/// When a key can't be read or the list makes no sense.
pub fn key_list(args: &MakeKeyList) -> anyhow::Result<()> {
    let expires_unix_s = in_days(args.valid_days)?;
    let listed = |(path, signs): (&PathBuf, Signs)| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ListedKey { name, public: public_key(path)?, expires_unix_s, signs })
    };
    let of_bundles = args.keys.iter().map(|path| (path, Signs::Bundles));
    let of_channels = args.channel_key.iter().map(|path| (path, Signs::Channels));
    let keys = of_bundles.chain(of_channels).map(listed).collect::<anyhow::Result<Vec<_>>>()?;
    let list = KeyList::new(args.serial, args.threshold, keys)?;
    let signed = Signed::new(Purpose::KeyList, serde_json::to_vec(&list)?);
    let mut file = File::create(&args.out).with_context(|| args.out.display().to_string())?;
    write_key_list(&signed, &mut file).with_context(|| args.out.display().to_string())?;
    println!("{}: serial {}, {} keys, not signed yet", args.out.display(), list.serial, list.keys.len());
    Ok(())
}

/// Runs `pack`.
///
/// # Errors
/// When something of the folder is wrong or the network doesn't run.
pub fn make(args: &Pack) -> anyhow::Result<()> {
    let list = File::open(&args.key_list).with_context(|| args.key_list.display().to_string())?;
    let list = read_key_list(list).with_context(|| args.key_list.display().to_string())?;
    let minimum_runtime =
        args.minimum_runtime.clone().map(Version::try_from).transpose().map_err(anyhow::Error::msg)?;
    let terms = Terms {
        key_id: public_key(&args.signer)?.id(),
        security_epoch: args.security_epoch,
        expires_unix_s: in_days(args.valid_days)?,
        minimum_runtime,
    };
    let size_px = Bundle::open(&args.folder)?.manifest().input.size_px;
    let crops = if args.golden.is_empty() { patterns(size_px) } else { pictures(&args.golden, size_px)? };
    let manifest = pack(&args.folder, &crops, &terms, list, &args.out)?;
    println!("{}: {} {}, not signed yet", args.out.display(), manifest.id, manifest.version);
    Ok(())
}

/// Runs `sign`.
///
/// # Errors
/// When the key can't be opened or the file is neither a bundle nor a key list nor a channel.
pub fn add_signature(args: &Sign) -> anyhow::Result<()> {
    let passphrase = args.passphrase.read(&format!("Passphrase of {}: ", args.key.display()))?;
    let key = key_file::open(&args.key, &passphrase)?;
    let what = match sign(&args.file, &key)? {
        Purpose::KeyList => "key list",
        Purpose::Manifest => "bundle",
        Purpose::Channel => "channel",
    };
    println!("{}: {what} signed by key {}", args.file.display(), PublicKey::of(&key).id());
    Ok(())
}
