//! The command line: what can be asked for, and the checked form of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use candor::bundle::PublicKey;
use candor::camera::Encoding;
use candor::config::{Config, ConfigError};
use candor::engine::KernelSet;
use candor::outlet::settings::Alarm;
use candor::source::FrameRate;

use crate::models;
use crate::verify_log;

/// Says for every face in a video whether it looks synthetic.
///
/// Candor finds and follows each face, scores up to 15 looks at it, spread evenly over its time, and
/// gives one verdict per face: Real, Fake, Uncertain or FaceTooSmall. A file without a face is NoFace.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say more on standard error; twice: everything.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Judge the faces of video files and pictures.
    Scan(Scan),
    /// Show where a face looks fake.
    Explain(Explain),
    /// Watch a camera and judge the faces in front of it, for as long as it takes.
    Watch(Watch),
    /// Check an evidence log: its chain, its signatures, its crops and their scores.
    VerifyLog(verify_log::VerifyLog),
    /// Look into the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Time networks on this machine.
    Bench(Bench),
    /// Look into a signed bundle.
    #[command(subcommand)]
    Bundle(models::Bundle),
    /// Install models, and keep or give up what is installed.
    Slot(models::Slot),
    /// Write manual pages and shell completions, for packages.
    #[cfg(feature = "manual")]
    #[command(hide = true)]
    Manual {
        /// An existing folder.
        folder: PathBuf,
    },
}

const EXAMPLES: &str = "\
Examples:
  candor scan call.mp4                        a table with a verdict per face
  candor scan --json videos/ > verdicts.jsonl every file below a folder, one JSON object per line
  candor scan call.mp4 --annotate out.mp4     the video with boxes, ids and running scores
  candor scan call.mp4 --faces faces/         the crops that were scored, with their scores
  candor scan frames/ --sequence 25           a folder of pictures as one video of 25 frames a second
  ffmpeg -v error -i any.mkv -f yuv4mpegpipe -pix_fmt yuv420p - | candor scan -

Reads MP4 and MOV (H.264), AVI (MJPEG), Y4M, JPEG and PNG; anything else through ffmpeg as above.

Exit codes:
  0  every file was scanned, whatever the verdicts
  1  a verdict that --fail-on names was given
  2  the command line, the configuration or the bundle is wrong; nothing was scanned
  3  a file could not be scanned; the others were
  4  a result could not be written
  130  stopped by Ctrl-C; what was printed is complete
The highest that applies counts, except that 130 comes before all others.";

/// Arguments of `candor scan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Scan {
    /// Files, folders (every file below them that can be read) or - for Y4M on standard input.
    #[arg(required = true)]
    pub(crate) inputs: Vec<PathBuf>,
    /// Print JSON Lines instead of tables (described in runtime/JSON.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the video with boxes, ids and running scores drawn on it; for a single file.
    #[arg(long, value_name = "OUT.mp4")]
    pub(crate) annotate: Option<PathBuf>,
    /// Write the scored crops of each face below this folder, and a strip of them as its thumbnail.
    #[arg(long, value_name = "DIR")]
    pub(crate) faces: Option<PathBuf>,
    /// With --faces: beside each face's strip also where its look with the median score looks fake.
    #[arg(long, requires = "faces")]
    pub(crate) heat_maps: bool,
    /// Read each folder of pictures as one video of this many frames a second (25, 29.97, 30000/1001).
    #[arg(long, value_name = "FPS")]
    pub(crate) sequence: Option<FrameRate>,
    /// Files scanned at the same time.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) jobs: u8,
    /// Which classifier, and what runs it.
    #[command(flatten)]
    pub(crate) networks: Networks,
    /// Smallest face that is looked for, in pixels [default: 40].
    #[arg(long, value_name = "PX")]
    pub(crate) min_face_px: Option<f32>,
    /// Size of each step of the search pyramid, 0.5 to 0.9 [default: 0.709].
    #[arg(long, value_name = "FACTOR")]
    pub(crate) pyramid_factor: Option<f32>,
    /// Confidence thresholds of the three networks of the detector [default: 0.6,0.7,0.7].
    #[arg(long, value_name = "P,R,O", value_delimiter = ',', num_args = 3)]
    pub(crate) thresholds: Option<Vec<f32>>,
    /// Keep faces that the detector is surer of than this [default: 0.9].
    #[arg(long, value_name = "P")]
    pub(crate) keep_above: Option<f32>,
    /// Longest time between two searches for faces, in milliseconds [default: 200].
    #[arg(long, value_name = "MS")]
    pub(crate) interval_ms: Option<u32>,
    /// Exit with code 1 when a file has this verdict (uncertain: this or fake).
    #[arg(long, value_name = "VERDICT")]
    pub(crate) fail_on: Option<Alarm>,
    /// Print CPU time of the scanning threads per stage, and peak memory, on standard error at the end.
    #[arg(long)]
    pub(crate) stats: bool,
    /// No progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  candor explain call.mp4 --out maps/         for each face its look with the median score, beside the map
  candor explain --crop face.png --out maps/  of a picture that is a face crop already

