//! What libtorch and the C library read from the environment before `main`.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Settings of which a user's own wins.
///
/// Threads that wait would spin, and cost seven times the work where cores are shared. The allocator would give every
/// larger tensor back to the system and fetch it again, zeroed: a third of a training step's time on a CPU.
const SETTINGS: [(&str, &str); 3] =
    [("OMP_WAIT_POLICY", "PASSIVE"), ("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", "-1")];

/// Starts this program again, in the same process, with the settings that are missing; returns when none is.
pub fn settle() {
    let missing: Vec<_> = SETTINGS.into_iter().filter(|(name, _)| env::var_os(name).is_none()).collect();
    let Ok(program) = env::current_exe() else { return };
    if missing.is_empty() {
        return;
    }
    let error = Command::new(program).args(env::args_os().skip(1)).envs(missing).exec();
    log::warn!("can't start again with faster settings: {error}");
}
