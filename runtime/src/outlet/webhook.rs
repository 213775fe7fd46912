//! Events to an HTTP server: one at a time, in order, each until the server has it or will never take it.

use std::io::Read as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;
use ureq::Agent;
use ureq::http::StatusCode;

use super::backoff::{self, Backoff};
use super::line::{Line, Next};
use super::settings::Webhook;
use crate::bundle::to_hex;
use crate::secret::{self, SecretError};

/// How often a sender without events looks whether it is still wanted.
const SLICE: Duration = Duration::from_secs(1);
/// What is read of an answer, so that its connection can serve again.
const MAX_ANSWER_BYTES: u64 = 1 << 16;

/// Posts events.
pub(super) struct Sender {
    agent: Agent,
    settings: Webhook,
    token: Option<String>,
    key: Option<String>,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    /// The server will never take it.
    Refused(String),
    /// Perhaps later, not before the pause that the server asks for.
    Failed(String, Option<Duration>),
}

/// The part of an event that a header repeats.
#[derive(Deserialize)]
struct Identified {
    id: String,
}

impl Sender {
    /// Reads all that `settings` name.
    pub(super) fn new(settings: &Webhook) -> Result<Self, SecretError> {
        let read = |path: &Option<_>| path.as_deref().map(secret::line).transpose();
        let (token, key) = (read(&settings.token_file)?, read(&settings.hmac_key_file)?);
        let timeout = Duration::from_millis(u64::from(settings.timeout_ms));
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A captive portal redirects; a bearer token isn't for whoever stands there.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("candor/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(timeout))
            .max_idle_connections(1);
        let config = if settings.url.starts_with("https:") {
            config.tls_config(secret::https(settings.ca_file.as_deref())?)
        } else {
            if token.is_some() {
                log::warn!("outlets.webhook: the token goes over http, readable for all on the way");
            }
            config
        };
        Ok(Sender { agent: config.build().new_agent(), settings: settings.clone(), token, key })
    }

    /// Sends what `line` has until it is told to end.
    pub(super) fn run(&self, line: &Line, generation: u64) {
        let mut backoff = Backoff::new(self.settings.retry_ms, self.settings.retry_max_ms);
        let mut is_failing = false;
        loop {
            let (number, event) = match line.next(generation, None, SLICE) {
                Next::Record(number, event) => (number, event),
                Next::End => return,
                Next::Nothing | Next::State(..) => continue,
            };
            match self.post(&event) {
                Answer::Failed(reason, asked) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        log::warn!("webhook: {reason}; events wait until it works");
                    }
                    let pause = backoff.pause().max(asked.unwrap_or_default().min(backoff::MOST));
                    if !line.wait_after_failure(generation, pause) {
                        return;
                    }
                    continue;
                }
                Answer::Taken => line.acknowledge(number),
                Answer::Refused(reason) => line.refuse(number, &event, &reason),
            }
            if std::mem::replace(&mut is_failing, false) {
                log::warn!("webhook: works again");
            }
            backoff.reset();
        }
    }

    fn post(&self, event: &[u8]) -> Answer {
        let mut request = self.agent.post(&self.settings.url).header("Content-Type", "application/json");
        if let Ok(Identified { id }) = serde_json::from_slice(event) {
            request = request.header("Idempotency-Key", id);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(key) = &self.key {
            request = request.header("X-Candor-Signature", signature(key.as_bytes(), event));
        }
        let mut answer = match request.send(event) {
            Ok(answer) => answer,
            Err(error) => return Answer::Failed(error.to_string(), None),
        };
        let status = answer.status();
        let after = answer.headers().get("Retry-After").and_then(|after| after.to_str().ok()?.parse().ok());
        if status.is_success() {
            // What it says counts for nothing, and neither does an end in the middle of it.
            let _ = answer.body_mut().as_reader().take(MAX_ANSWER_BYTES).read_to_end(&mut Vec::new());
            return Answer::Taken;
        }
        let may_change = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
        if status.is_client_error() && !may_change.contains(&status) {
            return Answer::Refused(format!("webhook: the server says {status}"));
        }
        Answer::Failed(format!("the server says {status}"), after.map(Duration::from_secs))
    }
}

/// What the header says: HMAC-SHA256 (RFC 2104) of the body.
fn signature(key: &[u8], body: &[u8]) -> String {
    // It takes keys of every length.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    let digest = mac.chain_update(body).finalize().into_bytes();
    format!("sha256={}", to_hex(&digest))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_signature_is_that_of_the_standard() {
        // RFC 4231, test case 2.
        assert_eq!(
            super::signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
