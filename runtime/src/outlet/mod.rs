//! Telling others: events to an HTTP server and an MQTT broker, a program that runs and a light that is on when a face is
//! judged fake.
//!
//! One thread takes events from the hub. What goes over the network it first writes to a [`spool`]; a sender of each kind
//! takes it from there, in order, and acknowledges what has arrived. So nothing that a peer does or leaves undone reaches
//! the watching, and memory and disk stay bounded.

mod alert;
mod backoff;
pub mod led;
mod line;
mod mqtt;
pub mod settings;
pub mod spool;
mod view;
mod webhook;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use line::Sent;
#[doc(hidden)]
pub use mqtt::feed as feed_mqtt;
pub use settings::Settings;
pub use spool::SpoolError;

use crate::secret::SecretError;
use crate::watch::Event;
use crate::watch::event::{Model, ModelStep, What};
use alert::Runner;
use led::Light;
use line::Line;
use settings::{Kind, Mqtt, Webhook};
use spool::Spool;
use view::View;

/// The longest time for which what was written isn't made safe from a power cut.
const TICK: Duration = Duration::from_secs(1);
/// What is kept back of the time for a goodbye, so that a broker hears it too.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why outlets can't be as the settings want them.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// A file with a secret or a certificate.
    #[error("outlets.{0}: {1}")]
    Secret(&'static str, SecretError),
    /// The spool.
    #[error("outlets.spool: {0}")]
    Spool(#[from] SpoolError),
    /// Settings that only a start reads.
    #[error("outlets.spool, outlets.spool_max_bytes and outlets.device_id are read at a start only")]
    Fixed,
}

/// What became of the events for one peer since the program began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What waits, and what had to go.
    pub spool: spool::Counts,
    /// What was sent.
    pub sent: Sent,
}

/// A peer in the network: its settings while there is one, and the spool that outlives them.
#[derive(Debug)]
struct Peer<S> {
    settings: Option<S>,
    line: Option<Arc<Line>>,
    thread: Option<JoinHandle<()>>,
}

impl<S> Default for Peer<S> {
    fn default() -> Self {
        Peer { settings: None, line: None, thread: None }
    }
}

/// A sender's work, until it is told to end.
type Work = Box<dyn Fn(&Line, u64) + Send>;

impl<S> Peer<S> {
    /// From now on with `settings`, or not at all. What was sending before ends first.
    fn change(&mut self, settings: Option<S>, work: Option<Work>, line: Option<Arc<Line>>) {
        self.line = line;
        self.settings = settings;
        let Some(line) = self.line.clone() else { return };
        let (generation, before) = (line.replace_sender(), self.thread.take());
        self.thread = Some(std::thread::spawn(move || {
            if let Some(before) = before {
                let _ = before.join();
            }
            let Some(work) = work else { return };
            // Libraries of others have bugs; a peer isn't given up for one.
            let attempt =
                || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&line, generation)));
            while attempt().is_err() && line.wait_after_failure(generation, backoff::MOST) {}
        }));
    }
}

/// What there is at present.
#[derive(Debug)]
struct Set {
    n_seen: u64,
    device_id: String,
    view: View,
    webhook: Peer<Webhook>,
    mqtt: Peer<Mqtt>,
    alert: Option<(settings::Alert, Runner)>,
    led: Option<(settings::Led, Light)>,
}

impl Set {
    fn take(&mut self, event: &Event) {
        self.n_seen += 1;
        let kind = Kind::of(&event.what);
        let wants_alert = self.alert.as_ref().is_some_and(|(alert, _)| self.view.is_news(event, alert.on));
        let wants_webhook = self.webhook.settings.as_ref().is_some_and(|hook| hook.events.contains(&kind));
        let wants_mqtt = self.mqtt.settings.as_ref().is_some_and(|mqtt| mqtt.events.contains(&kind));
        self.view.take(event);
        if matches!(event.what, What::Model { step: ModelStep::TookOver, .. }) {
            self.name_model();
        }
        if wants_alert || wants_webhook || wants_mqtt {
            match serde_json::to_vec(event) {
                Ok(bytes) => {
                    let lines = [(wants_webhook, &self.webhook.line), (wants_mqtt, &self.mqtt.line)];
                    lines.iter().filter(|(wants, _)| *wants).for_each(|(_, line)| {
                        line.iter().for_each(|line| line.put(&bytes));
                    });
                    if let (true, Some((_, runner))) = (wants_alert, &self.alert) {
                        let Model { id, version, status } = self.view.model();
                        runner.push(&bytes, format!("{id} {version} {status}"));
                    }
                }
                Err(error) => log::error!("{error}"),
            }
        }
        if let (Some(_), Some(line)) = (&self.mqtt.settings, &self.mqtt.line) {
            line.show(self.view.json().to_string().into_bytes());
        }
        if let Some((led, light)) = &mut self.led {
            light.set(self.view.is_alarming(led.on));
        }
    }

