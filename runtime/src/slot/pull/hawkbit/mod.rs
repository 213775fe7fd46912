//! Asks an Eclipse hawkBit server for work by its Direct Device Integration API, version 1
//! (<https://eclipse.dev/hawkbit/apis/ddi_api/>), and tells it how that went. An action of the server is over once the
//! bundle's trial is: what a fleet's overview shows as done has run beside the model before and was found good.

mod wire;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use self::wire::{Action, Cancel, Poll, seconds, the_bundle};
use super::web::{Web, WebError, is_address};
use super::{Standing, Wanted, fetch, go_back, memo, standing, waits};
use crate::bundle::Digest;
use crate::config::Wrong;
use crate::secret::{self, SecretError};
use crate::slot::receive::Place;
use crate::slot::{Outcome, SlotError, Store};

/// What is remembered, in the slots' folder.
const MEMO: &str = "hawkbit";
/// Longest answer.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Between two looks where neither the server nor the configuration says.
const INTERVAL_S: u64 = 300;
const NO_ID: &str = "expected 1 to 64 printable characters of ASCII, found something else";
/// Longest value of an attribute; hawkBit keeps no longer ones.
const MAX_ATTRIBUTE_BYTES: usize = 128;
/// Longest detail that is told; hawkBit keeps 512 characters.
const MAX_DETAIL_BYTES: usize = 512;

/// Where the server is; `[slots.hawkbit]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The server, https.
    pub url: String,
    /// The tenant.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The device's controller id.
    pub device: String,
    /// A file whose first line is the device's own security token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A file whose first line is the tenant's gateway token, in the place of the device's.
    #[serde(default)]
    pub gateway_token_file: Option<PathBuf>,
    /// Authorities that may vouch for the server, PEM; the system's without it.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Time between two looks, s; as the server says without it.
    #[serde(default)]
    pub interval_s: Option<u32>,
}

fn default_tenant() -> String {
    "DEFAULT".to_owned()
}

/// A part of an address that needs no escape.
fn is_segment(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    (1..=256).contains(&text.len()) && text.bytes().all(is_plain) && text != "." && text != ".."
}

