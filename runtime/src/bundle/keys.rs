//! Who may sign: root keys sign a list of signing keys, signing keys sign manifests, or channels.

use std::fmt;
use std::io::{self, Read, Write};

use ed25519_dalek::{Signature as Ed25519, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::MAX_NAME_BYTES;
use super::digest::{from_hex, to_hex};

/// Most bytes of a key list.
const MAX_KEY_LIST_BYTES: usize = 1 << 16;
/// Most bytes of a channel's text.
const MAX_CHANNEL_TEXT_BYTES: usize = 1 << 16;
/// Most signatures of one text, and most keys of a list or of a device.
pub const MAX_KEYS: usize = 16;
/// The key list's format that this program reads.
const KEY_LIST_FORMAT: u32 = 1;

/// Why a text is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The device has no root key, or can't ask for that many.
    #[error("root keys: expected {expected}, found {found}")]
    Roots {
        /// What a device needs.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A public key's text is none.
    #[error("public key: expected 64 lower-case hexadecimal digits of an Ed25519 point, found {0:?}")]
    PublicKey(String),
    /// A signature that names a trusted key isn't that key's.
    #[error("{what}: the signature of key {key} is wrong: the text was changed, or signed by another key")]
    Signature {
        /// What was signed.
        what: &'static str,
        /// The key that the signature names.
        key: KeyId,
    },
    /// Too few of the signatures are by keys that count.
    #[error("{what}: expected signatures of {expected} trusted keys, found {found}{others}")]
    Threshold {
        /// What was signed.
        what: &'static str,
        /// How many are needed.
        expected: usize,
        /// How many there are.
        found: usize,
        /// Which signatures don't count, and why.
        others: String,
    },
    /// The key list is no JSON of its form.
    #[error("key list: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A field of the key list has a value that makes no sense.
    #[error("key list: {field}: expected {expected}, found {found}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it may hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

/// The name of a key: the first 16 bytes of its SHA-256; text form: 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        from_hex(&text)
            .map(KeyId)
            .ok_or_else(|| format!("expected 32 lower-case hexadecimal digits, found {text:?}"))
    }
}

/// An Ed25519 public key (RFC 8032); text form: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Of a private key.
    pub fn of(key: &SigningKey) -> Self {
        PublicKey(key.verifying_key())
    }

    /// Whether `signature` of `text` is this key's.
    pub fn holds(&self, text: &[u8], signature: &Ed25519) -> bool {
        self.0.verify_strict(text, signature).is_ok()
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        KeyId(id)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = TrustError;

    fn try_from(text: String) -> Result<Self, TrustError> {
        let key = from_hex(&text).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        // A weak key's signatures hold for many texts at once.
        key.filter(|key| !key.is_weak()).map(PublicKey).ok_or(TrustError::PublicKey(text))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        PublicKey::try_from(text.to_owned())
    }
}

/// What is signed; a signature of one kind of text is none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A key list, by root keys.
    KeyList,
    /// A manifest, by signing keys.
    Manifest,
    /// A channel, by signing keys that sign channels.
    Channel,
}

impl Purpose {
    /// What goes before the text.
    fn prefix(self) -> &'static [u8] {
        match self {
            Purpose::KeyList => b"candor key list 1\0",
            Purpose::Manifest => b"candor manifest 1\0",
            Purpose::Channel => b"candor channel 1\0",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Purpose::KeyList => "key list",
            Purpose::Manifest => "manifest",
            Purpose::Channel => "channel",
        }
    }

    /// The most bytes of such a text.
    pub fn max_bytes(self) -> usize {
        match self {
            Purpose::KeyList => MAX_KEY_LIST_BYTES,
            Purpose::Manifest => super::MAX_MANIFEST_BYTES,
            Purpose::Channel => MAX_CHANNEL_TEXT_BYTES,
        }
    }
}

/// A signature and the key that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it claims to be.
    pub key: KeyId,
    /// R and S of RFC 8032.
    bytes: [u8; 64],
}

/// A text with signatures, none of which has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What it is meant to be.
    pub purpose: Purpose,
    /// The bytes that are signed.
    pub text: Vec<u8>,
    /// At most [`MAX_KEYS`].
    pub signatures: Vec<Signature>,
}

impl Signed {
    /// A text that nobody has signed yet.
    pub fn new(purpose: Purpose, text: Vec<u8>) -> Self {
        Signed { purpose, text, signatures: Vec::new() }
    }

