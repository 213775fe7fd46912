//! What the page shows of the slots.

use std::fs;

use candor::bundle::PublicKey;
use candor::dashboard::{Limits, Settings, Slots};
use candor::slot::{self, Folder, Store};
use serde_json::Value;

use crate::Fixture;
use crate::client::get;
use crate::release::{Draft, NOW_S, root, roots};

#[test]
fn the_slots_and_their_history_are_served_as_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("slots");
    let settings = slot::Settings {
        folder: Some(folder.clone()),
        root_keys: vec![PublicKey::of(&root())],
        ..slot::Settings::default()
    };
    let fixture = Fixture::of(&Settings::default(), Limits::default(), Slots::of(&settings));
    let models = || get(&fixture.dashboard, "/models.json");
    assert_eq!(models().status, 404, "nothing was ever installed");

    let mut store = Store::open(Folder::lock(&folder).unwrap()).unwrap();
    store.install(&Draft::of_noise(1, 1000).bytes()[..], &roots(), &settings, NOW_S).unwrap();
    let expected = store.status(&roots()).unwrap();
    let found: Value = serde_json::from_slice(&models().body).unwrap();
    assert_eq!(found, expected);
    assert_eq!(found["record"]["history"][0]["bundle"]["signers"].as_array().unwrap().len(), 1);
    store.roll_back("no good", NOW_S).unwrap();
    let found: Value = serde_json::from_slice(&models().body).unwrap();
    assert_eq!(found["record"]["history"][1]["reason"], "no good");

    // Somebody who looks doesn't wait for somebody who is at work, and learns nothing of the device's files.
    fs::write(folder.join("record"), "damaged").unwrap();
    let reply = models();
    assert_eq!(reply.status, 500);
    let text = String::from_utf8(reply.body).unwrap();
    assert!(text.contains("the log says why") && !text.contains("slots/"), "{text}");
}

#[test]
fn a_device_that_takes_no_models_has_no_history() {
    assert!(Slots::of(&slot::Settings::default()).is_none());
    let keyless = slot::Settings { folder: Some("/var/lib/candor".into()), ..slot::Settings::default() };
    assert!(Slots::of(&keyless).is_none());
    assert_eq!(get(&Fixture::new(Limits::default()).dashboard, "/models.json").status, 404);
}
