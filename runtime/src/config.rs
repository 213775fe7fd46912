//! The configuration file: TOML, every key optional, unknown keys refused.

use serde::{Deserialize, Serialize};

use crate::detect;
use crate::engine;
use crate::evidence;
use crate::outlet;
use crate::pipeline;
use crate::slot;
use crate::watch;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, an unknown key or a value of the wrong type; the message shows the line.
    #[error("configuration: {cause}{}", .nearest.as_ref().map_or(String::new(), |name| format!("did you mean `{name}`?\n")))]
    Syntax {
        /// What is wrong, and where.
        cause: toml::de::Error,
        /// For an unknown key the one that may have been meant.
        nearest: Option<String>,
    },
    /// A value out of its range.
    #[error("configuration: {key}: expected {expected}, found {found}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it may hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
}

/// What is wrong with a setting: its key, what it may hold, what it holds.
pub type Wrong = (&'static str, &'static str, String);

impl From<Wrong> for ConfigError {
    fn from((key, expected, found): Wrong) -> Self {
        ConfigError::Range { key, expected, found }
    }
}

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How faces are looked for.
    pub detect: detect::Settings,
    /// Whom events are told.
    pub outlets: outlet::Settings,
    /// How networks are run.
    pub engine: engine::Settings,
    /// How often.
    pub scan: pipeline::Settings,
    /// Where models are kept, and which are taken.
    pub slots: slot::Settings,
    /// How a live source is watched.
    pub watch: watch::Settings,
    /// What is kept of its verdicts.
    pub evidence: evidence::Settings,
}

impl From<toml::de::Error> for ConfigError {
    fn from(cause: toml::de::Error) -> Self {
        let nearest = nearest(cause.message());
        ConfigError::Syntax { cause, nearest }
    }
}

/// Of serde's "unknown field `x`, expected one of `a`, `b`": the known name that is most like the unknown one.
fn nearest(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let likeness = |name: &str| strsim::normalized_damerau_levenshtein(unknown, name);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.4).then(|| best.to_owned())
}

impl Config {
    /// Parses and checks a configuration; what it leaves out has its default.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`ConfigError::Range`] for the first that is out of it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let check = |holds: bool, key, expected, found: String| {
            if holds { Ok(()) } else { Err(ConfigError::Range { key, expected, found }) }
        };
        let (d, s) = (&self.detect, &self.scan);
        let face = (detect::Settings::LEAST_FACE_PX..=4096.0).contains(&d.min_face_px);
        check(face, "detect.min_face_px", "12..=4096", d.min_face_px.to_string())?;
        let factor = (0.5..=0.9).contains(&d.pyramid_factor);
        check(factor, "detect.pyramid_factor", "0.5..=0.9", d.pyramid_factor.to_string())?;
        let open = |v: &f32| *v > 0.0 && *v < 1.0;
        check(
            d.thresholds.iter().all(open),
            "detect.thresholds",
            "three numbers between 0 and 1",
            format!("{:?}", d.thresholds),
        )?;
        check(
            open(&d.keep_above),
            "detect.keep_above",
            "a number between 0 and 1",
            d.keep_above.to_string(),
        )?;
        let threads = self.engine.threads <= engine::Settings::MOST_THREADS;
        check(threads, "engine.threads", "0..=64", self.engine.threads.to_string())?;
        let interval = (1..=60_000).contains(&s.interval_ms);
        check(interval, "scan.interval_ms", "1..=60000", s.interval_ms.to_string())?;
        self.check_watch(&check)?;
        let most = self.evidence.max_bytes;
        check(
            most >= evidence::Settings::LEAST_BYTES,
            "evidence.max_bytes",
            "at least 16777216",
            most.to_string(),
        )?;
        self.outlets.check()?;
        let slots = &self.slots;
        let boots = (1..=100).contains(&slots.trial_boots);
        check(boots, "slots.trial_boots", "1..=100", slots.trial_boots.to_string())?;
        let ratio = slots.max_time_ratio;
        check(ratio.is_finite() && ratio > 0.0, "slots.max_time_ratio", "> 0", ratio.to_string())?;
        let looks = (1..=1_000_000).contains(&slots.shadow_looks);
        check(looks, "slots.shadow_looks", "1..=1000000", slots.shadow_looks.to_string())?;
        let share = (0.0..=1.0).contains(&slots.max_contrary);
        check(share, "slots.max_contrary", "0..=1", slots.max_contrary.to_string())?;
        let shift = (0.0..=1.0).contains(&slots.max_shift);
        check(shift, "slots.max_shift", "0..=1", slots.max_shift.to_string())?;
        check(slots.drop.len() <= 8, "slots.drop", "at most 8 folders", slots.drop.len().to_string())?;
        let interval = (1..=86_400).contains(&slots.drop_interval_s);
        check(interval, "slots.drop_interval_s", "1..=86400", slots.drop_interval_s.to_string())?;
        slots.check_sources()?;
        if slots.root_keys.is_empty() {
            return Ok(());
        }
        slots.roots().map(|_| ()).map_err(|error| ConfigError::Range {
            key: "slots.root_keys",
            expected: "keys and a threshold that they can meet",
            found: error.to_string(),
        })
    }
}

