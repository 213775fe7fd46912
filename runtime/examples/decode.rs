//! Decodes videos and says what it cost: `cargo run --release --example decode -- FILE...`; `-v` lists the frames.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use candor::source::mp4::Mp4Source;
use candor::source::{FrameSource, SourceError};

fn main() -> ExitCode {
    let mut is_verbose = false;
    let mut status = ExitCode::SUCCESS;
    for arg in std::env::args().skip(1) {
        if arg == "-v" {
            is_verbose = true;
        } else if let Err(error) = decode(Path::new(&arg), is_verbose) {
            eprintln!("{error}");
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn decode(path: &Path, is_verbose: bool) -> Result<(), SourceError> {
    let (wall, cpu_before_ms) = (Instant::now(), cpu_ms());
    let mut source = Mp4Source::open(path)?;
    let mut n_frames = 0u32;
    while let Some(frame) = source.next_frame()? {
        if is_verbose {
            println!("{} {} ns, {}x{}", frame.frame_idx, frame.pts_ns, frame.width_px, frame.height_px);
        }
        n_frames += 1;
    }
    let info = source.info();
    println!("{}: {}, {}x{}", path.display(), info.description, info.width_px, info.height_px);
    println!("{n_frames} frames in {:.2} s", wall.elapsed().as_secs_f64());
    if let (Some(before), Some(after)) = (cpu_before_ms, cpu_ms()) {
        println!("{:.2} ms of CPU time a frame", (after - before) / f64::from(n_frames.max(1)));
    }
    if let Some(peak) = peak_rss_kib() {
        println!("{:.1} MB at most in memory", peak * 1024.0 / 1e6);
    }
    if !source.damage().is_none() {
        println!("{:?}", source.damage());
    }
    Ok(())
}

/// CPU time of this process so far; `None` where the system has no /proc.
fn cpu_ms() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/schedstat").ok()?;
    let ns: f64 = stat.split(' ').next()?.parse().ok()?;
    Some(ns / 1e6)
}

fn peak_rss_kib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
