//! `trainer-bridge preview` and `trainer-bridge augment-bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use candor::detect::{self, Mtcnn};
use candor::engine::Engine;
use candor::preprocess::crop::Cropper;
use candor::stopwatch::thread_cpu_time;
use image::RgbImage;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::pseudo::{Face, Pseudo, self_blended, swapped, unlikeness};
use super::sheet::Sheet;
use super::{Augmenter, Chance, Settings, call};
use crate::landmarks::{Landmarker, Landmarks};
use crate::manifest::{self, Label};

/// Renders a sheet of every augmentation and pseudo-fake, for a person to look at.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    faces: FaceArgs,
    /// The sheet.
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
    /// What is random follows from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Measures augmentations and pseudo-fakes a second, on one thread.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(flatten)]
    faces: FaceArgs,
    /// Seconds for each kind.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

#[derive(Debug, clap::Args)]
struct FaceArgs {
    /// Datasets (folders with a manifest), pictures, or folders of pictures.
    #[arg(required = true, value_name = "DATASET|PICTURES")]
    inputs: Vec<PathBuf>,
    /// Most faces, spread over what there is.
    #[arg(long, default_value_t = 6)]
    faces: usize,
    /// Side of the network's input, px.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(32..=1024))]
    size: u32,
}

/// A real face.
struct Crop {
    picture: RgbImage,
    landmarks: Landmarks,
}

impl Crop {
    fn face(&self) -> Face<'_> {
        Face { picture: &self.picture, landmarks: &self.landmarks }
    }
}

/// The margin of a crop, the classifiers' own.
const MARGIN: f32 = 0.3;

/// Renders the sheet.
///
/// # Errors
/// When there is no face, or a file can't be read or written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let crops = crops(&args.faces)?;
    let mut sheet = Sheet::new(args.faces.size, crops.len());
    let rng = |row: u64, column: u64| {
        ChaCha8Rng::seed_from_u64(args.seed.wrapping_mul(1 << 20).wrapping_add((row << 10) + column))
    };
    sheet.row("as it is", crops.iter().map(|crop| crop.picture.clone()));
    for ((name, settings), row) in kinds().iter().zip(0..) {
        let augmenter = Augmenter::new(settings)?;
        let shown = crops.iter().zip(0..).map(|(crop, column)| {
            augmenter.apply(&crop.picture, Some(&crop.landmarks), args.faces.size, &mut rng(row, column))
        });
        sheet.row(name, shown);
    }
    for again in 0..3 {
        let blended: Vec<_> = crops
            .iter()
            .zip(0..)
            .map(|(crop, k)| self_blended(crop.face(), &mut rng(100 + again, k)))
            .collect();
        pseudo_rows(&mut sheet, "self-blended", &blended);
    }
    for (again, skip) in (0..3).zip(0..) {
        let swaps: Vec<_> = crops
            .iter()
            .zip(0..)
            .filter_map(|(crop, k)| {
                let donor = donor(&crops, crop, skip)?;
                Some(swapped(crop.face(), donor.face(), &mut rng(200 + again, k)))
            })
            .collect();
        pseudo_rows(&mut sheet, "swapped", &swaps);
    }
    sheet.save(&args.out).with_context(|| format!("writing {}", args.out.display()))
}

fn pseudo_rows(sheet: &mut Sheet, name: &str, fakes: &[Pseudo]) {
    if fakes.is_empty() {
        return;
    }
    sheet.row(&format!("{name}: real"), fakes.iter().map(|pseudo| pseudo.real.clone()));
    let grey = |pseudo: &Pseudo| {
        let mut picture = RgbImage::new(pseudo.real.width(), pseudo.real.height());
        for (pixel, value) in picture.pixels_mut().zip(&pseudo.mask.values) {
            pixel.0 = [super::to_byte(value * 255.0); 3];
        }
        picture
    };
    sheet.row(&format!("{name}: mask"), fakes.iter().map(grey));
    sheet.row(&format!("{name}: fake"), fakes.iter().map(|pseudo| pseudo.fake.clone()));
}

/// The face that fits `crop` best but for `skip` others.
fn donor<'a>(crops: &'a [Crop], crop: &Crop, skip: usize) -> Option<&'a Crop> {
    let mut others: Vec<&Crop> = crops.iter().filter(|other| !std::ptr::eq(*other, crop)).collect();
    let key = |other: &&Crop| unlikeness(&crop.landmarks, &other.landmarks);
    others.sort_by(|a, b| key(a).total_cmp(&key(b)));
    others.get(skip).or(others.last()).copied()
}

