//! A channel: a small signed file that says which bundle the devices that follow it should have.
//!
//! The format stands in `models/CHANNEL.md`. After The Update Framework (Samuel et al., CCS 2010): a serial against
//! replay, an expiry against a mirror that stands still, a name against files of another channel, and keys of its own,
//! so that the one that has to be at hand to keep a channel fresh can sign no bundle.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hashed};
use super::file::{CHANNEL_MAGIC, FORMAT, ended, expect_magic, list_that_counts};
use super::keys::{KeyList, ListedKey, Purpose, Roots, Signed, TrustError};
use super::{BundleError, MAX_NAME_BYTES};

/// Longest address of a bundle.
const MAX_URL_BYTES: usize = 2048;
/// Most bytes of a channel's file: magic and format, and two signed texts with 16 signatures each.
pub const MAX_CHANNEL_BYTES: u64 = 12 + 2 * (8 + 16 * 80) + 2 * (1 << 16);

/// Why a channel isn't believed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The file is none, or ends early.
    #[error(transparent)]
    File(#[from] BundleError),
    /// Signatures don't make it trusted.
    #[error("channel: {0}")]
    Trust(#[from] TrustError),
    /// Its text is no JSON of its form.
    #[error("channel: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A field has a value that makes no sense, or not here and now.
    #[error("channel: {field}: expected {expected}, found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

/// Which bundle devices should have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// 1.
    pub format: u32,
    /// Devices follow a channel by its name; at most 128 bytes.
    pub name: String,
    /// Grows with every file; a device takes none with a lower one.
    pub serial: u64,
    /// When it was written, s since 1970.
    pub made_unix_s: u64,
    /// From this time on nobody believes it.
    pub expires_unix_s: u64,
    /// Share of the devices that take the bundle now, 0 to 100; which ones, each device draws for itself.
    pub rollout_percent: f64,
    /// The bundle.
    pub bundle: Offer,
}

/// A bundle, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// `https://...`, or a path without a scheme, relative to the folder of the channel's own address.
    pub url: String,
    /// Of the whole file.
    pub size_bytes: u64,
    /// Of the whole file.
    pub sha256: Digest,
}

impl Channel {
    /// The channel of a signed text, or of one that is to be signed.
    ///
    /// # Errors
    /// [`ChannelError::Syntax`], and [`ChannelError::Field`] for the first value that makes no sense.
    pub fn from_json(json: &[u8]) -> Result<Self, ChannelError> {
        let channel: Channel = serde_json::from_slice(json)?;
        let check = |holds: bool, field, expected: String, found: String| {
            if holds { Ok(()) } else { Err(ChannelError::Field { field, expected, found }) }
        };
        let format = channel.format;
        check(format == FORMAT, "format", FORMAT.to_string(), format.to_string())?;
        let n_bytes = channel.name.len();
        let is_name = (1..=MAX_NAME_BYTES).contains(&n_bytes) && !channel.name.chars().any(char::is_control);
        let expected = format!("a line of 1 to {MAX_NAME_BYTES} bytes");
        check(is_name, "name", expected, format!("{:?}", channel.name))?;
        let (made, expires) = (channel.made_unix_s, channel.expires_unix_s);
        check(expires > made, "expires_unix_s", format!("more than {made}"), expires.to_string())?;
        let percent = channel.rollout_percent;
        check((0.0..=100.0).contains(&percent), "rollout_percent", "0..=100".into(), percent.to_string())?;
        let size = channel.bundle.size_bytes;
        check(size > 0, "bundle.size_bytes", "at least 1".into(), size.to_string())?;
        let url = &channel.bundle.url;
        let is_relative =
            !url.contains(':') && !url.starts_with('/') && !url.split('/').any(|part| part == "..");
        let is_plain = (1..=MAX_URL_BYTES).contains(&url.len()) && url.bytes().all(|b| b.is_ascii_graphic());
        let expected = format!("https://... or a relative path, at most {MAX_URL_BYTES} bytes of ASCII");
        let is_url = is_plain && (url.starts_with("https://") || is_relative);
        check(is_url, "bundle.url", expected, format!("{url:?}"))?;
        Ok(channel)
    }
}

/// A channel's file of which nothing has been checked but lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedChannel {
    /// Signed by root keys.
    pub key_list: Signed,
    /// Signed by a key of the list that signs channels.
    pub channel: Signed,
}

impl UnverifiedChannel {
    /// Reads a whole file; at most [`MAX_CHANNEL_BYTES`].
    ///
    /// # Errors
    /// [`ChannelError::File`] for something that is no channel, that ends early, or has a length out of its range or
    /// bytes behind it.
    pub fn read(reader: impl Read) -> Result<Self, ChannelError> {
        let mut reader = Hashed::new(reader);
        expect_magic(&mut reader, CHANNEL_MAGIC, "a Candor channel")?;
        let mut signed = |purpose, what: &str| {
            let failed = |cause| BundleError::Read { what: what.to_owned(), cause };
            Signed::read(&mut reader, purpose).map_err(failed)
        };
        let key_list = signed(Purpose::KeyList, "key list")?;
        let channel = signed(Purpose::Channel, "channel")?;
        ended(reader)?;
        Ok(UnverifiedChannel { key_list, channel })
    }

    /// Writes what [`UnverifiedChannel::read`] reads.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, into: &mut impl Write) -> std::io::Result<()> {
        into.write_all(&CHANNEL_MAGIC)?;
        into.write_all(&FORMAT.to_le_bytes())?;
        self.key_list.write(into)?;
        self.channel.write(into)
    }

    /// Checks the key list against `roots`, and parses it only then. `known`, a list with a higher serial, counts instead
    /// of the file's own.
    ///
    /// # Errors
    /// [`ChannelError::Trust`].
    pub fn check_list(self, roots: &Roots, known: Option<&KeyList>) -> Result<ListedChannel, ChannelError> {
        let carried = roots.check(&self.key_list)?;
        let list = list_that_counts(&carried, known)?.clone();
        Ok(ListedChannel { list, file: self })
    }
}

/// A channel's file with a key list that is trusted.
#[derive(Clone, Debug)]
pub struct ListedChannel {
    /// The key list that counts.
    pub list: KeyList,
    /// The file.
    pub file: UnverifiedChannel,
}

impl ListedChannel {
    /// Checks the channel against the list, and parses it only then. Keys that have expired at `now_unix_s` don't count;
    /// whether the channel has, the caller judges.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn verify(&self, now_unix_s: u64) -> Result<VerifiedChannel, ChannelError> {
        let signed = &self.file.channel;
        let signers: Vec<ListedKey> =
            self.list.signers(signed, Some(now_unix_s))?.into_iter().cloned().collect();
        let channel = Channel::from_json(&signed.text)?;
        Ok(VerifiedChannel { channel, signers, digest: Digest::of(&signed.text) })
    }
}

/// A channel that is signed by a key that counts.
#[derive(Clone, Debug)]
pub struct VerifiedChannel {
    /// What it says.
    pub channel: Channel,
    /// Who signed it.
    pub signers: Vec<ListedKey>,
    /// Of its text: two files with the same serial must be the same.
    pub digest: Digest,
}
