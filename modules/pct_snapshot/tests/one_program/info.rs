//! What is reported of containers and snapshots, against the fake Proxmox.

use crate::common::{FIRST, SECOND, World, changed, name, on, reason};
use serde_json::{Value, json};

#[test]
fn two_hundred_containers_in_one_call() {
    let mut start = on("zfspool");
    for vmid in 1000..1200 {
        start["containers"][vmid.to_string()] =
            json!({"config": {"hostname": format!("ct{vmid}"), "rootfs": "st:x,size=1G"}});
    }
    start["containers"]["1000"]["config"]["lock"] = json!("snapshot-delete");
    let world = World::new(start);
    let info = world.info(Value::Null);
    let all = info["containers"].as_array().unwrap();
    assert_eq!(all.len(), 201);
    assert_eq!(
        all[0],
        json!({"vmid": 301, "name": "shop", "running": true, "frozen": false, "lock": null})
    );
    assert_eq!(
        all[1],
        json!({"vmid": 1000, "name": "ct1000", "running": false, "frozen": false, "lock": "snapshot-delete"})
    );
    assert_eq!(world.calls().len(), 1, "{:?}", world.calls());
    assert_eq!(info["node"], "pve1");
    assert_eq!(info.get("snapshots"), None);
}

#[test]
fn a_node_without_containers() {
    let world = World::new(json!({"storages": {}}));
    assert_eq!(world.info(Value::Null)["containers"], json!([]));
    world.remove_program("pvesh");
    assert_eq!(reason(&world.ask_info(Value::Null)), "program_missing");
}

#[test]
fn each_snapshot_with_its_way_back() {
    for kind in ["zfspool", "lvmthin"] {
        let mut start = on(kind);
        start["clock"] = json!(1_800_000_000);
        let world = World::new(start);
        let first = json!({
            "deploy_id": FIRST, "release": "4f2a9c1", "app": "shop", "description": "before\nthat",
        });
        assert!(changed(&world.run(first)));
        world.patch(json!({"clock": 1_800_000_060, "containers": {"301": {"snapshots": {
            "broken": {"snaptime": 1_700_000_000, "snapstate": "prepare"},
        }}}}));
        world.run(json!({"deploy_id": SECOND}));
        world.forget_calls();
        let info = world.info(json!(301));
        assert_eq!(
            world.calls().iter().filter(|call| !call.starts_with("lxc-info")).count(),
            1,
            "{:?}",
            world.calls()
        );
        let all = info["snapshots"].as_array().unwrap();
        let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["broken", &name(FIRST), &name(SECOND)]);
        assert_eq!(all[0]["ready_to_roll_back"], false);
        assert!(all[0]["why"][0].as_str().unwrap().contains("snapstate prepare"));
        let accept = if kind == "zfspool" { json!(["newer_snapshots"]) } else { json!([]) };
        assert_eq!(
            all[1],
            json!({
                "name": name(FIRST), "time": "2027-01-15T08:00:00Z", "description": "before\nthat",
                "parent": null, "ours": true, "kind": "restore_point", "app": "shop",
                "deploy_id": FIRST, "release": "4f2a9c1", "complete": true, "bytes": null,
                "ready_to_roll_back": true, "why": [], "accept": accept,
            })
        );
        assert_eq!(all[2]["accept"], json!([]));
        assert_eq!(info["parent"], name(SECOND));
        assert_eq!(info["containers"][0]["name"], "shop");
        world.patch(json!({"containers": {"301": {"config": {"lock": "backup"}}}}));
        let locked = world.info(json!(301));
        assert_eq!(locked["snapshots"][1]["ready_to_roll_back"], false);
        assert!(locked["snapshots"][1]["why"][0].as_str().unwrap().contains("vzdump"));
    }
}

#[test]
fn where_its_volumes_lie() {
    let mut start = on("lvmthin");
    start["storages"]["zp"] = json!({"type": "zfspool", "place": "rpool/data"});
    start["containers"]["301"]["config"]["mp1"] = json!("zp:subvol-301-disk-0,mp=/big");
    start["containers"]["301"]["config"]["mp2"] = json!("/srv/shared,mp=/shared");
    for bare in [false, true] {
        let world = if bare { World::bare(start.clone()) } else { World::new(start.clone()) };
        assert_eq!(
            world.info(json!(301))["storages"],
            json!([
                {"name": "st", "type": "lvmthin", "thin_pool": "pve/data", "mounts": ["rootfs", "mp0"]},
                {"name": "zp", "type": "zfspool", "thin_pool": null, "mounts": ["mp1"]},
            ]),
            "bare: {bare}"
        );
    }
    let world = World::bare(start);
    world.remove_program("pvesh");
    assert_eq!(reason(&world.ask_info(json!(301))), "program_missing");
}
