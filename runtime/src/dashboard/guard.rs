//! Who is let in: names of the host against DNS rebinding, a token against everybody else.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::http::{Answer, Request};
use crate::bundle::to_hex;
use crate::secret::{self, SecretError};

/// Shortest token: 20 random characters of 64 can't be guessed.
const MIN_TOKEN: usize = 20;
/// Longest token.
const MAX_TOKEN: usize = 256;
const COOKIE: &str = "candor_session";
/// How long a browser stays let in.
const SESSION_S: u32 = 30 * 24 * 3600;

/// Why a file gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file has no line of text that can be read.
    #[error(transparent)]
    File(#[from] SecretError),
    /// The file holds something else.
    #[error("{0}: expected a line of 20 to 256 letters, digits or other visible ASCII characters")]
    Token(PathBuf),
}

/// What lets people in. Only digests of it are kept.
#[derive(Clone)]
struct Token {
    token: [u8; 32],
    cookie: String,
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Says which requests are served.
#[derive(Clone)]
pub struct Guard {
    token: Option<Token>,
    hosts: Vec<String>,
}

impl Guard {
    /// Lets in who knows the token in `token_file`, or everyone without one, by one of `hosts`.
    ///
    /// # Errors
    /// [`TokenError`] when the file holds no token.
    pub fn new(token_file: Option<&Path>, hosts: &[String]) -> Result<Self, TokenError> {
        let token = token_file.map(read_token).transpose()?;
        Ok(Guard { token, hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect() })
    }

    /// Whether a page of this machine asks. A page from elsewhere can make its own name lead to this machine, so only
    /// names that are known count; addresses are no names. The port says nothing: it may be forwarded.
    pub fn is_host(&self, request: &Request) -> bool {
        let Some(host) = request.header("host") else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => {
                let Some((address, port)) = rest.split_once(']') else { return false };
                let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_number);
                return is_port && address.parse::<Ipv6Addr>().is_ok();
            }
            None => match host.rsplit_once(':') {
                Some((name, port)) if is_number(port) => name,
                Some(_) => return false,
                None => host,
            },
        };
        let name = name.to_ascii_lowercase();
        name == "localhost"
            || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())
            || self.hosts.contains(&name)
    }

    /// Whether a page from elsewhere makes the browser ask. What it gets it couldn't read, but asking has a cost.
    pub fn is_from_elsewhere(request: &Request) -> bool {
        let is_visit = request.header("sec-fetch-mode") == Some("navigate")
            && request.header("sec-fetch-dest") == Some("document");
        let is_foreign = matches!(request.header("sec-fetch-site"), Some("cross-site" | "same-site"));
        let is_foreign_origin = request.header("origin").is_some_and(|origin| {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            host.is_none() || host != request.header("host")
        });
        (is_foreign && !is_visit) || is_foreign_origin
    }

    /// Whether the request may see what there is to see.
    pub fn is_let_in(&self, request: &Request) -> bool {
        let Some(token) = &self.token else { return true };
        if let Some(given) = request.header("authorization") {
            let given = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            return given.is_some_and(|(_, given)| token.is(given.trim()));
        }
        let cookies = request.header("cookie").unwrap_or_default().split(';');
        let mut ours = cookies.filter_map(|c| c.trim().strip_prefix(COOKIE)?.strip_prefix('='));
        ours.any(|given| bool::from(given.as_bytes().ct_eq(token.cookie.as_bytes())))
    }

    /// What a login form that was sent gets: the cookie and the page, or `None` for a wrong token.
    pub fn login(&self, form: &[u8]) -> Option<Answer> {
        let token = self.token.as_ref()?;
        let text = std::str::from_utf8(form).ok()?;
        let given = text.split('&').find_map(|pair| pair.strip_prefix("token="))?;
        if !token.is(decoded(given)?.trim()) {
            return None;
        }
        let cookie =
            format!("{COOKIE}={}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict", token.cookie);
        Some(Answer::text(303, "welcome").with("Location", "/").with("Set-Cookie", cookie))
    }
}

impl Token {
    /// In a time that says nothing about where the two differ.
    fn is(&self, given: &str) -> bool {
        digest(&[given.as_bytes()]).ct_eq(&self.token).into()
    }
}

fn read_token(path: &Path) -> Result<Token, TokenError> {
    let token = secret::line(path)?;
    if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TokenError::Token(path.to_owned()));
    }
    let cookie = to_hex(&digest(&[b"candor dashboard session\0", token.as_bytes()]));
    Ok(Token { token: digest(&[token.as_bytes()]), cookie })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit())
}

/// A value of a form.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                rest = &after[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &str) -> Request {
        let text = format!("GET / HTTP/1.1\r\n{headers}\r\n");
        Request::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn only_known_names_are_this_machine() {
        let guard = Guard::new(None, &["Candor.local".to_owned()]).unwrap();
        let is_host = |host: &str| guard.is_host(&request(&format!("Host: {host}\r\n")));
        for host in [
            "localhost",
            "LOCALHOST:8710",
            "127.0.0.1:1",
            "10.0.0.7",
            "[::1]:8710",
            "[fe80::1]",
            "candor.local:80",
        ] {
            assert!(is_host(host), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "localhost:x",
            "[::1",
            "[x]",
            "",
            "::1",
            "a@localhost",
            "localhost:",
        ] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn pages_from_elsewhere_are_told_apart() {
        let is_foreign =
            |headers: &str| Guard::is_from_elsewhere(&request(&format!("Host: h:1\r\n{headers}")));
        assert!(!is_foreign(""));
        assert!(!is_foreign("Sec-Fetch-Site: same-origin\r\nOrigin: http://h:1\r\n"));
        assert!(!is_foreign(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
        ));
        assert!(is_foreign(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"
        ));
        assert!(is_foreign(
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n"
        ));
        assert!(is_foreign("Origin: http://evil.example\r\n"));
        assert!(is_foreign("Origin: null\r\n"));
    }

    #[test]
    fn the_token_and_its_cookie_let_in_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "correct+horse/battery=staple\n").unwrap();
        let guard = Guard::new(Some(&path), &[]).unwrap();
        let is_in = |headers: &str| guard.is_let_in(&request(&format!("Host: h\r\n{headers}")));
        assert!(is_in("Authorization: bearer correct+horse/battery=staple\r\n"));
        assert!(!is_in(""));
        assert!(!is_in("Authorization: Bearer correct+horse/battery=stapl\r\n"));
        assert!(!is_in("Authorization: Basic correct+horse/battery=staple\r\n"));
        let answer = guard.login(b"x=1&token=correct%2Bhorse%2fbattery%3Dstaple").unwrap();
        let cookie = answer.headers.iter().find(|(name, _)| *name == "Set-Cookie").unwrap().1.clone();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains("horse"));
        let pair = cookie.split(';').next().unwrap();
        assert!(is_in(&format!("Cookie: a=b; {pair}\r\n")));
        assert!(!is_in(&format!("Cookie: {}\r\n", &pair[..pair.len() - 1])));
        for wrong in [&b"token=correct"[..], b"", b"token=", b"token=%", b"token=%zz", b"token=%ff", b"\xff"]
        {
            assert!(guard.login(wrong).is_none(), "{wrong:?}");
        }
        for wrong in ["short", "", "twenty characters but spaces in it", &"x".repeat(257)] {
            std::fs::write(&path, wrong).unwrap();
            assert!(Guard::new(Some(&path), &[]).is_err(), "{wrong}");
        }
    }
}
