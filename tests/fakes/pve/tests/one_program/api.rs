//! `pvesh`: the shapes that the API answers with, and its ends.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::{Value, json};

const CT: &str = "/nodes/pve1/lxc/301";

#[test]
fn versions_are_told_apart() {
    for (version, release) in [(7, "7.4"), (8, "8.4"), (9, "9.1")] {
        let node = Node::with(json!({"version": version}));
        assert_eq!(node.json("/version")["release"], release);
        assert_eq!(node.json("/nodes/localhost/version"), node.json("version"));
    }
}

#[test]
fn snapshots_are_an_unordered_array_with_current() {
    let node = Node::with(json!({"clock": 1_795_246_132}));
    node.ok("pct snapshot 301 a1");
    node.ok("pct snapshot 301 b2 --description two");
    let all = node.json(&format!("{CT}/snapshot"));
    assert_eq!(all[1], json!({"name": "a1", "description": "", "snaptime": 1_795_246_132}));
    assert_eq!(
        all[0],
        json!({"name": "b2", "description": "two\n", "snaptime": 1_795_246_132, "parent": "a1"})
    );
    let current = &all[2];
    assert_eq!(current["name"], "current");
    assert_eq!((&current["running"], &current["parent"]), (&json!(1), &json!("b2")));
    assert_eq!(current["digest"].as_str().unwrap().len(), 40);
    let digest = current["digest"].clone();
    node.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    assert_ne!(node.json(&format!("{CT}/config"))["digest"], digest, "it follows the file");
    let config = node.json(&format!("{CT}/snapshot/b2/config"));
    assert_eq!((&config["parent"], &config["memory"]), (&json!("a1"), &json!(1024)));
    let missing = node.run(&format!("pvesh get {CT}/snapshot/nope/config --output-format json"));
    missing.died("snapshot 'nope' does not exist");
}

#[test]
fn a_container_tells_its_lock_its_ha_and_its_configuration() {
    let node = Node::with(json!({"containers": {"301": {
        "config": {"lock": "backup", "template": "1"}, "description": "shop",
    }}}));
    let status = node.json(&format!("{CT}/status/current"));
    assert_eq!(status["ha"], json!({"managed": 0}));
    assert_eq!((&status["lock"], &status["template"]), (&json!("backup"), &json!(1)));
    let config = node.json(&format!("{CT}/config"));
    assert_eq!((&config["description"], &config["cores"]), (&json!("shop\n"), &json!(2)));
    assert_eq!(config["snapshots"], Value::Null);
    let list = node.json("/nodes/pve1/lxc");
    assert_eq!((&list[0]["vmid"], &list[0]["status"]), (&json!(301), &json!("running")));
    assert_eq!((&list[0]["lock"], &list[0]["name"]), (&json!("backup"), &json!("shop")));
    let feature = || node.json(&format!("{CT}/feature --feature snapshot"));
    assert_eq!(feature(), json!({"hasFeature": 1}));
    node.patch(json!({"containers": {"301": {"config": {"mp1": "/srv/x,mp=/x"}}}}));
    assert_eq!(feature(), json!({"hasFeature": 0}));
}

#[test]
fn the_cluster_knows_every_container_and_its_quorum() {
    let node = Node::new();
    let alone = node.json("/cluster/status");
    assert_eq!(alone.as_array().unwrap().len(), 1, "a single node is no cluster");
    node.patch(json!({
        "cluster": "home", "nodes": ["pve2"], "others": {"402": {"node": "pve2", "name": "far"}},
        "ha": {"ct:301": "started"}, "replication": [{"guest": 301, "target": "pve2"}],
    }));
    let status = node.json("/cluster/status");
    assert_eq!((&status[0]["type"], &status[0]["quorate"]), (&json!("cluster"), &json!(1)));
    let all = node.json("/cluster/resources --type vm");
    assert_eq!((&all[0]["vmid"], &all[0]["node"]), (&json!(301), &json!("pve1")));
    assert_eq!(all[0]["hastate"], "started");
    assert_eq!((&all[1]["vmid"], &all[1]["node"]), (&json!(402), &json!("pve2")));
    let everything = node.json("/cluster/resources");
    let kinds: Vec<_> =
        everything.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["lxc", "lxc", "node", "node", "storage"]);
    assert_eq!(node.run("pvesh get /cluster/resources --type vms").rc, Some(2));
    assert_eq!(node.json("/cluster/ha/resources")[0]["sid"], "ct:301");
    assert_eq!(node.json("/cluster/ha/resources/ct:301")["state"], "started");
    assert_eq!(node.json("/cluster/replication")[0]["id"], "301-0");
    assert_eq!(node.json("/nodes/pve1/replication --guest 302"), json!([]));
    assert_eq!(node.json("/nodes")[1]["node"], "pve2");
}

