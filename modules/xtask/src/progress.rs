//! What a build prints while it runs. Cargo is silent while it links, which is most of the time: a line says every half minute what still
//! runs, for how long, and how long it took the last time. How long it took is kept in the target folder, a file for each kind of build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

const BETWEEN_LINES: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

pub struct Progress {
    folder: PathBuf,
    started: Instant,
}

impl Progress {
    pub fn new(target_dir: &Path) -> Self {
        Self { folder: target_dir.join("build-seconds"), started: Instant::now() }
    }

    /// "it took 3 min 05 s the last time", or that this is not known.
    pub fn expectation(&self, what: &str) -> String {
        match self.last(what) {
            Some(last) => format!("it took {} the last time", text(last)),
            None => {
                "the first time here: some minutes, of which cargo is silent for most".to_owned()
            }
        }
    }

    /// Waits for all, and returns of which architectures cargo has failed.
    pub fn wait<'a>(&mut self, mut running: Vec<(&'a str, String, Child)>) -> Result<Vec<&'a str>> {
        let (mut failed, mut reported) = (Vec::new(), self.started);
        while !running.is_empty() {
            let mut left = Vec::new();
            for (arch, what, mut cargo) in running {
                match cargo.try_wait()? {
                    None => left.push((arch, what, cargo)),
                    Some(status) if status.success() => self.keep(&what),
                    Some(_) => failed.push(arch),
                }
            }
            running = left;
            if !running.is_empty() && reported.elapsed() >= BETWEEN_LINES {
                reported = Instant::now();
                for (_, what, _) in &running {
                    let spent = text(self.started.elapsed());
                    println!("still building {what}: {spent}, {}", self.expectation(what));
                }
            }
            if !running.is_empty() {
                sleep(BETWEEN_LOOKS);
            }
        }
        Ok(failed)
    }

    fn file(&self, what: &str) -> PathBuf {
        let name: String =
            what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.folder.join(name)
    }

    fn last(&self, what: &str) -> Option<Duration> {
        let seconds = fs::read_to_string(self.file(what)).ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// A build that had nothing to do says nothing about the next one. That the time cannot be kept is no reason to fail.
    fn keep(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs();
        if seconds >= 5 && fs::create_dir_all(&self.folder).is_ok() {
            fs::write(self.file(what), format!("{seconds}\n")).ok();
        }
    }
}

fn text(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {:02} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn says_what_it_took_the_last_time_and_who_failed() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(folder.path());
        assert!(progress.expectation("a for x86_64").starts_with("the first time here"));
        progress.started -= Duration::from_secs(185);
        let start = |program| Command::new(program).spawn().unwrap();
        let running = vec![
            ("x86_64", "a for x86_64".to_owned(), start("true")),
            ("aarch64", "a for aarch64".to_owned(), start("false")),
        ];
        assert_eq!(progress.wait(running).unwrap(), ["aarch64"]);
        assert_eq!(progress.expectation("a for x86_64"), "it took 3 min 05 s the last time");
        assert!(progress.expectation("a for aarch64").starts_with("the first time here"));
    }

    #[test]
    fn what_had_nothing_to_do_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let progress = Progress::new(folder.path());
        progress.keep("a");
        assert!(progress.last("a").is_none());
    }
}
