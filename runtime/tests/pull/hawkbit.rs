//! A hawkBit server, as its Direct Device Integration API describes one: what it is told of an action, from the
//! assignment to the end of the trial.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candor::bundle::Digest;
use candor::slot::Outcome;
use serde_json::{Value, json};

use crate::release::{Draft, NOW_S};
use crate::server::{Answer, Request, Server};
use crate::{Device, quoted};

/// A server with one device: what it wants, and what it was told.
#[derive(Clone, Default)]
struct Hawkbit(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The polled object's `_links`, by name: their last parts.
    links: BTreeMap<&'static str, String>,
    /// Objects and files by path below the device's.
    objects: BTreeMap<String, Vec<u8>>,
    /// What was told: the path below the device's, and the object.
    told: Vec<(String, Value)>,
    /// Answers to what is told.
    feedback_status: u16,
    cut: Option<usize>,
}

const BASE: &str = "/DEFAULT/controller/v1/door-7";

impl Hawkbit {
    fn serve(&self) -> Server {
        let state = Arc::clone(&self.0);
        state.lock().unwrap().feedback_status = 200;
        Server::start(None, move |request| state.lock().unwrap().answer(request))
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    /// What was told since the last time: the path, the execution, the result, the details.
    fn told(&self) -> Vec<(String, String, String, String)> {
        let told = std::mem::take(&mut self.0.lock().unwrap().told);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let each = told.into_iter().map(|(path, object)| {
            let status = &object["status"];
            let detail = text(&status["details"][0]);
            (path, text(&status["execution"]), text(&status["result"]["finished"]), detail)
        });
        each.collect()
    }

    /// Assigns a bundle.
    fn assign(&self, server: &Server, id: &str, bundle: &[u8]) {
        self.set(|state| {
            let chunk = json!({ "part": "bApp", "version": "1", "name": "model", "artifacts": [
                artifact(server, "readme.txt", b"hello"), artifact(server, "m.bundle", bundle),
            ] });
            let deployment = json!({ "download": "forced", "update": "forced", "chunks": [chunk] });
            let object = json!({ "id": id, "deployment": deployment, "actionHistory": {} });
            state.objects.insert(format!("/deploymentBase/{id}"), object.to_string().into_bytes());
            state.objects.insert("/m.bundle".into(), bundle.to_vec());
            state.links.clear();
            state.links.insert("deploymentBase", format!("/deploymentBase/{id}?c=-2127183556"));
        });
    }

    /// Changes the assigned deployment.
    fn change(&self, id: &str, change: impl FnOnce(&mut Value)) {
        self.set(|state| {
            let path = format!("/deploymentBase/{id}");
            let mut object: Value = serde_json::from_slice(&state.objects[&path]).unwrap();
            change(&mut object["deployment"]);
            state.objects.insert(path, object.to_string().into_bytes());
        });
    }

    fn cancel(&self, id: &str) {
        self.set(|state| {
            let object = json!({ "id": id, "cancelAction": { "stopId": id } });
            state.objects.insert(format!("/cancelAction/{id}"), object.to_string().into_bytes());
            state.links.clear();
            state.links.insert("cancelAction", format!("/cancelAction/{id}"));
        });
    }
}

fn artifact(server: &Server, name: &str, bytes: &[u8]) -> Value {
    json!({
        "filename": name,
        "hashes": { "sha1": "", "md5": "", "sha256": Digest::of(bytes) },
        "size": bytes.len(),
        "_links": { "download-http": { "href": server.url(&format!("{BASE}/{name}")) } },
    })
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.header("authorization") != Some("TargetToken t0ken") {
            return Answer::status(401);
        }
        let host = request.header("host").unwrap();
        let Some(path) = request.path.split('?').next().unwrap().strip_prefix(BASE) else {
            return Answer::status(404);
        };
        match (request.method.as_str(), path) {
            ("GET", "") => {
                let link = |path: &String| json!({ "href": format!("http://{host}{BASE}{path}") });
                let links: BTreeMap<_, _> =
                    self.links.iter().map(|(name, path)| (name, link(path))).collect();
                let config = json!({ "polling": { "sleep": "00:02:00" } });
                Answer::of(json!({ "config": config, "_links": links }).to_string())
            }
            ("GET", path) => match self.objects.get(path) {
                Some(bytes) if path.ends_with(".bundle") => {
                    Answer { cut: self.cut.take(), ..Answer::file(bytes, request) }
                }
                Some(bytes) => Answer::of(bytes.clone()),
                None => Answer::status(404),
            },
            (_, path) => {
                assert_eq!(request.header("content-type"), Some("application/json"));
                self.told.push((path.to_owned(), serde_json::from_slice(&request.body).unwrap()));
                Answer::status(self.feedback_status)
            }
        }
    }
}

