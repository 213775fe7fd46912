//! MQTT against mosquitto.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use candor::camera::State;
use candor::verdict::Verdict;
use candor::watch::event::What;
use serde_json::Value;

use super::authority::Authority;
use super::broker::{Broker, Message, mosquitto};
use super::events::{GOODBYE, Station, over, running, settings, state, until};

const SOON: &str = "retry_ms = 1\nretry_max_ms = 20\n";

fn event_of(message: &Message) -> Value {
    serde_json::from_str(&message.payload).unwrap()
}

/// Numbers and ids of the events that come until number `last`.
fn events(subscriber: &super::broker::Subscriber, last: u64) -> Vec<(u64, String)> {
    let mut came: Vec<(u64, String)> = Vec::new();
    while came.last().is_none_or(|(n, _)| *n != last) {
        let message = subscriber.find(|message| message.topic == "candor/door/events");
        assert!(!message.is_retained);
        let event = event_of(&message);
        came.push((event["track_id"].as_u64().unwrap(), event["id"].as_str().unwrap().to_owned()));
    }
    came
}

fn numbers(came: &[(u64, String)]) -> Vec<u64> {
    came.iter().map(|(n, _)| *n).collect()
}

#[test]
fn a_broker_that_restarts_gets_every_event_once_and_in_order() {
    let Some(program) = mosquitto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Broker::start(program, folder.path(), "", &[]);
    let subscriber = broker.subscribe("candor/#");
    let text = format!("[outlets.mqtt]\nhost = \"localhost\"\ntls = false\nport = {}\n{SOON}", broker.port);
    let settings = settings(folder.path(), &text);
    let station = Station::new(&settings);
    assert_eq!(subscriber.find(|m| m.topic == "candor/door/availability").payload, "online");
    station.appear(1..51);
    assert_eq!(numbers(&events(&subscriber, 50)), (1..=50).collect::<Vec<_>>());

    // Away for the time of many events, and back.
    broker.end("-TERM");
    station.appear(51..1051);
    broker.restart();
    assert_eq!(numbers(&events(&subscriber, 1050)), (51..=1050).collect::<Vec<_>>());

    // In the middle of many. An event that the broker has, but could not say so, comes again with its id: once a cut.
    for round in 0..3_u32 {
        let first = 1051 + round * 1000;
        station.appear(first..first + 500);
        let got_on = u64::from(first) + 20;
        let mut came = events(&subscriber, got_on);
        broker.end("-TERM");
        station.appear(first + 500..first + 1000);
        broker.restart();
        came.extend(events(&subscriber, u64::from(first) + 999));
        let n_all = came.len();
        came.dedup();
        assert_eq!(numbers(&came), (u64::from(first)..u64::from(first) + 1000).collect::<Vec<_>>());
        assert!(n_all - came.len() <= 1, "{} of {n_all} came twice", n_all - came.len());
    }

    // Stopped while the broker is away: the next run sends what was left.
    broker.end("-TERM");
    station.appear(5001..5101);
    station.end(std::time::Duration::from_millis(700));
    let station = Station::new(&settings);
    assert_eq!(station.outlets.counts()[1].unwrap().spool.n_waiting, 100);
    broker.restart();
    assert_eq!(numbers(&events(&subscriber, 5100)), (5001..=5100).collect::<Vec<_>>());
    station.end(GOODBYE);
    let last = subscriber.find(|m| m.topic == "candor/door/availability" && m.payload == "offline");
    assert_eq!(last.payload, "offline");
    assert!(subscriber.rest().iter().all(|message| message.topic != "candor/door/events"));
}

