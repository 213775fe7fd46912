//! What is left of a run that ends in a fault: why, and what it said last. The run after it says so.

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGABRT;
use signal_hook::iterator::{Handle, Signals};

use super::event::What;
use super::hub::Last;
use super::machine::unix_ms;
use crate::files;
use crate::report::json::SCHEMA;

/// Events that are kept for a report.
pub(super) const MAX_EVENTS: usize = 64;
/// Reports that are kept; the oldest go.
const MAX_REPORTS: usize = 16;
/// Stands in the folder while a run goes on.
const MARK: &str = "running.json";
/// What changes with each start of the system.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A run that began.
#[derive(Serialize, Deserialize)]
struct Mark {
    unix_ms: u64,
    boot_id: String,
}

/// The first line of a report; the last events follow it.
#[derive(Serialize, Deserialize)]
struct Head {
    schema: u32,
    event: String,
    unix_ms: u64,
    version: String,
    reason: String,
}

/// Writes reports, also while the thread that watches hangs.
#[derive(Clone)]
struct Reporter {
    folder: Arc<Path>,
    last: Last,
}

/// The faults of this run, and of the one before.
pub struct Faults {
    reporter: Reporter,
    before: Option<What>,
    signals: Handle,
    /// Held while the run goes on.
    _lock: File,
}

impl Faults {
    /// Begins a run whose reports go to `folder`, which is made where it is missing, with its `last` events.
    ///
    /// A report is written when the service manager's watchdog ends the process, which it does by SIGABRT.
    ///
    /// # Errors
    /// The system's, also when another run has the folder.
    pub fn begin(folder: &Path, last: Last) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = files::try_lock(&folder.join("lock"))?
            .ok_or_else(|| io::Error::other("another run has the folder"))?;
        let before = before(folder)?;
        let mark = Mark { unix_ms: unix_ms(), boot_id: boot_id() };
        files::replace(&folder.join(MARK), 0o644, &serde_json::to_vec(&mark)?)?;
        let reporter = Reporter { folder: folder.into(), last };
        let mut aborts = Signals::new([SIGABRT])?;
        let (signals, at_abort) = (aborts.handle(), reporter.clone());
        std::thread::spawn(move || {
            if aborts.forever().next().is_some() {
                at_abort.report("the watchdog ended it (SIGABRT)");
                // Ends the process as the signal would have.
                let _ = signal_hook::low_level::emulate_default_handler(SIGABRT);
            }
        });
        Ok(Faults { reporter, before, signals, _lock: lock })
    }

    /// What to say of the run before, where it didn't come to its end; once.
    pub fn take_before(&mut self) -> Option<What> {
        self.before.take()
    }

    /// Does what the run is for, and reports it where it fails or panics; both go on from here.
    ///
    /// # Errors
    /// Those of `run`.
    pub fn see_through<T, E: Display>(self, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(done)) => {
                self.end();
                Ok(done)
            }
            Ok(Err(error)) => {
                self.reporter.report(&error.to_string());
                Err(error)
            }
            Err(payload) => {
                let text = payload.downcast_ref::<&str>().copied();
                let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                self.reporter.report(&format!("it panicked: {}", text.unwrap_or("without a word")));
                resume_unwind(payload)
            }
        }
    }

    /// This run has come to its end.
    fn end(self) {
        self.signals.close();
        if let Err(error) = fs::remove_file(self.reporter.folder.join(MARK)) {
            log::warn!("{}: {error}", self.reporter.folder.display());
        }
    }
}

impl Reporter {
    fn report(&self, reason: &str) {
        let path = self.folder.join(format!("fault-{:015}.jsonl", unix_ms()));
        match self.write(&path, reason) {
            Ok(()) => log::error!("{reason}; the last events are in {}", path.display()),
            Err(error) => log::error!("{reason}; {}: {error}", path.display()),
        }
    }

    fn write(&self, path: &Path, reason: &str) -> io::Result<()> {
        let head = Head {
            schema: SCHEMA,
            event: "fault".to_owned(),
            unix_ms: unix_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            reason: reason.to_owned(),
        };
        let mut lines = serde_json::to_vec(&head)?;
        lines.push(b'\n');
        for event in self.last.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            serde_json::to_writer(&mut lines, &**event)?;
            lines.push(b'\n');
        }
        files::replace(path, 0o640, &lines)?;
        let mut reports = reports(&self.folder)?;
        reports.sort();
        let n_old = reports.len().saturating_sub(MAX_REPORTS);
        reports[..n_old].iter().try_for_each(fs::remove_file)
    }
}

