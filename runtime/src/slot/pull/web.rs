//! What is asked of a server that bundles come from: bounded answers, bounded silences, no way from https to http.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use ureq::http::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use ureq::http::{Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::secret::{self, SecretError};

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a download may take; what has come by then is kept, and the next one goes on from there.
const DOWNLOAD: Duration = Duration::from_secs(1800);
/// How long a small answer may take.
const WHOLE: Duration = Duration::from_secs(120);
/// Elsewheres that are followed: downloads often lie on another server.
const MAX_REDIRECTS: u32 = 5;

/// Why a server's answer isn't one.
#[derive(Debug)]
pub(super) enum WebError {
    /// The connection, or what came over it.
    Failed(String),
    /// Another status than success.
    Status(StatusCode),
}

impl std::fmt::Display for WebError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WebError::Failed(why) => f.write_str(why),
            WebError::Status(status) => write!(f, "the server says {status}"),
        }
    }
}

impl From<ureq::Error> for WebError {
    fn from(error: ureq::Error) -> Self {
        WebError::Failed(error.to_string())
    }
}

/// A server, and what it is told of who asks.
pub(super) struct Web {
    agent: Agent,
    /// The Authorization header; it is told to no other host.
    authorization: Option<String>,
    host: Uri,
}

/// A file on its way.
pub(super) struct Download {
    /// The first byte that comes, counted from 0.
    pub(super) from: u64,
    body: Body,
}

impl Download {
    pub(super) fn reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// Whether an address is one that is asked: https, or http to this device itself, where a proxy may stand.
pub(super) fn is_address(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return false };
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    !has_user && (uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && is_here))
}

impl Web {
    /// For the server at `url`, whose certificate is by the authorities of `ca_file` or the system's.
    ///
    /// # Errors
    /// [`SecretError`] for a file of certificates that is none.
    pub(super) fn new(
        url: &str,
        ca_file: Option<&Path>,
        authorization: Option<String>,
    ) -> Result<Self, SecretError> {
        let host: Uri = url.parse().unwrap_or_default();
        let is_secure = host.scheme_str() == Some("https");
        // A proxy on this device may point at https elsewhere.
        let tls = if is_secure { secret::https(ca_file)? } else { secret::https_if_any(ca_file)? };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(is_secure)
            // From http they would lead anywhere.
            .max_redirects(if is_secure { MAX_REDIRECTS } else { 0 })
            .max_redirects_will_error(false)
            .tls_config(tls)
            .proxy(None)
            .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(SILENCE))
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .max_idle_connections(1);
        Ok(Web { agent: config.build().new_agent(), authorization, host })
    }

    /// Whether `url`, which a server may have said, is to be asked: https, or the server's own.
    fn check(&self, url: &str) -> Result<(), WebError> {
        let is_fit =
            url.parse::<Uri>().is_ok_and(|uri| uri.scheme_str() == Some("https") || self.is_own(&uri));
        if is_fit {
            Ok(())
        } else {
            Err(WebError::Failed("expected https, found another address".to_owned()))
        }
    }

    fn is_own(&self, uri: &Uri) -> bool {
        uri.scheme() == self.host.scheme() && uri.authority() == self.host.authority()
    }

    /// The Authorization header for `url`, where that is the server's own.
    fn authorization(&self, url: &str) -> Option<&str> {
        let uri: Uri = url.parse().ok()?;
        self.authorization.as_deref().filter(|_| self.is_own(&uri))
    }

    /// A small file or an answer, of at most `limit_bytes`.
    pub(super) fn get(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, WebError> {
        self.check(url)?;
        let mut request = self.agent.get(url).config().timeout_global(Some(WHOLE)).build();
        if let Some(text) = self.authorization(url) {
            request = request.header(AUTHORIZATION, text);
        }
        whole(request.call()?, limit_bytes)
    }

    /// Tells the server something, as JSON.
    pub(super) fn tell(&self, is_new: bool, url: &str, json: &serde_json::Value) -> Result<(), WebError> {
        self.check(url)?;
        let request = if is_new { self.agent.post(url) } else { self.agent.put(url) };
        // Who is sent elsewhere would ask there, and tell nothing.
        let config = request.config().max_redirects(0).max_redirects_will_error(false);
        let mut request = config.timeout_global(Some(WHOLE)).build();
        if let Some(text) = self.authorization(url) {
            request = request.header(AUTHORIZATION, text);
        }
        let answer = request.header(CONTENT_TYPE, "application/json").send(json.to_string())?;
        let status = answer.status();
        // What it says counts for nothing; read, its connection can serve again.
        let _ = io::copy(&mut answer.into_body().into_reader().take(1 << 16), &mut io::sink());
        if status.is_success() { Ok(()) } else { Err(WebError::Status(status)) }
    }

    /// A file from byte `from` on, or from its start where the server knows no parts.
    pub(super) fn download(&self, url: &str, from: u64) -> Result<Download, WebError> {
        self.check(url)?;
        let mut request = self.agent.get(url).config().timeout_recv_body(Some(DOWNLOAD)).build();
        if let Some(text) = self.authorization(url) {
            request = request.header(AUTHORIZATION, text);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = request.call()?;
        let from = match answer.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let first =
                    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                if first != Some(from) {
                    let found = range.unwrap_or("nothing");
                    let why = format!("Content-Range: expected bytes {from}-, found {found}");
                    return Err(WebError::Failed(why));
                }
                from
            }
            status => return Err(WebError::Status(status)),
        };
        Ok(Download { from, body: answer.into_body() })
    }
}

fn whole(answer: Response<Body>, limit_bytes: u64) -> Result<Vec<u8>, WebError> {
    let status = answer.status();
    if !status.is_success() {
        return Err(WebError::Status(status));
    }
    let mut bytes = Vec::new();
    let reader = answer.into_body().into_reader();
    let read = reader.take(limit_bytes + 1).read_to_end(&mut bytes);
    read.map_err(|error| WebError::Failed(error.to_string()))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(WebError::Failed(format!("expected at most {limit_bytes} bytes, found more")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_the_device_itself_are_asked() {
        for good in [
            "https://models.example/a",
            "https://[::1]:8/a",
            "HTTPS://models.example/a",
            "http://127.0.0.1:80/a",
            "http://localhost/a",
        ] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "http://models.example/a",
            "ftp://a/b",
            "https:///a",
            "/a",
            "",
            "https://u:p@a/b",
            "http://localhost.evil/",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_told_to_its_own_server_only() {
        let web = Web::new("http://127.0.0.1:8080/x", None, Some("Bearer t".into())).unwrap();
        assert_eq!(web.authorization("http://127.0.0.1:8080/other"), Some("Bearer t"));
        for other in ["http://127.0.0.1:8081/x", "https://127.0.0.1:8080/x", "http://localhost:8080/x", "x"] {
            assert_eq!(web.authorization(other), None, "{other}");
        }
    }
}
