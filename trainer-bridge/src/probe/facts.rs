//! Facts for probes: of a crop's file and record, and of any picture's pixels.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context as _, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage, imageops};

use super::{Family, Item};
use crate::evaluate::facts::{Facts, brightness, read_crop, sharpness};
use crate::ingest::jpeg::{N_STEPS, Tables};
use crate::ingest::record::Record;
use crate::manifest::{Label, Row};

/// A picture is cut into so many cells a side; the outermost ring lies outside of a face's box with the usual margin.
const N_CELLS: u32 = 9;
const N_RING: usize = 4 * (N_CELLS as usize - 1);
/// Quality of the JPEG whose length is a fact: compression's own traces make it shorter.
const JPEG_QUALITY: u8 = 90;

const SHARPNESS: Family = Family { name: "sharpness", n_facts: 1 };
const BRIGHTNESS: Family = Family { name: "brightness", n_facts: 1 };
const BACKGROUND: Family = Family { name: "background alone", n_facts: 2 * N_RING };

/// What [`of_crop`] gives.
pub const OF_CROPS: [Family; 7] = [
    Family { name: "PNG size", n_facts: 1 },
    Family { name: "face box", n_facts: 6 },
    Family { name: "video file", n_facts: 8 },
    Family { name: "JPEG tables", n_facts: 2 * N_STEPS },
    SHARPNESS,
    BRIGHTNESS,
    BACKGROUND,
];

/// What [`of_picture`] gives.
pub const OF_PICTURES: [Family; 4] =
    [Family { name: "PNG and JPEG size", n_facts: 2 }, SHARPNESS, BRIGHTNESS, BACKGROUND];

/// Facts of the crops of one dataset; keeps the record of the video that it read last.
#[derive(Debug, Default)]
pub struct Reader {
    records: HashMap<String, Record>,
}

impl Reader {
    /// The facts of a crop, by its file, its row, and what ingest recorded of its video: [`OF_CROPS`]. Lengths and
    /// variances as logarithms.
    ///
    /// # Errors
    /// When the crop or the record can't be read.
    pub fn of_crop(&mut self, folder: &Path, row: &Row) -> anyhow::Result<Vec<f32>> {
        let (picture, Facts { sharpness, brightness, png_bytes }) = read_crop(&folder.join(&row.crop))?;
        let record = self.record(folder, row)?;
        let [width, height] = record.size_px.map(|side| side as f32);
        let is_still = record.n_frames <= 1;
        let mut facts = vec![(png_bytes as f32).ln()];
        facts.extend([row.x, row.y, row.w, row.h, row.w / row.h.max(1.0), row.confidence]);
        facts.extend([width, height, width / height.max(1.0), (record.n_frames as f32 + 1.0).ln()]);
        facts.extend([record.n_frames_lost as f32, f32::from(u8::from(record.through_ffmpeg))]);
        facts.extend([f32::from(u8::from(is_still)), (row.frame as f32 + 1.0).ln()]);
        facts.extend(tables(record.jpeg_tables.as_ref()));
        facts.extend([sharpness.ln_1p(), brightness]);
        facts.extend(ring(&picture));
        Ok(facts)
    }

    /// The record of a crop's video: `records/VIDEO/CONDITION.json` for `crops/VIDEO/CONDITION/FILE`.
    fn record(&mut self, folder: &Path, row: &Row) -> anyhow::Result<&Record> {
        let place = Path::new(&row.crop).parent().and_then(|place| place.strip_prefix("crops").ok());
        let place = place.with_context(|| format!("{}: expected crops/VIDEO/CONDITION/FILE", row.crop))?;
        let name = format!("{}.json", folder.join("records").join(place).display());
        if !self.records.contains_key(&name) {
            let json = std::fs::read(&name).with_context(|| format!("{name}: reading"))?;
            let record: Record =
                serde_json::from_slice(&json).with_context(|| format!("{name}: expected a record"))?;
            ensure!(
                record.n_frames != 1 || record.jpeg_tables.is_some(),
                "{name}: expected the JPEG tables of a still, found none: ingest the dataset anew"
            );
            self.records.clear();
            self.records.insert(name.clone(), record);
        }
        self.records.get(&name).context("a record that was just read")
    }
}

/// A crop as an item of `dataset`.
///
/// # Errors
/// As [`Reader::of_crop`].
pub fn item(reader: &mut Reader, (dataset, folder): (usize, &Path), row: &Row) -> anyhow::Result<Item> {
    Ok(Item {
        is_fake: row.label == Label::Fake,
        group: format!("{dataset} {}", row.group),
        facts: reader.of_crop(folder, row)?,
    })
}

/// The facts of a picture as training sees it: [`OF_PICTURES`].
///
/// # Errors
/// When it can't be encoded.
pub fn of_picture(picture: &RgbImage) -> image::ImageResult<Vec<f32>> {
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png)?;
    let mut jpeg = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY).encode_image(picture)?;
    let mut facts = [png, jpeg].map(|file| (file.into_inner().len() as f32).ln()).to_vec();
    facts.extend([sharpness(picture).ln_1p(), brightness(picture)]);
    facts.extend(ring(picture));
    Ok(facts)
}

/// The steps of luma's and chroma's table, as logarithms of one more, so that none is 0 but of a table that is missing.
fn tables(found: Option<&Tables>) -> impl Iterator<Item = f32> {
    (0..2 * N_STEPS).map(move |at| {
        let step = found.and_then(|tables| tables[at / N_STEPS].get(at % N_STEPS));
        step.map_or(0.0, |&step| f32::from(step).ln_1p())
    })
}

/// Brightness and sharpness of each cell of the outermost ring.
fn ring(picture: &RgbImage) -> Vec<f32> {
    let (width, height) = picture.dimensions();
    let mut facts = Vec::with_capacity(2 * N_RING);
    for y in 0..N_CELLS {
        for x in 0..N_CELLS {
            if x % (N_CELLS - 1) != 0 && y % (N_CELLS - 1) != 0 {
                continue;
            }
            let (left, right) = (x * width / N_CELLS, (x + 1) * width / N_CELLS);
            let (top, bottom) = (y * height / N_CELLS, (y + 1) * height / N_CELLS);
            let cell = imageops::crop_imm(picture, left, top, right - left, bottom - top).to_image();
            facts.extend([brightness(&cell), sharpness(&cell).ln_1p()]);
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn the_ring_sees_the_border_and_nothing_else() {
        let mut picture = RgbImage::from_pixel(90, 90, Rgb([40; 3]));
        let before = ring(&picture);
        assert_eq!(before.len(), BACKGROUND.n_facts);
        // All but a border of 10 px is noise.
        for y in 10..80 {
            for x in 10..80 {
                picture.put_pixel(x, y, Rgb([u8::try_from(x * y * 37 % 251).unwrap(); 3]));
            }
        }
        assert_eq!(ring(&picture), before);
        picture.put_pixel(4, 4, Rgb([255; 3]));
        let after = ring(&picture);
        assert!(after[0] > before[0] && after[1] > before[1] && after[2..] == before[2..]);
    }

    #[test]
    fn pictures_have_as_many_facts_as_their_families() {
        let facts = of_picture(&RgbImage::new(64, 64)).unwrap();
        assert_eq!(facts.len(), OF_PICTURES.iter().map(|family| family.n_facts).sum::<usize>());
        assert!(facts.iter().all(|fact| fact.is_finite()));
    }
}
