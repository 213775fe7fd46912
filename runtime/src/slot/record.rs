//! What is kept of the slots: their states and what happened, as JSON behind which its own digest stands.

use serde::{Deserialize, Serialize};

use super::state::{Held, Slots};
use crate::bundle::{Digest, KeyId};

/// The record's format that this program reads.
const FORMAT: u32 = 1;
/// Events that are kept, the newest.
pub const MAX_EVENTS: usize = 32;

/// Something that happened to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A bundle was installed.
    Installed,
    /// Its first start.
    TrialStarted,
    /// A bundle was confirmed.
    Confirmed,
    /// A person or a trial went back.
    RolledBack,
    /// A bundle was found bad.
    Failed,
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, by the device's clock, which the history never lets run backwards.
    pub at_unix_s: u64,
    /// What.
    pub what: What,
    /// To which bundle, signed by whom.
    pub bundle: Held,
    /// Why, where there is more to say.
    pub reason: Option<String>,
}

/// Everything that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    /// The slots' states.
    pub slots: Slots,
    /// The latest time that was written: a clock that is behind it is wrong.
    pub latest_unix_s: u64,
    /// At most [`MAX_EVENTS`], the newest last.
    pub history: Vec<Event>,
}

impl Default for Record {
    fn default() -> Self {
        Record { format: FORMAT, slots: Slots::default(), latest_unix_s: 0, history: Vec::new() }
    }
}

impl Record {
    /// Adds an event and forgets the oldest where there are too many.
    pub(super) fn note(&mut self, what: What, bundle: Held, reason: Option<String>) {
        self.history.push(Event { at_unix_s: self.latest_unix_s, what, bundle, reason });
        let n_over = self.history.len().saturating_sub(MAX_EVENTS);
        self.history.drain(..n_over);
    }

    /// The file's bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(format!("{digest}\n").as_bytes());
        Ok(bytes)
    }

    /// The record of a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        // 64 digits and the end of their line.
        let at = bytes.len().checked_sub(65).ok_or("expected a digest at the end, found too few bytes")?;
        let (json, digest) = bytes.split_at(at);
        let expected = Digest::of(json).to_string();
        if digest.strip_suffix(b"\n") != Some(expected.as_bytes()) {
            return Err(format!(
                "expected the digest {expected} at its end, found \"{}\"",
                digest.escape_ascii()
            ));
        }
        let record: Record = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if record.format != FORMAT {
            return Err(format!("format: expected {FORMAT}, found {}", record.format));
        }
        Ok(record)
    }
}

impl Held {
    /// What a list of signers says of a key.
    pub fn signer(name: &str, key: KeyId) -> String {
        format!("{name} ({key})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let digest = Digest::of(b"bundle");
        Held { digest, id: "m".into(), version: "1".into(), security_epoch: 0, signers: vec!["k".into()] }
    }

    #[test]
    fn what_is_written_is_read_again_and_damage_is_seen() {
        let mut record = Record::default();
        record.slots.stage(held()).unwrap();
        record.note(What::Installed, held(), Some("why".into()));
        let bytes = record.to_bytes().unwrap();
        assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Record::from_bytes(&damaged).is_err(), "byte {at}");
            assert!(Record::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_history_is_bounded() {
        let mut record = Record::default();
        for at in 0..100 {
            record.latest_unix_s = at;
            record.note(What::Installed, held(), None);
        }
        let times: Vec<u64> = record.history.iter().map(|e| e.at_unix_s).collect();
        assert_eq!(times, (68..100).collect::<Vec<_>>());
    }
}
