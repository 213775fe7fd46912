//! What systemd wants to know (sd_notify(3)): a datagram to the socket that the environment names.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, where there is one.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the program is alive.
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// The one that `NOTIFY_SOCKET` and `WATCHDOG_USEC` speak of.
    pub fn from_environment() -> Self {
        let is_mine = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let micros = std::env::var("WATCHDOG_USEC").ok().filter(|_| is_mine);
        let watchdog = micros.and_then(|micros| micros.parse().ok()).map(Duration::from_micros);
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match name.as_bytes() {
            // The kernel's namespace without files.
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
            _ => SocketAddr::from_pathname(&name).ok(),
        });
        let to = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Notifier { to, watchdog }
    }

    /// Says `state`, such as `READY=1`. Nobody who listens is no error.
    pub fn say(&self, state: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            log::debug!("NOTIFY_SOCKET: {error}");
        }
    }
}