#[test]
fn storages_tell_their_types_and_space() {
    let node = Node::with(json!({"storages": {
        "thin": {"type": "lvmthin", "place": "pve/data", "full": true},
    }}));
    assert_eq!(node.json("/storage/zp")["pool"], "rpool/data");
    let thin = node.json("/storage --type lvmthin");
    assert_eq!((&thin[0]["vgname"], &thin[0]["thinpool"]), (&json!("pve"), &json!("data")));
    assert_eq!(node.json("/nodes/pve1/storage/thin/status")["avail"], 0);
    assert_eq!(node.json("/nodes/pve1/storage --storage zp")[0]["type"], "zfspool");
}

#[test]
fn what_is_not_there_fails_as_pvesh_fails() {
    let node = Node::with(json!({"nodes": ["pve2"]}));
    let get = |path: &str| node.run(&format!("pvesh get {path} --output-format json"));
    get("/foo").is(1, "", "No 'get' handler defined for '/foo'\n");
    get(&format!("{CT}/status/start")).is(
        1,
        "",
        &format!("No 'get' handler defined for '{CT}/status/start'\n"),
    );
    let missing = "Configuration file 'nodes/pve1/lxc/999.conf' does not exist\n";
    get("/nodes/pve1/lxc/999/config").is(2, "", missing);
    let told = get("/nodes/pve1/lxc/12/config");
    assert_eq!(told.rc, Some(2));
    assert!(told.err.starts_with("400 Parameter verification failed.\nvmid: "), "{}", told.err);
    let told = get("/nodes/nowhere/lxc");
    assert!(told.err.starts_with("hostname lookup 'nowhere' failed"), "{}", told.err);
    assert_eq!(get("/nodes/pve2/lxc").rc, Some(255));
    let told = get("/version --wrong 1");
    assert!(told.err.starts_with("Unknown option: wrong\n400 unable to parse option\n"));
}

#[test]
fn create_and_delete_end_with_0_whatever_became_of_the_task() {
    let node = Node::new();
    let first = node.run(&format!("pvesh create {CT}/snapshot --snapname s1 --output-format json"));
    let upid = first.json();
    assert!(upid.as_str().unwrap().starts_with("UPID:pve1:"), "{upid}");
    let status = node.json(&format!("/nodes/pve1/tasks/{}/status", upid.as_str().unwrap()));
    assert_eq!((&status["status"], &status["exitstatus"]), (&json!("stopped"), &json!("OK")));
    let again = node.run(&format!("pvesh create {CT}/snapshot --snapname s1"));
    assert_eq!((again.rc, again.err.as_str()), (Some(0), "snapshot name 's1' already used\n"));
    assert!(again.text().starts_with("UPID:"));
    let gone = node.run(&format!("pvesh delete {CT}/snapshot/nope"));
    assert_eq!((gone.rc, gone.err.as_str()), (Some(0), "snapshot 'nope' does not exist\n"));
    assert_eq!(node.run(&format!("pvesh create {CT}/snapshot/s1/rollback --start 1")).rc, Some(0));
    assert_eq!(node.ct()["running"], true);
    assert_eq!(node.run(&format!("pvesh create {CT}/status/stop")).rc, Some(0));
    // What is refused before there is a task does fail.
    node.run(&format!("pvesh create {CT}/status/stop")).died("CT 301 not running");
    assert_eq!(node.run(&format!("pvesh delete {CT}/snapshot/s1 --force 1")).rc, Some(0));
    assert_eq!(node.ct()["snapshots"], json!({}));
}
