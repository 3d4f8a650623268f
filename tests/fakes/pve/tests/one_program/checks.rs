//! What is refused, in which order, with which words, code and stream.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::json;

const SNAPSHOT: &str = "pct snapshot <vmid> <snapname> [OPTIONS]\n";

fn refused(node: &Node, line: &str, list: &str) {
    let err = format!("400 Parameter verification failed.\n{list}\n{SNAPSHOT}");
    node.run(line).is(2, "", &err);
}

#[test]
fn parameters_are_refused_with_2_and_the_usage() {
    let node = Node::new();
    let no_id = "vmid: invalid format - value does not look like a valid VM ID";
    for id in ["0", "99", "0301", "1234567890"] {
        refused(&node, &format!("pct snapshot {id} s1"), no_id);
    }
    refused(&node, "pct snapshot shop s1", "vmid: type check ('integer') failed - got 'shop'");
    for name in ["a", "1a", "_a", "a.b", "a@b", ""] {
        let why = format!("snapname: invalid format - invalid configuration ID '{name}'");
        refused(&node, &format!("pct snapshot 301 {name}"), &why);
    }
    let long = format!("a{}", "b".repeat(40));
    let why = "snapname: value may only be 40 characters long";
    refused(&node, &format!("pct snapshot 301 {long}"), why);
    let err = format!("400 not enough arguments\n{SNAPSHOT}");
    node.run("pct snapshot 301").is(2, "", &err);
    let err = format!("400 too many arguments\n{SNAPSHOT}");
    node.run("pct snapshot 301 s1 s2").is(2, "", &err);
    let err = format!("Unknown option: force\n400 unable to parse option\n{SNAPSHOT}");
    node.run("pct snapshot 301 s1 --force").is(2, "", &err);
    assert_eq!(node.ct()["snapshots"], json!({}));
}

#[test]
fn stop_has_no_force() {
    let err = "Unknown option: force\n400 unable to parse option\npct stop <vmid> [OPTIONS]\n";
    Node::new().run("pct stop 301 --force").is(2, "", err);
}

#[test]
fn names_are_distinct_by_case_and_two_are_reserved() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.ok("pct snapshot 301 S1");
    node.run("pct snapshot 301 s1").died("snapshot name 's1' already used");
    for name in ["current", "vzdump"] {
        node.run(&format!("pct snapshot 301 {name}"))
            .died(&format!("unable to use snapshot name '{name}' (reserved name)"));
    }
}

#[test]
fn a_container_of_another_node_or_none_is_no_file() {
    let node = Node::with(json!({"others": {"402": {"node": "pve2"}}}));
    for id in ["402", "999"] {
        let text = format!("Configuration file 'nodes/pve1/lxc/{id}.conf' does not exist");
        for command in ["snapshot", "rollback", "delsnapshot"] {
            node.run(&format!("pct {command} {id} s1")).died(&text);
        }
        for command in ["status", "config", "unlock"] {
            node.run(&format!("pct {command} {id}")).is(2, "", &format!("{text}\n"));
        }
        node.run(&format!("pct start {id}")).died(&text);
    }
}

#[test]
fn who_is_not_root_is_told_so_in_proxmox_words() {
    let node = Node::with(json!({"root": false}));
    for line in ["pct status 301", "pct snapshot 301 s1", "pvesh get /storage"] {
        let told = node.run(line);
        assert_eq!((told.rc, told.text()), (Some(255), ""), "{line}");
        assert!(told.err.starts_with("ipcc_send_rec[1] failed: Unknown error -1\n"), "{line}");
    }
}

#[test]
fn without_the_cluster_s_file_system_nothing_is_answered() {
    let node = Node::with(json!({"pmxcfs": false}));
    for line in ["pct status 301", "pvesh get /storage"] {
        let told = node.run(line);
        assert_eq!(told.rc, Some(111), "{line}");
        assert!(told.err.starts_with("ipcc_send_rec[1] failed: Connection refused\n"), "{line}");
    }
    // LXC itself knows nothing of it.
    node.ok("lxc-unfreeze -n 301");
}

#[test]
fn snapshot_checks_template_then_lock_then_name_then_feature() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.patch(json!({"containers": {"301": {"config": {
        "template": "1", "lock": "backup", "mp1": "/srv/share,mp=/share",
    }}}}));
    node.run("pct snapshot 301 s1").died("you can't take a snapshot if it's a template");
    node.patch(json!({"containers": {"301": {"config": {"template": null}}}}));
    node.run("pct snapshot 301 s1").died("CT is locked (backup)");
    node.patch(json!({"containers": {"301": {"config": {"lock": null}}}}));
    node.run("pct snapshot 301 s1").died("snapshot name 's1' already used");
    node.run("pct snapshot 301 s2").died("snapshot feature is not available");
    node.patch(json!({"containers": {"301": {"config": {"mp1": null}}}}));
    node.ok("pct snapshot 301 s2");
}

