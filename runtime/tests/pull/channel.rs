//! A channel: what is taken, what isn't, and a download that breaks off.

use std::path::Path;
use std::sync::{Arc, Mutex};

use candor::bundle::{Channel, Digest, PublicKey, UnverifiedChannel};
use candor::slot::{Outcome, Slot};

use crate::random::Random;
use crate::release::{NOW_S, root};
use crate::server::{Answer, Server};
use crate::site::{Site, bundle, channel, follows, list, signed, signed_by};
use crate::{Device, quoted};

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
fn the_fuzz_seed_is_a_sound_channel() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/channel/sound");
    let sound = signed(&channel(7, b"a bundle"));
    if std::env::var_os("CANDOR_WRITE_SEEDS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &sound).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == sound, "run with CANDOR_WRITE_SEEDS=1 once");
    let roots = crate::release::roots();
    let listed = UnverifiedChannel::read(&sound[..]).unwrap().check_list(&roots, None).unwrap();
    assert!(listed.verify(0).is_ok());
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
