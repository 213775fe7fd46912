//! A client that says exactly what it is told to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use candor::dashboard::Dashboard;
use serde_json::Value;

/// A test that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(dashboard: &Dashboard) -> Self {
        Client::to(dashboard.address())
    }

    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The status line and the headers; status 0 where the connection ends before them.
    pub(crate) fn head(&mut self) -> Reply {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).unwrap_or(0) == 0 {
                return Reply { status: 0, head, body: Vec::new() };
            }
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply { status, head, body: Vec::new() }
    }

    /// An answer with the body that its length promises.
    pub(crate) fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let n: usize = reply.header("content-length").map_or(0, |n| n.parse().unwrap());
        reply.body.resize(n, 0);
        self.stream.read_exact(&mut reply.body).unwrap();
        reply
    }

    /// An answer with all that follows.
    pub(crate) fn whole(&mut self) -> Reply {
        let mut reply = self.head();
        let _ = self.stream.read_to_end(&mut reply.body);
        reply
    }

    /// Reads to a line.
    pub(crate) fn line(&mut self, wanted: &str) {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "{wanted} never came");
        }
    }

    /// The next news of a stream: its number and what it says.
    pub(crate) fn news(&mut self) -> (u64, Value) {
        let (mut n, mut line) = (None, String::new());
        loop {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the stream has ended");
            if let Some(id) = line.strip_prefix("id: ") {
                n = id.trim().split_once('-').map(|(_, n)| n.parse().unwrap());
            } else if let Some(data) = line.strip_prefix("data: ")
                && let Some(n) = n
            {
                return (n, serde_json::from_str(data).unwrap());
            }
        }
    }
}

/// Says `text` and gives the answer.
pub(crate) fn ask(dashboard: &Dashboard, text: &str) -> Reply {
    let mut client = Client::new(dashboard);
    client.write(text);
    client.whole()
}

pub(crate) fn get(dashboard: &Dashboard, path: &str) -> Reply {
    get_at(dashboard.address(), path)
}

pub(crate) fn get_at(address: SocketAddr, path: &str) -> Reply {
    let mut client = Client::to(address);
    client.write(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    client.whole()
}
