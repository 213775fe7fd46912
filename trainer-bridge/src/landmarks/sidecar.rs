//! The landmarks of a dataset, computed once and kept beside its manifest.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use candor::engine::{Engine, EngineError};

use super::{Landmarker, Landmarks, N_LANDMARKS};
use crate::files::FileError;
use crate::manifest::Row;

/// The sidecar's name in a dataset's folder: a line for each crop, its name and 136 numbers, tab-separated.
pub const FILE: &str = "landmarks.tsv";
/// Crops between two writes: what an interrupted run loses.
const CHUNK: usize = 64;

/// Why landmarks can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LandmarkError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A crop isn't a picture.
    #[error("{path}: {cause}")]
    Crop {
        /// The crop.
        path: PathBuf,
        /// The decoder's reason.
        cause: image::ImageError,
    },
    /// The network can't be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The landmarks of the crops of `rows`, in their order, in px of each crop. Those that the sidecar in `folder` lacks are
/// computed on all processors and added to it; an interrupted run goes on where it stopped.
///
/// # Errors
/// [`LandmarkError`]; what was computed before stays in the sidecar.
pub fn of_dataset(folder: &Path, rows: &[Row]) -> Result<Vec<Landmarks>, LandmarkError> {
    let path = folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(FileError::of(&path, "reading")(cause).into()),
    };
    let mut known: HashMap<String, Landmarks> = text.lines().filter_map(parse).collect();
    let missing: Vec<&str> = {
        let mut seen = std::collections::HashSet::new();
        let crops = rows.iter().map(|row| row.crop.as_str());
        crops.filter(|crop| !known.contains_key(*crop) && seen.insert(*crop)).collect()
    };
    if !missing.is_empty() {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(FileError::of(&path, "opening"))?;
        // A line that a kill cut short must not swallow the next one.
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n").map_err(FileError::of(&path, "writing"))?;
        }
        let file = Mutex::new(file);
        let found = compute(folder, &missing, &|lines| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(file.write_all(lines.as_bytes()).map_err(FileError::of(&path, "writing"))?)
        })?;
        known.extend(found);
    }
    Ok(rows.iter().map(|row| known[&row.crop]).collect())
}

fn compute(
    folder: &Path,
    crops: &[&str],
    store: &(dyn Fn(&str) -> Result<(), LandmarkError> + Sync),
) -> Result<Vec<(String, Landmarks)>, LandmarkError> {
    let landmarker = Landmarker::new(&Engine::default())?;
    let progress = indicatif::ProgressBar::new(crops.len() as u64).with_message("landmarks");
    progress.set_style(
        indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {per_sec}, {eta} left")
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    );
    let next = AtomicUsize::new(0);
    let work = || {
        let mut landmarker = landmarker.clone();
        let mut all = Vec::new();
        let chunks = crops.chunks(CHUNK).collect::<Vec<_>>();
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut lines = String::new();
            for &crop in *chunk {
                let path = folder.join(crop);
                let picture = image::open(&path).map_err(|cause| LandmarkError::Crop { path, cause })?;
                let landmarks = landmarker.find(&picture.into_rgb8())?;
                lines.push_str(&line(crop, &landmarks));
                // What is read back later must be what is used now.
                all.extend(parse(line(crop, &landmarks).trim_end()));
                progress.inc(1);
            }
            store(&lines)?;
        }
        Ok(all)
    };
    let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let found = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect::<Result<Vec<Vec<_>>, LandmarkError>>()
    });
    progress.finish_and_clear();
    Ok(found?.into_iter().flatten().collect())
}

fn line(crop: &str, landmarks: &Landmarks) -> String {
    let numbers = landmarks.as_flattened().iter().map(|v| format!("\t{v:.2}")).collect::<String>();
    format!("{crop}{numbers}\n")
}

/// A line of the sidecar; `None` for one that was cut short.
fn parse(line: &str) -> Option<(String, Landmarks)> {
    let mut fields = line.split('\t');
    let crop = fields.next()?.to_owned();
    let numbers: Vec<f32> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let is_whole = numbers.len() == 2 * N_LANDMARKS && line.rsplit('.').next()?.len() == 2;
    let mut landmarks = [[0.0; 2]; N_LANDMARKS];
    landmarks.as_flattened_mut().iter_mut().zip(&numbers).for_each(|(to, from)| *to = *from);
    is_whole.then_some((crop, landmarks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Label, Split};

    fn row(crop: &str) -> Row {
        Row {
            crop: crop.into(),
            video: String::new(),
            source: String::new(),
            group: String::new(),
            method: String::new(),
            condition: String::new(),
            track: 0,
            frame: 0,
            pts_ns: 0,
            x: 0.0,
            y: 0.0,
            w: 0.0,
            h: 0.0,
            confidence: 1.0,
            label: Label::Real,
            split: Split::Train,
        }
    }

    #[test]
    fn landmarks_are_computed_once_and_after_a_kill_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let face = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/landmarks.png");
        let rows = [row("a.png"), row("b.png"), row("a.png")];
        for row in &rows {
            fs::copy(&face, folder.path().join(&row.crop)).unwrap();
        }
        let first = of_dataset(folder.path(), &rows).unwrap();
        assert_eq!((first.len(), first[0]), (3, first[2]));
        // With the crops gone, only the sidecar can answer.
        fs::remove_file(folder.path().join("a.png")).unwrap();
        assert_eq!(of_dataset(folder.path(), &rows).unwrap(), first);
        // A line that was cut short at any place is computed again, and nothing else.
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines.len(), 2);
        for cut in [1, 2, 7, lines[1].len() - 2] {
            fs::write(&path, format!("{}\n{}", lines[0], &lines[1][..lines[1].len() - cut])).unwrap();
            assert_eq!(of_dataset(folder.path(), &rows).unwrap(), first, "cut by {cut}");
        }
        fs::write(folder.path().join("c.png"), "no picture").unwrap();
        let error = of_dataset(folder.path(), &[row("c.png")]).unwrap_err().to_string();
        assert!(error.contains("c.png"), "{error}");
    }
}
