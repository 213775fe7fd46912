//! What Prometheus gets: text format 0.0.4, names by its conventions, base units.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::camera::State;
use crate::verdict::Verdict;
use crate::watch::Event;
use crate::watch::event::{Health, Model, What};

/// The type of the text.
pub(super) const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Upper ends of the scores' histogram.
const ENDS: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// What is counted from events, since the program began.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    started_unix_ms: u64,
    verdicts: [u64; Verdict::OF_FACES.len()],
    running: [u64; Verdict::OF_FACES.len()],
    changes: [u64; State::ALL.len()],
    reloads: [u64; 2],
    n_appeared: u64,
    scores: [u64; ENDS.len()],
    sum_scores: f64,
    n_scores: u64,
    n_no_number: u64,
    answers: BTreeMap<u16, u64>,
}

impl Counters {
    pub(super) fn new(started_unix_ms: u64) -> Self {
        Counters { started_unix_ms, ..Counters::default() }
    }

    /// Counts an event.
    pub(super) fn count(&mut self, event: &Event) {
        let place = |verdict: &Verdict| Verdict::OF_FACES.iter().position(|v| v == verdict);
        match &event.what {
            What::State { state, .. } => {
                if let Some(idx) = State::ALL.iter().position(|s| s == state) {
                    self.changes[idx] += 1;
                }
            }
            What::FaceAppeared { .. } => self.n_appeared += 1,
            What::Score { score: Some(score), .. } => {
                self.n_scores += 1;
                self.sum_scores += score;
                if let Some(idx) = ENDS.iter().position(|end| score <= end) {
                    self.scores[idx] += 1;
                }
            }
            What::Score { score: None, .. } => self.n_no_number += 1,
            What::RunningVerdict { running, .. } => {
                if let Some(idx) = place(&running.verdict) {
                    self.running[idx] += 1;
                }
            }
            What::Verdict { verdict, .. } => {
                if let Some(idx) = place(verdict) {
                    self.verdicts[idx] += 1;
                }
            }
            What::Reloaded { is_accepted, .. } => self.reloads[usize::from(*is_accepted)] += 1,
            What::Model { .. } | What::Restarted { .. } | What::Health(_) | What::Summary { .. } => {}
        }
    }

    /// Counts an answer of the page's server.
    pub(super) fn answered(&mut self, status: u16) {
        *self.answers.entry(status).or_default() += 1;
    }

    /// All metrics.
    pub(super) fn text(
        &self,
        model: &Model,
        health: Option<&Health>,
        state: State,
        n_present: usize,
        n_connections: usize,
        is_watching: bool,
    ) -> String {
        let mut page = Page::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauge("candor_build_info", "The program.").value(&version, 1);
        let labels = [("id", &*model.id), ("version", &*model.version), ("status", model.status)];
        page.gauge("candor_model_info", "The model in use; with status untrained verdicts mean nothing.")
            .value(&labels, 1);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970")]
        let started_s = self.started_unix_ms as f64 / 1e3;
        page.gauge("candor_start_time_seconds", "When watching began, seconds since 1970.")
            .value(&[], started_s);
        page.gauge("candor_watching", "1 while the watching thread gives signs of life.")
            .value(&[], u8::from(is_watching));
        page.gauge("candor_source_state", "1 for what the source does, 0 for everything else.");
        for s in State::ALL {
            page.value(&[("state", s.word())], u8::from(s == state));
        }
        page.counter("candor_source_state_changes_total", "How often the source came to do this.");
        for (s, n) in State::ALL.iter().zip(self.changes) {
            page.value(&[("state", s.word())], n);
        }
        page.gauge("candor_faces_present", "Faces that aren't over.").value(&[], n_present);
        page.counter("candor_faces_appeared_total", "Faces that were not known before.")
            .value(&[], self.n_appeared);
        page.counter("candor_verdicts_total", "Faces that are over, by their last verdict.");
        for (verdict, n) in Verdict::OF_FACES.iter().zip(self.verdicts) {
            page.value(&[("verdict", verdict.word())], n);
        }
        page.counter("candor_running_verdicts_total", "First and changed verdicts of faces in view.");
        for (verdict, n) in Verdict::OF_FACES.iter().zip(self.running) {
            page.value(&[("verdict", verdict.word())], n);
        }
        page.counter("candor_scores_without_number_total", "Scores for which the model gave no number.")
            .value(&[], self.n_no_number);
        self.histogram(&mut page);
        page.counter("candor_reloads_total", "Settings that were read again.");
        page.value(&[("result", "refused")], self.reloads[0])
            .value(&[("result", "accepted")], self.reloads[1]);
        if let Some(health) = health {
            of_health(&mut page, health);
        }
        page.gauge("candor_dashboard_connections", "Connections to this server.").value(&[], n_connections);
        page.counter("candor_dashboard_responses_total", "Answers of this server.");
        for (status, n) in &self.answers {
            page.value(&[("code", &status.to_string())], n);
        }
        page.0
    }

