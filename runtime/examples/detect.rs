//! Prints the faces of pictures as JSON lines, for comparison with other detectors.
//!
//! `cargo run --release --example detect -- [--min-face-px N] [--networks FOLDER] PICTURE...`

use std::path::PathBuf;
use std::time::Instant;

use candor::detect::{Mtcnn, Settings};
use candor::engine::Engine;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = Settings::default();
    let mut networks: Option<PathBuf> = None;
    let mut pictures = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--min-face-px" => settings.min_face_px = args.next().unwrap_or_default().parse()?,
            "--networks" => networks = args.next().map(PathBuf::from),
            _ => pictures.push(arg),
        }
    }
    let engine = Engine::default();
    let mut detector = match networks {
        None => Mtcnn::new(&engine, settings)?,
        Some(folder) => Mtcnn::with_networks(
            &engine,
            settings,
            &std::fs::read(folder.join("pnet.onnx"))?,
            &std::fs::read(folder.join("rnet.onnx"))?,
            &std::fs::read(folder.join("onet.onnx"))?,
        )?,
    };
    for path in pictures {
        let picture = image::open(&path)?.to_rgb8();
        let start = Instant::now();
        let faces = detector.detect(&picture)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        println!("{}", serde_json::json!({ "file": path, "ms": ms, "faces": faces }));
    }
    Ok(())
}
