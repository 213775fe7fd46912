//! For tests/reference/measure_crf.py: bytes and PSNR of the last frame of a clip of each picture, for each quantizer.
//!
//!     cargo run -p trainer-bridge --example h264_loss FRAMES MOTION_X MOTION_Y PICTURE...

#![allow(clippy::unwrap_used, reason = "a measurement, not a part of the program")]

use trainer_bridge::augment::call::{Video, encode, sent};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let n_frames = arguments[0].parse().unwrap();
    let motion_px = [arguments[1].parse().unwrap(), arguments[2].parse().unwrap()];
    for path in &arguments[3..] {
        let picture = image::open(path).unwrap().into_rgb8();
        for qp in 20..=51 {
            let video = Video { qp, n_frames, motion_px, is_bt709: true };
            let n_bytes = encode(&picture, video).unwrap().len();
            let decoded = sent(&picture, video).unwrap();
            let squares = picture.as_raw().iter().zip(decoded.as_raw());
            let error: f64 = squares.map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
            let psnr = 10.0 * (255.0 * 255.0 * picture.as_raw().len() as f64 / error).log10();
            println!("{path}\t{qp}\t{n_bytes}\t{psnr:.3}");
        }
    }
}
