//! `candor watch` as a user and a service manager run it, on the clip that ships.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/astronaut.mp4")
}

fn candor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candor")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

#[test]
fn a_clip_in_the_place_of_a_camera_is_judged_as_a_scan_judges_it() {
    let path = clip().display().to_string();
    let watched = candor(&["watch", "--play", &path, "--unpaced"]);
    assert_eq!(watched.status.code(), Some(0), "{watched:?}");
    let (watched, scanned) = (lines(&watched), lines(&candor(&["scan", "--json", "--no-progress", &path])));
    let (live, file) = (of(&watched, "verdict"), of(&scanned, "verdict"));
    assert_eq!((live.len(), file.len()), (1, 1));
    for key in ["verdict", "n_scores", "track_id", "start_s"] {
        assert_eq!(live[0][key], file[0][key], "{key}");
    }
    let mean = |line: &Value| line["mean_score"].as_f64().unwrap();
    assert!((mean(live[0]) - mean(file[0])).abs() < 0.02, "{} {}", live[0], file[0]);
    // Every field of a scan's line is there.
    for key in file[0].as_object().unwrap().keys() {
        assert!(live[0].get(key).is_some(), "{key}");
    }
    let summary = of(&watched, "summary")[0];
    assert_eq!((&summary["verdict"], &summary["n_frames"]), (&file[0]["verdict"], &Value::from(150)));

    // What is said on the way: 5 scores make a verdict, 15 a full one.
    let running = of(&watched, "running-verdict");
    let n_scores = |line: &Value| line["n_scores"].as_u64().unwrap();
    assert_eq!((n_scores(running[0]), &running[0]["before"]), (5, &Value::Null));
    let full: Vec<_> = running.iter().filter(|line| line["is_full"] == true).collect();
    assert_eq!(n_scores(full[0]), 15);
    assert_eq!(full[0]["since_appeared_s"], 2.8, "14 looks, 200 ms apart");
    let scores = of(&watched, "score");
    let last: Vec<f64> = scores.iter().rev().take(15).map(|line| line["score"].as_f64().unwrap()).collect();
    let mean_of_last = last.iter().sum::<f64>() / 15.0;
    assert!((mean(scores[scores.len() - 1]) - mean_of_last).abs() < 1e-5);
    assert_eq!(of(&watched, "health").last().unwrap()["n_skipped"], 0);
}

#[test]
fn raw_pictures_come_through_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    std::fs::write(&path, vec![128; 64 * 48 * 3 / 2 * 4 + 100]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_candor"))
        .args(["watch", "--raw", "i420:64x48"])
        .stdin(File::open(&path).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    let summary = of(&lines, "summary")[0];
    assert_eq!((&summary["n_frames"], &summary["verdict"]), (&Value::from(4), &Value::from("NoFace")));
    assert_eq!(of(&lines, "health").last().unwrap()["n_bad"], 1, "the pipe ends inside a picture");
}

#[test]
fn exit_codes_are_the_documented_ones() {
    let path = clip().display().to_string();
    let code = |args: &[&str]| candor(&[&["watch"], args].concat()).status.code();
    assert_eq!(code(&["--play", "/does/not/exist.mp4"]), Some(3));
    assert_eq!(code(&["--cpu-share", "0", "--play", &path]), Some(2));
    assert_eq!(code(&["--raw", "mjpeg:64x48"]), Some(2));
    assert_eq!(code(&["--bundle", "/does/not/exist", "--play", &path]), Some(2));
    assert_eq!(code(&["--log", "/proc/nowhere", "--play", &path]), Some(2));
    let found = candor(&["scan", "--json", "--no-progress", &path]);
    let fails = matches!(lines(&found)[0]["verdict"].as_str(), Some("Fake" | "Uncertain"));
    let failed = code(&["--fail-on", "uncertain", "--unpaced", "--play", &path]);
    assert_eq!(failed, Some(i32::from(fails)));
}

#[test]
fn a_configuration_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("device.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        candor(&["config", "check", &file.display().to_string()])
    };
    assert_eq!(check("[watch]\ncpu_share = 0.25\ncontrols = { brightness = 3 }\n").status.code(), Some(0));
    let wrong = check("[watch]\ncpu_sahre = 0.25\n");
    assert_eq!(wrong.status.code(), Some(2));
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(message.contains("did you mean `cpu_share`?") && message.contains("line 2"), "{message}");
}

/// A run under a service manager.
struct Service {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    manager: UnixDatagram,
}

impl Service {
    fn start(args: &[&str], folder: &Path) -> Self {
        let path = folder.join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_candor"))
            .arg("watch")
            .args(args)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "600000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Service { child, events, manager }
    }