Writes NAME/face-ID-heat.png and .json (--crop: NAME/heat.png and .json) below --out, and prints a line for each.
Orange speaks for fake, blue for real; the scale is in log odds. A map says what moved this network's score, not
what was changed in a picture: it is coarse, and where a face is taken for real it has nothing to point at.

Exit codes as those of candor scan.";

/// Arguments of `candor explain`.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct Explain {
    /// Videos and pictures.
    #[arg(required = true)]
    pub(crate) inputs: Vec<PathBuf>,
    /// Where pictures and JSON go; made if it is missing.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) out: PathBuf,
    /// The inputs are pictures of face crops, brought to the network's input size as they are.
    #[arg(long)]
    pub(crate) crop: bool,
    /// Which classifier, and what runs it.
    #[command(flatten)]
    pub(crate) networks: Networks,
}

impl Explain {
    /// The configuration file's settings, or the defaults, with the options put over them.
    ///
    /// # Errors
    /// As [`Scan::settings`].
    pub(crate) fn settings(&self) -> Result<Config, SettingsError> {
        let config = self.networks.settings()?;
        config.check()?;
        Ok(config)
    }
}

/// Which classifier a command runs, and how.
#[derive(Debug, Args)]
pub(crate) struct Networks {
    /// Another classifier than the slots' or the built-in one: a signed bundle, or an unsigned folder of one.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) bundle: Option<PathBuf>,
    /// Where models are kept and whom they may come from.
    #[command(flatten)]
    pub(crate) device: Device,
    /// Threads that networks run on; 0 for as many as there are cores [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u8>,
    /// Kernels that networks run with, which change the speed and nothing else [default: auto].
    #[arg(long, value_name = "NAME")]
    pub(crate) kernels: Option<KernelSet>,
}

impl Networks {
    /// The configuration file's settings, or the defaults, with the options put over them; unchecked.
    ///
    /// # Errors
    /// As [`Device::settings`].
    pub(crate) fn settings(&self) -> Result<Config, SettingsError> {
        let mut config = self.device.settings()?;
        if let Some(n) = self.threads {
            config.engine.threads = n;
        }
        if let Some(set) = self.kernels {
            config.engine.kernels = set;
        }
        Ok(config)
    }
}

/// What a command must know of the device.
#[derive(Debug, Args)]
pub(crate) struct Device {
    /// A configuration file, TOML; options given here win over it.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The folder of the slots.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) slots: Option<PathBuf>,
    /// A public key whose key lists are trusted, 64 hexadecimal digits; may be given several times.
    #[arg(long, global = true, value_name = "HEX")]
    pub(crate) root_key: Vec<PublicKey>,
}

impl Device {
    /// The configuration file's settings, or the defaults, with the options put over them; unchecked.
    ///
    /// # Errors
    /// [`SettingsError`] when the file can't be read or is wrong.
    pub(crate) fn settings(&self) -> Result<Config, SettingsError> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => read(path)?,
        };
        if let Some(folder) = &self.slots {
            config.slots.folder = Some(folder.clone());
        }
        if !self.root_key.is_empty() {
            config.slots.root_keys.clone_from(&self.root_key);
        }
        Ok(config)
    }
}

