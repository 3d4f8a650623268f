//! Rollbacks against the fake Proxmox: what it costs, what it refuses, what it verifies.

use crate::common::{FIRST, SECOND, THIRD, World, changed, name, on, reason, says};
use serde_json::{Value, json};

/// A world with a restore point, and with something written since.
fn deployed(kind: &str) -> World {
    let world = World::new(on(kind));
    assert!(changed(&world.present(FIRST)));
    world.write("2");
    world.forget_calls();
    world
}

fn back(more: Value) -> Value {
    let mut options = json!({"state": "rolled_back", "deploy_id": FIRST, "rollback_id": SECOND});
    for (key, value) in more.as_object().unwrap() {
        options[key] = value.clone();
    }
    options
}

const OLD: [&str; 2] = ["system 1", "data 1"];
const NEW: [&str; 2] = ["system 2", "data 2"];

#[test]
fn there_and_back_and_undone_with_four_calls() {
    for kind in ["lvmthin", "btrfs", "rbd"] {
        let world = deployed(kind);
        let predicted = world.run(back(json!({"_ansible_check_mode": true})));
        assert_eq!(world.content(), NEW);
        let asked = world.run(back(json!({})));
        assert_eq!(reason(&asked), "needs_consent");
        assert_eq!(asked["plan_id"], predicted["plan_id"]);
        world.forget_calls();
        let done = world.run(back(json!({"confirm": predicted["plan_id"]})));
        assert!(changed(&done));
        for key in ["changed", "plan", "plan_id", "before", "after", "undo", "loss"] {
            assert_eq!(predicted[key], done[key], "{kind}: {key}");
        }
        let calls = world.costly_calls();
        assert!(calls.len() <= 4, "{calls:#?}");
        assert_eq!(world.content(), OLD);
        assert_eq!(done["running"], true);
        let failed = format!("failed-{SECOND}");
        assert_eq!(done["safety_snapshot"], failed.as_str());
        assert!(done["undo"].as_str().unwrap().contains(&failed));
        // The same rollback again is none, whatever was written since.
        world.write("3");
        let again = world.run(back(json!({"confirm": true})));
        assert!(!changed(&again));
        assert!(again["warnings"][0].as_str().unwrap().contains("is not done again"));
        assert_eq!(world.content(), ["system 3", "data 3"]);
        let undone = world.run(json!({
            "state": "rolled_back", "name": failed, "rollback_id": THIRD, "confirm": true,
        }));
        assert!(changed(&undone));
        assert_eq!(world.content(), NEW);
    }
}

#[test]
fn zfs_says_that_it_cannot_be_undone() {
    let world = deployed("zfspool");
    let done = world.run(back(json!({"confirm": true})));
    assert!(changed(&done));
    assert!(done["undo"].as_str().unwrap().starts_with("none: ZFS"));
    assert_eq!(done["safety_snapshot"], Value::Null);
    assert!(world.costly_calls().len() <= 4, "{:#?}", world.costly_calls());
    assert_eq!((world.content(), world.names()), (OLD.map(str::to_owned), vec![name(FIRST)]));
}

#[test]
fn zfs_gives_up_newer_snapshots_only_when_they_are_accepted() {
    let world = deployed("zfspool");
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "later"}));
    world.patch(json!({"clock_offset": 200}));
    world.run(json!({"name": "latest"}));
    let refused = world.run(back(json!({"confirm": true})));
    assert_eq!(reason(&refused), "needs_consent");
    says(&refused, &["the snapshot latest (", "the snapshot later (", "accept: [newer_snapshots]"]);
    assert_eq!(world.names().len(), 3);
    let kept = json!({"confirm": true, "accept": ["newer_snapshots"], "keep": ["later"]});
    assert_eq!(reason(&world.run(back(kept))), "kept");
    world.forget_calls();
    assert!(changed(&world.run(back(json!({"confirm": true, "accept": ["newer_snapshots"]})))));
    let calls = world.costly_calls();
    let removed: Vec<&str> =
        calls.iter().filter_map(|call| call.strip_prefix("pct delsnapshot 301 ")).collect();
    assert_eq!(removed, ["latest", "later"]);
    assert_eq!((world.content(), world.names()), (OLD.map(str::to_owned), vec![name(FIRST)]));
}

