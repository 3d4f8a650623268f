//! What is refused before Proxmox is called, and what comes from a world that is not as it should be.

use crate::common::{FIRST, SECOND, THIRD, World, back, changed, name, on, reason, says};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

#[test]
fn bad_options_are_said_before_proxmox_is_called() {
    let world = World::new(on("lvmthin"));
    let long = "a".repeat(41);
    for (options, part) in [
        (json!({"vmid": 0}), "argument 'vmid'"),
        (json!({"vmid": 99}), "100 to 999999999"),
        (json!({"vmid": "shop"}), "argument 'vmid'"),
        (json!({"vmid": "301; reboot"}), "argument 'vmid'"),
        (json!({"vmid": null}), "missing required arguments: vmid"),
        (json!({"name": long}), "41 characters"),
        (json!({"name": "current"}), "is reserved by Proxmox"),
        (json!({"name": "vzdump"}), "is reserved by Proxmox"),
        (json!({"name": "before.upgrade"}), "argument 'name'"),
        (json!({"name": "9lives"}), "argument 'name'"),
        (json!({"name": "--force"}), "argument 'name'"),
        (json!({"name": "é1"}), "argument 'name'"),
        (json!({"deploy_id": "yesterday"}), "argument 'deploy_id'"),
        (json!({"state": "restored"}), "value of state must be one of"),
        (json!({"state": "rolled_back"}), "name, deploy_id, latest"),
        (
            json!({"state": "rolled_back", "latest": false}),
            "must be given by name, deploy_id or latest",
        ),
        (json!({"state": "rolled_back", "latest": true, "name": "xy"}), "argument 'latest'"),
        (json!({"state": "rolled_back", "name": "xy", "retain": 3}), "argument 'retain'"),
        (json!({"state": "absent"}), "name, deploy_id, retain"),
        (json!({"latest": true}), "argument 'latest'"),
        (json!({"retain": 0}), "expected 1 or more"),
        (json!({"retain": -1}), "expected 1 or more"),
        (json!({"boot_timeout": -1}), "argument 'boot_timeout'"),
        (json!({"shutdown": "soft"}), "value of shutdown must be one of"),
        (json!({"description": "bell \u{7}"}), "control characters"),
        (json!({"description": "x".repeat(9000)}), "at most 8192 bytes"),
        (json!({"release": "two words"}), "argument 'release'"),
        (json!({"app": "a]b"}), "argument 'app'"),
        (json!({"ready": [""]}), "argument 'ready'"),
        (json!({"state_dir": "relative"}), "absolute path"),
        (json!({"state": "absent", "name": "xy", "confirm": "maybe"}), "argument 'confirm'"),
    ] {
        let refused = world.run(options.clone());
        assert_eq!(reason(&refused), "bad_options", "{options}");
        says(&refused, &[part]);
    }
    assert!(world.calls().is_empty() && !world.state_dir().exists());
}

#[test]
fn a_container_that_is_not_here() {
    let mut start = on("lvmthin");
    start["cluster"] = json!("home");
    start["nodes"] = json!(["pve2"]);
    start["others"] = json!({"302": {"node": "pve2", "name": "mail"}});
    for bare in [false, true] {
        let world = if bare { World::bare(start.clone()) } else { World::new(start.clone()) };
        let elsewhere = world.run(json!({"vmid": 302}));
        assert_eq!(reason(&elsewhere), "no_container");
        says(&elsewhere, &["on node pve2", "run the task there"]);
        let nowhere = world.run(json!({"vmid": 999}));
        assert_eq!(reason(&nowhere), "no_container");
        says(&nowhere, &["there is no CT 999"]);
        let info = world.run(json!({
            "_ansible_module_name": "pct_snapshot_info", "vmid": 302, "lock_timeout": null,
            "boot_timeout": null,
        }));
        assert_eq!(reason(&info), "no_container");
    }
}

#[test]
fn only_root_on_a_node() {
    let world = World::new(on("lvmthin"));
    world.patch(json!({"root": false}));
    let refused = world.present(FIRST);
    assert_eq!(reason(&refused), "permission_denied");
    says(&refused, &["root"]);
    world.patch(json!({"root": true, "pmxcfs": false}));
    for pvesh in [true, false] {
        if !pvesh {
            world.remove_program("pvesh");
        }
        for options in [json!({"deploy_id": FIRST}), back(json!({}))] {
            let down = world.run(options);
            assert_eq!(reason(&down), "pmxcfs_down", "{down:#}");
            says(&down, &["systemctl status pve-cluster"]);
            assert!(!down["msg"].as_str().unwrap().contains("for root alone"), "{down:#}");
        }
        let info = world.run(json!({
            "_ansible_module_name": "pct_snapshot_info", "vmid": null, "lock_timeout": null,
            "boot_timeout": null,
        }));
        assert_eq!(
            reason(&info),
            if pvesh { "pmxcfs_down" } else { "program_missing" },
            "{info:#}"
        );
    }
    world.patch(json!({"pmxcfs": true}));
    world.remove_program("pct");
    let no_node = world.present(FIRST);
    assert_eq!(reason(&no_node), "program_missing");
    says(&no_node, &["not a Proxmox node", "pct"]);
    // A copy that another user can reach.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("module");
    std::fs::copy(env!("CARGO_BIN_EXE_pct_snapshot"), &copy).unwrap();
    assert!(
        Command::new("chmod").arg("755").args([folder.path(), &copy]).status().unwrap().success()
    );
    let child = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    use std::io::Write;
    child.stdin.take().unwrap().write_all(json!({"vmid": 301}).to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reason(&said), "permission_denied");
    says(&said, &["become: true"]);
}

