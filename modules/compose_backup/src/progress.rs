//! The progress of a long task: reported to ansible-playbook, and written to `.progress.json` in the backup
//! folder.
//!
//! Invariant: it is written at most once a second, and an error here never stops the task.

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
pub struct State {
    pub what: String,
    pub bytes: u64,
    /// The total size, if it is known.
    pub total: Option<u64>,
    /// Bytes per second since this part began.
    pub rate: u64,
    pub at: Utc,
    pub pid: u32,
}

impl State {
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
    /// The file; `None` for no report at all.
    path: Option<PathBuf>,
    what: String,
    total: Option<u64>,
    began: Instant,
    written: Option<Instant>,
}

impl Progress {
    pub fn new(backup_dir: &Path) -> Progress {
        let mut progress = Progress::silent();
        progress.path = Some(backup_dir.join(FILE));
        progress
    }

    /// Makes a progress that reports nothing, for modules that must not write.
    pub fn silent() -> Progress {
        let (what, total) = (String::new(), None);
        Progress { path: None, what, total, began: Instant::now(), written: None }
    }

    /// Begins the next part of the work.
    pub fn begin(&mut self, what: impl Into<String>, total: Option<u64>) {
        self.what = what.into();
        self.total = total;
        self.began = Instant::now();
        self.written = None;
        self.update(0);
    }

    pub fn update(&mut self, bytes: u64) {
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
        let state = State {
            what: self.what.clone(),
            bytes,
            total: self.total,
            rate,
            at: clock::now(),
            pid: std::process::id(),
        };
        if self.path.is_some() {
            report(&state.sentence());
        }
        let _ = self.write(&state);
    }

    fn write(&self, state: &State) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let temporary = path.with_extension("json.new");
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        std::fs::rename(&temporary, path)
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

/// Reads the progress of a running task; that of a killed one is ignored.
pub fn read(backup_dir: &Path) -> Option<State> {
    let content = std::fs::read(backup_dir.join(FILE)).ok()?;
    let state: State = serde_json::from_slice(&content).ok()?;
    Path::new(&format!("/proc/{}", state.pid)).exists().then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_sentence() {
        let state = |bytes, total| {
            let (at, pid, what) = (clock::now(), 1, "data of /srv/x".to_owned());
            State { what, bytes, total, rate: 180 << 20, at, pid }.sentence()
        };
        let gib = 1 << 30;
        assert_eq!(state(0, Some(gib)), "data of /srv/x");
        assert_eq!(state(gib, Some(4 * gib)), "data of /srv/x: 1.0 GiB of 4.0 GiB, 180.0 MiB/s");
        assert_eq!(state(gib, None), "data of /srv/x: 1.0 GiB, 180.0 MiB/s");
    }

    #[test]
    fn it_can_be_read_until_it_is_dropped() {
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