    /// Adds the signature of `key`, in the place of an older one of the same key.
    pub fn sign(&mut self, key: &SigningKey) {
        use ed25519_dalek::Signer as _;
        let id = PublicKey::of(key).id();
        let bytes = key.sign(&self.message()).to_bytes();
        self.signatures.retain(|s| s.key != id);
        self.signatures.push(Signature { key: id, bytes });
    }

    fn message(&self) -> Vec<u8> {
        [self.purpose.prefix(), &self.text].concat()
    }

    /// Reads two u32 little-endian, the text's length and the number of signatures, then the text, then the
    /// signatures of 80 bytes each. Nothing longer than the limits is allocated.
    ///
    /// # Errors
    /// The reader's, and `InvalidData` for a length out of its range.
    pub fn read(reader: &mut impl Read, purpose: Purpose) -> io::Result<Self> {
        let n_bytes = read_u32(reader)?;
        let n_signatures = read_u32(reader)?;
        let checked = |what: &str, n: u32, most: usize| {
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            if (1..=most).contains(&n) {
                return Ok(n);
            }
            let word = purpose.word();
            let why = format!("{what} of the {word}: expected 1..={most}, found {n}");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        };
        let n_bytes = checked("length", n_bytes, purpose.max_bytes())?;
        let n_signatures = if n_signatures == 0 { 0 } else { checked("signatures", n_signatures, MAX_KEYS)? };
        let mut text = vec![0; n_bytes];
        reader.read_exact(&mut text)?;
        let mut signatures = Vec::with_capacity(n_signatures);
        for _ in 0..n_signatures {
            let (mut key, mut bytes) = ([0; 16], [0; 64]);
            reader.read_exact(&mut key)?;
            reader.read_exact(&mut bytes)?;
            signatures.push(Signature { key: KeyId(key), bytes });
        }
        Ok(Signed { purpose, text, signatures })
    }

    /// Writes what [`Signed::read`] reads.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, into: &mut impl Write) -> io::Result<()> {
        let n = |n: usize| u32::try_from(n).map_err(io::Error::other);
        into.write_all(&n(self.text.len())?.to_le_bytes())?;
        into.write_all(&n(self.signatures.len())?.to_le_bytes())?;
        into.write_all(&self.text)?;
        for signature in &self.signatures {
            into.write_all(&signature.key.0)?;
            into.write_all(&signature.bytes)?;
        }
        Ok(())
    }

    /// The keys whose signatures hold, at least `threshold` of them; `known` gives a key that counts, or why it
    /// doesn't.
    ///
    /// # Errors
    /// [`TrustError::Signature`] for a signature that names a known key and isn't its, and
    /// [`TrustError::Threshold`].
    fn signers(
        &self,
        threshold: usize,
        known: impl Fn(KeyId) -> Result<PublicKey, String>,
    ) -> Result<Vec<KeyId>, TrustError> {
        let what = self.purpose.word();
        let message = self.message();
        let (mut signers, mut others) = (Vec::new(), String::new());
        for signature in &self.signatures {
            let id = signature.key;
            match known(id) {
                Err(why) => others += &format!("; key {id} {why}"),
                Ok(key) => {
                    let holds = key.0.verify_strict(&message, &Ed25519::from_bytes(&signature.bytes));
                    holds.map_err(|_| TrustError::Signature { what, key: id })?;
                    if !signers.contains(&id) {
                        signers.push(id);
                    }
                }
            }
        }
        if signers.len() < threshold {
            let found = signers.len();
            return Err(TrustError::Threshold { what, expected: threshold, found, others });
        }
        Ok(signers)
    }
}

pub(super) fn read_u32(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// The keys that a device trusts from the start, and how many of them a key list needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    keys: Vec<PublicKey>,
    threshold: usize,
}

impl Roots {
    /// `threshold` of `keys`.
    ///
    /// # Errors
    /// [`TrustError::Roots`] for no key, too many, one twice, or a threshold that can't be met.
    pub fn new(keys: Vec<PublicKey>, threshold: usize) -> Result<Self, TrustError> {
        let wrong = |expected: String, found: String| Err(TrustError::Roots { expected, found });
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            return wrong(format!("1..={MAX_KEYS} public keys in the configuration"), keys.len().to_string());
        }
        if !(1..=keys.len()).contains(&threshold) {
            return wrong(format!("a threshold of 1..={}", keys.len()), threshold.to_string());
        }
        if let Some((_, key)) = keys.iter().enumerate().find(|(i, key)| keys[..*i].contains(key)) {
            return wrong("each key once".into(), format!("{key} twice"));
        }
        Ok(Roots { keys, threshold })
    }

    /// The key list, once enough root keys have signed it; it is parsed only then.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn check(&self, list: &Signed) -> Result<KeyList, TrustError> {
        list.signers(self.threshold, |id| {
            let found = self.keys.iter().find(|key| key.id() == id);
            found.copied().ok_or_else(|| "is no root key of this device".to_owned())
        })?;
        KeyList::from_json(&list.text)
    }
}

