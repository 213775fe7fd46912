//! From a bundle's folder to a signed file: keys, key lists, golden outputs, signatures.
//!
//! The file's format stands in `models/FORMAT.md`; `candor::bundle` reads and writes it, so that what signs and what
//! verifies are the same code.

pub mod assemble;
pub mod channel;
pub mod command;
pub mod key_file;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use candor::bundle::{
    Blob, Bundle, BundleError, Channel, ChannelError, Digest, Golden, Head, KeyId, Manifest, Purpose,
    Release, Signed, TrustError, UnverifiedBundle, UnverifiedChannel, Version, read_key_list, write_bundle,
    write_key_list,
};
use candor::classify::Classifier;
use candor::engine::{Engine, EngineError};
use ed25519_dalek::SigningKey;
use image::RgbImage;
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::files::{self, FileError};

/// Documents that a bundle takes along where its folder has them.
const DOCUMENTS: [&str; 2] = ["CARD.md", "LICENSE"];

/// Why a bundle or a list isn't packed or signed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The operating system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder, or the file to be signed, is wrong.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The channel is wrong.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The key list is wrong.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The network doesn't run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A golden picture has another size than the network's input.
    #[error("golden {path}: expected {expected} px squared, found {found:?}")]
    Size {
        /// The picture.
        path: PathBuf,
        /// The input's side.
        expected: u32,
        /// Width and height.
        found: (u32, u32),
    },
    /// A picture can't be read.
    #[error("golden {path}: {cause}")]
    Picture {
        /// The picture.
        path: PathBuf,
        /// The decoder's reason.
        cause: image::ImageError,
    },
    /// The network gives no number.
    #[error("golden {golden_idx}: expected numbers, found logits {found:?}")]
    NotFinite {
        /// Which, from 0.
        golden_idx: usize,
        /// What it gives.
        found: [f32; 2],
    },
    /// What was packed isn't what its reader takes.
    #[error("manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// The program has no version.
    #[error("{0}")]
    Version(String),
}

/// What a release is to say beyond the folder's manifest.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The key that is to sign it.
    pub key_id: KeyId,
    /// Devices that have confirmed it take nothing lower.
    pub security_epoch: u32,
    /// When it may no longer be installed, s since 1970.
    pub expires_unix_s: u64,
    /// The oldest program that runs it; this one without.
    pub minimum_runtime: Option<Version>,
}

/// Crops for golden outputs: noise, dark noise, stripes and a gradient, the same each time, of nobody's face.
pub fn patterns(size_px: u32) -> Vec<RgbImage> {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(size_px));
    let mut noise = |shift: u32| {
        RgbImage::from_fn(size_px, size_px, |_, _| {
            let [red, green, blue, _] = rng.next_u32().to_le_bytes();
            image::Rgb([red >> shift, green >> shift, blue >> shift])
        })
    };
    let (bright, dark) = (noise(0), noise(2));
    let low = |n: u32| n.to_le_bytes()[0];
    let stripes =
        RgbImage::from_fn(size_px, size_px, |x, y| image::Rgb([low(x * 16), low(y * 16), low((x + y) * 8)]));
    let part = |n: u32| low(n * 255 / size_px.max(1));
    let gradient = RgbImage::from_fn(size_px, size_px, |x, y| image::Rgb([part(x), part(y), 255 - part(x)]));
    vec![bright, dark, stripes, gradient]
}

/// Reads golden crops; each must have the input's size.
///
/// # Errors
/// [`PackError::Picture`], [`PackError::Size`].
pub fn pictures(paths: &[PathBuf], size_px: u32) -> Result<Vec<RgbImage>, PackError> {
    let read = |path: &PathBuf| {
        let picture = image::open(path).map_err(|cause| PackError::Picture { path: path.clone(), cause })?;
        let picture = picture.to_rgb8();
        let found = picture.dimensions();
        if found != (size_px, size_px) {
            return Err(PackError::Size { path: path.clone(), expected: size_px, found });
        }
        Ok(picture)
    };
    paths.iter().map(read).collect()
}

