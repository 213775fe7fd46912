//! The `ffmpeg` program: reads what candor doesn't, and compresses.

use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use candor::frame::Frame;
use candor::source::{Damage, FrameSource, SourceError, SourceInfo, Y4mSource};
use image::RgbImage;

use super::condition::Condition;

/// Most of ffmpeg's messages that are kept.
const MAX_MESSAGE_BYTES: u64 = 1 << 16;
/// Nanoseconds of a hundredth of a second, ffmpeg's unit of a file's length.
const CENTISECOND_NS: i64 = 10_000_000;

/// What ffmpeg says where this machine is at fault and not the file: another try may do better.
const FAULTS_OF_THE_MACHINE: [&str; 10] = [
    "No such file or directory",
    "Permission denied",
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Cannot allocate memory",
    "Too many open files",
    "Unknown encoder",
    "Unrecognized option",
    "Option not found",
];

/// Why ffmpeg didn't do it, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FfmpegError {
    /// This machine or its ffmpeg is at fault; another try may do better.
    #[error("{0}")]
    Machine(String),
    /// The file is.
    #[error("{0}")]
    Input(String),
}

/// An ffmpeg that runs.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    /// Its first line about itself.
    pub version: String,
}

impl Ffmpeg {
    /// Asks `program` for its version.
    ///
    /// # Errors
    /// Why it doesn't run, in words.
    pub fn new(program: &Path) -> Result<Self, String> {
        let about = Command::new(program).arg("-version").stdin(Stdio::null()).output();
        let about = about.map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&about.stdout);
        match text.lines().next().filter(|line| line.starts_with("ffmpeg")) {
            Some(line) => Ok(Ffmpeg { program: program.to_owned(), version: line.to_owned() }),
            None => Err(format!("{}: expected ffmpeg, found another program", program.display())),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-hide_banner", "-nostdin"]);
        command
    }