const WATCH_EXAMPLES: &str = "\
Examples:
  candor watch                                the first camera, JSON Lines on standard output
  candor watch /dev/video2 --size 1920x1080 --log watch.jsonl
  candor watch --list                         the cameras of this machine
  rpicam-vid -n -t 0 --width 1280 --height 720 --codec yuv420 -o - | candor watch --raw i420:1280x720
  candor watch --play call.mp4                a clip in the place of a camera, at its own pace
  candor watch --dashboard                    and a page that shows it, http://127.0.0.1:8710/

Every line is described in runtime/JSON.md. SIGHUP reads --config again, as a whole or not at all.

Exit codes:
  0  the clip or the pipe has ended, or --frames were taken
  1  a verdict that --fail-on names was given
  2  the command line, the configuration or the bundle is wrong; nothing was watched
  3  there was nothing to watch, or a network failed
  4  standard output could not be written
  130  stopped by Ctrl-C or SIGTERM; what was printed is complete
The highest that applies counts, except that 130 comes before all others.";

/// Where the dashboard is unless another address is named.
const DASHBOARD: &str = "127.0.0.1:8710";

/// Arguments of `candor watch`.
#[derive(Debug, Args)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct Watch {
    /// The camera [default: the first that captures].
    pub(crate) camera: Option<PathBuf>,
    /// Raw pictures on standard input instead: i420, nv12, yuyv, uyvy, rgb24 or bgr24, and their size.
    #[arg(long, value_name = "ENCODING:WxH", conflicts_with = "camera", value_parser = raw)]
    pub(crate) raw: Option<(Encoding, u32, u32)>,
    /// A clip instead of a camera.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["camera", "raw"])]
    pub(crate) play: Option<PathBuf>,
    /// Play the clip this often.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "play")]
    pub(crate) repeat: u32,
    /// Look at the clip as fast as it can be read; times are the clip's.
    #[arg(long, requires = "play")]
    pub(crate) unpaced: bool,
    /// Print the cameras of this machine.
    #[arg(long)]
    pub(crate) list: bool,
    /// Stop after so many frames.
    #[arg(long, value_name = "N")]
    pub(crate) frames: Option<u64>,
    /// Size to ask the camera for [default: 1280x720].
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) size: Option<(u32, u32)>,
    /// Time between two searches for faces, in milliseconds [default: 200].
    #[arg(long, value_name = "MS")]
    pub(crate) interval_ms: Option<u32>,
    /// Share of all cores that may be used, up to 1 [default: 0.5].
    #[arg(long, value_name = "SHARE")]
    pub(crate) cpu_share: Option<f32>,
    /// Also write the lines to this file, which is begun anew when it is long.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Show it on a page at this address [default without one: 127.0.0.1:8710].
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = DASHBOARD)]
    pub(crate) dashboard: Option<SocketAddr>,
    /// Which classifier, and what runs it.
    #[command(flatten)]
    pub(crate) networks: Networks,
    /// Exit with code 1 when the highest face has this verdict (uncertain: this or fake).
    #[arg(long, value_name = "VERDICT")]
    pub(crate) fail_on: Option<Alarm>,
}

impl Watch {
    /// The configuration file's settings, or the defaults, with the options put over them.
    ///
    /// # Errors
    /// [`SettingsError`] when the file can't be read, or it or an option is wrong.
    pub(crate) fn settings(&self) -> Result<Config, SettingsError> {
        let mut config = self.networks.settings()?;
        let watch = &mut config.watch;
        if let Some(camera) = &self.camera {
            watch.device = Some(camera.clone());
        }
        if let Some(size) = self.size {
            (watch.width_px, watch.height_px) = size;
        }
        if let Some(ms) = self.interval_ms {
            watch.interval_ms = ms;
            watch.max_interval_ms = watch.max_interval_ms.max(ms);
        }
        if let Some(share) = self.cpu_share {
            watch.cpu_share = share;
        }
        if let Some(log) = &self.log {
            watch.log = Some(log.clone());
        }
        watch.dashboard.listen = self.dashboard.or(watch.dashboard.listen);
        config.check()?;
        Ok(config)
    }
}

