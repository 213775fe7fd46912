//! JSON Lines: one object per line, described in `runtime/JSON.md`.

use serde_json::{Value, json};

use crate::bundle::Manifest;
use crate::pipeline::{Face, Summary};

/// Version of the schema; grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// Nanoseconds of a second.
const S_NS: f64 = 1e9;

/// A face's verdict.
pub fn verdict(file: &str, face: &Face) -> Value {
    let b = &face.bbox;
    let bbox = [b.x, b.y, b.w, b.h].map(|v| rounded(v, 1));
    json!({
        "event": "verdict",
        "schema": SCHEMA,
        "file": file,
        "track_id": face.track_id,
        "verdict": face.judgement.verdict.word(),
        "mean_score": face.judgement.mean_score.map(|v| rounded(v, 6)),
        "n_scores": face.samples.len(),
        "scores": face.scores().into_iter().map(|v| rounded(v, 6)).collect::<Vec<_>>(),
        "start_s": seconds(face.start_ns),
        "end_s": seconds(face.end_ns),
        "bbox": bbox,
        "reason": face.judgement.reason,
    })
}

/// A file's verdict.
pub fn summary(file: &str, summary: &Summary, manifest: &Manifest) -> Value {
    json!({
        "event": "summary",
        "schema": SCHEMA,
        "file": file,
        "n_frames": summary.n_frames,
        "n_faces": summary.n_faces,
        "verdict": summary.judgement.verdict.word(),
        "mean_score": summary.judgement.mean_score.map(|v| rounded(v, 6)),
        "reason": summary.judgement.reason,
        "interrupted": summary.is_interrupted,
        "damage": {
            "n_frames_lost": summary.damage.n_frames_lost,
            "n_bytes_missing": summary.damage.n_bytes_missing,
            "notes": summary.damage.notes,
        },
        "model": model(manifest),
    })
}

/// A file that could not be scanned.
pub fn error(file: &str, message: &str) -> Value {
    json!({ "event": "error", "schema": SCHEMA, "file": file, "message": message })
}

fn model(manifest: &Manifest) -> Value {
    json!({ "id": manifest.id, "version": manifest.version, "status": manifest.status.word() })
}

#[expect(clippy::cast_precision_loss, reason = "exact to a microsecond for centuries")]
pub(crate) fn seconds(ns: i64) -> f64 {
    (ns as f64 / S_NS * 1e6).round() / 1e6
}

/// `value` to `n_places` decimal places; `None` when it is no number, which JSON can't hold.
pub(crate) fn rounded(value: f32, n_places: i32) -> Option<f64> {
    let unit = 10f64.powi(n_places);
    value.is_finite().then(|| (f64::from(value) * unit).round() / unit)
}
