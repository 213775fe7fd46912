//! Where a training runs, and how libtorch finds CUDA.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tch::{Cuda, Device};

/// The part of libtorch that knows CUDA. Nothing in it is called by name, so that no program depends on it: it
/// registers itself when it is loaded.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";
const PRELOAD: &str = "LD_PRELOAD";

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("device {0:?}: expected cpu, cuda, cuda:N or auto")]
    Name(String),
    /// CUDA is asked for and there is none.
    #[error("device {name:?}: expected a CUDA device, found {n_devices} of them; {hint}")]
    Missing {
        /// What was asked for.
        name: String,
        /// What libtorch sees.
        n_devices: i64,
        /// What may be done.
        hint: String,
    },
    /// The program couldn't be started again with CUDA's library.
    #[error("starting again with {library}: {cause}")]
    Restart {
        /// CUDA's part of libtorch.
        library: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// Which device `name` (`cpu`, `cuda`, `cuda:N`, `auto`) is, and a line for a person about it and what else there is.
///
/// Where CUDA is wanted and its library isn't loaded but lies beside libtorch or in `LD_LIBRARY_PATH`, this starts the
/// program again with it, and doesn't return: call it before any work is done.
///
/// # Errors
/// [`DeviceError`]; a `cuda` that isn't there is one, never a quiet CPU.
pub fn choose(name: &str) -> Result<(Device, String), DeviceError> {
    let wanted = match name {
        "cpu" => None,
        "auto" | "cuda" => Some(0),
        _ => {
            let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
            Some(number.ok_or_else(|| DeviceError::Name(name.to_owned()))?)
        }
    };
    let Some(device_idx) = wanted else {
        let line = format!("device: cpu, as asked for; libtorch's threads: {}", tch::get_num_threads());
        return Ok((Device::Cpu, line));
    };
    let library = find_library();
    if !Cuda::is_available()
        && let Some(library) = &library
        && !is_preloaded()
    {
        return Err(restart_with(library));
    }
    let n_devices = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    if i64::try_from(device_idx).is_ok_and(|idx| idx < n_devices) {
        let has_cudnn = Cuda::cudnn_is_available();
        let line = format!("device: cuda:{device_idx}; CUDA devices: {n_devices}; cuDNN: {has_cudnn}");
        return Ok((Device::Cuda(device_idx), line));
    }
    if name == "auto" {
        let n_threads = tch::get_num_threads();
        let line = format!("device: cpu; CUDA devices: {n_devices}; libtorch's threads: {n_threads}");
        return Ok((Device::Cpu, line));
    }
    let hint = match library {
        Some(library) if maps().contains(CUDA_LIBRARY) => {
            format!("{} is loaded: is there a GPU with a driver?", library.display())
        }
        Some(library) => format!("{} can't be loaded: the line of ld.so above says why", library.display()),
        None => format!(
            "no {CUDA_LIBRARY} beside libtorch or in LD_LIBRARY_PATH: name the lib folder of a CUDA build of torch there"
        ),
    };
    Err(DeviceError::Missing { name: name.to_owned(), n_devices, hint })
}

fn is_preloaded() -> bool {
    env::var(PRELOAD).is_ok_and(|list| list.contains(CUDA_LIBRARY))
}

/// Replaces the process; returns only where that fails.
fn restart_with(library: &Path) -> DeviceError {
    let mut preload = library.as_os_str().to_owned();
    if let Some(before) = env::var_os(PRELOAD) {
        preload.push(OsString::from(":"));
        preload.push(before);
    }
    let cause = match env::current_exe() {
        Ok(program) => Command::new(program).args(env::args_os().skip(1)).env(PRELOAD, preload).exec(),
        Err(cause) => cause,
    };
    DeviceError::Restart { library: library.to_owned(), cause }
}

fn find_library() -> Option<PathBuf> {
    let listed = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = env::split_paths(&listed).filter(|folder| !folder.as_os_str().is_empty());
    let mut candidates = folders.chain(libtorch_folder()).map(|folder| folder.join(CUDA_LIBRARY));
    candidates.find(|path| path.is_file())
}

/// What is loaded, one file or more a line; empty where there is no such list.
fn maps() -> String {
    fs::read_to_string("/proc/self/maps").unwrap_or_default()
}

/// Where the libtorch that runs was loaded from.
fn libtorch_folder() -> Option<PathBuf> {
    let maps = maps();
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(Path::new(&line[line.find('/')?..]).parent()?.to_owned())
}

/// The version of the libtorch that runs, `2.11.0` or, of a Python package, `2.11.0+cu130`; `unknown` where it doesn't say.
pub fn libtorch_version() -> String {
    let root = libtorch_folder().and_then(|folder| Some(folder.parent()?.to_owned()));
    root.and_then(|root| version_of(&root)).unwrap_or_else(|| "unknown".to_owned())
}

/// What `build-version` of a libtorch, or `version.py` of a Python package says.
fn version_of(root: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = fs::read_to_string(root.join("version.py")).ok()?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(quoted.trim().trim_matches(['\'', '"']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(choose("cpu").unwrap().0, Device::Cpu);
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(matches!(choose(name), Err(DeviceError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_python_package_says_its_version_in_python() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(version_of(root.path()), None);
        let text = "from typing import Optional\n\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        fs::write(root.path().join("version.py"), text).unwrap();
        assert_eq!(version_of(root.path()).as_deref(), Some("2.11.0+cu130"));
        fs::write(root.path().join("build-version"), "2.11.0\n").unwrap();
        assert_eq!(version_of(root.path()).as_deref(), Some("2.11.0"));
    }

    #[test]
    fn libtorch_says_its_version() {
        // Without a use, libtorch isn't loaded.
        assert!(tch::get_num_threads() > 0);
        let version = libtorch_version();
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()), "{version}");
    }
}