/// What to say of the run before this one; `None` where it came to its end.
fn before(folder: &Path) -> io::Result<Option<What>> {
    let mark = match fs::read(folder.join(MARK)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One that isn't whole says no more than that there was a run.
    let mark: Option<Mark> = serde_json::from_slice(&mark).ok();
    let newest = reports(folder)?.into_iter().max();
    let report = newest.and_then(|path| Some((head(&path)?, path)));
    let is_of_that_run = |head: &Head| mark.as_ref().is_none_or(|mark| mark.unix_ms <= head.unix_ms);
    let (reason, report) = match report {
        Some((head, path)) if is_of_that_run(&head) => (head.reason, Some(path.display().to_string())),
        _ if mark.is_some_and(|mark| mark.boot_id != boot_id()) => {
            ("the system went down while it ran".to_owned(), None)
        }
        _ => ("it was killed: for want of memory, or by hand".to_owned(), None),
    };
    log::warn!("the run before this one didn't come to its end: {reason}");
    Ok(Some(What::Restarted { reason, report }))
}

fn head(report: &Path) -> Option<Head> {
    let text = fs::read_to_string(report).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}

fn reports(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_report = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("fault-") && name.ends_with(".jsonl"))
    };
    Ok(fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(is_report).collect())
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::event::Stamp;
    use super::super::hub::Hub;
    use super::*;

    fn reason_before(folder: &Path) -> Option<(String, Option<String>)> {
        match before(folder).unwrap()? {
            What::Restarted { reason, report } => Some((reason, report)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reports_hold_the_last_events_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut hub = Hub::new(true);
        let mut faults = Faults::begin(folder.path(), hub.keep_last()).unwrap();
        assert!(faults.take_before().is_none(), "there was no run before");
        assert!(Faults::begin(folder.path(), hub.keep_last()).is_err(), "one run at a time");
        let stamp = Stamp { file: "x".into(), start_ns: 0 };
        let n_said = 3 * MAX_EVENTS;
        for track_id in 0..u32::try_from(n_said).unwrap() {
            hub.publish(stamp.event(0, What::FaceAppeared { track_id, bbox: [0.0; 4] }));
        }
        for n in 0..MAX_REPORTS + 3 {
            let path = folder.path().join(format!("fault-{n:015}.jsonl"));
            faults.reporter.write(&path, &format!("fault {n}")).unwrap();
        }
        let mut left = reports(folder.path()).unwrap();
        left.sort();
        assert_eq!(left.len(), MAX_REPORTS);
        let text = fs::read_to_string(&left[0]).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((&lines[0]["reason"], lines.len()), (&"fault 3".into(), 1 + MAX_EVENTS));
        let ids: Vec<_> = lines[1..].iter().map(|line| line["track_id"].as_u64().unwrap()).collect();
        assert!(ids.iter().copied().eq((n_said - MAX_EVENTS) as u64..n_said as u64), "{ids:?}");
        let (reason, report) = reason_before(folder.path()).unwrap();
        assert_eq!(
            (reason.as_str(), report),
            ("fault 18", Some(left[MAX_REPORTS - 1].display().to_string()))
        );
        faults.end();
        assert!(reason_before(folder.path()).is_none(), "it came to its end");
    }

    #[test]
    fn what_fails_or_panics_is_reported_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || Faults::begin(folder.path(), Hub::new(true).keep_last()).unwrap();
        let reason = || reason_before(folder.path()).map(|(reason, _)| reason);
        let failed: Result<(), _> = begin().see_through(|| Err("network x: no numbers"));
        assert_eq!(
            (failed, reason().as_deref()),
            (Err("network x: no numbers"), Some("network x: no numbers"))
        );
        let faults = begin();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            faults.see_through(|| -> Result<(), String> { panic!("so {}", std::hint::black_box(5)) })
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref::<String>().map(String::as_str), Some("so 5"));
        assert_eq!(reason().as_deref(), Some("it panicked: so 5"));
        assert_eq!(begin().see_through(|| Ok::<_, String>(7)), Ok(7));
        assert_eq!(reason(), None, "it came to its end");
    }

    #[test]
    fn a_mark_says_whether_the_system_went_down_and_may_be_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let said = |mark: &str| {
            fs::write(folder.path().join(MARK), mark).unwrap();
            reason_before(folder.path()).unwrap().0
        };
        let here = serde_json::to_string(&Mark { unix_ms: 5, boot_id: boot_id() }).unwrap();
        assert_eq!(said(&here), "it was killed: for want of memory, or by hand");
        assert_eq!(said(r#"{"unix_ms":5,"boot_id":"other"}"#), "the system went down while it ran");
        assert_eq!(said("{half"), "it was killed: for want of memory, or by hand");
    }
}
