//! The dashboard over real sockets: what it serves, whom it lets in, and what nobody can take from it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod hostile;
mod metrics;
mod models;
mod program;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/release.rs"]
mod release;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candor::bundle::Bundle;
use candor::camera::State;
use candor::dashboard::{Dashboard, Limits, Settings, Slots, Subject};
use candor::engine::KernelSet;
use candor::follow::Sighting;
use candor::gallery::Sample;
use candor::geom::Rect;
use candor::verdict::{Reason, Verdict};
use candor::watch::event::{Event, Running, Stamp, What};
use candor::watch::hub::Hub;
use candor::watch::witness::Looked;
use image::{Rgb, RgbImage};
use serde_json::Value;

use client::{Client, PATIENCE, ask, get};

/// A hub with a dashboard on a free port.
struct Fixture {
    hub: Hub,
    dashboard: Dashboard,
}

impl Fixture {
    fn new(limits: Limits) -> Self {
        Fixture::with(&Settings::default(), limits)
    }

    fn with(settings: &Settings, limits: Limits) -> Self {
        Fixture::of(settings, limits, None)
    }

    fn of(settings: &Settings, limits: Limits, slots: Option<Slots>) -> Self {
        // Nothing may be lost on the way to the dashboard, however fast the tests are.
        let mut hub = Hub::new(true);
        let bundle = Arc::new(Mutex::new(Bundle::embedded().unwrap()));
        let here = "127.0.0.1:0".parse().unwrap();
        let subject = Subject { file: "clip.mp4", bundle: &bundle, kernels: KernelSet::Auto, slots };
        let dashboard = Dashboard::start(settings, here, limits, subject, &mut hub).unwrap();
        Fixture { hub, dashboard }
    }

    fn say(&self, what: What) {
        self.hub.publish(event(what));
    }

    /// The state once it has `n_news` of news: the board's thread needs its time.
    fn state(&self, n_news: u64) -> Value {
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let state: Value = serde_json::from_slice(&get(&self.dashboard, "/state.json").body).unwrap();
            let n: u64 = state["news"].as_str().unwrap().split_once('-').unwrap().1.parse().unwrap();
            if n >= n_news {
                return state;
            }
        }
        panic!("{n_news} news never came");
    }
}

fn event(what: What) -> Event {
    Stamp { file: "clip.mp4".into(), start_ns: 0 }.event(0, what)
}

fn appeared(track_id: u32) -> What {
    What::FaceAppeared { track_id, bbox: [1.0, 2.0, 3.0, 4.0] }
}

fn running(verdict: Verdict) -> Running {
    Running { verdict, mean_score: Some(0.9), n_scores: 5 }
}

fn scored(track_id: u32) -> What {
    What::Score { track_id, bbox: [1.0, 2.0, 3.0, 4.0], score: Some(0.9), running: running(Verdict::Fake) }
}

fn turned_fake(track_id: u32) -> What {
    What::RunningVerdict {
        track_id,
        before: None,
        running: running(Verdict::Fake),
        since_appeared_s: 1.0,
        is_full: false,
        reason: Reason::Over { n_scores: 5, fake_above: 0.77 },
    }
}

#[test]
fn the_page_is_served_whole_and_lets_nothing_in_from_elsewhere() {
    let fixture = Fixture::new(Limits::default());
    for (path, kind, part) in [
        ("/", "text/html", "<main>"),
        ("/page.css", "text/css", "prefers-reduced-motion"),
        ("/page.js", "text/javascript", "EventSource"),
        ("/view.js", "text/javascript", "export function"),
        ("/icon.svg", "image/svg+xml", "<svg"),
        ("/state.json", "application/json", "\"schema\":2"),
        ("/healthz", "application/json", "\"ok\":true"),
        ("/metrics", "text/plain; version=0.0.4", "candor_build_info"),
    ] {
        let reply = get(&fixture.dashboard, path);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("content-type").unwrap().starts_with(kind), "{path}");
        assert!(reply.text().contains(part), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let head = ask(
            &fixture.dashboard,
            &format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        );
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert!(head.header("content-length").is_some());
    }
    let page = get(&fixture.dashboard, "/").text();
    for inline in ["<script>", "style=", "onclick=", "https://"] {
        assert!(!page.contains(inline), "{inline}");
    }
    for path in [
        "/nothing",
        "/page.css/",
        "//",
        "/evidence/1/0.jpg",
        "/evidence/x/heat.png",
        "/evidence/../page.css",
        "/%2e%2e/etc/passwd",
    ] {
        assert_eq!(get(&fixture.dashboard, path).status, 404, "{path}");
    }
}

