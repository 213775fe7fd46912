//! The metrics, as Prometheus' Python client reads them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use candor::camera::{Counts, State};
use candor::dashboard::Limits;
use candor::watch::event::{Health, Model, What};

use crate::client::get;
use crate::{Fixture, appeared, scored, turned_fake};

pub(crate) fn health() -> Health {
    Health {
        state: State::Streaming,
        counts: Counts { n_frames: 900, n_dropped: 1, n_bad: 2, n_stale: 3, n_repeated: 4, n_opened: 5 },
        n_skipped: 6,
        n_searched: 7,
        n_unreadable: 8,
        n_faces: 1,
        rate_hz: 29.97,
        cpu_share: Some(0.25),
        interval_ms: 200.0,
        temperature_c: Some(51.5),
        resident_bytes: Some(80 << 20),
        first_score_s: Some(0.2),
        first_verdict_s: None,
        full_verdict_s: None,
        stage_ms: [("detect", 12.5), ("classify", 1.25)].into(),
        n_events_lost: 0,
        model: Model { id: "m".into(), version: "1".into(), status: "trained" },
    }
}

fn text() -> String {
    let fixture = Fixture::new(Limits::default());
    fixture.say(What::State { state: State::Streaming, reason: String::new() });
    fixture.say(appeared(1));
    for _ in 0..4 {
        fixture.say(scored(1));
    }
    fixture.say(turned_fake(1));
    fixture.hub.pulse(health);
    fixture.state(8);
    get(&fixture.dashboard, "/metrics").text()
}

/// Runs a checker over the text; its standard output.
fn check(command: &mut Command, text: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&said));
    String::from_utf8(output.stdout).unwrap()
}

const READ: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps({f.name: [f.type, {' '.join([s.name, *(f'{k}={v}' for k, v in s.labels.items())]): s.value for s in f.samples}] for f in families}))
";

#[test]
fn the_python_client_reads_what_was_counted() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/python");
    let has_parser = |python: &PathBuf| {
        let found = Command::new(python).args(["-c", "import prometheus_client"]).output();
        found.is_ok_and(|output| output.status.success())
    };
    if !has_parser(&python) {
        assert!(std::env::var_os("CANDOR_REQUIRE_FIXTURES").is_none(), "run tests/setup");
        return eprintln!("skipped: no prometheus_client; run tests/setup");
    }
    let read = check(Command::new(python).args(["-c", READ]), &text());
    let metrics: serde_json::Value = serde_json::from_str(&read).unwrap();
    for (family, kind, sample, value) in [
        ("candor_frames", "counter", "candor_frames_total", 900.0),
        ("candor_frames_skipped", "counter", "candor_frames_skipped_total", 6.0),
        ("candor_source_state", "gauge", "candor_source_state state=streaming", 1.0),
        ("candor_source_state", "gauge", "candor_source_state state=frozen", 0.0),
        ("candor_faces_present", "gauge", "candor_faces_present", 1.0),
        ("candor_running_verdicts", "counter", "candor_running_verdicts_total verdict=Fake", 1.0),
        ("candor_verdicts", "counter", "candor_verdicts_total verdict=Fake", 0.0),
        ("candor_face_score", "histogram", "candor_face_score_bucket le=0.8", 0.0),
        ("candor_face_score", "histogram", "candor_face_score_bucket le=0.9", 4.0),
        ("candor_face_score", "histogram", "candor_face_score_count", 4.0),
        ("candor_stage_cpu_seconds", "gauge", "candor_stage_cpu_seconds stage=detect", 0.0125),
        ("candor_temperature_celsius", "gauge", "candor_temperature_celsius", 51.5),
        ("candor_resident_memory_bytes", "gauge", "candor_resident_memory_bytes", 83_886_080.0),
        ("candor_watching", "gauge", "candor_watching", 1.0),
    ] {
        let found = &metrics[family];
        assert_eq!(found[0], kind, "{family}");
        assert_eq!(found[1][sample].as_f64(), Some(value), "{sample}");
    }
    assert!(metrics.get("candor_first_verdict_seconds").is_none(), "what isn't known isn't there");
}
