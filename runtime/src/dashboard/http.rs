//! Requests of HTTP/1.1 out of bytes that anyone may send, and the answers. Pure.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use ureq::http::StatusCode;

/// Most bytes of a request's line and headers.
pub const MAX_HEAD: usize = 8 << 10;
/// Most bytes of a request's body.
pub const MAX_BODY: usize = 1 << 10;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Most bytes of what a request asks for.
const MAX_TARGET: usize = 512;

/// Nothing from elsewhere is loaded or asked, nothing stands in the page itself, and nobody frames it.
const POLICY: &str = "default-src 'none'; img-src 'self' blob:; connect-src 'self'; style-src 'self'; \
                      script-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Get something.
    Get,
    /// Get its headers.
    Head,
    /// Give something.
    Post,
}

/// Why a request isn't served: a status and a line for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal(pub u16, pub &'static str);

/// A request's line and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// With what, without the query.
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    /// Bytes of the body, at most [`MAX_BODY`].
    pub n_body: usize,
    /// No other request may follow.
    pub is_last: bool,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads a request off the start of `bytes`; with it the length of its head. `None` while there is more to come.
    ///
    /// # Errors
    /// [`Refusal`], after which nothing on the connection can be trusted.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let n_head = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(n)) if n <= MAX_HEAD => n,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal(431, "the headers are too long"));
            }
            Err(httparse::Error::Version) => return Err(Refusal(505, "expected HTTP/1.1")),
            Err(_) => return Err(Refusal(400, "this is no request of HTTP/1.1")),
        };
        let method = match parsed.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            _ => return Err(Refusal(405, "expected GET or HEAD")),
        };
        let target = parsed.path.unwrap_or_default();
        if target.len() > MAX_TARGET {
            return Err(Refusal(414, "the address is too long"));
        }
        if !target.starts_with('/') {
            return Err(Refusal(400, "expected a path"));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let one = |header: &httparse::Header| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).trim().to_owned())
        };
        let mut request = Request {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            n_body: 0,
            is_last: parsed.version != Some(1),
            headers: parsed.headers.iter().map(one).collect(),
        };
        request.check()?;
        Ok(Some((request, n_head)))
    }

    /// What the headers say of the connection and the body.
    fn check(&mut self) -> Result<(), Refusal> {
        if self.all("host").count() != 1 {
            return Err(Refusal(400, "expected one Host"));
        }
        if self.header("transfer-encoding").is_some() {
            return Err(Refusal(501, "bodies come in one piece"));
        }
        if self.all("content-length").count() > 1 {
            return Err(Refusal(400, "expected one Content-Length"));
        }
        let length = self.header("content-length").map(|text| {
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            // What doesn't fit into a number is too long as well.
            is_number.then(|| text.parse::<usize>().unwrap_or(usize::MAX))
        });
        self.n_body = match (length, self.method) {
            (Some(None), _) => return Err(Refusal(400, "Content-Length is no number")),
            (Some(Some(n)), _) if n > MAX_BODY => return Err(Refusal(413, "the body is too long")),
            (Some(Some(n)), _) => n,
            (None, Method::Post) => return Err(Refusal(411, "expected Content-Length")),
            (None, _) => 0,
        };
        let closes = |value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case("close"));
        let is_closing = self.all("connection").any(closes);
        self.is_last |= is_closing;
        Ok(())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a header; `name` in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A value of the query, as it stands there.
    pub fn asked(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The bytes of an answer.
#[derive(Clone, Debug)]
pub enum Body {
    /// Built in or made for this answer.
    Own(Cow<'static, [u8]>),
    /// Made for several.
    Shared(Arc<Vec<u8>>),
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its type.
    pub kind: &'static str,
    /// What is sent.
    pub body: Body,
    /// Headers beside the common ones.
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// `body` with status 200.
    pub fn new(kind: &'static str, body: Vec<u8>) -> Self {
        Answer { status: 200, kind, body: Body::Own(body.into()), headers: Vec::new() }
    }

    /// A line of text.
    pub fn text(status: u16, line: &str) -> Self {
        Answer { status, ..Answer::new("text/plain; charset=utf-8", format!("{line}\n").into_bytes()) }
    }

    /// A file that is built in.
    pub fn file(kind: &'static str, text: &'static str) -> Self {
        Answer { body: Body::Own(text.as_bytes().into()), ..Answer::new(kind, Vec::new()) }
    }

    /// Bytes that several answers share.
    pub fn shared(kind: &'static str, bytes: Arc<Vec<u8>>) -> Self {
        Answer { body: Body::Shared(bytes), ..Answer::new(kind, Vec::new()) }
    }

    /// With one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The status line and the headers. `length` is that of the body; one without ends with the connection.
    pub fn head(&self, length: Option<usize>, is_last: bool) -> Vec<u8> {
        let phrase = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, phrase.unwrap_or_default());
        let mut line = |name: &str, value: &str| {
            // A String takes everything. A line break in a value would begin another header.
            let is_whole = !value.contains(['\r', '\n']);
            let _ = if is_whole { write!(head, "{name}: {value}\r\n") } else { Ok(()) };
        };
        if self.status != 204 {
            line("Content-Type", self.kind);
            if let Some(n) = length {
                line("Content-Length", &n.to_string());
            }
        }
        if let Ok(date) =
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now())
        {
            line("Date", &date);
        }
        line("Connection", if is_last { "close" } else { "keep-alive" });
        line("Cache-Control", "no-store");
        line("Content-Security-Policy", POLICY);
        line("Cross-Origin-Opener-Policy", "same-origin");
        line("Cross-Origin-Resource-Policy", "same-origin");
        // Without any referrer a browser sends forms with a null Origin.
        line("Referrer-Policy", "same-origin");
        line("X-Content-Type-Options", "nosniff");
        line("X-Frame-Options", "DENY");
        for (name, value) in &self.headers {
            line(name, value);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

impl From<Refusal> for Answer {
    fn from(Refusal(status, why): Refusal) -> Self {
        let answer = Answer::text(status, why);
        if status == 405 { answer.with("Allow", "GET, HEAD") } else { answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> u16 {
        Request::parse(text.as_bytes()).unwrap_err().0
    }

    #[test]
    fn a_request_is_read_and_what_follows_it_is_left() {
        let text = "GET /a/b?x=1&y=%20 HTTP/1.1\r\nHost: h\r\nCookie:  c=d \r\n\r\nGET";
        let (request, n_head) = Request::parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(&text[n_head..], "GET");
        assert_eq!((request.method, request.path.as_str(), request.n_body), (Method::Get, "/a/b", 0));
        assert_eq!((request.asked("y"), request.asked("z")), (Some("%20"), None));
        assert_eq!((request.header("cookie"), request.is_last), (Some("c=d"), false));
        for n in 0..n_head {
            assert_eq!(Request::parse(&text.as_bytes()[..n]), Ok(None), "{n} bytes");
        }
    }

    #[test]
    fn what_is_wrong_has_its_status() {
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
        assert_eq!(refused("GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n"), 400, "a folded header");
        assert_eq!(refused("PUT / HTTP/1.1\r\nHost: h\r\n\r\n"), 405);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: h\r\n\r\n"), 411);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n"), 413);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", "9".repeat(40))),
            413
        );
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n"), 400);
        let two = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(refused(two), 400);
        assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(600))), 414);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "x".repeat(9000))), 431);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}", "A: b\r\n".repeat(65))), 431);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), 501);
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), 505);
    }

    #[test]
    fn a_header_cannot_begin_another_one() {
        let head = Answer::text(200, "x").with("A", "b\r\nSet-Cookie: c").head(Some(2), false);
        assert!(!String::from_utf8(head).unwrap().contains("Set-Cookie"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..60) {
            let _ = Request::parse(&bytes);
            let mut text = b"GET /state.json?after=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n".to_vec();
            text.splice(cut..cut, bytes.iter().copied().take(4));
            if let Ok(Some((request, n_head))) = Request::parse(&text) {
                prop_assert!(n_head <= text.len() && request.n_body <= MAX_BODY);
            }
        }
    }
}
