//! Follows a channel (`models/CHANNEL.md`): a small signed file on a web server says which bundle devices should have.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::web::{Web, is_address};
use super::{Wanted, fetch, memo};
use crate::bundle::{
    Channel, ChannelError, Digest, MAX_CHANNEL_BYTES, UnverifiedChannel, VerifiedChannel, to_hex,
};
use crate::outlet::secret::{self, SecretError};
use crate::slot::dropped::settled;
use crate::slot::receive::Place;
use crate::slot::{Outcome, SlotError, Store};

/// What is remembered, in the slots' folder.
const MEMO: &str = "channel";

/// Where the channel is; `[slots.channel]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The channel's file, https.
    pub url: String,
    /// The channel's name: files of another one are refused.
    #[serde(default = "stable")]
    pub name: String,
    /// A file whose first line is told to the server, as a bearer token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Authorities that may vouch for the server, PEM; the system's without it.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Time between two looks, s, give or take a quarter.
    #[serde(default = "six_hours")]
    pub interval_s: u32,
}

fn stable() -> String {
    "stable".to_owned()
}

fn six_hours() -> u32 {
    6 * 3600
}

/// A key, what it may hold and what it holds.
pub(in crate::slot) type Wrong = (&'static str, &'static str, String);

impl Settings {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub(in crate::slot) fn check(&self) -> Result<(), Wrong> {
        if !is_address(&self.url) {
            let expected = "an https address, or an http one of this device";
            return Err(("slots.channel.url", expected, self.url.clone()));
        }
        if self.name.is_empty() {
            return Err(("slots.channel.name", "a name", "nothing".to_owned()));
        }
        if !(60..=604_800).contains(&self.interval_s) {
            return Err(("slots.channel.interval_s", "60..=604800", self.interval_s.to_string()));
        }
        Ok(())
    }

    /// Where an offered bundle lies: at its address, or beside the channel.
    fn address(&self, offered: &str) -> String {
        if offered.starts_with("https://") {
            return offered.to_owned();
        }
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        let folder = path.rfind('/').map_or(path, |at| &path[..=at]);
        format!("{folder}{offered}")
    }
}

/// What the device has seen of a channel.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    /// The device's lot in every rollout: 16 bytes at random, hexadecimal.
    device: String,
    /// The channel's name.
    name: String,
    /// The highest so far; older files are replayed.
    serial: u64,
    /// Of the text with that serial.
    text: Option<Digest>,
    /// When that was made: a clock that is behind it is wrong.
    made_unix_s: u64,
    /// What became of the bundle that was taken last.
    settled: Option<Settled>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settled {
    digest: Digest,
    text: String,
    /// For a bundle that may pass later, by which file and which program it was refused.
    refused_at: Option<(u64, String)>,
}

/// Follows it.
pub(super) struct Follower {
    settings: Settings,
    web: Web,
}

impl Follower {
    pub(super) fn new(settings: &Settings) -> Result<Self, SecretError> {
        let token = settings.token_file.as_deref().map(secret::line).transpose()?;
        let web = Web::new(&settings.url, settings.ca_file.as_deref(), token.map(|t| format!("Bearer {t}")))?;
        Ok(Follower { settings: settings.clone(), web })
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.settings.interval_s))
    }

    pub(super) fn look(&mut self, place: &Place<'_>) -> Result<Outcome, SlotError> {
        let bytes = match self.web.get(&self.settings.url, MAX_CHANNEL_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Outcome::Failed(format!("{}: {error}", self.settings.url))),
        };
        let file = UnverifiedChannel::read(&bytes[..])?;
        // Alone with the folder until it is decided whether there is something to fetch.
        let mut store = Store::locked(place.folder)?;
        let mut memo: Memo = memo::read(place.folder, MEMO)?;
        if memo.name != self.settings.name {
            memo = Memo { device: memo.device, name: self.settings.name.clone(), ..Memo::default() };
        }
        if memo.device.is_empty() {
            memo.device = lot()?;
        }
        let now_unix_s = (place.now_unix_s)().max(store.record().latest_unix_s).max(memo.made_unix_s);
        let known = store.key_list(place.roots)?;
        let verified = file.verify(place.roots, known.as_ref(), now_unix_s)?;
        believe(&verified, &memo, now_unix_s)?;
        if known.is_none_or(|known| known.serial < verified.carried.serial) {
            store.take_key_list(&file.key_list)?;
        }
        let channel = verified.channel;
        (memo.serial, memo.text, memo.made_unix_s) =
            (channel.serial, Some(verified.digest), channel.made_unix_s);
        memo::write(place.folder, MEMO, &memo)?;
        match settled(&store, channel.bundle.sha256) {
            Some(outcome @ Outcome::Known(_)) => return Ok(outcome),
            waits => {
                if let Some(outcome) = memo.settled_text(&channel).map(Outcome::Known).or(waits) {
                    return Ok(outcome);
                }
            }
        }
        let lot_percent = share(&memo.device, channel.bundle.sha256);
        if lot_percent >= channel.rollout_percent {
            let why = format!(
                "rolled out to {} % of devices, this one is at {lot_percent:.1} %",
                channel.rollout_percent
            );
            return Ok(Outcome::Waits(why));
        }
        drop(store);
        self.take(place, &channel)
    }

    /// Fetches the offered bundle, and remembers what became of it.
    fn take(&self, place: &Place<'_>, channel: &Channel) -> Result<Outcome, SlotError> {
        let digest = channel.bundle.sha256;
        let wanted = Wanted {
            digest,
            size_bytes: channel.bundle.size_bytes,
            url: &self.settings.address(&channel.bundle.url),
            origin: &format!("channel {}, serial {}", channel.name, channel.serial),
        };
        // Another file of the channel, or another program, has what the device refused for its own sake tried again.
        let again = || Some((channel.serial, env!("CARGO_PKG_VERSION").to_owned()));
        let (outcome, refused_at) = match fetch(place, &self.web, &wanted) {
            Err(SlotError::Refused(why)) => return Ok(Outcome::Waits(why.to_string())),
            Err(error) if error.is_of_disk() => return Err(error),
            Err(error) => {
                let is_final = error.is_of_bytes();
                (Outcome::Refused(error.to_string()), if is_final { None } else { again() })
            }
            Ok(outcome @ Outcome::Installed(_)) => (outcome, None),
            Ok(outcome @ Outcome::Refused(_)) => (outcome, again()),
            Ok(outcome) => return Ok(outcome),
        };
        let _alone = Store::locked(place.folder)?;
        let mut memo: Memo = memo::read(place.folder, MEMO)?;
        memo.settled = Some(Settled { digest, text: outcome.text(), refused_at });
        memo::write(place.folder, MEMO, &memo)?;
        Ok(outcome)
    }
}

