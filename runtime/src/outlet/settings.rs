//! What can be set about telling others.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Wrong;
use crate::verdict::Verdict;
use crate::watch::event::What;

/// The section `[outlets]` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The folder for what isn't sent yet; webhook and MQTT need one.
    pub spool: Option<PathBuf>,
    /// How much of it each of them may take.
    pub spool_max_bytes: u64,
    /// What this device calls itself; without it the machine's name.
    pub device_id: Option<String>,
    /// Events to an HTTP server.
    pub webhook: Option<Webhook>,
    /// Events and state to an MQTT broker.
    pub mqtt: Option<Mqtt>,
    /// A program to run.
    pub alert: Option<Alert>,
    /// A light to switch on.
    pub led: Option<Led>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            spool: None,
            spool_max_bytes: 16 << 20,
            device_id: None,
            webhook: None,
            mqtt: None,
            alert: None,
            led: None,
        }
    }
}

/// What an event is, by the word that it carries as `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "as in JSON.md")]
pub enum Kind {
    State,
    FaceAppeared,
    Score,
    RunningVerdict,
    Verdict,
    Model,
    Reloaded,
    Restarted,
    Health,
    Summary,
}

impl Kind {
    /// What `what` is.
    pub fn of(what: &What) -> Self {
        match what {
            What::State { .. } => Kind::State,
            What::FaceAppeared { .. } => Kind::FaceAppeared,
            What::Score { .. } => Kind::Score,
            What::RunningVerdict { .. } => Kind::RunningVerdict,
            What::Verdict { .. } => Kind::Verdict,
            What::Model { .. } => Kind::Model,
            What::Reloaded { .. } => Kind::Reloaded,
            What::Restarted { .. } => Kind::Restarted,
            What::Health(_) => Kind::Health,
            What::Summary { .. } => Kind::Summary,
        }
    }
}

/// What is sent unless something else is asked for: not each score.
fn usual() -> Vec<Kind> {
    use Kind::{FaceAppeared, Health, Model, Restarted, RunningVerdict, State, Summary};
    vec![State, FaceAppeared, RunningVerdict, Kind::Verdict, Model, Restarted, Health, Summary]
}

/// The section `[outlets.webhook]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to post.
    pub url: String,
    /// Which events.
    #[serde(default = "usual")]
    pub events: Vec<Kind>,
    /// A file with a token to show as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// A file with a key to sign with.
    pub hmac_key_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust in the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// The longest time for a request.
    #[serde(default = "Webhook::timeout_ms")]
    pub timeout_ms: u32,
    /// The first pause after a failure.
    #[serde(default = "retry_ms")]
    pub retry_ms: u32,
    /// The longest.
    #[serde(default = "retry_max_ms")]
    pub retry_max_ms: u32,
}

impl Webhook {
    fn timeout_ms() -> u32 {
        10_000
    }
}

fn retry_ms() -> u32 {
    1_000
}

fn retry_max_ms() -> u32 {
    60_000
}

/// The section `[outlets.mqtt]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// The broker.
    pub host: String,
    /// Its port; without one 8883, or 1883 without TLS.
    pub port: Option<u16>,
    /// Whether TLS is spoken.
    #[serde(default = "Mqtt::tls")]
    pub tls: bool,
    /// A PEM file with the authorities to trust in the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the device's own certificate.
    pub cert_file: Option<PathBuf>,
    /// A PEM file with its key.
    pub key_file: Option<PathBuf>,
    /// Who the device is to the broker.
    pub user: Option<String>,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// First part of all topics.
    #[serde(default = "Mqtt::prefix")]
    pub prefix: String,
    /// First part of the topics by which Home Assistant finds devices; empty for none.
    #[serde(default = "Mqtt::discovery_prefix")]
    pub discovery_prefix: String,
    /// Which events.
    #[serde(default = "usual")]
    pub events: Vec<Kind>,
    /// Time without a packet after which the broker takes the device for gone.
    #[serde(default = "Mqtt::keep_alive_s")]
    pub keep_alive_s: u16,
    /// The longest time for an answer.
    #[serde(default = "Webhook::timeout_ms")]
    pub timeout_ms: u32,
    /// The first pause after a failure.
    #[serde(default = "retry_ms")]
    pub retry_ms: u32,
    /// The longest.
    #[serde(default = "retry_max_ms")]
    pub retry_max_ms: u32,
}

impl Mqtt {
    fn tls() -> bool {
        true
    }
    fn prefix() -> String {
        "candor".into()
    }
    fn discovery_prefix() -> String {
        "homeassistant".into()
    }
    fn keep_alive_s() -> u16 {
        30
    }
    /// The broker's port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 8883 } else { 1883 })
    }
}

/// Which verdicts are worth an alarm, or an exit code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// Fake.
    #[default]
    Fake,
    /// Fake or Uncertain.
    Uncertain,
}

impl Alarm {
    /// Whether `verdict` is.
    pub fn names(self, verdict: Verdict) -> bool {
        verdict == Verdict::Fake || (self == Alarm::Uncertain && verdict == Verdict::Uncertain)
    }
}

/// The section `[outlets.alert]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// The program and its arguments; no shell reads them.
    pub command: Vec<String>,
    /// When it runs.
    #[serde(default)]
    pub on: Alarm,
    /// How long it may run.
    #[serde(default = "Webhook::timeout_ms")]
    pub timeout_ms: u32,
    /// Time between two starts.
    #[serde(default = "Alert::interval_ms")]
    pub interval_ms: u32,
}

impl Alert {
    fn interval_ms() -> u32 {
        5_000
    }
}

