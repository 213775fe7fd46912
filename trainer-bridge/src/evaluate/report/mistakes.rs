//! The worst mistakes, as pictures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::PathBuf;

use base64::Engine as _;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageError, RgbImage};

use super::super::facts::read_crop;
use super::super::level::{Groups, Level, Levels};
use super::super::prediction::Prediction;
use crate::plot::escape;

/// Pictures of a class.
const N_PICTURES: usize = 12;
/// Longest side of a picture.
const SIDE_PX: u32 = 176;
const JPEG_QUALITY: u8 = 80;

/// A crop that is judged wrong, as trained.
#[derive(Clone, Debug)]
pub struct Mistake {
    prediction: Prediction,
    score: f32,
    loss: f64,
    /// A JPEG as a data URL; `None` where the crop is not at hand.
    url: Option<String>,
}

/// Of reals and of fakes the crops with the largest losses, the worst first, one for each face.
#[derive(Clone, Debug, Default)]
pub struct Mistakes([Vec<Mistake>; 2]);

impl Mistakes {
    /// Finds them; `folders` gives the folder of each dataset at hand by its name.
    ///
    /// # Errors
    /// [`ImageError`] when a picture can't be encoded.
    pub fn find(
        predictions: &[Prediction],
        folders: &BTreeMap<String, PathBuf>,
        reading: &super::super::level::Reading,
    ) -> Result<Self, ImageError> {
        let groups = Groups::new(predictions);
        let levels = Levels::new(predictions, &groups);
        let judged = levels.judge(|_| reading);
        let mut wrong = levels.scored(&judged, Level::Image);
        wrong.retain(|(_, item)| item.says_fake() != item.is_fake);
        wrong.sort_by(|(_, a), (_, b)| b.loss.total_cmp(&a.loss));
        let mut mistakes = Mistakes::default();
        let mut faces = BTreeSet::new();
        for (idx, item) in wrong {
            let p = &predictions[idx];
            let of_class = &mut mistakes.0[usize::from(item.is_fake)];
            if of_class.len() == N_PICTURES || !faces.insert((&p.dataset, &p.video, &p.condition, p.track)) {
                continue;
            }
            let path = folders.get(&p.dataset).map(|folder| folder.join(&p.crop));
            // A crop that was deleted since is told, and no reason to give no report.
            let crop = path.and_then(|path| {
                read_crop(&path).inspect_err(|error| log::warn!("{error}")).ok().map(|(crop, _)| crop)
            });
            of_class.push(Mistake {
                prediction: p.clone(),
                score: item.score,
                loss: item.loss,
                url: crop.map(|crop| data_url(&crop, SIDE_PX)).transpose()?,
            });
        }
        Ok(mistakes)
    }

    pub(super) fn html(&self) -> String {
        let mut html = "<p>The crops with the largest losses as trained, one for each face.</p>\n".to_owned();
        for (mistakes, (heading, none)) in self.0.iter().zip([
            ("Reals taken for fakes", "No real is taken for a fake."),
            ("Fakes taken for reals", "No fake is taken for a real."),
        ]) {
            let _ = writeln!(html, "<h3>{heading}</h3>");
            if mistakes.is_empty() {
                let _ = writeln!(html, "<p>{none}</p>");
                continue;
            }
            html += "<ol class=\"mistakes\">\n";
            html.extend(mistakes.iter().map(Mistake::html));
            html += "</ol>\n";
        }
        html
    }
}

impl Mistake {
    fn html(&self) -> String {
        let p = &self.prediction;
        let label = if p.is_fake() { "fake" } else { "real" };
        let picture = match &self.url {
            Some(url) => {
                let alt = format!("Face {} of {}, {label}, score {:.3}", p.track, p.video, self.score);
                format!("<img src=\"{url}\" alt=\"{}\"/>", escape(&alt))
            }
            None => "<span class=\"missing\">picture not at hand</span>".to_owned(),
        };
        let method = if p.method.is_empty() { label } else { &p.method };
        format!(
            "<li>{picture}<strong>{label}, P(fake) {:.3}, loss {:.2}</strong>{}, face {}<br/>{}, {}<br/>{:.0} px, sharpness {:.0}</li>\n",
            self.score,
            self.loss,
            escape(&p.video),
            p.track,
            escape(method),
            escape(&p.condition),
            p.face_px,
            p.sharpness,
        )
    }
}

/// `crop` as a JPEG in a data URL, no longer than `most_px` on a side.
pub(super) fn data_url(crop: &RgbImage, most_px: u32) -> Result<String, ImageError> {
    let longest = crop.width().max(crop.height());
    let small = (longest > most_px).then(|| {
        let side = |side: u32| (side * most_px / longest).max(1);
        imageops::resize(crop, side(crop.width()), side(crop.height()), FilterType::Triangle)
    });
    let mut jpeg = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(small.as_ref().unwrap_or(crop))?;
    let text = base64::engine::general_purpose::STANDARD.encode(jpeg.into_inner());
    Ok(format!("data:image/jpeg;base64,{text}"))
}