/// `i420:1280x720`.
fn raw(text: &str) -> Result<(Encoding, u32, u32), String> {
    let wrong = || format!("expected an encoding and a size like i420:1280x720, found {text}");
    let (name, sides) = text.split_once(':').ok_or_else(wrong)?;
    let encoding = Encoding::ALL.into_iter().find(|e| e.word() == name && *e != Encoding::Mjpeg);
    let (width_px, height_px) = size(sides)?;
    Ok((encoding.ok_or_else(wrong)?, width_px, height_px))
}

/// Commands on the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether a file can be used, and what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
    },
}

const BENCH_EXAMPLES: &str = "\
Examples:
  candor bench                                the built-in classifier and detector
  candor bench --ops model.onnx               what each op of a network takes
  candor bench --clip call.mp4                 and each stage of a scan
  candor bench --threads 4 --json             on four threads, as JSON
  candor bench --ops --rounds 1 model.onnx    which ops compute on bytes (u8) and which in float (f32)";

/// Arguments of `candor bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub(crate) struct Bench {
    /// ONNX files; the built-in networks without any.
    pub(crate) networks: Vec<PathBuf>,
    /// The input's shape, for networks that leave it open.
    #[arg(long, value_name = "N,C,H,W", value_delimiter = ',')]
    pub(crate) input_shape: Option<Vec<usize>>,
    /// Also the detector's first network over the pyramid of a picture of this size.
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) pyramid: Option<(u32, u32)>,
    /// Also what each stage of a scan of this video takes, in CPU time of the scanning thread.
    #[arg(long, value_name = "FILE")]
    pub(crate) clip: Option<PathBuf>,
    /// Threads that networks run on; 0 for as many as there are cores.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: u8,
    /// Kernels that networks run with.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) kernels: KernelSet,
    /// Runs of each network.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// Show the time of each op.
    #[arg(long)]
    pub(crate) ops: bool,
    /// Print JSON (described in runtime/JSON.md).
    #[arg(long)]
    pub(crate) json: bool,
    /// Read numbers from standard input, a line each; run the network that often and print the mean seconds.
    #[arg(long)]
    pub(crate) serve: bool,
}

/// A size as `640x360`, each side from 12 to 8192.
fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    sides
        .filter(|(w, h)| (12..=8192).contains(w) && (12..=8192).contains(h))
        .ok_or_else(|| format!("expected a size like 640x360, sides from 12 to 8192, found {text}"))
}

impl Scan {
    /// The configuration file's settings, or the defaults, with the options put over them.
    ///
    /// # Errors
    /// [`ConfigError`] when the file or an option is out of range, and the system's reason when it can't
    /// be read.
    pub(crate) fn settings(&self) -> Result<Config, SettingsError> {
        let mut config = self.networks.settings()?;
        let detect = &mut config.detect;
        if let Some(px) = self.min_face_px {
            detect.min_face_px = px;
        }
        if let Some(factor) = self.pyramid_factor {
            detect.pyramid_factor = factor;
        }
        if let Some([p, r, o]) = self.thresholds.as_deref() {
            detect.thresholds = [*p, *r, *o];
        }
        if let Some(least) = self.keep_above {
            detect.keep_above = least;
        }
        if let Some(ms) = self.interval_ms {
            config.scan.interval_ms = ms;
        }
        config.check()?;
        Ok(config)
    }
}

/// A configuration file's settings, checked.
///
/// # Errors
/// [`SettingsError`] when it can't be read or is wrong.
pub(crate) fn read(path: &Path) -> Result<Config, SettingsError> {
    let text =
        std::fs::read_to_string(path).map_err(|cause| SettingsError::Read { path: path.into(), cause })?;
    Ok(Config::from_toml(&text)?)
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file can't be read.
    #[error("configuration {path}: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: std::io::Error,
    },
    /// A value is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}
