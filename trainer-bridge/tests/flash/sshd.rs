//! A real sshd on the loopback, with keys and configuration of its own, and a wire that can be cut.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Ports that are tried: another program may take one before sshd does.
const N_PORTS: usize = 5;

/// A server that ends with this.
pub(crate) struct Sshd {
    server: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn keygen(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn public(path: &Path) -> String {
    fs::read_to_string(path.with_added_extension("pub")).unwrap()
}

/// Where sshd is. Without one that can run the caller skips, unless `CANDOR_REQUIRE_FIXTURES` is 1.
fn find() -> Option<PathBuf> {
    let places = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"].map(PathBuf::from);
    let found = places.into_iter().find(|path| path.is_file());
    let missing = match &found {
        None => "no sshd (Debian's package openssh-server)",
        Some(_) if needs_folder() => "sshd lacks /run/sshd, which it needs as root",
        Some(_) => return found,
    };
    let is_required = std::env::var("CANDOR_REQUIRE_FIXTURES").is_ok_and(|v| v == "1");
    assert!(!is_required, "{missing}: run tests/setup");
    println!("skipped: {missing}; tests/setup helps");
    None
}

/// Whether root's sshd will miss its folder.
fn needs_folder() -> bool {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    is_root && Path::new("/etc/debian_version").exists() && !Path::new("/run/sshd").is_dir()
}

impl Sshd {
    /// A server on a free port; nothing, with a printed reason, on a machine without sshd.
    pub(crate) fn start() -> Option<Self> {
        let sshd = find()?;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["host", "user", "other"] {
            keygen(&path(name));
        }
        fs::write(path("authorized"), public(&path("user"))).unwrap();
        fs::write(path("known"), format!("candor-test {}", public(&path("host")))).unwrap();
        for _ in 0..N_PORTS {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
                 PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
                folder.path().display()
            );
            // Newer ones lock out whom a cut wire makes look like an attacker; older ones don't know the word.
            let lenient = format!("{config}PerSourcePenalties no\n");
            fs::write(path("config"), &lenient).unwrap();
            let check = Command::new(&sshd).arg("-t").arg("-f").arg(path("config")).output().unwrap();
            if check.status.success() {
                config = lenient;
            }
            fs::write(path("config"), config).unwrap();
            let mut server = Command::new(&sshd)
                .args(["-D", "-e", "-f"])
                .arg(path("config"))
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut log = BufReader::new(server.stderr.take().unwrap());
            let mut said = String::new();
            let is_listening = loop {
                let mut line = String::new();
                if log.read_line(&mut line).unwrap() == 0 {
                    break false;
                }
                said += &line;
                if line.contains("Server listening on") {
                    break true;
                }
            };
            if is_listening {
                thread::spawn(move || log.bytes().for_each(drop));
                return Some(Sshd { server, port, folder });
            }
            server.wait().unwrap();
            assert!(said.contains("in use"), "sshd doesn't start: {said}");
        }
        panic!("no free port among {N_PORTS}");
    }

    /// The server's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A file of the server's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets the user's key do one thing only.
    pub(crate) fn force(&self, command: &str) {
        let line = format!("command=\"{command}\",restrict {}", public(&self.path("user")));
        fs::write(self.path("authorized"), line).unwrap();
    }

    /// Lets the client know another host's key.
    pub(crate) fn know_other_host(&self) {
        fs::write(self.path("known"), format!("candor-test {}", public(&self.path("other")))).unwrap();
    }

    /// Writes a client's configuration of a host `device` behind `port`, with the key `key`.
    pub(crate) fn client_config(&self, port: u16, key: &str) -> PathBuf {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let path = self.path(&format!("client-{port}-{key}"));
        let text = format!(
            "Host device\nHostName 127.0.0.1\nPort {port}\nUser {}\nHostKeyAlias candor-test\nBatchMode yes\n\
             IdentitiesOnly yes\nIdentityFile {1}/{key}\nUserKnownHostsFile {1}/known\nGlobalKnownHostsFile none\n\
             StrictHostKeyChecking yes\nControlPath none\nIdentityAgent none\n",
            user.trim(),
            self.folder.path().display(),
        );
        fs::write(&path, text).unwrap();
        path
    }
}

/// A wire to a port, which is cut after a number of bytes, both ways together; one number for each connection, later
/// ones are left whole.
pub(crate) struct Wire {
    port: u16,
    n_connections: Arc<AtomicUsize>,
    n_bytes: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn new(to_port: u16, cuts: Vec<u64>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (n_connections, n_bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, carried) = (Arc::clone(&n_connections), Arc::clone(&n_bytes));
        thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to_port)).unwrap();
                let left = cuts.get(counted.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(u64::MAX);
                let left = Arc::new(Mutex::new(left));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (left, carried) = (Arc::clone(&left), Arc::clone(&carried));
                    thread::spawn(move || carry(from, to, &left, &carried));
                }
            }
        });
        Wire { port, n_connections, n_bytes }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::SeqCst)
    }

    /// Bytes of all connections, both ways.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::SeqCst)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, left: &Mutex<u64>, carried: &AtomicU64) {
    let mut piece = [0; 4096];
    loop {
        let n_read = from.read(&mut piece).unwrap_or(0);
        let n_allowed = {
            let mut left = left.lock().unwrap();
            let n = (*left).min(n_read as u64);
            *left -= n;
            n
        };
        let n = usize::try_from(n_allowed).unwrap();
        carried.fetch_add(n_allowed, Ordering::SeqCst);
        let is_whole = n == n_read && n_read > 0;
        if to.write_all(&piece[..n]).is_err() || !is_whole {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