/// Writes the bundle of `folder` to `out`, not signed yet: its model, golden outputs for `crops` as candor's engine
/// gives them, and its documents.
///
/// # Errors
/// [`PackError`].
pub fn pack(
    folder: &Path,
    crops: &[RgbImage],
    terms: &Terms,
    key_list: Signed,
    out: &Path,
) -> Result<Manifest, PackError> {
    let bundle = Bundle::open(folder)?;
    let mut manifest = bundle.manifest().clone();
    let mut classifier = Classifier::new(&Engine::default(), &manifest, bundle.model())?;
    let mut blobs = vec![bundle.model().to_vec()];
    let mut goldens = Vec::new();
    for (golden_idx, crop) in crops.iter().enumerate() {
        let found = classifier.logits(&[crop])?.pop().unwrap_or([f32::NAN; 2]);
        if !found.iter().all(|logit| logit.is_finite()) {
            return Err(PackError::NotFinite { golden_idx, found });
        }
        let input = blob(&format!("golden-{golden_idx}.rgb"), crop.as_raw());
        goldens.push(Golden { input, logits_bits: found.map(f32::to_bits) });
        blobs.push(crop.as_raw().clone());
    }
    let mut documents = Vec::new();
    for name in DOCUMENTS {
        let path = folder.join(name);
        if path.is_file() {
            let text = fs::read(&path).map_err(FileError::of(&path, "reading"))?;
            documents.push(blob(name, &text));
            blobs.push(text);
        }
    }
    let minimum_runtime = match terms.minimum_runtime {
        Some(version) => version,
        None => Version::of_this_program().map_err(PackError::Version)?,
    };
    let Terms { key_id, security_epoch, expires_unix_s, .. } = *terms;
    manifest.release =
        Some(Release { key_id, security_epoch, expires_unix_s, minimum_runtime, goldens, documents });
    let text = serde_json::to_vec(&manifest)?;
    // What a device would refuse is better refused here.
    let manifest = Manifest::from_json(&text)?;
    let head = Head { key_list, manifest: Signed::new(Purpose::Manifest, text) };
    replace(out, |file| write_bundle(&head, &mut blobs.concat().as_slice(), file))?;
    Ok(manifest)
}

fn blob(file: &str, bytes: &[u8]) -> Blob {
    Blob { file: file.to_owned(), sha256: Digest::of(bytes).to_string(), size_bytes: bytes.len() as u64 }
}

/// Adds the key's signature to a bundle's manifest, to a key list or to a channel, whichever `path` holds; says which.
///
/// # Errors
/// [`PackError`]; the file is then as it was.
pub fn sign(path: &Path, key: &SigningKey) -> Result<Purpose, PackError> {
    let mut file = File::open(path).map_err(FileError::of(path, "opening"))?;
    let mut magic = [0; 8];
    file.read_exact(&mut magic).map_err(FileError::of(path, "reading"))?;
    file.rewind().map_err(FileError::of(path, "reading"))?;
    if magic.ends_with(b"K") {
        let mut list = read_key_list(&mut file)?;
        list.sign(key);
        replace(path, |out| write_key_list(&list, out))?;
        return Ok(Purpose::KeyList);
    }
    if magic.ends_with(b"C") {
        let mut channel = UnverifiedChannel::read(&mut file)?;
        Channel::from_json(&channel.channel.text)?;
        channel.channel.sign(key);
        replace(path, |out| channel.write(out))?;
        return Ok(Purpose::Channel);
    }
    let mut head = UnverifiedBundle::read(&mut file)?.head().clone();
    // Nobody should sign what no device takes.
    Manifest::from_json(&head.manifest.text)?;
    head.manifest.sign(key);
    // The file's position is behind its head.
    replace(path, |out| write_bundle(&head, &mut file, out))?;
    Ok(Purpose::Manifest)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, content: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> Result<(), PackError> {
    let mut bytes = Vec::new();
    content(&mut bytes).map_err(FileError::of(path, "packing"))?;
    Ok(files::replace(path, &bytes)?)
}
