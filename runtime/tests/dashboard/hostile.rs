//! Clients that are slow, greedy or malicious, and handlers that fail.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candor::camera::State;
use candor::dashboard::Limits;
use candor::dashboard::http::{Answer, MAX_HEAD, Request};
use candor::dashboard::server::{Reply, Server, Site};
use candor::memory;
use candor::watch::event::What;

use crate::client::{Client, PATIENCE, get, get_at};
use crate::{Fixture, scored};

const SHORT: Duration = Duration::from_millis(150);

#[test]
fn a_connection_serves_several_requests_and_not_for_ever() {
    let fixture = Fixture::new(Limits { requests: 3, ..Limits::default() });
    let mut client = Client::new(&fixture.dashboard);
    // Two at once, as a pipeline.
    client.write(&"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2));
    for _ in 0..2 {
        let reply = client.reply();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("keep-alive")));
    }
    client.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(client.whole().header("connection"), Some("close"));
}

#[test]
fn who_asks_too_slowly_is_shown_out() {
    let fixture = Fixture::new(Limits { asking: SHORT, idle: SHORT, ..Limits::default() });
    // Half a request, and nothing more.
    let mut half = Client::new(&fixture.dashboard);
    half.write("GET / HTTP/1.1\r\nHost: local");
    assert_eq!(half.whole().status, 408);
    // A body that never comes.
    let mut bodiless = Client::new(&fixture.dashboard);
    bodiless.write("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\ntok");
    assert_eq!(bodiless.whole().status, 408);
    // Nothing at all, and nothing after an answer: no answer either, only the end.
    assert_eq!(Client::new(&fixture.dashboard).whole().status, 0);
    let mut silent = Client::new(&fixture.dashboard);
    silent.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(silent.reply().status, 200);
    assert_eq!(silent.whole().status, 0);
    // Always another byte, each in good time.
    let mut drip = TcpStream::connect(fixture.dashboard.address()).unwrap();
    drip.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let (start, mut seen, mut bytes) = (Instant::now(), Vec::new(), [0; 512]);
    drip.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").unwrap();
    loop {
        let _ = drip.write_all(b"x");
        match drip.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => seen.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(seen.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&seen));
}

#[test]
fn requests_have_a_largest_size() {
    let fixture = Fixture::new(Limits::default());
    let status = |text: &str| {
        let mut client = Client::new(&fixture.dashboard);
        // What is refused may not be read to its end.
        let _ = client.stream.get_mut().write_all(text.as_bytes());
        client.whole().status
    };
    let fits = MAX_HEAD - "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: \r\n\r\n".len();
    let with = |n: usize| {
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: {}\r\n\r\n", "x".repeat(n))
    };
    assert_eq!(status(&with(fits)), 200);
    assert_eq!(status(&with(fits + 1)), 431);
    assert_eq!(status(&"x".repeat(200_000)), 431);
    assert_eq!(
        status(&format!(
            "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n{}",
            "x".repeat(2000)
        )),
        413
    );
}

#[test]
fn there_is_room_for_so_many_and_again_when_they_leave() {
    let fixture = Fixture::new(Limits { connections: 9, per_address: 3, ..Limits::default() });
    let mut guests: Vec<Client> = (0..3).map(|_| Client::new(&fixture.dashboard)).collect();
    for guest in &mut guests {
        guest.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(guest.reply().status, 200);
    }
    let turned_away = Client::new(&fixture.dashboard).whole();
    assert_eq!((turned_away.status, turned_away.header("retry-after")), (503, Some("5")));
    guests.pop();
    // The thread that served it needs its time.
    let start = Instant::now();
    while get(&fixture.dashboard, "/healthz").status != 200 {
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(guests.len(), 2);
}

#[test]
fn who_never_reads_takes_no_memory_and_holds_up_nobody() {
    // Memory is a process's, and other tests take some too.
    if std::env::var_os("CANDOR_TEST_ALONE").is_none() {
        let name = "hostile::who_never_reads_takes_no_memory_and_holds_up_nobody";
        let alone = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("CANDOR_TEST_ALONE", "1")
            .output();
        let alone = alone.unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        return assert!(alone.status.success() && said.contains("1 passed"), "{said}");
    }
    let limits = Limits { answering: SHORT, ..Limits::default() };
    let fixture = Fixture::new(limits);
    let deaf: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = Client::new(&fixture.dashboard);
            client.write("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    for _ in 0..2_000 {
        fixture.say(scored(1));
    }
    fixture.state(2_000);
    let before = memory::resident_bytes().unwrap();
    for _ in 0..60_000 {
        fixture.say(scored(1));
    }
    fixture.state(62_000);
    let grown = memory::resident_bytes().unwrap().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    // They are gone, though their ends of the connections are still open: this is the only one left.
    let start = Instant::now();
    while !get(&fixture.dashboard, "/metrics").text().contains("candor_dashboard_connections 1\n") {
        assert!(start.elapsed() < PATIENCE);
        // Enough to fill what the system holds for them.
        for _ in 0..200 {
            fixture.say(What::State { state: State::Busy, reason: "x".repeat(20_000) });
        }
    }
    assert_eq!((fixture.hub.n_lost(), deaf.len()), (0, 4));
}

#[test]
fn nothing_that_is_sent_ends_the_serving() {
    let fixture = Fixture::new(Limits { asking: SHORT, ..Limits::default() });
    let good: &[u8] =
        b"POST /login?after=1-2 HTTP/1.1\r\nHost: localhost:8710\r\nCookie: candor_session=00; a=b\r\n\
        Authorization: Bearer x\r\nLast-Event-ID: 1-2\r\nContent-Type: application/x-www-form-urlencoded\r\n\
        Content-Length: 9\r\n\r\ntoken=%20";
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    for n in 0..400 {
        let mut bytes = good.to_vec();
        if n % 4 == 0 {
            bytes = (0..random() % 600).map(|_| random().to_le_bytes()[0]).collect();
        }
        for _ in 0..random() % 6 {
            let at = random() % bytes.len().max(1);
            match random() % 4 {
                0 if !bytes.is_empty() => bytes[at] = random().to_le_bytes()[0],
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at.min(bytes.len()), b"\r\n\0 :;=%?"[random() % 9]),
                _ => bytes.truncate(at),
            }
        }
        let mut stream = TcpStream::connect(fixture.dashboard.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        // Every connection ends, also that of a client that is refused while it still sends.
        match stream.read_to_end(&mut answer) {
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{n}"),
            Ok(_) => assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{n}"),
        }
    }
    assert_eq!(get(&fixture.dashboard, "/healthz").status, 200);
}

/// Fails where it is asked to.
struct Fragile;

impl Site for Fragile {
    fn reply(&self, request: &Request, _: &[u8]) -> Reply {
        match request.path.as_str() {
            "/panic" => panic!("on purpose"),
            "/parts" => {
                let parts = (0..3).map(|n| if n < 2 { vec![b'x'] } else { panic!("on purpose") });
                Reply::Parts(Answer::text(200, ""), Box::new(parts))
            }
            _ => Reply::Whole(Answer::text(200, "fine")),
        }
    }
}

#[test]
fn a_handler_that_panics_fails_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = Limits { connections: 8, ..Limits::default() };
    let server = Server::start(listener, Arc::new(Fragile), limits).unwrap();
    for _ in 0..10 {
        assert_eq!(get_at(server.address(), "/panic").status, 500);
        assert_eq!(get_at(server.address(), "/parts").body, b"xx");
    }
    assert_eq!(get_at(server.address(), "/").text(), "fine\n");
}
