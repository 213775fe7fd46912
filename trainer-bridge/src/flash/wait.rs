//! What became of a bundle on its device.

use std::thread;
use std::time::{Duration, Instant};

use candor::bundle::Digest;
use serde_json::Value;

use super::link::{Link, Trouble};
use super::ssh::Target;
use super::{FlashError, plain};

/// A bundle's state, by `candor slot status --json`.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Confirmed,
    Pending(String),
    GivenUp(String),
}

/// Asks every `pause` until the device has confirmed the bundle; `tell` hears each new state.
///
/// # Errors
/// [`FlashError::GivenUp`] with the device's reason, [`FlashError::NotConfirmed`] once `limit` is over, and what
/// another try can't help.
pub(super) fn wait(
    target: &Target,
    digest: Digest,
    limit: Duration,
    pause: Duration,
    tell: impl Fn(&str),
) -> Result<(), FlashError> {
    let (asked, name) = (Instant::now(), target.name.clone());
    let mut last = String::new();
    loop {
        let state = match ask(target, digest) {
            Ok(State::Confirmed) => return Ok(()),
            Ok(State::GivenUp(why)) => return Err(FlashError::GivenUp { target: name, why }),
            Ok(State::Pending(state)) => state,
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(why)) => format!("no answer: {why}"),
        };
        if state != last {
            tell(&state);
            last = state;
        }
        if asked.elapsed() + pause > limit {
            return Err(FlashError::NotConfirmed { target: name, after_s: limit.as_secs(), state: last });
        }
        thread::sleep(pause);
    }
}

fn ask(target: &Target, digest: Digest) -> Result<State, Trouble> {
    let mut link = Link::open(target)?;
    link.say("status")?;
    let line = link.line()?;
    let status = line.strip_prefix("status ").and_then(|json| serde_json::from_str(json).ok());
    let state = status.as_ref().and_then(|status| state(status, digest));
    state.ok_or_else(|| {
        // A refusal of the device, else nothing that is known.
        let why = plain(line.get(..line.floor_char_boundary(300)).unwrap_or_default());
        link.broken(&format!("expected a status, found {why:?}")).into()
    })
}

/// Of a bundle; nothing for a status that is none.
fn state(status: &Value, digest: Digest) -> Option<State> {
    let digest = digest.to_string();
    let record = status.get("record")?;
    let is_it = |held: &Value| held.get("digest").and_then(Value::as_str) == Some(&digest);
    for slot in ["a", "b"] {
        let Some((kind, inside)) =
            record.pointer(&format!("/slots/{slot}"))?.as_object().and_then(|o| o.iter().next())
        else {
            continue;
        };
        if !is_it(inside) && !inside.get("held").is_some_and(is_it) {
            continue;
        }
        let text = |key: &str| inside.get(key).and_then(Value::as_str).map(plain).unwrap_or_default();
        return Some(match kind.as_str() {
            "confirmed" => State::Confirmed,
            "bad" => State::GivenUp(text("reason")),
            "trial" if inside.get("has_run").and_then(Value::as_bool) == Some(true) => {
                State::Pending("in trial, and ran well; candor slot confirm keeps it".to_owned())
            }
            "trial" => State::Pending("in trial".to_owned()),
            "staged" => State::Pending("staged; the next start of candor tries it".to_owned()),
            other => State::Pending(plain(other)),
        });
    }
    // No slot has it any more: another one took its place.
    let events = record.get("history")?.as_array()?;
    let last = events.iter().rev().find(|event| event.get("bundle").is_some_and(is_it));
    let reason = last.and_then(|event| event.get("reason")).and_then(Value::as_str);
    Some(State::GivenUp(reason.map_or_else(|| "no slot holds it any more".to_owned(), plain)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candor::slot::{Held, Record};
    use serde_json::json;

    fn status(record: &Record) -> Value {
        json!({ "schema": 1, "record": record })
    }

    #[test]
    fn every_state_of_a_device_is_understood() {
        let digest = Digest::of(b"bundle");
        let held = Held { digest, id: "m".into(), version: "1".into(), security_epoch: 0, signers: vec![] };
        let mut record = Record::default();
        let of = |record: &Record| state(&status(record), digest).unwrap();
        assert_eq!(of(&record), State::GivenUp("no slot holds it any more".into()));
        record.slots.stage(held.clone()).unwrap();
        assert!(matches!(of(&record), State::Pending(s) if s.starts_with("staged")));
        record.slots.boot(3);
        assert_eq!(of(&record), State::Pending("in trial".into()));
        record.slots.ran_well(digest);
        assert!(matches!(of(&record), State::Pending(s) if s.contains("ran well")));
        let mut confirmed = record.clone();
        confirmed.slots.confirm().unwrap();
        assert_eq!(of(&confirmed), State::Confirmed);
        record.slots.fail(digest, "no\ngood");
        assert_eq!(of(&record), State::GivenUp("no good".into()));
        assert_eq!(state(&json!({ "schema": 1 }), digest), None);
    }
}