impl Config {
    fn check_watch(
        &self,
        check: &dyn Fn(bool, &'static str, &'static str, String) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let w = &self.watch;
        let numbers = [
            ("watch.width_px", w.width_px, 16..=16_384, "16..=16384"),
            ("watch.height_px", w.height_px, 16..=16_384, "16..=16384"),
            ("watch.rate_hz", w.rate_hz, 1..=240, "1..=240"),
            ("watch.stall_ms", w.stall_ms, 500..=60_000, "500..=60000"),
            ("watch.frozen_ms", w.frozen_ms, 500..=600_000, "500..=600000"),
            ("watch.interval_ms", w.interval_ms, 1..=60_000, "1..=60000"),
            ("watch.score_interval_ms", w.score_interval_ms, 1..=600_000, "1..=600000"),
            ("watch.away_ms", w.away_ms, 1_000..=600_000, "1000..=600000"),
            ("watch.health_s", w.health_s, 1..=86_400, "1..=86400"),
            ("watch.log_files", w.log_files, 1..=1_000, "1..=1000"),
        ];
        for (key, value, range, expected) in numbers {
            check(range.contains(&value), key, expected, value.to_string())?;
        }
        let most = (w.interval_ms..=60_000).contains(&w.max_interval_ms);
        check(most, "watch.max_interval_ms", "watch.interval_ms..=60000", w.max_interval_ms.to_string())?;
        let share = w.cpu_share > 0.0 && w.cpu_share <= 1.0;
        check(share, "watch.cpu_share", "above 0, up to 1", w.cpu_share.to_string())?;
        let heat = (0.0..=150.0).contains(&w.max_temperature_c);
        check(heat, "watch.max_temperature_c", "0..=150", w.max_temperature_c.to_string())?;
        let log = w.log_max_bytes >= 4096;
        check(log, "watch.log_max_bytes", "at least 4096", w.log_max_bytes.to_string())?;
        let d = &w.dashboard;
        let picture = (160..=1920).contains(&d.picture_px);
        check(picture, "watch.dashboard.picture_px", "160..=1920", d.picture_px.to_string())?;
        let pace = (1..=15).contains(&d.picture_hz);
        check(pace, "watch.dashboard.picture_hz", "1..=15", d.picture_hz.to_string())?;
        let (wrong, listen) = (d.wrong_host(), d.listen.map(|address| address.to_string()));
        check(
            wrong.is_none(),
            "watch.dashboard.hosts",
            "names of this device",
            wrong.unwrap_or_default().into(),
        )?;
        check(
            d.is_guarded(),
            "watch.dashboard.listen",
            "an address of this machine alone, or token_file beside it",
            listen.unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::from_toml("").unwrap(), Config::default());
    }

