//! How far a long task is: told to whoever runs it, and `.progress.json` in the backup folder for whoever
//! looks from outside.
//!
//! Invariant: it is written at most once a second, and what goes wrong with it stops nothing: it is
//! for people.

use ansible_module::progress::report;
use host::clock::{self, Utc};
use host::space::human;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const FILE: &str = ".progress.json";
const EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    pub what: String,
    pub bytes: u64,
    /// As far as it is known.
    pub total: Option<u64>,
    /// Bytes a second since this part began.
    pub rate: u64,
    pub at: Utc,
    pub pid: u32,
}

impl Shown {
    fn sentence(&self) -> String {
        let done = match self.total {
            Some(total) => format!("{} of {}", human(self.bytes), human(total)),
            None => human(self.bytes),
        };
        match self.bytes {
            0 => self.what.clone(),
            _ => format!("{}: {done}, {}/s", self.what, human(self.rate)),
        }
    }
}

pub struct Progress {
    /// None: nobody is told.
    path: Option<PathBuf>,
    what: String,
    total: Option<u64>,
    began: Instant,
    written: Option<Instant>,
}

impl Progress {
    pub fn new(backup_dir: &Path) -> Progress {
        let mut told = Progress::silent();
        told.path = Some(backup_dir.join(FILE));
        told
    }

    /// For those who change nothing.
    pub fn silent() -> Progress {
        let (what, total) = (String::new(), None);
        Progress { path: None, what, total, began: Instant::now(), written: None }
    }

    /// The next part of the work.
    pub fn begin(&mut self, what: impl Into<String>, total: Option<u64>) {
        self.what = what.into();
        self.total = total;
        self.began = Instant::now();
        self.written = None;
        self.at(0);
    }

    pub fn at(&mut self, bytes: u64) {
        if self.written.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.written = Some(Instant::now());
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        // Rates are for people: a fraction of a byte is no loss.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rate = (bytes as f64 / seconds) as u64;
        let shown = Shown {
            what: self.what.clone(),
            bytes,
            total: self.total,
            rate,
            at: clock::now(),
            pid: std::process::id(),
        };
        if self.path.is_some() {
            report(&shown.sentence());
        }
        let _ = self.write(&shown);
    }

    fn write(&self, shown: &Shown) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let beside = path.with_extension("json.new");
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&serde_json::to_vec(shown)?)?;
        std::fs::rename(&beside, path)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(path.with_extension("json.new"));
        }
    }
}

/// What a living task says; what a killed one has left is nothing.
pub fn read(backup_dir: &Path) -> Option<Shown> {
    let content = std::fs::read(backup_dir.join(FILE)).ok()?;
    let shown: Shown = serde_json::from_slice(&content).ok()?;
    Path::new(&format!("/proc/{}", shown.pid)).exists().then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_sentence() {
        let shown = |bytes, total| {
            let (at, pid, what) = (clock::now(), 1, "data of /srv/x".to_owned());
            Shown { what, bytes, total, rate: 180 << 20, at, pid }.sentence()
        };
        let gib = 1 << 30;
        assert_eq!(shown(0, Some(gib)), "data of /srv/x");
        assert_eq!(shown(gib, Some(4 * gib)), "data of /srv/x: 1.0 GiB of 4.0 GiB, 180.0 MiB/s");
        assert_eq!(shown(gib, None), "data of /srv/x: 1.0 GiB, 180.0 MiB/s");
    }

    #[test]
    fn can_be_read_while_it_lives() {
        let temp = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(temp.path());
        progress.begin("data of /srv/x", Some(10));
        let seen = read(temp.path()).unwrap();
        assert_eq!((seen.what.as_str(), seen.total), ("data of /srv/x", Some(10)));
        drop(progress);
        assert!(read(temp.path()).is_none());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