#[test]
fn other_names_other_sites_and_other_methods_are_refused() {
    let fixture = Fixture::with(
        &Settings { hosts: vec!["candor.local".into()], ..Settings::default() },
        Limits::default(),
    );
    let status = |line: &str, headers: &str| {
        ask(&fixture.dashboard, &format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")).status
    };
    assert_eq!(status("GET /state.json", "Host: evil.example\r\n"), 403);
    assert_eq!(status("GET /state.json", "Host: candor.local:8710\r\n"), 200);
    assert_eq!(status("GET /state.json", "Host: 127.0.0.1\r\n"), 200);
    assert_eq!(status("GET /state.json", ""), 400);
    let local = "Host: localhost\r\n";
    assert_eq!(
        status(
            "GET /picture.jpg",
            &format!("{local}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n")
        ),
        403
    );
    assert_eq!(status("GET /state.json", &format!("{local}Origin: http://evil.example\r\n")), 403);
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get"] {
        assert_eq!(status(&format!("{method} /"), local), 405, "{method}");
    }
    assert_eq!(status("POST /", &format!("{local}Content-Length: 0\r\n")), 405);
    assert_eq!(status("POST /login", &format!("{local}Content-Length: 0\r\n")), 415);
}

#[test]
fn with_a_token_only_who_knows_it_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    let token = "0123456789abcdefghij";
    std::fs::write(&token_file, format!("{token}\n")).unwrap();
    let settings = Settings { token_file: Some(token_file), ..Settings::default() };
    let fixture = Fixture::with(&settings, Limits::default());
    let ask = |text: &str| ask(&fixture.dashboard, text);
    let with = |path: &str, headers: &str| {
        ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"))
    };
    for path in
        ["/state.json", "/events", "/picture.jpg", "/metrics", "/page.js", "/evidence/1/0.jpg", "/nothing"]
    {
        let reply = with(path, "");
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.header("www-authenticate").is_some());
        assert_eq!(with(path, "Authorization: Bearer wrong\r\n").status, 401, "{path}");
    }
    let page = with("/", "");
    assert_eq!(page.status, 401);
    assert!(page.text().contains("<form") && !page.text().contains("role=\"alert\""));
    assert_eq!(with("/page.css", "").status, 200);
    let health = with("/healthz", "");
    assert_eq!(health.status, 200);
    assert!(!health.text().contains("clip"), "{}", health.text());
    assert_eq!(with("/state.json", &format!("Authorization: Bearer {token}\r\n")).status, 200);

    let login = |form: &str, headers: &str| {
        ask(&format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             {headers}Content-Length: {}\r\nConnection: close\r\n\r\n{form}",
            form.len()
        ))
    };
    let wrong = login("token=0123456789abcdefghi", "");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    assert!(wrong.text().contains("role=\"alert\""));
    assert_eq!(login(&format!("token={token}"), "Origin: http://evil.example\r\n").status, 403);
    let right = login(&format!("token={token}"), "Origin: http://localhost\r\n");
    assert_eq!((right.status, right.header("location")), (303, Some("/")));
    let cookie = right.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict") && !cookie.contains(token));
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(with("/state.json", &format!("Cookie: {pair}\r\n")).status, 200);
    assert_eq!(with("/state.json", &format!("Cookie: {pair}0\r\n")).status, 401);
}