#[test]
fn other_storages_keep_newer_snapshots() {
    let world = deployed("lvmthin");
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "later"}));
    assert!(changed(&world.run(back(json!({"confirm": true})))));
    assert_eq!(world.names(), [format!("failed-{SECOND}"), "later".into(), name(FIRST)]);
}

#[test]
fn a_plan_that_moved_is_refused() {
    let world = deployed("zfspool");
    let seen = world.run(back(json!({"_ansible_check_mode": true})))["plan_id"].take();
    world.write("2b");
    let same = world.run(back(json!({"_ansible_check_mode": true})))["plan_id"].take();
    assert_eq!(seen, same, "what is written moves no plan");
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "later"}));
    let refused = world.run(back(json!({"confirm": seen})));
    assert_eq!(reason(&refused), "plan_moved");
    assert_eq!(world.content(), ["system 2b", "data 2b"]);
}

#[test]
fn what_a_newer_snapshot_holds_is_counted_once() {
    let world = deployed("zfspool");
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "later"}));
    let name = name(FIRST);
    let rows = format!(
        "disk-0\\t5\\t99\\t1000000\\t-\\t-\\nrpool/data/disk-0@{name}\\t6\\t7\\t1\\t0\\t\\n\
         rpool/data/disk-0@later\\t7\\t900000\\t1000000\\t0\\t\\n\
         rpool/data/disk-1\\t5\\t99\\t0\\t-\\t-\\nrpool/data/disk-1@{name}\\t6\\t7\\t1\\t0\\t"
    );
    world.add_program("zfs", &format!("#!/bin/sh\nprintf 'rpool/data/{rows}\\n'\n"));
    let accept = json!(["newer_snapshots"]);
    let over = world.run(back(json!({"confirm": true, "accept": accept, "max_loss": "1M"})));
    assert_eq!(reason(&over), "over_max_loss");
    let bytes: Vec<u64> =
        over["loss"].as_array().unwrap().iter().filter_map(|loss| loss["bytes"].as_u64()).collect();
    assert_eq!(bytes, [0, 2_000_000], "{over:#}");
    let done = world.run(back(json!({"confirm": true, "accept": accept, "max_loss": "2M"})));
    assert!(changed(&done), "{done:#}");
}

#[test]
fn how_much_is_lost_is_bounded() {
    let world = deployed("zfspool");
    let over = world.run(back(json!({"confirm": true, "max_loss": "1M"})));
    assert_eq!(reason(&over), "over_max_loss");
    says(&over, &["cannot be measured"]);
    let rows = |written: u32| {
        let name = name(FIRST);
        let lines: Vec<String> = [0, 1]
            .iter()
            .flat_map(|n| {
                let set = format!("rpool/data/disk-{n}");
                [
                    format!("{set}\\t5\\t99\\t{written}\\t-\\t-"),
                    format!("{set}@{name}\\t6\\t7\\t1\\t0\\t"),
                ]
            })
            .collect();
        format!("#!/bin/sh\nprintf '{}\\n'\n", lines.join("\\n"))
    };
    world.add_program("zfs", &rows(1_000_000));
    let over = world.run(back(json!({"confirm": true, "max_loss": "1M"})));
    assert_eq!(over["loss"][0]["bytes"], 2_000_000);
    assert_eq!(reason(&over), "over_max_loss");
    world.add_program("zfs", &rows(1_000));
    assert!(changed(&world.run(back(json!({"confirm": true, "max_loss": "1M"})))));
}

#[test]
fn snapshots_made_outside_are_named_before_or_explained_after() {
    let world = deployed("zfspool");
    let kept = json!([
        {"name": name(FIRST), "content": "system 1"}, {"name": "autosnap", "content": "x"},
    ]);
    world.patch(json!({"volumes": {"st:disk-0": {"snapshots": kept}}}));
    let explained = world.run(back(json!({"confirm": true})));
    assert_eq!(reason(&explained), "not_newest");
    says(&explained, &["made outside of Proxmox", "zfs list -t snapshot", "runs again"]);
    assert_eq!(world.container()["running"], true);
    let name = name(FIRST);
    world.add_program(
        "zfs",
        &format!(
            "#!/bin/sh\nprintf 'rpool/data/disk-0\\t5\\t9\\t9\\t-\\t-\\nrpool/data/disk-0@{name}\\t6\\t7\\t1\\t0\\t\\n\
             rpool/data/disk-0@autosnap\\t7\\t7\\t1\\t0\\t\\nrpool/data/disk-0#synced\\t7\\t-\\t-\\t-\\t-\\n'\n"
        ),
    );
    let refused = world.run(back(json!({"confirm": true})));
    assert_eq!(reason(&refused), "outside_snapshots");
    says(
        &refused,
        &["rpool/data/disk-0@autosnap", "rpool/data/disk-0#synced", "nothing was changed"],
    );
    let info = world.info(json!(301));
    assert_eq!(info["snapshots"][0]["ready_to_roll_back"], false);
    assert_eq!(info["snapshots"][0]["bytes"], 7);
}

