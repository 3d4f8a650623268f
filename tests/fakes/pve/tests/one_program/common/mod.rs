//! A world in a folder of its own, and calls into it as a module makes them: by the link's absolute
//! path and with an empty environment.

// Not every test file uses all of it.
#![allow(dead_code)]

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Node {
    folder: TempDir,
}

#[derive(Debug, PartialEq)]
pub struct Told {
    pub rc: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Told {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// The exit code, stdout and stderr at once.
    #[track_caller]
    pub fn is(&self, rc: i32, out: &str, err: &str) {
        assert_eq!((self.rc, self.text(), self.err.as_str()), (Some(rc), out, err));
    }

    #[track_caller]
    pub fn died(&self, text: &str) {
        self.is(255, "", &format!("{text}\n"));
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!((self.rc, self.err.as_str()), (Some(0), ""));
        serde_json::from_slice(&self.out).unwrap()
    }
}

impl Node {
    /// The sample: container 301, running, with two volumes on ZFS.
    pub fn new() -> Node {
        let node = Node { folder: tempfile::tempdir().unwrap() };
        node.tool(&["init", node.home().to_str().unwrap()]);
        node
    }

    pub fn with(patch: Value) -> Node {
        let node = Node::new();
        node.patch(patch);
        node
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("world")
    }

    fn tool(&self, words: &[&str]) -> Vec<u8> {
        let output = Command::new(env!("CARGO_BIN_EXE_fake-pve")).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    pub fn patch(&self, patch: Value) {
        self.tool(&["patch", self.home().to_str().unwrap(), &patch.to_string()]);
    }

    pub fn world(&self) -> Value {
        serde_json::from_slice(&self.tool(&["show", self.home().to_str().unwrap()])).unwrap()
    }

    /// The container 301.
    pub fn ct(&self) -> Value {
        self.world()["containers"]["301"].clone()
    }

    pub fn lock(&self) -> Value {
        self.ct()["config"]["lock"].clone()
    }

    /// What the two volumes of the sample hold.
    pub fn contents(&self) -> Vec<Value> {
        let volumes = self.world()["volumes"].clone();
        (0..2).map(|n| volumes[format!("zp:subvol-301-disk-{n}")]["content"].clone()).collect()
    }

    pub fn write_data(&self, content: &str) {
        self.patch(json!({"volumes": {
            "zp:subvol-301-disk-0": {"content": content},
            "zp:subvol-301-disk-1": {"content": content},
        }}));
    }

    pub fn faults(&self, faults: Value) {
        fs::write(self.home().join("faults.json"), faults.to_string()).unwrap();
    }

    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split(' ');
        let program = self.home().join("bin").join(words.next().unwrap());
        let mut command = Command::new(program);
        command.args(words).env_clear().env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Words are parted by single blanks.
    pub fn run(&self, line: &str) -> Told {
        told(self.command(line).spawn().unwrap())
    }

    pub fn run_words(&self, program: &str, words: &[&str]) -> Told {
        told(self.command(program).args(words).spawn().unwrap())
    }

    #[track_caller]
    pub fn ok(&self, line: &str) {
        self.run(line).is(0, "", "");
    }

    pub fn json(&self, path: &str) -> Value {
        self.run(&format!("pvesh get {path} --output-format json")).json()
    }

    pub fn calls(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.home().join("calls.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn told(child: Child) -> Told {
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Told { rc: output.status.code(), out: output.stdout, err }
}

/// Waits for what must come soon.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
