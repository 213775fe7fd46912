//! Webhooks against a server that does as it is told.

use std::net::TcpListener;

use serde_json::Value;

use super::authority::Authority;
use super::events::{GOODBYE, PATIENCE, Station, settings, until};
use super::server::{Reply, Request, Server};

/// Pauses so short that a test need not wait.
const SOON: &str = "retry_ms = 1\nretry_max_ms = 4\n";

fn track_id(request: &Request) -> u64 {
    let event: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(request.header("idempotency-key").unwrap(), event["id"].as_str().unwrap());
    event["track_id"].as_u64().unwrap()
}

/// The events that `server` took, until it has the last one.
fn taken(server: &Server, last: u64) -> Vec<u64> {
    let mut taken = Vec::new();
    while taken.last() != Some(&last) {
        let request = server.requests.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only {taken:?}"));
        if request.is_taken() {
            taken.push(track_id(&request));
        }
    }
    taken
}

#[test]
fn whatever_the_server_does_every_event_arrives_once_and_in_order() {
    use Reply::{CloseInAnswer, CloseInRequest, CloseWithoutAnswer, Hang, Nonsense, Status};
    let folder = tempfile::tempdir().unwrap();
    let script = [
        Status(200),
        Status(500),
        Status(503),
        Status(429),
        Status(408),
        Status(301),
        CloseInRequest,
        CloseWithoutAnswer,
        Nonsense,
        Hang,
        Status(200),
        CloseInAnswer,
        Status(204),
        Status(599),
    ];
    let server = Server::start("127.0.0.1:0", &script, None);
    let url = format!("url = \"http://{}/hook?a=b\"\n", server.address);
    let text = format!("[outlets.webhook]\n{url}timeout_ms = 5000\n{SOON}");
    let station = Station::new(&settings(folder.path(), &text));
    station.appear(1..41);
    assert_eq!(taken(&server, 40), (1..=40).collect::<Vec<_>>());
    let counts = |station: &Station| station.outlets.counts()[0].unwrap();
    let n_failed = script.iter().filter(|r| !matches!(r, Status(200 | 204) | CloseInAnswer)).count();
    assert_eq!(counts(&station).sent.n_failed, n_failed as u64);
    station.end(GOODBYE);
    assert!(server.requests.try_recv().is_err(), "no event is sent again");
}

