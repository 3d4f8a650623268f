//! kill -9 at every step, and the run after it; failures half way; tasks that hang; two at once.

use crate::common::{
    FIRST, SECOND, THIRD, World, back, called, changed, kill, name, on, reason, says, settled, take,
};
use serde_json::{Value, json};
use std::thread;

const VOLUMES: [&str; 7] =
    ["begin", "locked", "volume:1", "volume:2", "volumes", "committed", "end"];

#[test]
fn a_snapshot_killed_anywhere_is_there_after_the_next_run() {
    for kind in ["zfspool", "lvmthin"] {
        for both in [false, true] {
            for at in VOLUMES {
                let what = format!("{kind} {at} {both}");
                let world = World::new(on(kind));
                world.faults(kill("pct snapshot", at, both));
                world.run_killed(take(FIRST));
                world.faults(json!([]));
                let next = world.run(take(FIRST));
                assert_eq!(next.get("failed"), None, "{what}: {next:#}");
                assert_eq!(world.names(), [name(FIRST)], "{what}");
                settled(&world, &what);
                assert!(!changed(&world.run(take(FIRST))), "{what}");
            }
        }
    }
}

#[test]
fn another_deploy_clears_what_the_killed_one_left() {
    // Frozen from after the first to after the last.
    for (at, steps) in [("locked", 3), ("volume:2", 4), ("volumes", 4)] {
        let world = World::new(on("zfspool"));
        world.faults(kill("pct snapshot", at, true));
        world.run_killed(take(FIRST));
        let predicted = world.run(json!({"deploy_id": SECOND, "_ansible_check_mode": true}));
        let next = world.run(take(SECOND));
        assert!(changed(&next));
        assert_eq!(predicted["plan"], next["plan"]);
        assert_eq!(next["plan"].as_array().unwrap().len(), steps, "{next:#}");
        assert_eq!(world.names(), [name(SECOND)], "{at}");
        settled(&world, at);
    }
}

#[test]
fn a_removal_killed_anywhere_is_finished_by_the_next_run() {
    for both in [false, true] {
        for at in VOLUMES {
            let what = format!("{at} {both}");
            let world = World::new(on("zfspool"));
            world.present(FIRST);
            world.faults(kill("pct delsnapshot", at, both));
            let options =
                json!({"state": "absent", "deploy_id": FIRST, "confirm": true, "lock_timeout": 20});
            world.run_killed(options.clone());
            world.faults(json!([]));
            let next = world.run(options);
            assert_eq!(next.get("failed"), None, "{what}: {next:#}");
            assert!(world.names().is_empty(), "{what}");
            settled(&world, &what);
        }
    }
}

fn rollback_points() -> Vec<(&'static str, &'static str)> {
    let mut points = vec![("pct status", "begin"), ("pct start", "begin"), ("pct start", "end")];
    points.extend(["begin", "stopped", "end"].map(|at| ("pct shutdown", at)));
    points.extend(VOLUMES.map(|at| ("pct snapshot", at)));
    points.extend(VOLUMES.map(|at| ("pct rollback", at)));
    points
}

fn killed_rollback(kind: &str, both: bool) {
    for (command, at) in rollback_points() {
        if kind == "zfspool" && command == "pct snapshot" {
            continue;
        }
        let what = format!("{kind} {command} {at} {both}");
        let world = World::new(on(kind));
        world.present(FIRST);
        world.write("2");
        world.faults(kill(command, at, both));
        world.run_killed(back(json!({})));
        world.faults(json!([]));
        let next = world.run(back(json!({})));
        assert_eq!(next.get("failed"), None, "{what}: {next:#}");
        assert_eq!(world.content(), ["system 1", "data 1"], "{what}");
        assert_eq!(world.container()["running"], true, "{what}");
        settled(&world, &what);
        if kind == "lvmthin" {
            let kept = &world.show()["volumes"]["st:disk-1"]["snapshots"];
            let kept: Vec<&Value> = kept.as_array().unwrap().iter().collect();
            let safe = kept.iter().find(|one| one["name"] == format!("failed-{SECOND}"));
            assert_eq!(safe.unwrap()["content"], "data 2", "{what}");
        }
        world.write("3");
        assert!(!changed(&world.run(back(json!({})))), "{what}");
        assert_eq!(world.content(), ["system 3", "data 3"], "{what}");
    }
}

