//! A world of the fake Proxmox for each test, and the built binary run in it: in a mount namespace of
//! its own, where `/etc/pve` and `/sys/fs/cgroup` are the fake's and `/run` is the test's, so that tests
//! run side by side.

// Each test binary uses a part of it. A test that cannot go on ends right there.
#![allow(dead_code, clippy::unwrap_used)]

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const FIRST: &str = "20261121t084500z-7f3a";
pub const SECOND: &str = "20261121t090000z-0001";
pub const THIRD: &str = "20261121t091500z-0002";
pub const FOURTH: &str = "20261121t093000z-0003";

/// Built once: nothing depends on the fake, so cargo does not build it for us.
fn fake() -> &'static Path {
    static FAKE: OnceLock<PathBuf> = OnceLock::new();
    FAKE.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_pct_snapshot")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "pve"]);
        if built.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "the fake cannot be built");
        built.join("fake-pve")
    })
}

pub struct World {
    folder: TempDir,
    /// Whether the cluster's files can be read, or only `pvesh` be asked.
    files: bool,
}

/// CT 301 with two volumes on this kind of storage, running.
pub fn on(kind: &str) -> Value {
    let place = match kind {
        "zfspool" => "rpool/data",
        "lvmthin" => "pve/data",
        "rbd" => "ceph",
        _ => "/srv/storage",
    };
    json!({
        "storages": {"st": {"type": kind, "place": place}},
        "containers": {"301": {
            "config": {
                "hostname": "shop", "memory": "512",
                "rootfs": "st:disk-0,size=4G", "mp0": "st:disk-1,mp=/srv,size=8G",
            },
            "running": true,
        }},
        "volumes": {"st:disk-0": {"content": "system 1"}, "st:disk-1": {"content": "data 1"}},
    })
}

impl World {
    pub fn new(world: Value) -> World {
        // Not below /tmp: the state folder must be on a safe path.
        let home = std::env::var("HOME").unwrap();
        let world_folder = tempfile::tempdir_in(home).unwrap();
        let new = World { folder: world_folder, files: true };
        let mut init = Command::new(fake());
        init.arg("init").arg(new.at("pve")).arg("-").stdin(Stdio::piped());
        let mut child = init.spawn().unwrap();
        child.stdin.take().unwrap().write_all(world.to_string().as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "this is no world: {world}");
        for folder in ["etc", "run"] {
            fs::create_dir(new.at(folder)).unwrap();
        }
        symlink(new.at("pve/etc-pve"), new.at("etc/pve")).unwrap();
        new.write_cluster_files(&world);
        new
    }

