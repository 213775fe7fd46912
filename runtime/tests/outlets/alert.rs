//! The program that is run and the light that is switched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candor::verdict::Verdict;
use serde_json::Value;

use super::events::{GOODBYE, Station, over, running, settings, until};

fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("hook");
    fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The lines of a file so far.
fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_program_runs_once_for_each_face_that_is_judged_fake() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    // Hostile names stay arguments: no shell reads them.
    let text =
        format!("cat >> {out:?}; echo \"$1 $CANDOR_MODEL\" >> {out:?}\n", out = out.display().to_string());
    let hook = script(folder.path(), &text);
    let text = format!("[outlets.alert]\ncommand = [{:?}, \"$(reboot); 'x\"]\ninterval_ms = 0\n", hook);
    let station = Station::new(&settings(folder.path(), &text));
    use Verdict::{Fake, Real, Uncertain};
    station.publish(running(1, None, Uncertain));
    station.publish(running(1, Some(Uncertain), Fake)); // 1
    station.publish(running(1, Some(Fake), Fake));
    station.publish(over(1, Fake));
    station.publish(running(2, None, Real));
    station.publish(over(2, Fake)); // 2
    station.publish(over(3, Uncertain));
    station.publish(running(4, None, Fake)); // 3
    until("three runs", || lines(&out).len() == 6);
    station.end(GOODBYE);
    let lines = lines(&out);
    let of: Vec<u64> = lines
        .iter()
        .step_by(2)
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["verdict"], "Fake");
            event["track_id"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(of, [1, 2, 4]);
    assert!(lines.iter().skip(1).step_by(2).all(|line| line == "$(reboot); 'x m 1 trained"), "{lines:?}");
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    // Neither reads its input; the second is a grandchild.
    let text = format!("sleep 1000 &\necho \"$$ $!\" >> {:?}\nwait\n", pids.display().to_string());
    let hook = script(folder.path(), &text);
    let text = format!(
        "[outlets.alert]\ncommand = [{hook:?}]\ninterval_ms = 0\ntimeout_ms = 300\non = \"uncertain\"\n"
    );
    let station = Station::new(&settings(folder.path(), &text));
    (1..4).for_each(|n| station.publish(running(n, None, Verdict::Uncertain)));
    until("three runs", || lines(&pids).len() == 3);
    let is_gone = |pid: &str| {
        // A zombie that nobody reaps is gone too.
        fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
    };
    let all = lines(&pids);
    until("all killed", || all.iter().flat_map(|line| line.split(' ')).all(&is_gone));
    // One that runs when all is over ends with it.
    station.publish(running(9, None, Verdict::Fake));
    until("the fourth", || lines(&pids).len() == 4);
    station.end(Duration::from_secs(1));
    let last = lines(&pids);
    until("killed at the end", || last[3].split(' ').all(&is_gone));
}

#[test]
fn programs_run_no_more_often_than_allowed_and_what_waits_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let hook = script(folder.path(), &format!("echo x >> {:?}\n", out.display().to_string()));
    let text = format!("[outlets.alert]\ncommand = [{hook:?}]\ninterval_ms = 86400000\n");
    let station = Station::new(&settings(folder.path(), &text));
    (0..100).for_each(|n| station.publish(running(n, None, Verdict::Fake)));
    until("all seen", || station.outlets.n_seen() == 100);
    until("one run", || lines(&out).len() == 1);
    // One ran at once, eight wait for a day.
    let (n_run, n_forgotten) = station.outlets.n_alerts();
    assert_eq!(n_run, 1);
    assert!((91..=92).contains(&n_forgotten), "{n_forgotten}");
    station.end(Duration::from_millis(50));
    assert_eq!(lines(&out).len(), 1);
}

#[test]
fn what_waits_for_its_turn_outlives_settings_that_change() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // It runs until it may end.
    let text = "echo $1 >> $2\nwhile [ ! -e $3 ]; do sleep 0.01; done\necho $1 over >> $2\n";
    let hook = script(folder.path(), text);
    let text = |name: &str| {
        let (out, may_end) = (at("out"), at("may_end"));
        let command = format!("[{hook:?}, {name:?}, {out:?}, {may_end:?}]");
        settings(folder.path(), &format!("[outlets.alert]\ncommand = {command}\ninterval_ms = 0\n"))
    };
    let station = Station::new(&text("before"));
    (1..4).for_each(|n| station.publish(running(n, None, Verdict::Fake)));
    until("the first", || lines(&at("out")).len() == 1);
    until("all seen", || station.outlets.n_seen() == 3);
    station.outlets.change(&text("after")).unwrap();
    fs::write(at("may_end"), "").unwrap();
    until("all three", || lines(&at("out")).len() == 6);
    station.end(GOODBYE);
    let expected = ["before", "before over", "after", "after over", "after", "after over"];
    assert_eq!(lines(&at("out")), expected);
}

#[test]
fn a_light_is_on_while_a_fake_is_in_view() {
    let folder = tempfile::tempdir().unwrap();
    let leds = folder.path().join("leds");
    fs::create_dir_all(leds.join("ACT")).unwrap();
    let brightness = leds.join("ACT/brightness");
    fs::write(&brightness, "1\n").unwrap();
    let settings = settings(folder.path(), "[outlets.led]\nname = \"ACT\"\n");
    let station = Station::start(&settings, &leds).unwrap();
    let shows = |text: &str| until(text, || fs::read_to_string(&brightness).unwrap() == text);
    shows("0");
    station.publish(running(1, None, Verdict::Fake));
    shows("1");
    station.publish(running(2, None, Verdict::Fake));
    station.publish(over(1, Verdict::Fake));
    station.publish(running(2, Some(Verdict::Fake), Verdict::Real));
    shows("0");
    station.publish(running(3, None, Verdict::Fake));
    shows("1");
    let mut none = settings.clone();
    none.led = None;
    station.outlets.change(&none).unwrap();
    assert_eq!(fs::read_to_string(&brightness).unwrap(), "0");
    station.outlets.change(&settings).unwrap();
    assert_eq!(fs::read_to_string(&brightness).unwrap(), "1", "the fake is still in view");
    station.end(GOODBYE);
    assert_eq!(fs::read_to_string(&brightness).unwrap(), "0");
    // A light that isn't there stops nothing.
    let station = Station::start(&settings, &folder.path().join("nowhere")).unwrap();
    station.publish(running(4, None, Verdict::Fake));
    until("seen", || station.outlets.n_seen() == 1);
    station.outlets.change(&settings).unwrap();
    station.end(GOODBYE);
}