    fn histogram(&self, page: &mut Page) {
        const NAME: &str = "candor_face_score";
        page.head(NAME, "Scores of looks at faces: P(fake).", "histogram");
        let mut n_up_to = 0;
        for (end, n) in ENDS.iter().zip(self.scores) {
            n_up_to += n;
            page.line(&format!("{NAME}_bucket"), &[("le", &format!("{end:?}"))], n_up_to);
        }
        page.line(&format!("{NAME}_bucket"), &[("le", "+Inf")], self.n_scores);
        page.line(&format!("{NAME}_sum"), &[], self.sum_scores);
        page.line(&format!("{NAME}_count"), &[], self.n_scores);
    }
}

/// How the program is; counts begin anew when settings are read again.
fn of_health(page: &mut Page, health: &Health) {
    let counts = &health.counts;
    for (name, help, n) in [
        ("candor_frames_total", "Frames of the source.", counts.n_frames),
        ("candor_frames_dropped_total", "Frames that the driver lost by its own count.", counts.n_dropped),
        ("candor_frames_bad_total", "Frames without a whole picture.", counts.n_bad),
        ("candor_frames_stale_total", "Frames that were old when they came.", counts.n_stale),
        ("candor_frames_repeated_total", "Frames that were the same as the one before.", counts.n_repeated),
        ("candor_frames_skipped_total", "Frames that gave way to newer ones.", health.n_skipped),
        ("candor_frames_searched_total", "Frames that were searched for faces.", health.n_searched),
        ("candor_frames_unreadable_total", "Frames of which no picture could be made.", health.n_unreadable),
        ("candor_source_opened_total", "How often the source was opened.", counts.n_opened),
        ("candor_events_lost_total", "Events that an outlet was too slow for.", health.n_events_lost),
    ] {
        page.counter(name, help).value(&[], n);
    }
    page.gauge("candor_frames_per_second", "Frames of the source in the last second.")
        .value(&[], health.rate_hz);
    page.gauge("candor_search_interval_seconds", "Time between two searches for faces.")
        .value(&[], health.interval_ms / 1e3);
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
    let resident = health.resident_bytes.map(|n| n as f64);
    for (name, help, value) in [
        ("candor_cpu_ratio", "Share of all cores that the process takes.", health.cpu_share),
        ("candor_temperature_celsius", "The hottest zone.", health.temperature_c),
        ("candor_resident_memory_bytes", "Memory of the process.", resident),
        (
            "candor_first_score_seconds",
            "From a face's first frame to its first score; the longest of late.",
            health.first_score_s,
        ),
        ("candor_first_verdict_seconds", "To its first verdict.", health.first_verdict_s),
        (
            "candor_full_verdict_seconds",
            "To its first verdict on all the scores that one rests on.",
            health.full_verdict_s,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(name, help).value(&[], value);
        }
    }
    page.gauge("candor_stage_cpu_seconds", "Mean processor time of a run, by stage.");
    for (stage, ms) in &health.stage_ms {
        page.value(&[("stage", stage)], ms / 1e3);
    }
}

/// The text as it grows: the metric that was begun last gets the values.
#[derive(Default)]
struct Page(String, String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) -> &mut Self {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        name.clone_into(&mut self.1);
        self
    }

    fn gauge(&mut self, name: &str, help: &str) -> &mut Self {
        self.head(name, help, "gauge")
    }

    fn counter(&mut self, name: &str, help: &str) -> &mut Self {
        self.head(name, help, "counter")
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) -> &mut Self {
        let name = std::mem::take(&mut self.1);
        self.line(&name, labels, value);
        self.1 = name;
        self
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (idx, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if idx == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        let mut page = Page::default();
        page.gauge("x", "help").value(&[("a", "q\" \\ \n"), ("b", "c")], 1.5);
        assert_eq!(page.0, "# HELP x help\n# TYPE x gauge\nx{a=\"q\\\" \\\\ \\n\",b=\"c\"} 1.5\n");
    }

    #[test]
    fn scores_are_counted_where_they_belong() {
        use crate::watch::event::{Running, Stamp};
        let mut counters = Counters::new(0);
        for score in [Some(0.0), Some(0.1), Some(0.11), Some(1.0), None] {
            let running = Running { verdict: Verdict::Real, mean_score: None, n_scores: 1 };
            let what = What::Score { track_id: 1, bbox: [0.0; 4], score, running };
            counters.count(&Stamp { file: "".into(), start_ns: 0 }.event(0, what));
        }
        let mut page = Page::default();
        counters.histogram(&mut page);
        for line in [
            "_bucket{le=\"0.1\"} 2",
            "_bucket{le=\"0.2\"} 3",
            "_bucket{le=\"1.0\"} 4",
            "_bucket{le=\"+Inf\"} 4",
            "_count 4",
        ] {
            assert!(page.0.contains(line), "{line}\n{}", page.0);
        }
    }
}