    /// Opens the first video stream of a file as Y4M.
    ///
    /// Frames come as they are stored, none doubled or dropped; their times are those of the mean frame rate.
    ///
    /// # Errors
    /// [`FfmpegError`] where nothing can be read.
    pub fn open(&self, path: &Path) -> Result<FfmpegSource, FfmpegError> {
        // Y4M doesn't say how long it is; without it, every short video would be searched as a long one.
        let about = self.command().arg("-i").arg(named(path)).stdin(Stdio::null()).output();
        let about = about.map_err(not_run)?;
        let duration_ns = duration_ns(&String::from_utf8_lossy(&about.stderr));
        let mut child = self
            .command()
            .args(["-v", "error", "-threads", "1", "-i"])
            .arg(named(path))
            .args(["-map", "0:v:0", "-fps_mode", "passthrough", "-strict", "-1", "-f", "yuv4mpegpipe", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(not_run)?;
        let messages = child.stderr.take().map(|stderr| std::thread::spawn(move || read_messages(stderr)));
        let Some(stdout) = child.stdout.take() else {
            return Err(FfmpegError::Machine("ffmpeg has no output".to_owned()));
        };
        let mut pipe = Pipe { child, messages };
        let opened = Y4mSource::new(BufReader::new(stdout), &path.display().to_string(), None);
        let frames =
            opened.map_err(|error| pipe.end().unwrap_or_else(|| FfmpegError::Input(error.to_string())))?;
        let mut info = frames.info().clone();
        info.duration_ns = duration_ns;
        let path = path.display().to_string();
        Ok(FfmpegSource { frames: Some(frames), path, info, damage: Damage::default(), pipe })
    }

    /// Compresses the first video stream of a file into an MP4 at `out`, as `condition` says.
    ///
    /// # Errors
    /// [`FfmpegError`] where it can't.
    pub fn compress_video(&self, path: &Path, condition: Condition, out: &Path) -> Result<(), FfmpegError> {
        let mut command = self.command();
        command.args(["-v", "error", "-i"]).arg(named(path)).args([
            "-map",
            "0:v:0",
            "-fps_mode",
            "passthrough",
        ]);
        self.compress(command, None, condition, out)
    }

    /// Compresses a picture into an MP4 of one frame at `out`, as `condition` says.
    ///
    /// # Errors
    /// [`FfmpegError`] where it can't.
    pub fn compress_picture(
        &self,
        picture: &RgbImage,
        condition: Condition,
        out: &Path,
    ) -> Result<(), FfmpegError> {
        let mut command = Command::new(&self.program);
        let size = format!("{}x{}", picture.width(), picture.height());
        command.args(["-hide_banner", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", &size]);
        command.args(["-i", "-"]);
        self.compress(command, Some(picture), condition, out)
    }

    fn compress(
        &self,
        mut command: Command,
        picture: Option<&RgbImage>,
        condition: Condition,
        out: &Path,
    ) -> Result<(), FfmpegError> {
        // 4:2:0 has no odd sides.
        let even = "crop=trunc(iw/2)*2:trunc(ih/2)*2";
        let filter = match condition.height_px() {
            Some(height_px) => format!("scale=-2:'min({height_px},ih)',{even}"),
            None => even.to_owned(),
        };
        command.args(["-vf", &filter, "-c:v", "libx264", "-preset", "medium", "-crf"]);
        // One thread: x264's bits depend on their number.
        command
            .arg(condition.crf().to_string())
            .args(["-pix_fmt", "yuv420p", "-threads", "1", "-f", "mp4", "-y"]);
        command.arg(named(out)).stdout(Stdio::null()).stderr(Stdio::piped());
        command.stdin(if picture.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn().map_err(not_run)?;
        let messages = child.stderr.take().map(|stderr| std::thread::spawn(move || read_messages(stderr)));
        if let (Some(picture), Some(mut stdin)) = (picture, child.stdin.take()) {
            // Where ffmpeg ends early, its message says more than the broken pipe.
            let _ = stdin.write_all(picture.as_raw());
        }
        Pipe { child, messages }.end().map_or(Ok(()), Err)
    }
}

fn not_run(error: io::Error) -> FfmpegError {
    FfmpegError::Machine(format!("ffmpeg: {error}"))
}

/// Who is at fault where ffmpeg ended with `status` and these messages.
fn failure(status: ExitStatus, messages: &str) -> FfmpegError {
    // A signal: it was killed, or there was no memory for it.
    if status.code().is_none() {
        return FfmpegError::Machine(format!("ffmpeg: {status}"));
    }
    let text = format!("ffmpeg: {}", messages.lines().last().unwrap_or(&status.to_string()));
    let is_machine = FAULTS_OF_THE_MACHINE.iter().any(|fault| messages.contains(fault));
    if is_machine { FfmpegError::Machine(text) } else { FfmpegError::Input(text) }
}

/// A path that ffmpeg can't take for an option or a protocol.
fn named(path: &Path) -> std::ffi::OsString {
    let mut name = std::ffi::OsString::from("file:");
    name.push(path);
    name
}

fn read_messages(mut stderr: impl Read) -> String {
    let mut text = Vec::new();
    let _ = stderr.by_ref().take(MAX_MESSAGE_BYTES).read_to_end(&mut text);
    // The rest must not fill the pipe.
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&text).into_owned()
}

/// The length in "Duration: 00:00:05.04, start: ...".
fn duration_ns(about: &str) -> Option<i64> {
    let (_, rest) = about.split_once("Duration: ")?;
    let (time, _) = rest.split_once(',')?;
    let (time, hundredths) = time.split_once('.')?;
    let mut total: i64 = 0;
    for part in time.split(':') {
        total = total.checked_mul(60)?.checked_add(part.parse().ok()?)?;
    }
    let hundredths: i64 = hundredths.get(..2)?.parse().ok()?;
    total.checked_mul(100)?.checked_add(hundredths)?.checked_mul(CENTISECOND_NS)
}

/// A running ffmpeg, which doesn't outlive this.
struct Pipe {
    child: Child,
    messages: Option<JoinHandle<String>>,
}

impl Pipe {
    /// Waits for its end; what it said where it failed. Whoever calls has closed its output.
    fn end(&mut self) -> Option<FfmpegError> {
        let status = self.child.wait();
        let text = self.messages.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        match status {
            Ok(status) if status.success() => None,
            Ok(status) => Some(failure(status, &text)),
            Err(error) => Some(not_run(error)),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Frames that ffmpeg decodes.
pub struct FfmpegSource {
    /// None at the end: a closed pipe ends an ffmpeg that would go on writing.
    frames: Option<Y4mSource<BufReader<ChildStdout>>>,
    path: String,
    info: SourceInfo,
    damage: Damage,
    pipe: Pipe,
}

impl FrameSource for FfmpegSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(frames) = &mut self.frames else { return Ok(None) };
        if let Some(frame) = frames.next_frame()? {
            return Ok(Some(frame));
        }
        self.damage = frames.damage().clone();
        self.frames = None;
        match self.pipe.end() {
            Some(FfmpegError::Machine(reason)) => {
                let path = self.path.clone();
                Err(SourceError::Io { path, operation: "read by ffmpeg", cause: io::Error::other(reason) })
            }
            Some(FfmpegError::Input(reason)) => {
                self.damage.note(reason);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn damage(&self) -> &Damage {
        &self.damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read() {
        let about =
            |time: &str| duration_ns(&format!("Input #0\n  Duration: {time}, start: 0.0, bitrate: 1"));
        assert_eq!(about("00:00:05.04"), Some(5_040_000_000));
        assert_eq!(about("01:02:03.50"), Some(3_723_500_000_000));
        assert_eq!(about("N/A"), None);
        assert_eq!(duration_ns(""), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_fault_of_the_machine_is_told_from_one_of_the_file() {
        let end = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).stderr(Stdio::piped()).spawn();
            let mut child = child.unwrap();
            let stderr = child.stderr.take().unwrap();
            let messages = Some(std::thread::spawn(move || read_messages(stderr)));
            Pipe { child, messages }.end()
        };
        assert_eq!(end("exit 0"), None);
        for script in [
            "echo 'x.mp4: Invalid data found' >&2; kill -9 $$",
            "echo 'Unknown encoder libx264' >&2; exit 1",
            "echo 'av_write: No space left on device' >&2; echo 'Conversion failed!' >&2; exit 228",
            "echo 'x.mp4: No such file or directory' >&2; exit 254",
        ] {
            assert!(matches!(end(script), Some(FfmpegError::Machine(_))), "{script}");
        }
        let invalid = "x.mp4: Invalid data found when processing input";
        assert_eq!(
            end(&format!("echo '{invalid}' >&2; exit 183")),
            Some(FfmpegError::Input(format!("ffmpeg: {invalid}")))
        );
    }

    #[test]
    fn another_program_is_no_ffmpeg() {
        assert!(Ffmpeg::new(Path::new("/nonexistent/ffmpeg")).unwrap_err().contains("/nonexistent/ffmpeg"));
        assert!(Ffmpeg::new(Path::new("cat")).unwrap_err().contains("expected ffmpeg"));
    }
}
