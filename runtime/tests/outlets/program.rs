//! The outlets of `candor watch` as a user runs it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::broker::{Broker, mosquitto};
use super::events::{GOODBYE, Station, settings};
use super::server::Server;

fn candor(folder: &Path, text: &str, more: &[&str]) -> Command {
    let config = folder.join("device.toml");
    let spool = folder.join("spool");
    std::fs::write(&config, format!("[outlets]\nspool = {spool:?}\ndevice_id = \"door\"\n{text}")).unwrap();
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4");
    let mut command = Command::new(env!("CARGO_BIN_EXE_candor"));
    command.args(["watch", "--play"]).arg(clip).arg("--config").arg(config).args(more).stdin(Stdio::null());
    command
}

#[test]
fn what_is_printed_is_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start("127.0.0.1:0", &[], None);
    let text = format!("[outlets.webhook]\nurl = \"http://{}/\"\n", server.address);
    let output = candor(folder.path(), &text, &["--unpaced"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| event["event"] != "score")
        .collect();
    // On a busy machine there isn't time for all of them; then the next one who starts sends the rest.
    Station::new(&settings(folder.path(), &text)).end(GOODBYE);
    let told: Vec<Value> =
        server.requests.try_iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert!(printed.len() > 5, "{printed:?}");
    assert_eq!(printed, told);
}

#[test]
fn the_broker_speaks_the_last_will_of_one_who_is_killed() {
    let Some(program) = mosquitto() else { return };
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(program, folder.path(), "", &[]);
    let subscriber = broker.subscribe("candor/door/#");
    let text = format!("[outlets.mqtt]\nhost = \"localhost\"\ntls = false\nport = {}\n", broker.port);
    let mut child =
        candor(folder.path(), &text, &["--repeat", "1000"]).stdout(Stdio::piped()).spawn().unwrap();
    let availability = |is: &str| {
        subscriber.find(|m| m.topic == "candor/door/availability" && m.payload == is);
    };
    availability("online");
    let printed: Value = {
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    let told = subscriber.find(|m| m.topic == "candor/door/events");
    assert_eq!(printed, serde_json::from_str::<Value>(&told.payload).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    availability("offline");

    // The next run says that it is there, and by SIGTERM that it goes, with its last event.
    let mut child =
        candor(folder.path(), &text, &["--repeat", "1000"]).stdout(Stdio::null()).spawn().unwrap();
    availability("online");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let summary = subscriber.find(|m| m.topic == "candor/door/events" && m.payload.contains("\"summary\""));
    assert!(summary.payload.contains("\"interrupted\":true"), "{summary:?}");
    availability("offline");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
