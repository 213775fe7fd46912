//! The dashboard of the program itself, over the clip that ships.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::client::{Client, get_at};

struct Watch {
    child: Child,
    address: SocketAddr,
    events: BufReader<std::process::ChildStdout>,
}

impl Watch {
    fn start(args: &[&str]) -> Self {
        let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4");
        let mut child = Command::new(env!("CARGO_BIN_EXE_candor"))
            .args(["watch", "--play", &clip.display().to_string(), "--repeat", "1000"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("http://") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "no address");
        }
        // It may go on to say something.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        let address = line.trim().split_once("http://").unwrap().1.trim_end_matches('/').parse().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        Watch { child, address, events }
    }

    fn says(&mut self, event: &str) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.events.read_line(&mut line).unwrap() > 0, "{event} never came");
            let value: Value = serde_json::from_str(&line).unwrap();
            if value["event"] == event {
                return value;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_clip_is_seen_on_the_page() {
    let mut watch = Watch::start(&["--dashboard=127.0.0.1:0"]);
    watch.says("running-verdict");
    let mut stream = Client::to(watch.address);
    stream.write("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut pulse = stream.news().1;
    while pulse["event"] != "pulse" {
        pulse = stream.news().1;
    }
    assert!(pulse["health"]["n_searched"].as_u64().unwrap() > 0, "{pulse}");
    let state: Value = serde_json::from_slice(&get_at(watch.address, "/state.json").body).unwrap();
    assert_eq!((&state["state"]["state"], &state["is_watching"]), (&"streaming".into(), &true.into()));
    assert_eq!(state["faces"][0]["verdict"], "Real", "{}", state["faces"]);
    let verdict = state["past"].as_array().unwrap().iter().find(|e| e["event"] == "running-verdict").unwrap();
    assert!(verdict["evidence"]["crops"].is_array(), "{verdict}");
    let id = verdict["id"].as_str().unwrap();
    let crop = get_at(watch.address, &format!("/evidence/{id}/0.jpg"));
    assert_eq!(image::load_from_memory(&crop.body).unwrap().width(), 224);
    let mut picture = get_at(watch.address, "/picture.jpg");
    // A busy machine looks seldom.
    for _ in 0..20 {
        if picture.status == 200 {
            break;
        }
        picture = get_at(watch.address, "/picture.jpg");
    }
    assert_eq!(picture.status, 200);
    let about: Value = serde_json::from_str(picture.header("candor-picture").unwrap()).unwrap();
    assert_eq!(about["faces"][0]["track_id"], state["faces"][0]["track_id"]);

    let pid = watch.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    watch.says("summary");
    assert_eq!(watch.child.wait().unwrap().code(), Some(130), "an open page doesn't keep the program");
}

#[test]
fn what_cannot_be_served_is_said_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("device.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    let config_arg = config.display().to_string();
    let fails = |args: &[&str], named: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_candor")).arg("watch").args(args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(named), "{said}");
    };
    fails(&[&format!("--dashboard={address}")], &address.to_string());
    fails(&["--dashboard=0.0.0.0:0"], "token_file");
    fails(&["--dashboard=nowhere"], "nowhere");
    write("[watch.dashboard]\nlisten = \"0.0.0.0:0\"\ntoken_file = \"/does/not/exist\"\n");
    fails(&["--config", &config_arg], "/does/not/exist");
    std::fs::write(folder.path().join("token"), "short").unwrap();
    write(&format!(
        "[watch.dashboard]\nlisten = \"0.0.0.0:0\"\ntoken_file = \"{}\"\n",
        folder.path().join("token").display()
    ));
    fails(&["--config", &config_arg], "20 to 256");
}
