//! Heat maps of right and wrong decisions, for a person to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use candor::report::heat::{color, overlay, reach};
use candor::resample::Resampler;
use image::{RgbImage, imageops};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;

use super::super::facts::read_crop;
use super::super::level::{Groups, Level, Levels, Reading};
use super::super::prediction::Prediction;
use super::mistakes::data_url;
use crate::explain::Subject;
use crate::model::fitted;
use crate::plot::escape;

/// Decisions of each label that are shown, right and wrong ones.
const N_EACH: usize = 25;
/// Side of a picture.
const SIDE_PX: u32 = 176;

/// One decision with its map.
#[derive(Clone, Debug)]
struct Map {
    prediction: Prediction,
    /// P(fake) as trained.
    score: f32,
    /// P(fake) by the network that the map is of.
    mapped_score: f32,
    /// Log odds at the ends of the colours.
    reach: f32,
    /// The crop beside the map, as a data URL.
    url: String,
}

/// Of reals and fakes that are decided rightly some by chance, and those decided worst; one crop of a face.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    /// Right ones, then wrong ones; `None` where no network was named.
    drawn: Option<[Vec<Map>; 2]>,
}

impl Maps {
    /// Draws them by `subject`; `folders` gives the folder of each dataset at hand by its name.
    ///
    /// # Errors
    /// When a crop can't be read, run or encoded.
    pub fn draw(
        predictions: &[Prediction],
        folders: &BTreeMap<String, PathBuf>,
        reading: &Reading,
        subject: &mut Subject,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let groups = Groups::new(predictions);
        let levels = Levels::new(predictions, &groups);
        let judged = levels.judge(|_| reading);
        let mut items = levels.scored(&judged, Level::Image);
        items.retain(|(idx, _)| folders.contains_key(&predictions[*idx].dataset));
        items.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let (right, mut wrong): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|(_, item)| item.says_fake() == item.is_fake);
        wrong.sort_by(|(_, a), (_, b)| b.loss.total_cmp(&a.loss));
        let mut drawn = [Vec::new(), Vec::new()];
        for (maps, items) in drawn.iter_mut().zip([right, wrong]) {
            let (mut faces, mut n_of) = (BTreeSet::new(), [0; 2]);
            for (idx, item) in items {
                let p = &predictions[idx];
                let n_of_label = &mut n_of[usize::from(item.is_fake)];
                if *n_of_label == N_EACH || !faces.insert((&p.dataset, &p.video, &p.condition, p.track)) {
                    continue;
                }
                *n_of_label += 1;
                maps.push(Map::draw(p, item.score, &folders[&p.dataset].join(&p.crop), subject)?);
            }
            maps.sort_by_key(|map| map.prediction.is_fake());
        }
        Ok(Maps { drawn: Some(drawn) })
    }

    pub(super) fn html(&self) -> String {
        let Some(drawn) = &self.drawn else {
            return "<p>No heat maps: <code>--explain</code> names no network.</p>\n".to_owned();
        };
        let mut html = format!(
            "<p>Each crop beside what each place of it adds to the score of the network that <code>--explain</code> names: orange \
             speaks for fake, blue for real, grey for neither. Colours reach as far as the log odds that stand under the picture. A \
             map says what moved this network, not what was changed in the picture; where its strongest places lie beside the \
             face, the network has learnt something else.</p>\n{}",
            scale()
        );
        let headings = ["Decided rightly, drawn by chance", "Decided wrongly, the largest losses"];
        for (maps, heading) in drawn.iter().zip(headings) {
            let _ = writeln!(html, "<h3>{heading}</h3>");
            if maps.is_empty() {
                html += "<p>There is none with a picture at hand.</p>\n";
                continue;
            }
            html += "<ol class=\"mistakes maps\">\n";
            html.extend(maps.iter().map(Map::html));
            html += "</ol>\n";
        }
        html
    }
}

impl Map {
    fn draw(
        p: &Prediction,
        score: f32,
        path: &std::path::Path,
        subject: &mut Subject,
    ) -> anyhow::Result<Self> {
        let (crop, _) = read_crop(path)?;
        let (mapped_score, map) = subject.look(&crop).with_context(|| path.display().to_string())?;
        let crop = fitted(&crop, SIDE_PX, &mut Resampler::default());
        let mut both = RgbImage::new(2 * SIDE_PX, SIDE_PX);
        imageops::replace(&mut both, &crop, 0, 0);
        imageops::replace(&mut both, &overlay(&crop, &map), SIDE_PX.into(), 0);
        let url = data_url(&both, 2 * SIDE_PX)?;
        Ok(Map { prediction: p.clone(), score, mapped_score, reach: reach(&map), url })
    }

    fn html(&self) -> String {
        let p = &self.prediction;
        let label = if p.is_fake() { "fake" } else { "real" };
        let method = if p.method.is_empty() { label } else { &p.method };
        let alt = format!("Face {} of {}, {label}, beside its heat map", p.track, p.video);
        format!(
            "<li><img src=\"{}\" alt=\"{}\"/><strong>{label}, P(fake) {:.3} (here {:.3})</strong>{}, face {}<br/>{}, {}<br/>\
             colours to ±{:.1} log odds</li>\n",
            self.url,
            escape(&alt),
            self.score,
            self.mapped_score,
            escape(&p.video),
            p.track,
            escape(method),
            escape(&p.condition),
            self.reach,
        )
    }
}

/// The colours in a row, from real to fake.
fn scale() -> String {
    let steps = (-5i8..=5).map(|step| {
        let [r, g, b] = color(f32::from(step) / 5.0).0;
        format!("<span style=\"background: rgb({r}, {g}, {b})\"></span>")
    });
    format!("<p class=\"scale\">real {} fake</p>\n", steps.collect::<String>())
}
