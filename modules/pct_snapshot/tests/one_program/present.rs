//! Taking, keeping and removing snapshots, against the fake Proxmox.

use crate::common::{FIRST, FOURTH, SECOND, THIRD, World, called, changed, name, on, reason, says};
use serde_json::{Value, json};

#[test]
fn a_snapshot_is_taken_once_with_three_calls() {
    for kind in ["zfspool", "lvmthin", "btrfs", "rbd"] {
        let world = World::new(on(kind));
        let options =
            json!({"deploy_id": FIRST, "release": "4f2a9c1", "description": "before\nthat"});
        let mut checked = options.clone();
        checked["_ansible_check_mode"] = json!(true);
        let predicted = world.run(checked);
        assert!(world.names().is_empty() && !world.state_dir().exists(), "{kind}");
        world.forget_calls();
        let done = world.run(options.clone());
        assert!(changed(&done));
        for key in ["changed", "plan", "plan_id", "before", "after", "undo", "loss"] {
            assert_eq!(predicted[key], done[key], "{kind}: {key}");
        }
        assert_eq!(done["snapshot"], name(FIRST));
        let calls: Vec<String> =
            world.calls().into_iter().filter(|call| !call.starts_with("lxc-info")).collect();
        let verbs: Vec<&str> = calls.iter().filter_map(|call| call.split(" 301").next()).collect();
        assert_eq!(verbs, ["pct status", "pct snapshot", "pct status"], "{calls:?}");
        let taken = world.container()["snapshots"][name(FIRST)].take();
        let text = taken["description"].as_str().unwrap();
        assert_eq!(
            text.trim_end(),
            format!(
                "before\nthat\n[reversible.deploy 1 restore-point deploy={FIRST} release=4f2a9c1]"
            )
        );
        assert!(!changed(&world.run(options)), "{kind}: a second time");
    }
}

#[test]
fn a_name_that_somebody_else_took_is_refused() {
    let world = World::new(on("lvmthin"));
    world.patch(json!({"containers": {"301": {"snapshots": {
        "before": {"description": "by hand", "snaptime": 1_700_000_000},
        "Before": {"description": "another", "snaptime": 1_700_000_001},
    }}}}));
    let refused = world.run(json!({"name": "before"}));
    assert_eq!(reason(&refused), "name_taken");
    says(&refused, &["before (2023-11-14T22:13:20Z)", "the marker of this module"]);
    assert!(changed(&world.run(json!({"name": "beforE", "deploy_id": FIRST}))));
    assert!(!changed(&world.run(json!({"name": "beforE", "deploy_id": FIRST}))));
    let other = world.run(json!({"name": "beforE", "deploy_id": SECOND}));
    assert_eq!(reason(&other), "name_taken");
    says(&other, &["another deploy", FIRST]);
}

#[test]
fn without_an_id_it_is_given_one() {
    let world = World::new(on("zfspool"));
    let done = world.run(json!({}));
    assert!(changed(&done));
    let given = done["deploy_id"].as_str().unwrap();
    assert_eq!(done["snapshot"], name(given));
    assert_eq!(world.names(), [name(given)]);
}

#[test]
fn what_retain_gives_up_is_ours_and_old() {
    let world = World::new(on("lvmthin"));
    world.patch(json!({"containers": {"301": {"snapshots": {
        "pre-deploy-by-hand": {"description": "not ours", "snaptime": 1_000_000_000},
        "vzdump-like": {"description": "[reversible.deploy", "snaptime": 1_000_000_001},
    }}}}));
    for (id, at) in [(FIRST, 1_800_000_000), (SECOND, 1_800_000_100), (THIRD, 1_800_000_200)] {
        world.patch(json!({"clock": at}));
        assert!(changed(&world.present(id)));
    }
    world.patch(json!({"clock": 1_800_000_300}));
    world.run(json!({"name": "of-another-app", "app": "mail"}));
    let options = json!({"deploy_id": FOURTH, "retain": 2, "keep": [FIRST]});
    let done = world.run(options.clone());
    assert!(changed(&done), "{done:#}");
    let left = [name(FIRST), name(THIRD), name(FOURTH), "of-another-app".into()];
    let mut names = world.names();
    names.retain(|one| !one.contains("hand") && !one.contains("vzdump"));
    assert_eq!(names, {
        let mut left = left.to_vec();
        left.sort();
        left
    });
    assert_eq!(world.names().len(), 6);
    assert!(!changed(&world.run(options)));
    // The chain was thinned out: snapshots of which the removed one was the parent have its parent now.
    let parent = world.container()["snapshots"][name(THIRD)]["config"]["parent"].take();
    assert_eq!(parent, name(FIRST));
}

#[test]
fn nothing_is_pruned_when_the_new_one_fails() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.faults(
        json!([{"command": "pct snapshot", "at": "volume:2", "fail": {"text": "no space left"}}]),
    );
    let failed = world.run(json!({"deploy_id": SECOND, "retain": 1}));
    assert_eq!(reason(&failed), "no_space", "{failed:#}");
    assert_eq!(world.names(), [name(FIRST)]);
    assert_eq!(world.container()["config"].get("lock"), None);
    // Nothing waits to be finished.
    assert_eq!(world.info(json!(301))["unfinished"], Value::Null);
}

