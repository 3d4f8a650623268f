//! What is believed of a guest that boots, against the fake Proxmox.

use crate::common::{FIRST, World, back, changed, on, reason, says};
use serde_json::{Value, json};

fn with_guest(guest: Value) -> World {
    let world = World::new(on("zfspool"));
    assert!(changed(&world.present(FIRST)));
    world.patch(json!({"containers": {"301": {"guest": guest}}}));
    world
}

#[test]
fn systemd_that_has_not_begun_is_not_taken_for_none() {
    let world = with_guest(json!({"offline_ms": 600, "boot_ms": 600_000}));
    let failed = world.run(back(json!({"boot_timeout": 2})));
    assert_eq!(reason(&failed), "not_ready", "{failed:#}");
    says(&failed, &["systemctl is-system-running: starting"]);
    let world = with_guest(json!({"systemd": "offline"}));
    assert!(changed(&world.run(back(json!({"boot_timeout": 20})))));
}
