//! Follows a channel (`models/CHANNEL.md`): a small signed file on a web server says which bundle devices should have.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::web::{Web, is_address};
use super::{Standing, Wanted, fetch, go_back, memo, standing, waits};
use crate::bundle::{
    Channel, ChannelError, Digest, KeyId, MAX_CHANNEL_BYTES, UnverifiedChannel, VerifiedChannel, to_hex,
};
use crate::config::Wrong;
use crate::secret::{self, SecretError};
use crate::slot::receive::Place;
use crate::slot::{Folder, Outcome, SlotError, Store};

/// What is remembered, in the slots' folder.
const MEMO: &str = "channel";
/// Bad bundles that are remembered.
const MAX_BAD: usize = 16;
const DAY_S: u64 = 86_400;

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    /// The device's lot in every rollout: 16 bytes at random, hexadecimal.
    device: String,
    /// The channel's name.
    name: String,
    /// The last text that was believed.
    last: Option<Last>,
    /// The bundle that it offers, and what became of that.
    offer: Option<Offered>,
    /// Bundles that were found bad, the newest last.
    bad: Vec<Bad>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    /// Lower ones are replayed.
    serial: u64,
    /// Another text with the same serial is none.
    text: Digest,
    /// A clock that is behind it is wrong.
    made_unix_s: u64,
    /// Whoever loses this key has said nothing.
    signer: KeyId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offered {
    digest: Digest,
    became: Option<Became>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Became {
    text: String,
    /// For a bundle that may pass later, by which file and which program it was refused.
    refused_at: Option<(u64, String)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bad {
    digest: Digest,
    text: String,
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
        // No channel at all, or half of one, is a server's trouble and may soon be over.
        let file = match UnverifiedChannel::read(&bytes[..]) {
            Ok(file) => file,
            Err(error) => return Ok(Outcome::Failed(format!("{}: {error}", self.settings.url))),
        };
        // Alone with the folder until it is decided whether there is something to fetch.
        let mut store = Store::locked(place.folder)?;
        let before: Memo = memo::read(place.folder, MEMO)?;
        let mut memo = before.clone();
        if memo.name != self.settings.name {
            memo = Memo { device: memo.device, name: self.settings.name.clone(), ..Memo::default() };
        }
        if memo.device.is_empty() {
            memo.device = lot()?;
        }
        let channel = self.believed(place, &mut store, file, &mut memo)?;
        let decided = decide(place, &mut store, &channel, &mut memo)?;
        if memo != before {
            memo::write(place.folder, MEMO, &memo)?;
        }
        drop(store);
        decided.map_or_else(|| self.take(place, &channel), Ok)
    }

    /// What the file says, where it is to be believed; the device's key list becomes its where that is newer.
    fn believed(
        &self,
        place: &Place<'_>,
        store: &mut Store<Folder>,
        file: UnverifiedChannel,
        memo: &mut Memo,
    ) -> Result<Channel, SlotError> {
        let known = store.key_list(place.roots)?;
        let listed = file.check_list(place.roots, known.as_ref())?;
        memo.last.take_if(|last| !listed.list.keys.iter().any(|key| key.public.id() == last.signer));
        let clock_unix_s = (place.now_unix_s)().max(store.record().latest_unix_s);
        let now_unix_s = memo.last.as_ref().map_or(clock_unix_s, |last| clock_unix_s.max(last.made_unix_s));
        let verified = listed.verify(now_unix_s)?;
        believe(&verified, memo, clock_unix_s, now_unix_s)?;
        if known.is_none_or(|known| known.serial < listed.list.serial) {
            store.take_key_list(&listed.file.key_list)?;
        }
        let VerifiedChannel { channel, signers, digest } = verified;
        memo.last = signers.first().map(|signer| Last {
            serial: channel.serial,
            text: digest,
            made_unix_s: channel.made_unix_s,
            signer: signer.public.id(),
        });
        if memo.offer.as_ref().is_none_or(|offer| offer.digest != channel.bundle.sha256) {
            memo.offer = Some(Offered { digest: channel.bundle.sha256, became: None });
        }
        Ok(channel)
    }

    /// Fetches the offered bundle, and remembers what became of it.
    fn take(&self, place: &Place<'_>, channel: &Channel) -> Result<Outcome, SlotError> {
        let wanted = Wanted {
            digest: channel.bundle.sha256,
            size_bytes: channel.bundle.size_bytes,
            url: &self.settings.address(&channel.bundle.url),
            origin: &origin(channel),
        };
        // Another file of the channel, or another program, has what the device refused for its own sake tried again.
        let again = || Some((channel.serial, env!("CARGO_PKG_VERSION").to_owned()));
        let (outcome, refused_at, is_bad) = match fetch(place, &self.web, &wanted) {
            Err(error) if error.is_of_disk() => return Err(error),
            Err(error) => (Outcome::Refused(error.to_string()), again(), error.is_of_bytes()),
            Ok(outcome @ Outcome::Installed(_)) => (outcome, None, false),
            Ok(outcome @ Outcome::Refused(_)) => (outcome, again(), false),
            Ok(outcome) => return Ok(outcome),
        };
        let _alone = Store::locked(place.folder)?;
        let mut memo: Memo = memo::read(place.folder, MEMO)?;
        match is_bad {
            true => memo.condemn(wanted.digest, &outcome.text()),
            false => memo.settle(wanted.digest, outcome.text(), refused_at),
        }
        memo::write(place.folder, MEMO, &memo)?;
        Ok(outcome)
    }
}

impl Memo {
    /// What became of the bundle that is offered now.
    fn settle(&mut self, digest: Digest, text: String, refused_at: Option<(u64, String)>) {
        if let Some(offer) = self.offer.as_mut().filter(|offer| offer.digest == digest) {
            offer.became = Some(Became { text, refused_at });
        }
    }

    /// A bundle that is never taken again.
    fn condemn(&mut self, digest: Digest, text: &str) {
        if !self.bad.iter().any(|bad| bad.digest == digest) {
            self.bad.push(Bad { digest, text: text.to_owned() });
            let n_over = self.bad.len().saturating_sub(MAX_BAD);
            self.bad.drain(..n_over);
        }
    }

    /// What became of the bundle that a channel offers, where it isn't to be taken.
    fn text_of(&self, channel: &Channel) -> Option<String> {
        let digest = channel.bundle.sha256;
        if let Some(bad) = self.bad.iter().find(|bad| bad.digest == digest) {
            return Some(bad.text.clone());
        }
        let became = self.offer.as_ref().filter(|offer| offer.digest == digest)?.became.as_ref()?;
        let is_over = became.refused_at.as_ref().is_none_or(|(serial, program)| {
            *serial == channel.serial && program == env!("CARGO_PKG_VERSION")
        });
        is_over.then(|| became.text.clone())
    }
}

fn origin(channel: &Channel) -> String {
    format!("channel {}, serial {}", channel.name, channel.serial)
}

/// What is to be said of the offered bundle; nothing of one that is to be fetched.
fn decide(
    place: &Place<'_>,
    store: &mut Store<Folder>,
    channel: &Channel,
    memo: &mut Memo,
) -> Result<Option<Outcome>, SlotError> {
    let digest = channel.bundle.sha256;
    let standing = standing(store, digest);
    match &standing {
        Some(Standing::Candidate(text) | Standing::Runs(text)) => {
            memo.settle(digest, text.clone(), None);
            return Ok(Some(Outcome::Known(text.clone())));
        }
        Some(Standing::Bad(text)) => {
            memo.condemn(digest, text);
            return Ok(Some(Outcome::Known(text.clone())));
        }
        Some(Standing::Before(_)) | None => {}
    }
    if let Some(text) = memo.text_of(channel) {
        return Ok(Some(Outcome::Known(text)));
    }
    if let Some(why) = waits(store) {
        return Ok(Some(Outcome::Waits(why)));
    }
    let (lot_percent, percent) = (share(&memo.device, digest), channel.rollout_percent);
    if lot_percent >= percent {
        let why = format!("rolled out to {percent} % of devices, this one is at {lot_percent:.1} %");
        return Ok(Some(Outcome::Waits(why)));
    }
    let Some(Standing::Before(held)) = standing else { return Ok(None) };
    let outcome = go_back(store, &held, &origin(channel), (place.now_unix_s)())?;
    memo.settle(digest, outcome.text(), None);
    Ok(Some(outcome))
}

/// Whether a file that is signed well is also of this channel, fresh, and none that was there before.
fn believe(
    verified: &VerifiedChannel,
    memo: &Memo,
    clock_unix_s: u64,
    now_unix_s: u64,
) -> Result<(), ChannelError> {
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
    // One that comes from the future would make all that follow look old.
    let latest_unix_s = clock_unix_s.saturating_add(DAY_S);
    let made = channel.made_unix_s;
    check(made <= latest_unix_s, "made_unix_s", format!("at most {latest_unix_s}"), made.to_string())?;
    let Some(last) = &memo.last else { return Ok(()) };
    let (serial, found) = (last.serial, channel.serial);
    check(
        found >= serial,
        "serial",
        format!("{serial}, which was there before, or more"),
        found.to_string(),
    )?;
    let is_same = found > serial || last.text == verified.digest;
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
