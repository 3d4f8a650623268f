//! Containers that stand still: Proxmox freezes one while it takes a snapshot, and a kill leaves it so.

use crate::common::{
    FIRST, SECOND, THIRD, World, back, called, changed, kill, name, on, reason, says, settled, take,
};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn frozen(kind: &str) -> World {
    let world = World::new(on(kind));
    world.patch(json!({"containers": {"301": {"frozen": true}}}));
    world
}

/// A container with a volume on RBD: a real file system, and a real process that sees it.
struct OnRbd {
    world: World,
    init: Child,
    path: PathBuf,
}

impl OnRbd {
    fn new() -> OnRbd {
        let mut like = on("lvmthin");
        like["storages"]["ceph"] = json!({"type": "rbd", "place": "pool"});
        like["volumes"]["ceph:disk-1"] = json!({"content": "data 1"});
        let world = World::new(like);
        let (image, path) = (world.at("image"), world.at("data"));
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        std::fs::create_dir(&path).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-O", "mmp"]).arg(&image).status();
        assert!(made.unwrap().success());
        let script = "mount -o loop \"$0\" \"$1\" && echo mounted && exec sleep 1000";
        let mut init = Command::new("unshare");
        init.args(["--mount", "sh", "-c", script]).arg(&image).arg(&path).stdout(Stdio::piped());
        let mut init = init.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(init.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "mounted\n");
        let mount = format!("ceph:disk-1,mp={},size=1G", path.display());
        world.patch(json!({"containers": {"301": {"init": init.id(), "config": {"mp0": mount}}}}));
        OnRbd { world, init, path }
    }

    /// From here.
    fn seen(&self) -> String {
        format!("/proc/{}/root{}", self.init.id(), self.path.display())
    }

    fn fsfreeze(&self, how: &str) -> bool {
        let mut fsfreeze = Command::new("fsfreeze");
        fsfreeze.args([how, &self.seen()]).stderr(Stdio::null());
        fsfreeze.status().unwrap().success()
    }

    /// What `pct_snapshot_info` says; then somebody writes there.
    fn goes_on(&self, what: &str) {
        let info = self.world.info(json!(301));
        let seen = &info["containers"][0];
        assert_eq!(
            (&seen["running"], &seen["frozen"], &seen["frozen_mounts"]),
            (&json!(true), &json!(false), &json!([])),
            "{what}"
        );
        assert!(!self.fsfreeze("--unfreeze"), "{what}: it was still frozen");
        std::fs::write(format!("{}/written", self.seen()), what).unwrap();
    }
}