#[test]
fn an_event_that_the_broker_never_takes_is_set_aside_and_holds_up_no_other() {
    let Some(program) = mosquitto() else { return };
    let folder = tempfile::tempdir().unwrap();
    // Whoever sends a longer packet is disconnected.
    let broker = Broker::start(program, folder.path(), "max_packet_size 4000\n", &[]);
    let subscriber = broker.subscribe("candor/#");
    let text = format!("[outlets.mqtt]\nhost = \"localhost\"\ntls = false\nport = {}\n", broker.port);
    let station = Station::new(&settings(folder.path(), &format!("{text}retry_ms = 50\n")));
    let began = Instant::now();
    station.appear(1..4);
    let reason = "x".repeat(5000);
    station.publish(What::State { state: State::Busy, reason: reason.clone() });
    station.appear(4..8);
    assert_eq!(numbers(&events(&subscriber, 7)), (1..=7).collect::<Vec<_>>());
    // A connection that is made isn't a success: pauses double, each at least half of 50, 100, 200, 400 and 800 ms.
    assert!(began.elapsed() >= Duration::from_millis(775), "{:?}", began.elapsed());
    let aside = std::fs::read_to_string(folder.path().join("spool/mqtt/refused.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&aside).unwrap()["reason"], reason);
    let sent = || station.outlets.counts()[1].unwrap().sent;
    until("the last acknowledgement", || sent().n_sent == 7);
    assert_eq!((sent().n_failed, sent().n_refused), (5, 1));
    station.end(GOODBYE);
}

#[test]
fn home_assistant_finds_the_device_and_its_state() {
    let Some(program) = mosquitto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(program, folder.path(), "", &[]);
    let text = format!(
        "[outlets.mqtt]\nhost = \"127.0.0.1\"\ntls = false\nport = {}\nevents = [\"verdict\"]\n{SOON}",
        broker.port
    );
    let watching = broker.subscribe("candor/door/#");
    let station = Station::new(&settings(folder.path(), &text));
    station.publish(state(State::Streaming));
    station.appear(1..3);
    station.publish(running(2, None, Verdict::Fake));
    let shown = |is_it: &dyn Fn(&Value) -> bool| {
        event_of(&watching.find(|m| m.topic == "candor/door/state" && is_it(&event_of(m))))
    };
    let found = shown(&|state| state["fake_in_view"] == true);
    assert_eq!((&found["state"], &found["verdict"]), (&Value::from("streaming"), &Value::from("Fake")));
    assert_eq!((&found["n_faces"], &found["mean_score"]), (&Value::from(2), &Value::from(0.9)));
    assert_eq!(found["model"]["status"], "trained");
    station.publish(over(2, Verdict::Fake));
    let found = shown(&|state| state["fake_in_view"] == false);
    assert_eq!(found["n_faces"], 1);
    station.end(GOODBYE);
    drop(watching);

    // What is retained, for one who comes when all is over.
    let late = broker.subscribe("#");
    let mut retained = BTreeMap::new();
    while retained.len() < 8 {
        let message = late.next();
        assert!(message.is_retained, "{message:?}");
        retained.insert(message.topic.clone(), message);
    }
    assert_eq!(retained["candor/door/availability"].payload, "offline");
    let latest = event_of(&retained["candor/door/state"]);
    let configs: Vec<Value> = retained
        .iter()
        .filter(|(topic, _)| topic.starts_with("homeassistant/"))
        .map(|(_, m)| event_of(m))
        .collect();
    assert_eq!(configs.len(), 6);
    let keys = [
        ("sensor/candor_door/state", "state"),
        ("sensor/candor_door/verdict", "verdict"),
        ("sensor/candor_door/score", "mean_score"),
        ("sensor/candor_door/faces", "n_faces"),
        ("sensor/candor_door/temperature", "temperature_c"),
        ("binary_sensor/candor_door/fake", "fake_in_view"),
    ];
    for (entity, key) in keys {
        let config = event_of(&retained[&format!("homeassistant/{entity}/config")]);
        assert_eq!(config["state_topic"], "candor/door/state");
        assert_eq!(config["availability_topic"], "candor/door/availability");
        assert_eq!(config["device"]["identifiers"][0], "candor_door");
        // The template names a field that is there.
        let template = config["value_template"].as_str().unwrap();
        assert!(template.contains(&format!("value_json.{key}")), "{template}");
        assert!(latest.get(key).is_some(), "{key}: {latest}");
    }
    let unique: std::collections::BTreeSet<_> =
        configs.iter().map(|c| c["unique_id"].as_str().unwrap()).collect();
    assert_eq!(unique.len(), 6);
}

#[test]
fn tls_with_certificates_and_passwords_on_both_sides() {
    let Some(program) = mosquitto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (good, other) = (Authority::new(folder.path(), "good"), Authority::new(folder.path(), "other"));
    let ((cert, key), (own, own_key)) = (good.issue("localhost"), good.issue("device"));
    other.issue("stranger");
    std::fs::write(at("pass"), "s3cret\n").unwrap();
    let passwords =
        Command::new("mosquitto_passwd").args(["-c", "-b", &at("passwords"), "door", "s3cret"]).output();
    assert!(passwords.unwrap().status.success());
    let more = format!(
        "certfile {}\nkeyfile {}\ncafile {}\nrequire_certificate true\nallow_anonymous false\npassword_file {}\n",
        cert.display(),
        key.display(),
        at("good.pem"),
        at("passwords"),
    );
    let (ca, own, own_key) = (at("good.pem"), own.display().to_string(), own_key.display().to_string());
    let client = ["--cafile", &ca, "--cert", &own, "--key", &own_key, "-u", "door", "-P", "s3cret"];
    let broker = Broker::start(program, folder.path(), &more, &client);
    let subscriber = broker.subscribe("candor/#");
    let text = |ca: &str, device: &str, user: &str| {
        let mut text = format!("[outlets.mqtt]\nhost = \"localhost\"\nport = {}\n{SOON}", broker.port);
        let _ = write!(text, "ca_file = {:?}\npassword_file = {:?}\nuser = {user:?}\n", at(ca), at("pass"));
        let _ = write!(
            text,
            "cert_file = {:?}\nkey_file = {:?}\n",
            at(&format!("{device}.pem")),
            at(&format!("{device}.key"))
        );
        settings(folder.path(), &text)
    };
    // A broker that isn't trusted, a device that isn't, a user that isn't known: nothing goes out, and all of it waits.
    let station = Station::new(&text("other.pem", "device", "door"));
    station.appear(1..4);
    let wrong = [text("good.pem", "stranger", "door"), text("good.pem", "device", "window")];
    for (idx, settings) in [None].into_iter().chain(wrong.iter().map(Some)).enumerate() {
        if let Some(settings) = settings {
            station.outlets.change(settings).unwrap();
        }
        let n_failed = || station.outlets.counts()[1].unwrap().sent.n_failed;
        let before = n_failed();
        until("three failures", || n_failed() >= before + 3);
        assert_eq!(subscriber.rest(), [], "case {idx}");
    }
    station.outlets.change(&text("good.pem", "device", "door")).unwrap();
    assert_eq!(subscriber.next().payload, "online");
    station.appear(4..201);
    assert_eq!(numbers(&events(&subscriber, 200)), (1..=200).collect::<Vec<_>>());
    station.end(GOODBYE);
}
