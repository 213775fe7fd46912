//! Makes signed bundles from fixed keys: what `trainer-bridge` does for people, for tests.

#![allow(dead_code, reason = "each test takes what it needs")]

use candor::bundle::{
    Blob, Digest, Golden, Head, KeyList, ListedKey, Manifest, PublicKey, Purpose, Release, Roots, Signed,
    Signs, Version, write_bundle, write_key_list,
};
use ed25519_dalek::SigningKey;

/// The time of the tests, s since 1970.
pub(crate) const NOW_S: u64 = 1_800_000_000;
/// The real clock is not there yet.
const NEVER_S: u64 = 100_000_000_000;

/// Independent of the model that ships, so that bundles of the tests are the same bytes whatever it is.
const MANIFEST: &str = include_str!("manifest.json");

/// A private key that anyone can know.
pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The root key of the tests.
pub(crate) fn root() -> SigningKey {
    key(1)
}

/// The signing key of the tests.
pub(crate) fn signer() -> SigningKey {
    key(2)
}

/// What a device of the tests trusts.
pub(crate) fn roots() -> Roots {
    Roots::new(vec![PublicKey::of(&root())], 1).unwrap()
}

/// A key of a list that is good for a day.
pub(crate) fn listed(key: &SigningKey) -> ListedKey {
    let public = PublicKey::of(key);
    ListedKey { name: "release".into(), public, expires_unix_s: NOW_S + 86_400, signs: Signs::Bundles }
}

/// A key list of these keys, one of which must sign, signed by the root key.
pub(crate) fn key_list(serial: u64, keys: &[SigningKey]) -> Signed {
    let list = KeyList::new(serial, 1, keys.iter().map(listed).collect()).unwrap();
    signed_list(&list, &[root()])
}

/// As [`key_list`], with keys that don't expire.
pub(crate) fn lasting_list(serial: u64, keys: &[SigningKey]) -> Signed {
    let lasting = |key| ListedKey { expires_unix_s: NEVER_S, ..listed(key) };
    signed_list(&KeyList::new(serial, 1, keys.iter().map(lasting).collect()).unwrap(), &[root()])
}

/// A key list with the signatures of these keys.
pub(crate) fn signed_list(list: &KeyList, keys: &[SigningKey]) -> Signed {
    let mut signed = Signed::new(Purpose::KeyList, serde_json::to_vec(list).unwrap());
    keys.iter().for_each(|key| signed.sign(key));
    signed
}

/// A key list's file.
pub(crate) fn key_list_file(list: &Signed) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_key_list(list, &mut bytes).unwrap();
    bytes
}

/// A file of a bundle.
pub(crate) fn blob(file: &str, bytes: &[u8]) -> Blob {
    Blob { file: file.into(), sha256: Digest::of(bytes).to_string(), size_bytes: bytes.len() as u64 }
}

/// Bytes that look like nothing, the same for a seed.
pub(crate) fn noise(seed: u64, n_bytes: usize) -> Vec<u8> {
    let mut random = super::random::Random(seed);
    (0..n_bytes).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// A bundle to be changed and signed.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) manifest: Manifest,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) key_list: Signed,
    pub(crate) signers: Vec<SigningKey>,
}

impl Draft {
    /// A bundle of this network, which takes a picture of `size_px`, with `inputs` and what it gives for them.
    pub(crate) fn new(model: &[u8], size_px: u32, goldens: &[(Vec<u8>, [u32; 2])]) -> Self {
        let mut manifest = Manifest::from_json(MANIFEST.as_bytes()).unwrap();
        manifest.id = "test".into();
        manifest.input.size_px = size_px;
        manifest.model = blob("model.onnx", model);
        let mut blobs = vec![model.to_vec()];
        let mut listed = Vec::new();
        for (idx, (input, logits_bits)) in goldens.iter().enumerate() {
            listed
                .push(Golden { input: blob(&format!("golden-{idx}.rgb"), input), logits_bits: *logits_bits });
            blobs.push(input.clone());
        }
        manifest.release = Some(Release {
            key_id: PublicKey::of(&signer()).id(),
            security_epoch: 0,
            expires_unix_s: NOW_S + 3600,
            minimum_runtime: Version::of_this_program().unwrap(),
            goldens: listed,
            documents: Vec::new(),
        });
        Draft { manifest, blobs, key_list: key_list(1, &[signer()]), signers: vec![signer()] }
    }

    /// A bundle whose network is noise: good to be moved about, not to be run.
    pub(crate) fn of_noise(seed: u64, n_bytes: usize) -> Self {
        Draft::new(&noise(seed, n_bytes), 16, &[(noise(seed + 1, 768), [0, 1])])
    }

    /// The same for programs that ask the real clock: neither it nor its key list expires.
    pub(crate) fn lasting(mut self) -> Self {
        self.key_list = lasting_list(1, &[signer()]);
        self.release().expires_unix_s = NEVER_S;
        self
    }

    pub(crate) fn release(&mut self) -> &mut Release {
        self.manifest.release.as_mut().unwrap()
    }

    /// The manifest's signed text.
    pub(crate) fn signed(&self) -> Signed {
        let mut signed = Signed::new(Purpose::Manifest, serde_json::to_vec(&self.manifest).unwrap());
        self.signers.iter().for_each(|key| signed.sign(key));
        signed
    }

    /// The bundle's file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let head = Head { key_list: self.key_list.clone(), manifest: self.signed() };
        let mut bytes = Vec::new();
        write_bundle(&head, &mut &self.blobs.concat()[..], &mut bytes).unwrap();
        bytes
    }
}
