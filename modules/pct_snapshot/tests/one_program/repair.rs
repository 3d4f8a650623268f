//! What the run after a killed one does, and the run after that one when it is killed as well.

use crate::common::{
    FIRST, SECOND, THIRD, World, back, changed, kill, on, reason, says, settled, take,
};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn a_repair_that_is_killed_is_repaired() {
    for (command, at) in [
        ("pct unlock", "begin"),
        ("pct unlock", "end"),
        ("pct delsnapshot", "begin"),
        ("pct delsnapshot", "locked"),
        ("pct delsnapshot", "volume:2"),
        ("pct delsnapshot", "end"),
    ] {
        for rolls_back in [false, true] {
            let what = format!("{command} {at} {rolls_back}");
            let world = World::new(on("lvmthin"));
            let options = match rolls_back {
                true => {
                    world.present(FIRST);
                    back(json!({}))
                }
                false => take(FIRST),
            };
            world.write("2");
            world.faults(kill("pct snapshot", "volume:2", true));
            world.run_killed(options.clone());
            world.faults(kill(command, at, true));
            world.run_killed(options.clone());
            world.faults(json!([]));
            let next = world.run(options);
            assert_eq!(next.get("failed"), None, "{what}: {next:#}");
            assert_eq!(world.container()["running"], true, "{what}");
            if rolls_back {
                assert_eq!(world.content(), ["system 1", "data 1"], "{what}");
                assert_eq!(next["safety_snapshot"], format!("failed-{SECOND}"), "{what}");
            }
            settled(&world, &what);
        }
    }
}

#[test]
fn a_run_killed_while_it_waits_for_the_boot_is_verified_by_the_next() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.write("2");
    let check = json!([{"argv": ["/bin/check"], "rc": 1}]);
    world.patch(json!({"containers": {"301": {"guest": {"exec": check}}}}));
    world.faults(json!([{"command": "pct exec", "nth": 2, "at": "begin", "kill_caller": true}]));
    let options = back(json!({"ready": ["/bin/check"], "boot_timeout": 2}));
    world.run_killed(options.clone());
    world.faults(json!([]));
    world.write("3");
    // It is not ready, and that is no success.
    let late = world.run(options.clone());
    assert_eq!(reason(&late), "not_ready", "{late:#}");
    let refused = world.run(take(THIRD));
    assert_eq!(reason(&refused), "unfinished");
    says(&refused, &["is done, but not that the container is ready", "start: never"]);
    world.patch(json!({"containers": {"301": {"guest": {"exec": [{"argv": ["/bin/check"]}]}}}}));
    assert!(changed(&world.run(options.clone())));
    assert!(!changed(&world.run(options)));
    assert_eq!(world.content(), ["system 3", "data 3"]);
    settled(&world, "after a boot");
}

#[test]
fn what_a_killed_run_had_stopped_runs_again_when_the_next_gives_up() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.write("2");
    world.faults(kill("pct shutdown", "stopped", true));
    world.run_killed(back(json!({})));
    assert_eq!(world.container()["running"], false);
    world.faults(
        json!([{"command": "pct snapshot", "at": "volume:2", "fail": {"text": "no space left"}}]),
    );
    let failed = world.run(back(json!({})));
    assert_eq!(reason(&failed), "no_space", "{failed:#}");
    says(&failed, &["was not rolled back, and runs again", "lvextend"]);
    assert_eq!(world.container()["running"], true);
    assert_eq!(world.content(), ["system 2", "data 2"]);
    settled(&world, "after giving up");
}

#[test]
fn what_a_killed_rollback_knew_does_not_mislead_the_next() {
    // The first is done and does not get ready; the second, to another snapshot, is killed thrice.
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.write("2");
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "second"}));
    world.write("3");
    let guest = json!({"exec": [{"argv": ["/bin/check"], "rc": 1}]});
    world.patch(json!({"containers": {"301": {"guest": guest}}}));
    let first = back(json!({"ready": ["/bin/check"], "boot_timeout": 0}));
    assert_eq!(reason(&world.run(first)), "not_ready");
    world.write("4");
    let second = json!({
        "state": "rolled_back", "name": "second", "rollback_id": THIRD, "confirm": true, "lock_timeout": 20,
    });
    for (command, at) in
        [("pct shutdown", "begin"), ("pct rollback", "begin"), ("pct rollback", "volume:2")]
    {
        world.faults(kill(command, at, true));
        world.run_killed(second.clone());
    }
    world.faults(json!([]));
    let done = world.run(second);
    assert!(changed(&done), "{done:#}");
    assert_eq!(world.content(), ["system 2", "data 2"]);
    assert_eq!(world.container()["running"], true);
    let undone = json!({
        "state": "rolled_back", "name": format!("failed-{THIRD}"), "confirm": true,
    });
    assert!(changed(&world.run(undone)));
    assert_eq!(world.content(), ["system 4", "data 4"]);
    settled(&world, "after two rollbacks");
}

