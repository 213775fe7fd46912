//! Events and state to an MQTT broker: MQTT 3.1.1, QoS 1, one event at a time, the next when the broker has this one.

mod connection;
mod discovery;
mod packet;

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::line::{Line, Next};
use super::settings::Mqtt;
use crate::secret::{self, SecretError};
use crate::watch::event::Model;
use connection::{Broker, Connection, MqttError};
use packet::{Connect, MAX_ANSWER_BYTES};

/// Takes what a broker may send, for fuzzing.
#[doc(hidden)]
pub fn feed(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((answer, n_bytes))) = packet::answer(rest) {
        assert!((1..=MAX_ANSWER_BYTES.min(rest.len())).contains(&n_bytes));
        assert_eq!(packet::answer(&rest[..n_bytes]), Ok(Some((answer, n_bytes))), "what follows counts");
        assert_eq!(packet::answer(&rest[..n_bytes - 1]), Ok(None), "it was whole before its end");
        rest = &rest[n_bytes..];
    }
    // A client waits for more only where a packet has begun.
    assert!(packet::answer(rest) != Ok(None) || rest.len() < MAX_ANSWER_BYTES);
}

/// How often an idle connection is looked after.
const SLICE: Duration = Duration::from_millis(500);
/// Connections in a row that the broker ends over one and the same event; then that event is refused.
const MAX_ENDS: u32 = 5;
/// The shortest time between two states: only the newest matters.
const STATE_EVERY: Duration = Duration::from_secs(1);

/// Where things are published.
#[derive(Debug)]
struct Topics {
    availability: String,
    state: String,
    events: String,
}

/// What lasts from one connection to the next.
struct Course {
    backoff: Backoff,
    is_failing: bool,
    /// The event that was on its way when the broker ended the connection, and how often in a row.
    ended: (u64, u32),
}

impl Course {
    /// An event has arrived, or none waits: only that is a success. A connection alone isn't, since the broker may end it
    /// over the first event.
    fn succeed(&mut self) {
        if std::mem::replace(&mut self.is_failing, false) {
            log::warn!("mqtt: works again");
        }
        self.backoff.reset();
    }

    /// The broker ended the connection over event `number`: whether it will never take it.
    fn is_refused(&mut self, number: u64) -> bool {
        let n_before = if self.ended.0 == number { self.ended.1 } else { 0 };
        self.ended = (number, n_before + 1);
        self.ended.1 >= MAX_ENDS
    }
}

/// Publishes events and state.
pub(super) struct Sender {
    settings: Mqtt,
    broker: Broker,
    password: Option<String>,
    client_id: String,
    topics: Topics,
    discovery: Vec<(String, Vec<u8>)>,
}

impl Sender {
    /// Reads all that `settings` name.
    pub(super) fn new(settings: &Mqtt, device_id: &str, model: &Model) -> Result<Self, SecretError> {
        let own = settings.cert_file.as_deref().zip(settings.key_file.as_deref());
        let tls = if settings.tls { Some(secret::tls(settings.ca_file.as_deref(), own)?) } else { None };
        let password = settings.password_file.as_deref().map(secret::line).transpose()?;
        if !settings.tls && password.is_some() {
            log::warn!("outlets.mqtt: the password goes without TLS, readable for all on the way");
        }
        let topic = |name: &str| format!("{}/{device_id}/{name}", settings.prefix);
        let topics =
            Topics { availability: topic("availability"), state: topic("state"), events: topic("events") };
        let discovery = match settings.discovery_prefix.as_str() {
            "" => Vec::new(),
            prefix => discovery::entities(prefix, device_id, &topics, model),
        };
        Ok(Sender {
            broker: Broker {
                host: settings.host.trim_start_matches('[').trim_end_matches(']').to_owned(),
                port: settings.port(),
                tls,
                timeout: Duration::from_millis(u64::from(settings.timeout_ms)),
            },
            settings: settings.clone(),
            password,
            client_id: format!("candor-{device_id}"),
            topics,
            discovery,
        })
    }

    /// Sends what `line` has until it is told to end.
    pub(super) fn run(&self, line: &Line, generation: u64) {
        let backoff = Backoff::new(self.settings.retry_ms, self.settings.retry_max_ms);
        let mut course = Course { backoff, is_failing: false, ended: (0, 0) };
        loop {
            let Err(error) = self.session(line, generation, &mut course) else { return };
            if !std::mem::replace(&mut course.is_failing, true) {
                log::warn!("mqtt: {error}; events wait until it works");
            }
            if !line.wait_after_failure(generation, course.backoff.pause()) {
                return;
            }
        }
    }

    /// One connection, from its start to its end in good order.
    fn session(&self, line: &Line, generation: u64, course: &mut Course) -> Result<(), MqttError> {
        let mut connection = Connection::open(
            &self.broker,
            &Connect {
                client_id: &self.client_id,
                keep_alive_s: self.settings.keep_alive_s,
                will: (&self.topics.availability, b"offline"),
                user: self.settings.user.as_deref(),
                password: self.password.as_deref(),
            },
        )?;
        for (topic, config) in &self.discovery {
            connection.publish(topic, config, true)?;
        }
        connection.publish(&self.topics.availability, b"online", true)?;
        let mut shown = (0, None::<Instant>);
        loop {
            let may_show = shown.1.is_none_or(|at| at.elapsed() >= STATE_EVERY);
            match line.next(generation, may_show.then_some(shown.0), SLICE) {
                Next::State(version, state) => {
                    connection.publish(&self.topics.state, &state, true)?;
                    shown = (version, Some(Instant::now()));
                }
                Next::Record(number, event) => {
                    if let Err(error) = connection.publish(&self.topics.events, &event, false) {
                        if error.is_end() && course.is_refused(number) {
                            line.refuse(number, &event, "mqtt: the broker ends the connection over it");
                        }
                        return Err(error);
                    }
                    line.acknowledge(number);
                    course.succeed();
                }
                Next::Nothing => {
                    connection.serve()?;
                    course.succeed();
                }
                Next::End => break,
            }
        }
        if let Some(state) = line.state_after(shown.0) {
            connection.publish(&self.topics.state, &state, true)?;
        }
        connection.publish(&self.topics.availability, b"offline", true)?;
        connection.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_refused_when_connections_end_over_it_in_a_row() {
        let mut course = Course { backoff: Backoff::new(1, 1), is_failing: false, ended: (0, 0) };
        (1..MAX_ENDS).for_each(|_| assert!(!course.is_refused(7)));
        assert!(!course.is_refused(8));
        (1..MAX_ENDS).for_each(|_| assert!(!course.is_refused(7), "they were not in a row"));
        assert!(course.is_refused(7));
    }
}
