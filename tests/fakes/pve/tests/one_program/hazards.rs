//! What goes wrong on real nodes: state that is left behind, success that is none, data that goes
//! back or does not.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::{Value, json};

#[test]
fn a_rollback_brings_back_data_and_configuration_and_stops_the_container() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.write_data("new");
    node.patch(json!({"containers": {"301": {"description": "newer", "config": {
        "memory": "4096", "mp1": "zp:subvol-301-disk-2,mp=/more,size=1G",
    }}}}));
    node.ok("pct rollback 301 s1");
    assert_eq!(node.contents(), ["system", "data"]);
    let ct = node.ct();
    assert_eq!(ct["running"], false);
    assert_eq!(ct["config"]["memory"], "1024");
    assert_eq!(ct["config"]["parent"], "s1");
    assert_eq!(ct["config"]["mp1"], Value::Null);
    assert_eq!(ct["config"]["unused0"], "zp:subvol-301-disk-2", "a newer volume falls out");
    assert_eq!(ct["config"]["lock"], Value::Null);
    assert_eq!(ct["description"], "newer", "the description stays");
}

#[test]
fn only_zfs_cannot_step_over_newer_snapshots() {
    for (kind, volume) in [("lvmthin", "vm"), ("btrfs", "301/vm"), ("rbd", "vm")] {
        let volid = format!("st:{volume}-301-disk-0");
        let node = Node::with(json!({
            "storages": {"st": {"type": kind, "place": "pve/data"}},
            "containers": {"301": {"config": {"mp0": null, "rootfs": format!("{volid},size=4G")}}},
            "volumes": {&volid: {"content": "old"}},
        }));
        node.ok("pct snapshot 301 s1");
        node.patch(json!({"volumes": {&volid: {"content": "new"}}}));
        node.ok("pct snapshot 301 s2");
        node.ok("pct rollback 301 s1");
        assert_eq!(node.world()["volumes"][&volid]["content"], "old", "{kind}");
        node.ok("pct rollback 301 s2");
        assert_eq!(node.world()["volumes"][&volid]["content"], "new", "{kind}");
    }
}

#[test]
fn a_snapshot_made_outside_blocks_the_way_back_and_is_in_no_list() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    let kept = node.world()["volumes"]["zp:subvol-301-disk-1"]["snapshots"][0].clone();
    node.patch(json!({"volumes": {"zp:subvol-301-disk-1": {"snapshots": [
        kept, {"name": "zfs-auto-snap_hourly", "content": "x"},
    ]}}}));
    node.run("pct rollback 301 s1")
        .died("can't rollback, 's1' is not most recent snapshot on 'zp:subvol-301-disk-1'");
    assert_eq!(node.ct()["running"], true);
}

#[test]
fn a_start_may_fail() {
    let node = Node::new();
    node.ok("pct stop 301");
    node.faults(json!([{"command": "pct", "at": "start", "fail": {"text": ""}}]));
    node.run("pct start 301").died("startup for container '301' failed");
    assert_eq!(node.ct()["running"], false);
}

#[test]
fn a_volume_that_fails_leaves_the_lock_and_the_volumes_before_it_done() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.write_data("new");
    node.faults(json!([
        {"command": "pct rollback", "nth": 1, "at": "volume:2",
         "fail": {"text": "dataset is busy"}},
    ]));
    node.run("pct rollback 301 s1")
        .died("zfs error: cannot rollback 'rpool/data/subvol-301-disk-1': dataset is busy");
    assert_eq!(node.lock(), "rollback");
    assert_eq!(node.contents(), ["system", "new"]);
    assert_eq!(node.ct()["running"], false);
    node.run("pct start 301").died("CT is locked (rollback)");
    node.run("pct rollback 301 s1").died("CT is locked (rollback)");
    node.ok("pct unlock 301");
    node.ok("pct rollback 301 s1");
    assert_eq!(node.contents(), ["system", "data"]);
}