#[test]
fn a_rollback_killed_alone_is_finished_by_the_next_run() {
    killed_rollback("lvmthin", false);
}

#[test]
fn a_rollback_killed_with_proxmox_is_finished_by_the_next_run() {
    killed_rollback("lvmthin", true);
}

#[test]
fn the_same_on_zfs() {
    killed_rollback("zfspool", false);
    killed_rollback("zfspool", true);
}

#[test]
fn a_confirmed_plan_holds_for_the_rest_of_a_killed_run() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.write("2");
    let plan = world.run(back(json!({"_ansible_check_mode": true})))["plan_id"].take();
    let confirmed = back(json!({"confirm": plan, "rollback_id": null}));
    world.faults(kill("pct rollback", "volume:2", true));
    world.run_killed(confirmed.clone());
    let next = world.run(confirmed.clone());
    assert!(changed(&next));
    assert_eq!(world.content(), ["system 1", "data 1"]);
    assert!(!changed(&world.run(confirmed)));
}

#[test]
fn nothing_else_is_done_while_a_rollback_is_half_way() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.faults(kill("pct rollback", "volume:2", true));
    world.run_killed(back(json!({})));
    for options in [take(THIRD), json!({"state": "absent", "deploy_id": FIRST, "confirm": true})] {
        let refused = world.run(options);
        assert_eq!(reason(&refused), "unfinished");
        says(&refused, &[SECOND, &name(FIRST), "half way"]);
    }
    assert_eq!(world.container()["config"]["lock"], "rollback");
    // Another rollback may take over.
    let other = world.run(back(json!({"rollback_id": THIRD})));
    assert!(changed(&other));
    assert!(changed(&world.run(take("20261121t093000z-0003"))));
}

#[test]
fn a_rollback_of_which_the_end_is_not_known_is_not_done_twice() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.write("2");
    world.faults(kill("pct rollback", "end", false));
    world.run_killed(back(json!({})));
    // Somebody starts it, and it serves for a day.
    world.patch(json!({"containers": {"301": {"running": true}}}));
    world.write("3");
    // What the killed run had called has the lock until it has ended, too.
    let refused = world.run(back(json!({"lock_timeout": 60})));
    assert_eq!(reason(&refused), "unfinished");
    says(&refused, &["somebody has started", "rollback_id"]);
    assert_eq!(world.content(), ["system 3", "data 3"]);
    assert!(changed(&world.run(back(json!({"rollback_id": THIRD})))));
}

#[test]
fn a_second_volume_that_fails_leaves_a_lock_and_a_way_on() {
    for kind in ["zfspool", "lvmthin"] {
        let world = World::new(on(kind));
        world.present(FIRST);
        world.write("2");
        let (text, how) = match kind {
            "zfspool" => ("dataset is busy", "put right what failed and run"),
            // A rollback was killed after LVM had removed the volume.
            _ => (
                "lvremove 'pve/disk-1' error:   Failed to find logical volume \"pve/disk-1\"",
                "`lvcreate -kn -n disk-1 -s pve/snap_disk-1_pre-deploy-20261121t084500z-7f3a` does it",
            ),
        };
        world.faults(json!([{"command": "pct rollback", "nth": 1, "at": "volume:2", "fail": {"text": text}}]));
        let failed = world.run(back(json!({})));
        assert_eq!(reason(&failed), "half_rolled_back", "{failed:#}");
        says(&failed, &["is stopped", "lock rollback", "same task again", text, how]);
        assert_eq!(failed["rolled_back"], false);
        let container = world.container();
        assert_eq!(container["config"]["lock"], "rollback");
        assert_eq!(container["running"], false);
        let next = world.run(back(json!({})));
        assert!(changed(&next));
        assert_eq!(
            next["plan"][0].as_str().unwrap().split(',').next(),
            Some("remove the lock rollback")
        );
        assert_eq!(world.content(), ["system 1", "data 1"]);
        assert_eq!(world.container()["running"], true);
        settled(&world, kind);
    }
}

