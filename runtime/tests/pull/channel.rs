//! A channel: what is taken, what is refused, and a download that breaks off.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candor::bundle::{
    Channel, Digest, KeyList, ListedKey, Offer, PublicKey, Purpose, Signed, Signs, UnverifiedChannel,
};
use candor::slot::{Outcome, Slot};
use ed25519_dalek::SigningKey;

use crate::authority::Authority;
use crate::random::Random;
use crate::release::{Draft, NOW_S, key, listed, root, signed_list, signer};
use crate::server::{Answer, Server};
use crate::{Device, quoted};

/// The key of the tests that signs channels.
fn herald() -> SigningKey {
    key(5)
}

fn list(serial: u64) -> Signed {
    let channels = ListedKey {
        name: "herald".into(),
        public: PublicKey::of(&herald()),
        expires_unix_s: NOW_S + 86_400,
        signs: Signs::Channels,
    };
    signed_list(&KeyList::new(serial, 1, vec![listed(&signer()), channels]).unwrap(), &[root()])
}

/// A bundle that can be moved about.
fn bundle(seed: u64) -> Vec<u8> {
    Draft { key_list: list(1), ..Draft::of_noise(seed, 300_000) }.bytes()
}

fn channel(serial: u64, bundle: &[u8]) -> Channel {
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

fn signed_by(channel: &Channel, list: Signed, keys: &[SigningKey]) -> Vec<u8> {
    let mut signed = Signed::new(Purpose::Channel, serde_json::to_vec(channel).unwrap());
    keys.iter().for_each(|key| signed.sign(key));
    let mut bytes = Vec::new();
    UnverifiedChannel { key_list: list, channel: signed }.write(&mut bytes).unwrap();
    bytes
}

fn signed(channel: &Channel) -> Vec<u8> {
    signed_by(channel, list(1), &[herald()])
}

/// Files below /models/, which a test replaces at will.
#[derive(Clone, Default)]
struct Site(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Site {
    fn put(&self, name: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(format!("/models/{name}"), bytes);
    }

    fn serve(&self) -> Server {
        let files = Arc::clone(&self.0);
        Server::start(None, move |request| match files.lock().unwrap().get(&request.path) {
            Some(bytes) => Answer::file(bytes, request),
            None => Answer::status(404),
        })
    }
}

fn follows(server: &Server) -> String {
    format!("[slots.channel]\nurl = {:?}", server.url("/models/stable.channel"))
}

#[test]
fn what_a_channel_offers_is_taken_once() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    device.expect("the server says 404");

    let (first, second) = (bundle(1), bundle(2));
    site.put("m.bundle", first.clone());
    site.put("stable.channel", signed(&channel(1, &first)));
    assert!(matches!(device.look(), Outcome::Installed(_)));
    assert_eq!(device.next(), Some(Digest::of(&first)));
    let event = device.record().history.pop().unwrap();
    assert_eq!(event.reason.as_deref(), Some("channel stable, serial 1"));
    assert_eq!(device.part_bytes(), None);
    device.expect("installed; its trial decides");

    // The next one waits for the trial of the first.
    site.put("n.bundle", second.clone());
    let mut next = channel(2, &second);
    next.bundle.url = "n.bundle".into();
    site.put("stable.channel", signed(&next));
    device.expect("waits: test 0.1.0 is to be tried first");
    device.confirm();
    device.expect("installed: test 0.1.0");
    assert_eq!(device.next(), Some(Digest::of(&second)));

    // Given up by the device: it doesn't come back, not even under another serial, and not once the slot is used again.
    device.store().roll_back("no good", NOW_S).unwrap();
    device.expect("test 0.1.0: no good");
    site.put("stable.channel", signed(&Channel { serial: 3, ..next.clone() }));
    server.asked();
    device.expect("test 0.1.0: no good");
    assert_eq!(server.asked().len(), 1, "only the channel's own file");

    // Somebody installs another one by hand: the channel doesn't take it away.
    let third = bundle(3);
    let limits = candor::slot::Settings::default();
    device.store().install(&third[..], &crate::release::roots(), &limits, NOW_S).unwrap();
    device.confirm();
    device.expect("test 0.1.0: no good");
    assert_eq!(device.next(), Some(Digest::of(&third)));
    assert_eq!(server.asked().len(), 1, "and fetches nothing");
}

#[test]
fn a_channel_goes_back_to_the_model_before() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let (first, second) = (bundle(1), bundle(2));
    for (serial, offered) in [(1, &first), (2, &second)] {
        site.put("m.bundle", offered.clone());
        site.put("stable.channel", signed(&channel(serial, offered)));
        device.expect("installed: test 0.1.0");
        device.confirm();
        device.expect("was found good and runs");
    }
    server.asked();
    site.put("stable.channel", signed(&channel(3, &first)));
    device.expect("back to test 0.1.0");
    assert_eq!(device.next(), Some(Digest::of(&first)));
    assert_eq!(server.asked().len(), 1, "it is there already");
    let event = device.record().history.pop().unwrap();
    assert_eq!(event.reason.as_deref(), Some("channel stable, serial 3: back to test 0.1.0"));
    device.expect("was found good and runs");
    // Offered a second time, what was given up stays so.
    site.put("stable.channel", signed(&channel(4, &second)));
    device.expect("test 0.1.0: channel stable, serial 3");
    assert_eq!(device.next(), Some(Digest::of(&first)));

    // But not by hand and by the channel in turn: whoever goes on from what the channel offered stays there.
    site.put("m.bundle", bundle(3));
    site.put("stable.channel", signed(&channel(5, &bundle(3))));
    device.expect("installed: test 0.1.0");
    device.confirm();
    device.expect("was found good and runs");
    let limits = candor::slot::Settings::default();
    device.store().install(&bundle(4)[..], &crate::release::roots(), &limits, NOW_S).unwrap();
    device.confirm();
    device.expect("was found good and runs");
    assert_eq!(device.next(), Some(Digest::of(&bundle(4))));
}

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
fn whoever_stages_another_one_during_a_download_is_not_pushed_aside() {
    let offered = bundle(1);
    let slots: Arc<Mutex<std::path::PathBuf>> = Arc::default();
    let (file, told, folder) = (offered.clone(), signed(&channel(1, &offered)), Arc::clone(&slots));
    let server = Server::start(None, move |request| match request.path.as_str() {
        "/models/stable.channel" => Answer::of(told.clone()),
        _ => {
            let mut store = candor::slot::Store::locked(&folder.lock().unwrap()).unwrap();
            if store.record().history.is_empty() {
                let limits = candor::slot::Settings::default();
                store.install(&bundle(2)[..], &crate::release::roots(), &limits, NOW_S).unwrap();
            }
            Answer::file(&file, request)
        }
    });
    let mut device = Device::new(&follows(&server));
    *slots.lock().unwrap() = device.slots();
    device.expect("waits: slot A: another bundle is to be tried first");
    assert_eq!(device.next(), Some(Digest::of(&bundle(2))));
    assert_eq!(device.part_bytes(), Some(offered.len() as u64), "what has come is kept");
    device.confirm();
    server.asked();
    device.expect("installed: test 0.1.0");
    assert_eq!(device.next(), Some(Digest::of(&offered)));
    assert_eq!(server.asked().len(), 1, "and isn't fetched again");
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
fn a_rollout_takes_some_devices_first() {
    let site = Site::default();
    let server = site.serve();
    let offered = bundle(1);
    site.put("m.bundle", offered.clone());
    let mut device = Device::new(&follows(&server));
    let of = |serial, rollout_percent| signed(&Channel { rollout_percent, ..channel(serial, &offered) });
    site.put("stable.channel", of(1, 0.0));
    device.expect("waits: rolled out to 0 % of devices, this one is at ");
    let lot = device.memo("channel")["device"].clone();
    let text = device.look().text();
    let share: f64 = text.trim_end_matches(" %").rsplit(' ').next().unwrap().parse().unwrap();
    // As the format says: 32 bits of a SHA-256.
    let drawn =
        Digest::of(format!("candor rollout 1\0{}{}", lot.as_str().unwrap(), Digest::of(&offered)).as_bytes());
    let expected =
        f64::from(u32::from_str_radix(&drawn.to_string()[..8], 16).unwrap()) * 100.0 / 2f64.powi(32);
    assert!((share - expected).abs() < 0.051, "{text}, expected {expected}");
    if expected > 0.1 {
        site.put("stable.channel", of(2, expected - 0.01));
        device.expect("waits: rolled out to");
    }
    site.put("stable.channel", of(3, (expected + 0.01).min(100.0)));
    device.expect("installed");
    assert_eq!(device.memo("channel")["device"], lot, "a lot is drawn once");
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let offered = bundle(1);
    let cuts: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (file, at) = (offered.clone(), Arc::clone(&cuts));
    let told = signed(&channel(1, &offered));
    let server = Server::start(None, move |request| match request.path.as_str() {
        "/models/stable.channel" => Answer::of(told.clone()),
        _ => Answer { cut: at.lock().unwrap().pop(), ..Answer::file(&file, request) },
    });
    let mut device = Device::new(&follows(&server));
    let mut random = Random(3);
    let mut had = 0;
    for round in 0..50 {
        let cut = random.below(2 * offered.len() / 50);
        cuts.lock().unwrap().push(cut);
        let outcome = device.look();
        let from = server.asked().pop().unwrap().from();
        assert_eq!(from.unwrap_or(0), had, "seed 3, round {round}");
        if had + cut >= offered.len() {
            assert!(matches!(outcome, Outcome::Installed(_)), "{outcome:?}");
            break;
        }
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        had += cut;
        assert_eq!(device.part_bytes(), Some(had as u64), "seed 3, round {round}");
        if round % 10 == 9 {
            device.restart(&follows(&server));
        }
    }
    if device.next().is_none() {
        device.expect("installed");
    }
    assert_eq!(device.next(), Some(Digest::of(&offered)));
    assert_eq!(device.part_bytes(), None);
}

#[test]
fn servers_that_send_something_else_are_found_out() {
    let offered = bundle(1);
    let told = signed(&channel(1, &offered));
    let how: Arc<Mutex<&str>> = Arc::new(Mutex::new("short"));
    let (file, mode) = (offered.clone(), Arc::clone(&how));
    let server = Server::start(None, move |request| {
        if request.path == "/models/stable.channel" {
            return Answer::of(told.clone());
        }
        match *mode.lock().unwrap() {
            "short" => Answer::of(&file[..1000]),
            "other" => Answer::of(vec![7; file.len()]),
            "longer" => Answer::of([&file[..], &[0; 100_000]].concat()),
            "no ranges" => Answer::of(&file[..]),
            "wrong range" => {
                let headers = vec![("Content-Range", format!("bytes 5-{}/{}", file.len() - 1, file.len()))];
                Answer { status: 206, headers, body: file[5..].to_vec(), cut: None }
            }
            "cut" => Answer { cut: Some(5000), ..Answer::file(&file, request) },
            "gone" => Answer::status(416),
            _ => Answer::status(503),
        }
    });
    let mut device = Device::new(&follows(&server));
    let set = |name: &'static str| *how.lock().unwrap() = name;
    for (name, text, kept) in [
        ("down", "the server says 503", Some(0)),
        ("short", "bytes, found 1000", Some(1000)),
        // Without ranges it begins anew, and what is whole then isn't what was announced.
        ("other", "expected SHA-256", None),
        ("cut", "; 5000 bytes are kept", Some(5000)),
        ("wrong range", "Content-Range: expected bytes 5000-, found bytes 5-", Some(5000)),
        ("gone", "the server says 416", Some(0)),
        ("cut", "; 5000 bytes are kept", Some(5000)),
    ] {
        set(name);
        let outcome = device.look();
        assert!(matches!(&outcome, Outcome::Failed(why) if why.contains(text)), "{name}: {outcome:?}");
        assert_eq!(device.part_bytes(), kept, "{name}");
        assert_eq!(device.next(), None, "{name}");
    }
    set("no ranges");
    device.expect("installed");
    assert_eq!(device.next(), Some(Digest::of(&offered)));
    assert!(matches!(device.record().slots.slot(candor::slot::Name::A), Slot::Staged(_)));

    // More than was announced is never read.
    set("longer");
    let mut other = Device::new(&follows(&server));
    other.expect("installed");
    assert_eq!(other.next(), Some(Digest::of(&offered)));
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

#[test]
fn the_fuzz_seed_is_a_sound_channel() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/channel/sound");
    let sound = signed(&channel(7, b"a bundle"));
    if std::env::var_os("CANDOR_WRITE_SEEDS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &sound).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == sound, "run with CANDOR_WRITE_SEEDS=1 once");
    let roots = crate::release::roots();
    assert!(UnverifiedChannel::read(&sound[..]).unwrap().verify(&roots, None, 0).is_ok());
}

#[test]
fn too_large_a_bundle_is_not_even_fetched() {
    let site = Site::default();
    let server = site.serve();
    let mut device = Device::new(&follows(&server));
    let offered = bundle(1);
    let mut told = channel(1, &offered);
    told.bundle.size_bytes = 1 << 40;
    site.put("stable.channel", signed(&told));
    device.expect("refused: size: expected 1 to");
    assert_eq!(server.asked().len(), 1);
    assert_eq!(device.part_bytes(), None);
}

#[test]
fn the_program_says_how_it_went() {
    let site = Site::default();
    let server = site.serve();
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("candor.toml");
    let folder = quoted(&scratch.path().join("slots"));
    let root = PublicKey::of(&root());
    let slots = format!("[slots]\nfolder = {folder}\nroot_keys = [\"{root}\"]\n");
    let pull = |source: &str| {
        std::fs::write(&config, format!("{slots}{source}")).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_candor"))
            .args(["slot", "pull", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let expect = |(code, said): (i32, String), expected: i32, text: &str| {
        assert!(code == expected && said.contains(text), "expected {expected}, {text}: {code}, {said}");
    };
    expect(pull(""), 2, "expected slots.channel or slots.hawkbit, found none");
    let missing = format!("{}\ntoken_file = \"/does/not/exist\"", follows(&server));
    expect(pull(&missing), 2, "/does/not/exist");
    expect(pull(&follows(&server)), 3, "channel: failed: ");
    // By the real clock, which is before the time of the tests' keys.
    let offered = bundle(1);
    let old = |serial| Channel { made_unix_s: 1_700_000_000, ..channel(serial, &offered) };
    site.put("m.bundle", offered.clone());
    site.put("stable.channel", signed(&old(1)));
    expect(pull(&follows(&server)), 0, "channel: installed: test 0.1.0");
    expect(pull(&follows(&server)), 0, "channel: installed; its trial decides");
    site.put("stable.channel", signed_by(&old(2), list(1), &[]));
    expect(pull(&follows(&server)), 5, "channel: refused: ");
}

#[test]
fn settings_name_what_is_wrong_with_them() {
    for (text, named) in [
        ("url = \"http://models.example/a\"", "slots.channel.url"),
        ("url = \"https://a/b\"\ninterval_s = 5", "slots.channel.interval_s"),
        ("url = \"https://a/b\"\nname = \"\"", "slots.channel.name"),
        ("url = \"https://a/b\"\ninterval = 60", "did you mean `interval_s`?"),
        ("name = \"stable\"", "url"),
    ] {
        let error = candor::config::Config::from_toml(&format!("[slots.channel]\n{text}")).unwrap_err();
        assert!(error.to_string().contains(named), "{text}: {error}");
    }
}
