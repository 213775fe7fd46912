//! Whom a device that follows a channel believes.

use std::sync::{Arc, Mutex};

use candor::bundle::{Channel, Digest, KeyList, ListedKey, Offer, PublicKey, Signs};
use candor::slot::Outcome;

use crate::authority::Authority;
use crate::random::Random;
use crate::release::{NOW_S, key, listed, root, signed_list, signer};
use crate::server::{Answer, Server};
use crate::site::{Site, bundle, channel, follows, herald, list, signed, signed_by};
use crate::{Device, quoted};

#[test]
fn a_stolen_key_holds_devices_up_until_it_is_taken_off_the_list() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let offered = bundle(1);
    site.put("m.bundle", offered.clone());
    let future =
        Channel { made_unix_s: NOW_S + 90_000, expires_unix_s: NOW_S + 900_000, ..channel(1, &offered) };
    site.put("stable.channel", signed(&future));
    device.expect("made_unix_s: expected at most 1800086400, found 1800090000");
    let stolen = Channel {
        rollout_percent: 0.0,
        made_unix_s: NOW_S + 80_000,
        expires_unix_s: NOW_S + 900_000,
        ..channel(u64::MAX, &offered)
    };
    site.put("stable.channel", signed(&stolen));
    device.expect("waits: rolled out to 0 %");
    site.put("stable.channel", signed(&channel(2, &offered)));
    device.expect("refused: channel: ");

    let other = ListedKey { public: PublicKey::of(&key(6)), signs: Signs::Channels, ..listed(&signer()) };
    let revoking = signed_list(&KeyList::new(2, 1, vec![listed(&signer()), other]).unwrap(), &[root()]);
    site.put("stable.channel", signed_by(&channel(2, &offered), revoking.clone(), &[herald()]));
    device.expect("is not in the key list with serial 2");
    site.put("stable.channel", signed_by(&channel(2, &offered), revoking, &[key(6)]));
    device.expect("installed: test 0.1.0");
}

#[test]
fn who_is_not_to_be_believed_is_not() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let offered = bundle(1);
    site.put("m.bundle", offered.clone());
    let good = channel(7, &offered);
    let unheard = |device: &mut Device, bytes: Vec<u8>, text: &str| {
        site.put("stable.channel", bytes);
        server.asked();
        let outcome = device.look();
        let text_of = outcome.text();
        assert!(text_of.contains(text), "{text}: {outcome:?}");
        assert_eq!(server.asked().len(), 1, "{text}: nothing is fetched");
        assert_eq!(device.next(), None, "{text}");
        outcome
    };
    // Of a portal, or of a server in the midst of its own change: it may soon be over.
    let failed = |device: &mut Device, bytes: Vec<u8>, text: &str| {
        let outcome = unheard(device, bytes, text);
        assert!(matches!(outcome, Outcome::Failed(_)), "{text}: {outcome:?}");
    };
    let refused = |device: &mut Device, bytes: Vec<u8>, text: &str| {
        let outcome = unheard(device, bytes, text);
        assert!(matches!(outcome, Outcome::Refused(_)), "{text}: {outcome:?}");
    };
    failed(&mut device, b"<html>log in first</html>".to_vec(), "first bytes");
    failed(&mut device, crate::release::key_list_file(&list(1)), "starts with \"CANDOR\\x1aC\"");
    refused(&mut device, signed_by(&good, list(1), &[]), "expected signatures of 1 trusted keys, found 0");
    refused(&mut device, signed_by(&good, list(1), &[key(9)]), "is not in the key list with serial 1");
    // A key that signs bundles signs no channel, and the other way round.
    refused(&mut device, signed_by(&good, list(1), &[signer()]), "(release) signs bundles");
    let strange = signed_list(&KeyList::new(1, 1, vec![listed(&herald())]).unwrap(), &[key(9)]);
    refused(&mut device, signed_by(&good, strange, &[herald()]), "is no root key of this device");
    let expired = Channel { expires_unix_s: NOW_S, ..good.clone() };
    refused(&mut device, signed(&expired), "expires_unix_s: expected after 1800000000");
    let beta = Channel { name: "beta".into(), ..good.clone() };
    refused(&mut device, signed(&beta), "name: expected \"stable\", found \"beta\"");
    let mut long = signed(&good);
    long.push(0);
    failed(&mut device, long.clone(), "nothing behind");
    long.truncate(long.len() - 2);
    failed(&mut device, long, "channel");
    for (change, text) in [
        (Channel { format: 2, ..good.clone() }, "format"),
        (Channel { rollout_percent: 101.0, ..good.clone() }, "rollout_percent"),
        (Channel { name: "a\nb".into(), ..good.clone() }, "name"),
    ] {
        refused(&mut device, signed(&change), text);
    }
    for url in ["http://elsewhere/m", "/etc/m", "../m", "ftp://a", "a b", "", "file:m"] {
        let bundle = Offer { url: url.into(), ..good.bundle.clone() };
        refused(&mut device, signed(&Channel { bundle, ..good.clone() }), "bundle.url");
    }
    // Every byte counts.
    let whole = signed(&good);
    let mut random = Random(1);
    for _ in 0..40 {
        let (at, bit) = (random.below(whole.len()), random.below(8));
        let mut changed = whole.clone();
        changed[at] ^= 1 << bit;
        site.put("stable.channel", changed);
        let outcome = device.look();
        let is_believed = !matches!(outcome, Outcome::Refused(_) | Outcome::Failed(_));
        assert!(!is_believed, "seed 1: bit {bit} of byte {at}: {outcome:?}");
    }
    site.put("stable.channel", whole);
    device.expect("installed: test 0.1.0");
}