/// The section `[outlets.led]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Led {
    /// Its folder in `/sys/class/leds`.
    pub name: String,
    /// When it is on.
    #[serde(default)]
    pub on: Alarm,
}

impl Settings {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub fn check(&self) -> Result<(), Wrong> {
        let size = (1 << 16..=1 << 40).contains(&self.spool_max_bytes);
        check(size, "outlets.spool_max_bytes", "65536..=1099511627776", &self.spool_max_bytes)?;
        if let Some(id) = &self.device_id {
            check(is_name(id), "outlets.device_id", "1 to 64 of a-z, A-Z, 0-9, - and _", id)?;
        }
        let needs_spool = self.webhook.is_some() || self.mqtt.is_some();
        let has_spool = self.spool.is_some() || !needs_spool;
        check(has_spool, "outlets.spool", "a folder, for what a webhook or MQTT hasn't sent yet", &"none")?;
        self.webhook.as_ref().map_or(Ok(()), Webhook::check)?;
        self.mqtt.as_ref().map_or(Ok(()), Mqtt::check)?;
        if let Some(alert) = &self.alert {
            let is_command = alert.command.first().is_some_and(|program| !program.is_empty())
                && alert.command.iter().all(|word| !word.contains('\0'));
            let found = format!("{:?}", alert.command);
            check(is_command, "outlets.alert.command", "a program and its arguments", &found)?;
            span("outlets.alert.timeout_ms", alert.timeout_ms)?;
            let interval = alert.interval_ms <= 86_400_000;
            check(interval, "outlets.alert.interval_ms", "0..=86400000", &alert.interval_ms)?;
        }
        if let Some(led) = &self.led {
            let is_folder =
                !led.name.is_empty() && !led.name.contains(['/', '\0']) && !led.name.starts_with('.');
            check(is_folder, "outlets.led.name", "the name of a folder in /sys/class/leds", &led.name)?;
        }
        Ok(())
    }
}

fn check(holds: bool, key: &'static str, expected: &'static str, found: &dyn ToString) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err((key, expected, found.to_string())) }
}

fn span(key: &'static str, ms: u32) -> Result<(), Wrong> {
    check((100..=600_000).contains(&ms), key, "100..=600000", &ms)
}

/// Letters, digits, `-` and `_`, as topics, identifiers and file names may all hold.
pub(super) fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(is_part)
}

/// A pair of pauses.
fn retry(keys: [&'static str; 2], expected: &'static str, ms: [u32; 2]) -> Result<(), Wrong> {
    check((1..=600_000).contains(&ms[0]), keys[0], "1..=600000", &ms[0])?;
    check((ms[0]..=600_000).contains(&ms[1]), keys[1], expected, &ms[1])
}

impl Webhook {
    fn check(&self) -> Result<(), Wrong> {
        let is_url = ["http://", "https://"].iter().any(|scheme| self.url.starts_with(scheme))
            && self
                .url
                .parse::<ureq::http::Uri>()
                .is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
        check(is_url, "outlets.webhook.url", "an http or https address", &self.url)?;
        span("outlets.webhook.timeout_ms", self.timeout_ms)?;
        let keys = ["outlets.webhook.retry_ms", "outlets.webhook.retry_max_ms"];
        retry(keys, "outlets.webhook.retry_ms..=600000", [self.retry_ms, self.retry_max_ms])
    }
}

impl Mqtt {
    fn check(&self) -> Result<(), Wrong> {
        let is_host = (1..=255).contains(&self.host.len()) && !self.host.contains(['/', ' ', '\0']);
        check(is_host, "outlets.mqtt.host", "a name or an address, without a port", &self.host)?;
        check(self.port != Some(0), "outlets.mqtt.port", "1..=65535", &0)?;
        let is_topic = |topic: &str| {
            topic.len() <= 128
                && !topic.contains(['+', '#', '\0'])
                && !topic.starts_with(['/', '$'])
                && !topic.ends_with('/')
        };
        let expected = "a topic of at most 128 bytes without + and #";
        let prefix = is_topic(&self.prefix) && !self.prefix.is_empty();
        check(prefix, "outlets.mqtt.prefix", expected, &self.prefix)?;
        check(
            is_topic(&self.discovery_prefix),
            "outlets.mqtt.discovery_prefix",
            expected,
            &self.discovery_prefix,
        )?;
        let is_pair = self.cert_file.is_some() == self.key_file.is_some();
        check(is_pair, "outlets.mqtt.cert_file", "a file, and key_file another; or neither", &"one of them")?;
        let is_plain = self.tls || (self.ca_file.is_none() && self.cert_file.is_none());
        check(is_plain, "outlets.mqtt.tls", "true, where there are ca_file or cert_file", &"false")?;
        let is_whole = self.password_file.is_none() || self.user.is_some();
        check(is_whole, "outlets.mqtt.user", "a name, where there is a password_file", &"none")?;
        let user = self.user.as_ref().is_none_or(|user| user.len() <= 1024);
        check(user, "outlets.mqtt.user", "at most 1024 bytes", &"more")?;
        let keep_alive = (5..=3_600).contains(&self.keep_alive_s);
        check(keep_alive, "outlets.mqtt.keep_alive_s", "5..=3600", &self.keep_alive_s)?;
        span("outlets.mqtt.timeout_ms", self.timeout_ms)?;
        let keys = ["outlets.mqtt.retry_ms", "outlets.mqtt.retry_max_ms"];
        retry(keys, "outlets.mqtt.retry_ms..=600000", [self.retry_ms, self.retry_max_ms])
    }
}