fn asks(server: &Server, token: &std::path::Path) -> String {
    let (url, token) = (server.url("/"), quoted(token));
    format!("[slots.hawkbit]\nurl = {url:?}\ndevice = \"door-7\"\ntoken_file = {token}")
}

/// A server, and a device that asks it.
fn pair() -> (Hawkbit, Server, Device, tempfile::TempDir) {
    let scratch = tempfile::tempdir().unwrap();
    let token = scratch.path().join("token");
    std::fs::write(&token, "t0ken\n").unwrap();
    let hawkbit = Hawkbit::default();
    let server = hawkbit.serve();
    let device = Device::new(&asks(&server, &token));
    (hawkbit, server, device, scratch)
}

fn bundle(seed: u64) -> Vec<u8> {
    Draft::of_noise(seed, 200_000).bytes()
}

fn step(path: &str, execution: &str, finished: &str, detail: &str) -> (String, String, String, String) {
    (path.into(), execution.into(), finished.into(), detail.into())
}

#[test]
fn an_action_is_over_when_its_trial_is() {
    let (hawkbit, server, mut device, _scratch) = pair();
    device.expect("the server has nothing to do");
    hawkbit.assign(&server, "11", &bundle(1));
    let outcome = device.look();
    assert!(matches!(outcome, Outcome::Installed(_)), "{outcome:?}");
    let path = "/deploymentBase/11/feedback";
    assert_eq!(hawkbit.told(), [step(path, "proceeding", "none", "installed; its trial decides")]);
    let event = device.record().history.pop().unwrap();
    assert_eq!(event.reason.as_deref(), Some("hawkBit action 11"));

    // The same again isn't told again.
    device.expect("installed; its trial decides");
    assert_eq!(hawkbit.told(), []);
    device.store().boot(3, NOW_S).unwrap();
    device.expect("in trial, 2 starts left");
    assert_eq!(hawkbit.told(), [step(path, "proceeding", "none", "in trial, 2 starts left")]);
    let digest = device.next().unwrap();
    let mut store = device.store();
    store.ran_well(digest, NOW_S).unwrap();
    store.confirm(&crate::release::roots(), NOW_S).unwrap();
    drop(store);

    // The server is away when it is over, and hears of it later; whatever has happened to the slots by then.
    hawkbit.set(|state| state.feedback_status = 500);
    device.expect("failed: ");
    hawkbit.told();
    device.store().roll_back("somebody goes back", NOW_S).unwrap();
    hawkbit.set(|state| state.feedback_status = 200);
    device.expect("test 0.1.0 was found good and runs");
    assert_eq!(hawkbit.told(), [step(path, "closed", "success", "test 0.1.0 was found good and runs")]);
    assert_eq!(device.next(), None);
}

#[test]
fn a_bad_trial_and_a_bad_bundle_are_failures_with_their_reasons() {
    let (hawkbit, server, mut device, scratch) = pair();
    hawkbit.assign(&server, "11", &bundle(1));
    device.expect("installed");
    device.store().boot(3, NOW_S).unwrap();
    let held = device.record().slots.next_boot().held().unwrap().clone();
    device.store().fail(&held, "contrary verdicts", NOW_S).unwrap();
    hawkbit.told();
    device.expect("test 0.1.0: contrary verdicts");
    let path = |n| format!("/deploymentBase/{n}/feedback");
    assert_eq!(hawkbit.told(), [step(&path(11), "closed", "failure", "test 0.1.0: contrary verdicts")]);

    // Whoever assigns it once more wants it tried once more; and somebody else may come in between.
    hawkbit.assign(&server, "13", &bundle(1));
    hawkbit.set(|state| state.cut = Some(1000));
    device.expect("1000 bytes are kept");
    device.expect("installed: test 0.1.0");
    hawkbit.told();
    device.store().roll_back("by hand", NOW_S).unwrap();
    let limits = candor::slot::Settings::default();
    device.store().install(&bundle(2)[..], &crate::release::roots(), &limits, NOW_S).unwrap();
    device.expect("another model was installed in its place");
    let told = hawkbit.told();
    assert_eq!(told, [step(&path(13), "closed", "failure", "another model was installed in its place")]);
    device.store().roll_back("by hand", NOW_S).unwrap();

    let mut stranger = Draft::of_noise(3, 1000);
    stranger.signers = vec![crate::release::key(9)];
    hawkbit.assign(&server, "12", &stranger.bytes());
    device.expect("refused: bundle: manifest");
    let told = hawkbit.told();
    assert!(told[0].3.contains("is not in the key list"), "{told:?}");
    assert_eq!((told.len(), told[0].1.as_str(), told[0].2.as_str()), (1, "closed", "failure"));
    // Told once by each run of the program, and fetched once.
    server.asked();
    device.expect("is not in the key list");
    assert_eq!(hawkbit.told(), []);
    device.restart(&asks(&server, &scratch.path().join("token")));
    device.expect("is not in the key list");
    assert_eq!(hawkbit.told().len(), 1);
    assert!(server.asked().iter().all(|request| !request.path.ends_with(".bundle")));
}