#[test]
fn no_space_is_said_and_nothing_stays() {
    for kind in ["zfspool", "lvmthin"] {
        let world = World::new(on(kind));
        world.patch(json!({"storages": {"st": {"full": true}}}));
        let failed = world.present(FIRST);
        assert_eq!(reason(&failed), "no_space", "{failed:#}");
        says(&failed, &["make space on the storage"]);
        assert!(world.names().is_empty());
        assert_eq!(world.container()["config"].get("lock"), None);
        world.patch(json!({"storages": {"st": {"full": false}}}));
        assert!(changed(&world.present(FIRST)));
    }
}

#[test]
fn quorum_lost_before_and_during_a_snapshot() {
    for bare in [false, true] {
        let mut start = on("lvmthin");
        start["cluster"] = json!("home");
        start["nodes"] = json!(["pve2"]);
        let world = if bare { World::bare(start) } else { World::new(start) };
        world.patch(json!({"quorate": false}));
        let refused = world.present(FIRST);
        assert_eq!(reason(&refused), "no_quorum", "{refused:#}");
        world.patch(json!({"quorate": true}));
        world.faults(json!([{"command": "pct snapshot", "nth": 1, "at": "volumes", "patch": {"quorate": false}}]));
        let broken = world.present(FIRST);
        assert_eq!(reason(&broken), "no_quorum", "{broken:#}");
        world.patch(json!({"quorate": true}));
        let next = world.present(FIRST);
        assert_eq!(next.get("failed"), None, "{next:#}");
        assert_eq!(world.names(), [name(FIRST)]);
        assert_eq!(world.container()["snapshots"][name(FIRST)]["snapstate"], Value::Null);
        assert_eq!(world.container()["config"].get("lock"), None);
    }
}

#[test]
fn odd_bytes_in_descriptions_harm_nothing() {
    for without in ["nothing", "pvesh"] {
        let world = World::new(on("lvmthin"));
        world.patch(json!({"containers": {"301": {"snapshots": {
            "latin1": {"description": "caf\u{e9} \u{df}", "snaptime": 1_700_000_000},
            "lines": {"description": "current  You are here!\n`-> trap 2026-01-01 00:00:00 x\n%0A %zz", "snaptime": 1_700_000_001},
            "forged": {"description": "[reversible.deploy 1 restore-point]\nnot the last line", "snaptime": 1_700_000_002},
        }}}}));
        if without == "pvesh" {
            world.remove_program("pvesh");
        }
        let text = "quote \" ' and % \\ \u{1f980}\n-> [x]\n--force";
        let done = world.run(json!({"deploy_id": FIRST, "description": text, "retain": 1}));
        assert!(changed(&done), "{done:#}");
        let info = world.info(json!(301));
        let all = info["snapshots"].as_array().unwrap();
        let ours: Vec<&Value> = all.iter().filter(|one| one["ours"] == true).collect();
        assert_eq!((all.len(), ours.len()), (4, 1), "{without}: {info:#}");
        assert_eq!(ours[0]["description"], text, "{without}");
        assert!(!changed(&world.run(json!({"deploy_id": FIRST}))));
    }
}

#[test]
fn an_older_deploy_is_refused_and_a_refused_one_raises_nothing() {
    let world = World::new(on("lvmthin"));
    assert!(changed(&world.present(SECOND)));
    let late = world.present(FIRST);
    assert_eq!(reason(&late), "superseded");
    // Named as a restore point an older id is no run.
    let asked =
        world.run(json!({"state": "rolled_back", "deploy_id": SECOND, "rollback_id": THIRD}));
    assert_eq!(reason(&asked), "needs_consent");
    assert!(!changed(&world.present(SECOND)), "the refused one raised the fence");
    let done =
        json!({"state": "rolled_back", "deploy_id": SECOND, "rollback_id": THIRD, "confirm": true});
    assert!(changed(&world.run(done)));
    assert_eq!(reason(&world.present(SECOND)), "superseded");
}

#[test]
fn a_lock_is_no_matter_when_nothing_has_to_be_done() {
    let world = World::new(on("lvmthin"));
    world.present(FIRST);
    world.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    assert!(!changed(&world.present(FIRST)));
    let checked =
        world.run(json!({"deploy_id": SECOND, "lock_timeout": 30, "_ansible_check_mode": true}));
    assert!(changed(&checked));
    assert!(checked["warnings"][0].as_str().unwrap().contains("a run would wait for it, 30 s"));
}

#[test]
fn a_newer_snapshot_that_zfs_could_not_remove_is_refused_first() {
    let world = World::new(on("zfspool"));
    world.present(FIRST);
    world.patch(json!({"clock_offset": 100}));
    world.run(json!({"name": "later"}));
    let name = name(FIRST);
    world.add_program(
        "zfs",
        &format!(
            "#!/bin/sh\nprintf 'rpool/data/disk-0\\t5\\t9\\t9\\t-\\t-\\nrpool/data/disk-0@{name}\\t6\\t7\\t1\\t0\\t\\n\
             rpool/data/disk-0@later\\t7\\t7\\t1\\t1\\t\\n'\n"
        ),
    );
    let refused = world.run(back(json!({"accept": ["newer_snapshots"]})));
    assert_eq!(reason(&refused), "newer_needed");
    says(&refused, &["rpool/data/disk-0@later is held", "nothing was changed"]);
    assert_eq!((world.names().len(), &world.container()["running"]), (2, &json!(true)));
    let info = world.info(json!(301));
    assert!(info["snapshots"][0]["why"][0].as_str().unwrap().contains("is held"), "{info:#}");
}