/// What a listed key may sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signs {
    /// Manifests.
    #[default]
    Bundles,
    /// Channels, each with one signature.
    Channels,
}

impl Signs {
    fn is_default(&self) -> bool {
        *self == Signs::default()
    }

    fn word(self) -> &'static str {
        match self {
            Signs::Bundles => "bundles",
            Signs::Channels => "channels",
        }
    }
}

/// A key that may sign until it expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedKey {
    /// For people, at most 128 bytes.
    pub name: String,
    /// The key.
    pub public: PublicKey,
    /// From this time on it signs nothing more.
    pub expires_unix_s: u64,
    /// What it signs; left out for bundles.
    #[serde(default, skip_serializing_if = "Signs::is_default")]
    pub signs: Signs,
}

/// The keys that may sign now; a list with a higher serial replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyList {
    /// 1.
    pub format: u32,
    /// Grows with every list.
    pub serial: u64,
    /// How many of the keys that sign bundles must sign a manifest.
    pub threshold: usize,
    /// At most [`MAX_KEYS`].
    pub keys: Vec<ListedKey>,
}

impl KeyList {
    /// A checked list of the current format.
    ///
    /// # Errors
    /// [`TrustError::Field`] for the first thing that is wrong.
    pub fn new(serial: u64, threshold: usize, keys: Vec<ListedKey>) -> Result<Self, TrustError> {
        let list = KeyList { format: KEY_LIST_FORMAT, serial, threshold, keys };
        list.check()?;
        Ok(list)
    }

    fn from_json(json: &[u8]) -> Result<Self, TrustError> {
        let list: KeyList = serde_json::from_slice(json)?;
        list.check()?;
        Ok(list)
    }

    fn check(&self) -> Result<(), TrustError> {
        let check = |holds: bool, field, expected: String, found: String| {
            if holds { Ok(()) } else { Err(TrustError::Field { field, expected, found }) }
        };
        let (keys, n_keys) = (&self.keys, self.keys.len());
        let format = self.format;
        check(format == KEY_LIST_FORMAT, "format", KEY_LIST_FORMAT.to_string(), format.to_string())?;
        check(
            (1..=MAX_KEYS).contains(&n_keys),
            "keys",
            format!("1..={MAX_KEYS} of them"),
            n_keys.to_string(),
        )?;
        let twice = keys.iter().enumerate().find(|(i, k)| keys[..*i].iter().any(|o| o.public == k.public));
        check(
            twice.is_none(),
            "keys",
            "each once".into(),
            twice.map_or(String::new(), |(_, k)| k.name.clone()),
        )?;
        let longest = keys.iter().map(|key| key.name.len()).max().unwrap_or_default();
        let expected = format!("at most {MAX_NAME_BYTES} bytes");
        check(longest <= MAX_NAME_BYTES, "keys.name", expected, longest.to_string())?;
        let n_of_bundles = keys.iter().filter(|key| key.signs == Signs::Bundles).count();
        let can_be_met = (1..=n_of_bundles).contains(&self.threshold);
        let expected = format!("1..={n_of_bundles}, of the keys that sign bundles");
        check(can_be_met, "threshold", expected, self.threshold.to_string())
    }

    /// Who signed a manifest or a channel; with `now_unix_s`, expired keys don't count.
    ///
    /// # Errors
    /// [`TrustError`].
    pub(super) fn signers(
        &self,
        signed: &Signed,
        now_unix_s: Option<u64>,
    ) -> Result<Vec<&ListedKey>, TrustError> {
        let listed = |id: KeyId| self.keys.iter().find(|key| key.public.id() == id);
        let (signs, threshold) = match signed.purpose {
            Purpose::Channel => (Signs::Channels, 1),
            Purpose::Manifest | Purpose::KeyList => (Signs::Bundles, self.threshold),
        };
        let ids = signed.signers(threshold, |id| {
            let key =
                listed(id).ok_or_else(|| format!("is not in the key list with serial {}", self.serial))?;
            if key.signs != signs {
                return Err(format!("({}) signs {}", key.name, key.signs.word()));
            }
            match now_unix_s {
                Some(now) if now >= key.expires_unix_s => {
                    Err(format!("({}) expired at {} s, it is {now} s now", key.name, key.expires_unix_s))
                }
                _ => Ok(key.public),
            }
        })?;
        Ok(ids.into_iter().filter_map(listed).collect())
    }
}