#[test]
fn news_come_in_order_and_go_on_after_a_break() {
    let fixture = Fixture::new(Limits { beat: Duration::from_millis(20), ..Limits::default() });
    let start = fixture.state(0)["news"].as_str().unwrap().to_owned();
    let mut stream = Client::new(&fixture.dashboard);
    stream.write(&format!("GET /events?after={start} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(stream.head().status, 200);
    fixture.say(What::State { state: State::Streaming, reason: "frames come".into() });
    for track_id in 1..=20 {
        fixture.say(appeared(track_id));
    }
    let first: Vec<(u64, Value)> = (0..10).map(|_| stream.news()).collect();
    assert_eq!(first[0].1["state"], "streaming");
    drop(stream);
    let run = start.split_once('-').unwrap().0;
    let mut again = Client::new(&fixture.dashboard);
    again.write(&format!("GET /events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {run}-10\r\n\r\n"));
    let rest: Vec<(u64, Value)> = (0..11).map(|_| again.news()).collect();
    let numbers: Vec<u64> = first.iter().chain(&rest).map(|(n, _)| *n).collect();
    assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
    assert_eq!(rest[10].1["track_id"], 20);
    again.line("event: beat");

    // A place that isn't known any more, or never was: the page reads the whole state.
    let foreign = format!("{run}-99");
    for (newest, place) in (21..).zip(["1-5", "x", "18446744073709551616-3", &foreign]) {
        let mut lost = Client::new(&fixture.dashboard);
        lost.write(&format!("GET /events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {place}\r\n\r\n"));
        lost.line(&format!("id: {run}-{newest}"));
        lost.line("event: reset");
        fixture.say(appeared(9));
        assert_eq!(lost.news().0, newest + 1);
    }
}

#[test]
fn the_state_is_that_of_the_events() {
    let fixture = Fixture::new(Limits::default());
    fixture.say(What::State { state: State::NoSignal, reason: "nothing is plugged in".into() });
    fixture.say(appeared(4));
    fixture.say(scored(4));
    fixture.say(turned_fake(4));
    let state = fixture.state(4);
    assert_eq!((&state["state"]["state"], &state["file"]), (&"no-signal".into(), &"clip.mp4".into()));
    let face = &state["faces"][0];
    assert_eq!(
        (&face["track_id"], &face["verdict"], &face["n_scores"]),
        (&4.into(), &"Fake".into(), &5.into())
    );
    assert_eq!(face["scores"].as_array().unwrap().len(), 1);
    assert_eq!(state["past"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&state["past"][0]["event"], &state["past"][1]["event"]),
        (&"running-verdict".into(), &"state".into())
    );
    assert_eq!(state["model"]["status"], Bundle::embedded().unwrap().manifest().status.word());
    // A source that is away is no fault of the program.
    assert_eq!(get(&fixture.dashboard, "/healthz").status, 200);
    for (n_news, state) in [(5, State::Failed), (6, State::Ended)] {
        fixture.say(What::State { state, reason: "permission denied".into() });
        fixture.state(n_news);
        let health = get(&fixture.dashboard, "/healthz");
        assert_eq!(health.status, 503);
        let health: Value = serde_json::from_slice(&health.body).unwrap();
        assert_eq!(health, serde_json::json!({ "ok": false, "state": state.word(), "is_watching": true }));
    }
    drop(fixture.hub);
    let address = fixture.dashboard.address();
    drop(fixture.dashboard);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_watching_thread_that_stands_still_is_a_fault_until_it_goes_on() {
    let fixture = Fixture::new(Limits { still: Duration::from_millis(300), ..Limits::default() });
    let comes_to = |status: u16, is_watching: bool| {
        let asked = Instant::now();
        loop {
            if is_watching {
                fixture.hub.pulse(metrics::health);
            }
            let health = get(&fixture.dashboard, "/healthz");
            let said: Value = serde_json::from_slice(&health.body).unwrap();
            if (health.status, &said["is_watching"]) == (status, &is_watching.into()) {
                return;
            }
            assert!(asked.elapsed() < PATIENCE, "still {} {said}", health.status);
        }
    };
    comes_to(503, false);
    comes_to(200, true);
    comes_to(503, false);
}

#[test]
fn pictures_are_copied_only_for_those_who_look() {
    let fixture = Fixture::new(Limits::default());
    let picture = RgbImage::from_pixel(1280, 720, Rgb([20, 200, 120]));
    let bbox = Rect { x: 320.0, y: 180.0, w: 128.0, h: 144.0 };
    let faces = [Sighting { track_id: 7, bbox, scores: heapless::Vec::new() }];
    let looked = || Looked { picture: &picture, faces: &faces };
    fixture.hub.look(|| panic!("nobody looks"));
    let mut viewer = Client::new(&fixture.dashboard);
    viewer.write("GET /picture.jpg?after=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (mut is_shown, asked) = (false, Instant::now());
    while !is_shown {
        assert!(asked.elapsed() < PATIENCE, "nobody wants the picture");
        fixture.hub.look(|| {
            is_shown = true;
            looked()
        });
        std::thread::yield_now();
    }
    let reply = viewer.whole();
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("image/jpeg")));
    let about: Value = serde_json::from_str(reply.header("candor-picture").unwrap()).unwrap();
    assert_eq!((&about["n"], &about["width_px"]), (&1.into(), &1280.into()));
    assert_eq!(about["faces"][0]["place"], serde_json::json!([0.25, 0.25, 0.1, 0.2]));
    assert_eq!(about["faces"][0]["track_id"], 7);
    let shown = image::load_from_memory(&reply.body).unwrap().to_rgb8();
    assert_eq!(shown.dimensions(), (640, 360));
    assert!(shown.get_pixel(320, 180).0.iter().zip([20, 200, 120]).all(|(a, b)| a.abs_diff(b) < 8));
}

#[test]
fn what_a_verdict_rests_on_is_kept_with_it() {
    let fixture = Fixture::new(Limits::default());
    let size = Bundle::embedded().unwrap().manifest().input.size_px;
    let sample = |score: f32, red: u8| Sample {
        pts_ns: 1,
        frame_idx: 0,
        bbox: Rect::default(),
        confidence: 1.0,
        crop: RgbImage::from_fn(size, size, |x, y| {
            let mark = if (x / 16 + y / 16) % 2 == 0 { 40 } else { 180 };
            Rgb([red, mark, 90])
        }),
        score: Some(score),
    };
    let samples = [sample(0.2, 10), sample(0.95, 250), sample(0.6, 120)];
    fixture.say(appeared(4));
    fixture.hub.judge(event(turned_fake(4)), &[0.2, 0.95, 0.6], &samples);
    let state = fixture.state(2);
    let evidence = &state["past"][0]["evidence"];
    let told: Vec<&str> =
        evidence["crops"].as_array().unwrap().iter().map(|c| c["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["highest", "median", "lowest"]);
    let id = state["past"][0]["id"].as_str().unwrap();
    for (idx, red) in [250u8, 120, 10].into_iter().enumerate() {
        let reply = get(&fixture.dashboard, &format!("/evidence/{id}/{idx}.jpg"));
        let crop = image::load_from_memory(&reply.body).unwrap().to_rgb8();
        assert!(crop.pixels().next().unwrap().0[0].abs_diff(red) < 30, "crop {idx}");
    }
    assert_eq!(get(&fixture.dashboard, &format!("/evidence/{id}/3.jpg")).status, 404);

    // The map is that of `candor explain`.
    let heat = format!("/evidence/{id}/heat.png");
    let reply = get(&fixture.dashboard, &heat);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("image/png")));
    assert_eq!(get(&fixture.dashboard, &heat).body, reply.body);
    let shown = image::load_from_memory(&reply.body).unwrap().to_rgb8();
    let bundle = Bundle::embedded().unwrap();
    let engine = candor::engine::Engine::default();
    let map = candor::classify::Explainer::of(&engine, &bundle).unwrap().heat_map(&samples[2].crop).unwrap();
    let expected = candor::report::heat::panel(&samples[2].crop, &map, "score 0.600; log odds");
    assert_eq!(shown, expected);
}
