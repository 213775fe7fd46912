//! Annotates raw RGB frames from stdin with two moving marks, and says what each frame costs.
//!
//! `ffmpeg -i CLIP -f rawvideo -pix_fmt rgb24 - | cargo run --release --example annotate -- 640 360 25 OUT.mp4`
//! A fifth argument `killed` leaves the video as a kill would: unfinished.

use std::error::Error;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candor::geom::Rect;
use candor::report::annotate::AnnotatedVideo;
use candor::report::draw::{FaceMark, Tone};
use image::RgbImage;

const SCORES: [f32; 15] = [0.9, 0.8, 0.95, 0.7, 0.6, 0.92, 0.88, 0.97, 0.4, 0.75, 0.9, 0.85, 0.93, 0.99, 0.8];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [width, height, rate_hz, path, ending @ ..] = &args[..] else {
        return Err("expected WIDTH HEIGHT RATE_HZ OUT.mp4 [killed]".into());
    };
    let (width, height, rate_hz): (u32, u32, i64) = (width.parse()?, height.parse()?, rate_hz.parse()?);
    let path = PathBuf::from(path);
    let banner = Some("untrained model: verdicts mean nothing");
    let mut video = AnnotatedVideo::create(&path, width, height, banner)?;
    let mut picture = RgbImage::new(width, height);
    let (mut n_frames, mut total, mut longest) = (0u32, Duration::ZERO, Duration::ZERO);
    loop {
        match io::stdin().read_exact(&mut picture) {
            Ok(()) => {}
            Err(end) if end.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
        let marks = marks(width, n_frames);
        let start = Instant::now();
        video.push(&picture, &marks, i64::from(n_frames) * 1_000_000_000 / rate_hz)?;
        let spent = start.elapsed();
        total += spent;
        longest = longest.max(spent);
        n_frames += 1;
    }
    if ending.first().is_some_and(|e| e == "killed") {
        std::mem::forget(video);
        return Ok(());
    }
    let n_written = video.finish()?;
    let size_bytes = std::fs::metadata(&path)?.len();
    let per_frame_ms = total.as_secs_f64() * 1e3 / f64::from(n_frames.max(1));
    let longest_ms = longest.as_secs_f64() * 1e3;
    println!(
        "{n_written} frames, {size_bytes} bytes, {per_frame_ms:.1} ms a frame, longest {longest_ms:.1} ms"
    );
    Ok(())
}

/// A face that moves right by a pixel every other frame and one that stays.
#[expect(clippy::cast_precision_loss, reason = "small")]
fn marks(width: u32, frame_idx: u32) -> [FaceMark<'static>; 2] {
    let unit = width as f32 / 100.0;
    let n_scores = (frame_idx as usize / 8).min(SCORES.len());
    let scores = &SCORES[..n_scores];
    let mean_score = (n_scores > 0).then(|| scores.iter().sum::<f32>() / n_scores as f32);
    let x = 10.0 * unit + (frame_idx / 2) as f32;
    let moving = Rect { x, y: 12.0 * unit, w: 20.0 * unit, h: 24.0 * unit };
    let still = Rect { x: 70.0 * unit, y: 10.0 * unit, w: 15.0 * unit, h: 18.0 * unit };
    [
        FaceMark { bbox: moving, track_id: 1, word: "Fake", tone: Tone::Fake, mean_score, scores },
        FaceMark {
            bbox: still,
            track_id: 2,
            word: "Real",
            tone: Tone::Real,
            mean_score: Some(0.06),
            scores: &[],
        },
    ]
}