#[test]
fn mounts_that_are_not_covered_are_named() {
    let world = deployed("zfspool");
    world.patch(json!({"containers": {"301": {"config": {
        "mp1": "/srv/shared,mp=/shared", "mp2": "st:disk-2,mp=/new",
        "lxc.mount.entry": "/srv/raw raw none bind",
    }}}}));
    let refused = world.run(back(json!({"confirm": true})));
    assert_eq!(reason(&refused), "needs_consent");
    says(
        &refused,
        &[
            "the mount point mp1 (/shared, a bind mount of /srv/shared), whose content stays as it is,",
            "the mount point mp2 (/new",
            "uncovered_mounts",
        ],
    );
    assert!(!refused["msg"].as_str().unwrap().contains("0 B"), "{refused:#}");
    world.forget_calls();
    let done = world.run(back(json!({"confirm": true, "accept": ["uncovered_mounts"]})));
    assert!(changed(&done));
    assert!(done["warnings"].to_string().contains("/srv/raw (at /raw), an lxc.mount.entry"));
    assert!(world.costly_calls().len() <= 4);
    assert_eq!(world.content(), OLD);
}

#[test]
fn what_would_fail_half_way_is_refused_while_the_container_runs() {
    type Change = fn(&World);
    let cases: [(&str, Change, &str); 5] = [
        (
            "no_quorum",
            |world| world.patch(json!({"cluster": "home", "nodes": ["pve2"], "quorate": false})),
            "no quorum",
        ),
        (
            "locked",
            |world| world.patch(json!({"containers": {"301": {"config": {"lock": "migrate"}}}})),
            "migration",
        ),
        (
            "template",
            |world| world.patch(json!({"containers": {"301": {"config": {"template": "1"}}}})),
            "template",
        ),
        (
            "incomplete",
            |world| {
                let broken = json!({"snapshots": {name(FIRST): {"snapstate": "prepare"}}});
                world.patch(json!({"containers": {"301": broken}}));
            },
            "snapstate prepare",
        ),
        (
            "ha_managed",
            |world| {
                world.patch(json!({"ha": {"ct:301": "started"}}));
                world.write_cluster_files(&world.show());
            },
            "ha-manager",
        ),
    ];
    for bare in [false, true] {
        for (expected, change, part) in &cases {
            let world = if bare { World::bare(on("zfspool")) } else { World::new(on("zfspool")) };
            world.present(FIRST);
            world.write("2");
            change(&world);
            world.forget_calls();
            let refused = world.run(back(json!({"confirm": true})));
            assert_eq!(reason(&refused), *expected, "bare: {bare}");
            says(&refused, &[part, "nothing was changed"]);
            assert_eq!(world.content(), NEW);
            assert_eq!(world.container()["running"], true);
            let writes = world
                .calls()
                .into_iter()
                .filter(|call| call.starts_with("pct ") && !call.starts_with("pct status "));
            assert_eq!(writes.collect::<Vec<_>>(), Vec::<String>::new(), "{expected}");
        }
    }
}

#[test]
fn a_refused_run_leaves_nothing_behind() {
    let world = World::new(on("lvmthin"));
    let config = world.container()["config"].take();
    let by_hand = json!({"snaptime": 7, "config": config});
    world.patch(json!({"containers": {"301": {"snapshots": {"by-hand": by_hand}}}}));
    for (options, expected) in [
        (json!({"state": "rolled_back", "name": "by-hand"}), "needs_consent"),
        (
            json!({"state": "rolled_back", "name": "by-hand", "rollback_id": SECOND}),
            "needs_consent",
        ),
        (
            json!({"state": "rolled_back", "name": "by-hand", "confirm": "plan-000000000000"}),
            "plan_moved",
        ),
        (
            json!({"state": "rolled_back", "name": "by-hand", "confirm": true, "max_loss": "1M"}),
            "over_max_loss",
        ),
        (json!({"state": "rolled_back", "name": "other", "confirm": true}), "no_snapshot"),
        (json!({"state": "absent", "name": "by-hand", "confirm": true}), "not_ours"),
    ] {
        assert_eq!(reason(&world.run(options.clone())), expected, "{options}");
        assert!(!world.state_dir().exists(), "{options}");
    }
    assert!(world.costly_calls().iter().all(|call| call.starts_with("pvesh get ")));
}