#[test]
fn an_event_that_the_server_refuses_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let script = [Reply::Status(200), Reply::Status(400), Reply::Status(500), Reply::Status(413)];
    let server = Server::start("127.0.0.1:0", &script, None);
    let text = format!("[outlets.webhook]\nurl = \"http://{}/\"\n{SOON}", server.address);
    let station = Station::new(&settings(folder.path(), &text));
    station.appear(1..11);
    assert_eq!(taken(&server, 10), [1, 4, 5, 6, 7, 8, 9, 10]);
    let aside = std::fs::read_to_string(folder.path().join("spool/webhook/refused.jsonl")).unwrap();
    let aside: Vec<Value> = aside.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(aside.iter().map(|event| event["track_id"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(station.outlets.counts()[0].unwrap().sent.n_refused, 2);
    station.end(GOODBYE);
}

#[test]
fn who_is_away_for_many_events_gets_all_of_them_after_its_return_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // A port at which nobody listens yet.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = format!("[outlets.webhook]\nurl = \"http://{address}/\"\n{SOON}");
    let settings = settings(folder.path(), &text);
    let station = Station::new(&settings);
    station.appear(1..1001);
    // Stopped while the peer is away: all of it waits on the disk.
    station.end(std::time::Duration::from_millis(600));

    let station = Station::new(&settings);
    assert_eq!(station.outlets.counts()[0].unwrap().spool.n_waiting, 1000);
    station.appear(1001..2001);
    let server = Server::start(&address, &[], None);
    assert_eq!(taken(&server, 2000), (1..=2000).collect::<Vec<_>>());
    // Away again, and back.
    drop(server);
    station.appear(2001..2101);
    let server = Server::start(&address, &[Reply::Status(500); 3], None);
    assert_eq!(taken(&server, 2100), (2001..=2100).collect::<Vec<_>>());
    station.end(GOODBYE);
    assert!(server.requests.try_recv().is_err());
    let station = Station::new(&settings);
    assert_eq!(station.outlets.counts()[0].unwrap().spool.n_waiting, 0);
    station.end(GOODBYE);
}

#[test]
fn memory_and_disk_stay_bounded_while_the_peer_is_away_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!("spool_max_bytes = 262144\n[outlets.webhook]\nurl = \"http://{address}/\"\n{SOON}");
    let station = Station::new(&settings(folder.path(), &text));
    let on_disk = || -> u64 {
        let entries = std::fs::read_dir(folder.path().join("spool/webhook")).unwrap();
        entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum()
    };
    station.appear(0..5_000);
    let before = candor::memory::resident_bytes().unwrap();
    for n in 1..10 {
        station.appear(n * 5_000..(n + 1) * 5_000);
        let n_bytes = on_disk();
        assert!(n_bytes <= 262_144 + 65_536, "{n_bytes} bytes on the disk");
    }
    let after = candor::memory::resident_bytes().unwrap();
    // 50,000 events are over 7 MB. Other tests of this process run beside this one.
    eprintln!("resident: {before} bytes after 5,000 events, {after} after 50,000");
    assert!(after.saturating_sub(before) < 64 << 20, "{before} then {after} bytes of memory");
    let spool = || station.outlets.counts()[0].unwrap().spool;
    until("all of them in the spool", || spool().n_waiting + spool().n_dropped == 50_000);
    let spool = spool();
    assert!(spool.n_waiting > 1_000 && spool.n_dropped > 40_000, "{spool:?}");
    // One that was dropped while it was on its way would still arrive.
    let n_failed = || station.outlets.counts()[0].unwrap().sent.n_failed;
    let before = n_failed();
    until("a failure since the last was dropped", || n_failed() > before);
    // Who comes back gets the newest, without a gap.
    let server = Server::start(&address.to_string(), &[], None);
    let came = taken(&server, 49_999);
    assert!(came.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{came:?}");
    station.end(GOODBYE);
}

#[test]
fn https_trusts_the_authority_that_is_named_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (good, other) = (Authority::new(folder.path(), "good"), Authority::new(folder.path(), "other"));
    std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
    std::fs::write(folder.path().join("key"), "Jefe\n").unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = |port: u16, ca: &str| {
        format!(
            "[outlets.webhook]\nurl = \"https://localhost:{port}/\"\n{SOON}ca_file = {:?}\ntoken_file = {:?}\nhmac_key_file = {:?}\n",
            path(ca),
            path("token"),
            path("key"),
        )
    };
    // An impostor at the place of the server: of another authority, then of the right one with another name.
    let impostor = Server::start("127.0.0.1:0", &[], Some(other.server("localhost")));
    let port = impostor.address.port();
    let station = Station::new(&settings(folder.path(), &text(port, "good.pem")));
    station.appear(1..6);
    let n_failed = || station.outlets.counts()[0].unwrap().sent.n_failed;
    until("two failures", || n_failed() >= 2);
    assert!(impostor.requests.try_recv().is_err(), "nothing is told to an impostor");
    drop(impostor);
    let address = format!("127.0.0.1:{port}");
    let misnamed = Server::start(&address, &[], Some(good.server("elsewhere.example")));
    let before = n_failed();
    until("three more failures", || n_failed() >= before + 3);
    assert!(misnamed.requests.try_recv().is_err(), "nor under another name");
    drop(misnamed);

    let server = Server::start(&address, &[], Some(good.server("localhost")));
    let request = server.requests.recv_timeout(PATIENCE).unwrap();
    assert_eq!(track_id(&request), 1);
    assert_eq!(request.header("authorization"), Some("Bearer s3cret"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    std::fs::write(path("body"), &request.body).unwrap();
    // What openssl says the signature is.
    let openssl = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "Jefe", "-r"])
        .arg(path("body"))
        .output();
    if let Ok(output) = openssl {
        let hex = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
        assert_eq!(request.header("x-candor-signature"), Some(format!("sha256={hex}").as_str()));
    }
    assert_eq!(taken(&server, 5), [2, 3, 4, 5]);
    station.end(GOODBYE);

    let wrong = settings(folder.path(), &text(port, "token"));
    let Err(error) = Station::start(&wrong, folder.path()) else { panic!("a token is no certificate") };
    assert!(error.to_string().contains("outlets.webhook") && error.to_string().contains("token"), "{error}");
}

#[test]
fn settings_that_change_move_what_waits_to_the_new_address() {
    let folder = tempfile::tempdir().unwrap();
    let text = |address: &dyn std::fmt::Display, more: &str| {
        settings(folder.path(), &format!("[outlets.webhook]\nurl = \"http://{address}/\"\n{SOON}{more}"))
    };
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let station = Station::new(&text(&away, ""));
    station.appear(1..101);
    let server = Server::start("127.0.0.1:0", &[], None);
    // What can't be is refused, and what was goes on.
    let wrong = text(&server.address, "token_file = \"/does/not/exist\"\n");
    assert!(station.outlets.change(&wrong).unwrap_err().to_string().contains("/does/not/exist"));
    let mut elsewhere = text(&server.address, "");
    elsewhere.device_id = Some("other".into());
    assert!(station.outlets.change(&elsewhere).is_err());
    assert!(server.requests.try_recv().is_err());

    station.outlets.change(&text(&server.address, "")).unwrap();
    station.appear(101..151);
    assert_eq!(taken(&server, 150), (1..=150).collect::<Vec<_>>());
    // Without a webhook nothing is written; with one again, it goes on.
    let mut none = text(&server.address, "");
    none.webhook = None;
    station.outlets.change(&none).unwrap();
    station.appear(151..161);
    // The hub's queue is passed on in order: once it is empty, all of these were seen.
    until("all seen", || station.outlets.n_seen() == 160);
    station.outlets.change(&text(&server.address, "")).unwrap();
    station.appear(161..171);
    assert_eq!(taken(&server, 170), (161..=170).collect::<Vec<_>>());
    station.end(GOODBYE);
}
