//! Channels that are signed well, and a web server for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candor::bundle::{
    Channel, Digest, KeyList, ListedKey, Offer, PublicKey, Purpose, Signed, Signs, UnverifiedChannel,
};
use ed25519_dalek::SigningKey;

use crate::release::{Draft, NOW_S, key, listed, root, signed_list, signer};
use crate::server::{Answer, Server};

/// The key of the tests that signs channels.
pub(crate) fn herald() -> SigningKey {
    key(5)
}

pub(crate) fn list(serial: u64) -> Signed {
    let channels = ListedKey {
        name: "herald".into(),
        public: PublicKey::of(&herald()),
        expires_unix_s: NOW_S + 86_400,
        signs: Signs::Channels,
    };
    signed_list(&KeyList::new(serial, 1, vec![listed(&signer()), channels]).unwrap(), &[root()])
}

/// A bundle that can be moved about.
pub(crate) fn bundle(seed: u64) -> Vec<u8> {
    Draft { key_list: list(1), ..Draft::of_noise(seed, 300_000) }.bytes()
}

pub(crate) fn channel(serial: u64, bundle: &[u8]) -> Channel {
    Channel {
        format: 1,
        name: "stable".into(),
        serial,
        made_unix_s: NOW_S - 60,
        expires_unix_s: NOW_S + 3600,
        rollout_percent: 100.0,
        bundle: Offer { url: "m.bundle".into(), size_bytes: bundle.len() as u64, sha256: Digest::of(bundle) },
    }
}

pub(crate) fn signed_by(channel: &Channel, list: Signed, keys: &[SigningKey]) -> Vec<u8> {
    let mut signed = Signed::new(Purpose::Channel, serde_json::to_vec(channel).unwrap());
    keys.iter().for_each(|key| signed.sign(key));
    let mut bytes = Vec::new();
    UnverifiedChannel { key_list: list, channel: signed }.write(&mut bytes).unwrap();
    bytes
}

pub(crate) fn signed(channel: &Channel) -> Vec<u8> {
    signed_by(channel, list(1), &[herald()])
}

/// Files below /models/, which a test replaces at will.
#[derive(Clone, Default)]
pub(crate) struct Site(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Site {
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(format!("/models/{name}"), bytes);
    }

    pub(crate) fn serve(&self) -> Server {
        let files = Arc::clone(&self.0);
        Server::start(None, move |request| match files.lock().unwrap().get(&request.path) {
            Some(bytes) => Answer::file(bytes, request),
            None => Answer::status(404),
        })
    }
}

pub(crate) fn follows(server: &Server) -> String {
    format!("[slots.channel]\nurl = {:?}", server.url("/models/stable.channel"))
}
