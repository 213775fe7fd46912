//! `candor explain`: where a face looks fake.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use candor::bundle::Status;
use candor::classify::{Classifier, Explainer, HeatMap};
use candor::engine::{Engine, EngineError};
use candor::frame::Frame;
use candor::geom::Rect;
use candor::pipeline::{Face, Observer, ScanError, Scanner, Sighting};
use candor::preprocess::color::to_rgb;
use candor::report::{heat, table};
use candor::resample::Resampler;
use candor::source::{self, SourceError};

use crate::chosen;
use crate::cli::Explain;
use crate::scan::{exit, stop_flag};

/// What went wrong with one input.
struct Failure(u8, String);

/// Runs the command.
pub(crate) fn run(args: &Explain) -> ExitCode {
    let mut looker = match Looker::new(args) {
        Ok(looker) => looker,
        Err(message) => {
            eprintln!("candor: {message}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let stop = stop_flag();
    let mut worst = 0;
    for input in &args.inputs {
        let looked = if args.crop { looker.crop(input) } else { looker.faces(input, &stop) };
        if let Err(Failure(code, message)) = looked {
            eprintln!("candor: {}: {message}", input.display());
            worst = worst.max(code);
        }
        if stop.load(Ordering::Relaxed) {
            return ExitCode::from(exit::INTERRUPTED);
        }
    }
    ExitCode::from(worst)
}

/// The networks, and where maps go.
struct Looker<'a> {
    out: &'a Path,
    scanner: Scanner,
    classifier: Classifier,
    explainer: Explainer,
    size_px: u32,
}

impl<'a> Looker<'a> {
    fn new(args: &'a Explain) -> Result<Self, String> {
        let config = args.settings().map_err(|error| error.to_string())?;
        let engine = Engine::new(&config.engine).map_err(|error| error.to_string())?;
        let chosen = chosen::bundle_to_look_at(args.networks.bundle.as_deref(), &config.slots)?;
        for note in chosen.notes {
            eprintln!("candor: {note}");
        }
        let (bundle, manifest) = (&chosen.bundle, chosen.bundle.manifest());
        if manifest.status == Status::Untrained {
            eprintln!("candor: {}", table::UNTRAINED);
        }
        let load = || -> Result<Self, EngineError> {
            Ok(Looker {
                out: &args.out,
                scanner: Scanner::new(&engine, config.detect, config.scan, bundle)?,
                classifier: Classifier::new(&engine, manifest, bundle.model())?,
                explainer: Explainer::of(&engine, bundle)?,
                size_px: manifest.input.size_px,
            })
        };
        load().map_err(|error| error.to_string())
    }

    /// Looks at a picture that is a face crop.
    fn crop(&mut self, input: &Path) -> Result<(), Failure> {
        let not_read = |error: SourceError| Failure(exit::NOT_SCANNED, error.to_string());
        let frame = source::open(input).and_then(|mut source| source.next_frame()).map_err(not_read)?;
        let Some(frame) = frame else {
            return Err(Failure(exit::NOT_SCANNED, "expected a picture, found none".into()));
        };
        let picture = to_rgb(&frame).map_err(|error| Failure(exit::NOT_SCANNED, error.to_string()))?;
        #[expect(clippy::cast_precision_loss, reason = "sides of pictures")]
        let whole = Rect { x: 0.0, y: 0.0, w: picture.width() as f32, h: picture.height() as f32 };
        let crop = Resampler::default().area(&picture, &whole, self.size_px);
        let failed = |error: EngineError| Failure(exit::NOT_SCANNED, error.to_string());
        let score = self.classifier.score(&crop).map_err(failed)?;
        let map = self.explainer.heat_map(&crop).map_err(failed)?;
        let file = input.display().to_string();
        let written = heat::write_crop(self.out, &file, score, &crop, &map)
            .map_err(|error| Failure(exit::NOT_WRITTEN, format!("{}: {error}", self.out.display())))?;
        print_line(&file, &format!("score {score:.3}"), &map, &written);
        Ok(())
    }

    /// Looks at the faces of a video or a picture.
    fn faces(&mut self, input: &Path, stop: &AtomicBool) -> Result<(), Failure> {
        let mut source =
            source::open(input).map_err(|error| Failure(exit::NOT_SCANNED, error.to_string()))?;
        let file = input.display().to_string();
        let mut faces = Faces { out: self.out, file: &file, explainer: &mut self.explainer, n_faces: 0 };
        let scanned = self.scanner.scan(source.as_mut(), &mut faces, stop);
        let n_faces = faces.n_faces;
        match scanned {
            Ok(_) if n_faces == 0 => {
                println!("{file}: no face that was scored");
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(ScanError::Observer(message)) => Err(Failure(exit::NOT_WRITTEN, message)),
            Err(error) => Err(Failure(exit::NOT_SCANNED, error.to_string())),
        }
    }
}

/// Looks at each face as it ends.
struct Faces<'a> {
    out: &'a Path,
    file: &'a str,
    explainer: &'a mut Explainer,
    n_faces: usize,
}

impl Observer for Faces<'_> {
    fn frame(&mut self, _: &Frame, _: Option<&[Sighting]>) -> Result<(), ScanError> {
        Ok(())
    }

    fn face(&mut self, face: &Face) -> Result<(), ScanError> {
        let Some(sample) = heat::typical(&face.samples) else { return Ok(()) };
        let map = self.explainer.heat_map(&sample.crop)?;
        let failed = |error: io::Error| ScanError::Observer(format!("{}: {error}", self.out.display()));
        let written = heat::write(self.out, self.file, face, sample, &map).map_err(failed)?;
        self.n_faces += 1;
        let what = format!("face {} {}", face.track_id, face.judgement.verdict.word());
        print_line(self.file, &what, &map, &written);
        Ok(())
    }
}

fn print_line(file: &str, what: &str, map: &HeatMap, written: &Path) {
    let (most, [x, y]) = map.peak();
    println!(
        "{file}: {what}; most at {:.0} %, {:.0} % of the crop: {most:+.2} log odds; {}",
        x * 100.0,
        y * 100.0,
        written.display()
    );
}