#[test]
fn removing_needs_consent_and_our_marker() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.patch(json!({"containers": {"301": {"snapshots": {"by-hand": {"snaptime": 7}}}}}));
    let absent = |more: Value| {
        let mut options = json!({"state": "absent", "deploy_id": FIRST});
        for (key, value) in more.as_object().unwrap() {
            options[key] = value.clone();
        }
        world.run(options)
    };
    let asked = absent(json!({}));
    assert_eq!(reason(&asked), "needs_consent");
    assert_eq!(reason(&absent(json!({"confirm": true, "keep": [name(FIRST)]}))), "kept");
    let theirs = world.run(json!({"state": "absent", "name": "by-hand", "confirm": true}));
    assert_eq!(reason(&theirs), "not_ours");
    assert_eq!(reason(&absent(json!({"confirm": "plan-000000000000"}))), "plan_moved");
    assert_eq!(world.names().len(), 2);
    world.forget_calls();
    assert!(changed(&absent(json!({"confirm": asked["plan_id"]}))));
    assert!(world.costly_calls().len() <= 1, "{:?}", world.costly_calls());
    assert_eq!(world.names(), ["by-hand"]);
    assert!(!changed(&absent(json!({"confirm": true}))));
}

#[test]
fn a_removal_that_fails_leaves_no_lock() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.faults(json!([{"command": "pct delsnapshot", "nth": 1, "at": "volume:2", "fail": {"text": "dataset is busy"}}]));
    let options = json!({"state": "absent", "deploy_id": FIRST, "confirm": true});
    let failed = world.run(options.clone());
    assert_eq!(reason(&failed), "command_failed", "{failed:#}");
    // Its first volume's snapshot is gone.
    says(
        &failed,
        &["incomplete now", "no rollback to it is possible", "run the task again", "busy"],
    );
    assert_eq!(failed["changed"], true);
    assert_eq!(world.container()["config"].get("lock"), None);
    let info = world.info(json!(301));
    assert_eq!(info["snapshots"][0]["complete"], false);
    assert_eq!(info["snapshots"][0]["ready_to_roll_back"], false);
    assert!(changed(&world.run(options)));
    assert!(world.names().is_empty());
}

#[test]
fn a_removal_that_did_not_begin_has_changed_nothing() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.faults(json!([{"command": "pct delsnapshot", "at": "begin", "fail": {"text": "No space left on device"}}]));
    let failed = world.run(json!({"state": "absent", "deploy_id": FIRST, "confirm": true}));
    assert_eq!(reason(&failed), "no_space", "{failed:#}");
    assert_eq!(failed["changed"], false);
    says(&failed, &["even a removal needs"]);
    let msg = failed["msg"].as_str().unwrap();
    assert!(!msg.contains("incomplete") && !msg.contains("remove a snapshot"), "{msg}");
    assert_eq!(world.info(json!(301))["snapshots"][0]["complete"], true);
}

#[test]
fn pruning_that_fails_is_made_good_by_the_next_run() {
    for unlock_fails in [false, true] {
        let world = World::new(on("zfspool"));
        world.present(FIRST);
        world.patch(json!({"clock_offset": 100}));
        let mut faults = json!([{"command": "pct delsnapshot", "nth": 1, "at": "volume:2", "fail": {"text": "dataset is busy"}}]);
        if unlock_fails {
            let unlock = json!({"command": "pct unlock", "nth": 1, "fail": {"text": "odd"}});
            faults.as_array_mut().unwrap().push(unlock);
        }
        world.faults(faults);
        let failed = world.run(json!({"deploy_id": SECOND, "retain": 1}));
        assert_eq!(reason(&failed), "command_failed", "{failed:#}");
        assert_eq!(failed["changed"], true);
        let lock = world.container()["config"].get("lock").cloned();
        assert_eq!(lock, unlock_fails.then(|| json!("snapshot-delete")));
        world.patch(json!({"clock_offset": 200}));
        let next = world.run(json!({"deploy_id": THIRD, "retain": 2}));
        assert!(changed(&next), "{next:#}");
        assert_eq!(world.names(), [name(SECOND), name(THIRD)], "{next:#}");
        assert_eq!(world.container()["config"].get("lock"), None);
        assert_eq!(world.info(json!(301))["unfinished"], Value::Null);
    }
}