impl Drop for OnRbd {
    /// Nothing that is frozen may be left: whatever writes there could not be ended.
    fn drop(&mut self) {
        self.fsfreeze("--unfreeze");
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

fn absent(id: &str) -> Value {
    json!({"state": "absent", "deploy_id": id, "confirm": true, "lock_timeout": 20})
}

fn runs(world: &World, what: &str) {
    let container = world.container();
    assert_eq!(
        (&container["running"], &container["frozen"]),
        (&json!(true), &json!(false)),
        "{what}"
    );
    assert_eq!(world.info(json!(301))["containers"][0]["running"], true, "{what}");
    // No shutdown was ever asked of one that stood still, and nothing was run in it.
    let calls = world.calls();
    let thawed = calls.iter().position(|call| call.starts_with("lxc-unfreeze"));
    let asked = ["pct shutdown", "pct exec"];
    let asked = calls.iter().position(|call| asked.iter().any(|word| call.starts_with(word)));
    assert!(asked.is_none() || thawed < asked, "{what}: {calls:?}");
}

#[test]
fn a_killed_snapshot_is_thawed_by_whatever_comes_next() {
    for (cgroups, at) in [(2, "volume:1"), (1, "volume:2"), (2, "volumes")] {
        for next in
            [take(SECOND), absent(SECOND), absent(FIRST), back(json!({"rollback_id": THIRD}))]
        {
            let what = format!("{cgroups} {at} {next}");
            let world = World::new(on("lvmthin"));
            world.patch(json!({"cgroups": cgroups}));
            world.present(FIRST);
            world.write("2");
            world.faults(kill("pct snapshot", at, true));
            world.run_killed(take(SECOND));
            world.faults(json!([]));
            world.forget_calls();
            let between = world.info(json!(301));
            let seen = &between["containers"][0];
            assert_eq!(
                (&seen["running"], &seen["frozen"]),
                (&json!(false), &json!(true)),
                "{what}"
            );
            let mut checked = next.clone();
            checked["_ansible_check_mode"] = json!(true);
            let predicted = world.run(checked);
            let done = world.run(next);
            assert!(changed(&done), "{what}: {done:#}");
            assert_eq!(predicted["plan"], done["plan"], "{what}");
            let first = done["plan"][0].as_str().unwrap();
            assert!(first.starts_with("thaw CT 301"), "{what}: {first}");
            assert_eq!(done["running"], true, "{what}");
            settled(&world, &what);
            runs(&world, &what);
        }
    }
}

#[test]
fn a_killed_snapshot_leaves_no_file_system_frozen() {
    // After the processes are thawed only the file system is frozen, and what writes there waits.
    for (at, processes) in [("volume:2", true), ("thawed", false)] {
        for next in [take(THIRD), absent(SECOND), back(json!({"rollback_id": THIRD}))] {
            let what = format!("{at} {next}");
            let one = OnRbd::new();
            one.world.present(FIRST);
            one.goes_on("after a snapshot");
            one.world.patch(json!({"clock_offset": 100}));
            one.world.faults(kill("pct snapshot", at, true));
            one.world.run_killed(take(SECOND));
            one.world.faults(json!([]));
            assert_eq!(one.world.container()["frozen"], processes, "{what}");
            let between = one.world.info(json!(301));
            let seen = &between["containers"][0];
            assert_eq!(
                (&seen["running"], &seen["frozen"], &seen["frozen_mounts"]),
                (&json!(false), &json!(true), &json!([one.path])),
                "{what}"
            );
            let mut cures = vec![format!("fsfreeze --unfreeze {}", one.seen())];
            cures.extend(processes.then(|| "lxc-unfreeze -n 301".to_owned()));
            assert_eq!(seen["thaw"], json!(cures), "{what}");
            let done = one.world.run(next);
            assert!(changed(&done), "{what}: {done:#}");
            let first = done["plan"][0].as_str().unwrap();
            let words = format!("thaw CT 301 with its file systems {}", one.path.display());
            assert!(first.starts_with(&words), "{what}: {first}");
            assert_eq!(done["running"], true, "{what}");
            settled(&one.world, &what);
            one.goes_on(&what);
        }
    }
}

#[test]
fn a_file_system_that_others_have_frozen_is_refused() {
    let one = OnRbd::new();
    one.world.present(FIRST);
    assert!(one.fsfreeze("--freeze"));
    let cure = format!("fsfreeze --unfreeze {}", one.seen());
    for options in [take(SECOND), back(json!({"rollback_id": THIRD}))] {
        let refused = one.world.run(options);
        assert_eq!(reason(&refused), "frozen", "{refused:#}");
        says(&refused, &["CT 301 is frozen", "waits", &cure, "nothing was changed"]);
        assert!(!refused["msg"].as_str().unwrap().contains("lxc-unfreeze"), "{refused:#}");
    }
    let info = one.world.info(json!(301));
    assert_eq!(info["snapshots"][0]["ready_to_roll_back"], false, "{info:#}");
    assert!(info["snapshots"][0]["why"][0].as_str().unwrap().contains(&cure), "{info:#}");
    // A backup freezes it as well, and thaws it when it is done: its lock says so.
    one.world.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    let locked = one.world.run(json!({"deploy_id": SECOND, "lock_timeout": 0}));
    assert_eq!(reason(&locked), "locked", "{locked:#}");
    one.world.patch(json!({"containers": {"301": {"config": {"lock": null}}}}));
    assert!(one.fsfreeze("--unfreeze"));
    one.goes_on("thawed by hand");
}

#[test]
fn whoever_is_root_in_it_leads_the_thaw_nowhere_else() {
    let one = OnRbd::new();
    one.world.faults(kill("pct snapshot", "volume:2", true));
    one.world.run_killed(take(FIRST));
    one.world.faults(json!([]));
    let within = |words: &[&str]| {
        let target = format!("--target={}", one.init.id());
        let done = Command::new("nsenter").args([&target, "--mount"]).args(words).status();
        assert!(done.unwrap().success(), "{words:?}");
    };
    let path = one.path.to_str().unwrap();
    within(&["mount", "-t", "tmpfs", "over", path]);
    let failed = one.world.run(absent(FIRST));
    assert_eq!(reason(&failed), "frozen", "{failed:#}");
    says(&failed, &["is still frozen", "something else is mounted over it"]);
    within(&["umount", path]);
    assert!(changed(&one.world.run(absent(FIRST))));
    one.goes_on("nothing over it");
}

#[test]
fn a_thaw_that_is_killed_or_fails_is_done_by_the_next_run() {
    let fails =
        json!([{"command": "lxc-unfreeze", "at": "begin", "fail": {"text": "no", "rc": 1}}]);
    for fault in [kill("lxc-unfreeze", "begin", true), kill("lxc-unfreeze", "end", true), fails] {
        let what = fault.to_string();
        let world = World::new(on("zfspool"));
        world.faults(kill("pct snapshot", "volume:2", true));
        world.run_killed(take(FIRST));
        world.faults(fault);
        let output = world.spawn(&absent(FIRST)).wait_with_output().unwrap();
        if !output.stdout.is_empty() {
            let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(reason(&failed), "frozen", "{what}");
            says(&failed, &["CT 301 is still frozen", "lxc-unfreeze -n 301"]);
        }
        world.faults(json!([]));
        let next = world.run(absent(FIRST));
        assert!(changed(&next), "{what}: {next:#}");
        assert_eq!(next["running"], true, "{what}");
        settled(&world, &what);
        assert_eq!(world.container()["frozen"], false, "{what}");
    }
}

#[test]
fn a_worker_that_is_killed_alone_leaves_nothing_frozen() {
    let world = World::new(on("lvmthin"));
    world.faults(json!([{"command": "pct snapshot", "at": "volume:2", "kill_self": true}]));
    let failed = world.run(take(FIRST));
    assert_eq!(failed["failed"], true, "{failed:#}");
    assert!(world.names().is_empty());
    settled(&world, "a dead worker");
    runs(&world, "a dead worker");
}

#[test]
fn a_worker_that_goes_on_without_its_command_is_left_alone() {
    let world = World::new(on("lvmthin"));
    world.faults(json!([{"command": "pct snapshot", "at": "volume:2", "hang": true}]));
    let run = world.spawn(&take(FIRST));
    let pid = called(&world, &format!("pct snapshot 301 {}", name(FIRST)));
    let began = Instant::now();
    while world.container()["frozen"] == false {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never frozen");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    let output = run.wait_with_output().unwrap();
    let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
    says(&failed, &["Proxmox's task of it may go on", "run the task again"]);
    world.faults(json!([]));
    let next = world.run(take(FIRST));
    assert_eq!(next.get("failed"), None, "{next:#}");
    assert_eq!(world.names(), [name(FIRST)]);
    assert!(!world.calls().iter().any(|call| call.starts_with("pct unlock")));
    settled(&world, "a worker that goes on");
    runs(&world, "a worker that goes on");
}

#[test]
fn proxmox_s_own_thaw_may_fail() {
    let world = World::new(on("zfspool"));
    let frozen = json!({"containers": {"301": {"frozen": true}}});
    world.faults(json!([{"command": "pct snapshot", "at": "committed", "patch": frozen}]));
    let done = world.run(take(FIRST));
    assert!(changed(&done), "{done:#}");
    assert_eq!(done["running"], true);
    runs(&world, "after a snapshot");
}

#[test]
fn what_others_have_frozen_is_refused() {
    let world = frozen("lvmthin");
    for options in [take(FIRST), json!({"state": "absent", "retain": 1})] {
        let refused = world.run(options);
        assert_eq!(reason(&refused), "frozen");
        says(&refused, &["CT 301 is frozen", "lxc-unfreeze -n 301", "nothing was changed"]);
    }
    world.patch(json!({"containers": {"301": {"frozen": false}}}));
    world.present(FIRST);
    world.patch(json!({"containers": {"301": {"frozen": true}}}));
    assert_eq!(reason(&world.run(back(json!({})))), "frozen");
    let info = world.info(json!(301));
    assert_eq!(info["snapshots"][0]["ready_to_roll_back"], false, "{info:#}");
    assert!(info["snapshots"][0]["why"][0].as_str().unwrap().contains("lxc-unfreeze -n 301"));
    assert_eq!(world.info(Value::Null)["containers"][0]["frozen"], true);
    // A backup freezes as well, and thaws when it is done: its lock says so.
    world.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    let locked = world.run(json!({"deploy_id": SECOND, "lock_timeout": 0}));
    assert_eq!(reason(&locked), "locked");
    assert_eq!(world.container()["frozen"], true);
    assert!(!world.calls().iter().any(|call| call.starts_with("pct shutdown")));
}

#[test]
fn what_others_freeze_meanwhile_is_not_shut_down() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.patch(json!({"clock_offset": 100}));
    world.present(SECOND);
    let frozen = json!({"containers": {"301": {"frozen": true}}});
    world.faults(json!([{"command": "pct delsnapshot", "at": "end", "patch": frozen}]));
    let failed = world.run(back(json!({"rollback_id": THIRD, "accept": ["newer_snapshots"]})));
    assert_eq!(reason(&failed), "frozen", "{failed:#}");
    says(&failed, &["was not rolled back, and was not stopped", "lxc-unfreeze -n 301"]);
    assert!(!world.calls().iter().any(|call| call.starts_with("pct shutdown")));
}

#[test]
fn one_that_stands_still_is_not_called_running() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    assert!(changed(&world.run(back(json!({})))));
    world.patch(json!({"containers": {"301": {"frozen": true}}}));
    let again = world.run(back(json!({})));
    assert!(!changed(&again), "{again:#}");
    assert_eq!(again["running"], false);
}