#[test]
fn deployments_that_make_no_sense_are_told_why() {
    let (hawkbit, server, mut device, _scratch) = pair();
    let whole = bundle(1);
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 6] = [
        (|d| d["chunks"] = json!([]), "expected one whose name ends with .bundle, found 0"),
        (
            |d| {
                let twice = d["chunks"][0].clone();
                d["chunks"].as_array_mut().unwrap().push(twice);
            },
            "found 2",
        ),
        (|d| d["chunks"][0]["artifacts"][1]["hashes"] = json!({}), "SHA-256"),
        (|d| d["chunks"][0]["artifacts"][1]["hashes"]["sha256"] = json!("../x"), "SHA-256"),
        (|d| d["chunks"][0]["artifacts"][1]["size"] = json!(1u64 << 50), "size: expected 1 to"),
        (
            |d| {
                let http = json!({ "download-http": { "href": "http://elsewhere.example/m.bundle" } });
                d["chunks"][0]["artifacts"][1]["_links"] = http;
            },
            "expected a download link with https",
        ),
    ];
    for (id, (change, text)) in changes.into_iter().enumerate() {
        let id = id.to_string();
        hawkbit.assign(&server, &id, &whole);
        hawkbit.change(&id, change);
        device.expect(text);
        let told = hawkbit.told();
        assert_eq!((told.len(), told[0].2.as_str()), (1, "failure"), "{told:?}");
        assert!(told[0].3.contains(text), "{told:?}");
        assert_eq!(device.next(), None);
    }
    // What can't be understood at all is no action, and nothing is told.
    hawkbit.set(|state| {
        state.objects.insert("/deploymentBase/5".into(), b"{\"id\":5}".to_vec());
    });
    device.expect("failed: ");
    hawkbit.set(|state| {
        state.objects.insert("/deploymentBase/5".into(), vec![b' '; (1 << 20) + 1]);
    });
    device.expect("expected at most 1048576 bytes");
    assert_eq!(hawkbit.told(), []);
}

#[test]
fn a_closed_window_waits_and_a_broken_download_goes_on() {
    let (hawkbit, server, mut device, _scratch) = pair();
    let whole = bundle(1);
    hawkbit.assign(&server, "11", &whole);
    hawkbit.change("11", |deployment| deployment["update"] = json!("skip"));
    device.expect("waits: the server's maintenance window is closed");
    assert_eq!(hawkbit.told(), []);
    hawkbit.change("11", |deployment| deployment["update"] = json!("attempt"));
    hawkbit.set(|state| state.cut = Some(70_000));
    device.expect("70000 bytes are kept");
    assert_eq!(device.part_bytes(), Some(70_000));
    server.asked();
    device.expect("installed");
    let asked = server.asked();
    let from = asked.iter().find(|request| request.path.ends_with(".bundle")).unwrap().from();
    assert_eq!(from, Some(70_000));
    assert_eq!(device.next(), Some(Digest::of(&whole)));
}

#[test]
fn what_is_cancelled_is_given_up_unless_it_is_too_late() {
    let (hawkbit, server, mut device, scratch) = pair();
    let path = |n| format!("/cancelAction/{n}/feedback");
    hawkbit.cancel("10");
    device.expect("nothing of it is staged or in trial");
    assert_eq!(hawkbit.told(), [step(&path(10), "closed", "success", "nothing of it is staged or in trial")]);

    hawkbit.assign(&server, "11", &bundle(1));
    device.expect("installed");
    hawkbit.told();
    // Another run of the program knows which bundle the action is about.
    device.restart(&asks(&server, &scratch.path().join("token")));
    hawkbit.cancel("11");
    device.expect("cancelled by the server: test 0.1.0 is given up");
    assert_eq!(hawkbit.told(), [step(&path(11), "closed", "success", "test 0.1.0 is given up")]);
    assert_eq!(device.next(), None);

    hawkbit.assign(&server, "12", &bundle(2));
    device.expect("installed");
    device.confirm();
    hawkbit.told();
    hawkbit.cancel("12");
    device.expect("test 0.1.0 was found good and runs");
    assert_eq!(hawkbit.told(), [step(&path(12), "rejected", "none", "test 0.1.0 was found good and runs")]);
    assert_eq!(device.next(), Some(Digest::of(&bundle(2))));

    // Somebody else's candidate isn't the server's to cancel.
    let limits = candor::slot::Settings::default();
    device.store().install(&bundle(3)[..], &crate::release::roots(), &limits, NOW_S).unwrap();
    hawkbit.cancel("10");
    device.expect("nothing of it is staged");
    assert_eq!(device.next(), Some(Digest::of(&bundle(3))));
}