#[test]
fn replication_is_explained() {
    let world = deployed("zfspool");
    world.patch(json!({"nodes": ["pve2"], "cluster": "home", "replication": [{"guest": 301, "target": "pve2"}]}));
    world.write_cluster_files(&world.show());
    let done = world.run(back(json!({"confirm": true})));
    assert!(changed(&done));
    assert!(done["warnings"][0].as_str().unwrap().contains("replicated to pve2"), "{done:#}");
}

#[test]
fn a_missing_snapshot_comes_with_the_nearest_names() {
    let world = deployed("lvmthin");
    let refused =
        world.run(json!({"state": "rolled_back", "name": "pre-deploy-20261121t084500z-7f3b"}));
    assert_eq!(reason(&refused), "no_snapshot");
    says(&refused, &["similar names are", &name(FIRST)]);
    let other = json!({"state": "rolled_back", "name": name(FIRST), "deploy_id": SECOND});
    assert_eq!(reason(&world.run(other)), "wrong_snapshot");
}

#[test]
fn the_latest_is_that_of_proxmox_own_time() {
    let world = World::new(on("lvmthin"));
    for (id, at) in [(SECOND, 1_800_000_000), (FIRST, 1_800_000_100)] {
        world.patch(json!({"clock": at, "containers": {"301": {"running": true}}}));
        world.run(json!({"name": format!("z-{id}"), "deploy_id": id, "rollback_id": THIRD}));
    }
    world.patch(json!({"clock": 1_800_000_200}));
    world.patch(
        json!({"containers": {"301": {"snapshots": {"by-hand": {"snaptime": 1_900_000_000}}}}}),
    );
    let found =
        world.run(json!({"state": "rolled_back", "latest": true, "_ansible_check_mode": true}));
    assert_eq!(found["snapshot"], format!("z-{FIRST}"));
    let none = json!({"state": "rolled_back", "latest": true, "app": "mail"});
    assert_eq!(reason(&world.run(none)), "no_snapshot");
}

#[test]
fn it_starts_as_it_is_told() {
    for (was, start, is) in [
        (true, "as_before", true),
        (false, "as_before", false),
        (false, "always", true),
        (true, "never", false),
    ] {
        let world = deployed("lvmthin");
        world.patch(json!({"containers": {"301": {"running": was}}}));
        let done = world.run(back(json!({"confirm": true, "start": start})));
        assert!(changed(&done));
        assert_eq!(done["running"], is, "{was} {start}");
        assert_eq!(world.container()["running"], is, "{was} {start}");
        assert_eq!(done["after"]["running"], is);
    }
}

#[test]
fn a_deaf_container_is_killed_and_a_kill_asks_nobody() {
    let world = deployed("lvmthin");
    world.patch(json!({"containers": {"301": {"guest": {"shutdown_ms": null}}}}));
    let done = world.run(back(json!({"confirm": true, "shutdown_timeout": 1})));
    assert!(changed(&done));
    assert_eq!(world.content(), OLD);
    let world = deployed("lvmthin");
    assert!(changed(&world.run(back(json!({"confirm": true, "shutdown": "kill"})))));
    assert!(world.calls().contains(&"pct stop 301".to_owned()));
}

#[test]
fn booting_is_waited_for() {
    let world = deployed("lvmthin");
    world.patch(json!({"containers": {"301": {"guest": {
        "attach_ms": 300, "boot_ms": 2500, "systemd": "degraded",
    }}}}));
    let done = world.run(back(json!({"confirm": true, "boot_timeout": 30})));
    assert!(changed(&done));
    // Every 250 ms at first, and more and more seldom: 10 polls would be as many without that.
    let polls = world.calls().iter().filter(|call| call.starts_with("pct exec")).count();
    assert!((3..=8).contains(&polls), "{polls} polls");
    let seconds = done["steps"].as_array().unwrap().last().unwrap()["seconds"].as_f64().unwrap();
    assert!(seconds >= 2.5, "{done:#}");
}

