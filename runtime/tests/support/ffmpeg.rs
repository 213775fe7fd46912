//! The ffmpeg that tests compare with: `CANDOR_FFMPEG`, or imageio-ffmpeg's in `.cache/venv`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where ffmpeg is. Without one the caller skips, unless `CANDOR_REQUIRE_FIXTURES` is 1.
pub(crate) fn find() -> Option<PathBuf> {
    let found = std::env::var_os("CANDOR_FFMPEG").map(PathBuf::from).or_else(in_venv);
    if found.is_none() {
        let is_required = std::env::var("CANDOR_REQUIRE_FIXTURES").is_ok_and(|v| v == "1");
        assert!(!is_required, "no ffmpeg: set CANDOR_FFMPEG or install imageio-ffmpeg into .cache/venv");
        println!("skipped: no ffmpeg (CANDOR_FFMPEG or .cache/venv)");
    }
    found
}

fn in_venv() -> Option<PathBuf> {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join(".cache/venv/lib");
    let entries =
        |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries(lib)
        .flat_map(|python| entries(python.join("site-packages/imageio_ffmpeg/binaries")))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ffmpeg-")))
}

/// Runs ffmpeg and gives what it wrote to its standard output; fails the test when ffmpeg fails.
pub(crate) fn run<I: AsRef<OsStr>>(ffmpeg: &Path, args: impl IntoIterator<Item = I>) -> Vec<u8> {
    let mut command = Command::new(ffmpeg);
    command.args(["-v", "error", "-y"]).args(args).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}