    /// Without `/etc/pve`, as where only `pct` and `pvesh` are faked.
    pub fn bare(world: Value) -> World {
        let mut new = World::new(world);
        new.files = false;
        new
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Those that the fake has no use for.
    pub fn write_cluster_files(&self, world: &Value) {
        let mut storages = String::new();
        for (name, storage) in world["storages"].as_object().unwrap() {
            let (kind, place) = (storage["type"].as_str().unwrap(), &storage["place"]);
            let place = place.as_str().unwrap();
            let keys = match (kind, place.split_once('/')) {
                ("lvmthin", Some((group, pool))) => format!("thinpool {pool}\n\tvgname {group}"),
                ("zfspool", _) => format!("pool {place}"),
                _ => format!("path {place}"),
            };
            storages += &format!("{kind}: {name}\n\t{keys}\n\n");
        }
        let (mut ha, mut replication) = (String::new(), String::new());
        for (sid, state) in world["ha"].as_object().into_iter().flatten() {
            ha += &format!("{}\n\tstate {}\n", sid.replace(':', ": "), state.as_str().unwrap());
        }
        for job in world["replication"].as_array().into_iter().flatten() {
            let target = job["target"].as_str().unwrap();
            replication += &format!("local: {}-0\n\ttarget {target}\n", job["guest"]);
        }
        let write = |name: &str, text: &str| {
            fs::write(self.at("pve/etc-pve").join(name), text).unwrap();
        };
        write(".version", "{}");
        write("storage.cfg", &storages);
        if !ha.is_empty() {
            fs::create_dir_all(self.at("pve/etc-pve/ha")).unwrap();
            write("ha/resources.cfg", &ha);
        }
        if !replication.is_empty() {
            write("replication.cfg", &replication);
        }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.at("state")
    }

    /// A program beside the fakes, found before the system's.
    pub fn add_program(&self, name: &str, text: &str) {
        let path = self.at("pve/bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn remove_program(&self, name: &str) {
        fs::remove_file(self.at("pve/bin").join(name)).unwrap();
    }

    pub fn faults(&self, faults: Value) {
        fs::write(self.at("pve/faults.json"), faults.to_string()).unwrap();
    }

    /// What a person does with `pct`; whether it ended well.
    pub fn by_hand(&self, words: &[&str]) -> bool {
        let pct = self.at("pve/bin/pct");
        let output = Command::new(pct).args(words).output().unwrap();
        output.status.success()
    }

    pub fn patch(&self, patch: Value) {
        let mut command = Command::new(fake());
        command.arg("patch").arg(self.at("pve")).arg(patch.to_string());
        assert!(command.status().unwrap().success(), "{patch}");
    }

    pub fn show(&self) -> Value {
        let output = Command::new(fake()).arg("show").arg(self.at("pve")).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn container(&self) -> Value {
        self.show()["containers"]["301"].take()
    }

    /// The names of the snapshots, sorted by the fake.
    pub fn names(&self) -> Vec<String> {
        let snapshots = self.container()["snapshots"].take();
        snapshots.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// What happens inside: the volumes get new content.
    pub fn write(&self, content: &str) {
        self.patch(json!({"volumes": {
            "st:disk-0": {"content": format!("system {content}")},
            "st:disk-1": {"content": format!("data {content}")},
        }}));
    }

    pub fn content(&self) -> [String; 2] {
        let volumes = self.show()["volumes"].take();
        ["st:disk-0", "st:disk-1"]
            .map(|volume| volumes[volume]["content"].as_str().unwrap_or("?").to_owned())
    }

    /// Every call so far, as one line.
    pub fn calls(&self) -> Vec<String> {
        self.calls_with_pids().into_iter().map(|(call, _)| call).collect()
    }

    pub fn calls_with_pids(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.at("pve/calls.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| {
                let call: Value = serde_json::from_str(line).unwrap();
                let words: Vec<&str> =
                    call["argv"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                let line = format!("{} {}", call["program"].as_str().unwrap(), words.join(" "));
                (line, call["pid"].to_string())
            })
            .collect()
    }

    /// The calls that cost: all but polls, `ready`, and what is no Perl.
    pub fn costly_calls(&self) -> Vec<String> {
        let polls = ["pct status", "pct exec", "lxc-info"];
        let costs = |call: &String| !polls.iter().any(|poll| call.starts_with(poll));
        self.calls().into_iter().filter(costs).collect()
    }

    pub fn forget_calls(&self) {
        let _ = fs::remove_file(self.at("pve/calls.jsonl"));
    }

    pub fn spawn(&self, options: &Value) -> Child {
        let script = match self.files {
            true => "mount --bind \"$0/etc\" /etc && ",
            false => "",
        };
        let script = format!(
            "{script}mount --bind \"$0/run\" /run && mount --bind \"$0/pve/cgroup\" /sys/fs/cgroup && \
             exec \"$@\""
        );
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(self.folder.path())
            .args([env!("CARGO_BIN_EXE_pct_snapshot"), "-"])
            .env("PATH", format!("{}:{system}", self.at("pve/bin").display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let options = self.whole(options).to_string();
        child.stdin.take().unwrap().write_all(options.as_bytes()).unwrap();
        child
    }

    fn whole(&self, options: &Value) -> Value {
        let mut all = json!({
            "vmid": 301, "state_dir": self.state_dir(), "lock_timeout": 0, "boot_timeout": 5,
            "_ansible_module_name": "reversible.deploy.pct_snapshot",
        });
        for (key, value) in options.as_object().unwrap() {
            all[key] = value.clone();
        }
        // Null takes one of the above away.
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        all
    }

    pub fn run(&self, options: Value) -> Value {
        let output = self.spawn(&options).wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|why| {
            panic!("{why}: {:?} ({})", String::from_utf8_lossy(&output.stdout), output.status)
        })
    }

    /// For a run that is killed: that it said nothing.
    pub fn run_killed(&self, options: Value) {
        let output = self.spawn(&options).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.is_empty(), "it was not killed: {said}");
    }

    pub fn present(&self, id: &str) -> Value {
        self.run(json!({"deploy_id": id}))
    }

    /// Without a vmid when it is null.
    pub fn ask_info(&self, vmid: Value) -> Value {
        self.run(json!({
            "_ansible_module_name": "reversible.deploy.pct_snapshot_info",
            "vmid": vmid, "lock_timeout": null, "boot_timeout": null,
        }))
    }

    pub fn info(&self, vmid: Value) -> Value {
        let result = self.ask_info(vmid);
        assert_eq!(result.get("failed"), None, "{result:#}");
        result
    }
}

/// Waits until the fake was asked for this; the process that was asked.
pub fn called(world: &World, words: &str) -> String {
    let began = Instant::now();
    loop {
        let all = world.calls_with_pids().into_iter();
        if let Some((_, pid)) = all.into_iter().find(|(call, _)| call.starts_with(words)) {
            return pid;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nobody asked for {words}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn changed(result: &Value) -> bool {
    assert_eq!(result.get("failed"), None, "{result:#}");
    result["changed"].as_bool().unwrap()
}

pub fn reason(result: &Value) -> &str {
    assert_eq!(result["failed"], true, "{result:#}");
    result["reason"].as_str().unwrap()
}

#[track_caller]
pub fn says(result: &Value, parts: &[&str]) {
    let msg = result["msg"].as_str().unwrap();
    for part in parts {
        assert!(msg.contains(part), "{part:?} is not in {msg:?}\n{result:#}");
    }
}

pub fn name(id: &str) -> String {
    format!("pre-deploy-{id}")
}

pub fn take(id: &str) -> Value {
    json!({"deploy_id": id, "lock_timeout": 20})
}

pub fn back(more: Value) -> Value {
    let mut options = json!({
        "state": "rolled_back", "deploy_id": FIRST, "rollback_id": SECOND, "confirm": true,
        "lock_timeout": 20,
    });
    for (key, value) in more.as_object().unwrap() {
        options[key] = value.clone();
    }
    options
}

/// With us alone killed, Proxmox goes on; with both, the node has crashed.
pub fn kill(command: &str, at: &str, both: bool) -> Value {
    let fault =
        json!({"command": command, "nth": 1, "at": at, "kill_caller": true, "kill_self": both});
    json!([fault])
}

pub fn settled(world: &World, what: &str) {
    let container = world.container();
    assert_eq!(container["config"].get("lock"), None, "{what}");
    for (name, snapshot) in container["snapshots"].as_object().unwrap() {
        assert_eq!(snapshot["snapstate"], Value::Null, "{what}: {name}");
    }
    assert_eq!(world.info(json!(301))["unfinished"], Value::Null, "{what}");
}