#[test]
fn another_rollback_that_is_killed_still_knows_whose_lock_it_found() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.write("2");
    world.faults(kill("pct snapshot", "volume:2", true));
    world.run_killed(back(json!({})));
    let other = back(json!({"rollback_id": THIRD}));
    world.faults(kill("pct unlock", "begin", true));
    world.run_killed(other.clone());
    world.faults(json!([]));
    let done = world.run(other);
    assert!(changed(&done), "{done:#}");
    assert_eq!(world.content(), ["system 1", "data 1"]);
    assert_eq!(done["safety_snapshot"], format!("failed-{THIRD}"));
    settled(&world, "after another");
}

#[test]
fn a_lock_of_ours_is_left_alone_while_its_task_runs() {
    let world = World::new(on("lvmthin"));
    world.faults(kill("pct snapshot", "volume:2", true));
    world.run_killed(take(FIRST));
    world.faults(json!([]));
    let task = json!({
        "upid": "UPID:pve1:0001:0002:0003:vzsnapshot:301:root@pam:", "pid": std::process::id(),
        "kind": "vzsnapshot", "id": "301", "starttime": 1_800_000_000,
    });
    world.patch(json!({"tasks": [task]}));
    let refused = world.run(json!({"deploy_id": FIRST, "lock_timeout": 1}));
    assert_eq!(reason(&refused), "locked", "{refused:#}");
    says(&refused, &["still runs (UPID:pve1", "nothing was changed"]);
    assert_eq!(world.container()["config"]["lock"], "snapshot");
    world.patch(json!({"tasks": []}));
    assert!(changed(&world.run(take(FIRST))));
    settled(&world, "after the task");
}

#[test]
fn a_lock_of_ours_is_left_alone_where_no_task_can_be_seen() {
    let world = World::new(on("lvmthin"));
    world.faults(kill("pct snapshot", "volume:2", true));
    world.run_killed(take(FIRST));
    world.faults(json!([]));
    world.remove_program("pvesh");
    let refused = world.run(take(FIRST));
    assert_eq!(reason(&refused), "program_missing", "{refused:#}");
    says(&refused, &["CT 301", "pvesh", "nothing was changed"]);
    assert_eq!(world.container()["config"]["lock"], "snapshot");
}

#[test]
fn a_lock_of_the_same_kind_that_is_not_ours_is_left_alone() {
    let world = World::new(on("lvmthin"));
    world.faults(kill("pct snapshot", "begin", true));
    world.run_killed(take(FIRST));
    world.faults(json!([]));
    // Somebody's own snapshot broke off.
    world.patch(json!({"containers": {"301": {
        "config": {"lock": "snapshot"},
        "snapshots": {"by-hand": {"snaptime": 1_800_000_000, "snapstate": "prepare"}},
    }}}));
    // The killed command may need a moment to be gone.
    let refused = world.run(json!({"deploy_id": FIRST, "lock_timeout": 2}));
    assert_eq!(reason(&refused), "locked", "{refused:#}");
    says(&refused, &["a snapshot being taken, or broken off"]);
    assert_eq!(world.container()["config"]["lock"], "snapshot");
}

#[test]
fn a_removal_whose_volume_is_gone_already_is_finished() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.faults(kill("pct delsnapshot", "volume:2", true));
    let options =
        json!({"state": "absent", "deploy_id": FIRST, "confirm": true, "lock_timeout": 20});
    world.run_killed(options.clone());
    world.faults(json!([]));
    world.patch(json!({"volumes": {"st:disk-1": {"snapshots": []}}}));
    let next = world.run(options);
    assert_eq!(next.get("failed"), None, "{next:#}");
    assert!(world.names().is_empty());
    settled(&world, "after a removal");
}

#[test]
fn the_time_of_the_last_run_is_told() {
    let world = World::new(on("lvmthin"));
    world.faults(kill("pct snapshot", "begin", true));
    world.run_killed(take(FIRST));
    let first = world.info(json!(301))["unfinished"].take();
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = second();
    while second() == before {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    world.faults(kill("pct snapshot", "volume:2", true));
    world.run_killed(take(SECOND));
    world.faults(json!([]));
    let last = world.info(json!(301))["unfinished"].take();
    assert_ne!(first, last);
    let next = world.run(take(SECOND));
    assert!(changed(&next), "{next:#}");
    let left = format!("which the run of {}", last.as_str().unwrap());
    assert!(next["plan"][0].as_str().unwrap().contains(&left), "{next:#}");
}

#[test]
fn a_lock_of_ours_that_cannot_be_removed_stays_ours() {
    let world = World::new(on("lvmthin"));
    world.faults(kill("pct snapshot", "volume:2", true));
    world.run_killed(take(FIRST));
    world.faults(json!([{"command": "pct unlock", "at": "begin", "fail": {"text": "odd"}}]));
    let failed = world.run(take(FIRST));
    assert_eq!(reason(&failed), "command_failed", "{failed:#}");
    says(&failed, &["removing our own lock"]);
    world.faults(json!([]));
    assert!(changed(&world.run(take(FIRST))));
    settled(&world, "after a lock");
}
