//! What memory the process takes, as the system counts it.

/// The largest resident set so far.
pub fn peak_bytes() -> Option<usize> {
    status_bytes("VmHWM:")
}

/// The resident set now.
pub fn resident_bytes() -> Option<usize> {
    status_bytes("VmRSS:")
}

fn status_bytes(key: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(key))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes for people.
pub fn mebibytes(n_bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mib = n_bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}
