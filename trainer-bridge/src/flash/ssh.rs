//! The system's `ssh` client: its command line, and what its failures mean.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::FlashError;

/// What `ssh` ends with when it has no connection, or no longer.
pub(super) const NO_CONNECTION: i32 = 255;
/// Said behind the user's own options, which win: a peer that is gone without a word is noticed.
const DEFAULTS: [&str; 3] = ["ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=3"];
/// What `ssh` says where trying again can't help, and might lock an account.
const FINAL: [&str; 7] = [
    "Permission denied",
    "Too many authentication failures",
    "Host key verification failed",
    "Could not resolve hostname",
    "Bad configuration option",
    "Can't open user config file",
    "No supported authentication methods",
];

/// A device, and how to get there.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `[user@]host`, for `ssh`.
    pub(super) name: String,
    pub(super) ssh: PathBuf,
    pub(super) port: Option<u16>,
    pub(super) identities: Vec<PathBuf>,
    pub(super) ssh_config: Option<PathBuf>,
    pub(super) options: Vec<String>,
    /// On the device.
    pub(super) candor: String,
    /// On the device.
    pub(super) config: String,
    /// The user there.
    pub(super) sudo: Option<String>,
}

impl Target {
    /// Refuses what `ssh` or a shell could take for something else.
    ///
    /// # Errors
    /// [`FlashError::Usage`].
    pub(super) fn check(&self) -> Result<(), FlashError> {
        let (_, host) = self.name.rsplit_once('@').unwrap_or(("", &self.name));
        let is_name =
            |text: &str| !text.starts_with('-') && !text.contains(|c: char| c.is_control() || c == ' ');
        if host.is_empty() || !is_name(host) || !is_name(&self.name) {
            let (what, expected) = ("device", "[user@]host");
            return Err(FlashError::Usage { what, expected, found: self.name.clone() });
        }
        if let Some(user) = &self.sudo
            && (user.is_empty() || !is_name(user))
        {
            let (what, expected) = ("--sudo", "a user of the device");
            return Err(FlashError::Usage { what, expected, found: user.clone() });
        }
        for (what, path) in [("--candor", &self.candor), ("--config", &self.config)] {
            let is_path = !path.is_empty() && !path.starts_with('-') && !path.contains(char::is_control);
            if !is_path {
                let expected = "a path on the device";
                return Err(FlashError::Usage { what, expected, found: path.clone() });
            }
        }
        Ok(())
    }

    /// What the device's shell is given: always the same words, and the paths and the user as quoted ones.
    pub(super) fn remote_command(&self) -> String {
        let sudo =
            self.sudo.as_ref().map_or(String::new(), |user| format!("sudo -n -u {} -- ", quoted(user)));
        format!("{sudo}{} slot receive --config {}", quoted(&self.candor), quoted(&self.config))
    }

    /// The client, its three streams to be read and written.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.ssh);
        if let Some(config) = &self.ssh_config {
            command.arg("-F").arg(config);
        }
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        for identity in &self.identities {
            command.arg("-i").arg(identity);
        }
        // The first value of an option counts.
        for option in self.options.iter().map(String::as_str).chain(DEFAULTS) {
            command.arg("-o").arg(option);
        }
        // No terminal there, and no escape characters: every byte is the bundle's.
        command.args(["-T", "-e", "none", "--", &self.name, &self.remote_command()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A word for a POSIX shell that means these very characters.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r#"'"'"'"#)) }
}

/// Whether `ssh`, without a connection, said that another try can't help.
pub(super) fn is_final(said: &str) -> bool {
    FINAL.iter().any(|text| said.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, candor: &str) -> Target {
        Target {
            name: name.into(),
            ssh: "ssh".into(),
            port: None,
            identities: Vec::new(),
            ssh_config: None,
            options: Vec::new(),
            candor: candor.into(),
            config: "/etc/candor/candor.toml".into(),
            sudo: None,
        }
    }

    #[test]
    fn a_shell_gives_back_every_word_as_it_was() {
        for word in
            ["candor", "/opt/my candor/bin", "a'b", "$(reboot)", "`x`;&|<>*?[]~#!", "\"\\", "ä'\"'", "%h"]
        {
            let script = format!("printf %s {}", quoted(word));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn names_that_would_be_options_are_refused() {
        for name in ["", "-oProxyCommand=reboot", "user@", "user@-v", "a b", "host\n", "-l@host"] {
            assert!(target(name, "candor").check().is_err(), "{name:?}");
        }
        for path in ["", "-c", "a\nb"] {
            assert!(target("host", path).check().is_err(), "{path:?}");
        }
        for (user, command) in [
            ("candor", "sudo -n -u candor -- candor slot receive --config /etc/candor/candor.toml"),
            ("a;b", "sudo -n -u 'a;b' -- candor slot receive --config /etc/candor/candor.toml"),
        ] {
            let target = Target { sudo: Some(user.into()), ..target("host", "candor") };
            target.check().unwrap();
            assert_eq!(target.remote_command(), command);
        }
        for user in ["", "-s", "a b", "a\nb"] {
            let target = Target { sudo: Some(user.into()), ..target("host", "candor") };
            assert!(target.check().is_err(), "{user:?}");
        }
        for name in ["host", "me@10.0.0.7", "me@fe80::1%eth0", "a@b@host"] {
            target(name, "candor").check().unwrap();
        }
    }
}