#[test]
fn another_server_counts_from_its_own_beginning() {
    let (hawkbit, server, mut device, scratch) = pair();
    hawkbit.assign(&server, "11", &bundle(1));
    device.expect("installed");
    device.confirm();
    device.expect("was found good and runs");
    let (other, token) = (Hawkbit::default(), scratch.path().join("token"));
    let other_server = other.serve();
    device.restart(&asks(&other_server, &token));
    other.assign(&other_server, "11", &bundle(2));
    device.expect("installed: test 0.1.0");
    device.confirm();
    device.expect("was found good and runs");
    // The model before is still there: nothing has to be fetched or tried to go back to it.
    other.assign(&other_server, "12", &bundle(1));
    other.change("12", |deployment| deployment["update"] = json!("skip"));
    device.expect("waits: the server's maintenance window is closed");
    assert_eq!(device.next(), Some(Digest::of(&bundle(2))));
    other.change("12", |deployment| deployment["update"] = json!("forced"));
    other.told();
    other_server.asked();
    device.expect("back to test 0.1.0");
    let path = "/deploymentBase/12/feedback";
    assert_eq!(other.told(), [step(path, "closed", "success", "back to test 0.1.0")]);
    assert!(other_server.asked().iter().all(|request| !request.path.ends_with(".bundle")));
    assert_eq!(device.next(), Some(Digest::of(&bundle(1))));

    // Somebody has staged another one by hand; and a name that would be no good in a history.
    let limits = candor::slot::Settings::default();
    device.store().install(&bundle(4)[..], &crate::release::roots(), &limits, NOW_S).unwrap();
    other.assign(&other_server, "13", &bundle(3));
    device.expect("waits: test 0.1.0 is to be tried first");
    assert_eq!(device.next(), Some(Digest::of(&bundle(4))));
    other.assign(&other_server, &"9".repeat(65), &bundle(3));
    device.expect("id: expected 1 to 64 printable characters");
    other.assign(&other_server, "1\u{1b}[2J", &bundle(3));
    device.expect("failed: ");
}

#[test]
fn a_device_says_what_it_is_when_it_is_asked() {
    let (hawkbit, server, mut device, scratch) = pair();
    hawkbit.assign(&server, "11", &bundle(1));
    device.expect("installed");
    device.confirm();
    hawkbit.set(|state| {
        state.told.clear();
        state.links.clear();
        state.links.insert("configData", "/configData".into());
    });
    device.expect("the server has nothing to do");
    let told = std::mem::take(&mut hawkbit.0.lock().unwrap().told);
    let (path, object) = &told[0];
    assert_eq!((told.len(), path.as_str(), &object["mode"]), (1, "/configData", &json!("merge")));
    assert_eq!(object["data"]["candor"], env!("CARGO_PKG_VERSION"));
    assert_eq!(object["data"]["model_sha256"], Digest::of(&bundle(1)).to_string());
    let asked = server.asked();
    assert_eq!(asked.iter().rfind(|request| request.path.ends_with("/configData")).unwrap().method, "PUT");

    // That it can't be told is no reason to leave the work undone.
    hawkbit.assign(&server, "12", &bundle(2));
    hawkbit.set(|state| {
        state.links.insert("configData", "/configData".into());
        state.feedback_status = 302;
    });
    device.expect("feedback: the server says 302");
    assert_eq!(device.next(), Some(Digest::of(&bundle(2))));

    let wrong = scratch.path().join("wrong");
    std::fs::write(&wrong, "other").unwrap();
    device.restart(&asks(&server, &wrong));
    device.expect("the server says 401");
}

#[test]
fn settings_name_what_is_wrong_with_them() {
    for (text, named) in [
        ("url = \"http://h.example\"\ndevice = \"a\"", "slots.hawkbit.url"),
        ("url = \"https://h.example\"\ndevice = \"a/b\"", "slots.hawkbit.device"),
        ("url = \"https://h.example\"\ndevice = \"a\"\ntenant = \"\"", "slots.hawkbit.tenant"),
        ("url = \"https://h.example\"\ndevice = \"a\"\ninterval_s = 0", "slots.hawkbit.interval_s"),
        (
            "url = \"https://h.example\"\ndevice = \"a\"\ntoken_file = \"a\"\ngateway_token_file = \"b\"",
            "slots.hawkbit.token_file",
        ),
        ("url = \"https://h.example\"", "device"),
    ] {
        let error = candor::config::Config::from_toml(&format!("[slots.hawkbit]\n{text}")).unwrap_err();
        assert!(error.to_string().contains(named), "{text}: {error}");
    }
}