#[test]
fn a_rollback_that_is_refused_late_leaves_the_container_running() {
    for (fault, expected) in [
        (
            json!({"command": "pct snapshot", "at": "volume:2", "fail": {"text": "no space left"}}),
            "no_space",
        ),
        (
            json!({"command": "pct rollback", "at": "begin", "fail": {"text": "odd"}}),
            "command_failed",
        ),
        (
            json!({"command": "pct rollback", "at": "begin", "fail": {"text": "odd", "rc": 0}}),
            "not_verified",
        ),
    ] {
        let world = World::new(on("lvmthin"));
        world.present(FIRST);
        world.write("2");
        world.faults(json!([fault]));
        let failed = world.run(back(json!({})));
        assert_eq!(reason(&failed), expected, "{failed:#}");
        assert_eq!(world.content(), ["system 2", "data 2"]);
        if expected != "not_verified" {
            says(&failed, &["was not rolled back, and runs again"]);
            assert_eq!(world.container()["running"], true, "{failed:#}");
            settled(&world, expected);
        }
    }
}

#[test]
fn quorum_that_is_lost_meanwhile_stops_before_the_rollback() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.write("2");
    world.patch(json!({"cluster": "home", "nodes": ["pve2"]}));
    world.faults(json!([{"command": "pct shutdown", "at": "end", "patch": {"quorate": false}}]));
    let failed = world.run(back(json!({})));
    assert_eq!(reason(&failed), "no_quorum", "{failed:#}");
    says(&failed, &["quorum", "could NOT be started again"]);
    assert!(!world.calls().iter().any(|call| call.starts_with("pct rollback")));
    world.patch(json!({"quorate": true}));
    world.faults(json!([]));
    assert!(changed(&world.run(back(json!({"start": "always"})))));
}

#[test]
fn a_task_that_hangs_ends_at_its_deadline_and_is_not_disturbed() {
    let world = World::new(on("lvmthin"));
    world.faults(json!([{"command": "pct snapshot", "nth": 1, "at": "volume:2", "slow_ms": 6000}]));
    let options = json!({"deploy_id": FIRST, "task_timeout": 1});
    let late = world.run(options.clone());
    assert_eq!(reason(&late), "timed_out", "{late:#}");
    says(&late, &["was told to end", "task_timeout"]);
    let next = world.run(json!({"deploy_id": FIRST, "lock_timeout": 20}));
    assert_eq!(next.get("failed"), None, "{next:#}");
    assert_eq!(world.names(), [name(FIRST)]);
    settled(&world, "after a hang");
}

#[test]
fn a_rollback_that_hangs_is_left_alone() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.write("2");
    world.faults(json!([{"command": "pct rollback", "nth": 1, "at": "volume:2", "hang": true}]));
    let late = world.run(back(json!({"task_timeout": 1})));
    assert_eq!(reason(&late), "timed_out", "{late:#}");
    says(&late, &["task_timeout"]);
    assert_eq!(world.container()["running"], false);
    let next = world.run(back(json!({})));
    assert!(changed(&next));
    assert_eq!(world.content(), ["system 1", "data 1"]);
}

#[test]
fn two_at_once_take_one_snapshot() {
    let world = World::new(on("lvmthin"));
    world.faults(json!([{"command": "pct snapshot", "at": "volume:1", "slow_ms": 500}]));
    let results: Vec<Value> = thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| world.run(json!({"deploy_id": FIRST, "lock_timeout": 30}))))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| changed(result)).count(), 1);
    world.faults(json!([{"command": "pct snapshot", "at": "volume:1", "hang": true}]));
    let held = {
        let mut first = world.spawn(&json!({"deploy_id": SECOND}));
        called(&world, &format!("pct snapshot 301 {}", name(SECOND)));
        let second = world.run(json!({"deploy_id": THIRD}));
        first.kill().unwrap();
        first.wait().unwrap();
        second
    };
    assert_eq!(reason(&held), "lock_held", "{held:#}");
}

#[test]
fn a_signal_ends_a_rollback_before_or_after_a_step() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.write("2");
    world.faults(json!([{"command": "pct snapshot", "at": "volume:1", "slow_ms": 2500}]));
    let run = world.spawn(&back(json!({})));
    called(&world, &format!("pct snapshot 301 failed-{SECOND}"));
    let pid = run.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let output = run.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reason(&said), "interrupted", "{said:#}");
    assert_eq!(world.content(), ["system 2", "data 2"]);
    assert_eq!(world.container()["running"], true, "{said:#}");
    settled(&world, "after a signal");
}