/// Every augmentation alone and always, then together.
fn kinds() -> Vec<(&'static str, Settings)> {
    let paper = Settings::paper();
    let always = |chance: &Chance| Chance { p: 1.0, ..*chance };
    let only = |set: &dyn Fn(&mut Settings)| {
        let mut settings = Settings::none();
        set(&mut settings);
        settings
    };
    vec![
        ("crop and scale", only(&|s| (s.crop, s.scale) = (paper.crop, paper.scale))),
        ("flip", only(&|s| s.flip_p = 1.0)),
        ("rotate", only(&|s| s.rotate_degrees = always(&paper.rotate_degrees))),
        ("brightness", only(&|s| s.brightness = always(&paper.brightness))),
        ("contrast", only(&|s| s.contrast = always(&paper.contrast))),
        ("blur", only(&|s| s.blur_px = always(&paper.blur_px))),
        ("JPEG", only(&|s| s.jpeg_quality = always(&paper.jpeg_quality))),
        ("mask", only(&|s| s.mask_radius_px = always(&paper.mask_radius_px))),
        ("the paper's", paper.clone()),
        ("call: rescale", only(&|s| s.call.rescale = always(&s.call.rescale))),
        ("call: H.264", only(&|s| s.call.crf = always(&s.call.crf))),
        ("call", Settings::call()),
    ]
}

/// Prints the table.
///
/// # Errors
/// When there is no face or a file can't be read.
pub fn run_bench(args: &BenchArgs) -> anyhow::Result<()> {
    let crops = crops(&args.faces)?;
    let size_px = args.faces.size;
    println!("pictures per second of processor time, {} crops, {size_px} px", crops.len());
    let time = |name: &str, run: &mut dyn FnMut(&Crop, &mut ChaCha8Rng)| {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (mut n_pictures, start) = (0_u32, thread_cpu_time());
        let spent = || thread_cpu_time().saturating_sub(start);
        let limit = Duration::from_secs_f64(args.seconds.clamp(0.01, 3600.0));
        while spent() < limit || n_pictures < 3 {
            let crop_idx = n_pictures as usize % crops.len();
            run(&crops[crop_idx], &mut rng);
            n_pictures += 1;
        }
        println!("{name:24} {:8.0}", f64::from(n_pictures) / spent().as_secs_f64());
    };
    for (name, settings) in kinds() {
        let augmenter = Augmenter::new(&settings)?;
        time(name, &mut |crop, rng| {
            augmenter.apply(&crop.picture, Some(&crop.landmarks), size_px, rng);
        });
    }
    for n_frames in [1, 4] {
        let video = call::Video { qp: 30, n_frames, motion_px: [0.7, 0.4], is_bt709: true };
        time(&format!("H.264, {n_frames} frames: encode"), &mut |crop, _| {
            call::encode(&crop.picture, video);
        });
        time(&format!("H.264, {n_frames} frames: both"), &mut |crop, _| {
            call::sent(&crop.picture, video);
        });
    }
    time("self-blended", &mut |crop, rng| {
        self_blended(crop.face(), rng);
    });
    if let Some(other) = crops.get(1) {
        time("swapped", &mut |crop, rng| {
            swapped(crop.face(), other.face(), rng);
        });
    }
    let mut landmarker = Landmarker::new(&Engine::default())?;
    let mut failed = None;
    time("landmarks", &mut |crop, _| failed = landmarker.find(&crop.picture).err());
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// Faces of the inputs, at the size asked for.
fn crops(args: &FaceArgs) -> anyhow::Result<Vec<Crop>> {
    let engine = Engine::default();
    let mut pictures: Vec<(PathBuf, bool)> = Vec::new();
    for input in &args.inputs {
        if input.join(manifest::FILE).exists() {
            let rows = manifest::read(input)?;
            let reals = rows.iter().filter(|row| row.label == Label::Real);
            pictures.extend(reals.map(|row| (input.join(&row.crop), true)));
        } else if input.is_dir() {
            pictures.extend(pictures_of(input)?.into_iter().map(|path| (path, false)));
        } else {
            pictures.push((input.clone(), false));
        }
    }
    let mut landmarker = Landmarker::new(&engine)?;
    let mut detector = None;
    let step = (pictures.len() / args.faces.max(1)).max(1);
    let mut crops = Vec::new();
    for (path, is_crop) in pictures.iter().step_by(step) {
        let picture = image::open(path).with_context(|| format!("reading {}", path.display()))?.into_rgb8();
        let mut boxes = vec![candor::geom::Rect {
            x: 0.0,
            y: 0.0,
            w: picture.width() as f32,
            h: picture.height() as f32,
        }];
        let mut margin = 0.0;
        if !is_crop {
            if detector.is_none() {
                detector = Some(Mtcnn::new(&engine, detect::Settings::default())?);
            }
            let found = detector.as_mut().map(|detector| detector.detect(&picture)).transpose()?;
            boxes = found.unwrap_or_default().iter().map(|detection| detection.bbox).collect();
            margin = MARGIN;
        }
        for bbox in boxes {
            if crops.len() < args.faces {
                let picture = Cropper::default().crop(&picture, &bbox, margin, args.size);
                let landmarks = landmarker.find(&picture)?;
                crops.push(Crop { picture, landmarks });
            }
        }
    }
    if crops.is_empty() {
        bail!("no face in {} pictures", pictures.len());
    }
    Ok(crops)
}

/// The PNG and JPEG files of a folder, by name.
fn pictures_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    let is_picture = |path: &PathBuf| {
        let name = path.extension().map(|e| e.to_ascii_lowercase());
        name.is_some_and(|e| e == "png" || e == "jpg" || e == "jpeg")
    };
    paths.retain(is_picture);
    paths.sort();
    Ok(paths)
}