#[test]
fn raw_volumes_on_folders_and_unknown_storages_have_no_snapshots() {
    let node = Node::with(json!({
        "storages": {"local": {"type": "dir", "place": "/var/lib/vz"}},
        "containers": {"301": {"config": {"mp0": "local:301/vm-301-disk-1.raw,mp=/srv,size=8G"}}},
    }));
    node.run("pct snapshot 301 s1").died("snapshot feature is not available");
    node.patch(json!({"containers": {"301": {"config": {"mp0": "gone:x,mp=/srv"}}}}));
    node.run("pct snapshot 301 s1").died("storage 'gone' does not exist");
    assert_eq!(node.ct()["snapshots"], json!({}));
    assert_eq!(node.lock(), json!(null));
}

#[test]
fn rollback_checks_in_its_own_order_before_it_touches_anything() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.ok("pct snapshot 301 s2");
    node.patch(json!({"containers": {"301": {
        "config": {"template": "1", "lock": "backup"},
        "snapshots": {"s1": {"snapstate": "prepare"}},
    }}}));
    node.run("pct rollback 301 nope").died("you can't rollback if vm is a template");
    node.patch(json!({"containers": {"301": {"config": {"template": null}}}}));
    node.run("pct rollback 301 nope").died("snapshot 'nope' does not exist");
    node.run("pct rollback 301 s1")
        .died("can't rollback, 's1' is not most recent snapshot on 'zp:subvol-301-disk-0'");
    node.patch(json!({"containers": {"301": {"snapshots": {"s2": {"snapstate": "prepare"}}}}}));
    node.run("pct rollback 301 s2")
        .died("unable to rollback to incomplete snapshot (snapstate = prepare)");
    node.patch(json!({"containers": {"301": {"snapshots": {"s2": {"snapstate": null}}}}}));
    node.run("pct rollback 301 s2").died("CT is locked (backup)");
    assert_eq!(node.ct()["running"], true, "nothing was touched");
    node.patch(json!({"containers": {"301": {"config": {"lock": null}}}}));
    node.ok("pct rollback 301 s2");
}

#[test]
fn delsnapshot_checks_the_name_before_the_lock() {
    let node = Node::new();
    node.ok("pct snapshot 301 s1");
    node.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    node.run("pct delsnapshot 301 nope").died("snapshot 'nope' does not exist");
    node.run("pct delsnapshot 301 s1").died("CT is locked (backup)");
    assert_eq!(node.lock(), "backup");
}

#[test]
fn start_stop_shutdown_and_exec_know_what_runs() {
    let node = Node::new();
    node.run("pct start 301").died("CT 301 already running");
    node.ok("pct stop 301");
    node.run("pct stop 301").died("CT 301 not running");
    node.run("pct shutdown 301").died("CT 301 not running");
    node.run("pct exec 301 -- true").died("container '301' not running!");
    node.ok("pct start 301");
    node.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    for command in ["stop", "shutdown"] {
        node.run(&format!("pct {command} 301")).died("CT is locked (backup)");
    }
    assert_eq!(node.ct()["running"], true);
    node.patch(json!({"containers": {"301": {"config": {"lock": "mounted"}}}}));
    node.ok("pct stop 301");
    node.ok("pct start 301");
    node.patch(json!({"containers": {"301": {
        "running": false, "config": {"lock": null, "template": "1"},
    }}}));
    node.run("pct start 301").died("you can't start a CT if it's a template");
}

#[test]
fn unlock_removes_any_lock_and_says_when_there_is_none() {
    let node = Node::with(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    node.ok("pct unlock 301");
    assert_eq!(node.lock(), json!(null));
    node.run("pct unlock 301").died("no lock found trying to remove any lock");
}

#[test]
fn what_the_fake_does_not_know_is_loud() {
    let node = Node::new();
    let told = node.run("pct df 301");
    assert_eq!(told.rc, Some(99));
    assert!(told.err.starts_with("fake-pve: "), "{}", told.err);
    std::fs::write(node.home().join("faults.json"), r#"[{"command": "pct", "slow": 1}]"#).unwrap();
    assert_eq!(node.run("pct status 301").rc, Some(99), "a fault that nobody obeys");
}
