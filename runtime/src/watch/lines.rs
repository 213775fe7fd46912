//! Events as JSON Lines, on standard output or in a file that is begun anew when it is long.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::Event;

/// Writes each event as a line, whole and at once, until there will be no more.
///
/// # Errors
/// The first that the writer gives.
pub fn write_all(events: &Receiver<Arc<Event>>, out: &mut dyn Write) -> io::Result<()> {
    let mut line = Vec::new();
    for event in events {
        line.clear();
        serde_json::to_writer(&mut line, &*event)?;
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()?;
    }
    Ok(())
}

/// A file of lines. At a size it becomes `FILE.1`, what was `FILE.1` becomes `FILE.2`, and so on to the last, which goes.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    n_bytes: u64,
    max_bytes: u64,
    n_files: u32,
}

impl RotatingFile {
    /// Goes on with `path`; of `n_files` each is at most `max_bytes` long, or one line.
    ///
    /// # Errors
    /// The system's reason when it can't be opened.
    pub fn open(path: &Path, max_bytes: u64, n_files: u32) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let n_bytes = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), file, n_bytes, max_bytes, n_files: n_files.max(1) })
    }

    fn numbered(&self, n: u32) -> PathBuf {
        if n == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        for n in (1..self.n_files).rev() {
            match std::fs::rename(self.numbered(n - 1), self.numbered(n)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let options = OpenOptions::new().create(true).write(true).truncate(true).open(&self.path);
        self.file = options?;
        self.n_bytes = 0;
        Ok(())
    }
}

impl Write for RotatingFile {
    /// Writes `line` as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let n_more = line.len() as u64;
        if self.n_bytes > 0 && self.n_bytes + n_more > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.n_bytes += n_more;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_begun_anew_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        for n in 0..7 {
            // Opened anew each time: what is there counts.
            let mut file = RotatingFile::open(&path, 20, 3).unwrap();
            file.write_all(format!("line {n}..\n").as_bytes()).unwrap();
        }
        assert_eq!(text("log"), "line 6..\n");
        assert_eq!(text("log.1"), "line 4..\nline 5..\n");
        assert_eq!(text("log.2"), "line 2..\nline 3..\n");
        assert!(!folder.path().join("log.3").exists());
        // A line that is too long for any file is written all the same.
        RotatingFile::open(&path, 5, 3).unwrap().write_all(b"longer than five\n").unwrap();
        assert_eq!(text("log"), "longer than five\n");
    }
}
