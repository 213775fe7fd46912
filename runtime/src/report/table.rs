//! What a person sees of a file: a table with a row per face.

use std::fmt::Write as _;

use super::sparkline;
use crate::bundle::{Manifest, Status};
use crate::pipeline::{Face, Summary};

/// Says, wherever verdicts stand, that they mean nothing yet.
pub const UNTRAINED: &str = "untrained model: verdicts mean nothing";

/// A face with the path of its thumbnail, where one was written.
#[derive(Clone, Debug)]
pub struct Row {
    /// The face.
    pub face: Face,
    /// Its thumbnail.
    pub thumbnail: Option<String>,
}

/// The table of one file.
pub fn table(file: &str, rows: &[Row], summary: &Summary, manifest: &Manifest) -> String {
    let mut text = format!("{file}\n");
    if manifest.status == Status::Untrained {
        let _ = writeln!(text, "  ({UNTRAINED})");
    }
    let header = ["face", "time", "verdict", "score", "scores over time", "thumbnail"].map(str::to_owned);
    let has_thumbnails = rows.iter().any(|r| r.thumbnail.is_some());
    let n_columns = if has_thumbnails { 6 } else { 5 };
    let cells: Vec<[String; 6]> = std::iter::once(header).chain(rows.iter().map(cells_of)).collect();
    if !rows.is_empty() {
        let width = |column: usize| cells.iter().map(|c| c[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        for row in &cells {
            let padded = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}"));
            let _ = writeln!(text, "  {}", padded.collect::<Vec<_>>().join("  ").trim_end());
        }
        for row in rows {
            let _ = writeln!(text, "  face {}: {}", row.face.track_id, row.face.judgement.reason);
        }
    }
    let score = summary.judgement.mean_score.map_or(String::new(), |s| format!(", score {s:.3}"));
    let _ = writeln!(
        text,
        "  => {}{score}: {} ({} {}, {} frames{}; model {} {}, {})",
        summary.judgement.verdict.word(),
        summary.judgement.reason,
        summary.n_faces,
        if summary.n_faces == 1 { "face" } else { "faces" },
        summary.n_frames,
        if summary.is_interrupted { ", stopped before the end" } else { "" },
        manifest.id,
        manifest.version,
        manifest.status.word(),
    );
    let damage = &summary.damage;
    if !damage.is_none() {
        let _ = writeln!(
            text,
            "  ! damaged: {} frames lost, {} bytes missing",
            damage.n_frames_lost, damage.n_bytes_missing
        );
        for note in &damage.notes {
            let _ = writeln!(text, "    {note}");
        }
    }
    text
}

fn cells_of(row: &Row) -> [String; 6] {
    let face = &row.face;
    [
        face.track_id.to_string(),
        format!("{}-{}", clock(face.start_ns), clock(face.end_ns)),
        face.judgement.verdict.word().to_owned(),
        face.judgement.mean_score.map_or("-".to_owned(), |s| format!("{s:.3}")),
        sparkline(&face.scores()),
        row.thumbnail.clone().unwrap_or_default(),
    ]
}

/// Minutes, seconds and tenths: `1:02.5`.
fn clock(ns: i64) -> String {
    let tenths = ns.max(0) / 100_000_000;
    format!("{}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_of_known_times() {
        assert_eq!(clock(0), "0:00.0");
        assert_eq!(clock(62_549_000_000), "1:02.5");
        assert_eq!(clock(3_600_000_000_000), "60:00.0");
    }
}