#[test]
fn without_quorum_a_rollback_kills_and_then_cannot_write() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.write_data("new");
    node.patch(json!({"quorate": false}));
    let told = node.run("pct rollback 301 s1");
    assert_eq!((told.rc, told.text()), (Some(255), ""));
    assert!(told.err.starts_with("unable to open file '/etc/pve/nodes/pve1/lxc/301.conf.tmp."));
    assert!(told.err.ends_with("' - Permission denied\n"), "{}", told.err);
    assert_eq!(node.ct()["running"], false, "killed all the same");
    assert_eq!((node.lock(), node.contents()), (Value::Null, vec![json!("new"), json!("new")]));
    node.run("pct start 301").died("cluster not ready - no quorum?");
    for line in ["pct snapshot 301 s2", "pct delsnapshot 301 s1"] {
        assert!(node.run(line).err.ends_with("Permission denied\n"), "{line}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(node.home().join("etc-pve/local")).unwrap().permissions().mode();
    assert_eq!(mode & 0o200, 0, "the owner's write bit is how Proxmox itself looks at it");
    node.patch(json!({"quorate": true}));
    node.ok("pct start 301");
}

#[test]
fn a_snapshot_without_space_cleans_up_after_itself() {
    let node = Node::with(json!({"storages": {"full": {
        "type": "lvmthin", "place": "pve/data", "full": true,
    }}, "containers": {"301": {"config": {"mp0": "full:vm-301-disk-1,mp=/srv,size=8G"}}}}));
    // The blank is Proxmox's: its message ends with two newlines, of which one becomes a blank.
    node.run("pct snapshot 301 s1").is(
        255,
        "snapshot create failed: starting cleanup\n",
        "lvcreate snapshot 'pve/snap_vm-301-disk-1_s1' error:   Cannot create new thin volume, \
         free space in thin pool reached threshold. \n",
    );
    assert_eq!((node.ct()["snapshots"].clone(), node.lock()), (json!({}), Value::Null));
    let volumes = &node.world()["volumes"];
    assert_eq!(volumes["zp:subvol-301-disk-0"]["snapshots"], json!([]), "the first is undone");
}

#[test]
fn deleting_makes_the_children_those_of_the_parent() {
    let node = Node::new();
    for name in ["s1", "s2", "s3"] {
        node.ok(&format!("pct snapshot 301 {name}"));
    }
    node.ok("pct delsnapshot 301 s2");
    assert_eq!(node.ct()["snapshots"]["s3"]["config"]["parent"], "s1");
    node.ok("pct delsnapshot 301 s3");
    assert_eq!(node.ct()["config"]["parent"], "s1");
    node.ok("pct delsnapshot 301 s1");
    assert_eq!(node.ct()["config"]["parent"], Value::Null);
    assert_eq!(node.world()["volumes"]["zp:subvol-301-disk-0"]["snapshots"], json!([]));
}

#[test]
fn a_volume_that_cannot_be_removed_leaves_a_lock_and_wants_force() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.faults(json!([
        {"command": "pct delsnapshot", "at": "volume:2", "fail": {"text": "dataset is busy"}},
    ]));
    let busy =
        "zfs error: cannot destroy snapshot rpool/data/subvol-301-disk-1@s1: dataset is busy";
    node.run("pct delsnapshot 301 s1").died(busy);
    let ct = node.ct();
    assert_eq!(ct["config"]["lock"], "snapshot-delete");
    assert_eq!(ct["snapshots"]["s1"]["snapstate"], "delete");
    assert_eq!(ct["snapshots"]["s1"]["config"]["rootfs"], Value::Null, "done and forgotten");
    node.run("pct delsnapshot 301 s1 --force").died("CT is locked (snapshot-delete)");
    node.ok("pct unlock 301");
    node.run("pct rollback 301 s1")
        .died("unable to rollback to incomplete snapshot (snapstate = delete)");
    node.faults(json!([
        {"command": "pct delsnapshot", "at": "volume:1", "fail": {"text": "dataset is busy"}},
    ]));
    node.run("pct delsnapshot 301 s1 --force").is(0, &format!("{busy}\n"), "");
    assert_eq!((node.ct()["snapshots"].clone(), node.lock()), (json!({}), Value::Null));
}

#[test]
fn a_lock_taken_away_half_way_leaves_an_incomplete_snapshot_that_looks_normal() {
    let node = Node::new();
    node.faults(json!([{"command": "pct snapshot", "at": "volumes", "patch": {
        "containers": {"301": {"config": {"lock": null}}},
    }}]));
    node.run("pct snapshot 301 s1").died("missing snapshot lock");
    let broken = node.json("/nodes/pve1/lxc/301/snapshot")[0].take();
    assert_eq!((&broken["name"], &broken["snapstate"]), (&json!("s1"), &json!("prepare")));
    node.ok("pct delsnapshot 301 s1");
}

#[test]
fn a_deaf_guest_does_not_stop_unless_it_is_forced() {
    let node = Node::with(json!({"containers": {"301": {"guest": {"deaf": true}}}}));
    node.run("pct shutdown 301 --timeout 1").is(
        255,
        "command 'lxc-stop -n 301 --nokill --timeout 1' failed: exit code 1\n",
        "container did not stop\n",
    );
    assert_eq!(node.ct()["running"], true);
    node.ok("pct shutdown 301 --timeout 0 --forceStop 1");
    assert_eq!(node.ct()["running"], false);
}

#[test]
fn a_snapshot_whose_worker_is_killed_leaves_the_container_frozen() {
    for (version, files) in [
        (2, ["cgroup/lxc/301/cgroup.events", "populated 1\nfrozen 1\n", "populated 1\nfrozen 0\n"]),
        (1, ["cgroup/freezer/lxc/301/freezer.state", "FROZEN\n", "THAWED\n"]),
    ] {
        let node = Node::with(json!({"cgroups": version}));
        let state = || std::fs::read_to_string(node.home().join(files[0])).unwrap();
        node.faults(json!([{"command": "pct snapshot", "at": "volume:2", "kill_self": true}]));
        assert_eq!(node.run("pct snapshot 301 s1").rc, Some(255));
        node.faults(json!([]));
        node.run("pct unlock 301").is(0, "", "");
        assert_eq!(node.run("pct delsnapshot 301 s1 --force").rc, Some(0));
        node.run("pct status 301").is(0, "status: running\n", "");
        assert_eq!(state(), files[1]);
        for line in ["pct exec 301 -- true", "pct shutdown 301 --timeout 1 --forceStop 1"] {
            let mut hangs = node.command(line).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1500));
            assert_eq!(hangs.try_wait().unwrap(), None, "{line}");
            let pid = hangs.id().to_string();
            assert!(
                std::process::Command::new("kill")
                    .args(["-TERM", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
            hangs.wait().unwrap();
        }
        node.ok("lxc-unfreeze -n 301");
        assert_eq!(state(), files[2]);
        node.ok("pct exec 301 -- true");
        // A snapshot that ends by itself thaws, whether it is taken or not.
        node.faults(json!([
            {"command": "pct snapshot", "nth": 1, "at": "volume:2", "fail": {"text": "x"}},
        ]));
        assert_eq!(node.run("pct snapshot 301 s2").rc, Some(255));
        assert_eq!(state(), files[2]);
        node.ok("pct snapshot 301 s2");
        assert_eq!(state(), files[2]);
        node.ok("pct stop 301");
        assert!(!node.home().join(files[0]).exists());
    }
}
