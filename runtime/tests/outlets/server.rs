//! An HTTP server that does as it is told, over plain TCP or TLS.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;

use crate::listener::Listener;

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Reads it and answers with this status.
    Status(u16),
    /// Reads half of the request, and closes.
    CloseInRequest,
    /// Reads it, says nothing, and closes.
    CloseWithoutAnswer,
    /// Reads it, answers 200 with a body that ends too early, and closes.
    CloseInAnswer,
    /// Reads it and never answers.
    Hang,
    /// Answers with what isn't HTTP.
    Nonsense,
}

/// A request that was read as a whole, and what was done with it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) reply: Reply,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.reply, Reply::Status(200..=299) | Reply::CloseInAnswer)
    }
}

/// The server, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Receiver<Request>,
    _listener: Listener,
}

impl Server {
    /// Answers the first requests by `script`, all others with 200.
    pub(crate) fn start(address: &str, script: &[Reply], tls: Option<Arc<ServerConfig>>) -> Self {
        let (told, requests) = channel();
        let script = Mutex::new(script.iter().copied().collect::<VecDeque<_>>());
        let listener = Listener::start(address, tls, move |wire, socket| serve(wire, socket, &script, &told));
        Server { address: listener.address, requests, _listener: listener }
    }
}

/// Serves a connection until somebody closes it.
fn serve(
    stream: impl Read + Write,
    socket: &TcpStream,
    script: &Mutex<VecDeque<Reply>>,
    told: &Sender<Request>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some((key, value)) = line.split_once(':') {
                headers.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let reply = script.lock().unwrap().pop_front().unwrap_or(Reply::Status(200));
        let mut request = Request { reply, headers, body: Vec::new() };
        let n_bytes: usize = request.header("content-length").unwrap().parse().unwrap();
        request.body = vec![0; if reply == Reply::CloseInRequest { n_bytes / 2 } else { n_bytes }];
        if stream.read_exact(&mut request.body).is_err() {
            return;
        }
        if told.send(request).is_err() {
            return;
        }
        let close = || socket.shutdown(std::net::Shutdown::Both);
        let answer = match reply {
            Reply::CloseInRequest | Reply::CloseWithoutAnswer => {
                let _ = close();
                return;
            }
            Reply::Hang => {
                // Until the other side has had enough.
                let _ = stream.read(&mut [0]);
                return;
            }
            Reply::Nonsense => "\0\0\u{7f}ELF\r\n\r\n".to_owned(),
            Reply::CloseInAnswer => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhal".to_owned(),
            Reply::Status(301) => {
                "HTTP/1.1 301 Elsewhere\r\nLocation: /portal\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            Reply::Status(code) => format!("HTTP/1.1 {code} So\r\nContent-Length: 2\r\n\r\nok"),
        };
        let written = stream.get_mut().write_all(answer.as_bytes()).and_then(|()| stream.get_mut().flush());
        if written.is_err() || matches!(reply, Reply::Nonsense | Reply::CloseInAnswer) {
            let _ = close();
            return;
        }
    }
}
