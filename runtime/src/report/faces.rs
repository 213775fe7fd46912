//! `--faces`: the crops of each face with their scores, as files.

use std::io;
use std::path::{Path, PathBuf};

use super::strip::contact_strip;
use crate::pipeline::Face;

/// Writes the crops of `face` and a thumbnail strip of them below `folder`, in a folder of the file's
/// own: `STEM/face-ID/NN_TIMEs_SCORE.png` and `STEM/face-ID.png`. Gives the strip's path, or `None`
/// when the face has no crop.
///
/// # Errors
/// When the file system refuses.
pub fn write(folder: &Path, file: &str, face: &Face) -> io::Result<Option<PathBuf>> {
    if face.samples.is_empty() {
        return Ok(None);
    }
    let of_file = folder.join(folder_name(file));
    let of_face = of_file.join(format!("face-{}", face.track_id));
    std::fs::create_dir_all(&of_face)?;
    for (idx, sample) in face.samples.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a file name to the millisecond")]
        let time_s = sample.pts_ns as f64 / 1e9;
        let score = sample.score.unwrap_or(f32::NAN);
        let name = format!("{idx:02}_{time_s:08.3}s_{score:.4}.png");
        sample.crop.save(of_face.join(name)).map_err(io::Error::other)?;
    }
    let strip = of_file.join(format!("face-{}.png", face.track_id));
    let scored = face.samples.iter().map(|s| (&s.crop, s.score.unwrap_or(f32::NAN)));
    contact_strip(scored).save(&strip).map_err(io::Error::other)?;
    Ok(Some(strip))
}

/// One path component that tells the files of a call apart: the whole path with its separators
/// replaced.
pub(super) fn folder_name(file: &str) -> String {
    if file == "-" {
        return "stdin".to_owned();
    }
    let name: String = file.chars().map(|c| if matches!(c, '/' | '\\' | ':') { '_' } else { c }).collect();
    name.trim_start_matches(['.', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        assert_eq!(folder_name("../a/b.mp4"), "a_b.mp4");
        assert_eq!(folder_name("/x/y.mp4"), "x_y.mp4");
        assert_eq!(folder_name("-"), "stdin");
    }
}
