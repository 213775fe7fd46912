//! The threads that serve: one takes connections, each connection has one of its own. Their number is bounded.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::http::{Answer, Method, Request};
use super::wire::{Silence, Wire};

/// Memory for the calls of a thread that serves; an encoder of JPEG or PNG takes the most.
const STACK: usize = 512 << 10;
/// The pause after the system couldn't give a connection: there are too many open files, and spinning frees none.
const PAUSE: Duration = Duration::from_millis(100);

/// What a client may take, and how long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections at a time from one address.
    pub per_address: usize,
    /// From the first byte of a request to its last.
    pub asking: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For an answer, or a part of one that goes on.
    pub answering: Duration,
    /// Requests of one connection.
    pub requests: u32,
    /// Between two signs of life in a stream of events without any.
    pub beat: Duration,
    /// Without a sign of life of the watching thread, after which it stands still.
    pub still: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 32,
            per_address: 24,
            asking: Duration::from_secs(5),
            idle: Duration::from_secs(15),
            answering: Duration::from_secs(10),
            requests: 1000,
            beat: Duration::from_secs(5),
            still: Duration::from_secs(30),
        }
    }
}

/// An answer, or one that goes on.
pub enum Reply {
    /// An answer.
    Whole(Answer),
    /// An answer whose body comes in parts until there are no more.
    Parts(Answer, Box<dyn Iterator<Item = Vec<u8>> + Send>),
}

/// Answers requests, in many threads at a time.
pub trait Site: Send + Sync + 'static {
    /// The answer to a request with its body.
    fn reply(&self, request: &Request, body: &[u8]) -> Reply;
}

/// Who is connected.
#[derive(Default)]
pub(super) struct Guests {
    peers: Mutex<Vec<IpAddr>>,
    n: AtomicUsize,
}

/// One connection's place; given back when it is over, however it ends.
struct Seat(Arc<Guests>, IpAddr);

impl Guests {
    /// Connections now.
    pub(super) fn n(&self) -> usize {
        self.n.load(Ordering::Relaxed)
    }

    fn seat(guests: &Arc<Guests>, peer: IpAddr, limits: &Limits) -> Option<Seat> {
        let mut peers = guests.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let n_same = peers.iter().filter(|other| **other == peer).count();
        if peers.len() >= limits.connections || n_same >= limits.per_address {
            return None;
        }
        peers.push(peer);
        guests.n.store(peers.len(), Ordering::Relaxed);
        Some(Seat(Arc::clone(guests), peer))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idx) = peers.iter().position(|peer| *peer == self.1) {
            peers.swap_remove(idx);
        }
        self.0.n.store(peers.len(), Ordering::Relaxed);
    }
}

/// Serves until it is dropped.
pub struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    guests: Arc<Guests>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `site` to those who connect to `listener`.
    ///
    /// # Errors
    /// The system's reason when it gives no thread or no address.
    pub fn start(listener: TcpListener, site: Arc<dyn Site>, limits: Limits) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (is_over, guests) = (Arc::new(AtomicBool::new(false)), Arc::new(Guests::default()));
        let (ends, seats) = (Arc::clone(&is_over), Arc::clone(&guests));
        let accept = move || accept(&listener, &site, limits, &ends, &seats);
        let thread = std::thread::Builder::new().name("dashboard".into()).spawn(accept)?;
        Ok(Server { address, is_over, guests, thread: Some(thread) })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who is connected.
    pub(super) fn guests(&self) -> Arc<Guests> {
        Arc::clone(&self.guests)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The thread waits for a connection, so it gets one.
        let here: IpAddr = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        let address = SocketAddr::new(here, self.address.port());
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn accept(
    listener: &TcpListener,
    site: &Arc<dyn Site>,
    limits: Limits,
    is_over: &AtomicBool,
    guests: &Arc<Guests>,
) {
    loop {
        let accepted = listener.accept();
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok((stream, peer)) = accepted else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let Some(seat) = Guests::seat(guests, peer.ip().to_canonical(), &limits) else {
            turn_away(stream);
            continue;
        };
        let site = Arc::clone(site);
        let serve = move || {
            let _seat = seat;
            serve(Wire::new(stream), &*site, &limits);
        };
        let thread = std::thread::Builder::new().name("dashboard-client".into()).stack_size(STACK);
        if let Err(error) = thread.spawn(serve) {
            log::warn!("dashboard: {error}");
        }
    }
}

/// Says that there is no room, without waiting for whoever may listen.
fn turn_away(mut stream: TcpStream) {
    let answer = Answer::text(503, "too many connections").with("Retry-After", "5");
    let mut bytes = answer.head(Some(answer.body.as_ref().len()), true);
    bytes.extend_from_slice(answer.body.as_ref());
    if stream.set_nonblocking(true).is_ok() {
        // One who doesn't take it learns it from the connection's end.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}

/// Serves one connection to its end.
fn serve(mut wire: Wire, site: &dyn Site, limits: &Limits) {
    for n in 1..=limits.requests {
        let (request, body) =
            match wire.request(if n == 1 { limits.asking } else { limits.idle }, limits.asking) {
                Ok(asked) => asked,
                Err(Silence::Over) => return,
                Err(Silence::Refused(refusal)) => {
                    let _ = send(&wire, &Answer::from(refusal), true, true, limits);
                    return wire.end();
                }
            };
        let reply = catch_unwind(AssertUnwindSafe(|| site.reply(&request, &body)));
        let reply = reply.unwrap_or_else(|_| Reply::Whole(Answer::text(500, "this failed inside")));
        let has_body = request.method != Method::Head;
        match reply {
            Reply::Whole(answer) => {
                // Whoever is refused begins anew, so that they take up no room.
                let is_last = request.is_last || n == limits.requests || matches!(answer.status, 400.. | 303);
                if send(&wire, &answer, has_body, is_last, limits).is_err() {
                    return;
                }
                if is_last {
                    return wire.end();
                }
            }
            Reply::Parts(answer, parts) => {
                if wire.write(&answer.head(None, true), limits.answering).is_err() || !has_body {
                    return;
                }
                let sent = catch_unwind(AssertUnwindSafe(|| {
                    for part in parts {
                        if wire.write(&part, limits.answering).is_err() {
                            return;
                        }
                    }
                }));
                if sent.is_err() {
                    log::error!("dashboard: a stream failed inside");
                }
                return wire.end();
            }
        }
    }
}

fn send(wire: &Wire, answer: &Answer, has_body: bool, is_last: bool, limits: &Limits) -> std::io::Result<()> {
    let body = if answer.status == 204 { &[] } else { answer.body.as_ref() };
    let mut bytes = answer.head(Some(body.len()), is_last);
    if has_body {
        bytes.extend_from_slice(body);
    }
    wire.write(&bytes, limits.answering)
}