impl Settings {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// The first that is out of it.
    pub(in crate::slot) fn check(&self) -> Result<(), Wrong> {
        if !is_address(&self.url) {
            let expected = "an https address, or an http one of this device";
            return Err(("slots.hawkbit.url", expected, self.url.clone()));
        }
        let expected = "1 to 256 of a-z, A-Z, 0-9 and -._~:";
        for (key, text) in [("slots.hawkbit.tenant", &self.tenant), ("slots.hawkbit.device", &self.device)] {
            if !is_segment(text) {
                return Err((key, expected, text.clone()));
            }
        }
        if self.token_file.is_some() && self.gateway_token_file.is_some() {
            return Err(("slots.hawkbit.token_file", "it or gateway_token_file", "both".to_owned()));
        }
        match self.interval_s {
            Some(s) if !(1..=604_800).contains(&s) => {
                Err(("slots.hawkbit.interval_s", "1..=604800", s.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// What the device knows of the server's last action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memo {
    /// The device's address on the server.
    server: String,
    action: String,
    digest: Option<Digest>,
    /// The slots have had its bundle since it was assigned.
    was_staged: bool,
    /// What it came to, where it is over: the server may not have heard.
    ended: Option<(bool, String)>,
}

impl Memo {
    fn is_of_same(&self, other: &Memo) -> bool {
        self.server == other.server && self.action == other.action && self.digest == other.digest
    }
}

/// Talks to the server.
pub(super) struct Client {
    settings: Settings,
    web: Web,
    base: String,
    server_interval_s: u64,
    /// The last thing that was told of an action: the same again would only fill its history.
    told: Option<(String, String)>,
}

/// How an action stands.
enum Step {
    /// On its way.
    Proceeding(String),
    /// Over: whether it went well.
    Closed(bool, String),
    /// Too late to be undone.
    Rejected(String),
}

impl Step {
    fn text(&self) -> &str {
        match self {
            Step::Proceeding(text) | Step::Closed(_, text) | Step::Rejected(text) => text,
        }
    }

    /// What it came to, where it is over.
    fn ended(&self) -> Option<(bool, String)> {
        match self {
            Step::Closed(is_good, text) => Some((*is_good, text.clone())),
            Step::Proceeding(_) | Step::Rejected(_) => None,
        }
    }
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, SecretError> {
        let of = |kind: &str, path: &Option<PathBuf>| {
            path.as_deref().map(secret::line).transpose().map(|token| token.map(|t| format!("{kind} {t}")))
        };
        let own = of("TargetToken", &settings.token_file)?;
        let authorization = own.or(of("GatewayToken", &settings.gateway_token_file)?);
        let web = Web::new(&settings.url, settings.ca_file.as_deref(), authorization)?;
        let url = settings.url.trim_end_matches('/');
        let base = format!("{url}/{}/controller/v1/{}", settings.tenant, settings.device);
        let (settings, server_interval_s) = (settings.clone(), INTERVAL_S);
        Ok(Client { settings, web, base, server_interval_s, told: None })
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_secs(self.settings.interval_s.map_or(self.server_interval_s, u64::from))
    }

    pub(super) fn look(&mut self, place: &Place<'_>) -> Result<Outcome, SlotError> {
        let failed = |error: String| Ok(Outcome::Failed(error));
        let poll: Poll = match self.get(&self.base) {
            Ok(poll) => poll,
            Err(error) => return failed(error),
        };
        self.server_interval_s = seconds(&poll.config.polling.sleep).unwrap_or(INTERVAL_S);
        if let Some(link) = poll.links.config_data
            && let Err(error) = self.introduce(place, &link.href)?
        {
            // No reason to leave the server's work undone.
            log::warn!("hawkBit: {error}");
        }
        if let Some(link) = poll.links.cancel_action {
            return self.cancel(place, &link.href);
        }
        if let Some(link) = poll.links.deployment_base {
            return self.deploy(place, &link.href);
        }
        self.told = None;
        Ok(match poll.links.confirmation_base {
            Some(_) => {
                Outcome::Waits("the server asks for a person's consent, which is given there".to_owned())
            }
            None => Outcome::Known("the server has nothing to do".to_owned()),
        })
    }

    fn get<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let bytes = self.web.get(url, MAX_ANSWER_BYTES).map_err(|error| format!("{url}: {error}"))?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{url}: {error}"))
    }

    /// Says what the device is.
    fn introduce(&self, place: &Place<'_>, url: &str) -> Result<Result<(), String>, SlotError> {
        let store = Store::locked(place.folder)?;
        let slots = &store.record().slots;
        let held = slots.current().and_then(|name| slots.slot(name).held());
        let model = held.map_or("built-in".to_owned(), |held| format!("{} {}", held.id, held.version));
        let data = json!({
            "candor": env!("CARGO_PKG_VERSION"),
            "architecture": std::env::consts::ARCH,
            "model": model[..model.floor_char_boundary(MAX_ATTRIBUTE_BYTES)],
            "model_sha256": held.map_or(String::new(), |held| held.digest.to_string()),
            "security_epoch": slots.security_epoch().to_string(),
        });
        drop(store);
        let told = self.web.tell(false, url, &json!({ "mode": "merge", "data": data }));
        Ok(told.map_err(|error| format!("{url}: {error}")))
    }

    /// Tells how an action stands, unless that was the last thing told.
    fn tell(&mut self, action_url: &str, id: &str, step: &Step) -> Result<(), String> {
        let (execution, finished, detail) = match step {
            Step::Proceeding(detail) => ("proceeding", "none", detail),
            Step::Closed(true, detail) => ("closed", "success", detail),
            Step::Closed(false, detail) => ("closed", "failure", detail),
            Step::Rejected(detail) => ("rejected", "none", detail),
        };
        let detail = &detail[..detail.floor_char_boundary(MAX_DETAIL_BYTES)];
        let news = (id.to_owned(), format!("{execution} {finished} {detail}"));
        if self.told.as_ref() == Some(&news) {
            return Ok(());
        }
        let url = format!("{}/feedback", action_url.split(['?', '#']).next().unwrap_or_default());
        let status =
            json!({ "execution": execution, "result": { "finished": finished }, "details": [detail] });
        match self.web.tell(true, &url, &json!({ "id": id, "status": status })) {
            // The server has closed it meanwhile, or knows it no more.
            Ok(())
            | Err(WebError::Status(ureq::http::StatusCode::GONE | ureq::http::StatusCode::NOT_FOUND)) => {
                self.told = Some(news);
                Ok(())
            }
            Err(error) => Err(format!("{url}: {error}")),
        }
    }

    fn cancel(&mut self, place: &Place<'_>, url: &str) -> Result<Outcome, SlotError> {
        let cancel: Cancel = match self.get(url) {
            Ok(cancel) => cancel,
            Err(error) => return Ok(Outcome::Failed(error)),
        };
        let stop_id = cancel.cancel_action.stop_id;
        if !is_id(&stop_id) {
            return Ok(Outcome::Failed(format!("{url}: stopId: {NO_ID}")));
        }
        let mut store = Store::locked(place.folder)?;
        let memo: Memo = memo::read(place.folder, MEMO)?;
        let digest = memo.digest.filter(|_| memo.server == self.base && memo.action == stop_id);
        let step = match digest.and_then(|digest| standing(&store, digest)) {
            Some(Standing::Candidate(_)) => {
                let held = store.roll_back("cancelled on the server", (place.now_unix_s)())?;
                Step::Closed(true, format!("{} {} is given up", held.id, held.version))
            }
            Some(Standing::Runs(text)) => Step::Rejected(text),
            _ => Step::Closed(true, "nothing of it is staged or in trial".to_owned()),
        };
        drop(store);
        let told = self.tell(url, &stop_id, &step);
        let text = format!("cancelled by the server: {}", step.text());
        Ok(told.map_or_else(Outcome::Failed, |()| Outcome::Known(text)))
    }

    fn deploy(&mut self, place: &Place<'_>, url: &str) -> Result<Outcome, SlotError> {
        let action: Action = match self.get(url) {
            Ok(action) => action,
            Err(error) => return Ok(Outcome::Failed(error)),
        };
        if !is_id(&action.id) {
            return Ok(Outcome::Failed(format!("{url}: id: {NO_ID}")));
        }
        let (outcome, step) = match self.stands(place, &action)? {
            (outcome, Some(step)) => (outcome, step),
            (outcome, None) => return Ok(outcome),
        };
        Ok(match self.tell(url, &action.id, &step) {
            Ok(()) => outcome,
            Err(error) => Outcome::Failed(error),
        })
    }

    /// How an action stands, after doing for it what can be done now; without a step there is nothing to tell.
    fn stands(&self, place: &Place<'_>, action: &Action) -> Result<(Outcome, Option<Step>), SlotError> {
        let closed = |why: String| (Outcome::Refused(why.clone()), Some(Step::Closed(false, why)));
        let deployment = &action.deployment;
        let (artifact, digest, url) = match the_bundle(deployment) {
            Ok(found) => found,
            Err(why) => return Ok(closed(why)),
        };
        let mut store = Store::locked(place.folder)?;
        let before: Memo = memo::read(place.folder, MEMO)?;
        let fresh = Memo {
            server: self.base.clone(),
            action: action.id.clone(),
            digest: Some(digest),
            ..Memo::default()
        };
        // Another server counts from 1 too.
        let mut memo = if before.is_of_same(&fresh) { before.clone() } else { fresh };
        if let Some((is_good, text)) = memo.ended {
            return Ok((Outcome::Known(text.clone()), Some(Step::Closed(is_good, text))));
        }
        let standing = standing(&store, digest);
        let step = match (&standing, memo.was_staged) {
            (Some(Standing::Candidate(text)), _) => Some(Step::Proceeding(text.clone())),
            (Some(Standing::Runs(text)), _) => Some(Step::Closed(true, text.clone())),
            (Some(Standing::Before(held)), true) => {
                Some(Step::Closed(true, format!("{} {} was found good", held.id, held.version)))
            }
            (Some(Standing::Bad(text)), true) => Some(Step::Closed(false, text.clone())),
            (None, true) => Some(Step::Closed(false, "another model was installed in its place".to_owned())),
            // Whoever assigns again what was found bad before wants it tried again.
            (Some(Standing::Before(_) | Standing::Bad(_)) | None, false) => None,
        };
        if let Some(step) = step {
            memo.was_staged = true;
            memo.ended = step.ended();
            if memo != before {
                memo::write(place.folder, MEMO, &memo)?;
            }
            return Ok((Outcome::Known(step.text().to_owned()), Some(step)));
        }
        if deployment.download == "skip" || deployment.update == "skip" {
            return Ok((Outcome::Waits("the server's maintenance window is closed".to_owned()), None));
        }
        if let Some(why) = waits(&store) {
            return Ok((Outcome::Waits(why.clone()), Some(Step::Proceeding(format!("waits: {why}")))));
        }
        let origin = format!("hawkBit action {}", action.id);
        if let Some(Standing::Before(held)) = standing {
            let outcome = go_back(&mut store, &held, &origin, (place.now_unix_s)())?;
            let step = Step::Closed(!matches!(outcome, Outcome::Refused(_)), outcome.text());
            memo.ended = step.ended();
            memo::write(place.folder, MEMO, &memo)?;
            return Ok((outcome, Some(step)));
        }
        // So that a cancellation finds it, whatever happens next.
        memo::write(place.folder, MEMO, &memo)?;
        drop(store);
        let wanted = Wanted { digest, size_bytes: artifact.size, url, origin: &origin };
        let outcome = match fetch(place, &self.web, &wanted) {
            Err(error) if error.is_of_disk() => return Err(error),
            Err(error) => Outcome::Refused(error.to_string()),
            Ok(outcome) => outcome,
        };
        let text = outcome.text();
        let step = match &outcome {
            Outcome::Installed(_) => Step::Proceeding("installed; its trial decides".to_owned()),
            Outcome::Refused(_) => Step::Closed(false, text),
            // The same words each time: a server keeps all that it is told.
            Outcome::Failed(_) => Step::Proceeding("the download failed; it is tried again".to_owned()),
            Outcome::Waits(_) | Outcome::Known(_) => Step::Proceeding(text),
        };
        memo.was_staged = matches!(outcome, Outcome::Installed(_));
        memo.ended = step.ended();
        let _alone = Store::locked(place.folder)?;
        memo::write(place.folder, MEMO, &memo)?;
        Ok((outcome, Some(step)))
    }
}

/// What a server may call an action: it stands in the history and in addresses.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_a_part_of_an_address() {
        for (text, is_good) in [
            ("camera-7", true),
            ("urn:x:1", true),
            ("a/b", false),
            ("..", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_segment(text), is_good, "{text}");
        }
    }
}