    /// Waits for the manager to hear `what`.
    fn hears(&self, what: &str) {
        let mut bytes = [0; 256];
        loop {
            let n = self.manager.recv(&mut bytes).unwrap();
            if String::from_utf8_lossy(&bytes[..n]).lines().any(|line| line == what) {
                return;
            }
        }
    }

    /// Waits for an event.
    fn says(&mut self, event: &str) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.events.next().unwrap().unwrap()).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

#[test]
fn a_service_manager_is_told_and_settings_are_read_again_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("device.toml");
    std::fs::write(&config, "[watch]\ninterval_ms = 300\n").unwrap();
    let log = folder.path().join("log");
    let (config_arg, log_arg, path) =
        (config.display().to_string(), log.display().to_string(), clip().display().to_string());
    let args = ["--play", &path, "--repeat", "1000", "--config", &config_arg, "--log", &log_arg];
    let mut service = Service::start(&args, folder.path());
    service.hears("READY=1");
    service.hears("WATCHDOG=1");
    service.says("score");

    for wrong in ["[watch]\ninterval_ms = 0\n", "[watch]\nlog_fiels = 3\n", "[slots]\ntrial_boots = 7\n"] {
        std::fs::write(&config, wrong).unwrap();
        service.signal("-HUP");
        let told = service.says("reloaded");
        assert_eq!(told["is_accepted"], false, "{wrong}");
        assert!(!told["reason"].as_str().unwrap().is_empty());
    }
    std::fs::write(&config, "[watch]\ninterval_ms = 150\n").unwrap();
    service.signal("-HUP");
    assert_eq!(service.says("reloaded")["is_accepted"], true);
    assert_eq!(service.says("summary")["interrupted"], false);
    service.says("score");

    service.signal("-TERM");
    service.hears("STOPPING=1");
    let (verdict, health) = (service.says("verdict"), service.says("health"));
    assert!(verdict["n_scores"].as_u64().unwrap() > 0);
    assert!(health["interval_ms"].as_f64().unwrap() >= 150.0);
    assert_eq!(service.says("summary")["interrupted"], true);
    assert_eq!(service.child.wait().unwrap().code(), Some(130));
    let logged = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(logged.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["interrupted"]), (&Value::from("summary"), &Value::from(true)));
}

#[test]
fn what_ends_a_run_is_kept_and_the_next_one_says_it_first() {
    let folder = tempfile::tempdir().unwrap();
    let (config, faults) = (folder.path().join("device.toml"), folder.path().join("faults"));
    std::fs::write(&config, format!("[watch]\nfaults = {faults:?}\n")).unwrap();
    let (config, path) = (config.display().to_string(), clip().display().to_string());
    let args = ["--play", &path, "--repeat", "1000", "--config", &config];
    let end = |mut service: Service, signal: &str| {
        service.says("score");
        service.signal(signal);
        service.child.wait().unwrap();
        std::fs::remove_file(folder.path().join("notify")).unwrap();
    };
    let first = |service: &mut Service| -> Value {
        serde_json::from_str(&service.events.next().unwrap().unwrap()).unwrap()
    };

    let mut service = Service::start(&args, folder.path());
    assert_ne!(first(&mut service)["event"], "restarted", "there was no run before");
    end(service, "-KILL");

    let mut service = Service::start(&args, folder.path());
    let told = first(&mut service);
    assert_eq!((&told["event"], &told["report"]), (&"restarted".into(), &Value::Null), "{told}");
    assert!(told["reason"].as_str().unwrap().starts_with("it was killed"), "{told}");
    // As systemd's watchdog does it.
    end(service, "-ABRT");

    let mut service = Service::start(&args, folder.path());
    let told = first(&mut service);
    assert_eq!(told["reason"], "the watchdog ended it (SIGABRT)");
    let report = std::fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
    let lines: Vec<Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["reason"]), (&"fault".into(), &told["reason"]));
    assert_eq!(lines[1]["event"], "restarted");
    assert!(!of(&lines, "score").is_empty(), "{report}");
    end(service, "-TERM");

    let mut service = Service::start(&args, folder.path());
    assert_ne!(first(&mut service)["event"], "restarted", "the run before came to its end");
    end(service, "-TERM");
}

#[test]
fn slots_without_a_key_leave_the_built_in_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("candor.toml");
    std::fs::write(&config, format!("[slots]\nfolder = {:?}\nroot_keys = []\n", folder.path())).unwrap();
    let (clip, config) = (clip().display().to_string(), config.display().to_string());
    let watched = candor(&["watch", "--play", &clip, "--unpaced", "--frames", "9", "--config", &config]);
    assert_eq!(watched.status.code(), Some(0), "{}", String::from_utf8_lossy(&watched.stderr));
    let lines = lines(&watched);
    let built_in = ::candor::bundle::Bundle::embedded().unwrap();
    assert_eq!(of(&lines, "summary")[0]["model"]["id"], built_in.manifest().id.as_str());
}
