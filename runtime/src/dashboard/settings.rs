//! What can be set about the dashboard.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The section `[watch.dashboard]` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the page is served; without an address it isn't.
    pub listen: Option<SocketAddr>,
    /// A file with the token that lets people in. Needed where others than this machine can connect.
    pub token_file: Option<PathBuf>,
    /// Names by which browsers may ask for the page, beside `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Longer side of the live picture.
    pub picture_px: u32,
    /// Most pictures a second.
    pub picture_hz: u32,
}

impl Settings {
    /// Only this machine can connect, or there is a token.
    pub fn is_guarded(&self) -> bool {
        self.token_file.is_some() || self.listen.is_none_or(|address| address.ip().is_loopback())
    }

    /// The first name that is none.
    pub fn wrong_host(&self) -> Option<&str> {
        let is_name = |name: &str| {
            let is_part = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
            !name.is_empty() && name.len() <= 253 && name.bytes().all(is_part)
        };
        self.hosts.iter().map(String::as_str).find(|name| !is_name(name))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings { listen: None, token_file: None, hosts: Vec::new(), picture_px: 640, picture_hz: 5 }
    }
}
