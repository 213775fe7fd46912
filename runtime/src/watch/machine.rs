//! How the machine and the process are: temperature, processor time, cores.

use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Where Linux shows temperatures.
pub(super) const ZONES: &str = "/sys/class/thermal";

/// The hottest zone below `folder`, degrees Celsius; `None` where there is none.
pub(super) fn temperature_c(folder: &Path) -> Option<f32> {
    let zones = std::fs::read_dir(folder).ok()?.flatten();
    let milli = zones.filter_map(|zone| {
        let text = std::fs::read_to_string(zone.path().join("temp")).ok()?;
        text.trim().parse::<i32>().ok()
    });
    #[expect(clippy::cast_precision_loss, reason = "thousandths of degrees")]
    milli.max().map(|milli| milli as f32 / 1000.0)
}

/// Milliseconds since 1970 by the system's clock.
pub(crate) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Processor time that the process has taken.
pub(super) fn cpu_ns() -> i64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A number that no other run has drawn, whatever the clock says.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        unix.as_secs() << 32 | u64::from(unix.subsec_nanos())
    })
}

/// How many cores there are for this process.
pub(super) fn n_cores() -> f64 {
    let n = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    f64::from(u32::try_from(n).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hottest_zone_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(super::temperature_c(folder.path()), None);
        for (name, text) in [("thermal_zone0", "41500\n"), ("thermal_zone1", "63250\n"), ("cooling", "x")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("temp"), text).unwrap();
        }
        assert_eq!(super::temperature_c(folder.path()), Some(63.25));
    }
}
