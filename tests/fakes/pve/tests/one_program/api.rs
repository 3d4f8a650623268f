//! `pvesh`: the shapes that the API answers with, and its ends.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::{Value, json};

const CT: &str = "/nodes/pve1/lxc/301";

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
    let config = node.json(&format!("{CT}/config --snapshot b2"));
    assert_eq!((&config["parent"], &config["memory"]), (&json!("a1"), &json!(1024)));
    let missing = format!("pvesh get {CT}/config --snapshot nope --output-format json");
    node.run(&missing).died("snapshot 'nope' does not exist");
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
    assert_eq!((&all[1]["vmid"], &all[1]["node"]), (&json!(402), &json!("pve2")));
    let ha = node.json(&format!("{CT}/status/current"))["ha"].take();
    assert_eq!(ha, json!({"managed": 1, "state": "started"}));
    assert_eq!(node.json("/nodes/pve1/replication --guest 301")[0]["target"], "pve2");
    assert_eq!(node.json("/nodes/pve1/replication --guest 302"), json!([]));
}

#[test]
fn storages_tell_their_types_and_space() {
    let node = Node::with(json!({"storages": {
        "thin": {"type": "lvmthin", "place": "pve/data", "full": true},
    }}));
    assert_eq!(node.json("/storage/zp")["pool"], "rpool/data");
    let thin = node.json("/storage/thin");
    assert_eq!((&thin["vgname"], &thin["thinpool"]), (&json!("pve"), &json!("data")));
    assert_eq!(node.json("/nodes/pve1/storage/thin/status")["avail"], 0);
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
    let told = get("/storage --wrong 1");
    assert!(told.err.starts_with("Unknown option: wrong\n400 unable to parse option\n"));
}
