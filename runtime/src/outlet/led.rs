//! A light of the kernel's LED class, on while a fake is in view.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where Linux has them.
pub const LEDS: &str = "/sys/class/leds";

/// A light that only this process switches, until it is dropped; then it is as it was, or off.
#[derive(Debug)]
pub(super) struct Light {
    folder: PathBuf,
    brightest: String,
    /// What switched it before.
    trigger: Option<String>,
    is_on: Option<bool>,
}

impl Light {
    /// Takes `name` of the folder `leds`, and switches it off.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(super) fn open(leds: &Path, name: &str) -> Result<Self, String> {
        let folder = leds.join(name);
        let named = |error: io::Error| format!("{}: {error}", folder.display());
        let brightest = match fs::read_to_string(folder.join("max_brightness")) {
            Ok(text) => text.trim().parse::<u32>().ok().filter(|most| *most > 0).unwrap_or(1),
            Err(_) => 1,
        };
        // "none timer [mmc0] default-on"
        let triggers = fs::read_to_string(folder.join("trigger")).unwrap_or_default();
        let chosen = triggers.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        let trigger = chosen.filter(|chosen| *chosen != "none").map(str::to_owned);
        if trigger.is_some() {
            write(&folder.join("trigger"), "none").map_err(named)?;
        }
        let mut light =
            Light { brightest: brightest.to_string(), trigger, is_on: None, folder: folder.clone() };
        light.try_set(false).map_err(named)?;
        Ok(light)
    }

    fn try_set(&mut self, is_on: bool) -> io::Result<()> {
        if self.is_on != Some(is_on) {
            self.is_on = None;
            write(&self.folder.join("brightness"), if is_on { &self.brightest } else { "0" })?;
            self.is_on = Some(is_on);
        }
        Ok(())
    }

    /// Switches it.
    pub(super) fn set(&mut self, is_on: bool) {
        if let Err(error) = self.try_set(is_on) {
            log::warn!("{}: {error}", self.folder.display());
        }
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.set(false);
        if let Some(trigger) = &self.trigger
            && let Err(error) = write(&self.folder.join("trigger"), trigger)
        {
            log::warn!("{}: {error}", self.folder.display());
        }
    }
}

/// Writes to a file that must be there already, as those of the kernel are.
fn write(path: &Path, text: &str) -> io::Result<()> {
    io::Write::write_all(&mut fs::OpenOptions::new().write(true).truncate(true).open(path)?, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_light_is_switched_and_left_as_it_was() {
        let leds = tempfile::tempdir().unwrap();
        let folder = leds.path().join("ACT");
        assert!(Light::open(leds.path(), "ACT").unwrap_err().contains("ACT"));
        fs::create_dir(&folder).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        put("brightness", "255\n");
        put("max_brightness", "255\n");
        put("trigger", "none timer [mmc0] default-on\n");
        let mut light = Light::open(leds.path(), "ACT").unwrap();
        assert_eq!((read("brightness"), read("trigger")), ("0".into(), "none".into()));
        light.set(true);
        assert_eq!(read("brightness"), "255");
        // Written once for each change, not for each event.
        put("brightness", "untouched");
        light.set(true);
        assert_eq!(read("brightness"), "untouched");
        light.set(false);
        light.set(true);
        drop(light);
        assert_eq!((read("brightness"), read("trigger")), ("0".into(), "mmc0".into()));
    }
}