    /// Home Assistant is told of the model with the device: MQTT begins anew.
    fn name_model(&mut self) {
        let Some(mqtt) = self.mqtt.settings.clone() else { return };
        match mqtt::Sender::new(&mqtt, &self.device_id, self.view.model()) {
            Ok(sender) => {
                let work: Work = Box::new(move |line, generation| sender.run(line, generation));
                let line = self.mqtt.line.clone();
                self.mqtt.change(Some(mqtt), Some(work), line);
            }
            Err(error) => log::error!("mqtt: {error}; it goes on as before"),
        }
    }

    fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        [&self.webhook.line, &self.mqtt.line].into_iter().flatten()
    }
}

/// All outlets of a run, until it is over.
pub struct Outlets {
    set: Arc<Mutex<Set>>,
    taker: JoinHandle<()>,
    leds: PathBuf,
    /// What a start reads.
    fixed: (Option<PathBuf>, u64, Option<String>),
}

fn lock(set: &Mutex<Set>) -> MutexGuard<'_, Set> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outlets {
    /// Begins to tell others of `events`, which `model` judges. `leds` is where lights are, see [`led::LEDS`].
    ///
    /// # Errors
    /// [`OutletError`]; then nothing has begun.
    pub fn start(
        events: Receiver<Arc<Event>>,
        settings: &Settings,
        model: Model,
        leds: &Path,
    ) -> Result<Self, OutletError> {
        let view = View::new(model);
        let (webhook, mqtt) = (Peer::default(), Peer::default());
        let set = Arc::new(Mutex::new(Set {
            n_seen: 0,
            device_id: device_id(settings),
            view,
            webhook,
            mqtt,
            alert: None,
            led: None,
        }));
        let taken = Arc::clone(&set);
        let fixed = (settings.spool.clone(), settings.spool_max_bytes, settings.device_id.clone());
        let taker = std::thread::spawn(move || {
            loop {
                match events.recv_timeout(TICK) {
                    Ok(event) => lock(&taken).take(&event),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                lock(&taken).lines().for_each(|line| line.tick());
            }
        });
        let outlets = Outlets { set, taker, leds: leds.to_owned(), fixed };
        outlets.change(settings)?;
        Ok(outlets)
    }

    /// Goes on with other settings. What doesn't change goes on undisturbed.
    ///
    /// # Errors
    /// [`OutletError`]; then nothing has changed.
    pub fn change(&self, new: &Settings) -> Result<(), OutletError> {
        let fixed = (new.spool.clone(), new.spool_max_bytes, new.device_id.clone());
        if fixed != self.fixed {
            return Err(OutletError::Fixed);
        }
        let mut set = lock(&self.set);
        // All that can fail comes before all that can't.
        let spool = new.spool.clone().unwrap_or_default();
        let open = |line: &Option<Arc<Line>>, is_wanted: bool, name: &str| match line {
            None if is_wanted => {
                let spool = Spool::open(&spool.join(name), new.spool_max_bytes, Instant::now())?;
                Ok::<_, SpoolError>(Some(Arc::new(Line::new(spool))))
            }
            line => Ok(line.clone()),
        };
        let hook = new.webhook.as_ref().filter(|hook| set.webhook.settings.as_ref() != Some(*hook));
        let hook_work: Option<Work> = match hook {
            None => None,
            Some(hook) => {
                let sender = webhook::Sender::new(hook);
                let sender = sender.map_err(|error| OutletError::Secret("webhook", error))?;
                Some(Box::new(move |line, generation| sender.run(line, generation)))
            }
        };
        let mqtt = new.mqtt.as_ref().filter(|mqtt| set.mqtt.settings.as_ref() != Some(*mqtt));
        let mqtt_work: Option<Work> = match mqtt {
            None => None,
            Some(mqtt) => {
                let sender = mqtt::Sender::new(mqtt, &set.device_id, set.view.model());
                let sender = sender.map_err(|error| OutletError::Secret("mqtt", error))?;
                Some(Box::new(move |line, generation| sender.run(line, generation)))
            }
        };
        let hook_line = open(&set.webhook.line, new.webhook.is_some(), "webhook")?;
        let mqtt_line = open(&set.mqtt.line, new.mqtt.is_some(), "mqtt")?;

        if set.webhook.settings != new.webhook {
            set.webhook.change(new.webhook.clone(), hook_work, hook_line);
        }
        if set.mqtt.settings != new.mqtt {
            set.mqtt.change(new.mqtt.clone(), mqtt_work, mqtt_line);
            if let (Some(_), Some(line)) = (&set.mqtt.settings, &set.mqtt.line) {
                line.show(set.view.json().to_string().into_bytes());
            }
        }
        set.alert = match (&new.alert, set.alert.take()) {
            (Some(alert), Some((_, runner))) => {
                runner.change(alert.clone());
                Some((alert.clone(), runner))
            }
            (Some(alert), None) => Some((alert.clone(), Runner::new(alert.clone()))),
            (None, before) => {
                before.iter().for_each(|(_, runner)| runner.close(Instant::now()));
                None
            }
        };
        set.led = match (&new.led, set.led.take()) {
            (None, _) => None,
            (Some(led), Some((old, light))) if led.name == old.name => Some((led.clone(), light)),
            (Some(led), before) => {
                // It is put back to what it was first.
                drop(before);
                let opened = Light::open(&self.leds, &led.name);
                // A board without this light watches all the same.
                let light = opened.map_err(|error| log::warn!("outlets.led: {error}; there is no light"));
                light.ok().map(|light| (led.clone(), light))
            }
        };
        let is_alarming = set.led.as_ref().is_some_and(|(led, _)| set.view.is_alarming(led.on));
        if let Some((_, light)) = &mut set.led {
            light.set(is_alarming);
        }
        Ok(())
    }

    /// What became of the events for the webhook and for MQTT, where there is one.
    pub fn counts(&self) -> [Option<Counts>; 2] {
        let set = lock(&self.set);
        [&set.webhook.line, &set.mqtt.line].map(|line| {
            let (spool, sent) = line.as_ref()?.counts();
            Some(Counts { spool, sent })
        })
    }

    /// Events that were taken from the hub.
    pub fn n_seen(&self) -> u64 {
        lock(&self.set).n_seen
    }

    /// How often the program of the alert was started, and how many events were forgotten for it.
    pub fn n_alerts(&self) -> (u64, u64) {
        lock(&self.set).alert.as_ref().map_or((0, 0), |(_, runner)| runner.counts())
    }

    /// Ends, once the hub is dropped: what is left is sent within `time`; what isn't waits for the next start.
    pub fn end(self, time: Duration) {
        let ends = Instant::now() + time;
        let pause = || std::thread::sleep(Duration::from_millis(2));
        while !self.taker.is_finished() && Instant::now() < ends {
            pause();
        }
        if !self.taker.is_finished() {
            log::error!("outlets: the disk doesn't take what is left of the events");
            return;
        }
        let mut set = lock(&self.set);
        drop(set.led.take());
        let last_event = ends.checked_sub(LAST_WORDS).unwrap_or(ends);
        set.lines().for_each(|line| line.close(last_event));
        set.alert.iter().for_each(|(_, runner)| runner.close(last_event));
        let is_over = |set: &Set| {
            let threads = [&set.webhook.thread, &set.mqtt.thread];
            threads.into_iter().flatten().all(JoinHandle::is_finished)
                && set.alert.as_ref().is_none_or(|(_, runner)| runner.is_over())
        };
        while !is_over(&set) && Instant::now() < ends {
            pause();
        }
        for (name, line) in [("webhook", &set.webhook.line), ("mqtt", &set.mqtt.line)] {
            let Some(line) = line else { continue };
            line.sync();
            let (spool, sent) = line.counts();
            if spool.n_waiting + spool.n_dropped + sent.n_refused > 0 {
                let (waiting, dropped, refused) = (spool.n_waiting, spool.n_dropped, sent.n_refused);
                log::warn!(
                    "{name}: {waiting} events wait for the next start, {dropped} dropped, {refused} refused"
                );
            }
        }
    }
}

/// The device's name: as it was set, or the machine's.
fn device_id(settings: &Settings) -> String {
    if let Some(id) = &settings.device_id {
        return id.clone();
    }
    // A service may be kept from the first.
    let name = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let plain = |c: char| if settings::is_name(c.encode_utf8(&mut [0; 4])) { c } else { '-' };
    let name: String = name.trim().chars().take(64).map(plain).collect();
    if name.is_empty() { "candor".into() } else { name }
}