#[test]
fn the_cause_of_a_missing_feature_is_named() {
    let (take_out, move_on) =
        ("out of its configuration", "`pct move-volume 301 rootfs <storage>`");
    for (key, value, kind, part, cure, other) in [
        (
            "mp1",
            "/srv/shared,mp=/shared",
            "lvmthin",
            "mp1 (/shared, a bind mount of /srv/shared)",
            take_out,
            "pct move-volume",
        ),
        ("mp1", "/dev/sdb,mp=/raw", "lvmthin", "the device /dev/sdb", take_out, "pct move-volume"),
        ("cores", "2", "dir", "on a storage of type dir", move_on, take_out),
    ] {
        let world = World::new(on(kind));
        world.patch(json!({"containers": {"301": {"config": {key: value}}}}));
        let refused = world.present(FIRST);
        assert_eq!(reason(&refused), "no_snapshots");
        says(&refused, &[part, cure]);
        assert!(!refused["msg"].as_str().unwrap().contains(other), "{refused:#}");
        assert!(!world.calls().iter().any(|call| call.starts_with("pct snapshot")));
    }
    // Where the storages cannot be known, Proxmox says so itself.
    let world = World::bare(on("dir"));
    let refused = world.present(FIRST);
    assert_eq!(reason(&refused), "no_snapshots", "{refused:#}");
}

#[test]
fn a_lock_is_waited_for_and_named() {
    let world = World::new(on("lvmthin"));
    world.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    let refused = world.run(json!({"deploy_id": FIRST, "lock_timeout": 1}));
    assert_eq!(reason(&refused), "locked");
    says(&refused, &["backup (vzdump)", "after 1 s", "pct unlock 301", "nothing was changed"]);
    assert_eq!(refused["lock"], "backup");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| world.run(json!({"deploy_id": FIRST, "lock_timeout": 60})));
        // It has seen the lock, since it has asked whether the container runs; what it reads then is a file.
        called(&world, "pct status");
        world.patch(json!({"containers": {"301": {"config": {"lock": null}}}}));
        assert!(changed(&run.join().unwrap()));
    });
}

#[test]
fn a_rollback_of_others_that_broke_off_is_not_to_be_unlocked_and_started() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.faults(json!([{"command": "pct rollback", "at": "volume:2", "kill_self": true}]));
    let name = name(FIRST);
    world.by_hand(&["rollback", "301", &name]);
    let refused = world.run(json!({"deploy_id": SECOND}));
    assert_eq!(reason(&refused), "locked");
    says(
        &refused,
        &[
            "half old and half new",
            "never unlock and start",
            "pct unlock 301 && pct rollback 301 <snapshot>",
        ],
    );
    // What it says is the way out.
    world.faults(json!([]));
    assert!(world.by_hand(&["unlock", "301"]) && world.by_hand(&["rollback", "301", &name]));
    assert_eq!(world.content(), ["system 1", "data 1"]);
}

#[test]
fn a_lock_that_comes_between_looking_and_taking_is_waited_for_too() {
    let world = World::new(on("lvmthin"));
    world.faults(json!([{"command": "pct snapshot", "nth": 1, "patch": {
        "containers": {"301": {"config": {"lock": "fstrim"}}},
        "events": [{"after_ms": 800, "patch": {"containers": {"301": {"config": {"lock": null}}}}}],
    }}]));
    assert!(changed(&world.run(json!({"deploy_id": FIRST, "lock_timeout": 20}))));
}

#[test]
fn success_without_a_snapshot_is_a_failure() {
    let world = World::new(on("lvmthin"));
    world
        .faults(json!([{"command": "pct snapshot", "at": "begin", "fail": {"text": "", "rc": 0}}]));
    assert_eq!(reason(&world.present(FIRST)), "not_verified");
}

#[test]
fn a_stopped_container_and_one_without_pvesh() {
    for change in ["stopped", "no pvesh", "pvesh fails", "bare"] {
        let world =
            if change == "bare" { World::bare(on("zfspool")) } else { World::new(on("zfspool")) };
        match change {
            "stopped" => world.patch(json!({"containers": {"301": {"running": false}}})),
            "no pvesh" => world.remove_program("pvesh"),
            "pvesh fails" => {
                world.faults(json!([{"command": "pvesh", "fail": {"text": "500 odd"}}]))
            }
            _ => {}
        }
        let done = world.run(json!({"deploy_id": FIRST, "description": "two\nlines"}));
        assert!(changed(&done), "{change}: {done:#}");
        assert!(!changed(&world.run(json!({"deploy_id": FIRST}))), "{change}");
        assert_eq!(done.get("warnings"), None, "{done:#}");
        assert_eq!(world.info(json!(301))["snapshots"][0]["deploy_id"], FIRST, "{change}");
    }
}

#[test]
fn changes_that_wait_for_the_next_start_are_not_what_is() {
    let world = World::new(on("lvmthin"));
    world.patch(json!({"containers": {"301": {"pending": {"mp1": "/srv/shared,mp=/shared"}}}}));
    assert!(changed(&world.run(json!({"deploy_id": FIRST}))));
    world.patch(json!({"containers": {"301": {
        "config": {"mp1": "/srv/other,mp=/other"}, "pending": {"mp1": null, "delete": "mp1"},
    }}}));
    let refused = world.run(json!({"deploy_id": FIRST, "state": "rolled_back", "confirm": true}));
    says(&refused, &["mp1 (/other, a bind mount of /srv/other)", "uncovered_mounts"]);
}
