//! An HTTP server that answers as a test tells it, over plain TCP or TLS, and that can break off in the middle.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use crate::listener::Listener;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first byte that is asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }

    pub(crate) fn of(body: impl Into<Vec<u8>>) -> Self {
        Answer { status: 200, body: body.into(), ..Answer::default() }
    }

    /// A file, from where it is asked for.
    pub(crate) fn file(bytes: &[u8], request: &Request) -> Self {
        match request.from() {
            None => Answer::of(bytes),
            Some(from) if from < bytes.len() => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                let headers = vec![("Content-Range", range)];
                Answer { status: 206, headers, body: bytes[from..].to_vec(), cut: None }
            }
            Some(_) => Answer::status(416),
        }
    }
}

type Answering = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server, until it is dropped.
pub(crate) struct Server {
    listener: Listener,
    is_secure: bool,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(
        tls: Option<Arc<ServerConfig>>,
        answering: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (asked, is_secure) = (Arc::new(Mutex::new(Vec::new())), tls.is_some());
        let kept = Arc::clone(&asked);
        let listener = Listener::start("127.0.0.1:0", tls, move |wire, _| serve(wire, &kept, &answering));
        Server { listener, is_secure, asked }
    }

    /// `http://127.0.0.1:1234/path`, or `https://localhost:...`.
    pub(crate) fn url(&self, path: &str) -> String {
        let port = self.listener.address.port();
        if self.is_secure {
            return format!("https://localhost:{port}{path}");
        }
        format!("http://127.0.0.1:{port}{path}")
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// Serves a connection until one of the two closes it.
fn serve(stream: impl Read + Write, asked: &Mutex<Vec<Request>>, answering: &Answering) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream) {
        asked.lock().unwrap().push(request.clone());
        let answer = answering(&request);
        let mut text = format!("HTTP/1.1 {} So\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let body = &answer.body[..answer.cut.unwrap_or(usize::MAX).min(answer.body.len())];
        let out = stream.get_mut();
        let written =
            out.write_all(text.as_bytes()).and_then(|()| out.write_all(body)).and_then(|()| out.flush());
        if written.is_err() || answer.cut.is_some() {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut first = String::new();
    if stream.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let (method, rest) = first.split_once(' ')?;
    let path = rest.split(' ').next()?;
    let mut request =
        Request { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((key, value)) = line.split_once(':') {
            request.headers.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let n_bytes = request.header("content-length").map_or(0, |n| n.parse().unwrap());
    request.body = vec![0; n_bytes];
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}
