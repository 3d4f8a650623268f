//! What the tests share: small filesystems, and other processes that play a part.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A tmpfs that is gone when the test is.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    pub fn new(at: &Path, options: &str) -> Tmpfs {
        std::fs::create_dir_all(at).unwrap();
        mount(Some("host-test"), at, Some("tmpfs"), MsFlags::empty(), Some(options))
            .expect("mount: are we root?");
        Tmpfs(at.to_owned())
    }

    pub fn read_only(&self) {
        mount(
            None::<&str>,
            &self.0,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
            None::<&str>,
        )
        .unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Another process of this test binary, which runs this test with what it needs to know in PART. Killed
/// when dropped.
pub struct Player {
    pub child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Player {
    pub fn new(test: &str, part: &str, what: &str, dir: &Path) -> Player {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env("PART", format!("{part}\n{what}\n{}", dir.display()));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Player { child, lines }
    }

    /// Waits until it has said this.
    pub fn says(&mut self, word: &str) -> &mut Player {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert_ne!(
                self.lines.read_line(&mut line).unwrap(),
                0,
                "it ended without saying {word}"
            );
        }
        self
    }

    pub fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ends_well(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the player: its part, what, and folder; `None` in an ordinary run of the tests.
pub fn my_part() -> Option<(String, String, PathBuf)> {
    let text = std::env::var("PART").ok()?;
    let [part, what, dir] = text.splitn(3, '\n').collect::<Vec<_>>().try_into().ok()?;
    Some((part.to_owned(), what.to_owned(), dir.into()))
}

pub fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub fn end(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Waits for a minute at most.
pub fn soon(mut is: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if is() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