impl Memo {
    /// What became of the bundle that a channel offers, where it isn't to be tried again.
    fn settled_text(&self, channel: &Channel) -> Option<String> {
        let settled = self.settled.as_ref().filter(|settled| settled.digest == channel.bundle.sha256)?;
        let is_over = settled.refused_at.as_ref().is_none_or(|(serial, program)| {
            *serial == channel.serial && program == env!("CARGO_PKG_VERSION")
        });
        is_over.then(|| settled.text.clone())
    }
}

/// Whether a file that is signed well is also of this channel, fresh, and none that was there before.
fn believe(verified: &VerifiedChannel, memo: &Memo, now_unix_s: u64) -> Result<(), ChannelError> {
    let channel = &verified.channel;
    let check = |holds: bool, field, expected: String, found: String| {
        if holds { Ok(()) } else { Err(ChannelError::Field { field, expected, found }) }
    };
    check(channel.name == memo.name, "name", format!("{:?}", memo.name), format!("{:?}", channel.name))?;
    let expires = channel.expires_unix_s;
    check(
        now_unix_s < expires,
        "expires_unix_s",
        format!("after {now_unix_s}, which it is now"),
        expires.to_string(),
    )?;
    let (serial, found) = (memo.serial, channel.serial);
    check(
        found >= serial,
        "serial",
        format!("{serial}, which was there before, or more"),
        found.to_string(),
    )?;
    let is_same = found > serial || memo.text.is_none_or(|text| text == verified.digest);
    let expected = format!("the file with serial {serial} that was there before, or a higher serial");
    check(is_same, "serial", expected, format!("another file with serial {serial}"))
}

/// Where the device stands in the rollout of a bundle, from 0 to 100: early in one, late in another.
fn share(device: &str, bundle: Digest) -> f64 {
    let drawn = Digest::of(format!("candor rollout 1\0{device}{bundle}").as_bytes()).to_string();
    // 32 bits of it.
    let drawn = u32::from_str_radix(&drawn[..8], 16).unwrap_or(u32::MAX);
    100.0 * f64::from(drawn) / (f64::from(u32::MAX) + 1.0)
}

fn lot() -> Result<String, SlotError> {
    let mut bytes = [0; 16];
    let drawn = getrandom::fill(&mut bytes).map_err(std::io::Error::from);
    drawn.map_err(SlotError::io("draw from", "the system's randomness"))?;
    Ok(to_hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollouts_take_their_share_and_only_grow() {
        let bundles = [Digest::of(b"a"), Digest::of(b"b")];
        let devices: Vec<String> = (0..4000).map(|n| format!("{n:032x}")).collect();
        for bundle in bundles {
            for percent in [0.0, 1.0, 10.0, 50.0, 100.0] {
                let n = devices.iter().filter(|device| share(device, bundle) < percent).count();
                let expected = 40.0 * percent;
                // Five standard deviations of a binomial distribution.
                let bound = 5.0 * (expected * (1.0 - percent / 100.0)).sqrt();
                assert!((n as f64 - expected).abs() <= bound, "{percent} %: {n} of 4000");
            }
        }
        let is_early = |bundle| devices.iter().map(move |device| share(device, bundle) < 50.0);
        let n_both = is_early(bundles[0]).zip(is_early(bundles[1])).filter(|(a, b)| *a && *b).count();
        assert!((850..1150).contains(&n_both), "the same devices aren't always the first: {n_both}");
    }

    #[test]
    fn a_relative_address_is_beside_the_channel() {
        let settings = Settings {
            url: "https://models.example/candor/stable.channel?x=/y".into(),
            name: stable(),
            token_file: None,
            ca_file: None,
            interval_s: 60,
        };
        assert_eq!(settings.address("m/1.bundle"), "https://models.example/candor/m/1.bundle");
        assert_eq!(settings.address("https://cdn.example/1.bundle"), "https://cdn.example/1.bundle");
    }
}
