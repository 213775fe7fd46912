//! A real broker, mosquitto, and its own subscriber.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::events::{PATIENCE, until};

/// Where mosquitto is. Without one the caller skips, unless `CANDOR_REQUIRE_FIXTURES` is 1.
pub(crate) fn mosquitto() -> Option<&'static str> {
    let found = ["mosquitto", "/usr/sbin/mosquitto"].into_iter().find(|program| {
        let tried = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok()
    });
    let has_clients = Command::new("mosquitto_sub").arg("--help").stdout(Stdio::null()).status().is_ok();
    let found = found.filter(|_| has_clients);
    if found.is_none() {
        let is_required = std::env::var("CANDOR_REQUIRE_FIXTURES").is_ok_and(|v| v == "1");
        assert!(!is_required, "mosquitto or mosquitto_sub is missing: tests/setup installs them with apt");
        eprintln!("skipped: mosquitto and its clients aren't installed");
    }
    found
}

/// A broker whose messages and subscribers survive a restart.
pub(crate) struct Broker {
    program: &'static str,
    folder: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
    /// Options of its clients.
    client: Vec<String>,
}

impl Broker {
    /// One on a free port, with `more` in its configuration; `client` are options that its subscribers need.
    pub(crate) fn start(program: &'static str, folder: &Path, more: &str, client: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut text = format!("listener {port} 127.0.0.1\n{more}");
        if !more.contains("password_file") {
            text.push_str("allow_anonymous true\n");
        }
        // All that it knows is on the disk when it ends, however that is.
        let at = folder.display();
        let _ = write!(text, "persistence true\npersistence_location {at}/\nautosave_interval 1\n");
        text.push_str("autosave_on_changes true\nmax_queued_messages 0\n");
        if rustix::process::getuid().is_root() {
            text.push_str("user root\n");
        }
        std::fs::write(folder.join("broker.conf"), text).unwrap();
        let client = client.iter().map(|&option| option.to_owned()).collect();
        let mut broker = Broker { program, folder: folder.to_owned(), port, child: None, client };
        broker.restart();
        broker
    }

    /// Starts it again, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        self.end("-TERM");
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child =
            Command::new(self.program).arg("-c").arg(self.folder.join("broker.conf")).stderr(log).spawn();
        self.child = Some(child.unwrap());
        until("the broker listens", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{}", std::fs::read_to_string(self.folder.join("log")).unwrap());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Ends it by a signal.
    pub(crate) fn end(&mut self, signal: &str) {
        if let Some(mut child) = self.child.take() {
            let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }

    /// A subscriber, once it has subscribed.
    pub(crate) fn subscribe(&self, topic: &str) -> Subscriber {
        // It would keep the line about its subscription to itself until there is a message.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-h", "localhost", "-p", &self.port.to_string(), "-c", "-q", "1"])
            // Its messages are kept for its name, also while it can't be reached.
            .args(["-i", &format!("of {topic}").replace(['/', '#'], "_")])
            .args(["-d", "-F", "!%r|%t|%p", "-t", topic])
            .args(&self.client)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (told, messages) = channel();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            // A broker that restarts gives its subscriber again what that one could not acknowledge, marked as such. That is
            // between those two: what candor sends again comes unmarked.
            let (mut is_again, mut seen) = (false, BTreeSet::new());
            for line in lines.map_while(Result::ok) {
                match line.strip_prefix('!') {
                    Some(message) => {
                        if !seen.insert(message.to_owned()) && is_again {
                            continue;
                        }
                        let mut parts = message.splitn(3, '|').map(str::to_owned);
                        let mut part = || parts.next().unwrap();
                        let (is_retained, topic, payload) = (part() == "1", part(), part());
                        let _ = told.send(Message { is_retained, topic, payload });
                    }
                    None if line.contains("SUBACK") => {
                        let _ = ready.send(());
                    }
                    None if line.contains("received PUBLISH (") => is_again = line.contains("PUBLISH (d1,"),
                    None => {}
                }
            }
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        Subscriber { child, messages }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end("-KILL");
    }
}

/// A message as mosquitto_sub saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) is_retained: bool,
    pub(crate) topic: String,
    pub(crate) payload: String,
}

/// A running mosquitto_sub.
pub(crate) struct Subscriber {
    child: Child,
    messages: Receiver<Message>,
}

impl Subscriber {
    pub(crate) fn next(&self) -> Message {
        self.messages.recv_timeout(PATIENCE).unwrap()
    }

    /// The next one that `is_it`.
    pub(crate) fn find(&self, is_it: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.next();
            if is_it(&message) {
                return message;
            }
        }
    }

    /// What has come and wasn't looked at.
    pub(crate) fn rest(&self) -> Vec<Message> {
        self.messages.try_iter().collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