#[test]
fn an_older_file_is_replayed_and_a_clock_can_stand() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let (first, second) = (bundle(1), bundle(2));
    site.put("m.bundle", first.clone());
    let newest = Channel { made_unix_s: NOW_S + 1000, ..channel(9, &first) };
    site.put("stable.channel", signed(&newest));
    device.expect("installed");
    device.confirm();

    site.put("m.bundle", second.clone());
    site.put("stable.channel", signed(&channel(8, &second)));
    device.expect("serial: expected 9, which was there before, or more, found 8");
    let twin = Channel { made_unix_s: NOW_S, ..channel(9, &second) };
    site.put("stable.channel", signed(&twin));
    device.expect("another file with serial 9");
    // After a start too, and where the device's clock has lost its time: what is newer than the clock says what it is.
    device.restart(&follows(&server));
    device.now_unix_s = || 0;
    device.expect("another file with serial 9");
    site.put("stable.channel", signed(&Channel { expires_unix_s: NOW_S + 900, ..channel(10, &second) }));
    device.expect("expires_unix_s: expected after 1800001000");
    assert_eq!(device.next(), Some(Digest::of(&first)));
    site.put("stable.channel", signed(&channel(10, &second)));
    device.expect("installed");

    // Another channel counts from its own beginning.
    let beta = Channel { name: "beta".into(), ..channel(1, &second) };
    site.put("stable.channel", signed(&beta));
    device.restart(&format!("{}\nname = \"beta\"", follows(&server)));
    device.expect("installed; its trial decides");
}

#[test]
fn a_newer_key_list_comes_with_the_channel() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let offered = bundle(1);
    site.put("m.bundle", offered.clone());
    // The list that the channel brings has no key for the bundle any more.
    let channels =
        ListedKey { public: PublicKey::of(&herald()), signs: Signs::Channels, ..listed(&signer()) };
    let revoking = signed_list(&KeyList::new(2, 1, vec![listed(&key(3)), channels]).unwrap(), &[root()]);
    site.put("stable.channel", signed_by(&channel(1, &offered), revoking, &[herald()]));
    device.expect("is not in the key list with serial 2");
    assert_eq!(device.next(), None);
    assert_eq!(device.store().key_list(&crate::release::roots()).unwrap().unwrap().serial, 2);
    // Refused once is refused, without another download, until the channel says it again.
    server.asked();
    device.expect("is not in the key list with serial 2");
    assert_eq!(server.asked().len(), 1);
    site.put("stable.channel", signed(&channel(2, &offered)));
    device.expect("is not in the key list with serial 2");
}

#[test]
fn nobody_else_is_believed_or_told_anything() {
    let scratch = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(scratch.path(), "ours"), Authority::new(scratch.path(), "theirs"));
    let offered = bundle(1);
    let (file, elsewhere) = (offered.clone(), Arc::new(Mutex::new(String::new())));
    let mirror = Server::start(Some(ours.server("localhost")), move |request| Answer::file(&file, request));
    let plain_file = offered.clone();
    let plain = Server::start(None, move |request| Answer::file(&plain_file, request));
    let (told, to) = (signed(&channel(1, &offered)), Arc::clone(&elsewhere));
    let answering = move |request: &crate::server::Request| match request.path.as_str() {
        "/models/stable.channel" => Answer::of(told.clone()),
        _ => Answer { headers: vec![("Location", to.lock().unwrap().clone())], ..Answer::status(302) },
    };
    let token = scratch.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let server = Server::start(Some(ours.server("localhost")), answering.clone());
    let impostor = Server::start(Some(theirs.server("localhost")), answering);
    let source = |server: &Server, ca: &str| {
        let (token, ca) = (quoted(&token), quoted(&scratch.path().join(ca)));
        format!("{}\ntoken_file = {token}\nca_file = {ca}", follows(server))
    };
    let mut device = Device::new(&source(&impostor, "ours.pem"));
    device.expect("failed: ");
    assert!(impostor.asked().is_empty(), "nothing is told to an impostor");

    device.restart(&source(&server, "ours.pem"));
    *elsewhere.lock().unwrap() = plain.url("/m.bundle");
    device.expect("failed: ");
    assert!(plain.asked().is_empty(), "no way leads from https to http");
    assert_eq!(server.asked()[0].header("authorization"), Some("Bearer s3cret"));

    *elsewhere.lock().unwrap() = mirror.url("/m.bundle");
    device.expect("installed");
    let asked = mirror.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None, "a token isn't for whoever is pointed at");

    // A proxy of this device, without TLS, that hands out a channel whose bundle lies elsewhere.
    let mut offer = channel(1, &offered);
    offer.bundle.url = mirror.url("/m.bundle");
    let told = signed(&offer);
    let proxy = Server::start(None, move |_| Answer::of(told.clone()));
    let ca = quoted(&scratch.path().join("theirs.pem"));
    let mut device = Device::new(&format!("{}\nca_file = {ca}", follows(&proxy)));
    device.expect("failed: ");
    assert!(mirror.asked().is_empty(), "nobody vouches for it");
    let ca = quoted(&scratch.path().join("ours.pem"));
    device.restart(&format!("{}\nca_file = {ca}", follows(&proxy)));
    device.expect("installed");
    let elsewhere = Server::start(None, |_| Answer {
        headers: vec![("Location", "http://localhost:1/".into())],
        ..Answer::status(302)
    });
    Device::new(&follows(&elsewhere)).expect("the server says 302");
}
