//! What is printed, byte for byte as the real one prints it.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::json;

const T: i64 = 1_795_246_132;

/// Two snapshots one after the other.
fn chain() -> Node {
    let node = Node::with(json!({"clock": T}));
    node.run_words("pct", &["snapshot", "301", "snap1", "--description", "before upgrade"])
        .is(0, "", "");
    node.patch(json!({"clock": T + 2}));
    node.ok("pct snapshot 301 Snap1");
    node
}

#[test]
fn in_the_c_locale_a_description_loses_every_byte_beyond_ascii() {
    let node = Node::new();
    let mut command = node.command("pct snapshot 301 s1 --description Größe");
    assert!(command.env("LC_ALL", "C").status().unwrap().success());
    assert_eq!(node.ct()["snapshots"]["s1"]["description"], "Gr\u{fffd}\u{fffd}\u{fffd}\u{fffd}e");
    node.run_words("pct", &["snapshot", "301", "s2", "--description", "Größe"]).is(0, "", "");
    assert_eq!(node.json("/nodes/pve1/lxc/301/snapshot")[0]["description"], "Größe\n");
}

#[test]
fn status_is_one_word() {
    let node = Node::new();
    node.run("pct status 301").is(0, "status: running\n", "");
    node.patch(json!({"containers": {"301": {"running": false}}}));
    node.run("pct status 301").is(0, "status: stopped\n", "");
}

#[test]
fn config_is_sorted_and_shows_lock_and_parent_but_no_snapshots() {
    let node = chain();
    node.patch(json!({"containers": {"301": {
        "config": {"lock": "backup"}, "description": "shop: 100% ours\nand more",
    }}}));
    node.run("pct config 301").is(
        0,
        "arch: amd64\ncores: 2\ndescription: shop%3A 100%25 ours%0Aand more%0A\nhostname: shop\n\
         lock: backup\nmemory: 1024\nmp0: zp:subvol-301-disk-1,mp=/srv,size=8G\n\
         net0: name=eth0,bridge=vmbr0,ip=dhcp,type=veth\nostype: debian\nparent: Snap1\n\
         rootfs: zp:subvol-301-disk-0,size=4G\nswap: 512\nunprivileged: 1\n",
        "",
    );
}

#[test]
fn the_file_of_the_cluster_follows_every_change() {
    let node = chain();
    node.patch(json!({
        "containers": {"301": {"config": {"lock": "backup"}, "description": "ours: 1"}},
        "others": {"402": {"node": "pve2", "name": "far"}},
    }));
    let file = node.home().join("etc-pve/local/lxc/301.conf");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.starts_with("#ours%3A 1\narch: amd64\n"), "{text}");
    assert!(text.contains("\nlock: backup\n") && text.contains("\nparent: Snap1\n"), "{text}");
    assert!(text.contains("\n\n[snap1]\n#before upgrade\narch: amd64\n"), "{text}");
    assert!(text.contains(&format!("\nsnaptime: {T}\n")), "{text}");
    assert!(crate::common::exists(&node.home().join("etc-pve/nodes/pve2/lxc/402.conf")));
}