#[test]
fn a_container_that_does_not_get_ready_is_a_failure_that_can_be_finished() {
    let journal = json!(["systemd[1]: waits for the network"]);
    let check = json!([{"argv": ["/bin/check"], "rc": 3, "stderr": "port 80 is closed"}]);
    for (guest, ready, part) in [
        (json!({"boot_ms": 600_000, "journal": journal}), json!([]), "starting"),
        (
            json!({"exec": check, "journal": journal}),
            json!(["/bin/check"]),
            "rc 3 port 80 is closed",
        ),
    ] {
        let world = deployed("lvmthin");
        world.patch(json!({"containers": {"301": {"guest": guest}}}));
        let options = back(json!({"confirm": true, "boot_timeout": 1, "ready": ready}));
        let failed = world.run(options.clone());
        assert_eq!(reason(&failed), "not_ready", "{failed:#}");
        says(&failed, &[part, "the rollback itself is done"]);
        assert_eq!(failed["log"], journal);
        assert_eq!(failed["safety_snapshot"], format!("failed-{SECOND}"));
        assert_eq!(world.content(), OLD);
        // The run that finishes it rolls back nothing.
        world.write("3");
        world.patch(
            json!({"containers": {"301": {"running": false, "guest": {"boot_ms": 0, "exec": []}}}}),
        );
        let finished = world.run(back(json!({"confirm": true})));
        assert!(changed(&finished), "{finished:#}");
        assert_eq!(world.container()["running"], true);
        assert_eq!(world.content(), ["system 3", "data 3"]);
    }
}

#[test]
fn a_start_that_fails_is_a_failure_with_its_log() {
    let world = deployed("lvmthin");
    world.add_program("journalctl", "#!/bin/sh\necho \"$*\"\necho lxc-start: no such device\n");
    std::fs::create_dir(world.at("run/pve")).unwrap();
    std::fs::write(world.at("run/pve/ct-301.stderr"), "lxc-start: 301: no hook\n").unwrap();
    world.faults(json!([{"command": "pct start", "nth": 1, "at": "start", "fail": {"text": ""}}]));
    let failed = world.run(back(json!({"confirm": true})));
    assert_eq!(reason(&failed), "start_failed", "{failed:#}");
    assert_eq!(failed["log"][2], "lxc-start: 301: no hook");
    assert_eq!(failed["log"][0], "-u pve-container@301.service -n 20 --no-pager -o cat");
    assert_eq!(failed["log"][1], "lxc-start: no such device");
    let kept = failed["safety_snapshot"].as_str().unwrap();
    says(&failed, &["the rollback itself is done", "does not start", "`pct start 301 --debug`"]);
    says(&failed, &[&format!("state: rolled_back with name: {kept}")]);
    assert_eq!(failed["changed"], true);
    assert!(changed(&world.run(back(json!({"confirm": true})))));
    assert_eq!(world.container()["running"], true);
    let rollbacks = world.calls().into_iter().filter(|call| call.starts_with("pct rollback"));
    assert_eq!(rollbacks.count(), 1);
}

#[test]
fn a_start_that_says_it_went_well_is_looked_at() {
    let world = deployed("lvmthin");
    world.faults(
        json!([{"command": "pct start", "nth": 1, "at": "begin", "fail": {"text": "", "rc": 0}}]),
    );
    assert_eq!(reason(&world.run(back(json!({"confirm": true})))), "start_failed");
}

#[test]
fn a_container_that_dies_while_it_boots_is_noticed() {
    let world = deployed("lvmthin");
    world.patch(
        json!({"containers": {"301": {"guest": {"boot_ms": 60_000, "dies_after_ms": 400}}}}),
    );
    let failed = world.run(back(json!({"confirm": true, "boot_timeout": 30})));
    assert_eq!(reason(&failed), "start_failed");
    says(&failed, &["stopped again while it booted"]);
}

#[test]
fn a_guest_without_systemd_is_ready_when_it_runs_commands() {
    let world = deployed("lvmthin");
    world.patch(json!({"containers": {"301": {"guest": {"systemd": null, "attach_ms": 500}}}}));
    assert!(changed(&world.run(back(json!({"confirm": true})))));
}
