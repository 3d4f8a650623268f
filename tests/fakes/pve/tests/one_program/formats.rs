//! What is printed, byte for byte as the real one prints it.

// A test that cannot go on ends right there.

use crate::common::Node;
use serde_json::json;

/// 2026-11-21 07:28:52 in UTC.
const T: i64 = 1_795_246_132;

/// Two snapshots one after the other.
fn chain(version: u8) -> Node {
    let node = Node::with(json!({"version": version, "clock": T}));
    node.run_words("pct", &["snapshot", "301", "snap1", "--description", "before upgrade"])
        .is(0, "", "");
    node.patch(json!({"clock": T + 2}));
    node.ok("pct snapshot 301 Snap1");
    node
}

#[test]
fn listsnapshot_is_the_sample_of_the_real_one() {
    chain(8).run("pct listsnapshot 301").is(
        0,
        "`-> snap1                       2026-11-21 07:28:52     before upgrade\n \
         `-> Snap1                      2026-11-21 07:28:54     no-description\n  \
         `-> current                                           You are here!\n",
        "",
    );
}

#[test]
fn older_releases_set_their_levels_in_by_more() {
    let two = "`-> snap1                       2026-11-21 07:28:52     before upgrade\n  \
               `-> Snap1                     2026-11-21 07:28:54     no-description\n    \
               `-> current                                         You are here!\n";
    let node = chain(7);
    node.run("pct listsnapshot 301").is(0, two, "");
    node.patch(json!({"indent": 4}));
    let four = node.run("pct listsnapshot 301");
    assert!(four.text().contains("\n    `-> Snap1                   2026"), "{}", four.text());
    assert!(four.text().contains("\n        `-> current"), "{}", four.text());
}

#[test]
fn without_snapshots_there_is_current_alone() {
    Node::new().run("pct listsnapshot 301").is(
        0,
        "`-> current                                             You are here!\n",
        "",
    );
}

#[test]
fn current_is_last_among_its_siblings_and_not_always_last() {
    let node = chain(9);
    let kept = node.ct()["snapshots"]["snap1"].clone();
    node.patch(json!({"containers": {"301": {
        "config": {"parent": "snap1"},
        "snapshots": {"other": kept, "Snap1": {"snaptime": T + 2}},
    }}}));
    let told = node.run("pct listsnapshot 301");
    let names: Vec<_> =
        told.text().lines().map(|line| line.trim().split(' ').nth(1).unwrap()).collect();
    assert_eq!(names, ["other", "snap1", "Snap1", "current"]);
    // Their times are the same, and the first is no child of anybody: a root behind `current`.
    node.patch(json!({"containers": {"301": {"snapshots": {"other": {"snaptime": T + 9}}}}}));
    let told = node.run("pct listsnapshot 301");
    assert!(
        told.text()
            .ends_with("`-> other                       2026-11-21 07:29:01     before upgrade\n")
    );
}

#[test]
fn descriptions_show_their_first_line_and_may_lie() {
    let node = Node::with(json!({"clock": T}));
    let lie = "current  You are here!\nsecond line";
    node.run_words("pct", &["snapshot", "301", "s1", "--description", lie]).is(0, "", "");
    node.run("pct listsnapshot 301").is(
        0,
        "`-> s1                          2026-11-21 07:28:52     current  You are here!\n \
         `-> current                                            You are here!\n",
        "",
    );
    node.patch(json!({"containers": {"301": {"snapshots": {"s1": {"description": "\nx"}}}}}));
    let told = node.run("pct listsnapshot 301");
    assert!(told.text().starts_with("`-> s1                          2026-11-21 07:28:52     \n"));
}

#[test]
fn long_names_overflow_their_column() {
    let node = Node::with(json!({"clock": T}));
    let name = "a234567890123456789012345678901234567890";
    node.ok(&format!("pct snapshot 301 {name}"));
    let told = node.run("pct listsnapshot 301");
    assert!(told.text().starts_with(&format!("`-> {name} 2026-11-21 07:28:52     no-desc")));
}

#[test]
fn text_beyond_ascii_is_raw_latin_1_and_wide_text_warns() {
    let node = Node::with(json!({"clock": T}));
    node.run_words("pct", &["snapshot", "301", "s1", "--description", "Größe"]).is(0, "", "");
    let told = node.run("pct listsnapshot 301");
    let line = told.out.split(|byte| *byte == b'\n').next().unwrap();
    assert!(line.ends_with(b"Gr\xf6\xdfe"), "{line:?}");
    assert_eq!(told.err, "");
    // The API always speaks UTF-8.
    assert_eq!(node.json("/nodes/pve1/lxc/301/snapshot")[0]["description"], "Größe\n");
    node.patch(json!({"containers": {"301": {"snapshots": {"s1": {"description": "5 €"}}}}}));
    let told = node.run("pct listsnapshot 301");
    assert!(told.text().contains("5 €"));
    assert!(told.err.starts_with("Wide character in printf at "), "{}", told.err);
}

#[test]
fn in_the_c_locale_a_description_loses_every_byte_beyond_ascii() {
    let node = Node::new();
    let mut command = node.command("pct snapshot 301 s1 --description Größe");
    assert!(command.env("LC_ALL", "C").status().unwrap().success());
    assert_eq!(node.ct()["snapshots"]["s1"]["description"], "Gr\u{fffd}\u{fffd}\u{fffd}\u{fffd}e");
}

#[test]
fn times_are_those_of_the_local_zone() {
    let node = chain(8);
    let mut command = node.command("pct listsnapshot 301");
    let output = command.env("TZ", "Asia/Tokyo").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("`-> snap1                       2026-11-21 16:28:52     before"));
}

#[test]
fn list_has_a_head_rows_and_an_overflowing_lock() {
    let node = Node::with(json!({"containers": {"1000": {
        "config": {"hostname": "long", "lock": "snapshot-delete"},
    }, "302": {}}}));
    node.run("pct list").is(
        0,
        "VMID       Status     Lock         Name                \n\
         301        running                 shop                \n\
         302        stopped                 CT302               \n\
         1000       stopped    snapshot-delete long                \n",
        "",
    );
    node.patch(json!({"containers": null}));
    node.ok("pct list");
}

#[test]
fn status_is_one_word_or_sorted_keys() {
    let node = Node::with(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
    node.run("pct status 301").is(0, "status: running\n", "");
    let told = node.run("pct status 301 --verbose");
    let keys: Vec<_> = told.text().lines().map(|line| line.split(": ").next().unwrap()).collect();
    assert!(keys.is_sorted() && !keys.contains(&"cpu"), "{keys:?}");
    assert!(told.text().contains("\nlock: backup\n"), "{}", told.text());
    node.patch(json!({"containers": {"301": {"running": false}}}));
    node.run("pct status 301").is(0, "status: stopped\n", "");
}

#[test]
fn config_is_sorted_and_shows_lock_and_parent_but_no_snapshots() {
    let node = chain(8);
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
    let told = node.run("pct config 301 --snapshot Snap1");
    assert!(told.text().contains("\nparent: snap1\n"), "{}", told.text());
    assert!(told.text().contains(&format!("\nsnaptime: {}\n", T + 2)), "{}", told.text());
    node.run("pct config 301 --snapshot nope").died("snapshot 'nope' does not exist");
}

#[test]
fn the_file_of_the_cluster_follows_every_change() {
    let node = chain(8);
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