    #[test]
    fn the_default_survives_a_round_trip() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::from_toml(&text).unwrap(), Config::default());
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (text, named) in [
            ("[detect]\nmin_face = 40", "min_face"),
            ("[detekt]", "detekt"),
            ("[detect]\nmin_face_px = 3", "detect.min_face_px"),
            ("[detect]\nmin_face_px = nan", "detect.min_face_px"),
            ("[detect]\npyramid_factor = 0.95", "detect.pyramid_factor"),
            ("[detect]\nthresholds = [0.6, 0.7, 1.0]", "detect.thresholds"),
            ("[detect]\nkeep_above = 0", "keep_above"),
            ("[engine]\nthreads = 65", "engine.threads"),
            ("[engine]\nkernels = \"sse\"", "sse"),
            ("[scan]\ninterval_ms = 0", "scan.interval_ms"),
            ("[watch]\ncpu_share = 0", "watch.cpu_share"),
            ("[watch]\nmax_interval_ms = 100", "watch.max_interval_ms"),
            ("[watch]\nmax_temperature_c = nan", "watch.max_temperature_c"),
            ("[watch]\nencoding = \"h264\"", "h264"),
            ("[evidence]\nmax_bytes = 4096", "evidence.max_bytes"),
            ("[outlets]\nspool_max_bytes = 4096", "outlets.spool_max_bytes"),
            ("[outlets.webhook]\nurl = \"https://h/\"", "outlets.spool"),
            ("[outlets]\nspool = \"s\"\n[outlets.webhook]\nurl = \"ftp://h/\"", "outlets.webhook.url"),
            (
                "[outlets]\nspool = \"s\"\n[outlets.webhook]\nurl = \"https://h/\"\nretry_max_ms = 9",
                "retry_max_ms",
            ),
            (
                "[outlets]\nspool = \"s\"\n[outlets.webhook]\nurl = \"https://h/\"\nevents = [\"scores\"]",
                "scores",
            ),
            ("[outlets.webhook]\nspool = \"s\"", "spool"),
            (
                "[outlets]\nspool = \"s\"\n[outlets.mqtt]\nhost = \"h\"\nprefix = \"a/#\"",
                "outlets.mqtt.prefix",
            ),
            ("[outlets]\nspool = \"s\"\n[outlets.mqtt]\nhost = \"h\"\ncert_file = \"c\"", "cert_file"),
            ("[outlets]\nspool = \"s\"\n[outlets.mqtt]\nhost = \"h\"\npassword = \"p\"", "password"),
            ("[outlets.alert]\ncommand = []", "outlets.alert.command"),
            ("[outlets.alert]\ncommand = \"ring\"", "command"),
            ("[outlets.led]\nname = \"../x\"", "outlets.led.name"),
            ("[outlets]\ndevice_id = \"a b\"", "outlets.device_id"),
            ("[watch.dashboard]\nlisten = \"0.0.0.0:8710\"", "token_file"),
            ("[watch.dashboard]\nlisten = \"localhost\"", "listen"),
            ("[watch.dashboard]\npicture_hz = 0", "watch.dashboard.picture_hz"),
            ("[watch.dashboard]\npicture_px = 4000", "watch.dashboard.picture_px"),
            ("[watch.dashboard]\nhosts = [\"http://x\"]", "watch.dashboard.hosts"),
            ("[slots]\ntrial_boots = 0", "slots.trial_boots"),
            ("[slots]\nmax_time_ratio = nan", "slots.max_time_ratio"),
            ("[slots]\nshadow_looks = 0", "slots.shadow_looks"),
            ("[slots]\nmax_contrary = 1.5", "slots.max_contrary"),
            ("[slots]\nmax_shift = -0.1", "slots.max_shift"),
            ("[slots]\ndrop = 3", "a folder or a list of folders"),
            ("[slots]\ndrop = [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\",\"i\"]", "slots.drop"),
            ("[slots]\ndrop_interval_s = 0", "slots.drop_interval_s"),
            ("[slots]\nroot_keys = [\"00\"]", "public key"),
            (
                "[slots]\nroot_threshold = 2\nroot_keys = [\"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"]",
                "slots.root_keys",
            ),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_brings_the_nearest_known_one() {
        for (text, meant) in [
            ("[detect]\nmin_face = 40", Some("min_face_px")),
            ("[detekt]", Some("detect")),
            ("[watch]\ncpu_shares = 0.4", Some("cpu_share")),
            ("[watch]\nhieght_px = 720", Some("height_px")),
            ("[scan]\ninterval = 3", Some("interval_ms")),
            ("[zzzzzzzz]", None),
        ] {
            let error = Config::from_toml(text).unwrap_err().to_string();
            let told = meant.map(|name| format!("did you mean `{name}`?"));
            assert_eq!(error.contains("did you mean"), told.is_some(), "{text}: {error}");
            assert!(told.is_none_or(|told| error.contains(&told)), "{text}: {error}");
        }
    }
}
